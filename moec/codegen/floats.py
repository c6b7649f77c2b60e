"""Sixteen-bit floats in registers: f16 and bf16 to f32 and back, by integers where the target has no instruction."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from moec.codegen.llvm import F16, F32, I16, I32, Emitter, Value, vector, width_of


def widen(e: Emitter, value: Value, dtype: str) -> Value:
    """A 16-bit float as f32."""
    b, width = e.b, width_of(value)
    if dtype == "bf16":
        bits = b.shl(b.zext(value, vector(I32, width)), ir_like(I32, width, 16))
        return b.bitcast(bits, vector(F32, width))
    if e.target.converts_f16:
        return b.fpext(value, vector(F32, width))
    bits = b.zext(value, vector(I32, width))
    magnitude = b.shl(b.and_(bits, ir_like(I32, width, 0x7FFF)), ir_like(I32, width, 13))
    # The exponent moves by a multiplication, exact for subnormals too.
    scaled = b.fmul(b.bitcast(magnitude, vector(F32, width)), ir_like(F32, width, 2.0**112))
    infinite = b.icmp_unsigned(">=", magnitude, ir_like(I32, width, 0x7C00 << 13))
    exponent = b.select(infinite, ir_like(I32, width, 0x7F800000), ir_like(I32, width, 0))
    sign = b.shl(b.and_(bits, ir_like(I32, width, 0x8000)), ir_like(I32, width, 16))
    return b.bitcast(b.or_(b.or_(b.bitcast(scaled, vector(I32, width)), exponent), sign), vector(F32, width))


def narrow(e: Emitter, value: Value, dtype: str) -> Value:
    """f32 rounded to a 16-bit float, to nearest even."""
    b, width = e.b, width_of(value)
    if dtype == "f16":
        return b.fptrunc(value, vector(F16, width)) if e.target.converts_f16 else _narrow_f16(e, value)
    bits = b.bitcast(value, vector(I32, width))
    odd = b.and_(b.lshr(bits, ir_like(I32, width, 16)), ir_like(I32, width, 1))
    rounded = b.add(bits, b.add(odd, ir_like(I32, width, 0x7FFF)))
    quiet = b.or_(bits, ir_like(I32, width, 0x400000))
    chosen = b.select(b.fcmp_unordered("uno", value, value), quiet, rounded)
    return b.trunc(b.lshr(chosen, ir_like(I32, width, 16)), vector(I16, width))


def _narrow_f16(e: Emitter, value: Value) -> Value:
    """f32 to f16 by integers: rounds at the place where the f16's last bit stands, by adding and taking away."""
    b, width = e.b, width_of(value)

    def word(constant: int) -> Value:
        return ir_like(I32, width, constant)

    bits = b.bitcast(value, vector(I32, width))
    sign = b.and_(b.lshr(bits, word(16)), word(0x8000))
    magnitude = b.and_(bits, word(0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, word(13)), word(1))
    normal = b.lshr(b.sub(b.add(magnitude, b.add(odd, word(0xFFF))), word(112 << 23)), word(13))
    # Below 2^-14 adding 0.5 leaves the subnormal's bits, rounded, at the end of the sum.
    half = ir_like(F32, width, 0.5)
    lifted = b.fadd(b.bitcast(magnitude, vector(F32, width)), half)
    subnormal = b.sub(b.bitcast(lifted, vector(I32, width)), word(0x3F000000))
    small = b.icmp_unsigned("<", magnitude, word(0x38800000))
    large = b.icmp_unsigned(">=", magnitude, word(0x477FF000))
    nan = b.icmp_unsigned(">", magnitude, word(0x7F800000))
    chosen = b.select(small, subnormal, normal)
    chosen = b.select(large, word(0x7C00), chosen)
    chosen = b.select(nan, word(0x7E00), chosen)
    return b.trunc(b.or_(chosen, sign), vector(I16, width))


def ir_like(type: Any, width: int, value: float) -> Value:
    """A constant in every lane, or a scalar where the width is 0."""
    return ir.Constant(ir.VectorType(type, width), [value] * width) if width else ir.Constant(type, value)


def bf16_pairs(b: ir.IRBuilder, words: Value, lanes: int) -> Value:
    """Vectors of 32-bit words as the pairs of bf16 that `dpbf16ps` takes."""
    return b.bitcast(words, ir.VectorType(_BFloat(), 2 * lanes))


def bf16_type() -> ir.Type:
    """LLVM's `bfloat`, as the element of a vector."""
    return _BFloat()


class _BFloat(ir.Type):
    """LLVM's `bfloat`, which llvmlite.ir lacks; only ever the element of a vector that is bit-cast to."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)
