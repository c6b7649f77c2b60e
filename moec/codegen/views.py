"""Arrays in memory as strided views, and how to read, write and walk them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from moec.codegen.llvm import SIZES, Emitter, Value


@dataclass(frozen=True)
class View:
    """`shape` elements of `dtype` from `pointer`, `strides` elements apart along each axis; 0 repeats.

    What is stored into one that is `passing` goes past the caches: whole lines that nobody reads soon.
    """

    pointer: Value
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    passing: bool = False

    @staticmethod
    def dense(pointer: Value, dtype: str, shape: Sequence[int]) -> View:
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return View(pointer, dtype, tuple(shape), strides)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def repeated(self) -> bool:
        """Whether every element is the same one."""
        return all(stride == 0 or size == 1 for size, stride in zip(self.shape, self.strides, strict=True))

    def moved(self, e: Emitter, offset: Value | int) -> Value:
        """The address of an element, counted in elements."""
        return e.at(self.pointer, offset, SIZES[self.dtype])

    def part(self, e: Emitter, index: Value | int) -> View:
        """The part at one index of the first axis."""
        stride = self.strides[0]
        offset = index * stride if isinstance(index, int) else e.b.mul(index, e.size(stride))
        return replace(self, pointer=self.moved(e, offset), shape=self.shape[1:], strides=self.strides[1:])

    def slice(self, e: Emitter, axis: int, offset: int, size: int, step: int) -> View:
        shape, strides = list(self.shape), list(self.strides)
        pointer = self.moved(e, offset * strides[axis])
        shape[axis], strides[axis] = size, strides[axis] * step
        return View(pointer, self.dtype, tuple(shape), tuple(strides))

    def transposed(self) -> View:
        *shape, rows, columns = self.shape
        *strides, outer, inner = self.strides
        return View(self.pointer, self.dtype, (*shape, columns, rows), (*strides, inner, outer))

    def strides_as(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """The strides of another shape of the same memory; None where elements do not lie evenly enough for it."""
        if self.repeated or not self.size:
            return (0,) * len(shape)
        runs: list[tuple[int, int]] = []  # sizes and strides, without axes of one element, of as few axes as can be
        for size, stride in zip(self.shape, self.strides, strict=True):
            if size > 1:
                size *= runs.pop()[0] if runs and runs[-1][1] == size * stride else 1
                runs.append((size, stride))
        strides, left, apart = list[int](), 1, 1
        for size in reversed(shape):
            if left == 1 and size > 1:
                left, apart = runs.pop()
            if left % size:
                return None
            strides.append(apart)
            left, apart = left // size, apart * size
        return tuple(reversed(strides))

    def reshaped(self, shape: Sequence[int]) -> View:
        """Another shape of the same memory, which has to have strides."""
        strides = self.strides_as(shape)
        assert strides is not None
        return replace(self, shape=tuple(shape), strides=strides)

    def repeat(self, shape: Sequence[int]) -> View:
        """The leading axes of `shape` as they are, the others repeated."""
        extra = len(shape) - len(self.shape)
        return replace(self, shape=tuple(shape), strides=(*self.strides, *(0,) * extra))

    def load(self, e: Emitter, flat: Value | int = 0, width: int = 0) -> Value:
        """Elements of a contiguous or repeated view, or of the last axis of one whose last stride is 0 or 1."""
        if self.repeated and self.shape:
            return e.splat(e.load(self.pointer, self.dtype), width)
        return e.load(self.moved(e, flat), self.dtype, width)

    def store(self, e: Emitter, value: Value, flat: Value | int = 0) -> None:
        """A scalar or consecutive elements into a contiguous view."""
        e.store(value, self.moved(e, flat), self.dtype, passing=self.passing)


Step = Callable[[Sequence[View], "Value | int", int], None]


def walk(e: Emitter, views: Sequence[View], step: Step) -> None:
    """Calls `step(rows, at, width)` until every element of views of one shape is visited, in vectors where it can.

    `rows` are flat views; `at` is the offset of `width` consecutive elements in each (0: one element).
    """
    if all(view.contiguous or view.repeated for view in views):
        size = views[0].size
        _run(e, [view.reshaped((size,)) for view in views], size, step)
        return
    first, *inner = views[0].shape
    if inner:
        e.loop(0, first, lambda i: walk(e, [view.part(e, i) for view in views], step))
        return
    if all(view.strides[0] in (0, 1) for view in views):
        _run(e, views, first, step)
        return

    def single(i: Value) -> None:
        step([View(view.part(e, i).pointer, view.dtype, (1,), (1,)) for view in views], 0, 0)

    e.loop(0, first, single)


def _run(e: Emitter, views: Sequence[View], size: int, step: Step) -> None:
    """Whole vectors, then what remains as one shorter vector."""
    lanes = e.lanes
    whole = size - size % lanes
    if whole == lanes:
        step(views, 0, lanes)
    else:
        e.loop(0, whole, lambda i: step(views, i, lanes), step=lanes)
    if size % lanes == 1:
        step(views, whole, 0)
    elif size % lanes:
        step(views, whole, size % lanes)


def copy(e: Emitter, source: View, to: View) -> None:
    """The elements of one view into another of the same type."""

    def step(views: Sequence[View], at: Value | int, width: int) -> None:
        views[1].store(e, views[0].load(e, at, width), at)

    walk(e, [source, to], step)


def copy_part(e: Emitter, source: View, to: View) -> None:
    """A part of an array, which may be a scalar."""
    if source.shape:
        copy(e, source, to)
    else:
        e.store(e.load(source.pointer, source.dtype), to.pointer, to.dtype)


def put(e: Emitter, value: Any, to: View) -> None:
    """A scalar or an array into memory, unless it is there already."""
    if isinstance(value, View):
        if value.pointer is not to.pointer:
            copy(e, value, to)
    else:
        e.store(value, to.pointer, to.dtype)


def zero(e: Emitter, view: View) -> None:
    """Every element of a contiguous view becomes zero, or false."""
    assert view.contiguous
    e.fill(view.pointer, view.size * SIZES[view.dtype])
