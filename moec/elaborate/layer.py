"""A file's layer: dimensions, inputs, parameters, statements, outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute, Region, SSAValue

from moec.binding.check import check_binds
from moec.diagnostics import Label, fail, nearest, once, quoted
from moec.dialects import moe
from moec.dialects.types import ELEMENTS, Shape, array_type, element_name
from moec.dims import Dim
from moec.elaborate.calls import define, give_name
from moec.elaborate.evaluator import Evaluator
from moec.elaborate.expressions import RULES
from moec.elaborate.values import Array, Function, Number, Scope, Selection, Value, definitions, shape_origin, show
from moec.language import syntax
from moec.language.parse import A_LAYER, only_layer, prelude
from moec.source import Span
from moec.validation import sizes


@dataclass(frozen=True, slots=True)
class Elaborated:
    """A layer as MLIR, its shapes still formulas, and the dimensions' values."""

    module: ModuleOp
    name: str
    binding: dict[str, int]


def elaborate(file: syntax.File, dims: Mapping[str, int] | None = None) -> Elaborated:
    """Checks a file and turns its layer into the `moe` dialect.

    `dims` overrides defaults. A dimension may stay without a value: what depends on it is checked as a formula only.
    Raises `CompileError` (E01xx, E02xx, E03xx).
    """
    layer = only_layer(file)
    binding = bind_dimensions(layer, dims or {})
    outputs: dict[str, Span] = {}
    for output in layer.outputs:
        if output.name is not None:
            once(output.name, output.span, outputs, "output")
    check_binds(file, binding)
    try:
        return Elaborated(_Layer(file, layer, binding).build(), layer.name.id, binding)
    except RecursionError:
        text = "functions and the expressions in them are nested too deeply together"
        raise fail("E0005", text, layer.name.span) from None


def bind_dimensions(layer: syntax.Layer, dims: Mapping[str, int]) -> dict[str, int]:
    """The values of a layer's dimensions: as given, else as their defaults say."""
    names = [dimension.name for dimension in layer.dimensions]
    for name in sizes(dims):
        if name not in names:
            help = nearest(name, names) or (f"the dimensions are {quoted(names)}" if names else None)
            raise fail("E0302", f"`{name}` is not a dimension of `{layer.name.id}`", layer.name.span, help=help)
    binding: dict[str, int] = {}
    seen: dict[str, Span] = {}
    for dimension in layer.dimensions:
        once(dimension.name, dimension.span, seen)
        if dimension.name in dims:
            binding[dimension.name] = dims[dimension.name]
        elif dimension.default is not None:
            value = _default(dimension, [*seen], binding)
            if value is not None:
                binding[dimension.name] = value
    return binding


def _default(dimension: syntax.Dimension, names: Sequence[str], binding: dict[str, int]) -> int | None:
    evaluator = Evaluator(binding, Scope(), RULES)
    before = {name: Number(Dim.symbol(name), dimension.span) for name in names if name != dimension.name}
    assert dimension.default is not None
    value = evaluator.evaluate(dimension.default, Scope(values=dict(before)))
    dim = evaluator.integer(value, dimension.default.span, f"dimension `{dimension.name}`", 1)
    known = evaluator.known(dim)
    return None if known is None else int(known)


def _functions(file: syntax.File) -> Scope:
    outer = Scope()
    for function in prelude().functions:
        outer.values[function.name.id] = Function(function.name.id, function, outer)
    scope = Scope(outer)
    for function in file.functions:
        once(function.name.id, function.name.span, scope.places, "function")
        scope.values[function.name.id] = Function(function.name.id, function, scope)
    return scope


class _Layer(Evaluator):
    """Builds the `moe.layer` of one file."""

    def __init__(self, file: syntax.File, layer: syntax.Layer, binding: dict[str, int]) -> None:
        super().__init__(binding, _functions(file), RULES, file)
        self._layer = layer
        self._scope = Scope(defined=definitions(layer.body))
        self._params: list[tuple[str, SSAValue]] = []
        self._aux: list[tuple[str, SSAValue]] = []

    def build(self) -> ModuleOp:
        name = self._layer.name
        if not self._layer.inputs:
            raise fail("E0105", f"`{name.id}` takes nothing of a token", name.span, help=A_LAYER)
        self._dimensions()
        for given in self._layer.inputs:
            self._of_one_token(given)
            self._argument(syntax.Name(given.span, given.name), given.type)
        returned = self._statements()
        if returned is None:
            raise fail("E0106", f"`{name.id}` returns nothing", name.span)
        outputs = self._outputs(returned)
        self.emit_last([*outputs, *(value for _, value in self._aux)])
        return ModuleOp([self._operation(len(outputs))])

    def emit_last(self, values: Sequence[SSAValue]) -> None:
        self.block.add_op(moe.ReturnOp.build(operands=[list(values)]))

    def _operation(self, outputs: int) -> moe.LayerOp:
        layer = self._layer
        names = [output.name or ("y" if outputs == 1 else f"y{i}") for i, output in enumerate(layer.outputs)]
        types = [output.type.dtype or "real" for output in layer.outputs]
        types += [element_name(value.type) for _, value in self._aux]
        return moe.LayerOp.build(
            properties={
                "sym_name": StringAttr(layer.name.id),
                "inputs": _strings([given.name for given in layer.inputs]),
                "params": _strings([name for name, _ in self._params]),
                "outputs": _strings(names),
                "aux": _strings([name for name, _ in self._aux]),
                "types": _strings(types),
            },
            regions=[Region(self.block)],
        )

    def _dimensions(self) -> None:
        for dimension in self._layer.dimensions:
            self._scope.values[dimension.name] = Number(Dim.symbol(dimension.name), dimension.span)
            self._scope.places[dimension.name] = dimension.span

    def _statements(self) -> syntax.Return | None:
        for position, statement in enumerate(self._layer.body):
            match statement:
                case syntax.Param():
                    if statement.type.dtype == "bool":
                        raise fail("E0107", "weights are numbers, not `bool`", statement.type.span, help="use `i64`")
                    for name in statement.names:
                        value = self._argument(name, statement.type)
                        self._params.append((name.id, value))
                case syntax.Aux():
                    self._auxiliary(statement)
                case syntax.Return():
                    if position + 1 < len(self._layer.body):
                        raise fail("E0106", "`return` is the last statement", self._layer.body[position + 1].span)
                    return statement
                case _:
                    define(self, statement, self._scope)
        return None

    def _argument(self, name: syntax.Name, type: syntax.Type) -> SSAValue:
        """A block argument for an input or a parameter."""
        shape = self._shape(type)
        element = self._element_type(type)
        ssa = self.block.insert_arg(array_type(element, shape), len(self.block.args))
        origin = name.span | type.span if name.span.end <= type.span.start else type.span
        give_name(name, Array(ssa, origin), self._scope)
        return ssa

    def _of_one_token(self, given: syntax.Input) -> None:
        """Raises `CompileError` (E0101) where an input begins with axes that are none of the layer's dimensions."""
        axes = [axis.span for axis in given.type.shape or ()]
        names = [isinstance(axis, syntax.Name) and self._scope.find(axis.id) is None for axis in given.type.shape or ()]
        if False not in names or not names[0] or nearest(axes[0].text, [*self._scope.values]):
            return
        kept = ", ".join(axis.text for axis in axes[names.index(False) :])
        help = f"a layer describes one token: `{given.name}: {given.type.dtype or ''}[{kept}]`"
        raise fail("E0101", f"`{axes[0].text}` is not defined", axes[0], help=help)

    def _shape(self, type: syntax.Type) -> Shape:
        shape: list[Dim] = []
        for axis in type.shape or ():
            shape.append(self.integer(self.evaluate(axis, self._scope), axis.span, "a dimension", 1))
        return tuple(shape)

    def _element_type(self, type: syntax.Type) -> Attribute:
        name = type.dtype or "real"
        if name not in ELEMENTS:
            help = self._other_type(name, type) or f"the element types are {quoted([*ELEMENTS])}"
            raise fail("E0107", f"`{name}` is not an element type", type.span, help=help)
        return ELEMENTS[name]

    def _other_type(self, name: str, type: syntax.Type) -> str | None:
        """The help for a name that is no element type: a dimension, or what such a type is called elsewhere."""
        if isinstance(self._scope.values.get(name), Number) and type.shape is None:
            return f"write `[{name}]`"
        if re.fullmatch(r"u?i(nt)?(8|16|32)?|int64|long", name):
            return "write `i64`"
        if floating := re.fullmatch(r"(b?)f(?:loat|p)?(16|32)", name):
            return f"write `{floating[1]}f{floating[2]}`"
        return nearest(name, [*ELEMENTS])

    def _auxiliary(self, statement: syntax.Aux) -> None:
        value = self.evaluate(statement.value, self._scope)
        give_name(statement.name, value, self._scope)
        self._aux.append((statement.name.id, self._leaving(value, statement.value.span).ssa))

    def _leaving(self, value: Value, span: Span) -> Array:
        if isinstance(value, Selection):
            return Array(self.emit(moe.IdsOp.make(value.ssa)), span)
        array = self.masked(self.array(value, span))
        return array if array.element in ("i64", "bool") else self.f32(array, span)

    def _outputs(self, statement: syntax.Return) -> list[SSAValue]:
        declared = self._layer.outputs
        values = [(self.evaluate(node, self._scope), node.span) for node in statement.values]
        if len(declared) == len(statement.values):
            return [self._output(value, span, output) for (value, span), output in zip(values, declared, strict=True)]
        places = [Label(self._layer.name.span, f"{len(declared)} declared here")]
        found = "1 value is" if len(values) == 1 else f"{len(values)} values are"
        raise fail("E0106", f"{found} returned", statement.span, causes=places)

    def _output(self, value: Value, span: Span, output: syntax.Output) -> SSAValue:
        shape, element = self._shape(output.type), output.type.dtype or "real"
        self._element_type(output.type)
        if isinstance(value, Selection) and element != "i64":
            raise fail(
                "E0204", "a selection is returned where an array is declared", span, help="`ids(s)` is its indices"
            )
        array = self._leaving(value, span)
        if array.shape != shape:
            causes = [
                Label(output.span, f"{show(shape)} is declared here"),
                shape_origin(array),
            ]
            raise fail("E0201", f"the output has shape {show(array.shape)}, not {show(shape)}", span, causes=causes)
        if (array.element in ("i64", "bool")) != (element in ("i64", "bool")):
            causes = [Label(output.span, f"`{element}` is declared here")]
            help = "`f32(…)` converts it" if element not in ("i64", "bool") else None
            raise fail("E0204", f"the output is `{array.element}`, not `{element}`", span, causes=causes, help=help)
        return array.ssa


def _strings(names: Sequence[str]) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(name) for name in names])


__all__ = ["Elaborated", "bind_dimensions", "elaborate"]
