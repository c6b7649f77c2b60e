"""Products of codes with few rows: what a code stands for is had in a register, as f32, and multiplied there.

The same function as `moec.codegen.integer` describes, for records of f32. Values are exact; scale and offset come in
with sums of k:

    sums[r][c] += Σ over 8 k (scale[c] × Σ x value), + Σ over stretches (offset[c, stretch] × Σ x)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llvmlite import ir

from moec.codegen.integer import ProductArguments, Products, RecordPlace
from moec.codegen.llvm import Emitter, Value, i64
from moec.codegen.quantize import Elements, Record
from moec.codegen.unpack import Numbers
from moec.formats.layout import BLOCK, GROUP
from moec.formats.panels import PanelLayout
from moec.target import LINE, Target

#: The k whose values are in registers at once: with 16 the next ones begin too late (q8_0 takes 1.1 times as long),
#: with 4 sums are read and written too often (q4_0 takes 1.3 times as long).
_DEPTH: Final = 8
#: Sums that run beside each other: a chain of eight would be waited for.
_CHAINS: Final = 2
#: How far ahead of the codes of a stream memory is read, in bytes.
_AHEAD: Final = 4096


class DecodedProducts(Products):
    """Multiply-adds of rows of f32 with values of codes."""

    @classmethod
    def elements(cls, target: Target) -> Elements:
        return "f32"

    def __init__(self, e: Emitter, place: PanelLayout, record: Record, given: ProductArguments) -> None:
        super().__init__(e, place, record, given)
        self.numbers = Numbers(self.e, self.codes)

    def all_blocks(self) -> None:
        """The halves of a panel in turns: memory serves two streams of reads 1.1 to 1.2 times as fast as one (q8_0)."""
        e, b = self.e, self.e.b
        half = b.udiv(b.add(self.blocks, i64(1)), i64(2))

        def turn(block: Value) -> None:
            e.loop(block, self.blocks, self._prefetch_fields, step=half)
            second = b.add(block, half)
            places, there = [self._from(at) for at in (block, second)], b.icmp_signed("<", second, self.blocks)

            def group_turn(column: Value, group: Value) -> None:
                self._group(places[0], column, group)
                with e.when(there):
                    self._group(places[1], column, group)

            def column_turn(column: Value) -> None:
                e.loop(0, BLOCK // GROUP, lambda group: group_turn(column, group))

            e.loop(0, self.place.columns, column_turn, step=self.lanes)

        e.loop(0, half, turn)

    def _group(self, place: RecordPlace, column: Value, group: Value) -> None:
        """32 k of a vector of columns with all rows."""
        e, b = self.e, self.e.b
        codes = e.at(self.codes.start(place.chunk, place.block, column), b.mul(group, i64(self.place.group)), 1)
        planes = self.codes.load(codes)
        inside = b.add(b.mul(place.block, i64(BLOCK // GROUP)), group)
        elements = e.at(place.rows, b.mul(group, i64(4 * GROUP)), 1)
        for first in range(0, GROUP, _DEPTH):
            self._read_ahead(codes, first)
            values = [self.numbers.value(planes, k) for k in range(first, first + _DEPTH)]
            total = self._total(place.rows, group, first)
            scale, offset = self._factors_of(place.chunk, inside, column, 2 * first // GROUP)
            self._rows(e.at(elements, 4 * first, 1), total, column, values, scale, offset)

    def _factors_of(self, chunk: Value, group: Value, column: Value, half: int) -> tuple[Value | None, Value | None]:
        """Scale and offset of 16 k; no scale where a row has one."""
        return self.factors.load(chunk, group, column, half) if self.layout.span else (None, None)

    def _read_ahead(self, codes: Value, first: int) -> None:
        """Prefetches as many codes as `_DEPTH` k are, from the `first` of 32 on."""
        each = self.layout.bits * self.lanes // 8
        lines = range(-(-first * each // LINE), -(-(first + _DEPTH) * each // LINE))
        for line in lines:
            self.e.prefetch(self.e.at(codes, _AHEAD + line * LINE, 1), 1)

    def _rows(
        self,
        elements: Value,
        total: Value | None,
        column: Value,
        values: Sequence[Value],
        scale: Value | None,
        offset: Value | None,
    ) -> None:
        """All rows pass over some k of a vector of columns."""
        e = self.e

        def turn(row: Value) -> None:
            at = e.b.mul(row, i64(self.record.nbytes))
            source = e.at(elements, at, 1)
            place = e.at(self.sums, e.b.add(e.b.mul(row, i64(4 * self.place.columns)), e.b.mul(column, i64(4))), 1)
            sums = e.b.load(place, typ=self.floats, align=4)
            chains: list[Value] = [ir.Constant(self.floats, None)] * _CHAINS
            for i, value in enumerate(values):
                x = self._splat(e.load(e.at(source, 4 * i, 1), "f32"))
                chains[i % _CHAINS] = e.overloaded("llvm.fmuladd", x, value, chains[i % _CHAINS])
            dot = e.b.fadd(*chains)
            sums = e.b.fadd(dot, sums) if scale is None else e.overloaded("llvm.fmuladd", dot, scale, sums)
            if offset is not None and total is not None:
                whole = self._splat(e.load(e.at(total, at, 1), "f32"))
                sums = e.overloaded("llvm.fmuladd", whole, offset, sums)
            e.b.store(sums, place, align=4)

        e.loop(0, self.count, turn)
