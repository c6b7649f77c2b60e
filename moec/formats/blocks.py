"""Weights that lie in a storage format somewhere else, a matrix read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moec.diagnostics import fail
from moec.formats import FORMATS
from moec.formats.layout import Coded, join_rows, wrong_scale
from moec.stack import Data, Stack


@dataclass(frozen=True, eq=False)
class Blocks:
    """A parameter of `shape` in a storage format; `read(i)` gives the matrix [n, k] at place i of the leading axes,
    counted together. Blocks run along the last axis, so views that keep rows whole are Blocks again.

    `scales(i)` gives of that matrix only the fields that might be no number, without its codes. `scan`, which blocks
    have once they are `checked`, looks at those of all matrices and tells how many bytes it has passed.
    """

    shape: tuple[int, ...]
    format: str
    read: Callable[[int], Coded]
    scales: Callable[[int], Mapping[str, NDArray[Any]]] | None = None
    scan: Callable[[], Iterator[int]] | None = None

    def checked(self, called: str) -> Blocks:
        """The same; `read` and `scan` raise `CompileError` (E0407) where a scale is no number. `called` is what that
        calls it; what has been checked before keeps its name."""
        if self.scan is not None:
            return self
        scales, layout = self.scales, FORMATS[self.format].layout

        def raise_for(index: int, wrong: str | None) -> None:
            if wrong:
                raise fail("E0407", f"{called}, matrix {index}: {wrong}")

        def read(index: int) -> Coded:
            coded = self.read(index)
            raise_for(index, coded.wrong())
            return coded

        def scan() -> Iterator[int]:
            each = int(prod(self.shape[-2:]) * FORMATS[self.format].bits / 8)
            for index in range(prod(self.shape[:-2]) if scales else 0):
                raise_for(index, scales and wrong_scale(layout, scales(index)))
                yield each

        return Blocks(self.shape, self.format, read, scales, scan)

    @staticmethod
    def stack(parts: Sequence[Blocks]) -> Blocks:
        """Blocks of one shape and format along a new first axis."""
        first, each = parts[0], prod(parts[0].shape[:-2])

        def read(index: int) -> Coded:
            return parts[index // each].read(index % each)

        return Blocks((len(parts), *first.shape), first.format, read, scan=scan_all(parts))

    @property
    def rows(self) -> NDArray[np.intp]:
        """The numbers of all rows, counted over all leading axes: [*lead, n]."""
        return np.arange(prod(self.shape[:-1])).reshape(self.shape[:-1])

    def pick(self, rows: NDArray[np.intp]) -> Blocks:
        """Rows by their numbers, [*lead, n] of them."""
        read = _Picked(self, rows.reshape(-1, rows.shape[-1])).read
        return Blocks((*rows.shape, self.shape[-1]), self.format, read, scan=self.scan)

    def decode(self) -> NDArray[np.float32]:
        """All of it, dense."""
        parts = [self.read(index).decode() for index in range(prod(self.shape[:-2]))]
        return np.stack(parts).reshape(self.shape)


class _Picked:
    """Rows gathered from the matrices that they lie in; the matrix read last is kept."""

    def __init__(self, source: Blocks, rows: NDArray[np.intp]) -> None:
        self.source, self.rows = source, rows
        self.last: tuple[int, Coded] | None = None

    def read(self, index: int) -> Coded:
        wanted, height = self.rows[index], self.source.shape[-2]
        homes = wanted // height
        cuts = [0, *(np.nonzero(np.diff(homes))[0] + 1).tolist(), len(wanted)]
        return join_rows([self._part(int(homes[a]), wanted[a:b] % height) for a, b in pairwise(cuts)])

    def _part(self, home: int, rows: Any) -> Coded:
        if self.last is None or self.last[0] != home:
            self.last = None  # before the next is read: there is never more than one
            self.last = home, self.source.read(home)
        coded = self.last[1]
        return coded if len(rows) == len(coded.codes) and bool((np.diff(rows) == 1).all()) else coded.take(rows)


#: What a parameter comes as.
Source: TypeAlias = Data | Stack | Blocks


def dense(source: Source, name: str) -> Data | Stack:
    """A parameter as numbers: what is stored becomes f32, decoded when it is read, along the first axis."""
    if not isinstance(source, Blocks):
        return source
    blocks, each = source.checked(f"`{name}`"), prod(source.shape[1:-2])
    if len(source.shape) == 2:
        return blocks.read(0).decode()

    def read(index: int) -> Data:
        parts = [blocks.read(index * each + i).decode() for i in range(each)]
        return np.stack(parts).reshape(source.shape[1:])

    return Stack(source.shape, np.dtype(np.float32), read, scan=blocks.scan)


def scan_all(parts: Sequence[Blocks]) -> Callable[[], Iterator[int]] | None:
    """The scans of several, one after the other, if all have one."""
    scans = [part.scan for part in parts if part.scan is not None]
    return None if len(scans) < len(parts) else lambda: chain.from_iterable(scan() for scan in scans)


def join_blocks(parts: Sequence[Blocks], axis: int) -> Blocks:
    """Blocks of one format joined along an axis that is not the last."""
    if axis == len(parts[0].shape) - 2:
        shape = (*parts[0].shape[:-2], sum(part.shape[-2] for part in parts), parts[0].shape[-1])
        read: Callable[[int], Coded] = lambda index: join_rows([part.read(index) for part in parts])  # noqa: E731
        return Blocks(shape, parts[0].format, read, scan=scan_all(parts))
    counts, height = [prod(part.shape[:-2]) for part in parts], parts[0].shape[-2]
    homes = [(part, index) for part, count in zip(parts, counts, strict=True) for index in range(count)]
    each: Callable[[int], Coded] = lambda index: homes[index][0].read(homes[index][1])  # noqa: E731
    matrices = Blocks((len(homes), *parts[0].shape[-2:]), parts[0].format, each, scan=scan_all(parts))
    rows = [part.rows + sum(counts[:i]) * height for i, part in enumerate(parts)]
    return matrices.pick(np.concatenate(rows, axis))
