"""Parts of arrays, and arrays put together: most are another view of the same memory."""

from __future__ import annotations

from typing import Any, Final

from moec.codegen.llvm import Value, i64
from moec.codegen.rows.row import Row, Rules
from moec.codegen.views import View, copy, copy_part, zero
from moec.dialects import moe
from moec.dialects.types import integer, static_shape


def _extract(row: Row, op: moe.ExtractOp) -> Any:
    e, source, index = row.e, row[op.operand], row[op.index]
    if op.checked is not None:
        inside = e.b.icmp_unsigned("<", index, i64(source.shape[0]))
        with e.when(e.b.not_(inside)):
            row.around.flag_outside()
        index = e.b.select(inside, index, i64(0))
    part = source.part(e, index)
    return part if part.shape else e.load(part.pointer, part.dtype)


def _gather(row: Row, op: moe.GatherOp) -> View:
    e, source, slots = row.e, row[op.operand], row[op.slots]
    result = row.alloc(op.result)

    def turn(slot: Value) -> None:
        index, to = slots.at(e, slot), result.part(e, slot)
        if not slots.partial:
            copy_part(e, source.part(e, index), to)
            return
        with e.either(slots.filled(e, index)) as otherwise:
            copy_part(e, source.part(e, index), to)
            otherwise()
            zero(e, to)

    e.loop(0, slots.size, turn)
    return result


def _slice(row: Row, op: moe.SliceOp) -> View:
    axis, offset, size, step = (integer(item) for item in (op.axis, op.offset, op.size, op.step))
    return row[op.operand].slice(row.e, axis, offset, size, step)


def _reshape(row: Row, op: moe.ReshapeOp) -> View:
    source: View = row[op.operand]
    shape = static_shape(op.result.type)
    return (source if source.strides_as(shape) is not None else row.dense(source)).reshaped(shape)


def _concat(row: Row, op: moe.ConcatOp) -> View:
    result, axis, offset = row.alloc(op.result), op.axis.value.data, 0
    for array in op.arrays:
        source: View = row[array]
        copy(row.e, source, result.slice(row.e, axis, offset, source.shape[axis], 1))
        offset += source.shape[axis]
    return result


AXES: Final[Rules] = {
    moe.ExtractOp: _extract,
    moe.GatherOp: _gather,
    moe.SliceOp: _slice,
    moe.ReshapeOp: _reshape,
    moe.TransposeOp: lambda row, op: row[op.operand].transposed(),
    moe.ConcatOp: _concat,
}
