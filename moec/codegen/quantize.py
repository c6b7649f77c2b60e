"""Rows as the kernels beside codes read them: quantised, block by block, as `moec.formats.activations` says, or real.

The function writes a record for every `Record.length` k of one row, `stride` bytes apart, so that those of several rows
can stand side by side. From 32 k of the row to the next it is `apart` bytes. A record holds the elements, then in words
of four bytes the scale where they are quantised and, for each stretch of k with weights of one scale, what the kernel's
sums begin with (-center × the sum of the integers; integers) and what offsets are multiplied with (the sum; f32), as
far as the format needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from llvmlite import ir

from moec.codegen.floats import widen
from moec.codegen.function import Alone, Arguments, Integer, emit_function
from moec.codegen.llvm import F32, I1, I8, I16, I32, SIZES, Emitter, Value, constant, i64
from moec.formats.activations import SMALLEST
from moec.formats.layout import BLOCK, GROUP, Layout
from moec.target import LINE, Target

#: f32 in the vectors of this function, whatever the machine has.
_WIDTH: Final = 16
#: Added to a number of magnitude below 2^22 it leaves the nearest integer, ties to even, in the last bits of the sum;
#: and an integer that begins with its bits is, as f32, that integer and it.
LIFT: Final = 1.5 * 2**23
LIFT_BITS: Final = 0x4B400000
#: As f32 has it.
_INVERSE_OF_127: Final = float(np.float32(1 / 127))


#: What the elements of a record are.
Elements: TypeAlias = Literal["bytes", "pairs", "bf16", "f32"]


@dataclass(frozen=True)
class Record:
    """Where everything lies in a record, beside weights of a layout.

    Elements are integers of 8 bits in order (`bytes`); of 16 bits, for machines that multiply pairs of those (`pairs`);
    bf16; or f32 in order. Of 16 bits the even and the odd ones of four stand together, as codes can be had from a word
    of four.
    """

    layout: Layout
    kind: Elements

    @property
    def real(self) -> bool:
        """Whether elements are as they were, and not quantised."""
        return self.kind in ("bf16", "f32")

    @property
    def length(self) -> int:
        """Its k: a block of a panel, or as many as share a scale."""
        return BLOCK if self.real else self.layout.shared

    @property
    def parts(self) -> int:
        """The blocks of a panel that it meets."""
        return self.length // BLOCK

    def count(self, k: int) -> int:
        """The records of a row."""
        return -(-k // self.length)

    @property
    def stretch(self) -> int:
        """How many k are summed before the weights' scale comes in: several blocks only where there is one stretch."""
        return min(self.layout.stretch, GROUP) if self.real else self.layout.stretch

    @property
    def stretches(self) -> int:
        return self.length // self.stretch

    @property
    def size(self) -> int:
        """The bytes of an element."""
        return {"bytes": 1, "pairs": 2, "bf16": 2, "f32": 4}[self.kind]

    @property
    def stretch_bytes(self) -> int:
        return self.stretch * self.size

    @property
    def scale(self) -> int:
        return self.size * self.length

    @property
    def center(self) -> int:
        """The code that stands for 0 and is not yet taken off where it is multiplied."""
        return 0 if self.real else self.layout.center or 0

    def start(self, stretch: int) -> int:
        """Where the sums of a stretch begin from; only where the codes' center is not 0."""
        return self.scale + (0 if self.real else 4) + 4 * stretch

    def total(self, stretch: int) -> int:
        """The sum of a stretch; only where the weights have offsets."""
        return self.start(stretch) + (4 * self.stretches if self.center else 0)

    @property
    def lifts(self) -> bool:
        """Whether the integers of the first stretch may begin with `LIFT`: times a scale that loses nothing."""
        return self.kind == "bytes" and self.stretches > 1 and self.layout.narrow

    @property
    def lifted(self) -> int:
        """What they begin with then; only where the codes' center is not 0."""
        return self.start(0) + 4 * self.stretches * (bool(self.center) + self.layout.offset)

    @property
    def nbytes(self) -> int:
        """A multiple of 16; of a line where it meets several blocks, or rows of tiles would begin inside of lines
        (OLMoE in int8 with tiles: 1.03 to 1.06 times as fast for it on one thread; shorter records lose by it)."""
        unit = 16 if self.parts == 1 else LINE
        return -(-(self.lifted + 4 * (self.lifts and bool(self.center))) // unit) * unit


@dataclass(frozen=True)
class QuantizeArguments(Arguments):
    """What the function takes."""

    row: Alone
    apart: Integer
    records: Alone
    stride: Integer


def emit_quantize(module: Any, target: Target, record: Record, dtype: str, k: int) -> ir.Function:
    """The function for rows of `k` elements of `dtype`, added to `module` (once; a second call finds it)."""
    layout = record.layout
    name = f"moec_{record.kind}_{dtype}_{k}_{record.stretch}_{record.center}_{int(layout.offset)}{int(record.lifts)}"
    function = emit_function(
        module, target, name, QuantizeArguments, lambda e, given: _quantize(e, record, dtype, k, given)
    )
    function.linkage = "internal"
    return function


def _quantize(e: Emitter, record: Record, dtype: str, k: int, given: QuantizeArguments) -> None:
    """Record after record of a row."""
    whole, rest = divmod(k, record.length)

    def write(i: Value, count: int) -> None:
        first = e.at(given.row, e.b.mul(i, e.b.mul(given.apart, i64(record.length // GROUP))), 1)
        groups = [e.at(first, e.b.mul(given.apart, i64(group)), 1) for group in range(record.length // GROUP)]
        parts = [
            _load(e, dtype, groups[at // GROUP], at % GROUP, max(0, min(_WIDTH, count - at)))
            for at in range(0, record.length, _WIDTH)
        ]
        (_real if record.real else _integers)(e, record, parts, e.at(given.records, e.b.mul(i, given.stride), 1))

    e.loop(0, whole, lambda i: write(i, record.length))
    if rest:
        write(i64(whole), rest)


def _real(e: Emitter, record: Record, parts: list[Value], to: Value) -> None:
    """The record of elements, f32 in vectors, that stay as they are."""
    if record.kind == "f32":
        for at, part in zip(range(0, 4 * record.length, 4 * _WIDTH), parts, strict=True):
            e.store(part, e.at(to, at, 1), "f32")
    else:
        words = ir.VectorType(I32, _WIDTH)
        _store_elements(e, record, [e.b.lshr(e.b.bitcast(part, words), constant(words, 16)) for part in parts], to)
    _store_totals(e, record, parts, to)


def _integers(e: Emitter, record: Record, parts: list[Value], to: Value) -> None:
    """The record of elements, f32 in vectors, that are quantised."""
    b, words, floats = e.b, ir.VectorType(I32, _WIDTH), ir.VectorType(F32, _WIDTH)
    usable, inverse = _scale(e, record, parts, to)
    factor = e.splat(inverse, _WIDTH)
    integers: list[Value] = []
    for part in parts:
        safe = b.select(e.splat(usable, _WIDTH), part, ir.Constant(floats, None))
        lifted = b.fadd(b.fmul(safe, factor), constant(floats, LIFT))
        integers.append(b.sub(b.bitcast(lifted, words), constant(words, LIFT_BITS)))
    _store_elements(e, record, integers, to)
    _store_sums(e, record, integers, to)


def _scale(e: Emitter, record: Record, parts: list[Value], to: Value) -> tuple[Value, Value]:
    """Stores the scale of elements; whether they can be divided by it, and what 1 / scale is then."""
    b, words = e.b, ir.VectorType(I32, _WIDTH)
    largest, *others = [b.and_(b.bitcast(part, words), constant(words, 0x7FFFFFFF)) for part in parts]
    for other in others:
        largest = e.overloaded("llvm.umax", largest, other)
    most = e.call(f"llvm.vector.reduce.umax.v{_WIDTH}i32", I32, largest)
    magnitude = b.bitcast(most, F32)
    broken = b.icmp_unsigned(">=", most, ir.Constant(I32, 0x7F800000))
    some = b.fcmp_ordered(">=", magnitude, ir.Constant(F32, SMALLEST))
    zero, nan = ir.Constant(F32, 0.0), ir.Constant(F32, float("nan"))
    scale = b.select(some, b.fmul(magnitude, ir.Constant(F32, _INVERSE_OF_127)), zero)
    e.store(b.select(broken, nan, scale), e.at(to, record.scale, 1), "f32")
    usable = b.and_(some, b.xor(broken, ir.Constant(I1, 1)))
    return usable, b.select(usable, b.fdiv(ir.Constant(F32, 127.0), magnitude), zero)


def _load(e: Emitter, dtype: str, source: Value, at: int, count: int) -> Value:
    """16 elements as f32, zeros after the first `count`."""

    def read(element: int, width: int = 0) -> Value:
        value = e.load(e.at(source, element * SIZES[dtype], 1), dtype, width)
        return value if dtype == "f32" else widen(e, value, dtype)

    if count == _WIDTH:
        return read(at, _WIDTH)
    part: Value = ir.Constant(ir.VectorType(F32, _WIDTH), None)
    for i in range(count):
        part = e.b.insert_element(part, read(at + i), ir.Constant(I32, i))
    return part


def _store_elements(e: Emitter, record: Record, words: list[Value], to: Value) -> None:
    """The lowest bits of words, as wide as the record has them."""
    for i, part in enumerate(words):
        if record.kind != "bytes":
            halves = e.b.trunc(part, ir.VectorType(I16, _WIDTH))
            order = [4 * (lane // 4) + (0, 2, 1, 3)[lane % 4] for lane in range(_WIDTH)]
            mask = ir.Constant(ir.VectorType(I32, _WIDTH), order)
            e.b.store(e.b.shuffle_vector(halves, halves, mask), e.at(to, 2 * _WIDTH * i, 1), align=16)
        else:
            e.b.store(e.b.trunc(part, ir.VectorType(I8, _WIDTH)), e.at(to, _WIDTH * i, 1), align=16)


def _store_sums(e: Emitter, record: Record, integers: list[Value], to: Value) -> None:
    center, parts = record.center, record.stretch // _WIDTH
    if not (center or record.layout.offset):
        return
    for stretch in range(record.stretches):
        sums = integers[stretch * parts]
        for part in integers[stretch * parts + 1 : (stretch + 1) * parts]:
            sums = e.b.add(sums, part)
        total = e.call(f"llvm.vector.reduce.add.v{_WIDTH}i32", I32, sums)
        if center:
            start = e.b.mul(total, ir.Constant(I32, -center))
            e.b.store(start, e.at(to, record.start(stretch), 1), align=4)
            if record.lifts and stretch == 0:
                e.b.store(e.b.add(start, ir.Constant(I32, LIFT_BITS)), e.at(to, record.lifted, 1), align=4)
        if record.layout.offset:
            e.store(e.b.sitofp(total, F32), e.at(to, record.total(stretch), 1), "f32")


def _store_totals(e: Emitter, record: Record, parts: list[Value], to: Value) -> None:
    """The sums of stretches of floats, added in a fixed order."""
    if not record.layout.offset:
        return
    each = record.stretch // _WIDTH
    for stretch in range(record.stretches):
        total, *others = parts[stretch * each : (stretch + 1) * each]
        for other in others:
            total = e.b.fadd(total, other)
        for half in (8, 4, 2, 1):
            order = [(lane + half) % _WIDTH for lane in range(_WIDTH)]
            turned = e.b.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, _WIDTH), order))
            total = e.b.fadd(total, turned)
        e.store(e.b.extract_element(total, ir.Constant(I32, 0)), e.at(to, record.total(stretch), 1), "f32")
