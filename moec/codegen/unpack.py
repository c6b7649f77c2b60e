"""Unpacking: codes of a panel become the dense panel that a microkernel reads, a part of it at a time, in cache.

The function decodes the blocks `first` .. `first + count` of a panel (`moec.formats.panels`) into `out`, a part of a
dense panel of the shape, 64-byte aligned. Each weight is one rounding away from what the format says, whatever the
machine:

    weight = scale × value(code) + offset

in f32, rounded to bf16 after that where the kernel multiplies pairs. Every 32 k of as many columns as a vector has
lanes are unrolled: a code is a shift and a mask, or a shift and a look-up where a vector permutes by four bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from llvmlite import ir

from moec.codegen.floats import BFloat, widen
from moec.codegen.function import Alone, Arguments, Integer, emit_function
from moec.codegen.llvm import F32, I8, I16, I32, Emitter, Value, constant, i64
from moec.codegen.look_up import look_up_bytes
from moec.formats.layout import BLOCK, GROUP, KINDS, Field
from moec.formats.panels import PanelLayout
from moec.shapes import KernelShape
from moec.target import Target

#: How far ahead of the codes that are decoded memory is read.
_AHEAD: Final = 2048


@dataclass(frozen=True)
class UnpackArguments(Arguments):
    """What the function takes."""

    panel: Alone
    out: Alone
    first: Integer
    count: Integer


def emit_unpack(module: Any, target: Target, shape: KernelShape, place: PanelLayout, name: str) -> ir.Function:
    """The function for panels of `place` and kernels of `shape`, added to `module` (once; a second call finds it)."""
    name = f"moec_unpack_{name}_{shape.dtype}_{place.columns}_{place.tile}"
    return emit_function(
        module, target, name, UnpackArguments, lambda e, given: _Unpacker(e, shape, place, given).emit()
    )


class Codes:
    """Codes in registers: 32-bit words as they lie in panels, and what can be had of them with shifts and masks."""

    def __init__(self, e: Emitter, place: PanelLayout, lanes: int) -> None:
        self.e, self.place, self.lanes = e, place, lanes
        self.type = ir.VectorType(I32, lanes)

    def word(self, value: int) -> Value:
        """A constant in every lane."""
        return constant(self.type, value)

    def load(self, group: Value) -> list[list[Value]]:
        """The words of each plane of a group whose codes for these columns begin at `group`."""
        e = self.e
        return [
            [e.b.load(e.at(group, at + 4 * self.place.tile * i, 1), typ=self.type, align=4) for i in range(width)]
            for at, width, _ in self.place.planes()
        ]

    def start(self, chunk: Value, block: Value, column: Value) -> Value:
        """Where the codes of a block of a chunk begin, for a vector of columns."""
        e, place = self.e, self.place
        block = e.at(e.at(chunk, place.lead + place.codes, 1), e.b.mul(block, i64(place.block)), 1)
        tile = e.b.mul(e.b.udiv(column, i64(place.tile)), i64(BLOCK // GROUP * place.group))
        return e.at(e.at(block, tile, 1), e.b.mul(e.b.urem(column, i64(place.tile)), i64(4)), 1)

    def shifted(self, word: Value, by: int) -> Value:
        """Bits moved down, or up where `by` is negative."""
        if by == 0:
            return word
        return self.e.b.lshr(word, self.word(by)) if by > 0 else self.e.b.shl(word, self.word(-by))

    def one(self, words: Sequence[Sequence[Value]], k: int) -> Value:
        """The code of the k-th of 32, in the lowest bits of each lane."""
        code: Value = None
        for (_, width, low), plane in zip(self.place.planes(), words, strict=True):
            i, within = divmod(k, 32 // width)
            j, byte = divmod(within, 4)
            bit = 8 * byte + width * j
            part = self.shifted(plane[i], bit - low)
            if not (low == 0 and bit + width == 32):
                part = self.e.b.and_(part, self.word(((1 << width) - 1) << low))
            code = part if code is None else self.e.b.or_(code, part)
        return code


class Numbers:
    """What codes stand for, as f32 in lanes: looked up where a vector permutes by four bits, else computed."""

    def __init__(self, e: Emitter, codes: Codes) -> None:
        self.e, self.codes, self.layout = e, codes, codes.place.layout
        self.vector = ir.VectorType(F32, codes.lanes)
        self.table = self._table()

    @property
    def bias(self) -> int:
        """How far `above` is above the value."""
        return self.layout.bias if self.table is None and self.layout.values == "integer" else 0

    def above(self, words: Sequence[Sequence[Value]], k: int) -> Value:
        """The value of the k-th of 32, or what is `bias` more."""
        if self.layout.values == "e4m3":
            return self._e4m3(words[0], k)
        if self.table is not None:
            return self._look_up(words[0], k)
        code, table = self.codes.one(words, k), self.layout.table
        return self.e.b.sitofp(code if table is None else self._integer(code, table), self.vector)

    def value(self, words: Sequence[Sequence[Value]], k: int) -> Value:
        """The value of the k-th of 32. An integer becomes the last bits of 2^23 and more, which is then taken off."""
        if not self.bias:
            return self.above(words, k)
        b = self.e.b
        lifted = b.or_(self.codes.one(words, k), self.codes.word(0x4B000000))
        return b.fsub(b.bitcast(lifted, self.vector), self._every(2.0**23 + self.bias))

    def _every(self, value: float) -> Value:
        return constant(self.vector, value)

    def _table(self) -> Value | None:
        """What four bits stand for, where a vector can be permuted by them."""
        layout = self.layout
        if self.e.target.vector_bits != 512 or layout.planes != (4,):
            return None
        numbers = layout.table or range(-layout.bias, 16 - layout.bias)
        return ir.Constant(self.vector, [float(number) for number in numbers])

    def _look_up(self, words: Sequence[Value], k: int) -> Value:
        i, within = divmod(k, 8)
        j, byte = divmod(within, 4)
        index = self.codes.shifted(words[i], 8 * byte + 4 * j)
        return self.e.call("llvm.x86.avx512.permvar.sf.512", self.vector, self.table, index)

    def _integer(self, code: Value, table: Sequence[int]) -> Value:
        """What a code in the lowest byte of each lane stands for."""
        b, word = self.e.b, self.codes.word
        bytes = ir.VectorType(I8, 4 * self.codes.lanes)
        found = b.bitcast(look_up_bytes(self.e, b.bitcast(code, bytes), table), self.codes.type)
        return b.ashr(b.shl(found, word(24)), word(24))

    def _e4m3(self, words: Sequence[Value], k: int) -> Value:
        """The sign, and exponent and fraction in place; a multiplication moves the exponent, exact for subnormals."""
        b, word = self.e.b, self.codes.word
        i, byte = divmod(k, 4)
        top = b.shl(words[i], word(24 - 8 * byte)) if byte < 3 else words[i]
        bits = b.and_(b.ashr(top, word(4)), word(0x87F00000))
        return b.fmul(b.bitcast(bits, self.vector), self._every(2.0**120))


class Factors:
    """Scales and offsets of a vector of columns, for one group of 32 k."""

    def __init__(self, e: Emitter, place: PanelLayout, lanes: int, panel: Value) -> None:
        self.e, self.place, self.lanes, self.panel = e, place, lanes, panel

    def load(self, chunk: Value, group: Value, column: Value, half: int = 0) -> tuple[Value, Value | None]:
        """The scale and the offset of the weights of a group of a chunk, f32 in lanes; of its second 16 k where `half`
        is 1 and the span is so short."""
        numbers = {field.name: self._number(field, chunk, group, column, half) for field in self.place.layout.fields}
        b, scale, offset = self.e.b, numbers["scale"], numbers.get("minimum")
        if "super" in numbers:
            scale = b.fmul(numbers["super"], scale)
        if offset is not None and "super_minimum" in numbers:
            offset = b.fneg(b.fmul(numbers["super_minimum"], offset))
        if "zero" in numbers:
            offset = b.fneg(b.fmul(scale, numbers["zero"]))
        return scale, offset

    def _number(self, field: Field, chunk: Value, group: Value, column: Value, half: int) -> Value:
        e, size = self.e, KINDS[field.kind].itemsize
        place, row = self.place, self.place.columns * size
        start = e.at(self.panel if field.home == "panel" else chunk, place.place(field), 1)
        if field.home == "block":
            groups = i64(BLOCK // GROUP)
            block = e.b.mul(e.b.udiv(group, groups), i64(place.block))
            start = e.at(e.at(start, place.lead, 1), block, 1)
            if place.entries(field) > 1:
                entries = place.entries(field) // (BLOCK // GROUP)
                start = e.at(start, e.b.mul(e.b.urem(group, groups), i64(entries * row)), 1)
                start = e.at(start, half * row if entries > 1 else 0, 1)
        start = e.at(start, e.b.mul(column, i64(size)), 1)
        return self._as_f32(field.kind, start)

    def _as_f32(self, kind: str, start: Value) -> Value:
        """Numbers of a field as f32, as `moec.formats.layout.number` has them."""
        e, b = self.e, self.e.b
        vector, words = ir.VectorType(F32, self.lanes), ir.VectorType(I32, self.lanes)

        def word(value: int) -> Value:
            return constant(words, value)

        if kind == "f32":
            return b.load(start, typ=vector, align=4)
        if kind in ("f16", "bf16"):
            return widen(e, e.load(start, kind, self.lanes), kind)
        raw = b.load(start, typ=ir.VectorType(I8, self.lanes), align=1)
        if kind == "i8":
            return b.sitofp(b.sext(raw, words), vector)
        code = b.zext(raw, words)
        if kind == "u8":
            return b.sitofp(code, vector)
        if kind == "e8m0":
            small = b.add(word(0x00200000), b.mul(code, word(0x00200000)))
            whole = b.shl(b.sub(code, word(1)), word(23))
            return b.bitcast(b.select(b.icmp_unsigned("<", code, word(2)), small, whole), vector)
        magnitude = b.shl(b.and_(code, word(0x7F)), word(20))
        sign = b.shl(b.and_(code, word(0x80)), word(24))
        return b.fmul(b.bitcast(b.or_(magnitude, sign), vector), constant(vector, 2.0**119))


class _Unpacker:
    def __init__(self, e: Emitter, shape: KernelShape, place: PanelLayout, given: UnpackArguments) -> None:
        self.e, self.shape, self.place, self.given = e, shape, place, given
        self.lanes = shape.lanes
        self.vector = ir.VectorType(F32, self.lanes)
        self.codes = Codes(e, place, self.lanes)
        self.factors = Factors(e, place, self.lanes, given.panel)
        self.numbers = Numbers(e, self.codes)

    def emit(self) -> None:
        self.e.loop(0, self.given.count, self._block)

    def _block(self, i: Value) -> None:
        """64 k of all columns."""
        e, b, place, groups = self.e, self.e.b, self.place, BLOCK // GROUP
        block = b.add(self.given.first, i)
        inside = b.urem(block, i64(place.blocks))
        at = b.mul(b.udiv(block, i64(place.blocks)), i64(place.chunk))
        chunk = e.at(self.given.panel, b.add(at, i64(place.head)), 1)
        out = e.at(self.given.out, b.mul(i, i64(BLOCK * place.columns * self._size)), 1)

        def columns_turn(column: Value) -> None:
            start = self.codes.start(chunk, inside, column)

            def group_turn(half: Value) -> None:
                group = b.add(b.mul(inside, i64(groups)), half)
                codes = e.at(start, b.mul(half, i64(place.group)), 1)
                to = e.at(out, b.mul(half, i64(GROUP * place.columns * self._size)), 1)
                self._columns(chunk, codes, group, column, to)

            e.loop(0, groups, group_turn)

        e.loop(0, place.columns, columns_turn, self.lanes)

    @property
    def _size(self) -> int:
        return 2 if self.shape.dtype == "bf16" else 4

    def _columns(self, chunk: Value, codes: Value, group: Value, column: Value, out: Value) -> None:
        """32 k of a vector of columns."""
        e, layout = self.e, self.place.layout
        self._prefetch(codes)
        words = self.codes.load(codes)
        short = bool(layout.span) and layout.span < GROUP
        halves = [self.factors.load(chunk, group, column, half) for half in range(2 if short else 1)]
        if self.numbers.bias:
            halves = [(scale, self._biased(scale, offset)) for scale, offset in halves]
        weights: list[Value] = []
        for k in range(GROUP):
            weights.append(self._weight(words, k, *halves[k // 16 if short else 0]))
            if len(weights) == self.shape.kstep:
                to = self._place(out, k // self.shape.kstep, column)
                e.b.store(self._step(weights), to, align=self.lanes * self._size * self.shape.kstep)
                weights = []

    def _place(self, out: Value, step: int, column: Value) -> Value:
        """Where one step of 32 k of a vector of columns goes."""
        e, panel, nbytes = self.e, self.shape.panel, self._size * self.shape.kstep
        width = panel.width or panel.columns
        start = e.at(out, step * width * nbytes, 1)
        if width == panel.columns:
            return e.at(start, e.b.mul(column, i64(nbytes)), 1)
        tile, within = e.b.udiv(column, i64(width)), e.b.urem(column, i64(width))
        start = e.at(start, e.b.mul(tile, i64(width * GROUP * self._size)), 1)
        return e.at(start, e.b.mul(within, i64(nbytes)), 1)

    def _prefetch(self, codes: Value) -> None:
        """As many codes as are decoded now, so far ahead."""
        e = self.e
        for offset in range(0, self.place.layout.bits * 4 * self.lanes, 64):
            place = e.at(codes, _AHEAD + offset, 1)
            e.prefetch(place, 1)

    def _biased(self, scale: Value, offset: Value | None) -> Value:
        """The offset of codes that are not yet less their bias."""
        bias = constant(self.vector, -float(self.numbers.bias))
        return self.e.b.fmul(scale, bias) if offset is None else self.e.overloaded("llvm.fma", scale, bias, offset)

    def _weight(self, words: Sequence[Sequence[Value]], k: int, scale: Value, offset: Value | None) -> Value:
        e, value = self.e, self.numbers.above(words, k)
        return e.b.fmul(scale, value) if offset is None else e.overloaded("llvm.fmuladd", scale, value, offset)

    def _step(self, weights: list[Value]) -> Value:
        """What is stored for one step of a panel: a vector of f32, or pairs of bf16."""
        if len(weights) == 1:
            return weights[0]
        b, halves = self.e.b, ir.VectorType(I16, 2 * self.lanes)
        low, high = weights
        pairs = ir.VectorType(BFloat(), 2 * self.lanes)
        both = b.bitcast(self.e.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", pairs, high, low), halves)
        order = [lane // 2 + self.lanes * (lane % 2) for lane in range(2 * self.lanes)]
        return b.shuffle_vector(both, both, ir.Constant(ir.VectorType(I32, 2 * self.lanes), order))
