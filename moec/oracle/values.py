"""What an expression of the language can be, as the oracle sees it, and how two of them combine.

Numbers are float64 throughout; `dtype` only says how a value would be rounded where the language rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from moec.dtypes import BF16, BOOL, F16, F32, I64, DType
from moec.language import syntax

Data = NDArray[Any]
Constant = Fraction | float | bool

#: What holds the data of the element types that are not float64 here.
STORAGE: dict[DType, Any] = {I64: np.int64, BOOL: np.bool_}


class Fault(Exception):
    """A mistake that a value reveals; the interpreter adds the place in the text and raises `CompileError`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """A list of slots, each with an index of the domain `0..domain`, or empty.

    A selection among the slots of another one remembers it as `parent`, and its own places in it as `slots`. `plain`
    marks a range `a..b`, which restricts nothing. `margin` is how far the choice is from a different one, relative to
    the largest magnitude that was compared.
    """

    indices: Data  # i64[slots]
    filled: Data  # bool[slots]
    domain: int
    parent: Selection | None = None
    slots: Data | None = None  # i64[slots]
    plain: bool = False
    margin: float = float("inf")

    def __len__(self) -> int:
        return len(self.indices)

    def within(self, axis: Selection | None) -> Data | None:
        """The slot of `axis` in which each slot stands, if this selection is that one or was chosen from it."""
        spots, selection = np.arange(len(self)), self
        while selection is not axis:
            if selection.parent is None or selection.slots is None:
                return None
            spots, selection = selection.slots[spots], selection.parent
        return spots

    def same(self, other: Selection) -> bool:
        return self is other or (
            self.domain == other.domain
            and np.array_equal(self.filled, other.filled)
            and np.array_equal(self.indices[self.filled], other.indices[other.filled])
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an index came from: a slot of a selection. `bound` tells the `e` of `sum e in s` from an `argmax`."""

    selection: Selection
    slot: int
    bound: bool


@dataclass(frozen=True, eq=False, slots=True)
class Array:
    """A value of a shape: float64, int64 or bool data, the element type it stands for, and for each axis the selection
    that it is restricted to. An index is an i64 scalar.

    `exact` says that float32 would hold the very same numbers, so that comparing them is never a matter of rounding.
    """

    data: Data
    dtype: DType
    axes: tuple[Selection | None, ...]
    origin: Origin | None = None
    exact: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def integer(self) -> bool:
        return self.dtype is I64

    def filling(self, fill: float) -> Data:
        """The data with `fill` in the empty slots."""
        data = self.data
        for axis, selection in enumerate(self.axes):
            if selection is not None and not selection.filled.all():
                shape = [-1 if other == axis else 1 for other in range(data.ndim)]
                data = np.where(selection.filled.reshape(shape), data, fill)
        return data

    def on(self, axis: int, data: Data, selection: Selection | None) -> Array:
        """Other data, with an axis restricted to another selection."""
        axes = (*self.axes[:axis], selection, *self.axes[axis + 1 :])
        return Array(data, self.dtype, axes, exact=self.exact)

    def plain(self) -> Array:
        """The same as an ordinary array: empty slots show as 0."""
        return array(self.filling(0).astype(self.data.dtype), self.dtype, exact=self.exact)


@dataclass(frozen=True, eq=False, slots=True)
class Closure:
    """A function of the text with the names that it sees."""

    node: syntax.Function
    scope: Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Builtin:
    """A function of the language."""

    name: str
    call: Callable[..., Any]


Value = Fraction | float | Array | Selection | Closure | Builtin


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def array(data: Any, dtype: DType, axes: tuple[Selection | None, ...] | None = None, exact: bool = False) -> Array:
    data = np.asarray(data, STORAGE.get(dtype, np.float64))
    return Array(data, dtype, (None,) * data.ndim if axes is None else axes, exact=exact or not dtype.floating)


def lift(value: Value) -> Array:
    """A value as an array; compile-time numbers become f32 scalars."""
    match value:
        case Array():
            return value
        case bool():
            return array(value, BOOL)
        case Fraction() | float():
            number = real_number(value)
            return array(number, F32, exact=bool(np.float32(number) == number))
        case _:
            raise Fault("E0204", f"expected an array, found {kind(value)}")


def constant(value: object) -> bool:
    return isinstance(value, Fraction | float | bool)


def is_integer(value: Value) -> bool:
    """Whether a value takes part in integer arithmetic."""
    return value.integer if isinstance(value, Array) else isinstance(value, Fraction) and value.denominator == 1


def kind(value: object) -> str:
    match value:
        case Array():
            return "an index" if value.integer and not value.shape else f"{value.dtype}{list(value.shape)}"
        case Selection():
            return "a selection"
        case Closure() | Builtin():
            return "a function"
        case tuple():
            return "several results"
        case _:
            return "a compile-time number"


def integer(value: Value) -> int:
    """A compile-time integer."""
    if isinstance(value, bool) or not isinstance(value, Fraction | float):
        raise Fault("E0204", f"expected a compile-time integer, found {kind(value)}")
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise Fault("E0202", f"expected an integer, found {value}")
    return int(value)


def real_number(value: Fraction | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def join(values: Sequence[Value]) -> DType:
    """The element type of values that become one: their own where they are alike, f32 otherwise. Compile-time integers
    go along with indices."""
    dtypes = {value.dtype for value in values if isinstance(value, Array)}
    numbers = [value for value in values if constant(value)]
    if numbers and not (dtypes == {I64} and all(map(is_integer, numbers))):
        dtypes |= {lift(value).dtype for value in numbers}
    if BOOL in dtypes and len(dtypes) > 1:
        raise Fault("E0204", "a `bool` does not mix with numbers")
    return dtypes.pop() if len(dtypes) == 1 else F32


def common_axes(arrays: list[Array]) -> tuple[Selection | None, ...]:
    """The shape's restrictions after working slot by slot: equal shapes, or scalars."""
    shaped = [operand for operand in arrays if operand.shape]
    if len({operand.shape for operand in shaped}) > 1:
        raise Fault("E0201", "shapes do not fit: " + ", ".join(str(list(operand.shape)) for operand in shaped))
    return tuple(map(common, zip(*(operand.axes for operand in shaped), strict=True)))


def common(selections: tuple[Selection | None, ...]) -> Selection | None:
    found = [selection for selection in selections if selection is not None]
    if any(not selection.same(found[0]) for selection in found):
        raise Fault("E0204", "the operands are restricted to different selections")
    return found[0] if found else None


def pointwise(function: Callable[..., Any], dtype: DType, *values: Value, exact: bool = False) -> Array:
    arrays = [lift(value) for value in values]
    axes = common_axes(arrays)
    exact = exact and all(operand.exact for operand in arrays)
    return array(function(*(operand.data for operand in arrays)), dtype, axes, exact)


# ── rounding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def rounded(data: Data, dtype: DType) -> Data:
    """float64 rounded once, to nearest even. f32 is not modelled: float64 stands for it."""
    if dtype is BF16:
        return _odd(data).astype(ml_dtypes.bfloat16).astype(np.float64)
    return data.astype(np.float16).astype(np.float64) if dtype is F16 else data


def _odd(data: Data) -> Data:
    """float64 rounded to odd in float32, from which a second rounding is right (Boldo and Melquiond, 2008): ml_dtypes
    goes to bfloat16 by way of float32, and would round twice."""
    with np.errstate(over="ignore"):
        near = data.astype(np.float32)
    bits = near.view(np.int32)
    inexact = (near != data) & ~np.isnan(data)
    toward_zero = bits - (np.abs(near.astype(np.float64)) > np.abs(data))
    return np.where(inexact, toward_zero | 1, bits).astype(np.int32).view(np.float32)


def stored(data: Any, dtype: DType) -> Data:
    """What a weight or an input of an element type holds, as float64 (or int64, bool)."""
    data = np.asarray(data)
    if dtype in STORAGE:
        return data.astype(STORAGE[dtype])
    if dtype is BF16 and data.dtype == np.float64:
        return rounded(data, dtype)
    with np.errstate(over="ignore"):
        return data.astype(dtype.numpy).astype(np.float64)


def cast(value: Value, dtype: DType) -> Array:
    operand = lift(value)
    return replace(operand, data=rounded(operand.data.astype(np.float64), dtype), dtype=dtype, origin=None)


# ── indexing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def place(item: Fraction | float | Array, size: int, axis: Selection | None, clamp: bool) -> int:
    """Where an index stands on an axis of a length. `clamp` is for finding shapes only."""
    if not isinstance(item, Array):
        found = integer(item)
        if not -size <= found < size:
            raise Fault("E0205", f"index {found} lies outside an axis of length {size}")
        return found % size
    if not item.integer or item.shape:
        raise Fault("E0204", f"expected an index, found {kind(item)}")
    origin = item.origin
    spots = origin.selection.within(axis) if origin else None
    found = int(item.data) if origin is None or spots is None else int(spots[origin.slot])
    if clamp:
        return min(max(found, 0), size - 1)
    if origin is not None and not origin.selection.filled[origin.slot]:
        raise Fault("E0406", "the index of a selection that is empty")
    if not 0 <= found < size:
        raise Fault("E0406", f"index {found} lies outside an axis of length {size}")
    return found


def places(selection: Selection, size: int, axis: Selection | None, clamp: bool) -> Data:
    """Where the slots of a selection stand on an axis; empty slots stand anywhere."""
    spots = selection.within(axis)
    if axis is not None and spots is None:
        raise Fault("E0204", "this vector belongs to another selection")
    found = np.where(selection.filled, selection.indices if spots is None else spots, 0)
    if clamp:
        return np.clip(found, 0, size - 1)
    if not ((found >= 0) & (found < size)).all():
        raise Fault("E0406", f"a selection of 0..{selection.domain} lies outside an axis of length {size}")
    return found


def bounds(low: int | None, high: int | None, step: int, size: int) -> tuple[int, int]:
    """The ends of a slice; negative ones count from the end."""
    if step < 1:
        raise Fault("E0205", f"the step of a slice is at least 1, found {step}")
    start, stop = (0 if low is None else low), (size if high is None else high)
    start, stop = start + size * (start < 0), stop + size * (stop < 0)
    if not 0 <= start <= stop <= size:
        raise Fault("E0205", f"the slice {start}:{stop} lies outside an axis of length {size}")
    return start, stop
