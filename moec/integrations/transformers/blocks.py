"""Which `.moe` file is the mathematics of which block: the table `blocks.toml`, and the dimensions of one block."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from torch import Tensor, nn

from moec.language import syntax
from moec.language.parse import parse
from moec.language.read import read
from moec.runtime.bind import whole
from moec.source import Source

_HERE: Final = Path(__file__).parent
#: Where the files lie: in the wheel all below this package, in the repository the examples at its root.
_PLACES: Final = (_HERE / "examples", _HERE.parents[2] / "examples", _HERE / "layers")


class Unfit(Exception):
    """Why a file is not the mathematics of a block."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `blocks.toml`."""

    file: str
    dims: Mapping[str, str] = field(default_factory=dict[str, str])
    when: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: Sequence[str] = ()


@cache
def rows() -> Mapping[str, Sequence[Row]]:
    """The rows by class of block."""
    table = tomllib.loads((_HERE / "blocks.toml").read_text(encoding="utf-8"))
    found: dict[str, list[Row]] = {}
    for file, entry in table.items():
        for block in entry.pop("blocks"):
            found.setdefault(block, []).append(Row(file, **entry))
    return found


@cache
def load(file: str) -> tuple[Source, syntax.File]:
    """The text of a layer, and its tree."""
    path = next(path for place in _PLACES if (path := place / f"{file}.moe").exists())
    source = read(path)
    return source, parse(source)


def look_up(path: str, block: nn.Module, config: Any) -> Any:
    value: Any = block if path.startswith(".") else config
    for part in path.lstrip(".").split("."):
        missing = part not in value if isinstance(value, dict) else not hasattr(value, part)
        if missing:
            raise Unfit(f"there is no `{path.lstrip('.')}`")
        value = cast(Any, value)[part] if isinstance(value, dict) else getattr(value, part)
    return value


def tensors_of(block: nn.Module) -> dict[str, Tensor]:
    """A block's weights by name, as a checkpoint would hold them."""
    return {name: tensor.detach() for name, tensor in (*block.named_parameters(), *block.named_buffers())}


def find_dimensions(file: syntax.File, tensors: Mapping[str, Tensor], given: Mapping[str, int]) -> dict[str, int]:
    """Every dimension: as given, or as the shapes of the weights say. None is taken from its default."""
    layer, dims = file.layers[0], dict(given)
    entries = {
        entry.param.id: entry for block in file.binds if block.name.id == "transformers" for entry in block.entries
    }
    wanted: list[tuple[syntax.Expr, int]] = []
    for node in layer.body:
        if isinstance(node, syntax.Param):
            for param in node.names:
                shape = _shape(entries[param.id].value, tensors) if param.id in entries else None
                formulas = node.type.shape or ()
                if shape is not None and len(shape) == len(formulas):
                    wanted += zip(formulas, shape, strict=True)
    names = [dimension.name for dimension in layer.dimensions]
    for _ in names:
        for formula, size in wanted:
            unknown = {name for name in _names(formula) if name not in dims}
            if len(unknown) == 1:
                dims[unknown.pop()] = _solve(formula, size, dims, names)
    if lost := [name for name in names if name not in dims]:
        raise Unfit(f"nothing says what `{lost[0]}` is")
    return dims


def _shape(node: syntax.Expr, tensors: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """The shape of a value of a `bind`, where it is plain to see."""
    match node:
        case syntax.String() if node.value in tensors:
            return tuple(tensors[node.value].shape)
        case syntax.String() if "{e}" in node.value:
            names = (node.value.replace("{e}", str(e)) for e in itertools.count())
            stacked = [tensors[name] for name in itertools.takewhile(tensors.__contains__, names)]
            return (len(stacked), *stacked[0].shape) if stacked else None
        case syntax.Transpose():
            shape = _shape(node.operand, tensors)
            return None if shape is None else (*shape[:-2], shape[-1], shape[-2])
        case syntax.Group():
            return _shape(node.inner, tensors)
        case _:
            return None


def _names(formula: syntax.Expr) -> set[str]:
    match formula:
        case syntax.Name():
            return {formula.id}
        case syntax.Group():
            return _names(formula.inner)
        case syntax.Unary():
            return _names(formula.operand)
        case syntax.Binary():
            return _names(formula.left) | _names(formula.right)
        case _:
            return set()


def _solve(formula: syntax.Expr, size: int, dims: Mapping[str, int], names: Sequence[str]) -> int:
    """The one dimension of a formula, linear in it, that is not in `dims`."""
    (name,) = (name for name in _names(formula) if name not in dims and name in names)
    at = [whole(formula, {**dims, name: n}) for n in (1, 2)]
    found = 1 + (size - at[0]) // (at[1] - at[0])
    if found < 1 or whole(formula, {**dims, name: found}) != size:
        raise Unfit(f"no `{name}` makes `{formula.span.text}` {size}")
    return found
