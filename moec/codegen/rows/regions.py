"""Operations with regions: a body for each slot of a selection, an arm for an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, Region, SSAValue

from moec.codegen.llvm import SIZES, Value, i64
from moec.codegen.rows.pointwise import map_into
from moec.codegen.rows.reductions import combine, combine_onto, start
from moec.codegen.rows.row import Row, Rules
from moec.codegen.selections import Chosen
from moec.codegen.views import View, put, zero
from moec.dialects import moe
from moec.dialects.types import element_name, integer
from moec.target import LINE

#: The longest part of a table that is prefetched while the one before is worked on, in bytes.
_LONGEST: Final = 8192


def _over(
    row: Row,
    slots: Chosen,
    region: Region,
    leave: Callable[[Value, Value, Any], None],
    empty: Callable[[Value], None],
    left: moe.MapOp | None = None,
) -> None:
    """The region for each slot: `leave(slot, index, value)`, or without the value where that is `left` to it;
    `empty(slot)` where nothing is chosen."""
    e, block = row.e, region.block
    tables = _tables(row, slots, region)

    def body(slot: Value, index: Value) -> None:
        row.values.update(zip(block.args, (index, slot), strict=True))
        last = row.run(block, left)
        leave(slot, index, None if left else row[last.operands[0]])

    def turn(slot: Value) -> None:
        index = slots.at(e, slot)
        if tables:
            following = slots.at(e, e.least(e.b.add(slot, i64(1)), i64(slots.size - 1)))
            for table in tables:
                _prefetch(row, table.part(e, following))
        if not slots.partial:
            body(slot, index)
            return
        with e.either(slots.filled(e, index)) as otherwise:
            body(slot, index)
            otherwise()
            empty(slot)

    e.loop(0, slots.size, turn)


def _tables(row: Row, slots: Chosen, region: Region) -> list[View]:
    """The parameters of which the region reads the part at its index, if that is worth prefetching: they fit into no
    cache, and parts are lines that lie together, of which the processor cannot know before."""
    found: list[View] = []
    for op in region.block.ops if slots.pointer is not None else ():
        if isinstance(op, moe.ExtractOp) and op.index is region.block.args[0] and _is_param(op.operand):
            table = row[op.operand]
            part = replace(table, shape=table.shape[1:], strides=table.strides[1:])
            nbytes = part.size * SIZES[part.dtype]
            if part.contiguous and LINE < nbytes <= _LONGEST and nbytes * table.shape[0] > row.e.target.l2:
                found.append(table)
    return found


def _is_param(value: SSAValue) -> bool:
    return isinstance(value.owner, Block) and isinstance(value.type, TensorType)


def _prefetch(row: Row, part: View) -> None:
    nbytes = part.size * SIZES[part.dtype]
    row.e.loop(0, nbytes, lambda at: row.e.prefetch(row.e.at(part.pointer, at, 1)), step=LINE)


def _sum(row: Row, op: moe.SumOp) -> Any:
    e = row.e
    scalar = not isinstance(op.result.type, TensorType)
    dtype = element_name(op.result.type)
    total = row.temporary(dtype, ()) if scalar else row.alloc(op.result)
    if scalar:
        e.store(start("sum", dtype, 0), total.pointer, dtype)
    else:
        zero(e, total)

    added = _last_map(op.body)

    def leave(slot: Value, index: Value, value: Any) -> None:
        if scalar:
            e.store(combine(e, "sum", e.load(total.pointer, dtype), value), total.pointer, dtype)
        elif added is not None:
            map_into(row, added, [row[array] for array in added.arrays], total, adds=True)
        else:
            combine_onto(row, "sum", value, total)

    _over(row, row[op.slots], op.body, leave, lambda slot: None, added)
    return e.load(total.pointer, dtype) if scalar else total


def _last_map(body: Region) -> moe.MapOp | None:
    """The map that a body ends with, if nobody else reads it: its elements are added up as they are made."""
    value = moe.yielded(body)
    made = value.owner
    return made if isinstance(made, moe.MapOp) and made.parent is body.block and value.has_one_use() else None


def _each(row: Row, op: moe.EachOp) -> View:
    e, result = row.e, row.alloc(op.result)

    def leave(slot: Value, index: Value, value: Any) -> None:
        put(e, value, result.part(e, slot))

    _over(row, row[op.slots], op.body, leave, lambda slot: zero(e, result.part(e, slot)))
    return result


def _match(row: Row, op: moe.MatchOp) -> Any:
    e, index = row.e, row[op.index]
    result = row.alloc(op.result)
    done = e.b.append_basic_block("matched")
    for region, bound in zip(op.arms, op.bounds, strict=True):
        is_last = region is op.arms[-1]
        if not is_last:
            inside, following = e.b.append_basic_block("arm"), e.b.append_basic_block("next")
            e.b.cbranch(e.b.icmp_signed("<", index, i64(integer(bound))), inside, following)
            e.b.position_at_end(inside)
        last = row.run(region.block)
        put(e, row[last.operands[0]], result)
        e.b.branch(done)
        if not is_last:
            e.b.position_at_end(following)  # pyright: ignore[reportPossiblyUnboundVariable]
    e.b.position_at_end(done)
    return result if result.shape else e.load(result.pointer, result.dtype)


REGIONS: Final[Rules] = {moe.SumOp: _sum, moe.EachOp: _each, moe.MatchOp: _match}
