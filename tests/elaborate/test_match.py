"""`match`, compiled: what an arm's range leaves of another `match` inside it, and arms of integers."""

from __future__ import annotations

import numpy as np
import pytest

import moec

TEXT = """
moe m[H=8, E=4](x: [H], i: i64) -> [H] {
    fn inner(e) = match e { 0: x * 2, 1..3: x, 3: 1 }
    fn outer(e) = flatten(split inner(e) as [1, _])
    return sum e in {i % E}: match e { 3: max(outer(e), x), 0..3: outer(e) }
}
"""


def test_a_scalar_arm_has_the_shape_of_arms_out_of_range() -> None:
    x = np.random.default_rng(0).standard_normal((9, 8), dtype=np.float32)
    i = np.arange(9)
    kernel = moec.compile(TEXT, threads=1)
    found = kernel(x, i, weights=kernel.pack({}))
    wanted = moec.reference(TEXT)(x, i, {})
    assert np.allclose(found, wanted)
    assert np.array_equal(found[3], np.maximum(x[3], 1))


#: The arm for 11.. lends its shape; the arms inside lie wholly beyond that range.
BEYOND = """
moe m[H=8, E=16](x: [H], i: i64) -> [H] {
    fn far(e) = match e { ..1: match e { 14..: x, 5..14: 0, ..5: 1 }, 1..8: 1, 8..: 2 }
    return sum e in {i % E}: match e { 0..11: x, 11..: flatten(split far(e) as [1, _]) }
}
"""


def test_arms_that_lie_beyond_the_range_of_those_around_them_lend_their_shape() -> None:
    x = np.random.default_rng(0).standard_normal((16, 8), dtype=np.float32)
    kernel = moec.compile(BEYOND, threads=1)
    found = kernel(x, np.arange(16), weights=kernel.pack({}))
    assert np.allclose(found, moec.reference(BEYOND)(x, np.arange(16), {}))
    assert np.array_equal(found[12], np.full(8, 2))


def test_an_arm_beyond_the_range_may_index_beyond_an_axis() -> None:
    """Its shape is all that is asked of it; with more experts it is taken."""
    arms = "0..1: 2, 1..: w[e / 1] + x"
    text = f"moe m[H=8, E=1](x: [H]) -> [H] {{ param w: [E, H] return sum e in 0..E: match e {{ {arms} }} }}"
    x, w = np.ones((2, 8), np.float32), np.ones((3, 8), np.float32)
    for experts, wanted in ((1, 2), (3, 6)):
        kernel = moec.compile(text, dims={"E": experts}, threads=1)
        assert np.array_equal(kernel(x, kernel.pack({"w": w[:experts]})), np.full((2, 8), wanted))
        assert np.array_equal(moec.reference(text, dims={"E": experts})(x, {"w": w[:experts]}), np.full((2, 8), wanted))


@pytest.mark.parametrize(
    ("arm", "out"),
    [("argmax(r[%d] @ x)", "i64"), ("ids(topk(r[%d] @ x, 2))", "i64[2]"), ("argmax(r[%d] @ x) + i", "i64")],
)
def test_arms_of_integers_may_hold_products(arm: str, out: str) -> None:
    body = f"match i % 6 {{ 0..2: {arm % 0}, 2..5: {arm % 1}, 5..: 3 }}"
    text = f"moe m[H=8, E=5](x: [H], i: i64) -> {out} {{ param r: [2, E, H] return {body} }}"
    rng = np.random.default_rng(0)
    x, r = rng.standard_normal((9, 8), np.float32), rng.standard_normal((2, 5, 8), np.float32)
    kernel = moec.compile(text, threads=1)
    found = kernel(x, np.arange(9), kernel.pack({"r": r}))
    assert np.array_equal(found, moec.reference(text)(x, np.arange(9), {"r": r}))


@pytest.mark.parametrize(
    ("subject", "arms"),
    [
        ("i", "..0: r[0] @ x, 0..: r[1] @ x"),
        ("i", "..1: x, 3..: r[-i % 2] @ x, 1..3: r[0] @ r[1] @ x"),
        ("i", "..0: r[max(i + 4, 0)] @ x, 0..2: r[i] @ x, 2: x, 3..: x * 2"),
        ("i % 5 - 3", "..0: r[0] @ x, 0..: r[1] @ x"),
        ("i % 5 - 3", "1: r[1] @ x, ..0: r[i % 6] @ x, 0..: r[0] @ x"),
        ("max(i, 1)", "1: r[1] @ x, 2..: r[0] @ x"),
    ],
)
def test_arms_below_0_and_without_an_end_may_hold_products(subject: str, arms: str) -> None:
    text = f"moe m[H=8](x: [H], i: i64) -> [H] {{ param r: [6, H, H] return match {subject} {{ {arms} }} }}"
    rng = np.random.default_rng(0)
    x, r = rng.standard_normal((9, 8), np.float32), rng.standard_normal((6, 8, 8), np.float32)
    kernel = moec.compile(text, threads=1)
    found = kernel(x, np.arange(9) - 4, kernel.pack({"r": r}))
    assert np.allclose(found, moec.reference(text)(x, np.arange(9) - 4, {"r": r}), rtol=1e-4, atol=1e-4)


def test_arms_of_numbers_alone_give_f32() -> None:
    numbers, indices = "match s % 4 { 0..2: 0, 2..: 1 }", "match s % 4 { 0..2: 0, 2..: s }"
    text = f"moe m(s: i64) -> (f32, i64) {{ return ({numbers}) / 2, ({indices}) / 2 }}"
    kernel = moec.compile(text, threads=1)
    for found in (kernel(np.arange(4), weights=kernel.pack({})), moec.reference(text)(np.arange(4), {})):
        assert np.array_equal(found, [[0, 0, 0.5, 0.5], [0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("subject", "arms"),
    [
        ("i - 3", "-2: a, ..: b"),
        ("i % 6 - 3", "-3..-1: a, -1: b, 0..: a + b"),
        ("i % 6 - 3", "-8..-2: a, 1: b, -1..3: i, -2..0: 7"),
        ("i", "..-1: a, -1..1: b, 1..: i"),
        ("i % 6", "-2: a, 0..: b"),
        ("i % 6 - 3", "-3..-1: argmax(w[1] @ x), -1..: b"),
        ("N - 5", "-1: a, ..: b"),
    ],
)
def test_patterns_may_lie_below_0(subject: str, arms: str) -> None:
    body = f"param w: [2, 5, N] return match {subject} {{ {arms} }}"
    text = f"moe m[N=4](x: [N], i: i64, a: i64, b: i64) -> i64 {{ {body} }}"
    rng, i = np.random.default_rng(0), np.arange(-9, 9)
    x, w = rng.standard_normal((18, 4), np.float32), rng.standard_normal((2, 5, 4), np.float32)
    kernel = moec.compile(text, threads=1)
    found = kernel(x, i, i + 100, i + 200, kernel.pack({"w": w}))
    assert np.array_equal(found, moec.reference(text)(x, i, i + 100, i + 200, {"w": w}))
