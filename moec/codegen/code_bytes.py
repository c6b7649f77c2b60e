"""Codes as unsigned bytes, for dot products of bytes: four consecutive k of a column in every 32-bit lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llvmlite import ir

from moec.codegen.llvm import I8, Value
from moec.codegen.look_up import look_up_bytes
from moec.codegen.unpack import Codes
from moec.formats.layout import BLOCK, GROUP

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
        table = self.place.layout.table
        return code if table is None else self._looked_up(code, table)

    def _looked_up(self, code: Value, table: Sequence[int]) -> Value:
        """Codes as what they stand for and as much more as makes it unsigned."""
        b, bytes = self.e.b, ir.VectorType(I8, 4 * self.lanes)
        found = look_up_bytes(self.e, b.bitcast(code, bytes), [value - min(table) for value in table])
        return b.bitcast(found, self.type)
