"""Selections that are written down, and vectors restricted to a selection with empty slots, compiled."""

from __future__ import annotations

import numpy as np
import pytest

import moec
from moec.diagnostics import CompileError

TEXT = """
moe m[E=4](x: [E]) -> (f32[3], f32[2]) {
    s = where(x > 0)
    v = x[s]
    m = each e in s: concat(x[e], 2 * x[e])
    return top(v, 3), sum(top(m, 2), axis=0)
}
"""


def test_empty_slots_come_last_among_the_largest_and_count_for_nothing() -> None:
    x = np.array([[-1, 2, -3, 4], [-1, -1, -1, -1], [1, 2, 3, 4]], np.float32)
    kernel = moec.compile(TEXT, threads=1)
    largest, sums = kernel(x, weights=kernel.pack({}))
    inf = np.inf
    assert np.array_equal(largest, [[4, 2, -inf], [-inf, -inf, -inf], [4, 3, 2]])
    assert np.array_equal(sums, [[12, 6], [0, 0], [20, 10]])
    for found, wanted in zip((largest, sums), moec.reference(TEXT)(x, {}), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("index", ["[2]", "[-1]", "[i]", "[:, 0][i]", "[i, 0]", "[2, 0]"])
def test_an_empty_slot_that_is_read_by_its_number_shows_as_0(index: str) -> None:
    v = "each e in s: concat(x[e], x) + 1" if "," in index else "exp(x[s])"
    text = f"moe m[E=4](x: [E], i: i64) -> f32 {{ s = where(x > 0) v = {v} return v{index} }}"
    x, i = np.array([[1, -1, -2, 3], [-1, -1, -1, -1], [1, 2, 3, 4]], np.float32), np.array([3, 0, 3])
    kernel = moec.compile(text, threads=1)
    found = kernel(x, i, kernel.pack({}))
    assert found[0] == found[1] == 0 and found[2] > 0
    assert np.allclose(found, moec.reference(text)(x, i, {}))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("x[s]", -3),
        ("(x[s])[:]", -3),
        ("(x[s])[0:4]", 0),
        ("(x[s])[:E]", 0),
        ("(x[s])[0:]", 0),
        ("flatten(x[s])", 0),
        ("split x[s] as [4]", 0),
        ("(each e in s: concat(x[e], x[e])).T[0]", 0),
        ("(each e in s: concat(x[e], x[e]))[:, 0]", -3),
        ("(each e in s: concat(x[e], x[e]))[:, 0:1].T[0]", 0),
    ],
)
def test_what_ends_a_restriction_shows_empty_slots_as_0(value: str, wanted: float) -> None:
    text = f"moe m[E=4](x: [E]) -> f32 {{ s = where(x < -2) v = {value} return max(v) }}"
    x, kernel = np.array([[-1, -2, -3, -4]], np.float32), moec.compile(text, threads=1)
    assert kernel(x, kernel.pack({})) == moec.reference(text)(x, {}) == wanted


def test_empty_slots_are_empty_where_they_are_given() -> None:
    text = "moe m[E=4](x: [E], t: i64[E]) -> (i64[E], f32) { s = given(t[where(x > 0)], E) return s, sum e in s: x[e] }"
    x, t = np.array([[-1, 2, -3, 4], [-1, -1, -1, -1]], np.float32), np.array([[1, 2, 3, 0], [0, 0, 0, 0]])
    kernel = moec.compile(text, threads=1)
    indices, sums = kernel(x, t, kernel.pack({}))
    assert np.array_equal(indices, [[2, 0, 4, 4], [4, 4, 4, 4]])
    assert np.array_equal(sums, [-4, 0])
    for found, wanted in zip((indices, sums), moec.reference(text)(x, t, {}), strict=True):
        assert np.array_equal(found, wanted)


def listed(index: str) -> str:
    """A layer that reads its weights by a selection of one index."""
    body = f"sum e in 0..E: sum f in {{{index}}}: w[f] * x"
    return f"moe m[E=4](x: [E], i: i64) -> [E] {{\n    param w: [E]\n    return {body}\n}}\n"


@pytest.mark.parametrize("index", ["i % E", "min(max(i, 0), E - 1)", "max(e - 1, 0)"])
def test_an_index_in_a_known_range_is_listed(index: str) -> None:
    x, i, w = np.ones((3, 4), np.float32), np.array([-1, 2, 9]), np.arange(4, dtype=np.float32)
    kernel = moec.compile(listed(index), threads=1)
    assert np.array_equal(kernel(x, i, kernel.pack({"w": w})), moec.reference(listed(index))(x, i, {"w": w}))


@pytest.mark.parametrize("index", ["i", "min(i, E - 1)", "max(i, 0)", "e - 1", "-1"])
def test_an_index_that_may_lie_in_no_domain_is_not_listed(index: str) -> None:
    with pytest.raises(CompileError) as error:
        moec.compile(listed(index), threads=1)
    assert error.value.diagnostics[0].code == "E0205"


#: Integers that f32 does not tell apart, and the ends of 64 bits.
CLOSE = np.array(
    [
        [16777216, 16777217, 3, 4],
        [1 << 62, (1 << 62) - 1, (1 << 62) + 1, 1 << 62],
        [-(1 << 63), (1 << 63) - 1, -(1 << 63) + 1, -(1 << 63)],
        [-(1 << 63)] * 4,
    ]
)


@pytest.mark.parametrize(
    ("chosen", "out", "wanted"),
    [
        ("argmax(v)", "i64", [1, 2, 1, 0]),
        ("topk(v, 3)", "i64[3]", [[1, 0, 3], [2, 0, 3], [1, 2, 0], [0, 1, 2]]),
        ("topk(v[topk(x, 4)], 2)", "i64[2]", [[1, 0], [2, 3], [1, 2], [3, 2]]),
        ("topk(v[where(x > 1)], 3)", "i64[3]", [[1, 3, 2], [2, 3, 1], [1, 2, 3], [1, 2, 3]]),
        ("topk(v[where(x > 2)], 3)", "i64[3]", [[3, 2, 4], [2, 3, 4], [2, 3, 4], [2, 3, 4]]),
    ],
)
def test_integers_are_chosen_by_all_their_bits(chosen: str, out: str, wanted: list[int]) -> None:
    text = f"moe m(x: f32[4], v: i64[4]) -> {out} {{ return {chosen} }}"
    x = np.tile(np.arange(1, 5, dtype=np.float32), (4, 1))
    kernel = moec.compile(text, threads=1)
    assert np.array_equal(kernel(x, CLOSE, kernel.pack({})), wanted)
    assert np.array_equal(moec.reference(text)(x, CLOSE, {}), wanted)


@pytest.mark.parametrize(
    ("largest", "out"),
    [
        ("top(v, 3)", "i64[3]"),
        ("top(v[where(x > 2)], 3)", "i64[3]"),
        ("top(each i in 0..2: v + i, 2)", "i64[2, 2]"),
        ("top(v, 3) / 2", "i64[3]"),
        ("top(v, 3) / 2.5", "f32[3]"),
    ],
)
def test_the_largest_of_integers_are_integers(largest: str, out: str) -> None:
    text = f"moe m(x: f32[4], v: i64[4]) -> {out} {{ return {largest} }}"
    x = np.tile(np.arange(1, 5, dtype=np.float32), (4, 1))
    kernel = moec.compile(text, threads=1)
    found, wanted = kernel(x, CLOSE, kernel.pack({})), np.asarray(moec.reference(text)(x, CLOSE, {}))
    assert found.dtype == (np.int64 if "i64" in out else np.float32)
    assert np.allclose(found, wanted) if "f32" in out else np.array_equal(found, wanted)
    if largest == "top(v, 3)":
        assert np.array_equal(found, ~np.sort(~CLOSE)[:, :3])
