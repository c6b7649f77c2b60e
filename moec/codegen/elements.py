"""Pointwise operations of `arith` and `math` on scalars or vectors: a table from operation to the code for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from llvmlite import ir
from xdsl.dialects import arith
from xdsl.dialects.builtin import BFloat16Type, Float16Type, FloatAttr, IntegerAttr
from xdsl.ir import Block, Operation, SSAValue

from moec.codegen.llvm import F16, F32, I16, I32, Emitter, Value, vector, width_of
from moec.codegen.math import FUNCTIONS
from moec.dialects import moe
from moec.dialects.types import element_name

_Emit = Callable[[Emitter, Any, Sequence[Value]], Value]


def emit_region(e: Emitter, block: Block, arguments: Sequence[Value], outside: Mapping[SSAValue, Value]) -> list[Value]:
    """The values that a region of scalar operations yields, on scalars or vectors. `outside` holds what it captures."""
    width = max((width_of(argument) for argument in arguments), default=0)
    values: dict[SSAValue, Value] = dict(zip(block.args, arguments, strict=True))

    def value_of(operand: SSAValue) -> Value:
        value = values.get(operand)
        return outside[operand] if value is None else value

    for operation in block.ops:
        if isinstance(operation, moe.YieldOp):
            return [e.splat(value_of(operand), width) for operand in operation.values]
        operands = [e.splat(value_of(operand), width) for operand in operation.operands]
        values[operation.results[0]] = emit_scalar(e, operation, operands)
    raise AssertionError("a region ends with moe.yield")


def emit_scalar(e: Emitter, operation: Operation, operands: Sequence[Value]) -> Value:
    """One operation of `arith` or `math`."""
    return ELEMENTS[operation.name](e, operation, operands)


def is_scalar(operation: Operation) -> bool:
    return operation.name in ELEMENTS


def _constant(e: Emitter, operation: arith.ConstantOp, _: Sequence[Value]) -> Value:
    attribute = operation.value
    if isinstance(attribute, FloatAttr):
        value, dtype = ir.Constant(F32, attribute.value.data), element_name(attribute.type)
        return value if dtype == "f32" else narrow(e, value, dtype)
    assert isinstance(attribute, IntegerAttr)
    return ir.Constant(ir.IntType(attribute.type.width.data), attribute.value.data)  # pyright: ignore


def _binary(name: str) -> _Emit:
    return lambda e, operation, v: getattr(e.b, name)(v[0], v[1])


def _math(function: Callable[..., Value]) -> _Emit:
    return lambda e, operation, v: function(e.b, *v)


def _larger(e: Emitter, operation: Operation, v: Sequence[Value]) -> Value:
    return choose_nan(e, ">", v[0], v[1])


def _smaller(e: Emitter, operation: Operation, v: Sequence[Value]) -> Value:
    return choose_nan(e, "<", v[0], v[1])


def choose_nan(e: Emitter, order: str, left: Value, right: Value) -> Value:
    """The larger or smaller of two; NaN if either is."""
    wins = e.b.or_(e.b.fcmp_ordered(order, left, right), e.b.fcmp_unordered("uno", left, left))
    return e.b.select(wins, left, right)


_FLOAT_ORDER: Final = {
    1: ("==", True),
    2: (">", True),
    3: (">=", True),
    4: ("<", True),
    5: ("<=", True),
    13: ("!=", False),
}
_INTEGER_ORDER: Final = {0: "==", 1: "!=", 2: "<", 3: "<=", 4: ">", 5: ">="}
_UNSIGNED_ORDER: Final = {6: "<", 7: "<=", 8: ">", 9: ">="}


def _compare_floats(e: Emitter, operation: arith.CmpfOp, v: Sequence[Value]) -> Value:
    order, ordered = _FLOAT_ORDER[operation.predicate.value.data]
    return (e.b.fcmp_ordered if ordered else e.b.fcmp_unordered)(order, v[0], v[1])


def _compare_integers(e: Emitter, operation: arith.CmpiOp, v: Sequence[Value]) -> Value:
    predicate = operation.predicate.value.data
    if predicate in _UNSIGNED_ORDER:
        return e.b.icmp_unsigned(_UNSIGNED_ORDER[predicate], v[0], v[1])
    return e.b.icmp_signed(_INTEGER_ORDER[predicate], v[0], v[1])


def _floor_division(e: Emitter, operation: Operation, v: Sequence[Value]) -> Value:
    """Rounds down. Where processors trap: divided by zero is 0, and the one quotient beyond 64 bits wraps."""
    b, (left, right) = e.b, v
    zero, minus = (b.icmp_signed("==", right, e.like(right, value)) for value in (0, -1))
    divisor = b.select(b.or_(zero, minus), e.like(right, 1), right)
    quotient, remainder = b.sdiv(left, divisor), b.srem(left, divisor)
    inexact = b.icmp_signed("!=", remainder, e.like(remainder, 0))
    opposite = b.icmp_signed("<", b.xor(left, divisor), e.like(left, 0))
    rounded = b.sub(quotient, b.zext(b.and_(inexact, opposite), left.type))
    return b.select(zero, e.like(left, 0), b.select(minus, b.neg(left), rounded))


def _widen(e: Emitter, operation: arith.ExtFOp, v: Sequence[Value]) -> Value:
    return widen(e, v[0], "bf16" if isinstance(operation.input.type, BFloat16Type) else "f16")


def _round(e: Emitter, operation: arith.TruncFOp, v: Sequence[Value]) -> Value:
    return narrow(e, v[0], "f16" if isinstance(operation.result.type, Float16Type) else "bf16")


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
    return ir.Constant(ir.VectorType(type, width), [value] * width) if width else ir.Constant(type, value)


ELEMENTS: Final[dict[str, _Emit]] = {
    "arith.constant": _constant,
    "arith.addf": _binary("fadd"),
    "arith.subf": _binary("fsub"),
    "arith.mulf": _binary("fmul"),
    "arith.divf": _binary("fdiv"),
    "arith.negf": lambda e, operation, v: e.b.fneg(v[0]),
    "arith.maximumf": _larger,
    "arith.minimumf": _smaller,
    "arith.cmpf": _compare_floats,
    "arith.cmpi": _compare_integers,
    "arith.select": lambda e, operation, v: e.b.select(v[0], v[1], v[2]),
    "arith.addi": _binary("add"),
    "arith.subi": _binary("sub"),
    "arith.muli": _binary("mul"),
    "arith.floordivsi": _floor_division,
    "arith.maxsi": lambda e, operation, v: e.b.select(e.b.icmp_signed(">", v[0], v[1]), v[0], v[1]),
    "arith.minsi": lambda e, operation, v: e.b.select(e.b.icmp_signed("<", v[0], v[1]), v[0], v[1]),
    "arith.andi": _binary("and_"),
    "arith.ori": _binary("or_"),
    "arith.xori": _binary("xor"),
    "arith.sitofp": lambda e, operation, v: e.b.sitofp(v[0], vector(F32, width_of(v[0]))),
    "arith.uitofp": lambda e, operation, v: e.b.uitofp(v[0], vector(F32, width_of(v[0]))),
    "arith.extf": _widen,
    "arith.truncf": _round,
    **{name: _math(function) for name, function in FUNCTIONS.items()},
}
