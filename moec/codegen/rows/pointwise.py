"""Maps and broadcasts: elements one by one, in vectors where they lie so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from xdsl.ir import SSAValue

from moec.codegen.elements import emit_region
from moec.codegen.llvm import Value
from moec.codegen.rows.reductions import combine
from moec.codegen.rows.row import Row, Rules
from moec.codegen.views import View, walk
from moec.dialects import moe
from moec.dialects.types import element_name, static_shape


def _map(row: Row, op: moe.MapOp) -> View:
    views = [row[array] for array in op.arrays]
    result = row.alloc(op.result)
    map_into(row, op, views, result)
    return result


def map_into(row: Row, op: moe.MapOp, views: Sequence[View], result: View, adds: bool = False) -> None:
    """A map's elements, written to a view of their shape, or added to what is there."""
    outside, dtype = _Captured(row), element_name(op.results[0].type)

    def step(parts: Sequence[View], at: Value | int, width: int) -> None:
        arguments = [part.load(row.e, at, width) for part in parts[:-1]]
        value = row.e.splat(emit_region(row.e, op.body.block, arguments, outside), width)
        if adds:
            value = combine(row.e, "sum", parts[-1].load(row.e, at, width), row.as_f32(value, dtype))
        parts[-1].store(row.e, value, at)

    walk(row.e, [*views, result], step)


class _Captured(Mapping[SSAValue, Any]):
    """The scalars around a region."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def __getitem__(self, value: SSAValue) -> Any:
        return self._row[value]

    def __iter__(self) -> Any:
        return iter(self._row.values)

    def __len__(self) -> int:
        return len(self._row.values)


def _broadcast(row: Row, op: moe.BroadcastOp) -> View:
    shape, source = static_shape(op.result.type), row[op.operand]
    if isinstance(source, View):
        return source.repeat(shape)
    cell = row.temporary(element_name(op.operand.type), ())
    row.e.store(source, cell.pointer, cell.dtype)
    return cell.repeat(shape)


POINTWISE: Final[Rules] = {moe.MapOp: _map, moe.BroadcastOp: _broadcast}
