"""Cells: codes made ready in scratch memory, for more rows than registers could hold them for.

A cell is the k of a record and 16 columns: what the codes stand for, four k of a column in every word where those are
bytes, [k / 4][16]; then the scales of its stretches and the offsets, in f32, as far as there are any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from llvmlite import ir

from moec.codegen.integer import Products, RecordPlace
from moec.codegen.llvm import F32, Emitter, Value, constant, i64
from moec.codegen.quantize import LIFT, Record
from moec.target import LINE

#: The columns of a cell: f32 in a line.
WIDTH: Final = 16


@dataclass(frozen=True)
class Cell:
    """Where everything lies in a cell, of panels with so many columns."""

    record: Record
    columns: int

    @property
    def stretches(self) -> int:
        return self.record.stretches

    @property
    def stretch_bytes(self) -> int:
        """The bytes of a stretch of what codes stand for."""
        return self.record.stretch_bytes * WIDTH

    @property
    def part_bytes(self) -> int:
        """The bytes of a block of a panel."""
        return self.stretches * self.stretch_bytes // self.record.parts

    def scale(self, stretch: int) -> int:
        """Where the scales of a stretch begin."""
        return self.stretches * self.stretch_bytes + stretch * LINE

    def offset(self, stretch: int) -> int:
        return self.scale(self.stretches + stretch)

    @property
    def lifts(self) -> bool:
        """Whether the first stretch begins with `LIFT`: as f32 its integers need no conversion, and the offset
        -`LIFT` × scale takes off again what they have too much, in one rounding with the product."""
        return self.record.lifts

    @property
    def lift(self) -> int:
        """Where that offset stands."""
        return self.scale(self.stretches * (self.scaled + self.record.layout.offset))

    @property
    def scaled(self) -> bool:
        """Whether a stretch has scales; else a whole row has one."""
        return bool(self.record.layout.span)

    def factors(self, e: Emitter, cell: Value, stretch: int) -> tuple[Value | None, Value | None]:
        """The scales and the offsets of a stretch of the cell at an address, as far as there are any."""

        def load(at: int) -> Value:
            return e.b.load(e.at(cell, at, 1), typ=ir.VectorType(F32, WIDTH), align=LINE)

        scale = load(self.scale(stretch)) if self.scaled else None
        return scale, load(self.offset(stretch)) if self.record.layout.offset else None

    @property
    def nbytes(self) -> int:
        return self.lift + LINE * self.lifts

    @property
    def name(self) -> str:
        """All that a function depends on which reads records and cells."""
        record, factors = self.record, f"{int(self.scaled)}{int(self.record.layout.offset)}{int(self.lifts)}"
        return f"{record.kind}_{factors}_{record.stretch}_{record.nbytes}_{record.total(0)}_{self.columns}"


class CellProducts(Products, ABC):
    """Products that fill cells, of 512-bit vectors."""

    def _fill(self, cell: Cell, place: RecordPlace, column: Value, to: Value) -> None:
        """The cell of 16 columns."""
        e, b = self.e, self.e.b
        codes = self.codes.start(place.chunk, place.block, column)

        def turn(part: Value) -> None:
            start = e.at(to, b.mul(part, i64(cell.part_bytes)), 1)
            for i, line in enumerate(self._lines(e.at(codes, b.mul(part, i64(self.place.block)), 1))):
                b.store(line, e.at(start, i * LINE, 1), align=LINE)

        e.loop(0, place.parts, turn)
        for stretch in range(cell.stretches):
            scale, offset = self._factors(place, column, stretch * self.record.stretch)
            if scale is not None:
                b.store(scale, e.at(to, cell.scale(stretch), 1), align=LINE)
            if cell.lifts and stretch == 0:
                b.store(b.fmul(scale, constant(self.floats, -LIFT)), e.at(to, cell.lift, 1), align=LINE)
            if offset is not None:
                b.store(offset, e.at(to, cell.offset(stretch), 1), align=LINE)

    @abstractmethod
    def _lines(self, codes: Value) -> Iterable[Value]:
        """What the codes of a block of a panel stand for, line after line."""
