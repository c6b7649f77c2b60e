"""Elementary functions of f32, written as branch-free LLVM arithmetic on one scalar or on a vector of any width.

Every emitter takes an `IRBuilder` and values of type `float` or `<N x float>`, appends instructions and returns a value
of the same type. Nothing here calls libm. The results stay within 2 ulp, subnormals included: each docstring gives the
bound, measured on every argument where the function bends and on one in 37 elsewhere (sin, cos, floor: on every one;
pow: on 8e7 pairs). One lane's bits do not depend on N; they differ between targets with FMA and without.

How that is kept, for whoever adds a function:

* products that may fuse are `llvm.fmuladd`: an FMA where the target has one, else a multiply and an add, never a call;
  everything else carries no fast-math flag, so nothing is contracted or reassociated behind our back;
* rounding to an integer adds 1.5 * 2^p (Cody & Waite 1980), because `llvm.rint` is a libm call before SSE4.1;
* `fptosi` of NaN is poison, so arguments are clamped by comparisons that let NaN through and NaN rides the arithmetic;
* each table of coefficients is a minimax fit found by linear programming on 1200 Chebyshev points with mpmath at 120
  bits; coefficients are rounded to the table's type one by one, lowest power first, the others refitted after each.

Imported by the other emitters of `moec.codegen`; imports nothing of moec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import pi
from typing import Any, Final, TypeAlias

from llvmlite import ir

Builder: TypeAlias = Any  #: ir.IRBuilder; llvmlite has no types of its own
Value: TypeAlias = Any  #: ir.Value
Type: TypeAlias = Any  #: ir.Type

_INF: Final = float("inf")
_NAN: Final = float("nan")
_LOG2_E: Final = 1.4426950408889634

# Encodings.
_SQRT_HALF_F32: Final = 0x3F3504F3
_SQRT_HALF_F64: Final = 0x3FE6A09E667F3BCD
_TWO_52_F64: Final = 0x4330000000000000

# ln 2 = high + low + 5.5e-14 (Cody & Waite): `high` has 16 bits, so its product with an exponent is exact.
_LN2_HIGH: Final = 0.693145751953125
_LN2_LOW: Final = 1.428606765330187e-06

# (e^r - 1 - r) / r^2 for |r| <= 1.002 ln 2; the error of 1 + r + r^2 p(r) is 2^-26.0 of e^r.
_EXP: Final = (
    0.5000003576278687,
    0.1666661649942398,
    0.04166121035814285,
    0.008335999213159084,
    0.0014105279697105289,
    0.00019623598200269043,
)
# (e^r - 1 - r) / r^2 for |r| <= 1.004 ln 2 / 2; the error of r + r^2 p(r) is 2^-26.1 of e^r - 1.
_EXPM1: Final = (
    0.4999999701976776,
    0.1666654497385025,
    0.04166743531823158,
    0.008366473950445652,
    0.00138709822203964,
)
# (log(1 + f) - f) / f^2 for sqrt(1/2) <= 1 + f <= sqrt(2); the error of f + f^2 p(f) is 2^-27.8 of log(1 + f).
_LOG1P: Final = (
    -0.49999988079071045,
    0.33333325386047363,
    -0.25001609325408936,
    0.20002004504203796,
    -0.16608411073684692,
    0.14180853962898254,
    -0.1324806809425354,
    0.12912940979003906,
    -0.0761905238032341,
)
# erf(x) / x - 1 in powers of x^2 for |x| <= 1.1; the error of x + x p(x^2) is 2^-27.6 of erf(x).
_ERF_SPLIT: Final = 1.1
_ERF_NEAR: Final = (
    0.12837916612625122,
    -0.37612611055374146,
    0.11283364146947861,
    -0.026843518018722534,
    0.005167731083929539,
    -0.0007824739441275597,
    7.23606935935095e-05,
)
# (1 - erf(x))^(1/4) in powers of x - 2.5 for 1.1 <= x <= 4; the error of 1 - p(x - 2.5)^4 is 2^-26.4, absolute.
_ERF_CENTRE: Final = 2.5
_ERF_LIMIT: Final = 4.0
_ERF_FAR: Final = (
    0.14203278720378876,
    -0.19006124138832092,
    0.0936300978064537,
    -0.012326656840741634,
    -0.006503184791654348,
    0.0027548279613256454,
    0.00010680127161322162,
    -0.00017562501307111233,
)
# log2(1 + f) / f, in f64, for sqrt(1/2) <= 1 + f <= sqrt(2); the error of f p(f) is 2^-35.8 of log2(1 + f).
_LOG2: Final = (
    1.442695040868703,
    -0.7213475208687309,
    0.4808983613959721,
    -0.36067367483404006,
    0.28853729343557444,
    -0.2404531652297551,
    0.20617536036308046,
    -0.1803006102677531,
    0.15876979572853606,
    -0.14315636144284663,
    0.14474839894279792,
    -0.14283973384665627,
    0.07737088415272557,
)
# 2^f, in f64, for |f| <= 1/2; the error is 2^-29.0 of 2^f.
_EXP2: Final = (
    1.0000000005541747,
    0.6931472057375069,
    0.24022646890741792,
    0.05550328776673678,
    0.009618488941823091,
    0.0013399931307091753,
    0.0001534581640727301,
)
# 2 / pi, to 256 bits.
_TWO_OVER_PI: Final = Fraction(0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561, 1 << 256)
# (sin r - r) / r^3 in powers of r^2 for |r| <= 0.564 pi / 2; the error of r + r^3 p(r^2) is 2^-26.5 of sin r.
_SIN: Final = (
    -0.1666664183139801,
    0.008331434801220894,
    -0.00019426691869739443,
)
# (cos r - 1 + r^2 / 2) / r^4 likewise; the error of 1 - r^2 / 2 + r^4 p(r^2) is 2^-31.1 of cos r.
_COS: Final = (
    0.04166662320494652,
    -0.0013886333908885717,
    2.4332237444468774e-05,
)


# Types and constants, alike for scalars and vectors.


def _retype(ty: Type, element: Type) -> Type:
    """`ty` with its lanes replaced by `element`: float -> i32, <8 x float> -> <8 x i32>."""
    return ir.VectorType(element, ty.count) if isinstance(ty, ir.VectorType) else element


def _lane(ty: Type) -> Type:
    """The type of one lane of `ty`."""
    return ty.element if isinstance(ty, ir.VectorType) else ty


class _Splat(ir.Constant):
    """A vector constant of equal lanes in LLVM's short spelling; llvmlite's own names every lane."""

    def _get_reference(self) -> str:
        return f"splat ({self.constant[0]})"


def _splat(like: Value, value: float) -> Value:
    """`value`, rounded to the lanes of `like`'s type, in every lane."""
    return (_Splat if isinstance(like.type, ir.VectorType) else ir.Constant)(like.type, value)


def _call(b: Builder, name: str, *args: Value) -> Value:
    """The intrinsic `name` on arguments of one type, which it also returns."""
    ty = args[0].type
    prefix = f"v{ty.count}" if isinstance(ty, ir.VectorType) else ""
    mangled = f"{name}.{prefix}{_lane(ty).intrinsic_name}"
    function = b.module.globals.get(mangled)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(ty, [ty] * len(args)), mangled)
    return b.call(function, args)


# Bits and comparisons.


def _encode(b: Builder, x: Value) -> Value:
    """The IEEE 754 encoding of `x`, as i32 or i64 lanes."""
    return b.bitcast(x, _retype(x.type, ir.IntType(32 if _lane(x.type) == ir.FloatType() else 64)))


def _decode(b: Builder, i: Value) -> Value:
    """The floating-point value that the i32 or i64 lanes of `i` encode."""
    return b.bitcast(i, _retype(i.type, ir.FloatType() if _lane(i.type).width == 32 else ir.DoubleType()))


def _copy_sign(b: Builder, magnitude: Value, sign: Value) -> Value:
    """|magnitude| with the sign of `sign`: the way to give an odd function its -0."""
    return _call(b, "llvm.copysign", magnitude, sign)


def _at_least(b: Builder, x: Value, low: float) -> Value:
    """max(x, low); NaN stays NaN. One `maxps`."""
    return b.select(b.fcmp_ordered("<", x, _splat(x, low)), _splat(x, low), x)


def _at_most(b: Builder, x: Value, high: float) -> Value:
    """min(x, high); NaN stays NaN. One `minps`."""
    return b.select(b.fcmp_ordered(">", x, _splat(x, high)), _splat(x, high), x)


# Arithmetic that the functions share.


def _fmuladd(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """x * y + z, rounded once where the target has FMA and twice elsewhere."""
    return _call(b, "llvm.fmuladd", x, y, z)


def _horner(b: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial in `x`, lowest power first."""
    *lower, top = coefficients
    value = _splat(x, top)
    for c in reversed(lower):
        value = _fmuladd(b, value, x, _splat(x, c))
    return value


def _round_to_power(b: Builder, x: Value, scale: float) -> tuple[Value, Value]:
    """n = the integer nearest to `x * scale`, as a float, and 2^n; its exponent must be normal.

    Adding 1.5 * 2^23 + bias leaves n + bias in the low bits of the sum, and nothing else in the low nine: shifted into
    the exponent's place they are the power. (f64: 52 and twelve.)
    """
    mantissa, bias = (23, 127) if _lane(x.type) == ir.FloatType() else (52, 1023)
    magic = _splat(x, 1.5 * 2.0**mantissa + bias)
    sum_ = _fmuladd(b, x, _splat(x, scale), magic)
    encoded = _encode(b, sum_)
    return b.fsub(sum_, magic), _decode(b, b.shl(encoded, _splat(encoded, mantissa)))


def _reduce_ln2(b: Builder, x: Value, n: Value, step: int) -> Value:
    """x - n step ln 2, in two steps (Cody & Waite 1980): the first is exact, so an absolute 2^-40 remains."""
    r = _fmuladd(b, n, _splat(x, -step * _LN2_HIGH), x)
    return _fmuladd(b, n, _splat(x, -step * _LN2_LOW), r)


def _reduce_expm1(b: Builder, x: Value) -> tuple[Value, Value]:
    """p = e^r - 1 and 2^n where x = n ln 2 + r, |r| <= ln 2 / 2: e^x - 1 = 2^n p + (2^n - 1)."""
    n, power = _round_to_power(b, x, _LOG2_E)
    r = _reduce_ln2(b, x, n, step=1)
    return _fmuladd(b, b.fmul(r, r), _horner(b, r, _EXPM1), r), power


def _split_exponent(b: Builder, x: Value) -> Value:
    """The exponent e of `x`, in place (e << 23), where sqrt(1/2) <= x / 2^e < sqrt(2), for normal positive `x`.

    Subtracted from a float's encoding, it divides that float by 2^e.
    """
    encoded = _encode(b, x)
    above = b.sub(encoded, _splat(encoded, _SQRT_HALF_F32))
    return b.and_(above, _splat(above, -1 << 23))


def _log_from_parts(b: Builder, f: Value, exponent: Value) -> Value:
    """e ln 2 + log(1 + f), for e as a float."""
    log1p = _fmuladd(b, b.fmul(f, f), _horner(b, f, _LOG1P), f)
    low = _fmuladd(b, exponent, _splat(f, _LN2_LOW), log1p)
    return _fmuladd(b, exponent, _splat(f, _LN2_HIGH), low)


def _limit_log(b: Builder, value: Value, x: Value) -> Value:
    """`value` amended where log's argument `x` is no positive number: -inf at 0, NaN below, inf and NaN kept."""
    value = b.select(b.fcmp_ordered("<", x, _splat(x, _INF)), value, x)
    value = b.select(b.fcmp_ordered("<", x, _splat(x, 0.0)), _splat(x, _NAN), value)
    return b.select(b.fcmp_ordered("==", x, _splat(x, 0.0)), _splat(x, -_INF), value)


def _parts_of_two_over_pi(e: int) -> tuple[float, float, float]:
    """2 / pi without its multiples of 2^(2 - e), in parts of 29, 29 and 53 bits.

    Of an x that is a multiple of 2^e the rest would be a multiple of 4; an f32 times 29 bits is exact in f64.
    """
    unit = Fraction(2) ** (2 - e)
    rest, parts = _TWO_OVER_PI - unit * round(_TWO_OVER_PI / unit), list[Fraction]()
    for last in (e + 28, e + 57):
        parts.append(Fraction(round(rest * 2**last), 2**last))
        rest -= parts[-1]
    return float(parts[0]), float(parts[1]), float(rest)


def _reduce_quarter(b: Builder, x: Value) -> tuple[Value, Value]:
    """r in f32, |r| < 0.89, and n modulo 4 in the low bits of an i32, where x = n pi/2 + r, of `x` from 0 up.

    Payne & Hanek 1983, in f64: of 2 / pi only those bits are multiplied that matter to n modulo 4 and to r, a window
    for every 26 binades. The exact `product - n` and the second product are added with one rounding, so r is right to a
    relative 2^-31 where x all but meets a multiple of pi/2: no f32 comes closer to one than 2^-30. n is the nearest
    integer but for 1/16, since its sum is rounded at 2^-3. r of infinity is NaN.
    """
    wide = b.fpext(x, _retype(x.type, ir.DoubleType()))
    high, middle, low = (_splat(wide, part) for part in _parts_of_two_over_pi(1))
    for e in (27, 53, 79):
        above = b.fcmp_ordered(">=", x, _splat(x, 2.0 ** (e + 23)))
        parts = (_splat(wide, part) for part in _parts_of_two_over_pi(e))
        high, middle, low = (b.select(above, *pair) for pair in zip(parts, (high, middle, low), strict=True))
    magic = _splat(wide, 1.5 * 2.0**52)
    product = b.fmul(wide, high)
    sum_ = b.fadd(_fmuladd(b, wide, middle, product), magic)
    quarters = _fmuladd(b, wide, middle, b.fsub(product, b.fsub(sum_, magic)))
    r = b.fmul(_fmuladd(b, wide, low, quarters), _splat(wide, pi / 2))
    return b.fptrunc(r, x.type), b.trunc(_encode(b, sum_), _retype(x.type, ir.IntType(32)))


def _sine_from_parts(b: Builder, r: Value, n: Value) -> Value:
    """sin(n pi/2 + r)."""
    square = b.fmul(r, r)
    sine = _fmuladd(b, b.fmul(square, r), _horner(b, square, _SIN), r)
    cosine = _horner(b, square, (1.0, -0.5, *_COS))
    odd = b.icmp_signed("!=", b.and_(n, _splat(n, 1)), _splat(n, 0))
    sign = b.shl(b.and_(n, _splat(n, 2)), _splat(n, 30))
    return _decode(b, b.xor(_encode(b, b.select(odd, cosine, sine)), sign))


# The functions.


def emit_abs(b: Builder, x: Value) -> Value:
    """|x|, exact."""
    return _call(b, "llvm.fabs", x)


def emit_sqrt(b: Builder, x: Value) -> Value:
    """The square root, correctly rounded."""
    return _call(b, "llvm.sqrt", x)


def emit_rsqrt(b: Builder, x: Value) -> Value:
    """1 / sqrt(x), within 1.50 ulp; rsqrt(-0) = -inf (IEEE 754 rSqrt).

    Two instructions of full precision: an estimate and Newton steps are faster but lose the subnormals.
    """
    return b.fdiv(_splat(x, 1.0), emit_sqrt(b, x))


def emit_exp(b: Builder, x: Value) -> Value:
    """e^x, within 1.62 ulp (1.96 without FMA), as (2^m)^2 e^r with x = 2 m ln 2 + r.

    After Cody & Waite 1980 and Muller, Elementary Functions. The even exponent costs one more coefficient and saves
    what splitting 2^n in two costs: either half is a normal number, and the second product rounds once into the
    subnormals or overflows to infinity.
    """
    x = _at_most(b, _at_least(b, x, -104.0), 89.0)
    m, power = _round_to_power(b, x, _LOG2_E / 2)
    p = _horner(b, _reduce_ln2(b, x, m, step=2), (1.0, 1.0, *_EXP))
    return b.fmul(b.fmul(p, power), power)


def emit_tanh(b: Builder, x: Value) -> Value:
    """(1 - e^-2|x|) / (1 + e^-2|x|), within 1.96 ulp (1.99 without FMA); its numerator cancels nothing."""
    p, power = _reduce_expm1(b, b.fmul(_at_most(b, emit_abs(b, x), 9.5), _splat(x, -2.0)))
    negative = _fmuladd(b, power, p, b.fsub(power, _splat(x, 1.0)))
    return _copy_sign(b, b.fdiv(negative, _fmuladd(b, power, p, b.fadd(power, _splat(x, 1.0)))), x)


def emit_log(b: Builder, x: Value) -> Value:
    """log x, within 0.92 ulp, from the exponent and a mantissa around 1 (Cody & Waite 1980)."""
    subnormal = b.fcmp_ordered("<", x, _splat(x, 2.0**-126))
    normal = b.select(subnormal, b.fmul(x, _splat(x, 2.0**23)), x)
    e = _split_exponent(b, normal)
    mantissa = _decode(b, b.sub(_encode(b, normal), e))
    exponent = b.sitofp(b.ashr(e, _splat(e, 23)), x.type)
    exponent = b.select(subnormal, b.fsub(exponent, _splat(x, 23.0)), exponent)
    return _limit_log(b, _log_from_parts(b, b.fsub(mantissa, _splat(x, 1.0)), exponent), x)


def emit_erf(b: Builder, x: Value) -> Value:
    """erf x, within 1.51 ulp (1.68 without FMA): x + x p(x^2) near 0, and 1 - p(|x| - 2.5)^4 beyond.

    The fourth root of erfc is closer to a polynomial than erfc is: two squarings save four coefficients.
    """
    near = _fmuladd(b, _horner(b, b.fmul(x, x), _ERF_NEAR), x, x)
    magnitude = emit_abs(b, x)
    root = _horner(b, b.fsub(_at_most(b, magnitude, _ERF_LIMIT), _splat(x, _ERF_CENTRE)), _ERF_FAR)
    square = b.fmul(root, root)
    far = _copy_sign(b, _fmuladd(b, b.fneg(square), square, _splat(x, 1.0)), x)
    return b.select(b.fcmp_ordered("<", magnitude, _splat(x, _ERF_SPLIT)), near, far)


def emit_sin(b: Builder, x: Value) -> Value:
    """sin x, within 1.64 ulp (1.65 without FMA), of every f32, the largest too; -0 at -0, NaN at infinity."""
    value = _encode(b, _sine_from_parts(b, *_reduce_quarter(b, emit_abs(b, x))))
    return _decode(b, b.xor(value, b.and_(_encode(b, x), _splat(value, -1 << 31))))


def emit_cos(b: Builder, x: Value) -> Value:
    """cos x, within 1.64 ulp, of every f32, as the sine of what is a quarter of a turn further."""
    r, n = _reduce_quarter(b, emit_abs(b, x))
    return _sine_from_parts(b, r, b.add(n, _splat(n, 1)))


def emit_floor(b: Builder, x: Value) -> Value:
    """The largest integer that is not above x, exact; -0, infinities and what has no fraction stay.

    `llvm.floor` is a libm call before SSE4.1: adding 2^23 rounds |x| to an integer, which is one too large, or right.
    """
    magnitude, large = emit_abs(b, x), _splat(x, 2.0**23)
    nearest = _copy_sign(b, b.fsub(b.fadd(magnitude, large), large), x)
    above = b.fcmp_ordered(">", nearest, x)
    value = b.select(above, b.fsub(nearest, _splat(x, 1.0)), nearest)
    return b.select(b.fcmp_ordered("<", magnitude, large), value, x)


def _take_log2(b: Builder, x: Value) -> Value:
    """log2 of positive normal f64 to a relative 2^-35.8; of 0 and inf some number of the right sign beyond 1022."""
    encoded = _encode(b, x)
    above = b.add(encoded, _splat(encoded, (1023 << 52) - _SQRT_HALF_F64))  # (e + 1023) << 52 | ...
    e = b.or_(b.lshr(above, _splat(above, 52)), _splat(above, _TWO_52_F64))  # AVX2 cannot convert i64 to f64
    exponent = b.fsub(_decode(b, e), _splat(x, 2.0**52 + 1023))
    scale = b.sub(b.and_(above, _splat(above, -1 << 52)), _splat(above, 1023 << 52))
    f = b.fsub(_decode(b, b.sub(encoded, scale)), _splat(x, 1.0))
    return _fmuladd(b, f, _horner(b, f, _LOG2), exponent)


def _raise_two(b: Builder, x: Value) -> Value:
    """2^x of f64 to a relative 2^-29, saturating at 2^-200 and 2^200."""
    x = _at_most(b, _at_least(b, x, -200.0), 200.0)
    n, power = _round_to_power(b, x, 1.0)
    return b.fmul(_horner(b, b.fsub(x, n), _EXP2), power)


def _split_parity(b: Builder, y: Value) -> tuple[Value, Value]:
    """Whether `y` is an integer, and its parity in the lowest bit; all from 2^24 up are even integers, NaN too."""
    magnitude = emit_abs(b, y)
    small = b.fcmp_ordered("<", magnitude, _splat(y, 2.0**24))
    clamped = b.select(small, magnitude, _splat(y, 2.0**24))
    integer = b.fptosi(clamped, _retype(y.type, ir.IntType(32)))
    return b.fcmp_ordered("==", b.sitofp(integer, y.type), clamped), integer


def emit_pow(b: Builder, x: Value, y: Value) -> Value:
    """x^y, within 0.55 ulp, as 2^(y log2 |x|) in f64, which needs no extra-precise arithmetic and rounds once.

    Edges as in C (Annex F.10.4.4): pow(x, 0) = pow(1, y) = 1 even for NaN, pow(-1, +-inf) = 1, NaN for x < 0 finite
    and y no integer, and the sign of x for odd y.
    """
    magnitude = emit_abs(b, x)
    integral, parity = _split_parity(b, y)
    # log2 comes out finite for 0 and inf, so y is made as good as infinite; and an infinite y finite, for 0 * inf
    endless = b.or_(b.fcmp_ordered("==", magnitude, _splat(x, 0.0)), b.fcmp_ordered("==", magnitude, _splat(x, _INF)))
    exponent = b.select(endless, b.fmul(y, _splat(y, _INF)), y)
    exponent = _at_most(b, _at_least(b, exponent, -(2.0**40)), 2.0**40)

    wide = _retype(x.type, ir.DoubleType())
    product = b.fmul(b.fpext(exponent, wide), _take_log2(b, b.fpext(magnitude, wide)))
    value = b.fptrunc(_raise_two(b, product), x.type)

    odd = b.select(integral, b.shl(parity, _splat(parity, 31)), _splat(parity, 0))
    value = _copy_sign(b, value, _decode(b, b.and_(odd, _encode(b, x))))
    negative = b.and_(b.fcmp_ordered("<", x, _splat(x, 0.0)), b.fcmp_ordered(">", x, _splat(x, -_INF)))
    value = b.select(b.and_(negative, b.not_(integral)), _splat(x, _NAN), value)
    value = b.select(b.fcmp_unordered("uno", x, y), b.fadd(x, y), value)
    one = b.or_(b.fcmp_ordered("==", x, _splat(x, 1.0)), b.fcmp_ordered("==", y, _splat(y, 0.0)))
    return b.select(one, _splat(x, 1.0), value)


FUNCTIONS: Final[dict[str, Callable[..., Value]]] = {
    "math.absf": emit_abs,
    "math.cos": emit_cos,
    "math.erf": emit_erf,
    "math.exp": emit_exp,
    "math.floor": emit_floor,
    "math.log": emit_log,
    "math.powf": emit_pow,
    "math.rsqrt": emit_rsqrt,
    "math.sin": emit_sin,
    "math.sqrt": emit_sqrt,
    "math.tanh": emit_tanh,
}
"""The emitter of each MLIR `math` operation; its arguments are the builder and the operation's operands."""
