"""Numbers of a `bind` as they are written: formulas over dimensions, `2 * I`, `E / G - 1`.

A checkpoint is read without the compiler, so less stands here than `moec.elaborate` allows in a layer: numbers,
dimensions, and the operators that two numbers have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from moec.diagnostics import CompileError, fail, nearest, quoted
from moec.dims import Dim, Unbound, power
from moec.language import syntax
from moec.source import Span

#: The values of dimensions by name.
Dims: TypeAlias = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula over dimensions, as it is written. Whether it is one shows when it is asked for its value, since
    `2 ** H` is one only where `H` has a value."""

    node: syntax.Expr

    @property
    def span(self) -> Span:
        return self.node.span

    def integer(self, dims: Dims) -> int:
        """Its value, an integer. Raises `CompileError`: E0405 where it is no formula over these dimensions, E0202 and
        E0206 where it has no such value."""
        try:
            value = _dim(self.node, dims).evaluate({})
        except Unbound as error:
            unknown = next(name for name in _names(self.node) if name.id == error.name)
            raise _no_dimension(unknown, list(dims)) from None
        except OverflowError as error:
            raise fail("E0206", f"`{self.span.text}`: {error}", self.span) from None
        except (ValueError, ZeroDivisionError) as error:
            raise fail("E0202", f"`{self.span.text}`: {error or 'this divides by zero'}", self.span) from None
        if isinstance(value, float) or value.denominator != 1:
            raise fail("E0202", f"`{self.span.text}` is {value}, not an integer", self.span)
        return int(value)

    def check(self, dimensions: Sequence[str], dims: Dims) -> None:
        """Raises `CompileError` (E0202, E0206, E0405) where it names something else than `dimensions`, of which `dims`
        have values, or has none itself although all that it names have."""
        names = list(_names(self.node))
        for name in names:
            if name.id not in dimensions:
                raise _no_dimension(name, dimensions)
        if all(name.id in dims for name in names):
            self.integer(dims)

    def over(self, dims: Dims) -> Dim | None:
        """The same over the dimensions that have no value; None where `integer` says what it is, or what is wrong."""
        try:
            return _dim(self.node, dims)
        except (ArithmeticError, CompileError, ValueError):
            return None

    def known(self, dims: Dims) -> int | None:
        """Its value, where these dimensions tell one that is an integer."""
        dim = self.over(dims)
        value = None if dim is None else dim.constant
        return int(value) if value is not None and value.denominator == 1 else None


def _dim(node: syntax.Expr, dims: Dims) -> Dim:
    match node:
        case syntax.Number():
            return Dim.of(node.value)
        case syntax.Name():
            return Dim.of(dims[node.id]) if node.id in dims else Dim.symbol(node.id)
        case syntax.Group():
            return _dim(node.inner, dims)
        case syntax.Unary(op="-" | "+"):
            value = _dim(node.operand, dims)
            return -value if node.op == "-" else value
        case syntax.Binary() if node.op in _OPERATORS:
            value = _OPERATORS[node.op](_dim(node.left, dims), _dim(node.right, dims))
            if value is not None:
                return value
        case _:
            pass
    raise _no_formula(node)


def _names(node: syntax.Expr) -> Iterator[syntax.Name]:
    """The names in a formula. Raises `CompileError` (E0405) where it is none."""
    match node:
        case syntax.Number():
            pass
        case syntax.Name():
            yield node
        case syntax.Group():
            yield from _names(node.inner)
        case syntax.Unary(op="-" | "+"):
            yield from _names(node.operand)
        case syntax.Binary() if node.op in _OPERATORS:
            yield from _names(node.left)
            yield from _names(node.right)
        case _:
            raise _no_formula(node)


def _power(base: Dim, exponent: Dim) -> Dim | None:
    if exponent.constant is None:
        return None
    return power(base, exponent.constant, None if base.symbols else base.evaluate({}))


def _modulo(a: Dim, b: Dim) -> Dim | None:
    return None if a.constant is None or b.constant is None else Dim.of(a.constant % b.constant)


#: None where the result is no formula.
_OPERATORS: Final[dict[str, Callable[[Dim, Dim], Dim | None]]] = {
    "+": Dim.__add__,
    "-": Dim.__sub__,
    "*": Dim.__mul__,
    "/": Dim.__truediv__,
    "%": _modulo,
    "**": _power,
}


def _no_formula(node: syntax.Expr) -> CompileError:
    return fail("E0405", "a `bind` knows the dimensions and numbers only", node.span)


def _no_dimension(name: syntax.Name, dimensions: Sequence[str]) -> CompileError:
    help = nearest(name.id, dimensions) or (f"the dimensions are {quoted(dimensions)}" if dimensions else None)
    return fail("E0405", f"`{name.id}` is not a dimension", name.span, help=help)
