"""Choosing: the largest of a vector, and every operation that makes or reads a selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from llvmlite import ir

from moec.codegen.llvm import I1, I64, Value, i64
from moec.codegen.rows.row import Row, Rules
from moec.codegen.selections import Chosen, Largest, LargestInteger, chosen_like, contains
from moec.codegen.views import View, copy_part, zero
from moec.dialects import moe
from moec.dialects.types import integer


def _top(row: Row, op: moe.TopOp) -> View:
    result = row.alloc(op.result)
    _top_rows(row, row[op.operand], result)
    return result


def _top_rows(row: Row, source: View, result: View) -> None:
    e = row.e
    if len(source.shape) > 1:
        e.loop(0, source.shape[0], lambda i: _top_rows(row, source.part(e, i), result.part(e, i)))
        return
    flat = row.dense(source)
    largest = _largest(row, flat)
    e.loop(0, result.shape[0], lambda slot: copy_part(e, flat.part(e, largest.take()), result.part(e, slot)))


def _topk(row: Row, op: moe.TopKOp) -> Chosen:
    e, source = row.e, row.dense(row[op.operand])
    chosen = row.alloc_selection(op.result)
    slots = row[op.slots] if op.slots is not None else None
    largest = _largest(row, source, slots)
    e.loop(0, chosen.size, lambda slot: chosen.put(e, slot, largest.take()))
    return chosen


def _largest(row: Row, source: View, slots: Chosen | None = None) -> Largest | LargestInteger:
    """What takes the largest of a dense vector, or of its slots that are filled."""
    kind = LargestInteger if source.dtype == "i64" else Largest
    return kind(row.e, row.scratch.take(row.e, kind.scratch_bytes(row.e, source.size)), source, slots)


def _where(row: Row, op: moe.WhereOp) -> Chosen:
    e, source = row.e, row[op.operand]
    chosen = row.alloc_selection(op.result)
    slots = row[op.slots] if op.slots is not None else None

    def turn(i: Value, carried: Sequence[Value]) -> list[Value]:
        (count,) = carried
        holds = e.load(source.part(e, i).pointer, "bool")
        if slots is not None:
            holds = e.b.and_(holds, slots.filled(e, slots.at(e, i)))
        chosen.put(e, count, i)
        return [e.b.add(count, e.b.zext(holds, I64))]

    (count,) = e.fold(0, chosen.size, [i64(0)], turn)
    e.loop(count, chosen.size, lambda slot: chosen.put(e, slot, i64(chosen.domain)))
    return chosen


def _given(row: Row, op: moe.GivenOp) -> Chosen:
    e, source = row.e, row[op.ids]
    chosen = row.alloc_selection(op.result)

    def turn(slot: Value) -> None:
        index = e.load(source.part(e, slot).pointer, "i64")
        chosen.put(e, slot, e.b.select(chosen.filled(e, index), index, i64(chosen.domain)))

    e.loop(0, chosen.size, turn)
    return chosen


def _cross(row: Row, op: moe.CrossOp) -> Chosen:
    e, left, right = row.e, row[op.left], row[op.right]
    chosen = row.alloc_selection(op.result)

    def inner(i: Value, a: Value, j: Value) -> None:
        c = right.at(e, j)
        pair = e.b.add(e.b.mul(a, i64(right.domain)), c)
        if chosen.partial:
            both = e.b.and_(left.filled(e, a), right.filled(e, c))
            pair = e.b.select(both, pair, i64(chosen.domain))
        chosen.put(e, e.b.add(e.b.mul(i, i64(right.size)), j), pair)

    def outer(i: Value) -> None:
        a = left.at(e, i)
        e.loop(0, right.size, lambda j: inner(i, a, j))

    e.loop(0, left.size, outer)
    return chosen


def _listed(row: Row, op: moe.ListedOp) -> Chosen:
    chosen = row.alloc_selection(op.result)
    for slot, index in enumerate(op.indices):
        chosen.put(row.e, slot, row[index])
    return chosen


def _range(row: Row, op: moe.RangeOp) -> Chosen:
    chosen = replace(chosen_like(op.result.type), low=integer(op.low))
    place = row.places.get(op.result)
    if not isinstance(place, Chosen):
        return chosen
    row.e.loop(0, chosen.size, lambda slot: place.put(row.e, slot, chosen.at(row.e, slot)))
    return place


def _compose(row: Row, op: moe.ComposeOp) -> Chosen:
    e, outer, inner = row.e, row[op.outer], row[op.inner]
    chosen = row.alloc_selection(op.result)

    def turn(slot: Value) -> None:
        position = inner.at(e, slot)
        if inner.partial:
            filled = inner.filled(e, position)
            index = outer.at(e, e.b.select(filled, position, i64(0)))
            index = e.b.select(filled, index, i64(chosen.domain))
        else:
            index = outer.at(e, position)
        chosen.put(e, slot, index)

    e.loop(0, chosen.size, turn)
    return chosen


def _ids(row: Row, op: moe.IdsOp) -> View:
    chosen: Chosen = row[op.slots]
    result = row.alloc(op.result)
    row.e.loop(
        0, chosen.size, lambda slot: row.e.store(chosen.at(row.e, slot), result.part(row.e, slot).pointer, "i64")
    )
    return result


def _at(row: Row, op: moe.AtOp) -> Value:
    return row[op.slots].at(row.e, row[op.slot])


def _contains(row: Row, op: moe.ContainsOp) -> Value:
    return contains(row.e, row[op.slots], row[op.index])


def _members(row: Row, op: moe.MembersOp) -> View:
    e, chosen = row.e, row[op.slots]
    result = row.alloc(op.result)
    zero(e, result)

    def turn(slot: Value) -> None:
        index = chosen.at(e, slot)
        with e.when(chosen.filled(e, index)):
            e.store(ir.Constant(I1, 1), result.part(e, index).pointer, "bool")

    e.loop(0, chosen.size, turn)
    return result


def _filled(row: Row, op: moe.FilledOp) -> View:
    e, chosen = row.e, row[op.slots]
    result = row.alloc(op.result)
    e.loop(
        0, chosen.size, lambda slot: e.store(chosen.filled(e, chosen.at(e, slot)), result.part(e, slot).pointer, "bool")
    )
    return result


SELECTIONS: Final[Rules] = {
    moe.TopOp: _top,
    moe.TopKOp: _topk,
    moe.WhereOp: _where,
    moe.GivenOp: _given,
    moe.CrossOp: _cross,
    moe.ListedOp: _listed,
    moe.RangeOp: _range,
    moe.ComposeOp: _compose,
    moe.IdsOp: _ids,
    moe.AtOp: _at,
    moe.ContainsOp: _contains,
    moe.MembersOp: _members,
    moe.FilledOp: _filled,
}
