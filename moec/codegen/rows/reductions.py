"""Sums, largest and smallest over an axis: in vectors, in an order that is always the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Final

from llvmlite import ir

from moec.codegen.elements import choose_nan
from moec.codegen.llvm import F32, I32, I64, Emitter, Value, constant, vector, width_of
from moec.codegen.rows.row import Row, Rules
from moec.codegen.selections import Chosen
from moec.codegen.views import View, walk
from moec.dialects import moe

_START: Final = {"sum": 0.0, "max": -inf, "min": inf}
_START_INTEGER: Final = {"sum": 0, "max": -(1 << 63), "min": (1 << 63) - 1}
_ORDER: Final = {"max": ">", "min": "<"}


def combine(e: Emitter, kind: str, left: Value, right: Value) -> Value:
    """The sum, the larger or the smaller of two; integers or floats."""
    lane = left.type.element if width_of(left) else left.type
    if lane == I64:
        if kind == "sum":
            return e.b.add(left, right)
        return e.b.select(e.b.icmp_signed(_ORDER[kind], left, right), left, right)
    return e.b.fadd(left, right) if kind == "sum" else choose_nan(e, _ORDER[kind], left, right)


def start(kind: str, dtype: str, width: int) -> Value:
    """What a reduction begins with: it changes nothing that it is combined with."""
    element, value = (I64, _START_INTEGER[kind]) if dtype == "i64" else (F32, _START[kind])
    return constant(vector(element, width), value)


def _reduce(row: Row, op: moe.ReduceOp) -> Any:
    kind, axis = op.kind.data, op.axis.value.data
    source: View = row[op.operand]
    slots = row[op.slots] if op.slots is not None else None
    if len(source.shape) == 1:
        return _reduce_vector(row, kind, source, slots)
    result = row.alloc(op.result)
    if axis == len(source.shape) - 1:
        _reduce_last(row, kind, source, result)
    else:
        _reduce_outer(row, kind, source, axis, result, slots)
    return result


def _reduce_last(row: Row, kind: str, source: View, result: View) -> None:
    e = row.e
    if len(source.shape) == 1:
        e.store(_reduce_vector(row, kind, source, None), result.pointer, result.dtype)
    else:
        e.loop(0, source.shape[0], lambda i: _reduce_last(row, kind, source.part(e, i), result.part(e, i)))


def _reduce_vector(row: Row, kind: str, source: View, slots: Chosen | None) -> Value:
    """All elements of a vector: lane by lane, then the lanes in order."""
    e, size = row.e, source.shape[0]
    flat = source if source.strides[0] in (0, 1) else row.dense(source)
    lanes = e.lanes if source.dtype != "i64" else 0
    masked = slots if slots is not None and slots.partial else None

    def element(at: Value | int, width: int) -> Value:
        value = flat.load(e, at, width)
        value = value if source.dtype == "i64" else row.as_f32(value, source.dtype)
        if masked is None:
            return value
        return e.b.select(masked.filled_from(e, at, width), value, start(kind, source.dtype, width))

    total = start(kind, source.dtype, 0)
    whole = size - size % lanes if lanes else 0
    if whole:
        first = start(kind, source.dtype, lanes)
        (sums,) = e.fold(0, whole, [first], lambda i, v: [combine(e, kind, v[0], element(i, lanes))], lanes)
        total = across(e, kind, sums)
    (total,) = e.fold(whole, size, [total], lambda i, v: [combine(e, kind, v[0], element(i, 0))])
    return total


def across(e: Emitter, kind: str, value: Value) -> Value:
    """The lanes of a vector as one: halves onto halves, so in a fixed order."""
    width = width_of(value)
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(I32, width), list(range(at, at + width))) for at in (0, width)]
        low, high = (e.b.shuffle_vector(value, value, half) for half in halves)
        value = combine(e, kind, low, high)
    return e.b.extract_element(value, ir.Constant(I32, 0))


def _reduce_outer(row: Row, kind: str, source: View, axis: int, result: View, slots: Chosen | None) -> None:
    """Over an axis that is not the last: whole inner parts, one onto the other."""
    e = row.e
    if axis:

        def inner(i: Value) -> None:
            _reduce_outer(row, kind, source.part(e, i), axis - 1, result.part(e, i), None)

        e.loop(0, source.shape[0], inner)
        return
    _set(e, result, start(kind, result.dtype, 0))

    def turn(i: Value) -> None:
        combine_onto(row, kind, source.part(e, i), result)

    if slots is None or not slots.partial:
        e.loop(0, source.shape[0], turn)
        return

    def guarded(i: Value) -> None:
        with e.when(slots.filled(e, slots.at(e, i))):
            turn(i)

    e.loop(0, source.shape[0], guarded)


def _set(e: Emitter, view: View, scalar: Value) -> None:
    """Every element becomes a scalar."""

    def step(parts: Sequence[View], at: Value | int, width: int) -> None:
        e.store(e.splat(scalar, width), parts[0].moved(e, at), view.dtype)

    walk(e, [view], step)


def combine_onto(row: Row, kind: str, source: View, result: View) -> None:
    """`result = combine(result, source)`, element by element."""
    e = row.e

    def step(parts: Sequence[View], at: Value | int, width: int) -> None:
        value = parts[0].load(e, at, width)
        value = value if source.dtype == "i64" else row.as_f32(value, source.dtype)
        total = combine(e, kind, parts[1].load(e, at, width), value)
        e.store(total, parts[1].moved(e, at), result.dtype)

    walk(e, [source, result], step)


REDUCTIONS: Final[Rules] = {moe.ReduceOp: _reduce}
