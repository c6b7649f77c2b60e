"""Pointwise operations of `arith` and `math` on scalars or vectors: a table from operation to the code for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from llvmlite import ir
from xdsl.dialects import arith
from xdsl.dialects.builtin import BFloat16Type, Float16Type, FloatAttr, IntegerAttr
from xdsl.ir import Block, Operation, SSAValue

from moec.codegen.floats import narrow, widen
from moec.codegen.llvm import F32, Emitter, Value, vector, width_of
from moec.codegen.math import FUNCTIONS
from moec.dialects import moe
from moec.dialects.types import element_name

_Emit = Callable[[Emitter, Any, Sequence[Value]], Value]


def emit_region(e: Emitter, block: Block, arguments: Sequence[Value], outside: Mapping[SSAValue, Value]) -> Value:
    """The value that a region of scalar operations yields, on scalars or vectors. `outside` holds what it captures."""
    width = max((width_of(argument) for argument in arguments), default=0)
    values: dict[SSAValue, Value] = dict(zip(block.args, arguments, strict=True))

    def value_of(operand: SSAValue) -> Value:
        value = values.get(operand)
        return outside[operand] if value is None else value

    for operation in block.ops:
        if isinstance(operation, moe.YieldOp):
            return e.splat(value_of(operation.value), width)
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
