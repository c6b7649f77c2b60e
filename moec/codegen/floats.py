"""Sixteen-bit floats in registers: f16 and bf16 to f32 and back, by integers where the target has no instruction."""

from __future__ import annotations

from llvmlite import ir

from moec.codegen.llvm import F16, F32, I16, I32, Emitter, Value, constant, vector, width_of


def widen(e: Emitter, value: Value, dtype: str) -> Value:
    """A 16-bit float as f32."""
    b, width = e.b, width_of(value)
    words, floats = vector(I32, width), vector(F32, width)
    if dtype == "bf16":
        return b.bitcast(b.shl(b.zext(value, words), constant(words, 16)), floats)
    if e.target.converts_f16:
        return b.fpext(value, floats)
    bits = b.zext(value, words)
    magnitude = b.shl(b.and_(bits, constant(words, 0x7FFF)), constant(words, 13))
    # The exponent moves by a multiplication, exact for subnormals too.
    scaled = b.fmul(b.bitcast(magnitude, floats), constant(floats, 2.0**112))
    infinite = b.icmp_unsigned(">=", magnitude, constant(words, 0x7C00 << 13))
    exponent = b.select(infinite, constant(words, 0x7F800000), constant(words, 0))
    sign = b.shl(b.and_(bits, constant(words, 0x8000)), constant(words, 16))
    return b.bitcast(b.or_(b.or_(b.bitcast(scaled, words), exponent), sign), floats)


def narrow(e: Emitter, value: Value, dtype: str) -> Value:
    """f32 rounded to a 16-bit float, to nearest even."""
    b, width = e.b, width_of(value)
    words = vector(I32, width)
    if dtype == "f16":
        return b.fptrunc(value, vector(F16, width)) if e.target.converts_f16 else _narrow_f16(e, value)
    bits = b.bitcast(value, words)
    odd = b.and_(b.lshr(bits, constant(words, 16)), constant(words, 1))
    rounded = b.add(bits, b.add(odd, constant(words, 0x7FFF)))
    quiet = b.or_(bits, constant(words, 0x400000))
    chosen = b.select(b.fcmp_unordered("uno", value, value), quiet, rounded)
    return b.trunc(b.lshr(chosen, constant(words, 16)), vector(I16, width))


def _narrow_f16(e: Emitter, value: Value) -> Value:
    """f32 to f16 by integers: rounds at the place where the f16's last bit stands, by adding and taking away."""
    b, width = e.b, width_of(value)
    words, floats = vector(I32, width), vector(F32, width)

    def word(number: int) -> Value:
        return constant(words, number)

    bits = b.bitcast(value, words)
    sign = b.and_(b.lshr(bits, word(16)), word(0x8000))
    magnitude = b.and_(bits, word(0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, word(13)), word(1))
    normal = b.lshr(b.sub(b.add(magnitude, b.add(odd, word(0xFFF))), word(112 << 23)), word(13))
    # Below 2^-14 adding 0.5 leaves the subnormal's bits, rounded, at the end of the sum.
    lifted = b.fadd(b.bitcast(magnitude, floats), constant(floats, 0.5))
    subnormal = b.sub(b.bitcast(lifted, words), word(0x3F000000))
    small = b.icmp_unsigned("<", magnitude, word(0x38800000))
    large = b.icmp_unsigned(">=", magnitude, word(0x477FF000))
    nan = b.icmp_unsigned(">", magnitude, word(0x7F800000))
    chosen = b.select(small, subnormal, normal)
    chosen = b.select(large, word(0x7C00), chosen)
    chosen = b.select(nan, word(0x7E00), chosen)
    return b.trunc(b.or_(chosen, sign), vector(I16, width))


def bf16_pairs(b: ir.IRBuilder, words: Value, lanes: int) -> Value:
    """Vectors of 32-bit words as the pairs of bf16 that `dpbf16ps` takes."""
    return b.bitcast(words, ir.VectorType(BFloat(), 2 * lanes))


class BFloat(ir.Type):
    """LLVM's `bfloat`, which llvmlite.ir lacks; only ever the element of a vector that is bit-cast to."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)
