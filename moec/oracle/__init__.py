"""The oracle: a `.moe` file evaluated with NumPy in float64, one token at a time, straight from its syntax tree.

It is the definition of truth that compiled kernels are tested against, so it knows nothing of the compiler: it may
import `moec.language`, `moec.arrays`, the nouns, NumPy and ml_dtypes. `values` says what there is, `functions` what can
be done with it, `interpret` what each node of the syntax means; here a layer meets its arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from moec.arrays import as_numpy
from moec.diagnostics import fail, nearest, quoted
from moec.dtypes import DTYPES, REALS, DType
from moec.language import syntax
from moec.language.parse import A_LAYER, only_layer, parse
from moec.language.read import find_source
from moec.oracle.batch import Part, Waiting
from moec.oracle.functions import ids
from moec.oracle.interpret import Deferred, Interpreter
from moec.oracle.values import Array, Data, Selection, Value, array, lift, stored
from moec.source import Source
from moec.validation import aux_of, sizes

__all__ = ["Reference", "Result", "reference"]

#: How far apart two compared values have to be, relative to the largest, for float32 and float64 to decide alike.
MARGINS = {"f32": 1e-4, "bf16": 2e-2, "f16": 3e-3}


def reference(
    source: Source | Path | str,
    dims: Mapping[str, int] | None = None,
    dtype: str = "f32",
    quantized: Mapping[str, int] | None = None,
) -> Reference:
    """The oracle of a layer: a path, a `Source`, or the text itself. `dtype` is what `real` stands for; `quantized`
    names the weights whose products take quantised vectors, with the elements of a block of these (docs/formats.md;
    `kernel.interface.quantized` of a kernel). Raises `CompileError` where the input is
    wrong, with the codes that compiling has for it."""
    file = parse(find_source(source))
    name = only_layer(file).name
    if not file.layers[0].inputs:
        raise fail("E0105", f"`{name.id}` takes nothing of a token", name.span, help=A_LAYER)
    if dtype not in REALS:
        raise fail("E0304", f"`{dtype}` is not a working precision", help=f"choose one of {', '.join(REALS)}")
    return Reference(file, sizes(dims), dtype, sizes(quantized))


@dataclass(frozen=True)
class Result:
    """What a run gives. Floating outputs are float64 `[T, …]`, not rounded; `margins` says for each token how far its
    closest decision (what is chosen, in which order, how a comparison falls, what `floor` rounds to) is from a
    different one."""

    outputs: tuple[Data, ...]
    aux: dict[str, Data]
    margins: Data  # float64[T]
    stable: Data  # bool[T]

    @property
    def y(self) -> Any:
        """The output, or the tuple of several."""
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs


@dataclass
class Reference:
    """A layer that can be run. `dims` holds the value of every dimension."""

    file: syntax.File
    dims: dict[str, int]
    dtype: str
    quantized: dict[str, int] = field(default_factory=dict[str, int])
    layer: syntax.Layer = field(init=False)

    def __post_init__(self) -> None:
        self.layer = self.file.layers[0]
        self.dims = self._dimensions(self._interpreter({}), self.dims)

    def __call__(
        self, *arrays: Any, weights: Mapping[str, Any] | None = None, aux: bool | Sequence[str] | None = None
    ) -> Any:
        """`ref(x, weights)`, `ref((x, ids), weights)` or `ref(x, ids, weights=…)`: the outputs, and with `aux` a dict
        of the extra outputs that it names (True: of all)."""
        result = self.run(*arrays, weights=weights, aux=aux)
        return result.y if aux is None or aux is False else (result.y, result.aux)

    def run(
        self,
        *arrays: Any,
        weights: Mapping[str, Any] | None = None,
        aux: bool | Sequence[str] | None = None,
        margin: float | None = None,
    ) -> Result:
        """The same, with what the oracle knows of each token. `margin` is what `stable` asks for."""
        given: list[Any] = list(arrays)
        if weights is None and given and (isinstance(given[-1], Mapping) or len(given) == len(self.layer.inputs) + 1):
            weights = cast("Mapping[str, Any]", given.pop())
        if weights is not None and not hasattr(weights, "keys"):
            what = f"the weights of `{self.layer.name.id}` are `{type(weights).__name__}`, not arrays by name"
            raise fail("E0401", what, help="the oracle takes what `kernel.pack` takes, not what it gives")
        if len(given) == 1 and isinstance(given[0], tuple):
            given = list(cast("tuple[Any, ...]", given[0]))
        interpreter = self._interpreter(weights or {})
        inputs = self._inputs(interpreter, given)
        wanted = self._wanted(aux)
        tokens = len(next(iter(inputs.values())).data)
        rows = self._rows(interpreter, inputs, tokens, wanted)
        form = rows or [self._token(interpreter, inputs, None, wanted)]
        outputs = tuple(np.stack(column)[:tokens] for column in zip(*(row[0] for row in form), strict=True))
        extra = {name: np.stack([row[1][name] for row in form])[:tokens] for name in wanted}
        margins = np.array([row[2] for row in rows])
        return Result(outputs, extra, margins, margins > (MARGINS[self.dtype] if margin is None else margin))

    # ── what comes from outside ───────────────────────────────────────────────────────────────────────────────────────

    def _interpreter(self, weights: Mapping[str, Any]) -> Interpreter:
        loaded: dict[str, Data] = {}

        def weight(name: syntax.Name, dtype: DType, shape: tuple[int, ...]) -> Data:
            if name.id not in loaded:
                if name.id not in weights:
                    raise fail("E0401", f"the weight `{name.id}` is missing", name.span)
                loaded[name.id] = _checked(name.id, weights[name.id], dtype, shape, name)
            return loaded[name.id]

        params = [name.id for node in self.layer.body if isinstance(node, syntax.Param) for name in node.names]
        for name in (*weights, *self.quantized):
            if name not in params:
                raise fail("E0402", f"`{name}` is not a weight of `{self.layer.name.id}`", help=nearest(name, params))

        def block_of(matrix: Data) -> int:
            """The block beside a matrix that is a part of such a weight: views of one array share its memory."""
            known = ((n, loaded[name]) for name, n in self.quantized.items() if name in loaded)
            return next((n for n, weight in known if np.may_share_memory(matrix, weight)), 0)

        return Interpreter(self.file, DTYPES[self.dtype], weight, block_of)

    def _scope(self, interpreter: Interpreter) -> dict[str, Any]:
        """The names that the layer's body begins with: the functions, and the dimensions."""
        return interpreter.functions | _fractions(self.dims)

    def _dimensions(self, interpreter: Interpreter, given: Mapping[str, int]) -> dict[str, int]:
        """The value of every dimension: as given, else as its default says, which may name those before it."""
        names, dims = [dimension.name for dimension in self.layer.dimensions], dict[str, int]()
        for name in given:
            if name not in names:
                help = nearest(name, names) or (f"the dimensions are {quoted(names)}" if names else None)
                raise fail("E0302", f"`{self.layer.name.id}` has no dimension `{name}`", help=help)
        for dimension in self.layer.dimensions:
            if dimension.name in given:
                value = given[dimension.name]
            elif dimension.default is not None:
                value = interpreter.integer(dimension.default, interpreter.functions | _fractions(dims))
            else:
                raise fail("E0301", f"the dimension `{dimension.name}` has no value", dimension.span)
            if value < 1:
                raise fail("E0206", f"the dimension `{dimension.name}` is {value}", dimension.span)
            dims[dimension.name] = value
        return dims

    def _inputs(self, interpreter: Interpreter, arrays: Sequence[Any]) -> dict[str, Array]:
        """Each input as `[T, …]`."""
        names = [node.name for node in self.layer.inputs]
        if len(arrays) != len(names):
            raise fail(
                "E0403", f"`{self.layer.name.id}` takes {len(names)} inputs ({quoted(names)}), not {len(arrays)}"
            )
        scope, inputs = self._scope(interpreter), dict[str, Array]()
        tokens = as_numpy(arrays[0], names[0]).shape[:1]
        for node, data in zip(self.layer.inputs, arrays, strict=True):
            dtype, shape = interpreter.type(node.type, scope)
            inputs[node.name] = array(_checked(node.name, data, dtype, (*tokens, *shape), node), dtype, exact=True)
        return inputs

    def _wanted(self, aux: bool | Sequence[str] | None) -> tuple[str, ...]:
        names = [node.name.id for node in self.layer.body if isinstance(node, syntax.Aux)]
        return aux_of(aux, names, self.layer.name.id)

    # ── one token ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rows(
        self, interpreter: Interpreter, inputs: Mapping[str, Array], tokens: int, wanted: Sequence[str]
    ) -> list[tuple[list[Data], dict[str, Data], float]]:
        """What `_token` says of every token: again from the start after each work along the batch."""
        interpreter.batch.tokens = tokens
        while True:
            rows, waiting = list[Any](), list[Part]()
            for token in range(tokens):
                try:
                    rows.append(self._token(interpreter, inputs, token, wanted))
                except Waiting as waits:
                    waiting.append(waits.part)
            if not waiting:
                return rows
            interpreter.batch.settle(waiting)

    def _token(
        self, interpreter: Interpreter, inputs: Mapping[str, Array], token: int | None, wanted: Sequence[str]
    ) -> tuple[list[Data], dict[str, Data], float]:
        """The outputs, the extra outputs and the margin of a token; None is a token of zeros, to learn the shapes."""
        scope, aux = self._scope(interpreter), dict[str, Deferred]()
        for name, value in inputs.items():
            data = np.zeros(value.shape[1:], value.data.dtype) if token is None else value.data[token]
            scope[name] = array(data, value.dtype, exact=True)
        interpreter.margin = float("inf")
        interpreter.batch.begin(token)
        try:
            with np.errstate(all="ignore"):
                values = interpreter.body(self.layer.body, scope, aux)
                extra = {name: _leaving(interpreter.force(aux[name])).data for name in wanted}
                return self._outputs(interpreter, values, scope), extra, interpreter.margin
        except RecursionError:
            raise fail("E0103", "a function calls itself", self.layer.name.span) from None

    def _outputs(self, interpreter: Interpreter, values: Sequence[Value], scope: Mapping[str, Any]) -> list[Data]:
        declared, outputs = self.layer.outputs, list[Data]()
        if len(values) != len(declared):
            raise fail("E0106", f"{len(values)} values for {len(declared)} outputs", self.layer.name.span)
        for node, value in zip(declared, values, strict=True):
            dtype, shape = interpreter.type(node.type, scope)
            leaving = _leaving(value)
            if leaving.shape != shape:
                raise fail("E0201", f"an output of shape {list(leaving.shape)}, not {list(shape)}", node.span)
            if leaving.dtype is not dtype and not (dtype.floating and leaving.dtype.floating):
                raise fail("E0204", f"an output of {leaving.dtype}, not {dtype}", node.span)
            outputs.append(array(leaving.data, dtype).data)
        return outputs


def _fractions(dims: Mapping[str, int]) -> dict[str, Fraction]:
    """Dimensions as the oracle has numbers."""
    return {name: Fraction(value) for name, value in dims.items()}


def _leaving(value: Value) -> Array:
    """A value as it leaves: empty slots show as 0, a selection as its indices."""
    return ids(value) if isinstance(value, Selection) else lift(value).plain()


def _checked(name: str, data: Any, dtype: DType, shape: tuple[int, ...], node: syntax.Node) -> Data:
    """An array from outside, as the element type that is declared for it holds it."""
    data = as_numpy(data, name, dtype.name)
    if data.shape != shape:
        raise fail("E0403", f"`{name}` has the shape {list(data.shape)}, not {list(shape)}", node.span)
    if data.dtype.kind not in {"i64": "iu", "bool": "b"}.get(dtype.name, "fiuV"):
        raise fail("E0404", f"`{name}` holds {data.dtype}, not {dtype}", node.span)
    return stored(data, dtype)
