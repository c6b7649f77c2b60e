"""Work along the tokens, as `plan.batch` describes it: by columns, but for ranks, which go by rows.

A column is one element of the rows' arrays. Its sum is one chain in the order of the tokens, in float64, rounded where
it is stored: neither threads nor vectors change a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from math import prod
from typing import Final

from llvmlite import ir

from moec.codegen.floats import widen
from moec.codegen.frame import Word, row_layout
from moec.codegen.llvm import F32, I32, I64, SIZES, Emitter, Value, constant, i64, vector, width_of
from moec.codegen.rows.reductions import combine, start
from moec.codegen.selections import order_bits
from moec.codegen.stages import BYTE_COST, Stage, Stages
from moec.dialects import plan

_F64: Final = ir.DoubleType()
#: Columns that go together, and rows that are compared with a row once it is loaded.
_WIDTH: Final = 16
_TOGETHER: Final = 8
#: Picoseconds, roughly, for a block of columns times a factor of a row.
_MULTIPLYING: Final = 600
#: Picoseconds, roughly, in which a row is compared with the others of a call, for each block of columns.
_COMPARING: Final = 128_000


@dataclass(frozen=True)
class _Columns:
    """Rows of `count` elements of `dtype`, one behind the other, or a `single` one that stands for all."""

    e: Emitter
    pointer: Value
    dtype: str
    count: int
    single: bool

    def load(self, row: Value, at: Value, width: int) -> Value:
        """`width` elements of a row, from one on; 0 for a scalar. Integers, or f32."""
        value = self.e.load(self._place(row, at), self.dtype, width)
        return widen(self.e, value, self.dtype) if self.dtype in ("bf16", "f16") else value

    def store(self, value: Value, row: Value, at: Value) -> None:
        """The inverse of `load`."""
        self.e.store(value, self._place(row, at), self.dtype)

    def _place(self, row: Value, at: Value) -> Value:
        b = self.e.b
        place = at if self.single else b.add(b.mul(row, i64(self.count)), at)
        return self.e.at(self.pointer, place, SIZES[self.dtype])


def emit_batch(stages: Stages, op: plan.BatchOp, name: str) -> Stage:
    """The stage of a `plan.batch`. It is cut among threads by columns, or by rows where it compares rows."""
    e, frame, given = stages.begin(name)
    domain = stages.domains[op.domain]
    source, to = (_columns(stages, e, value, frame.pointer_of(Word("rows", value))) for value in (op.source, op.value))
    rows = frame.number_of(domain.word("count"))
    blocks, kind = -(-source.count // _WIDTH), op.kind.data
    if kind == "rank":
        _ranks(source, to, rows, given.begin, given.end)
        stage = Stage(name, domain, None, 0, blocks * _COMPARING)
    else:
        work, cost = partial(_over_all, kind), 2 * BYTE_COST * source.count * SIZES[source.dtype]
        if op.factors is not None:
            factors = _columns(stages, e, op.factors, frame.pointer_of(Word("rows", op.factors)))
            work, cost = partial(_products, factors), factors.count * blocks * _MULTIPLYING
        elif kind in _BY_ROW:
            work = _BY_ROW[kind]
        _blocks(e, source.count, given.begin, given.end, partial(work, source, to, rows))
        stage = Stage(name, domain, blocks, 0, cost)
    stages.finish(e)
    return stage


def _columns(stages: Stages, e: Emitter, value: Value, pointer: Value) -> _Columns:
    dtype, shape = row_layout(value.type.row)
    return _Columns(e, pointer, dtype, prod(shape), stages.domains[plan.domain_of(value)].single)


def _blocks(e: Emitter, count: int, begin: Value | int, end: Value | int, emit: Callable[[Value, int], None]) -> None:
    """`emit(at, width)` for the blocks of columns from `begin` below `end`; the last has what is left."""
    whole, tail = divmod(count, _WIDTH)
    if whole:
        stop = i64(end) if isinstance(end, int) else end
        e.loop(begin, e.least(stop, i64(whole)), lambda block: emit(e.b.mul(block, i64(_WIDTH)), _WIDTH))
    if tail:
        with e.when(e.b.icmp_signed("==", i64(end) if isinstance(end, int) else end, i64(whole + 1))):
            emit(i64(whole * _WIDTH), tail if tail > 1 else 0)


def _over_all(kind: str, source: _Columns, to: _Columns, rows: Value, at: Value, width: int) -> None:
    """The sum, the largest or the smallest of all."""
    e = source.e

    def turn(row: Value, carried: Sequence[Value]) -> list[Value]:
        value = source.load(row, at, width)
        return [_add(e, carried[0], value) if kind == "sum" else combine(e, kind, carried[0], value)]

    first = _nothing(source.dtype, width) if kind == "sum" else start(kind, source.dtype, width)
    (found,) = e.fold(0, rows, [first], turn)
    to.store(_rounded(e, found), i64(0), at)


def _running(source: _Columns, to: _Columns, rows: Value, at: Value, width: int) -> None:
    """Each row is left with the sum of those up to it."""
    e = source.e

    def turn(row: Value, carried: Sequence[Value]) -> list[Value]:
        total = _add(e, carried[0], source.load(row, at, width))
        to.store(_rounded(e, total), row, at)
        return [total]

    e.fold(0, rows, [_nothing(source.dtype, width)], turn)


def _before(source: _Columns, to: _Columns, rows: Value, at: Value, width: int) -> None:
    """Each row is left with the one before it, the first with 0."""
    e = source.e

    def turn(row: Value, carried: Sequence[Value]) -> list[Value]:
        to.store(carried[0], row, at)
        return [source.load(row, at, width)]

    none = constant(vector(I64 if source.dtype == "i64" else F32, width), 0)
    e.fold(0, rows, [none], turn)


#: Work that leaves each row something of its own.
_BY_ROW: Final = {"cumsum": _running, "previous": _before}


def _products(factors: _Columns, source: _Columns, to: _Columns, rows: Value, at: Value, width: int) -> None:
    """For each factor of the rows the sum of their columns times it. Products are exact in float64, and the sums of
    some factors stay in registers."""
    e, b = source.e, source.e.b
    wide = vector(_F64, width)

    def sums(first: Value, several: int) -> None:
        def turn(row: Value, carried: Sequence[Value]) -> list[Value]:
            value = b.fpext(source.load(row, at, width), wide)
            scales = b.fpext(factors.load(row, first, several), vector(_F64, several))
            lanes = [e.splat(b.extract_element(scales, ir.Constant(I32, lane)), width) for lane in range(several)]
            pairs = zip(lanes, carried, strict=True)
            return [e.overloaded("llvm.fmuladd", value, scale, total) for scale, total in pairs]

        found = e.fold(0, rows, [_nothing("f32", width)] * several, turn)
        for lane, total in enumerate(found):
            place = b.add(b.mul(b.add(first, i64(lane)), i64(source.count)), at)
            to.store(_rounded(e, total), i64(0), place)

    several = max(e.lanes // 4, 1)
    whole = factors.count - factors.count % several
    e.loop(0, whole, lambda first: sums(first, several), several)
    if whole < factors.count:
        sums(i64(whole), factors.count - whole)


def _nothing(dtype: str, width: int) -> Value:
    """What a sum begins with: integers, or float64."""
    return constant(vector(I64 if dtype == "i64" else _F64, width), 0)


def _add(e: Emitter, total: Value, value: Value) -> Value:
    if _element(value) == I64:
        return e.b.add(total, value)
    return e.b.fadd(total, e.b.fpext(value, total.type))


def _rounded(e: Emitter, value: Value) -> Value:
    return e.b.fptrunc(value, vector(F32, width_of(value))) if _element(value) == _F64 else value


def _element(value: Value) -> Value:
    return value.type.element if width_of(value) else value.type


def _ranks(source: _Columns, to: _Columns, rows: Value, begin: Value, end: Value) -> None:
    """The ranks of the rows from `begin` below `end`, of several at a time while there are as many."""
    e, blocks = source.e, -(-source.count // _WIDTH)
    last = begin

    for several in (_TOGETHER, 1):
        whole = e.b.sub(end, e.b.urem(e.b.sub(end, last), i64(several)))

        def turn(row: Value, several: int = several) -> None:
            _blocks(e, source.count, 0, blocks, partial(_rank, source, to, rows, row, several))

        e.loop(last, whole, turn, several)
        last = whole


def _rank(source: _Columns, to: _Columns, rows: Value, row: Value, several: int, at: Value, width: int) -> None:
    """How many of all rows rank ahead of each of `several`: those with a larger element, of equal ones those before."""
    e, b = source.e, source.e.b
    places = [b.add(row, i64(i)) for i in range(several)]

    def key_of(row: Value) -> Value:
        value = source.load(row, at, width)
        return value if source.dtype == "i64" else order_bits(e, value)

    own = [key_of(place) for place in places]

    def more(ahead: Value, order: str, key: Value, of: Value) -> Value:
        return b.add(ahead, b.zext(b.icmp_signed(order, key, of), ahead.type))

    def count(first: Value | int, stop: Value, order: str, ahead: Sequence[Value]) -> list[Value]:
        def turn(other: Value, carried: Sequence[Value]) -> list[Value]:
            key = key_of(other)
            return [more(counted, order, key, of) for counted, of in zip(carried, own, strict=True)]

        return e.fold(first, stop, ahead, turn)

    none = constant(vector(I32, width), 0)
    ahead = count(0, row, ">=", [none] * several)
    for i, j in permutations(range(several), 2):
        ahead[j] = more(ahead[j], ">=" if i < j else ">", own[i], own[j])
    for place, counted in zip(places, count(b.add(row, i64(several)), rows, ">", ahead), strict=True):
        to.store(b.zext(counted, vector(I64, width)), place, at)
