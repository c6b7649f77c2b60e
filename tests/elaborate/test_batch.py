"""The axis of tokens: what goes along it, compiled and interpreted."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest

import moec
from moec.diagnostics import CompileError

Array = np.ndarray[Any, np.dtype[Any]]

#: More columns than two vectors of 16 have, and some over.
COLUMNS: Final = 37
NAN, INF = np.nan, np.inf


def both(result: str, x: Array, out: str = "f32[N]", threads: int = 1) -> Array:
    """What both say of `result`, of an input `x`, which must be the same."""
    text = f"moe m[N={x.shape[1]}](x: f32[N]) -> {out} {{ return {result} }}"
    kernel = moec.compile(text, threads=threads)
    ours = np.asarray(kernel(x, weights=kernel.pack({})))
    np.testing.assert_allclose(ours, moec.reference(text)(x, {}), rtol=1e-6)
    return ours


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(0).standard_normal((70, COLUMNS), np.float32)


@pytest.mark.parametrize("tokens", [0, 1, 2, 70])
def test_what_goes_along_the_tokens(x: Array, tokens: int) -> None:
    x = x[:tokens]
    wide = x.astype(np.float64)
    np.testing.assert_array_equal(both("cumsum(x, axis=batch)", x), wide.cumsum(0).astype(np.float32))
    np.testing.assert_array_equal(both("sum(x, batch)", x), np.broadcast_to(wide.sum(0), x.shape).astype(np.float32))
    np.testing.assert_array_equal(both("previous(x, axis=batch)", x), np.concatenate([0 * x[:1], x[:-1]]))
    assert (both("size(x, axis=batch)", x, "i64") == tokens).all()
    if tokens:
        np.testing.assert_array_equal(both("max(x, axis=batch)", x), np.broadcast_to(x.max(0), x.shape))
        np.testing.assert_array_equal(both("min(x, axis=batch)", x), np.broadcast_to(x.min(0), x.shape))
        np.testing.assert_array_equal(both("rank(x, axis=batch)", x, "i64[N]"), (-x).argsort(0).argsort(0))


def test_one_result_may_leave_twice(x: Array) -> None:
    text = """
    moe m[N=37](x: f32[N]) -> (f32[N], f32[N], f32[N], f32[N]) {
        param w: f32[N, N]
        c = cumsum(x, axis=batch)
        l = w @ c
        return c, c, l, l
    }
    """
    kernel, w = moec.compile(text), np.random.default_rng(3).standard_normal((37, 37), np.float32)
    for found, wanted in zip(kernel(x, weights=kernel.pack({"w": w})), moec.reference(text)(x, {"w": w}), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_of_scalars_and_of_matrices(x: Array) -> None:
    running = x[:, 1].cumsum(dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(both("cumsum(x[1], axis=batch)", x, "f32"), running)
    matrix = "max(each i in 0..3: x * 2, axis=batch)"
    np.testing.assert_array_equal(both(matrix, x, "f32[3, N]"), np.broadcast_to(2 * x.max(0), (70, 3, COLUMNS)))


@pytest.mark.parametrize("kind", ["cumsum", "previous", "sum", "max", "min"])
def test_of_integers(kind: str) -> None:
    x = np.random.default_rng(2).integers(-(1 << 60), 1 << 60, (9, 19))
    text = f"moe m[N=19](x: i64[N]) -> i64[N] {{ return {kind}(x, axis=batch) }}"
    kernel = moec.compile(text)
    own = {"cumsum": x.cumsum(0), "previous": np.concatenate([0 * x[:1], x[:-1]])}
    wanted = own[kind] if kind in own else np.broadcast_to(getattr(np, kind)(x, 0), x.shape)
    np.testing.assert_array_equal(kernel(x, weights=kernel.pack({})), wanted)
    np.testing.assert_array_equal(moec.reference(text)(x, {}), wanted)


@pytest.mark.parametrize("factors", [1, 3, 8, 13])
def test_outer_products(x: Array, factors: int) -> None:
    """Sums in float64 of products that are exact there."""
    wide = x.astype(np.float64)
    wanted = np.broadcast_to(np.einsum("ti,tj->ij", wide[:, :factors], wide), (len(x), factors, COLUMNS))
    found = both(f"sum((each i in 0..{factors}: x[i] * x), axis=batch)", x, f"f32[{factors}, N]")
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_ranks_of_equals_and_of_no_numbers() -> None:
    x = np.array([[1.0], [NAN], [2.0], [-0.0], [2.0], [0.0], [-INF], [NAN], [INF]], np.float32)
    assert both("rank(x, axis=batch)", x, "i64[N]").ravel().tolist() == [5, 0, 3, 6, 4, 7, 8, 1, 2]


def test_no_number_spreads_from_where_it_stands(x: Array) -> None:
    x[3, 1] = NAN
    assert np.isnan(both("max(x, axis=batch)", x)).sum() == len(x)
    assert np.isnan(both("cumsum(x, axis=batch)", x)).sum() == len(x) - 3


def same_on_two_threads(text: str, x: Array) -> None:
    one, two = (moec.compile(text, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one(x, weights=one.pack({})), two(x, weights=two.pack({})))


def test_threads_change_no_bit(x: Array) -> None:
    x = np.tile(x, (40, 12))
    for kind in ("cumsum", "previous", "sum", "rank"):
        out = "i64[N]" if kind == "rank" else "f32[N]"
        text = f"moe m[N={x.shape[1]}](x: f32[N]) -> {out} {{ return {kind}(x, axis=batch) }}"
        same_on_two_threads(text, x)
    same_on_two_threads("moe m(x: f32[444]) -> f32[9, 444] { return sum((each i in 0..9: x[i] * x), axis=batch) }", x)


def test_a_token_sees_those_before_it() -> None:
    """Rows of a table by hashes of pairs of tokens (Engram, arXiv:2601.07372), and tokens mixed with the one before
    (RWKV, arXiv:2305.13048)."""
    text = """
    moe m[H=19, V=11](x: [H], id: i64) -> [H] {
        param table: [V, H]
        param mix:   [H]
        before = previous(x, axis=batch)
        pair   = (id * 31 + previous(id, axis=batch) * 17) % V
        return mix * x + (1 - mix) * before + table[pair]
    }
    """
    rng = np.random.default_rng(4)
    x, id = rng.standard_normal((9, 19), np.float32), rng.integers(0, 1000, 9)
    weights = {"table": rng.standard_normal((11, 19), np.float32), "mix": rng.standard_normal(19, np.float32)}
    kernel = moec.compile(text)
    before = np.concatenate([0 * x[:1], x[:-1]])
    pair = (id * 31 + np.append(0, id[:-1]) * 17) % 11
    wanted = weights["mix"] * x + (1 - weights["mix"]) * before + weights["table"][pair]
    np.testing.assert_allclose(kernel(x, id, kernel.pack(weights)), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moec.reference(text)(x, id, weights), wanted, rtol=1e-5, atol=1e-6)


def test_a_reduction_over_what_a_token_did_not_choose() -> None:
    text = """
    moe m[E=5](x: f32[E]) -> f32[E] {
        chosen = where(x > 0)
        return sum(each e in 0..E: if e in chosen then 1 else 0, axis=batch)
    }
    """
    x = np.random.default_rng(1).standard_normal((23, 5), np.float32)
    kernel = moec.compile(text)
    y = kernel(x, weights=kernel.pack({}))
    assert (y == (x > 0).sum(0)).all() and np.array_equal(y, moec.reference(text)(x, {}))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("sum e in 0..N: sum(x, axis=batch)[e]", "stands inside"),
        ("each e in 0..N: match e { 0..1: cumsum(x[0], axis=batch), 1..: 0 }", "stands inside"),
        ("cumsum(x)", "goes along the tokens"),
        ("previous(x)", "goes along the tokens"),
        ("rank(x, axis=0)", "goes along the tokens"),
        ("concat(x, x, axis=batch)", "axis"),
        ("sum(x[topk(x, 2)], axis=batch) * x", "other indices for other tokens"),
        ("x + batch", "the axis of tokens"),
        ("sum(axis=batch) * x", "argument"),
        ("max(x, batch)", "the axis of tokens"),
        ("max(x, x, axis=batch)", "E0104"),
        ("cumsum(x, batch, axis=batch)", "E0104"),
    ],
)
def test_what_does_not_go_along_the_tokens(result: str, message: str) -> None:
    text = f"moe m[N=4](x: f32[N]) -> f32[N] {{ return {result} }}"
    with pytest.raises(CompileError, match=message):
        moec.compile(text)
    with pytest.raises(CompileError):
        moec.reference(text)(np.ones((3, 4), np.float32), {})


def test_a_name_of_its_own_hides_the_axis() -> None:
    text = "moe m[N=4](x: f32[N]) -> f32[N] { batch = x * 2 return batch }"
    kernel = moec.compile(text)
    assert (kernel(np.ones((3, 4), np.float32), weights=kernel.pack({})) == 2).all()


@pytest.mark.parametrize("tokens", [3, 40])
def test_integers_are_ranked_by_all_their_bits(tokens: int) -> None:
    close = [-(1 << 63), (1 << 63) - 1, 1 << 24, (1 << 24) + 1, 5, -5]
    x = np.random.default_rng(0).choice(close, (tokens, 19))
    text = "moe m(x: i64[19]) -> i64[19] { return rank(x, axis=batch) }"
    kernel = moec.compile(text, threads=1)
    wanted = (~x).argsort(0, kind="stable").argsort(0)
    assert np.array_equal(kernel(x, weights=kernel.pack({})), wanted)
    assert np.array_equal(moec.reference(text)(x, {}), wanted)
