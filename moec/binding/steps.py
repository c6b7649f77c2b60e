"""The steps from a tensor to a view of it, as values: `.T`, `[…]`, `split … as […]`.

A step says what it makes of what the tensor is (`apply`), and what of the lengths of its axes, as far as formulas tell
them (`lengths`); `formulas` are the numbers that are written in it. Wherever it leaves the first axis of a `Stack`
alone it goes to the arrays, and where it keeps the rows of `Blocks` whole they stay stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from moec.binding.equations import Equations
from moec.binding.formulas import Dims, Formula
from moec.binding.tensors import Place
from moec.dims import ZERO, Dim, ceiling, product
from moec.formats.blocks import Blocks, Source, dense
from moec.stack import Data, Stack

#: The length of each axis; None where no formula says it.
Shape: TypeAlias = list[Dim | None]


@dataclass(frozen=True, slots=True)
class Transpose:
    """The last two axes exchanged, which takes rows apart."""

    place: Place

    @property
    def formulas(self) -> Sequence[Formula]:
        return ()

    def lengths(self, shape: Shape, equations: Equations) -> Shape:
        return [*shape[:-2], *reversed(shape[-2:])]

    def apply(self, value: Source, dims: Dims) -> Data | Stack:
        numbers = dense(value, self.place.param)
        if len(numbers.shape) < 2:
            raise self.place.wrong(f"{list(numbers.shape)} has no two axes to exchange")
        if isinstance(numbers, Stack) and len(numbers.shape) > 2:
            return numbers.map(lambda data: data.swapaxes(-1, -2))
        return np.asarray(numbers).swapaxes(-1, -2)


@dataclass(frozen=True, slots=True)
class Element:
    """One place of an axis, which is no axis then; a negative number counts from its end."""

    number: Formula
    place: Place

    @property
    def formulas(self) -> Sequence[Formula]:
        return (self.number,)

    def lengths(self, length: Dim | None, dims: Dims) -> Shape:
        return []

    def resolve(self, size: int, dims: Dims) -> int:
        """It in an axis of a size. Raises `CompileError` (E0405) where it lies outside."""
        index = self.number.integer(dims)
        if not -size <= index < size:
            raise self.place.wrong(f"index {index} lies outside an axis of length {size}")
        return index


@dataclass(frozen=True, slots=True)
class Stride(Formula):
    """The step of a slice, which is at least 1; `place` is the slice."""

    place: Place

    def integer(self, dims: Dims) -> int:
        step = Formula.integer(self, dims)
        if step < 1:
            raise self.place.wrong(f"the step of {self.place} is {step}, not at least 1")
        return step


@dataclass(frozen=True, slots=True)
class Slice:
    """`low:high:step` of an axis; an end that is negative counts from the axis' end."""

    low: Formula | None
    high: Formula | None
    step: Stride | None
    place: Place

    @property
    def formulas(self) -> Sequence[Formula]:
        return [each for each in (self.low, self.high, self.step) if each is not None]

    def lengths(self, length: Dim | None, dims: Dims) -> Shape:
        low = ZERO if self.low is None else _end(self.low, length, dims)
        high = length if self.high is None else _end(self.high, length, dims)
        step = 1 if self.step is None else self.step.known(dims)
        if low is None or high is None or step is None or step < 1:
            return [None]
        return [ceiling(high - low, step)]

    def resolve(self, size: int, dims: Dims) -> slice:
        """It in an axis of a size. Raises `CompileError` (E0405) where it lies outside, is empty, or does not go on."""
        ends = [None if end is None else end.integer(dims) for end in (self.low, self.high)]
        start, stop = ((end + size if end is not None and end < 0 else end) for end in ends)
        start, stop = start or 0, size if stop is None else stop
        step = 1 if self.step is None else self.step.integer(dims)
        if not 0 <= start <= stop <= size:
            raise self.place.wrong(f"{self.place} lies outside an axis of length {size}")
        if start == stop:  # no parameter has an axis of nothing
            raise self.place.wrong(f"{self.place} takes nothing of an axis of length {size}")
        return slice(start, stop, step)


def _end(end: Formula, length: Dim | None, dims: Dims) -> Dim | None:
    """An end of a slice as a formula; all terms of one that counts from the axis' end are negative."""
    dim = end.over(dims)
    if dim is None or not dim.terms or any(coefficient >= 0 for _, coefficient in dim.terms):
        return dim
    return None if length is None else length + dim


@dataclass(frozen=True, slots=True)
class Index:
    """`[items]`, one for each of the leading axes."""

    items: tuple[Element | Slice, ...]
    place: Place

    @property
    def formulas(self) -> Sequence[Formula]:
        return [formula for item in self.items for formula in item.formulas]

    def lengths(self, shape: Shape, equations: Equations) -> Shape:
        pairs = zip(self.items, shape, strict=False)
        left = [each for item, length in pairs for each in item.lengths(length, equations.dims)]
        return left + shape[len(self.items) :]

    def apply(self, value: Source, dims: Dims) -> Source:
        if len(self.items) > len(value.shape):
            raise self.place.wrong(f"{len(self.items)} items for {list(value.shape)}")
        items = tuple(item.resolve(size, dims) for item, size in zip(self.items, value.shape, strict=False))
        if isinstance(value, Blocks):
            lead, last = items[: len(value.shape) - 1], items[len(value.shape) - 1 :]
            rows = value.rows[lead]
            if last in ((), (slice(0, value.shape[-1], 1),)) and rows.ndim:
                return value.pick(rows)
            value = dense(value, self.place.param)
        if not isinstance(value, Stack):
            return np.asarray(value[items])
        first, rest = items[0], items[1:]
        if not isinstance(first, slice):
            return np.asarray(value[first][rest])
        part = value.part(range(len(value))[first])
        return part.map(lambda data: data[rest]) if rest else part


@dataclass(frozen=True, slots=True)
class Split:
    """The same elements in the same order under another shape, one length of which may be computed: None."""

    shape: tuple[Formula | None, ...]
    place: Place

    @property
    def formulas(self) -> Sequence[Formula]:
        return [length for length in self.shape if length is not None]

    def lengths(self, shape: Shape, equations: Equations) -> Shape:
        lengths = [None if length is None else length.over(equations.dims) for length in self.shape]
        old, new = ([length for length in each if length is not None] for each in (shape, lengths))
        known, blanks = product(new), self.shape.count(None)
        if len(old) < len(shape) or len(new) + blanks < len(lengths) or known == ZERO:
            return lengths
        total = product(old)
        if not blanks:
            equations.equal(total, known)
        return [total / known if length is None else length for length in lengths]

    def apply(self, value: Source, dims: Dims) -> Source:
        shape = self._resolve(value.shape, dims)
        if isinstance(value, Blocks):
            if shape[-1] == value.shape[-1] and len(shape) > 1:
                return value.pick(value.rows.reshape(shape[:-1]))
            value = dense(value, self.place.param)
        if isinstance(value, Stack) and shape[0] == len(value):
            return value.map(lambda data: data.reshape(shape[1:]))
        return np.asarray(value).reshape(shape)

    def _resolve(self, old: tuple[int, ...], dims: Dims) -> list[int]:
        """The new shape. Raises `CompileError` (E0405) where it has not as many elements."""
        lengths = [None if length is None else length.integer(dims) for length in self.shape]
        new, total = [length for length in lengths if length is not None], prod(old)
        known, blanks = prod(new), len(lengths) - len(new)
        if min(new, default=1) < 1 or blanks > 1 or total % known or (not blanks and known != total):
            shown = ", ".join("_" if length is None else str(length) for length in lengths)
            raise self.place.wrong(f"{list(old)} does not split as [{shown}]")
        return [total // known if length is None else length for length in lengths]


#: What may follow a tensor.
Step: TypeAlias = Transpose | Index | Split
