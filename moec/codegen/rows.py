"""The operations of one row: every `moe` operation as code, a method each.

Arrays are views; what an operation makes is written to scratch memory, or straight to where a stage leaves it. Scalars
stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any, Final, Protocol

from llvmlite import ir
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, Operation, Region, SSAValue

from moec.codegen.elements import choose_nan, emit_region, emit_scalar, is_scalar, narrow, widen
from moec.codegen.llvm import F32, I1, I64, SIZES, Emitter, Value, i64, vector, width_of
from moec.codegen.selections import Chosen, Largest, contains, is_taken
from moec.codegen.views import View, copy, walk
from moec.dialects import moe, plan
from moec.dialects.types import SelectionType, element_name, integer, static_shape


class Outside(Protocol):
    """Where a row's values come from: parameters, and the rows of other stages."""

    def param(self, value: SSAValue) -> Any: ...

    def read(self, source: SSAValue, row: SSAValue, index: Value) -> Any: ...

    def descend(self, domain: SSAValue, row: Value, slot: Value) -> Value: ...

    def flag_outside(self) -> None: ...


@dataclass
class Scratch:
    """Memory of a stage for one row at a time, handed out once at compile time. `size` is what a stage needs."""

    pointer: Value
    size: int = 0

    def take(self, e: Emitter, count: int) -> Value:
        place = self.size
        self.size += -(-count // 64) * 64
        return e.at(self.pointer, place, 1)


class Row:
    """Emits the operations of a region. `values` holds what is known of each value; `places` where results shall go."""

    def __init__(self, e: Emitter, outside: Outside, scratch: Scratch) -> None:
        self.e = e
        self.outside = outside
        self.scratch = scratch
        self.values: dict[SSAValue, Any] = {}
        self.places: dict[SSAValue, View | Chosen] = {}

    def run(self, block: Block) -> Operation:
        """Emits a block; its terminator."""
        for operation in block.ops:
            if operation is block.last_op:
                return operation
            self.emit(operation)
        raise AssertionError("a block ends with a terminator")

    def emit(self, operation: Operation) -> None:
        if is_scalar(operation):
            value = emit_scalar(self.e, operation, [self[operand] for operand in operation.operands])
        else:
            value = _HANDLERS[type(operation)](self, operation)
        self.values[operation.results[0]] = value

    def __getitem__(self, value: SSAValue) -> Any:
        found = self.values.get(value)
        return self.outside.param(value) if found is None else found

    def alloc(self, value: SSAValue) -> View:
        """Where an array shall be written."""
        place = self.places.get(value)
        if isinstance(place, View):
            return place
        return self.temporary(element_name(value.type), static_shape(value.type))

    def temporary(self, dtype: str, shape: Sequence[int]) -> View:
        return View.dense(self.scratch.take(self.e, prod(shape) * SIZES[dtype]), dtype, shape)

    def alloc_selection(self, value: SSAValue) -> Chosen:
        place = self.places.get(value)
        if isinstance(place, Chosen):
            return place
        chosen = chosen_like(value.type)
        return replace(chosen, pointer=self.scratch.take(self.e, chosen.size * 8))

    def dense(self, view: View) -> View:
        """The view itself if its elements lie one after the other, else a copy."""
        if view.contiguous:
            return view
        fresh = self.temporary(view.dtype, view.shape)
        copy(self.e, view, fresh)
        return fresh

    def as_f32(self, value: Value, dtype: str) -> Value:
        return value if dtype == "f32" else widen(self.e, value, dtype)


def chosen_like(type: Any) -> Chosen:
    """A selection of a type, without memory."""
    assert isinstance(type, SelectionType)
    return Chosen(integer(type.size), integer(type.domain), type.kind.data != moe.FULL)


# ── pointwise ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _map(row: Row, op: moe.MapOp) -> View:
    views = [row[array] for array in op.arrays]
    result = row.alloc(op.results[0])
    map_into(row, op, views, result)
    return result


def map_into(row: Row, op: moe.MapOp, views: Sequence[View], result: View) -> None:
    """A map's elements, written to a view of their shape."""
    outside = _Captured(row)

    def step(parts: Sequence[View], at: Value | int, width: int) -> None:
        arguments = [part.load(row.e, at, width) for part in parts[:-1]]
        (value,) = emit_region(row.e, op.body.block, arguments, outside)
        value = row.e.splat(value, width)
        row.e.store(value, parts[-1].moved(row.e, at), result.dtype)

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


# ── reductions and contractions ───────────────────────────────────────────────────────────────────────────────────────

_START: Final = {"sum": 0.0, "max": -inf, "min": inf}
_START_INTEGER: Final = {"sum": 0, "max": -(1 << 63), "min": (1 << 63) - 1}
_ORDER: Final = {"max": ">", "min": "<"}


def _combine(e: Emitter, kind: str, left: Value, right: Value) -> Value:
    lane = left.type.element if width_of(left) else left.type
    if lane == I64:
        if kind == "sum":
            return e.b.add(left, right)
        return e.b.select(e.b.icmp_signed(_ORDER[kind], left, right), left, right)
    return e.b.fadd(left, right) if kind == "sum" else choose_nan(e, _ORDER[kind], left, right)


def _start(kind: str, dtype: str, width: int) -> Value:
    element, value = (I64, _START_INTEGER[kind]) if dtype == "i64" else (F32, _START[kind])
    return ir.Constant(vector(element, width), [value] * width if width else value)


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
        indices = e.load(e.at(masked.pointer, at, 8), "i64", width)
        filled = e.b.icmp_unsigned("<", indices, e.like(indices, masked.domain))
        return e.b.select(filled, value, _start(kind, source.dtype, width))

    total = _start(kind, source.dtype, 0)
    whole = size - size % lanes if lanes else 0
    if whole:
        first = _start(kind, source.dtype, lanes)
        (sums,) = e.fold(0, whole, [first], lambda i, v: [_combine(e, kind, v[0], element(i, lanes))], lanes)
        total = _across(e, kind, sums)
    (total,) = e.fold(whole, size, [total], lambda i, v: [_combine(e, kind, v[0], element(i, 0))])
    return total


def _across(e: Emitter, kind: str, value: Value) -> Value:
    """The lanes of a vector as one: halves onto halves, so in a fixed order."""
    width = width_of(value)
    while width > 1:
        width //= 2
        low, high = (
            e.b.shuffle_vector(
                value, value, ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(at, at + width)))
            )
            for at in (0, width)
        )
        value = _combine(e, kind, low, high)
    return e.b.extract_element(value, ir.Constant(ir.IntType(32), 0))


def _reduce_outer(row: Row, kind: str, source: View, axis: int, result: View, slots: Chosen | None) -> None:
    """Over an axis that is not the last: whole inner parts, one onto the other."""
    e = row.e
    if axis:
        e.loop(
            0, source.shape[0], lambda i: _reduce_outer(row, kind, source.part(e, i), axis - 1, result.part(e, i), None)
        )
        return
    _set(e, result, _start(kind, result.dtype, 0))

    def turn(i: Value) -> None:
        _onto(row, kind, source.part(e, i), result)

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


def _onto(row: Row, kind: str, source: View, result: View) -> None:
    """`result = combine(result, source)`, element by element."""
    e = row.e

    def step(parts: Sequence[View], at: Value | int, width: int) -> None:
        value = parts[0].load(e, at, width)
        value = value if source.dtype == "i64" else row.as_f32(value, source.dtype)
        total = _combine(e, kind, parts[1].load(e, at, width), value)
        e.store(total, parts[1].moved(e, at), result.dtype)

    walk(e, [source, result], step)


def _contract(row: Row, op: moe.ContractOp) -> Any:
    weight, v = row[op.weight], row.dense(row[op.vector])
    if len(weight.shape) == 1:
        return _dot(row, weight, v)
    result = row.alloc(op.result)
    _dots(row, weight, v, result)
    return result


def _dots(row: Row, weight: View, v: View, result: View) -> None:
    e = row.e
    if len(weight.shape) == 1:
        e.store(_dot(row, weight, v), result.pointer, "f32")
    else:
        e.loop(0, weight.shape[0], lambda i: _dots(row, weight.part(e, i), v, result.part(e, i)))


def _dot(row: Row, left: View, right: View) -> Value:
    """The product of two vectors, in f32."""
    e, size = row.e, left.shape[0]
    flat = left if left.strides[0] in (0, 1) else row.dense(left)

    def product(at: Value | int, width: int, total: Value) -> Value:
        a = row.as_f32(flat.load(e, at, width), left.dtype)
        b = row.as_f32(right.load(e, at, width), right.dtype)
        return e.overloaded("llvm.fmuladd", a, b, total)

    # Four sums hide the latency of the multiply-add.
    chains, lanes = 4, e.lanes
    whole = size - size % (chains * lanes)
    sums = [_start("sum", "f32", lanes)] * chains
    if whole:
        step = chains * lanes
        sums = e.fold(
            0,
            whole,
            sums,
            lambda i, v: [product(e.b.add(i, i64(c * lanes)), lanes, v[c]) for c in range(chains)],
            step,
        )
    rest = size - size % lanes
    (sums[0],) = e.fold(whole, rest, [sums[0]], lambda i, v: [product(i, lanes, v[0])], lanes)
    joined = e.b.fadd(e.b.fadd(sums[0], sums[1]), e.b.fadd(sums[2], sums[3]))
    total = _across(e, "sum", joined)
    (total,) = e.fold(rest, size, [total], lambda i, v: [product(i, 0, v[0])])
    return total


# ── axes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _extract(row: Row, op: moe.ExtractOp) -> Any:
    e, source, index = row.e, row[op.operand], row[op.index]
    if op.checked is not None:
        inside = e.b.icmp_unsigned("<", index, i64(source.shape[0]))
        with e.when(e.b.not_(inside)):
            row.outside.flag_outside()
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
            _zero(e, to)

    e.loop(0, slots.size, turn)
    return result


def copy_part(e: Emitter, source: View, to: View) -> None:
    """A part of an array, which may be a scalar."""
    if source.shape:
        copy(e, source, to)
    else:
        e.store(e.load(source.pointer, source.dtype), to.pointer, to.dtype)


def _zero(e: Emitter, view: View) -> None:
    assert view.contiguous
    e.fill(view.pointer, view.size * SIZES[view.dtype])


def _slice(row: Row, op: moe.SliceOp) -> View:
    axis, offset, size, step = (integer(item) for item in (op.axis, op.offset, op.size, op.step))
    return row[op.operand].slice(row.e, axis, offset, size, step)


def _reshape(row: Row, op: moe.ReshapeOp) -> View:
    source: View = row[op.operand]
    usable = source if source.contiguous or source.repeated else row.dense(source)
    return usable.reshaped(static_shape(op.result.type))


def _concat(row: Row, op: moe.ConcatOp) -> View:
    result, axis, offset = row.alloc(op.result), op.axis.value.data, 0
    for array in op.arrays:
        source: View = row[array]
        copy(row.e, source, result.slice(row.e, axis, offset, source.shape[axis], 1))
        offset += source.shape[axis]
    return result


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
    scratch = row.scratch.take(e, Largest.scratch_bytes(e, flat.size))
    largest = Largest(e, scratch, flat)

    def turn(slot: Value) -> None:
        _, position = largest.take()
        copy_part(e, flat.part(e, position), result.part(e, slot))

    e.loop(0, result.shape[0], turn)


# ── selections ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _topk(row: Row, op: moe.TopKOp) -> Chosen:
    e, source = row.e, row.dense(row[op.operand])
    chosen = row.alloc_selection(op.result)
    slots = row[op.slots] if op.slots is not None else None
    scratch = row.scratch.take(e, Largest.scratch_bytes(e, source.size))
    largest = Largest(e, scratch, source, slots)

    def turn(slot: Value) -> None:
        key, position = largest.take()
        if chosen.partial:
            position = e.b.select(is_taken(e, key), i64(chosen.domain), position)
        chosen.put(e, slot, position)

    e.loop(0, chosen.size, turn)
    return chosen


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
    _zero(e, result)

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


# ── regions ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
        e.store(_start("sum", dtype, 0), total.pointer, dtype)
    else:
        _zero(e, total)

    def leave(slot: Value, index: Value, value: Any) -> None:
        if scalar:
            e.store(_combine(e, "sum", e.load(total.pointer, dtype), value), total.pointer, dtype)
        else:
            _onto(row, "sum", value, total)

    _over(row, row[op.slots], op.body, leave, lambda slot: None)
    return e.load(total.pointer, dtype) if scalar else total


def _each(row: Row, op: moe.EachOp) -> View:
    e, result = row.e, row.alloc(op.result)

    def leave(slot: Value, index: Value, value: Any) -> None:
        put(e, value, result.part(e, slot))

    _over(row, row[op.slots], op.body, leave, lambda slot: _zero(e, result.part(e, slot)))
    return result


def put(e: Emitter, value: Any, to: View) -> None:
    """A scalar or an array into memory, unless it is there already."""
    if isinstance(value, View):
        if value.pointer is not to.pointer:
            copy(e, value, to)
    else:
        e.store(value, to.pointer, to.dtype)


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


# ── rows of other stages ──────────────────────────────────────────────────────────────────────────────────────────────


def _read(row: Row, op: plan.ReadOp) -> Any:
    return row.outside.read(op.source, op.row, row[op.row])


def _descend(row: Row, op: plan.DescendOp) -> Value:
    return row.outside.descend(op.domain, row[op.row], row[op.slot])


_HANDLERS: Final[dict[type[Operation], Callable[[Row, Any], Any]]] = {
    moe.MapOp: _map,
    moe.BroadcastOp: _broadcast,
    moe.ReduceOp: _reduce,
    moe.ContractOp: _contract,
    moe.ExtractOp: _extract,
    moe.GatherOp: _gather,
    moe.SliceOp: _slice,
    moe.ReshapeOp: _reshape,
    moe.TransposeOp: lambda row, op: row[op.operand].transposed(),
    moe.ConcatOp: _concat,
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
    moe.SumOp: _sum,
    moe.EachOp: _each,
    moe.MatchOp: _match,
    plan.ReadOp: _read,
    plan.DescendOp: _descend,
}

__all__ = ["Outside", "Row", "Scratch", "chosen_like", "map_into", "narrow", "put"]
