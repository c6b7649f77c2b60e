"""The steps of a view: how a stack of matrices is made of a parameter, in NumPy's terms.

The compiler finds them, the runtime follows them where weights are packed. Between the two, in an interface and in a
file of packed weights, a step is a line of text: what `str` makes of it and `parse` reads.

All but `Cast` lay an array out anew (`Arrangement`). `apply` does that; it raises `ValueError` where it would have to
copy and `copy` is False. `inside` is the same step done to each of the arrays along the first axis, None where there is
no such step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Data: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Slice:
    """Every `stride`-th place of an axis, from `low` on below `high`."""

    axis: int
    low: int
    high: int
    stride: int

    def __str__(self) -> str:
        return f"slice {self.axis} {self.low} {self.high} {self.stride}"

    @property
    def places(self) -> range:
        """The places that are kept."""
        return range(self.low, self.high, self.stride)

    def apply(self, array: Data, copy: bool | None) -> Data:
        return array[(slice(None),) * self.axis + (slice(self.low, self.high, self.stride),)]

    def inside(self, shape: tuple[int, ...]) -> Slice | None:
        return Slice(self.axis - 1, self.low, self.high, self.stride) if self.axis > 0 else None


@dataclass(frozen=True, slots=True)
class Move:
    """An axis goes to another place among the axes."""

    axis: int
    place: int

    def __str__(self) -> str:
        return f"move {self.axis} {self.place}"

    def apply(self, array: Data, copy: bool | None) -> Data:
        return np.moveaxis(array, self.axis, self.place)

    def inside(self, shape: tuple[int, ...]) -> Move | None:
        return Move(self.axis - 1, self.place - 1) if min(self.axis, self.place) > 0 else None


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in the same order, with axes of other sizes."""

    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return " ".join(("reshape", *map(str, self.sizes)))

    def apply(self, array: Data, copy: bool | None) -> Data:
        return array.reshape(self.sizes, copy=copy)

    def inside(self, shape: tuple[int, ...]) -> Reshape | None:
        first, *rest = self.sizes
        return Reshape(tuple(rest)) if rest and first == shape[0] else None


@dataclass(frozen=True, slots=True)
class Transpose:
    """The last two axes trade places."""

    def __str__(self) -> str:
        return "transpose"

    def apply(self, array: Data, copy: bool | None) -> Data:
        return np.swapaxes(array, -1, -2)

    def inside(self, shape: tuple[int, ...]) -> Transpose | None:
        return self if len(shape) > 2 else None


@dataclass(frozen=True, slots=True)
class Cast:
    """The elements, rounded to another type. No element moves, so casts may be done after all other steps."""

    dtype: str

    def __str__(self) -> str:
        return f"cast {self.dtype}"


Arrangement: TypeAlias = Slice | Move | Reshape | Transpose
Step: TypeAlias = Arrangement | Cast


def parse(text: str) -> Step:
    """The step that prints as `text`. Raises `ValueError` where none does."""
    match text.split():
        case ["slice", axis, low, high, stride]:
            return Slice(int(axis), int(low), int(high), int(stride))
        case ["move", axis, place]:
            return Move(int(axis), int(place))
        case ["reshape", *sizes] if sizes:
            return Reshape(tuple(map(int, sizes)))
        case ["transpose"]:
            return Transpose()
        case ["cast", dtype]:
            return Cast(dtype)
        case _:
            raise ValueError(f"`{text}` is no step of a view")


def parse_view(texts: Iterable[str]) -> tuple[list[Arrangement], list[str]]:
    """How a view lays a parameter out, and the types that it then rounds to, one after the other."""
    steps = [parse(text) for text in texts]
    arrangements = [step for step in steps if not isinstance(step, Cast)]
    return arrangements, [step.dtype for step in steps if isinstance(step, Cast)]
