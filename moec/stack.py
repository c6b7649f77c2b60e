"""Arrays along a first axis, each read when it is asked for: the experts of a checkpoint that would not fit twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Data: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False, slots=True)
class Stack:
    """Arrays of one shape along a new first axis, each read when it is asked for; `np.asarray` reads them all.

    `called` is what errors call them, with `{e}` for an array's number; what has a name lies in a file, and may be read
    more than once. `scan` looks at what is quantised and might be no number before anything is read (see `Blocks`).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], Data]
    called: str = ""
    scan: Callable[[], Iterator[int]] | None = None

    @staticmethod
    def of(array: Any) -> Stack:
        """Anything with `shape`, `dtype` and `[i]`."""
        return Stack(tuple(array.shape), np.dtype(array.dtype), array.__getitem__)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Data:
        return self.read(range(len(self))[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Data:
        data = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for index in range(len(self)):
            data[index] = self.read(index)
        return data

    def map(self, function: Callable[[Data], Data]) -> Stack:
        """The stack of `function` of each array."""
        first = function(self.read(0))
        read: Callable[[int], Data] = lambda index: function(self.read(index))  # noqa: E731
        return Stack((len(self), *first.shape), first.dtype, read, self.called, self.scan)

    def part(self, indices: range) -> Stack:
        """The stack of some of the arrays."""
        shape = (len(indices), *self.shape[1:])
        return Stack(shape, self.dtype, lambda index: self.read(indices[index]), scan=self.scan)
