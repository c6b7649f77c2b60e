"""Operations with regions: a body for each slot of a selection, an arm for an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Region

from moec.codegen.llvm import Value, i64
from moec.codegen.rows.reductions import combine, combine_onto, start
from moec.codegen.rows.row import Row, Rules
from moec.codegen.selections import Chosen
from moec.codegen.views import View, put, zero
from moec.dialects import moe
from moec.dialects.types import element_name, integer


def _over(
    row: Row, slots: Chosen, region: Region, leave: Callable[[Value, Value, Any], None], empty: Callable[[Value], None]
) -> None:
    """The region for each slot: `leave(slot, index, value)`; `empty(slot)` where nothing is chosen."""
    e, block = row.e, region.block

    def body(slot: Value, index: Value) -> None:
        row.values.update(zip(block.args, (index, slot), strict=True))
        last = row.run(block)
        leave(slot, index, row[last.operands[0]])

    def turn(slot: Value) -> None:
        index = slots.at(e, slot)
        if not slots.partial:
            body(slot, index)
            return
        with e.either(slots.filled(e, index)) as otherwise:
            body(slot, index)
            otherwise()
            empty(slot)

    e.loop(0, slots.size, turn)


def _sum(row: Row, op: moe.SumOp) -> Any:
    e = row.e
    scalar = not isinstance(op.result.type, TensorType)
    dtype = element_name(op.result.type)
    total = row.temporary(dtype, ()) if scalar else row.alloc(op.result)
    if scalar:
        e.store(start("sum", dtype, 0), total.pointer, dtype)
    else:
        zero(e, total)

    def leave(slot: Value, index: Value, value: Any) -> None:
        if scalar:
            e.store(combine(e, "sum", e.load(total.pointer, dtype), value), total.pointer, dtype)
        else:
            combine_onto(row, "sum", value, total)

    _over(row, row[op.slots], op.body, leave, lambda slot: None)
    return e.load(total.pointer, dtype) if scalar else total


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
