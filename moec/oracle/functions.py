"""The functions and the operators of the language on values: two tables, `FUNCTIONS` and `OPERATORS`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any
from typing import cast as typed

import numpy as np

from moec.dtypes import BF16, BOOL, F16, F32, I64, DType
from moec.oracle.values import (
    Array,
    Builtin,
    Constant,
    Data,
    Fault,
    Origin,
    Selection,
    Value,
    array,
    cast,
    common,
    common_axes,
    constant,
    integer,
    is_integer,
    join,
    kind,
    lift,
    pointwise,
    real_number,
    rounded,
)

Function = Callable[..., Any]

# ── arithmetic ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _exactly(function: Function, *values: Any) -> Constant:
    """An operator on compile-time numbers."""
    try:
        result = function(*values)
    except ZeroDivisionError:
        raise Fault("E0204", "division by zero") from None
    except OverflowError:
        return math.inf
    if isinstance(result, complex):
        raise Fault("E0204", "a root of a negative number")
    return Fraction(result) if isinstance(result, int) and not isinstance(result, bool) else result


def _arithmetic(exactly: Function, integers: Function, floats: Function) -> Callable[[Value, Value], Value]:
    """An operator on two numbers: exact, on integers, or on floating values."""

    def apply(left: Value, right: Value) -> Value:
        if constant(left) and constant(right):
            return _exactly(exactly, left, right)
        numbers(left, right)
        if is_integer(left) and is_integer(right):
            if integers in (_quotient, _remainder) and constant(right) and not integer(right):
                raise Fault("E0202", "division by zero")
            return pointwise(integers, I64, _whole(left), _whole(right))
        return pointwise(floats, F32, left, right)

    return apply


def _whole(value: Value) -> Array:
    return value if isinstance(value, Array) else array(integer(value), I64)


def _divide(left: Any, right: Any) -> Any:
    return left / right


def _quotient(left: Data, right: Data) -> Data:
    """Rounded down; an integer divided by zero is 0."""
    return np.where(right == 0, 0, np.floor_divide(left, np.where(right == 0, 1, right)))


def _remainder(left: Data, right: Data) -> Data:
    return left - _quotient(left, right) * right


def _raise(left: Any, right: Any) -> Any:
    return left**right


def numbers(*values: Value) -> None:
    for value in values:
        if lift(value).dtype is BOOL:
            raise Fault("E0204", "expected a number, found a `bool`")


def _modulo(left: Fraction, right: Fraction) -> Fraction:
    return Fraction(integer(left) % integer(right))


def _no_modulo(left: Data, right: Data) -> Data:
    raise Fault("E0204", "`%` takes integers only")


def _rsqrt(data: Data) -> Data:
    return 1 / np.sqrt(data)


#: Powers that are roots, also of -0 and -inf.
_ROOTS: dict[Fraction, Function] = {Fraction(1, 2): np.sqrt, Fraction(-1, 2): _rsqrt}


def _power(left: Value, right: Value) -> Value:
    if constant(left) and constant(right):
        small = abs(typed(Any, right)) < 4096  # a larger power is not worth its digits
        return _exactly(_raise, left if small else real_number(typed(Any, left)), right)
    numbers(left, right)
    root = _ROOTS.get(right) if isinstance(right, Fraction) else None
    if root is not None:
        return pointwise(root, F32, cast(left, F32))
    return pointwise(np.power, F32, *(cast(value, F32) for value in (left, right)))


def _comparison(function: Function) -> Callable[..., Value]:
    def apply(left: Value, right: Value) -> Value:
        if constant(left) and constant(right):
            return bool(function(left, right))
        if function not in (operator.eq, operator.ne):
            numbers(left, right)
        join([left, right])
        return pointwise(function, BOOL, left, right)

    return apply


def _logic(function: Function) -> Callable[..., Value]:
    def apply(left: Value, right: Value) -> Value:
        operands = (truth(left), truth(right))
        if constant(left) and constant(right):
            return bool(function(left, right))
        return pointwise(function, BOOL, *operands)

    return apply


def truth(value: Value) -> Array:
    if lift(value).dtype is not BOOL:
        raise Fault("E0204", f"expected a `bool`, found {kind(value)}")
    return lift(value)


def negate(value: Value) -> Value:
    if constant(value):
        return _exactly(operator.neg, value)
    numbers(value)
    return pointwise(np.negative, I64 if is_integer(value) else F32, value, exact=True)


def invert(value: Value) -> Value:
    return not value if isinstance(value, bool) else pointwise(np.logical_not, BOOL, truth(value))


def contract(left: Value, right: Value, block: int = 0) -> Array:
    """`W @ v`: v enters in W's precision, then perhaps `quantized` in blocks; empty slots of the contracted axis add
    nothing."""
    matrix, vector = lift(left), lift(right)
    if not matrix.dtype.floating or vector.dtype is BOOL:
        raise Fault("E0204", f"cannot contract {kind(left)} with {kind(right)}")
    if len(vector.shape) != 1 or matrix.shape[-1:] != vector.shape:
        raise Fault("E0201", f"shapes do not fit: {list(matrix.shape)} @ {list(vector.shape)}")
    axis = common((matrix.axes[-1], vector.axes[0]))
    data, weights = rounded(vector.data.astype(np.float64), matrix.dtype), matrix.data
    if axis is not None and not axis.filled.all():
        data, weights = data[axis.filled], weights[..., axis.filled]
    return array(weights @ (quantized(data, block) if block else data), F32, matrix.axes[:-1])


def quantized(data: Data, length: int) -> Data:
    """What is left of a vector in blocks of some elements: integers of -127 .. 127, times the largest magnitude ÷ 127,
    as docs/formats.md says. Rounded as f32 rounds."""
    parts: list[Data] = []
    for block in np.split(data.astype(np.float32), range(length, len(data), length)):
        most = np.abs(block).max()
        if not np.isfinite(most):
            parts.append(np.full(block.shape, np.nan))
        elif most < 2.0**-100:
            parts.append(np.zeros(block.shape))
        else:
            integers = np.rint(block * (np.float32(127) / most))
            parts.append(integers.astype(np.float64) * float(most * np.float32(1 / 127)))
    return np.concatenate(parts)


def contains(left: Value, right: Value) -> Value:
    selection = select(right)
    if constant(left) and selection.plain:
        return integer(left) in selection.indices
    index = _whole(left)
    if not index.integer:
        raise Fault("E0204", f"expected an index, found {kind(left)}")
    return array(np.isin(index.data, selection.indices[selection.filled]), BOOL, index.axes)


OPERATORS: dict[str, Callable[[Any, Any], Value]] = {
    "+": _arithmetic(operator.add, np.add, np.add),
    "-": _arithmetic(operator.sub, np.subtract, np.subtract),
    "*": _arithmetic(operator.mul, np.multiply, np.multiply),
    "/": _arithmetic(_divide, _quotient, np.divide),
    "%": _arithmetic(_modulo, _remainder, _no_modulo),
    "**": _power,
    "@": contract,
    "<": _comparison(operator.lt),
    "<=": _comparison(operator.le),
    ">": _comparison(operator.gt),
    ">=": _comparison(operator.ge),
    "==": _comparison(operator.eq),
    "!=": _comparison(operator.ne),
    "and": _logic(np.logical_and),
    "or": _logic(np.logical_or),
    "in": contains,
}
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def comparison_margin(left: Value, right: Value) -> float:
    """How far two values are from comparing otherwise, relative to the largest magnitude among them; of two scalars, to
    1 where they are smaller."""
    operands = [lift(left), lift(right)]
    if all(operand.exact for operand in operands):
        return math.inf
    a, b = np.broadcast_arrays(*(operand.data.astype(np.float64) for operand in operands))
    used = array(np.ones(a.shape), F32, common_axes(operands)).filling(0) > 0
    return closeness(a[used], b[used], 1 if not a.shape else 0)


def closeness(a: Data, b: Data, scale: float = 0) -> float:
    """The least distance between the elements of two arrays, relative to the largest finite magnitude."""
    finite = np.isfinite(a) & np.isfinite(b)
    magnitudes = np.abs(np.concatenate([a[np.isfinite(a)], b[np.isfinite(b)]]))
    scale = float(np.max(magnitudes, initial=scale))
    return float(np.min(np.abs(a - b)[finite], initial=math.inf)) / (scale or 1)


# ── pointwise functions ───────────────────────────────────────────────────────────────────────────────────────────────

_erf = np.frompyfunc(math.erf, 1, 1)


def _function(function: Callable[[Any], Any]) -> Callable[[Value], Value]:
    def apply(v: Value) -> Value:
        if constant(v):
            return float(function(real_number(typed(Any, v))))
        numbers(v)
        return pointwise(function, F32, cast(v, F32))

    return apply


def absolute(v: Value) -> Value:
    if constant(v):
        return _exactly(abs, v)
    numbers(v)
    return pointwise(np.abs, I64 if is_integer(v) else F32, v, exact=True)


def floor(v: Value) -> Value:
    """Rounded down, of integers themselves. The result is exact, since rounding is a decision with a margin."""
    numbers(v)
    if isinstance(v, Fraction | float):
        return v if isinstance(v, float) and not math.isfinite(v) else Fraction(math.floor(v))
    return v if is_integer(v) else replace(pointwise(np.floor, F32, cast(v, F32)), exact=True)


def floor_margin(v: Value) -> float:
    """How far a value is from one that `floor` rounds to another integer, relative as in `comparison_margin`."""
    if constant(v):
        return math.inf
    operand = lift(v)
    return comparison_margin(operand, replace(operand, data=np.rint(operand.data)))


def _extreme(exactly: Function, two: Function, reduction: Function, nothing: float) -> Callable[..., Value]:
    """`min` and `max`: of two values pointwise, of one over an axis."""

    def apply(a: Value, b: Value | None = None, *, axis: Value | None = None) -> Value:
        if b is None:
            return reduce(a, Fraction(-1) if axis is None else axis, reduction, nothing)
        if axis is not None:
            raise Fault("E0104", "an axis goes with one argument")
        if constant(a) and constant(b):
            return next((value for value in (a, b) if value != value), exactly(a, b))
        numbers(a, b)
        return pointwise(two, I64 if is_integer(a) and is_integer(b) else F32, a, b, exact=True)

    return apply


# ── over an axis ──────────────────────────────────────────────────────────────────────────────────────────────────────


def axis_of(v: Array, axis: Value) -> int:
    number = integer(axis)
    if not -len(v.shape) <= number < len(v.shape):
        raise Fault("E0207", f"{kind(v)} has no axis {number}")
    return number % len(v.shape)


def reduce(value: Value, axis: Value, function: Function, nothing: float) -> Array:
    """A reduction that ignores empty slots; over no slots at all it gives `nothing`."""
    v = lift(value)
    numbers(v)
    number = axis_of(v, axis)
    along = v.axes[number]
    data = v.data if along is None else np.compress(along.filled, v.data, axis=number)
    reduced = function(data, axis=number, initial=_within(v, nothing))
    exact = v.exact and function is not np.sum
    return array(reduced, I64 if v.integer else F32, v.axes[:number] + v.axes[number + 1 :], exact)


def _within(v: Array, limit: float) -> float:
    """Infinity as an element of an array: of integers it is their end."""
    limits = np.iinfo(np.int64)
    return int(min(max(limit, limits.min), limits.max)) if v.integer else limit


def total(v: Value, axis: Value = Fraction(-1)) -> Value:
    return reduce(v, axis, np.sum, 0)


def size(v: Value, axis: Value = Fraction(-1)) -> Value:
    operand = lift(v)
    return Fraction(operand.shape[axis_of(operand, axis)])


def top(v: Value, n: Value) -> Value:
    operand = lift(v)
    numbers(operand)
    axis_of(operand, Fraction(-1))
    count = _count(n, operand.shape[-1])
    along = operand.axes[-1]
    empty = np.zeros(operand.shape[-1], bool) if along is None else ~along.filled
    values = np.where(empty, _within(operand, -math.inf), operand.data) if empty.any() else operand.data
    chosen = np.take_along_axis(values, falling(values, empty)[..., :count], axis=-1)
    return array(chosen, operand.dtype, (*operand.axes[:-1], None), operand.exact)


def _count(n: Value, available: int) -> int:
    count = integer(n)
    if not 0 <= count <= available:
        raise Fault("E0203", f"cannot choose {count} of {available}")
    return count


# ── selections ────────────────────────────────────────────────────────────────────────────────────────────────────────


def vector(v: Value) -> Array:
    operand = lift(v)
    if len(operand.shape) != 1:
        raise Fault("E0201", f"expected a vector, found {kind(v)}")
    return operand


def select(value: Value) -> Selection:
    """A value where a selection is needed: an `argmax` is the selection of that one."""
    if isinstance(value, Array) and value.origin is not None and not value.origin.bound:
        return value.origin.selection
    if not isinstance(value, Selection):
        raise Fault("E0204", f"expected a selection, found {kind(value)}")
    return value


def topk(v: Value, K: Value) -> Selection:
    """The K largest: NaN before everything, ties to the lower slot, empty slots never."""
    operand = vector(v)
    numbers(operand)
    count, along = _count(K, len(operand.data)), operand.axes[0]
    empty = np.zeros(len(operand.data), bool) if along is None else ~along.filled
    order = falling(operand.data, empty)[: len(empty) - int(empty.sum())]
    margin = math.inf if operand.exact else _gap(operand.data[order], count)
    return _among(along, len(empty), order[:count], count, margin)


def falling(data: Data, empty: Data) -> Data:
    """The places of the last axis from the largest to the smallest; NaN is the largest, empty slots come last."""
    values = np.where(np.isnan(data), 0, data)
    rising = -values if np.issubdtype(data.dtype, np.floating) else ~values  # the least integer has no negative
    return np.lexsort((rising, ~np.isnan(data), np.broadcast_to(empty, data.shape)), axis=-1)


def _gap(values: Data, count: int) -> float:
    """The least distance between neighbours among the first `count` and the next."""
    high, low = values[:-1][:count], values[1:][:count]
    scale = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    return closeness(high, low, float(scale))


def _among(along: Selection | None, length: int, chosen: Data, slots: int, margin: float = math.inf) -> Selection:
    """The selection of the chosen places of an axis: of its slots where it is restricted, else of its elements."""
    spots, filled = np.zeros(slots, np.int64), np.arange(slots) < len(chosen)
    spots[: len(chosen)] = chosen
    if along is None:
        return Selection(spots, filled, length, margin=margin)
    return Selection(along.indices[spots], filled, along.domain, along, spots, margin=margin)


def argmax(v: Value) -> Array:
    selection = topk(v, Fraction(1))
    index = selection.indices[0] if selection.filled[0] else selection.domain
    return replace(array(index, I64), origin=Origin(selection, 0, bound=False))


def where(pred: Value) -> Selection:
    operand = truth(vector(pred))
    along = operand.axes[0]
    holds = operand.data if along is None else operand.data & along.filled
    return _among(along, len(holds), np.flatnonzero(holds), len(holds))


def given(ids: Value, n: Value) -> Selection:
    operand, domain = vector(ids), integer(n)
    if not operand.integer:
        raise Fault("E0204", f"expected indices, found {kind(ids)}")
    filled = (operand.data >= 0) & (operand.data < domain)
    if operand.axes[0] is not None:
        filled = filled & operand.axes[0].filled
    return Selection(operand.data, filled, domain)


def cross(a: Value, b: Value) -> Selection:
    outer, inner = select(a), select(b)
    indices = outer.indices[:, None] * inner.domain + inner.indices[None]
    filled = outer.filled[:, None] & inner.filled[None]
    return Selection(indices.ravel(), filled.ravel(), outer.domain * inner.domain)


def listed(values: list[Value]) -> Selection:
    """`{i, j}`: in the domain that their indices came from, or else as far as the largest constant."""
    indices, filled, domain = list[int](), list[bool](), 0
    for value in values:
        if isinstance(value, Array):
            if not value.integer or value.shape:
                raise Fault("E0204", f"expected an index, found {kind(value)}")
            index, origin = int(value.data), value.origin
            filled.append(origin is None or bool(origin.selection.filled[origin.slot]))
            domain = max(domain, origin.selection.domain if origin else index + 1)
        else:
            index = integer(value)
            if index < 0:
                raise Fault("E0205", f"the index {index} lies outside every domain `0..n`")
            filled.append(True)
            domain = max(domain, index + 1)
        indices.append(index)
    return Selection(np.array(indices, np.int64), np.array(filled), domain)


def interval(low: Value, high: Value) -> Selection:
    start, stop = integer(low), integer(high)
    if not 0 <= start <= stop:
        raise Fault("E0203", f"the range {start}..{stop} is not rising from 0")
    indices = np.arange(start, stop)
    return Selection(indices, np.ones(len(indices), bool), stop, plain=True)


def slot(e: Value) -> Array:
    if not isinstance(e, Array) or e.origin is None or not e.origin.bound:
        raise Fault("E0204", "`slot` takes the name that a `sum` or an `each` binds")
    return array(e.origin.slot, I64)


def ids(s: Value) -> Array:
    selection = select(s)
    return array(np.where(selection.filled, selection.indices, selection.domain), I64)


# ── axis algebra ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mask(v: Value, keep: Value, fill: Value) -> Array:
    operand, other = lift(v), lift(fill)
    numbers(operand, other)
    if isinstance(keep, bool) or (isinstance(keep, Array) and keep.dtype is BOOL):
        kept = lift(keep)
    else:
        length, along = operand.shape[axis_of(operand, Fraction(0))], operand.axes[0]
        if along is None and (domain := select(keep).domain) != length:
            raise Fault("E0201", f"cannot mask {list(operand.shape)} by a selection of 0..{domain}")
        indices = np.arange(length) if along is None else along.indices
        kept = typed(Array, contains(array(indices, I64), keep))
    if operand.shape[: len(kept.shape)] != kept.shape or other.shape not in ((), operand.shape):
        raise Fault("E0201", f"cannot mask {list(operand.shape)} by {list(kept.shape)} with {list(other.shape)}")
    trailing = (1,) * (len(operand.shape) - len(kept.shape))
    data = np.where(kept.data.reshape(kept.shape + trailing), operand.data, other.data)
    nones = (None,) * len(operand.shape)
    axes = tuple(map(common, zip(operand.axes, kept.axes + nones, other.axes + nones, strict=False)))
    integral, narrow = operand.integer and is_integer(fill), constant(fill) and not operand.integer
    dtype = I64 if integral else operand.dtype if narrow else F32
    return array(rounded(data, dtype), dtype, axes, operand.exact and other.exact)


def concat(*values: Value, axis: Value = Fraction(0)) -> Array:
    arrays = [lift(value).plain() for value in values]
    arrays = [replace(v, data=np.atleast_1d(v.data)) for v in arrays]
    if not arrays:
        raise Fault("E0104", "`concat` takes at least one array")
    ranks = {v.data.ndim for v in arrays}
    number = integer(axis)
    if len(ranks) > 1 or not -min(ranks) <= number < min(ranks):
        raise Fault("E0207", f"cannot join {', '.join(map(kind, arrays))} along axis {number}")
    if len({v.shape[: number % min(ranks)] + v.shape[number % min(ranks) + 1 :] for v in arrays}) > 1:
        raise Fault("E0201", f"shapes do not fit: {', '.join(map(kind, arrays))}")
    joined = np.concatenate([v.data for v in arrays], axis=number)
    return array(joined, join(list(values)), exact=all(v.exact for v in arrays))


def flatten(v: Value) -> Array:
    return reshape(v, [None])


def reshape(value: Value, shape: list[int | None]) -> Array:
    """`split v as [G, _]`; None stands for the length that is computed."""
    operand = lift(value).plain()
    known = math.prod(length for length in shape if length is not None)
    unknown = shape.count(None)
    if unknown > 1 or not known or operand.data.size % known or (not unknown and operand.data.size != known):
        wanted = ", ".join("_" if length is None else str(length) for length in shape)
        raise Fault("E0202" if unknown else "E0201", f"{kind(value)} does not split as [{wanted}]")
    data = operand.data.reshape([-1 if length is None else length for length in shape])
    return array(data, operand.dtype, exact=operand.exact)


def transpose(value: Value) -> Array:
    operand = lift(value).plain()
    if len(operand.shape) < 2:
        raise Fault("E0207", f"{kind(value)} has no two axes to exchange")
    return array(np.swapaxes(operand.data, -1, -2), operand.dtype, exact=operand.exact)


def casting(dtype: DType) -> Callable[[Value], Value]:
    return lambda v: cast(v, dtype)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "abs": absolute,
    "exp": _function(np.exp),
    "log": _function(np.log),
    "sqrt": _function(np.sqrt),
    "rsqrt": _function(_rsqrt),
    "tanh": _function(np.tanh),
    "erf": _function(_erf),
    "sin": _function(np.sin),
    "cos": _function(np.cos),
    "floor": floor,
    "min": _extreme(min, np.minimum, np.min, math.inf),
    "max": _extreme(max, np.maximum, np.max, -math.inf),
    "sum": total,
    "argmax": argmax,
    "size": size,
    "top": top,
    "topk": topk,
    "where": where,
    "given": given,
    "cross": cross,
    "slot": slot,
    "ids": ids,
    "mask": mask,
    "concat": concat,
    "flatten": flatten,
    "f32": casting(F32),
    "bf16": casting(BF16),
    "f16": casting(F16),
}


def names(real: DType) -> dict[str, Any]:
    """What every text sees before it defines anything; `real` is the working precision."""
    functions = {**FUNCTIONS, "real": casting(real)}
    return {name: Builtin(name, function) for name, function in functions.items()} | {"inf": math.inf, "pi": math.pi}
