"""Products of narrow codes with rows of bf16: codes are looked up as bf16 in registers, pair by pair.

The same function as `moec.codegen.integer` describes, for records of bf16. A code of up to six bits is the index into a
vector of 16-bit values, which holds it exactly, so weights are not rounded; sums of a stretch get their scale, and what
is added to it, in f32:

    sums[r][c] += Σ over 16 k (scale[c] × Σ x value), + Σ over stretches (offset[c, stretch] × Σ x)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Final

import ml_dtypes
import numpy as np
from llvmlite import ir

from moec.codegen.code_bytes import WORD
from moec.codegen.floats import bf16_pairs
from moec.codegen.integer import Products, RecordPlace
from moec.codegen.llvm import I16, I32, Value, i64
from moec.codegen.quantize import Elements
from moec.formats.layout import BLOCK, GROUP, values
from moec.target import Target

#: The k that get their scale together.
_HALF: Final = 16


class PairProducts(Products):
    """`vdpbf16ps` of values that are looked up; 512-bit vectors only."""

    @classmethod
    def elements(cls, target: Target) -> Elements:
        return "bf16"

    def block(self, place: RecordPlace) -> None:
        """A block of k of all columns. Many rows do best where two vectors of columns share what is broadcast of them,
        16 k at a time; few where codes are read one after the other. Every sum is the same either way."""
        e = self.e
        vectors = gcd(2, self.place.columns // self.lanes)

        def pass_over(vectors: int, depth: int) -> None:
            def turn(column: Value) -> None:
                self._columns(place, column, vectors, depth)

            e.loop(0, self.place.columns, turn, vectors * self.lanes)

        many, _ = e.target.prefetch[0]
        with e.either(e.b.icmp_signed("<", self.count, i64(many))) as otherwise:
            pass_over(1, GROUP)
            otherwise()
            pass_over(vectors, GROUP // vectors)

    def _columns(self, place: RecordPlace, column: Value, vectors: int = 1, depth: int = GROUP) -> None:
        """A block of k of some vectors of columns, with all rows, `depth` k at a time: as many pairs as the registers
        hold."""
        e, chunk, rows = self.e, place.chunk, place.rows
        columns = [e.b.add(column, i64(self.lanes * i)) for i in range(vectors)]
        starts = [self.codes.start(chunk, place.block, column) for column in columns]
        for start in starts:
            ahead, lines = self._ahead(start)
            e.loop(0, lines, lambda line, ahead=ahead: self._prefetch(ahead, line))

        def turn(group: Value) -> None:
            planes = [self.codes.load(e.at(start, e.b.mul(group, i64(self.place.group)), 1)) for start in starts]
            inside = e.b.add(e.b.mul(place.block, i64(BLOCK // GROUP)), group)
            for at in range(0, GROUP, depth):
                words = range(at // WORD, (at + depth) // WORD)
                pairs = [[pair for word in words for pair in self._pairs(each, word)] for each in planes]
                halves = range(at, at + depth, _HALF)
                factors = [[self.factors.load(chunk, inside, each, k // _HALF) for k in halves] for each in columns]
                totals = [self._total(rows, group, k) for k in halves]
                elements = e.at(rows, e.b.add(e.b.mul(group, i64(2 * GROUP)), i64(2 * at)), 1)
                self._rows(elements, totals, column, pairs, factors)

        e.loop(0, BLOCK // GROUP, turn)

    def _rows(
        self,
        elements: Value,
        totals: Sequence[Value | None],
        column: Value,
        pairs: Sequence[Sequence[Value]],
        factors: Sequence[Sequence[tuple[Value, Value | None]]],
    ) -> None:
        """All rows pass over some k of some vectors of columns, 16 k after 16 k."""
        e, count = self.e, _HALF // 2

        def turn(row: Value) -> None:
            at = e.b.mul(row, i64(self.record.nbytes))
            source = e.at(elements, at, 1)
            place = e.at(self.sums, e.b.add(e.b.mul(row, i64(4 * self.place.columns)), e.b.mul(column, i64(4))), 1)
            x = [self._splat(e.b.load(e.at(source, 4 * i, 1), typ=I32, align=4)) for i in range(len(pairs[0]))]
            for i, (each, of_column) in enumerate(zip(pairs, factors, strict=True)):
                to = e.at(place, 4 * self.lanes * i, 1)
                sums = e.b.load(to, typ=self.floats, align=4)
                for half, ((scale, offset), total) in enumerate(zip(of_column, totals, strict=True)):
                    mine = slice(half * count, (half + 1) * count)
                    dot: Value = ir.Constant(self.floats, None)
                    for factor, pair in zip(x[mine], each[mine], strict=True):
                        dot = self._dot(dot, factor, pair)
                    sums = e.overloaded("llvm.fmuladd", dot, scale, sums)
                    if offset is not None and total is not None:
                        whole = self._splat(e.load(e.at(total, at, 1), "f32"))
                        sums = e.overloaded("llvm.fmuladd", whole, offset, sums)
                e.b.store(sums, to, align=4)

        e.loop(0, self.count, turn)

    def _dot(self, sums: Value, x: Value, pair: Value) -> Value:
        x, pair = (bf16_pairs(self.e.b, value, self.lanes) for value in (x, pair))
        return self.e.call("llvm.x86.avx512bf16.dpbf16ps.512", self.floats, sums, x, pair)

    def _pairs(self, planes: Sequence[Sequence[Value]], word: int) -> list[Value]:
        """The values of four consecutive k as two pairs: the even ones and the odd ones."""
        codes = self._codes(planes, word)
        return [self._look_up(codes), self._look_up(self.codes.shifted(codes, 8))]

    def _codes(self, planes: Sequence[Sequence[Value]], word: int) -> Value:
        """Four codes, each in the lowest bits of a byte. What stands above a code of one plane is not looked at."""
        code: Value = None
        for (_, width, low), plane in zip(self.place.planes(), planes, strict=True):
            i, j = divmod(word, 8 // width)
            part = self.codes.shifted(plane[i], width * j - low)
            if len(planes) > 1:
                part = self.e.b.and_(part, self.codes.word((((1 << width) - 1) << low) * 0x01010101))
            code = part if code is None else self.e.b.or_(code, part)
        return code

    def _look_up(self, index: Value) -> Value:
        """bf16 in 16-bit lanes, by the lowest five or six bits of each."""
        e, halves = self.e, ir.VectorType(I16, 2 * self.lanes)
        bits = self.layout.bits
        numbers = [self._value(entry % (1 << bits)) for entry in range(64 if bits == 6 else 32)]
        tables = [ir.Constant(halves, numbers[at : at + 32]) for at in range(0, len(numbers), 32)]
        index = e.b.bitcast(index, halves)
        if len(tables) == 1:
            found = e.call("llvm.x86.avx512.permvar.hi.512", halves, tables[0], index)
        else:
            found = e.call("llvm.x86.avx512.vpermi2var.hi.512", halves, tables[0], index, tables[1])
        return e.b.bitcast(found, self.words)

    def _value(self, code: int) -> int:
        """The bits of a code's value."""
        value = values(np.array(code, np.uint8), self.layout)
        return int(value.astype(ml_dtypes.bfloat16).view(np.uint16))
