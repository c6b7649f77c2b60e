"""Equations between formulas over dimensions, `2*I = 2048`, and the dimensions that they tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from moec.dims import Dim


@dataclass
class Equations:
    """What is known of dimensions: `dims` have values, and formulas over all of them are equal."""

    dims: dict[str, int]
    _zeros: list[Dim] = field(default_factory=list[Dim])

    def equal(self, a: Dim | None, b: Dim | None) -> None:
        """Two lengths of one axis are equal; None is one that no formula says."""
        if a is not None and b is not None:
            self._zeros.append(a - b)

    def solve(self, names: Collection[str]) -> None:
        """Adds to `dims` what follows for these: equations with one unknown, in which they are linear, are solved until
        none is left."""
        open = self._zeros
        while True:
            rest: list[Dim] = []
            for zero in open:
                unknown = zero.symbols - self.dims.keys()
                if len(unknown) > 1:
                    rest.append(zero)
                elif unknown and (value := _root(zero, symbol := next(iter(unknown)), self.dims)) and symbol in names:
                    self.dims[symbol] = value
            if len(rest) == len(open):
                return
            open = rest


def _root(formula: Dim, symbol: str, dims: Mapping[str, int]) -> int | None:
    """Where a formula that is linear in one symbol is 0, if that is a positive integer."""
    try:
        a, b, c = (formula.evaluate({**dims, symbol: at}) for at in (1, 2, 3))
    except ZeroDivisionError:
        return None
    if any(isinstance(value, float) for value in (a, b, c)) or b - a != c - b or a == b:
        return None
    root = Fraction(1) - Fraction(a) / (Fraction(b) - Fraction(a))
    return int(root) if root.denominator == 1 and root > 0 else None
