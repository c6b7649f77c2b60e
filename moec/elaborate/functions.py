"""The functions of the language: one row each, name to the code that emits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, isfinite
from typing import Final

from xdsl.dialects import arith, math
from xdsl.ir import Operation, SSAValue

from moec.diagnostics import fail
from moec.dialects import moe
from moec.dialects.types import ELEMENTS, F32, I64, Along, AlongAttr, Reduction, ReductionAttr, element_of
from moec.dims import ONE, ZERO, Dim, product
from moec.elaborate.builder import LEAST, Builder, dims_attr
from moec.elaborate.selections import as_selection
from moec.elaborate.values import (
    ANYWHERE,
    Array,
    Batch,
    Bounds,
    Number,
    Selection,
    Value,
    by_rows,
    kind_of,
    show,
)
from moec.language.foreign import JOINED
from moec.source import Span


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument's value and where it stands."""

    value: Value
    span: Span


@dataclass(frozen=True, slots=True)
class Called:
    """A call in hand: the arguments by position and by name."""

    name: str
    builder: Builder
    operands: Sequence[Operand]
    named: Mapping[str, Operand]
    span: Span

    def array(self, position: int) -> Array:
        """An argument in f32."""
        operand = self.operands[position]
        return self.builder.f32(operand.value, operand.span)

    def raw(self, position: int) -> Array:
        """An argument in the element type that it has."""
        operand = self.operands[position]
        return self.builder.array(operand.value, operand.span)

    def numbers(self, position: int) -> Array:
        """An argument in f32, or in integers if it has these."""
        array = self.raw(position)
        return array if array.element == "i64" else self.array(position)

    def vector(self, position: int) -> Array:
        """An argument of one axis, in f32 or integers."""
        array = self.numbers(position)
        if len(array.shape) != 1:
            span, rows = self.operands[position].span, len(array.shape) > 1 and self.name == "argmax"
            name = span.text if span.text.isidentifier() else "m"
            help = f"`{by_rows(array, f'{self.name}({name}[i])')}` is of every row" if rows else None
            raise fail("E0204", f"`{self.name}` takes a vector, not {kind_of(array)}", span, help=help)
        return array

    def selection(self, position: int) -> Selection:
        """An argument that is a selection, or stands for one."""
        operand = self.operands[position]
        return as_selection(operand.value, operand.span)

    def integer(self, position: int, what: str, least: int = 0) -> Dim:
        """An argument that is an integer while compiling."""
        operand = self.operands[position]
        return self.builder.integer(operand.value, operand.span, what, least)

    def named_axis(self, position: int | None = 1) -> Operand | None:
        """The argument that names an axis, if there is one: by its name, or at a position, if it may stand at one."""
        if position is None or len(self.operands) <= position:
            return self.named.get("axis")
        return self.named.get("axis", self.operands[position])

    @property
    def along_batch(self) -> bool:
        """Whether the axis that the call names is that of the tokens."""
        operand = self.named_axis()
        return operand is not None and isinstance(operand.value, Batch)

    def axis(self, array: Array, default: int = -1, position: int | None = 1) -> int:
        """The axis that the call names, by its name or at a position, counted from 0."""
        operand = self.named_axis(position)
        number = operand.value if operand else Number(Dim.of(default), self.span)
        span = operand.span if operand else self.operands[0].span
        if not isinstance(number, Number):
            raise fail("E0204", f"an axis is a compile-time number, not {kind_of(number)}", span)
        axis = self.builder.known(number.dim)
        if not array.shape:
            raise fail("E0204", f"`{self.name}` takes an array, not a scalar", self.operands[0].span)
        if not isinstance(axis, Fraction) or axis.denominator != 1 or not -len(array.shape) <= axis < len(array.shape):
            raise fail("E0207", f"an array of shape {show(array.shape)} has no axis `{number.dim}`", span)
        return int(axis) % len(array.shape)


Implementation = Callable[[Called], Value]


@dataclass(frozen=True, slots=True)
class Row:
    """A function: its code, how few arguments it takes by position, how many in all, and the names of some."""

    run: Implementation
    least: int
    most: int
    named: tuple[str, ...] = ()


# ── pointwise ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _abs(call: Called) -> Value:
    builder, value = call.builder, call.operands[0].value
    known = builder.known(value.dim) if isinstance(value, Number) else None
    if isinstance(value, Number) and known is not None:
        return Number(-value.dim if known < 0 else value.dim, call.span)
    if not (isinstance(value, Array) and value.element == "i64"):
        return builder.pointwise([call.array(0)], call.span, math.AbsFOp)
    zero = builder.number(ZERO, I64)

    def emit(x: SSAValue) -> SSAValue:
        return builder.emit(arith.MaxSIOp(x, builder.emit(arith.SubiOp(zero, x))))

    return builder.pointwise([value], call.span, emit)


def _floor(call: Called) -> Value:
    """Of a number a number, of integers themselves."""
    builder, value = call.builder, call.operands[0].value
    if isinstance(value, Number) and not value.truth:
        known = builder.settled(value.dim, "`floor`", call.span)
        whole = builder.is_integral(value) or (isinstance(known, float) and not isfinite(known))
        return Number(value.dim if whole else Dim.of(floor(known)), call.span)
    if isinstance(value, Array) and value.element == "i64":
        return value
    return builder.pointwise([call.array(0)], call.span, math.FloorOp)


def _unary(make: Callable[..., Operation]) -> Row:
    def run(call: Called) -> Array:
        return call.builder.pointwise([call.array(0)], call.span, make)

    return Row(run, 1, 1)


def _extremum(kind: str, floats: Callable[..., Operation], integers: Callable[..., Operation]) -> Row:
    def run(call: Called) -> Value:
        if len(call.operands) == 1:
            return _reduce(call, kind)
        builder, values = call.builder, [operand.value for operand in call.operands]
        if folded := _folded_extremum(builder, kind, values, call.span):
            return folded
        integral = builder.join_as_integers(values)
        make = integers if integral else floats
        pair = [
            builder.array(operand.value, operand.span, I64) if integral else call.array(position)
            for position, operand in enumerate(call.operands)
        ]
        result = builder.pointwise(pair, call.span, make)
        bounds = _extremum_bounds(builder, kind, *pair) if integral and not result.shape else None
        return Array(result.ssa, result.origin, result.restriction, bounds)

    return Row(run, 1, 2, ("axis",))


def _folded_extremum(builder: Builder, kind: str, values: Sequence[Value], span: Span) -> Number | None:
    """The larger or the smaller of compile-time numbers that have values; NaN if one of them is."""
    dims = [value.dim for value in values if isinstance(value, Number)]
    known = [builder.known(dim) for dim in dims]
    if len(dims) < len(values) or None in known:
        return None
    pick = min if kind == "min" else max
    chosen = next((value for value in known if value != value), pick(known))
    return Number(dims[known.index(chosen)], span)


def _extremum_bounds(builder: Builder, kind: str, left: Array, right: Array) -> Bounds:
    a, b = left.bounds or ANYWHERE, right.bounds or ANYWHERE

    def pick(left: Dim, right: Dim) -> Dim:
        return left if builder.at_most(left, right) == (kind == "min") else right

    return Bounds(pick(a.low, b.low), pick(a.high, b.high))


def _cast(name: str) -> Row:
    def run(call: Called) -> Value:
        return call.builder.cast_array(call.raw(0), ELEMENTS[name], call.span)

    return Row(run, 1, 1)


# ── reductions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reduce(call: Called, kind: str) -> Array:
    if call.along_batch:
        return _along_batch(call, kind)
    builder, array = call.builder, call.numbers(0)
    axis = call.axis(array)
    restriction = array.restriction
    slots = restriction.ssa if restriction is not None and axis == 0 and restriction.partial else None
    operation = moe.ReduceOp.make(array.ssa, slots, kind=ReductionAttr(Reduction(kind)), axis=axis)
    return Array(builder.emit(operation), array.origin, restriction if axis else None)


def _along_batch(call: Called, kind: str) -> Array:
    """`moe.batch` of an array that is whole for every token, outside of everything that a token may not reach."""
    builder, array = call.builder, call.numbers(0)
    if builder.block is not builder.outermost:
        raise fail(
            "E0204",
            f"`{call.name}` along `batch` stands inside a `sum`, an `each` or a `match`",
            call.span,
            help="take it of a whole array outside, and an element of the result inside",
        )
    if array.restriction is not None:
        raise fail(
            "E0204",
            "the slots of a selection hold other indices for other tokens",
            call.operands[0].span,
            help="`each e in 0..E: if e in top then … else 0` has the same axis for all",
        )
    return Array(builder.emit(moe.BatchOp.make(array.ssa, None, kind=AlongAttr(Along(kind)))), array.origin)


#: What goes along the tokens only, along a vector instead.
_ALONG_A_VECTOR: Final = {
    "cumsum": "along a vector, `each i in 0..n: sum j in 0..n: if j <= i then v[j] else 0`",
    "previous": "the element before `i` of a vector is `v[i - 1]`",
    "rank": "in a vector, `each i in 0..n: sum j in 0..n: if v[j] > v[i] then 1 else 0`",
}


def _batch(call: Called) -> Array:
    if not call.along_batch:
        what = f"`{call.name}` goes along the tokens: `{call.name}(v, axis=batch)`"
        raise fail("E0204", what, call.span, help=_ALONG_A_VECTOR.get(call.name))
    return _along_batch(call, call.name)


def _size(call: Called) -> Value:
    builder = call.builder
    if call.along_batch:
        with builder.inside(builder.outermost):
            return Array(
                builder.emit(moe.BatchOp.make(builder.number(ONE, I64), None, kind=AlongAttr(Along.SUM))), call.span
            )
    array = call.raw(0)
    return Number(array.shape[call.axis(array)], call.span)


def _argmax(call: Called) -> Array:
    builder = call.builder
    chosen = _choose(call, call.vector(0), ONE)
    bounds = ANYWHERE if chosen.partial else Bounds(ZERO, chosen.domain)
    index = builder.emit(moe.AtOp.make(chosen.ssa, builder.number(ZERO, I64)))
    return Array(index, call.span, bounds=bounds, choice=chosen)


def _top(call: Called) -> Array:
    array, count = call.numbers(0), call.integer(1, "the count", 1)
    _enough(call, count, array.shape[call.axis(array, position=None)], array)
    restriction = array.restriction
    if len(array.shape) == 1:  # the restricted axis itself: an empty slot comes last
        least = Dim.of(LEAST) if array.element == "i64" else -Dim.symbol("inf")
        array, restriction = call.builder.masked(array, least), None
    return Array(call.builder.emit(moe.TopOp.make(array.ssa, count=count)), call.span, restriction)


def _enough(call: Called, count: Dim, size: Dim, array: Array) -> None:
    if not call.builder.at_most(count, size):
        what = f"cannot choose {_shown(call, count)} of {_shown(call, size)}"
        raise fail("E0203", what, call.span, f"{show(array.shape)} has too few")


def _shown(call: Called, dim: Dim) -> str:
    known = call.builder.known(dim)
    return str(dim) if known is None or dim.constant is not None else f"`{dim}` = {known}"


# ── selections ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _choose(call: Called, vector: Array, count: Dim) -> Selection:
    restriction = vector.restriction
    slots = restriction.ssa if restriction is not None and restriction.partial else None
    inner = call.builder.emit(moe.TopKOp.make(vector.ssa, slots, count=count))
    return call.builder.chosen(inner, vector, call.span)


def _count(call: Called) -> Dim:
    """How many `topk` selects. Raises `CompileError` (E0204) where that is computed, with what selects so many."""
    value, span = call.operands[1].value, call.operands[1].span
    if isinstance(value, Array) and not value.shape:
        most = call.vector(0).shape[0]
        help = f"with `top = topk(v, {most})`, `where(each e in top: slot(e) < {span.text})` is the first of these"
        raise fail("E0204", f"the count is a compile-time number, not {kind_of(value)}", span, help=help)
    return call.integer(1, "the count", 1)


def _topk(call: Called) -> Selection:
    vector, count = call.vector(0), _count(call)
    _enough(call, count, vector.shape[0], vector)
    return _choose(call, vector, count)


def _where(call: Called) -> Selection:
    predicate = call.raw(0)
    if len(predicate.shape) != 1 or predicate.element != "bool":
        raise fail("E0204", f"`where` takes a vector of truth values, not {kind_of(predicate)}", call.operands[0].span)
    restriction = predicate.restriction
    slots = restriction.ssa if restriction is not None and restriction.partial else None
    inner = call.builder.emit(moe.WhereOp.make(predicate.ssa, slots))
    return call.builder.chosen(inner, predicate, call.span)


def _given(call: Called) -> Selection:
    ids, domain = call.raw(0), call.integer(1, "the domain", 1)
    if len(ids.shape) != 1 or ids.element != "i64":
        raise fail("E0204", f"`given` takes an `i64` vector, not {kind_of(ids)}", call.operands[0].span)
    filled = call.builder.masked(ids, Dim.of(-1))  # what is empty there is empty here
    ssa = call.builder.emit(moe.GivenOp.make(filled.ssa, domain=domain))
    return Selection(ssa, ids.shape[0], domain, True, call.span)


def _cross(call: Called) -> Selection:
    left, right = call.selection(0), call.selection(1)
    ssa = call.builder.emit(moe.CrossOp.make(left.ssa, right.ssa))
    partial = left.partial or right.partial
    return Selection(ssa, left.size * right.size, left.domain * right.domain, partial, call.span)


def _slot(call: Called) -> Array:
    index = call.operands[0].value
    if not isinstance(index, Array) or index.slot is None:
        raise fail("E0204", "`slot` takes the variable of a `sum` or `each`", call.operands[0].span)
    selection, slot = index.slot
    return Array(slot, call.span, bounds=Bounds(ZERO, selection.size))


def _ids(call: Called) -> Array:
    selection = call.selection(0)
    return Array(call.builder.emit(moe.IdsOp.make(selection.ssa)), call.span)


def _mask(call: Called) -> Array:
    builder, array = call.builder, call.raw(0)
    keep, fill = call.operands[1], call.operands[2]
    flags = _flags(call, keep, array)
    integral = builder.join_as_integers([array, fill.value])
    pair = [array, builder.array(fill.value, fill.span, I64)] if integral else [call.array(0), call.array(2)]
    result = builder.pointwise([flags, *pair], call.span, arith.SelectOp)
    if isinstance(fill.value, Number) and array.element != "i64":
        result = builder.cast_array(result, element_of(array.ssa.type), call.span)
    return Array(result.ssa, array.origin, result.restriction)


def _flags(call: Called, keep: Operand, array: Array) -> Array:
    builder = call.builder
    if isinstance(keep.value, Selection):
        flags = Array(builder.emit(moe.MembersOp.make(keep.value.ssa)), keep.span)
        if array.restriction is not None:
            flags = _members_of_slots(call, keep.value, array.restriction)
    else:
        flags = builder.array(keep.value, keep.span)
        if flags.element != "bool":
            raise fail("E0204", f"`mask` keeps by a selection or by truth values, not {kind_of(flags)}", keep.span)
    if array.shape[: len(flags.shape)] != flags.shape:
        raise builder.mismatch(array, flags, call.span)
    return builder.broadcast(flags, array.shape)


def _members_of_slots(call: Called, keep: Selection, restriction: Selection) -> Array:
    """For each slot of a restricted vector, whether `keep` holds its index."""
    builder = call.builder
    body = builder.region([I64, I64], lambda args: builder.emit(moe.ContainsOp.make(keep.ssa, args[0])))
    return Array(builder.emit(moe.EachOp.make(restriction.ssa, regions=[body])), restriction.origin)


# ── axes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _flatten(call: Called) -> Array:
    array = call.raw(0)
    if len(array.shape) == 1:
        return call.builder.unrestricted(array)
    shape = dims_attr([product(array.shape)])
    return Array(call.builder.emit(moe.ReshapeOp.make(call.builder.masked(array).ssa, shape=shape)), array.origin)


def _concat(call: Called) -> Array:
    builder = call.builder
    for operand in call.operands:
        if isinstance(operand.value, Selection):
            raise fail("E0204", "`concat` joins arrays, not selections", operand.span, help=JOINED)
    integral = builder.join_as_integers([operand.value for operand in call.operands])
    arrays = [builder.array(operand.value, operand.span, I64 if integral else F32) for operand in call.operands]
    if len({element_of(array.ssa.type) for array in arrays}) > 1:
        arrays = [call.array(position) for position in range(len(call.operands))]
    arrays = [builder.masked(array) if array.shape else _as_vector(builder, array) for array in arrays]
    axis = call.axis(arrays[0], default=0, position=None)
    for other, operand in zip(arrays[1:], call.operands[1:], strict=True):
        left, right = list(arrays[0].shape), list(other.shape)
        if len(left) != len(right) or left[:axis] + left[axis + 1 :] != right[:axis] + right[axis + 1 :]:
            raise builder.mismatch(arrays[0], other, operand.span)
    return Array(builder.emit(moe.ConcatOp.make([array.ssa for array in arrays], axis=axis)), call.span)


def _as_vector(builder: Builder, array: Array) -> Array:
    return builder.broadcast(array, [ONE])


FUNCTIONS: Final[dict[str, Row]] = {
    "abs": Row(_abs, 1, 1),
    "exp": _unary(math.ExpOp),
    "log": _unary(math.LogOp),
    "sqrt": _unary(math.SqrtOp),
    "rsqrt": _unary(math.RsqrtOp),
    "tanh": _unary(math.TanhOp),
    "erf": _unary(math.ErfOp),
    "sin": _unary(math.SinOp),
    "cos": _unary(math.CosOp),
    "floor": Row(_floor, 1, 1),
    "sum": Row(lambda call: _reduce(call, "sum"), 1, 2, ("axis",)),
    "min": _extremum("min", arith.MinimumfOp, arith.MinSIOp),
    "max": _extremum("max", arith.MaximumfOp, arith.MaxSIOp),
    "cumsum": Row(_batch, 1, 2, ("axis",)),
    "previous": Row(_batch, 1, 2, ("axis",)),
    "rank": Row(_batch, 1, 2, ("axis",)),
    "argmax": Row(_argmax, 1, 1),
    "size": Row(_size, 1, 2, ("axis",)),
    "top": Row(_top, 2, 2),
    "topk": Row(_topk, 2, 2),
    "where": Row(_where, 1, 1),
    "given": Row(_given, 2, 2),
    "cross": Row(_cross, 2, 2),
    "slot": Row(_slot, 1, 1),
    "ids": Row(_ids, 1, 1),
    "mask": Row(_mask, 3, 3),
    "concat": Row(_concat, 1, 65, ("axis",)),
    "flatten": Row(_flatten, 1, 1),
    **{name: _cast(name) for name in ("real", "f32", "bf16", "f16")},
}
