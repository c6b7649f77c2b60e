"""Rows in the order of their matrices: the slots of a selection by index, the rows of a domain by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from xdsl.ir import SSAValue

from moec.codegen.frame import FLAG, Domain, RunFrame, Word, ascend
from moec.codegen.llvm import Emitter, Value, i64
from moec.dialects import plan
from moec.dialects.types import integer

Domains: TypeAlias = Mapping[SSAValue, Domain]


def sort_slots(frame: RunFrame, domains: Domains, op: plan.ExpandOp) -> None:
    """Counts the slots of each index, then gives each slot its row: a counting sort, so a stable one."""
    e, domain = frame.e, domains[op.rows]
    outer = domain.outer
    assert outer is not None
    slots, rows = domain.slots, frame.number_of(outer.word("count"))
    ids = frame.pointer_of(Word("rows", op.slots))
    offsets = frame.pointer_of(domain.word("offsets"))
    parent, position = frame.pointer_of(domain.word("parent")), frame.pointer_of(domain.word("position"))
    index_at, slot_at = (frame.pointer_of(Word("rows", value)) for value in (op.index, op.slot))
    total = e.b.mul(rows, i64(slots))

    def index_of(i: Value) -> Value:
        row = ascend(e, frame, outer, domains[plan.domain_of(op.slots)], e.b.udiv(i, i64(slots)))
        return e.load(e.at(ids, e.b.add(e.b.mul(row, i64(slots)), e.b.urem(i, i64(slots))), 8), "i64")

    def place(i: Value, index: Value, to: Value) -> None:
        e.store(e.b.udiv(i, i64(slots)), e.at(parent, to, 8), "i64")
        e.store(index, e.at(index_at, to, 8), "i64")
        e.store(e.b.urem(i, i64(slots)), e.at(slot_at, to, 8), "i64")
        e.store(to, e.at(position, i, 8), "i64")

    count = _counting_sort(e, index_of, offsets, total, domain.indices, place)
    frame.put(domain.word("count"), count)


def sort_rows(frame: RunFrame, domains: Domains, op: plan.GroupOp) -> None:
    """Orders rows by key. A key that no matrix has comes from an input: then the call fails."""
    e, domain = frame.e, domains[op.domain]
    rows = frame.number_of(domain.word("count"))
    keys = frame.pointer_of(Word("rows", op.key))
    offsets, order = frame.pointer_of(Word("offsets", op.result)), frame.pointer_of(Word("order", op.result))
    source = domains[plan.domain_of(op.key)]

    def key_of(i: Value) -> Value:
        return e.load(e.at(keys, ascend(e, frame, domain, source, i), 8), "i64")

    def place(i: Value, key: Value, to: Value) -> None:
        e.store(i, e.at(order, to, 8), "i64")

    count = _counting_sort(e, key_of, offsets, rows, integer(op.keys), place)
    with e.when(e.b.icmp_signed("!=", count, rows)):
        e.b.store(i64(1), frame.pointer_of(FLAG), align=8)


def _counting_sort(
    e: Emitter,
    key_of: Callable[[Value], Value],
    offsets: Value,
    count: Value,
    buckets: int,
    place: Callable[[Value, Value, Value], None],
) -> Value:
    """Calls `place(i, key, position)` for each i below `count` whose key is below `buckets`; stable.

    Returns how many there are. `offsets` has room for `buckets + 2` and ends as the first position of each key.
    """
    b = e.b
    e.fill(offsets, 8 * (buckets + 2))

    def each_key(use: Any) -> None:
        def turn(i: Value) -> None:
            key = key_of(i)
            with e.when(b.icmp_unsigned("<", key, i64(buckets))):
                use(i, key)

        e.loop(0, count, turn)

    def add_one(i: Value, key: Value) -> None:
        slot = e.at(offsets, b.add(key, i64(2)), 8)
        e.store(b.add(e.load(slot, "i64"), i64(1)), slot, "i64")

    def advance(i: Value, key: Value) -> None:
        slot = e.at(offsets, b.add(key, i64(1)), 8)
        to = e.load(slot, "i64")
        place(i, key, to)
        e.store(b.add(to, i64(1)), slot, "i64")

    def accumulate(i: Value, carried: Sequence[Value]) -> list[Value]:
        slot = e.at(offsets, i, 8)
        total = b.add(carried[0], e.load(slot, "i64"))
        e.store(total, slot, "i64")
        return [total]

    each_key(add_one)
    (total,) = e.fold(2, buckets + 2, [i64(0)], accumulate)
    each_key(advance)
    return total
