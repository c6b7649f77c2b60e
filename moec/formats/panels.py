"""Panels of stored weights: the order in which a kernel reads codes and fields.

A panel holds `columns` rows of the matrix. First come the fields that a whole row shares, then chunk after chunk of k:
the fields of the chunk, [columns] each, then block after block of 64 k: the fields of the block, [entries][columns]
each, then its codes, where each tile of 16 columns (fewer where they do not divide so) has two groups of 32 k. So what
a vector of columns multiplies lies together, and memory is read from one end to the other.

Codes are cut into planes of 8, 4, 2 or 1 bits; a plane of w bits is 32-bit words [words][tile], each of 4 · 8 / w codes
of one column: bits 8b + wj of word i have the code of k = 32 / w · i + 4j + b. So one shift and one mask leave four
consecutive k in the four bytes of a word, as integer dot products want them, and another mask leaves one.

Matrices packed together share every panel in equal parts, as dense ones do (`moec.runtime.pack`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Final

import numpy as np

from moec.formats.layout import BLOCK, GROUP, KINDS, Array, Bytes, Coded, Field, Layout

_TILE: Final = 16


@dataclass(frozen=True)
class PanelLayout:
    """Where everything lies in the panels of matrices [n, k] of a layout, `columns` wide, `parts` to a panel."""

    layout: Layout
    columns: int
    n: int
    k: int
    parts: int = 1

    @property
    def width(self) -> int:
        """The rows of each matrix in a panel."""
        return self.columns // self.parts

    @property
    def panels(self) -> int:
        return -(-self.n // self.width)

    @property
    def chunks(self) -> int:
        return -(-self.k // self.layout.chunk)

    def entries(self, field: Field) -> int:
        """How many numbers of a field a column has in its home."""
        return BLOCK // field.span if field.home == "block" else 1

    def place(self, field: Field) -> int:
        """Where a field begins in its home."""
        before = self.layout.fields[: self.layout.fields.index(field)]
        return sum(self._size(other) for other in before if other.home == field.home)

    def _size(self, field: Field) -> int:
        return self.entries(field) * self.columns * KINDS[field.kind].itemsize

    def _header(self, home: str) -> int:
        size = sum(self._size(field) for field in self.layout.fields if field.home == home)
        return -(-size // 16) * 16

    @property
    def head(self) -> int:
        """The bytes before the first chunk."""
        return self._header("panel")

    @property
    def lead(self) -> int:
        """The bytes of a chunk before its first block."""
        return self._header("chunk")

    @property
    def codes(self) -> int:
        """Where the codes begin in a block."""
        return self._header("block")

    @property
    def tile(self) -> int:
        """How many columns have their codes beside each other: at most 16, and those of one matrix."""
        return gcd(self.width, _TILE)

    @property
    def group(self) -> int:
        """The bytes of the codes of 32 k of a tile."""
        return 4 * self.layout.bits * self.tile

    @property
    def block(self) -> int:
        """The bytes of 64 k of all columns."""
        return self.codes + BLOCK // GROUP * self.columns // self.tile * self.group

    @property
    def blocks(self) -> int:
        """How many blocks a chunk has."""
        return self.layout.chunk // BLOCK

    @property
    def chunk(self) -> int:
        """The bytes of a chunk."""
        return self.lead + self.blocks * self.block

    @property
    def panel(self) -> int:
        """The bytes of a panel: a multiple of 64, so that every panel begins a line."""
        return -(-(self.head + self.chunks * self.chunk) // 64) * 64

    @property
    def nbytes(self) -> int:
        """The bytes of all panels."""
        return self.panels * self.panel

    def planes(self) -> Iterator[tuple[int, int, int]]:
        """Each plane: the bytes before it in a group, its width, the bits of a code below it."""
        place = low = 0
        for width in self.layout.planes:
            yield place, width, low
            place, low = place + 4 * width * self.tile, low + width

    # views of the bytes of all panels

    def _view(self, data: Bytes, field: Field) -> Array:
        """A field of every panel: [panels, chunks, blocks, entries, columns], as far as its home is repeated."""
        kind, home = KINDS[field.kind], field.home
        before = {"panel": 0, "chunk": self.head, "block": self.head + self.lead}[home]
        chunks, blocks = 1 if home == "panel" else self.chunks, self.blocks if home == "block" else 1
        shape = (self.panels, chunks, blocks, self.entries(field), self.columns)
        strides = (self.panel, self.chunk, self.block, self.columns * kind.itemsize, kind.itemsize)
        return np.ndarray(shape, kind, data, before + self.place(field), strides)

    def _words(self, data: Bytes, place: int, width: int) -> Array:
        """The bytes of a plane of every panel: [panels, chunks, blocks, tiles, groups, words, tile, 4]."""
        groups, tiles = BLOCK // GROUP, self.columns // self.tile
        shape = (self.panels, self.chunks, self.blocks, tiles, groups, width, self.tile, 4)
        strides = (self.panel, self.chunk, self.block, groups * self.group, self.group, 4 * self.tile, 4, 1)
        return np.ndarray(shape, np.uint8, data, self.head + self.lead + self.codes + place, strides)

    def _tiles(self, part: int) -> slice:
        """The tiles of a matrix."""
        count = self.width // self.tile
        return slice(part * count, (part + 1) * count)

    def pack(self, matrices: Sequence[Coded], out: Bytes) -> None:
        """Writes the panels into `out`, u8[nbytes], zeros where rows or k have run out."""
        out[:] = 0
        for part, coded in enumerate(matrices):
            mine = slice(part * self.width, (part + 1) * self.width)
            for field in self.layout.fields:
                view = self._view(out, field)
                shape = view.shape[1:4]
                numbers = self._rows(coded.fields[field.name], prod(shape))
                view[..., mine] = numbers.reshape(self.panels, self.width, *shape).transpose(0, 2, 3, 4, 1)
            codes = self._rows(coded.codes, self.chunks * self.layout.chunk)
            for place, width, low in self.planes():
                rows = (self.panels, self.width // self.tile, self.tile)
                shape = (*rows, self.chunks, self.blocks, BLOCK // GROUP, width, 8 // width, 4)
                parts = (codes >> np.uint8(low) & np.uint8((1 << width) - 1)).reshape(shape)
                parts = parts << np.arange(0, 8, width, dtype=np.uint8)[:, None]
                words = np.bitwise_or.reduce(parts, axis=-2)
                self._words(out, place, width)[:, :, :, self._tiles(part)] = words.transpose(0, 3, 4, 1, 5, 6, 2, 7)

    def _rows(self, data: Array, length: int) -> Array:
        """Rows as long and as many as all panels hold."""
        n, k = data.shape
        return np.pad(data, ((0, self.panels * self.width - n), (0, length - k)))

    def unpack(self, data: Bytes) -> list[Coded]:
        """The matrices again, to the last bit."""
        return [self._unpack(data, part) for part in range(self.parts)]

    def _unpack(self, data: Bytes, part: int) -> Coded:
        mine = slice(part * self.width, (part + 1) * self.width)
        fields: dict[str, Array] = {}
        for field in self.layout.fields:
            numbers = self._view(data, field)[..., mine].transpose(0, 4, 1, 2, 3)
            fields[field.name] = numbers.reshape(self.panels * self.width, -1)[: self.n, : field.entries(self.k)]
        codes = np.zeros((self.panels * self.width, self.chunks * self.layout.chunk), np.uint8)
        for place, width, low in self.planes():
            words = self._words(data, place, width)[:, :, :, self._tiles(part)]
            words = words.transpose(0, 3, 6, 1, 2, 4, 5, 7)[..., None, :]
            parts = words >> np.arange(0, 8, width, dtype=np.uint8)[:, None] & np.uint8((1 << width) - 1)
            codes |= parts.reshape(codes.shape) << np.uint8(low)
        return Coded(self.layout, codes[: self.n, : self.k], fields)
