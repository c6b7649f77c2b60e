"""Formulas over dimensions: what is printed is what people write, and is read back as the same formula."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.dims import Dim, parse_dim

N, G = Dim.symbol("N"), Dim.symbol("G")


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (N / Dim.of(2), "N / 2"),
        (-N / Dim.of(2), "-N / 2"),
        (Dim.of(3) * N / Dim.of(2), "3*N / 2"),
        (Dim.of(Fraction(1, 2)), "1 / 2"),
        (Dim.of(1) / (Dim.of(2) * G), "1/G / 2"),
        (Dim.of(1) - N / Dim.of(2), "-N / 2 + 1"),
        ((N + Dim.of(1)) ** Fraction(-1, 2) * Dim.of(Fraction(2, 3)), "2*(N + 1)^(-1 / 2) / 3"),
    ],
)
def test_formulas_are_printed_as_people_write_them(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert parse_dim(text) == dim


LEAVES = st.sampled_from(["N", "G", "H"]).map(Dim.symbol) | st.fractions(-9, 9, max_denominator=6).map(Dim.of)


def _joined(parts: tuple[Dim, Dim, str]) -> Dim:
    left, right, how = parts
    match how:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right if right.terms else left
        case _:
            return left ** Fraction(1, 2)


@settings(deadline=None, max_examples=500)
@given(st.recursive(LEAVES, lambda inner: st.tuples(inner, inner, st.sampled_from("+-*/r")).map(_joined), max_leaves=6))
def test_what_is_printed_is_read_back(dim: Dim) -> None:
    assert parse_dim(str(dim)) == dim
