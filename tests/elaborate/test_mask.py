"""`mask`: what it makes of integers, of truth values, and of vectors with empty slots."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import moec
from moec.diagnostics import CompileError

X = np.array([[1, -2, 3, -4], [-1, -1, -1, -1]], np.float32)
T = np.array([[1, 2, 3, 0], [3, 3, 0, 0]])
W = (np.arange(16).reshape(4, 4) / 7).astype(ml_dtypes.bfloat16)


def layer(value: str, out: str) -> str:
    return f"""
        moe m[N=4](x: f32[N], t: i64[N]) -> {out} {{
            param w: bf16[N, N]
            s = where(x > 0)
            return {value}
        }}
    """


def both(value: str, out: str) -> Any:
    """What both say of a value, which must be the same."""
    kernel = moec.compile(layer(value, out), threads=1)
    found = kernel(X, T, kernel.pack({"w": W}))
    np.testing.assert_allclose(found, moec.reference(layer(value, out))(X, T, {"w": W}), rtol=1e-6)
    return found


def test_of_integers_is_integers() -> None:
    assert both("mask(t, x > 0, 0)", "i64[N]").tolist() == [[1, 0, 3, 0], [0, 0, 0, 0]]
    assert both("mask(t, s, -1)", "i64[N]").tolist() == [[1, -1, 3, -1], [-1, -1, -1, -1]]
    assert both("mask(t, x > 0, 2 * t) / 2", "i64[N]").tolist() == [[0, 2, 1, 0], [3, 3, 0, 0]]


def test_of_integers_and_other_numbers_is_f32() -> None:
    assert both("mask(t, x > 0, 0.5)", "f32[N]")[0].tolist() == [1, 0.5, 3, 0.5]
    assert both("mask(t, x > 0, x) / 2", "f32[N]")[0].tolist() == [0.5, -1, 1.5, -2]
    assert both("mask(x, x > 0, t)", "f32[N]")[0].tolist() == [1, 2, 3, 0]


def test_by_what_is_known_when_compiling() -> None:
    assert both("mask(x, N > 3, 0)", "f32[N]").tolist() == X.tolist()
    assert both("mask(t, N > 4, -1)", "i64[N]")[0].tolist() == [-1, -1, -1, -1]
    assert both("mask(w, N > 4, 1) @ (x / 8)", "f32[N]")[0].tolist() == [-0.25] * 4


def test_of_a_weight_enters_a_product_in_f32_unless_it_is_filled_with_a_number() -> None:
    both("mask(w, x > 0, w) @ (x / 3)", "f32[N]")
    both("mask(w, x > 0, 1) @ (x / 3)", "f32[N]")


@pytest.mark.parametrize("value", ["mask(x[s], t > 1, 5)", "mask(x, x[s] > 0, 5)", "mask(x, t > 1, x[s])"])
def test_empty_slots_stay_empty(value: str) -> None:
    assert both(value, "f32[N]")[1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "value", ["mask(x > 0, t > 1, 0)", "mask(x > 0, t > 1, x < 2)", "mask(x, t > 1, x < 2)", "mask(x, 1, 0)"]
)
def test_of_truth_values_is_an_error(value: str) -> None:
    with pytest.raises(CompileError, match="E0204"):
        moec.compile(layer(value, "f32[N]"), threads=1)
    with pytest.raises(CompileError, match="E0204"):
        moec.reference(layer(value, "f32[N]"))(X, T, {"w": W})


def test_a_selection_of_another_domain_is_an_error() -> None:
    with pytest.raises(CompileError, match="E0201"):
        moec.compile(layer("mask(x, 0..2, 0)", "f32[N]"), threads=1)
    with pytest.raises(CompileError, match="E0201"):
        moec.reference(layer("mask(x, 0..2, 0)", "f32[N]"))(X, T, {"w": W})
    assert both("mask(x, each i in 0..N: i < 2, 0)", "f32[N]")[:, 2:].tolist() == [[0, 0], [0, 0]]
