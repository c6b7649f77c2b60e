"""Compile-time numbers as formulas over dimensions: `E / G`, `2 * I`, `H ** -0.5`.

A `Dim` is kept in a normal form, a sum of products with rational coefficients, so that two formulas that are equal as
polynomials compare equal before any dimension has a value. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from typing import Final


@dataclass(frozen=True, slots=True)
class Power:
    """A factor that no polynomial has: a sum, or a root, raised to a power."""

    base: Dim
    exponent: Fraction


Factor = str | Power
Monomial = tuple[tuple[Factor, int], ...]

#: The largest exponent of a number, and how many terms a formula may have: beyond either nobody means it.
_MAX_EXPONENT: Final = 1024
_MAX_TERMS: Final = 256

_REALS: Final = {"inf": math.inf, "pi": math.pi, "nan": math.nan}


class Unbound(Exception):
    """A dimension without a value was needed. `name` is the dimension."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Dim:
    """A compile-time number. Build it with `Dim.of`, names with `Dim.symbol`, then `+ - * / **`, of which those that
    multiply raise `OverflowError` where the formula becomes too long."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def of(value: int | Fraction | float | Dim) -> Dim:
        if isinstance(value, Dim):
            return value
        if isinstance(value, float) and not math.isfinite(value):
            return Dim.symbol("nan") if math.isnan(value) else Dim.symbol("inf") * Dim.of(1 if value > 0 else -1)
        return _normal({(): Fraction(value)})

    @staticmethod
    def symbol(name: str) -> Dim:
        return _normal({((name, 1),): Fraction(1)})

    @cached_property
    def constant(self) -> Fraction | None:
        """The value, where the formula names no dimension."""
        if not self.terms:
            return Fraction(0)
        (monomial, coefficient), *more = self.terms
        return coefficient if not more and not monomial else None

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(name for name in _names(self) if name not in _REALS)

    @property
    def finite(self) -> bool:
        """Whether neither infinity nor NaN stands in the formula."""
        return not any(name in _REALS and name != "pi" for name in _names(self))

    def evaluate(self, binding: Mapping[str, int]) -> Fraction | float:
        """The value under a binding of dimensions. Raises `Unbound`, `ZeroDivisionError`."""
        total: Fraction | float = Fraction(0)
        for monomial, coefficient in self.terms:
            product: Fraction | float = coefficient
            for factor, exponent in monomial:
                product = product * _factor(factor, binding) ** exponent
            total = total + product
        return total

    def substitute(self, binding: Mapping[str, int]) -> Dim:
        """The number that the formula is under a binding."""
        value = self.evaluate(binding)
        return Dim.of(value) if isinstance(value, Fraction) or not math.isfinite(value) else _inexact(value)

    def __add__(self, other: Dim) -> Dim:
        terms = dict(self.terms)
        for monomial, coefficient in other.terms:
            terms[monomial] = terms.get(monomial, Fraction(0)) + coefficient
        return _normal(terms)

    def __neg__(self) -> Dim:
        return self * Dim.of(-1)

    def __sub__(self, other: Dim) -> Dim:
        return self + -other

    def __mul__(self, other: Dim) -> Dim:
        terms: dict[Monomial, Fraction] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                monomial = _product(left, right)
                terms[monomial] = terms.get(monomial, Fraction(0)) + a * b
            if len(terms) > _MAX_TERMS:
                raise OverflowError(f"this formula has more than {_MAX_TERMS} terms")
        return _normal(terms)

    def __truediv__(self, other: Dim) -> Dim:
        return self * other ** Fraction(-1)

    def __pow__(self, exponent: Fraction) -> Dim:
        if exponent.denominator == 1 and 0 <= exponent <= 8:
            return _repeat(self, int(exponent))
        if len(self.terms) == 1 and exponent.denominator == 1:
            ((monomial, coefficient),) = self.terms
            powers = tuple((factor, power * int(exponent)) for factor, power in monomial)
            return _normal({powers: coefficient ** int(exponent)})
        if not self.terms and exponent < 0:
            raise ZeroDivisionError
        return _normal({((Power(self, exponent), 1),): Fraction(1)})

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        text = " + ".join(_print_term(monomial, coefficient) for monomial, coefficient in self.terms)
        return text.replace("+ -", "- ")


def power(base: Dim, exponent: Fraction, value: Fraction | float | None) -> Dim:
    """`base ** exponent`, where `value` is what is known of the base.

    Raises, each with what is wrong, `OverflowError`, `ZeroDivisionError` and, for a root of a negative number,
    `ValueError`.
    """
    if abs(exponent) > _MAX_EXPONENT:
        raise OverflowError(f"the exponent of a number is beyond {_MAX_EXPONENT}")
    if value == 0 and exponent < 0:
        raise ZeroDivisionError("this divides by zero")
    if value is not None and value < 0 and exponent.denominator != 1:
        raise ValueError("this is a root of a negative number")
    return base**exponent


def ceiling(dim: Dim, divisor: int, binding: Mapping[str, int] | None = None) -> Dim | None:
    """`dim / divisor` rounded up, as a formula: where all but the constant divides, as in `(2*I - 1) / 2`; under a
    `binding` also where it does so by its value, as `H / 2` does for an even `H`."""
    if divisor == 1:
        return dim
    constant = dict(dim.terms).get((), Fraction(0))
    rest = (dim - Dim.of(constant)) / Dim.of(divisor)
    if constant.denominator != 1 or not _divides(rest, binding or {}):
        return None
    return rest + Dim.of(-(-int(constant) // divisor))


def _divides(dim: Dim, binding: Mapping[str, int]) -> bool:
    if all(coefficient.denominator == 1 for _, coefficient in dim.terms):
        return True
    try:
        value = dim.evaluate(binding)
    except (Unbound, ZeroDivisionError):
        return False
    return isinstance(value, Fraction) and value.denominator == 1


def product(dims: Iterable[Dim]) -> Dim:
    result = ONE
    for dim in dims:
        result = result * dim
    return result


def _inexact(value: float) -> Dim:
    return Dim.of(Fraction(value))


def _names(dim: Dim) -> Iterable[str]:
    for monomial, _ in dim.terms:
        for factor, _ in monomial:
            if isinstance(factor, str):
                yield factor
            else:
                yield from _names(factor.base)


def _factor(factor: Factor, binding: Mapping[str, int]) -> Fraction | float:
    if isinstance(factor, Power):
        base = factor.base.evaluate(binding)
        if factor.exponent.denominator == 1 and isinstance(base, Fraction):
            return base ** int(factor.exponent)
        return float(base) ** float(factor.exponent)
    if factor in _REALS:
        return _REALS[factor]
    if factor not in binding:
        raise Unbound(factor)
    return Fraction(binding[factor])


def _normal(terms: Mapping[Monomial, Fraction]) -> Dim:
    kept = ((_sorted(monomial), coefficient) for monomial, coefficient in terms.items() if coefficient)
    return Dim(tuple(sorted(kept, key=lambda term: (not term[0], str(term[0])))))


def _sorted(monomial: Monomial) -> Monomial:
    return tuple(sorted((pair for pair in monomial if pair[1]), key=lambda pair: (pair[1] < 0, str(pair[0]))))


def _product(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for factor, exponent in right:
        powers[factor] = powers.get(factor, 0) + exponent
    return _sorted(tuple(powers.items()))


def _repeat(base: Dim, times: int) -> Dim:
    result = ONE
    for _ in range(times):
        result = result * base
    return result


def _print_number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator} / {value.denominator}"


def _print_term(monomial: Monomial, coefficient: Fraction) -> str:
    over = [(factor, power) for factor, power in monomial if power > 0]
    under = [(factor, -power) for factor, power in monomial if power < 0]
    many, parts = abs(coefficient).numerator, abs(coefficient).denominator
    factors = [_print_factor(*pair) for pair in over]
    head = "*".join(factors if factors and many == 1 else [str(many), *factors])
    tail = "".join(f"/{_print_factor(*pair)}" for pair in under)
    return ("-" if coefficient < 0 else "") + head + tail + ("" if parts == 1 else f" / {parts}")


def _print_factor(factor: Factor, power: int) -> str:
    if isinstance(factor, Power):
        exponent = factor.exponent
        text = f"({factor.base})^({_print_number(exponent)})"
    else:
        text = factor
    return text if power == 1 else f"{text}^{power}"


# ── reading what `str` prints, as it stands in IR ─────────────────────────────────────────────────────────────────────


@cache
def parse_dim(text: str) -> Dim:
    """The inverse of `str(dim)`. Raises `ValueError`."""
    tokens = _tokens(text)
    dim, rest = _sum(tokens)
    if rest:
        raise ValueError(f"unexpected {rest[0]!r} in dimension {text!r}")
    return dim


def _tokens(text: str) -> list[str]:
    import re

    tokens = re.findall(r"[A-Za-z_]\w*|\d+|[-+*/^()]|\S", text)
    return tokens


def _sum(tokens: list[str]) -> tuple[Dim, list[str]]:
    negative = bool(tokens) and tokens[0] == "-"
    value, tokens = _chain(tokens[negative:])
    total = -value if negative else value
    while tokens and tokens[0] in "+-":
        value, rest = _chain(tokens[1:])
        total = total + value if tokens[0] == "+" else total - value
        tokens = rest
    return total, tokens


def _chain(tokens: list[str]) -> tuple[Dim, list[str]]:
    operators: dict[str, Callable[[Dim, Dim], Dim]] = {"*": Dim.__mul__, "/": Dim.__truediv__}
    total, tokens = _raised(tokens)
    while tokens and tokens[0] in operators:
        value, rest = _raised(tokens[1:])
        total = operators[tokens[0]](total, value)
        tokens = rest
    return total, tokens


def _raised(tokens: list[str]) -> tuple[Dim, list[str]]:
    base, tokens = _atom(tokens)
    while tokens and tokens[0] == "^":  # a root that is raised: (H)^(1 / 2)^3
        exponent, tokens = _atom(tokens[1:])
        if exponent.constant is None:
            raise ValueError("an exponent is not a number")
        base = base**exponent.constant
    return base, tokens


def _atom(tokens: list[str]) -> tuple[Dim, list[str]]:
    if not tokens:
        raise ValueError("a dimension ends too early")
    head, *rest = tokens
    if head == "(":
        dim, rest = _sum(rest)
        if not rest or rest[0] != ")":
            raise ValueError("a parenthesis is not closed")
        return dim, rest[1:]
    if head.isdigit():
        return Dim.of(int(head)), rest
    if head.isidentifier():
        return Dim.symbol(head), rest
    raise ValueError(f"unexpected {head!r} in a dimension")


ONE: Final = Dim.of(1)
ZERO: Final = Dim.of(0)
