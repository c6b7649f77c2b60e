"""Codes as unsigned bytes, for dot products of bytes: four consecutive k of a column in every 32-bit lane."""

from __future__ import annotations

from typing import Final

from llvmlite import ir

from moec.codegen.llvm import I8, Value, constant
from moec.codegen.unpack import Codes
from moec.formats.layout import BLOCK, E2M1, GROUP

#: The k of a word of codes, which is what one lane multiplies and adds in one instruction.
WORD: Final = 4


class Bytes(Codes):
    """Codes in registers, and the bytes that they stand for."""

    def words(self, codes: Value) -> list[Value]:
        """The unsigned bytes of a block, of four consecutive k in every lane."""
        words: list[Value] = []
        for group in range(BLOCK // GROUP):
            planes = self.load(self.e.at(codes, group * self.place.group, 1))
            words += [self._bytes(planes, i) for i in range(GROUP // WORD)]
        return words

    def _bytes(self, planes: list[list[Value]], word: int) -> Value:
        """The unsigned bytes of four consecutive k, word `word` of a group, in every lane."""
        code: Value = None
        for (_, width, low), plane in zip(self.place.planes(), planes, strict=True):
            i, j = divmod(word, 8 // width)
            part = self.shifted(plane[i], width * j - low)
            if width < 8:
                mask = ((1 << width) - 1) << low
                part = self.e.b.and_(part, self.word(mask * 0x01010101))
            code = part if code is None else self.e.b.or_(code, part)
        return self._from_e2m1(code) if self.place.layout.values == "e2m1" else code

    def _from_e2m1(self, code: Value) -> Value:
        """Codes of e2m1 as the bytes 12 + twice the value: looked up, or m + max(m - 4, 0) + 2 max(m - 6, 0)."""
        e, b, count = self.e, self.e.b, 4 * self.lanes
        type, center = ir.VectorType(I8, count), E2M1[-1]
        if e.target.looks_up_bytes:
            table = [*(center + value for value in E2M1), *(center - value for value in E2M1)]
            name = {64: "avx512.pshuf.b.512", 32: "avx2.pshuf.b"}[count]
            tables = ir.Constant(type, table * (count // 16))
            return b.bitcast(e.call(f"llvm.x86.{name}", type, tables, b.bitcast(code, type)), self.type)
        byte = b.bitcast(code, type)

        def every(value: int) -> Value:
            return constant(type, value)

        m = b.and_(byte, every(7))
        four, six = (b.select(b.icmp_unsigned(">", m, every(n)), b.sub(m, every(n)), every(0)) for n in (4, 6))
        twice = b.add(b.add(m, four), b.add(six, six))
        below, above = b.sub(every(center), twice), b.add(every(center), twice)
        chosen = b.select(b.icmp_unsigned(">", byte, every(7)), below, above)
        return b.bitcast(chosen, self.type)
