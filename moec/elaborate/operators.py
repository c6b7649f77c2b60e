"""Operators between values: numbers are folded, everything else becomes operations on elements, or `@`."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Final

from xdsl.dialects import arith, math
from xdsl.ir import Operation, SSAValue

from moec.diagnostics import fail
from moec.dialects import moe
from moec.dialects.types import BOOL, I64, element_of
from moec.dims import ONE, ZERO, Dim, power
from moec.elaborate.builder import Builder, index_bounds
from moec.elaborate.selections import as_selection
from moec.elaborate.values import Array, Number, Selection, Value, by_rows, kind_of, show
from moec.language import syntax
from moec.language.foreign import JOINED
from moec.source import Span

_FLOAT_OPS: Final[dict[str, Callable[..., Operation]]] = {
    "+": arith.AddfOp,
    "-": arith.SubfOp,
    "*": arith.MulfOp,
    "/": arith.DivfOp,
}
_INTEGER_OPS: Final[dict[str, Callable[..., Operation]]] = {
    "+": arith.AddiOp,
    "-": arith.SubiOp,
    "*": arith.MuliOp,
    "/": arith.FloorDivSIOp,
}
#: The predicates of `arith.cmpf` and `arith.cmpi`.
_COMPARE: Final = {
    "<": ("olt", "slt"),
    "<=": ("ole", "sle"),
    ">": ("ogt", "sgt"),
    ">=": ("oge", "sge"),
    "==": ("oeq", "eq"),
    "!=": ("une", "ne"),
}
_LOGIC: Final[dict[str, Callable[..., Operation]]] = {"and": arith.AndIOp, "or": arith.OrIOp}
_LIMITS: Final[dict[str, Callable[[float, float], float]]] = {
    "+": float.__add__,
    "-": float.__sub__,
    "*": float.__mul__,
    "/": float.__truediv__,
}

#: The most characters of an operand that a help repeats.
_LONG: Final = 24

#: How many binary digits a compile-time number, or its denominator, may have.
_MAX_BITS: Final = 8192


def _truth(condition: bool, span: Span) -> Number:
    return Number(Dim.of(int(condition)), span, truth=True)


def unary(builder: Builder, node: syntax.Unary, value: Value) -> Value:
    """`+`, `-` or `not` of a value."""
    if node.op == "not":
        return _not(builder, value, node)
    if isinstance(value, Number):
        return Number(-value.dim if node.op == "-" else value.dim, node.span)
    if node.op == "+":
        return value
    if isinstance(value, Array) and value.element == "i64":
        return _integers(builder, "-", Array(builder.number(ZERO, I64), node.span), value, node.span)
    return builder.pointwise([builder.f32(value, node.operand.span)], node.span, arith.NegfOp)


def _not(builder: Builder, value: Value, node: syntax.Unary) -> Value:
    if isinstance(value, Number):
        return _truth(not holds(value, node.operand.span), node.span)
    array = truth_of(builder, value, node.operand.span)
    one = Array(builder.number(ONE, BOOL), node.span)
    return builder.pointwise([array, one], node.span, arith.XOrIOp)


def binary(builder: Builder, node: syntax.Binary, left: Value, right: Value) -> Value:
    """The value of an operator between two values."""
    try:
        return _BINARY[node.op](builder, node, left, right)
    except OverflowError as error:
        raise fail("E0206", f"`{node.span.text}`: {error}", node.span) from None


def _arithmetic(builder: Builder, node: syntax.Binary, left: Value, right: Value) -> Value:
    if isinstance(left, Number) and isinstance(right, Number):
        return _fold(builder, node, left.dim, right.dim)
    if builder.is_integral(left) and builder.is_integral(right):
        pair = (builder.array(left, node.left.span, I64), builder.array(right, node.right.span, I64))
        return _integers(builder, node.op, *pair, node.span)
    if node.op == "%":
        raise fail("E0204", "`%` works on integers", node.span)
    pair = (builder.f32(left, node.left.span), builder.f32(right, node.right.span))
    _require_same_shape(builder, node, *pair)
    return builder.pointwise(pair, node.span, _FLOAT_OPS[node.op])


def _require_same_shape(builder: Builder, node: syntax.Binary, left: Array, right: Array) -> None:
    """Raises `CompileError` (E0201) where arrays differ in shape."""
    if left.shape and right.shape and left.shape != right.shape:
        raise builder.mismatch(left, right, node.span, help=_row_by_row(node, left, right))


def _row_by_row(node: syntax.Binary, left: Array, right: Array) -> str | None:
    """The help for a matrix beside a vector that fits its rows, or has an element for each."""
    matrix, vector = (left, right) if len(left.shape) > len(right.shape) else (right, left)
    if len(matrix.shape) != 2 or vector.shape not in (matrix.shape[1:], matrix.shape[:1]):
        return None
    items = ["[i]" if array is matrix or vector.shape != matrix.shape[1:] else "" for array in (left, right)]
    first, second = _short(node.left, "a") + items[0], _short(node.right, "b") + items[1]
    return f"`{by_rows(matrix, f'{first} {node.op} {second}')}` is of every row"


def _short(node: syntax.Expr, other: str) -> str:
    """An operand as a help writes it, behind which brackets may stand: as it is, or by another name."""
    text = node.span.text
    plain = isinstance(node, syntax.Name | syntax.Index | syntax.Call | syntax.Group)
    return text if plain and len(text) <= _LONG and "\n" not in text else other


def _fold(builder: Builder, node: syntax.Binary, left: Dim, right: Dim) -> Number:
    match node.op:
        case "+":
            dim = left + right
        case "-":
            dim = left - right
        case "*":
            dim = left * right
        case "/":
            if builder.known(right) == 0:
                raise fail("E0202", f"`{node.right.span.text}` is zero", node.right.span)
            dim = left / right
        case _:
            dim = _remainder(builder, node, left, right)
    if not (left.finite and right.finite):
        dim = _limit(builder, node.op, left, right) or dim
    return _in_range(builder, dim, node.span)


def _limit(builder: Builder, op: str, left: Dim, right: Dim) -> Dim | None:
    """Arithmetic with infinity, which no formula knows: `inf - inf` is NaN."""
    a, b = builder.known(left), builder.known(right)
    if a is None or b is None or op not in _LIMITS:
        return None
    signs = [value if isinstance(value, float) else float((value > 0) - (value < 0)) for value in (a, b)]
    return Dim.of(_LIMITS[op](*signs))


def _in_range(builder: Builder, dim: Dim, span: Span) -> Number:
    """A number that is not too large to be written down. Raises `CompileError` (E0206)."""
    value = builder.known(dim)
    if isinstance(value, Fraction) and max(abs(value.numerator), value.denominator).bit_length() > _MAX_BITS:
        raise fail("E0206", "this number has too many digits", span)
    return Number(dim, span)


def _remainder(builder: Builder, node: syntax.Binary, left: Dim, right: Dim) -> Dim:
    a, b = builder.known(left), builder.known(right)
    if a is None or b is None:
        raise fail("E0301", "`%` of dimensions needs their values", node.span)
    if not all(isinstance(value, Fraction) and value.denominator == 1 for value in (a, b)):
        raise fail("E0204", "`%` works on integers", node.span)
    if b == 0:
        raise fail("E0202", f"`{node.right.span.text}` is zero", node.right.span)
    return Dim.of(a % b)


def _integers(builder: Builder, op: str, left: Array, right: Array, span: Span) -> Array:
    ends = (right.bounds.low, right.bounds.high - ONE) if right.bounds is not None and op in ("/", "%") else ()
    if ends and all(builder.known(end) == 0 for end in ends):
        raise fail("E0202", f"`{span.text}` divides by zero", span)

    def emit(a: SSAValue, b: SSAValue) -> SSAValue:
        if op != "%":
            return builder.emit(_INTEGER_OPS[op](a, b))
        quotient = builder.emit(arith.FloorDivSIOp(a, b))
        return builder.emit(arith.SubiOp(a, builder.emit(arith.MuliOp(quotient, b))))

    result = builder.pointwise([left, right], span, emit)
    bounds = None if result.shape else index_bounds(op, left, right, builder.known)
    return Array(result.ssa, result.origin, result.restriction, bounds)


def _power(builder: Builder, node: syntax.Binary, left: Value, right: Value) -> Value:
    if isinstance(left, Number) and isinstance(right, Number):
        exponent = builder.known(right.dim)
        if isinstance(exponent, float) or exponent is None:
            raise fail("E0204", "the power of a number needs a known exponent", node.right.span)
        try:
            return _in_range(builder, power(left.dim, exponent, builder.known(left.dim)), node.span)
        except (ValueError, ZeroDivisionError) as error:
            raise fail("E0202", f"`{node.span.text}`: {error}", node.span) from None
    return _raise_to(builder, builder.f32(left, node.left.span), right, node.span, node.right.span)


def _raise_to(builder: Builder, base: Array, exponent: Value, span: Span, place: Span) -> Array:
    """`base ** exponent`; exponents that are known and simple need no logarithm."""
    known = builder.known(exponent.dim) if isinstance(exponent, Number) and not exponent.truth else None
    if known == Fraction(1, 2):
        return builder.pointwise([base], span, math.SqrtOp)
    if known == Fraction(-1, 2):
        return builder.pointwise([base], span, math.RsqrtOp)
    if isinstance(known, Fraction) and known.denominator == 1 and 0 < known <= 16:
        return builder.pointwise([base], span, partial(_repeated, builder, times=int(known)))
    other = builder.f32(exponent, place)
    return builder.pointwise([base, other], span, math.PowFOp)


def _repeated(builder: Builder, value: SSAValue, times: int) -> SSAValue:
    """A power by squaring."""
    if times == 1:
        return value
    half = _repeated(builder, value, times // 2)
    square = builder.emit(arith.MulfOp(half, half))
    return builder.emit(arith.MulfOp(square, value)) if times % 2 else square


def _compare(builder: Builder, node: syntax.Binary, left: Value, right: Value) -> Value:
    floats, integers = _COMPARE[node.op]
    if isinstance(left, Number) and isinstance(right, Number):
        return _compare_numbers(builder, node, left, right)
    integral = builder.is_integral(left) and builder.is_integral(right)
    logical = node.op in ("==", "!=") and builder.is_truth(left) and builder.is_truth(right)
    if integral or logical:
        pair = (builder.array(left, node.left.span, I64), builder.array(right, node.right.span, I64))
        return builder.pointwise(pair, node.span, partial(arith.CmpiOp, arg=integers))
    pair = (builder.f32(left, node.left.span), builder.f32(right, node.right.span))
    return builder.pointwise(pair, node.span, partial(arith.CmpfOp, arg=floats))


def _compare_numbers(builder: Builder, node: syntax.Binary, left: Number, right: Number) -> Number:
    a, b = (builder.settled(number.dim, "this comparison", node.span) for number in (left, right))
    results = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}
    return _truth(results[node.op], node.span)


def _logic(builder: Builder, node: syntax.Binary, left: Value, right: Value) -> Value:
    if isinstance(left, Number) and isinstance(right, Number):
        a, b = holds(left, node.left.span), holds(right, node.right.span)
        return _truth(a and b if node.op == "and" else a or b, node.span)
    pair = (truth_of(builder, left, node.left.span), truth_of(builder, right, node.right.span))
    return builder.pointwise(pair, node.span, _LOGIC[node.op])


def holds(number: Number, span: Span) -> bool:
    """Whether a truth that is known while compiling holds. Raises `CompileError` (E0204) for a number."""
    _require_truth(number, number.truth, span)
    return number.dim == ONE


def truth_of(builder: Builder, value: Value, span: Span) -> Array:
    """An array of truth values, or one. Raises `CompileError` (E0204) where it is none."""
    _require_truth(value, builder.is_truth(value), span)
    return builder.array(value, span)


def _require_truth(value: Value, found: bool, span: Span) -> None:
    if not found:
        suggestion = "compare it: `n != 0`" if isinstance(value, Number) else None
        suggestion = JOINED if isinstance(value, Selection) else suggestion
        raise fail("E0204", f"{kind_of(value)} stands where a truth value is needed", span, help=suggestion)


def _in(builder: Builder, node: syntax.Binary, left: Value, right: Value) -> Value:
    index = builder.array(left, node.left.span, I64)
    selection = as_selection(right, node.right.span)
    if index.element != "i64":
        raise fail("E0204", f"{kind_of(left)} stands where an index is needed", node.left.span)
    return builder.pointwise([index], node.span, partial(moe.ContainsOp.make, selection.ssa))


def _contract(builder: Builder, node: syntax.Binary, left: Value, right: Value) -> Value:
    weight, vector = builder.array(left, node.left.span), builder.array(right, node.right.span)
    if weight.element in ("i64", "bool"):
        raise fail("E0204", f"`@` contracts numbers, not {weight.element}", node.left.span)
    if not weight.shape or len(vector.shape) != 1:
        wrong = node.right.span if weight.shape else node.left.span
        hint = "write `W.T @ v` for a vector times a matrix, `each i in 0..n: W @ A[i]` for several vectors"
        what = f"`{show(weight.shape)} @ {show(vector.shape)}`: `@` takes a vector on the right"
        raise fail("E0204", what, wrong, help=hint)
    if weight.shape[-1] != vector.shape[0]:
        raise builder.mismatch(weight, vector, node.span, (weight.shape[-1], vector.shape[0]))
    if len(weight.shape) == 1:
        builder.common_restriction([weight, vector], node.span)
        weight = builder.masked(weight)
    vector = builder.masked(builder.cast_array(vector, element_of(weight.ssa.type), node.right.span))
    restriction = weight.restriction if len(weight.shape) > 1 else None
    return Array(builder.emit(moe.ContractOp.make(weight.ssa, vector.ssa)), weight.origin, restriction)


_BINARY: Final[dict[str, Callable[..., Value]]] = {
    **dict.fromkeys(("+", "-", "*", "/", "%"), _arithmetic),
    **dict.fromkeys(_COMPARE, _compare),
    "**": _power,
    "@": _contract,
    "and": _logic,
    "or": _logic,
    "in": _in,
}
