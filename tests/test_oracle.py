"""The oracle: every rule of docs/language.md on its own, and whole layers against formulas from their papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import moec
from moec.binding.bind import bind_weights
from moec.diagnostics import CompileError
from moec.language.parse import parse
from moec.language.read import read
from moec.oracle import reference
from moec.oracle.values import rounded

EXAMPLES = Path(__file__).parents[1] / "examples"
INF, NAN = math.inf, math.nan


def run(
    expr: str, *, before: str = "", out: str = "[N]", dtype: str = "f32", fns: str = "", **inputs: Any
) -> np.ndarray:
    """The value of an expression for one token. Inputs are f32 vectors, or what their arrays say."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()} or {"x": np.zeros(1)}
    kinds = {"i": "i64", "b": "bool"}
    declared = ", ".join(
        f"{name}: {kinds.get(a.dtype.kind, 'real')}[{', '.join(map(str, a.shape))}]".replace("[]", "")
        for name, a in arrays.items()
    )
    text = f"{fns} moe m[N=4]({declared}) -> {out} {{ {before} return {expr} }}"
    return reference(text, dtype=dtype)(*(a[None] for a in arrays.values()), weights={})[0]


def code(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(CompileError) as caught:
        run(*args, **kwargs)
    return caught.value.diagnostics[0].code


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=0)


V = np.array([3.0, 1.0, 4.0, 1.5])
SEL = "s = topk(v, 2)"  # slots: 2 (4.0), 0 (3.0)
HOLES = "s = given(j, 6)"  # of 0..6, with j = [5, 6, 0, -1]: slots 5, empty, 0, empty
J = np.array([5, 6, 0, -1])
P = np.array([0.5, 1.0, 2.0, 3.0, 4.0, 5.0])


# ── dimensions and compile-time numbers ───────────────────────────────────────────────────────────────────────────────


def test_dimensions():
    text = "moe m[H, I=4 * H, G=I / 2](x: [H]) -> [G] { return concat(x, x) }"
    ref = reference(text, {"H": 3, "G": 6})
    assert ref.dims == {"H": 3, "I": 12, "G": 6}
    assert ref(np.ones((5, 3)), {}).shape == (5, 6)
    for dims, wanted in [({}, "E0301"), ({"H": 3, "J": 1}, "E0302"), ({"H": 0}, "E0206"), ({"H": 2, "I": 3}, "E0202")]:
        with pytest.raises(CompileError, match=wanted):
            reference(text, dims)
    with pytest.raises(CompileError, match="E0304"):
        reference(text, {"H": 3}, "f64")


def test_a_layer_has_inputs():
    with pytest.raises(CompileError, match="E0105"):
        reference("moe m() -> [4] { param w: [4] return w }")


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("1 / 3 * 3 - 1", 0),
        ("0.1 + 0.2 - 0.3", 0),
        ("N ** -0.5", 0.5),
        ("2 ** -1", 0.5),
        ("-2 ** 2", -4),
        ("2 ** 3 ** 2", 512),
        ("7 % 4 + N / 8", 3.5),
        ("if N == 4 then 1 else undefined", 1),
        ("if N > 4 or not (1 < 2) then undefined else 2", 2),
        ("max(N, 6) * min(1, 2.5)", 6),
        ("2 * pi", 2 * math.pi),
        ("-inf", -INF),
        ("sqrt(N) + exp(0) + abs(-3)", 6),
        ("sin(0) + cos(0)", 1),
        ("floor(5 / 2) * 10 + floor(-5 / 2)", 17),
        ("floor((2 * N) ** 0.5) + floor(N)", 6),
        ("floor(-inf)", -INF),
        ("floor(2 ** 1030 + 0.5) / 2 ** 1030", 1),
        ("size(x[: floor(N / 3) + 1])", 2),
        ("match N { 0..4: undefined, 4..: 7 }", 7),
        ("size(split x as [2, 5], 0) + size(x)", 12),
        ("if 2 in 1..3 then 1 else undefined", 1),
    ],
)
def test_compile_time_numbers(expr: str, wanted: float):
    same(run(expr, out="f32", x=np.zeros(10)), wanted)


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("v + 1", V + 1),
        ("2 - v / 2", 2 - V / 2),
        ("v * v - v", V * V - V),
        ("v ** 2", V**2),
        ("v ** -0.5", V**-0.5),
        ("-v", -V),
        ("v + sum(v)", V + 9.5),
        ("v / sum(v)", V / 9.5),
        ("abs(1 - v)", abs(1 - V)),
        ("exp(v) + log(v) + sqrt(v)", np.exp(V) + np.log(V) + np.sqrt(V)),
        ("rsqrt(v) * tanh(v)", np.tanh(V) / np.sqrt(V)),
        ("erf(v)", [math.erf(a) for a in V]),
        ("sin(v) + cos(9 * v)", np.sin(V) + np.cos(9 * V)),
        ("sin(v * 2 ** 100)", np.sin(V * 2.0**100)),
        ("floor(v / 2)", [1, 0, 2, 0]),
        ("floor(-v / 2)", [-2, -1, -2, -1]),
        ("min(v, 2)", np.minimum(V, 2)),
        ("max(2, v)", np.maximum(V, 2)),
        ("if v > 2 then v else 0", V * (V > 2)),
        ("if v > 2 and not (v == 4) or v == 1 then 1 else 0", [1, 1, 0, 0]),
        ("if v[0] > 2 then v else -v", V),
        ("f32(v >= 3)", [1, 0, 1, 0]),
        ("v[1] + v", V + 1),
        ("concat(v[2:], v[:2])", [4, 1.5, 3, 1]),
        ("concat(v[0], v[1:-1], 7)", [3, 1, 4, 7]),
        ("concat(v[::2], v[1::2])", [3, 4, 1, 1.5]),
        ("flatten((split v as [2, _]).T)", [3, 4, 1, 1.5]),
        ("(split v as [2, 2])[:, -1][0] + v", V + 1),
        ("(split concat(v, v) as [_, 4]) @ v", [V @ V, V @ V]),
        ("(split concat(v, v) as [2, 2, 2]) @ v[:2]", [[10, 13.5], [10, 13.5]]),
        ("(split concat(v, v) as [2, 4]).T @ v[:2]", V * 4),
        ("(split v as [2, 2]) @ (split v as [2, 2]) @ v[:2]", [43.5, 60.25]),
        ("v @ v + v", V + V @ V),
        ("sum(split v as [2, 2])", [4, 5.5]),
        ("sum(split v as [2, 2], axis=0)", [7, 2.5]),
        ("max(split v as [2, 2], axis=0)", [4, 1.5]),
        ("min(split v as [2, 2])", [1, 1.5]),
        ("top(v, 3)", [4, 3, 1.5]),
        ("top(split v as [2, 2], 1)", [[3], [4]]),
        ("concat(split v as [2, 2], split v as [2, 2], axis=1)", [[3, 1, 3, 1], [4, 1.5, 4, 1.5]]),
        ("mask(v, v > 2, -1)", [3, -1, 4, -1]),
        ("mask(split v as [2, 2], (split v as [2, 2])[:, 0] > 3, 0)", [[0, 0], [4, 1.5]]),
        ("mask(v, topk(v, 1), v * 0)", [0, 0, 4, 0]),
    ],
)
def test_arrays(expr: str, wanted: Any):
    wanted = np.asarray(wanted, float)
    same(run(expr, out=str(list(wanted.shape)), v=V), wanted)


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("i / 4", -2),
        ("i % 4", 3),
        ("i * 2 + 1", -9),
        ("-i", 5),
        ("ids({i + 5, 3})[1]", 3),
        ("max(i, 0)", 0),
        ("floor(i)", -5),
        ("if i < 0 then i else 0", -5),
    ],
)
def test_indices_are_integers(expr: str, wanted: int):
    found = run(expr, out="i64", i=np.array(-5))
    assert found == wanted and found.dtype == np.int64
    same(run(f"({expr}) * 0.5", out="f32", i=np.array(-5)), wanted / 2)


def test_nan():
    v = np.array([1.0, NAN, 2.0])
    assert np.isnan(run("max(v, 0)", out="[3]", v=v)[1])
    assert all(np.isnan(run(f"{f}(v)", out="f32", v=v)) for f in ("max", "min", "sum"))
    same(run("f32(v < 5)", out="[3]", v=v), [1, 0, 1])
    same(run("f32(v != v)", out="[3]", v=v), [0, 1, 0])
    assert list(run("ids(topk(v, 3))", out="i64[3]", v=v)) == [1, 2, 0]
    assert run("argmax(v)", out="i64", v=v) == 1
    same(run("top(v, 2)", out="[2]", v=v), [NAN, 2])
    assert list(run("ids(topk(v, 2))", out="i64[2]", v=np.array([NAN, INF, NAN]))) == [0, 2]


# ── precision ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rounding_is_once_and_to_nearest_even():
    from moec.dtypes import BF16

    v = np.array(
        [1 + 2**-8, 1 + 2**-8 + 2**-40, 1 + 3 * 2**-8, 1 + 3 * 2**-8 - 2**-40, 1e39, -1e39, NAN, INF, 2.0**-134]
    )
    wanted = [1, 1 + 2**-7, 1 + 2**-6, 1 + 2**-7, INF, -INF, NAN, INF, 0]
    np.testing.assert_array_equal(rounded(v, BF16), wanted)
    exact = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(rounded(exact.astype(float), BF16), exact.astype(ml_dtypes.bfloat16).astype(float))


def bf16(v: Any) -> np.ndarray:
    return np.asarray(v, np.float32).astype(ml_dtypes.bfloat16).astype(float)


def test_casts():
    third = bf16(1 / 3)
    same(run("real(1 / 3) + 0", out="f32", dtype="bf16"), third)
    same(run("bf16(1 / 3)", out="f32"), third)
    same(run("f16(x / 3)", out="[1]", x=np.ones(1)), float(np.float16(1 / 3)))
    same(run("real(1 / 3)", out="f32"), 1 / 3)
    same(run("f32(bf16(1 / 3) / 3)", out="f32"), third / 3)


def test_entry_rounds_to_the_declared_type():
    ref = reference("moe m(x: [1], r: f32[1]) -> (y: [1], z: [1]) { param w: f16[1] return x, r * w }", dtype="bf16")
    y, z = ref(np.full((1, 1), 0.1), np.full((1, 1), 0.1), weights={"w": np.array([0.1])})
    same(y, bf16([[0.1]]))
    same(z, [[float(np.float32(0.1)) * float(np.float16(0.1))]])


@pytest.mark.parametrize(
    ("matrix", "rounds"),
    [
        ("w", True),
        ("w.T", True),
        ("w[0:2]", True),
        ("split flatten(w) as [2, 2]", True),
        ("concat(w, w)[:2]", True),
        ("mask(w, {1, 0}, 0)", True),
        ("each e in 0..2: w[e]", True),
        ("w[{0, 1}]", True),
        ("w * 1", False),
        ("f32(w)", False),
        ("bf16(f32(w))", True),
        ("concat(w, f32(w))[:2]", False),
        ("if sum(x) > 0 then w else w", False),
    ],
)
def test_contraction_rounds_the_vector_to_the_matrix(matrix: str, rounds: bool):
    text = f"moe m(x: f32[2]) -> [2] {{ param w: bf16[2, 2] return ({matrix}) @ x }}"
    x = np.array([1 / 3, 1 / 5])
    w = np.array([[1.0, 0.5], [0.5, 2.0]])
    found = reference(text)(x[None], {"w": w})[0]
    x = x.astype(np.float32).astype(float)
    same(found, w @ (bf16(x) if rounds else x))


# ── selections ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("topk(v, 2)", [2, 0]),
        ("topk(mask(v, v > 3, 7), 4)", [0, 1, 3, 2]),
        ("topk(v * 0, 2)", [0, 1]),
        ("where(v < 3.5)", [0, 1, 3, 4]),
        ("0..3", [0, 1, 2]),
        ("{3, argmax(v)}", [3, 2]),
        ("argmax(v)", [2]),
        ("cross(topk(v, 2), 1..3)", [7, 8, 1, 2]),
        ("topk(v[topk(-v, 3)], 2)", [0, 3]),
        ("where((v > 2)[topk(v, 3)])", [2, 0, 4]),
        ("argmax(v[topk(-v, 2)])", [3]),
    ],
)
def test_selections(expr: str, wanted: list[int]):
    assert list(run(f"ids({expr})", out=f"i64[{len(wanted)}]", v=V)) == wanted


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("v[s]", [4, 3]),
        ("v[s] + u", [14, 23]),  # a plain vector combines slot by slot
        ("each e in s: v[e] + u[slot(e)]", [14, 23]),
        ("each e in s: (v[s] + u)[e]", [14, 23]),
        ("each e in s: e * 1", [2, 0]),
        ("each e in s: slot(e)", [0, 1]),
        ("each e in topk(-v[s], 1): v[s][e]", [3]),  # a selection among slots
        ("v[s][topk(-v[s], 1)]", [3]),
        ("each e in topk((v[s] + u)[topk(-v[s], 2)], 1): (v[s] + u)[e]", [23]),
        ("v[topk((v[s] + u)[topk(-v[s], 2)], 1)]", [3]),
        ("mask(v[s], topk(-v[s], 1), 0)", [0, 3]),
        ("mask(v, s, -inf)", [3, -INF, 4, -INF]),
        ("v[s][1] + u", [13, 23]),  # a number counts slots
        ("each i in 0..2: v[s][i]", [4, 3]),
        ("(split v as [2, 2])[argmax(u)]", [4, 1.5]),
        ("each e in s: if e in topk(v, 1) then 1 else 0", [1, 0]),
        ("each e in 1..3: v[e]", [1, 4]),
        ("sum e in {0, 3}: v[e] * u", [45, 90]),
        ("each e in s: sum f in s: v[f] * (if e == f then 0 else 1)", [3, 4]),
        ("each e in cross(s, s): v[e / 4] - v[e % 4]", [0, 1, -1, 0]),
        ("v[s][argmax(-v[s])] + u", [13, 23]),
    ],
)
def test_restricted_vectors(expr: str, wanted: Any):
    integer = expr in ("each e in s: slot(e)", "each e in s: e * 1")
    out = f"{'i64' if integer else ''}[{len(wanted)}]"
    same(run(expr, before=SEL, out=out, v=V, u=np.array([10.0, 20.0])), wanted)


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("ids(s)", [5, 6, 0, 6]),
        ("p[s]", [5, 0, 0.5, 0]),
        ("exp(p[s])", [math.exp(5), 0, math.exp(0.5), 0]),
        ("sum(p[s] + 1)", 7.5),
        ("max(p[s] * 0 - 1)", -1),
        ("min(p[s])", 0.5),
        ("p[s] / sum(p[s])", [5 / 5.5, 0, 0.5 / 5.5, 0]),
        ("softmax(p[s])", [1 / (1 + math.exp(-4.5)), 0, 1 / (1 + math.exp(4.5)), 0]),
        ("sum e in s: 1", 2),
        ("sum e in s: p[e] + j[slot(e)]", 10.5),
        ("each e in s: p[e] + 1", [6, 0, 1.5, 0]),
        ("(exp(p[s]) * 0 + 1) @ exp(p[s])", math.exp(5) + math.exp(0.5)),
        ("(each e in s: p[0:2] + e).T @ (p[s] + 1)", [5.5 * 6 + 0.5 * 1.5, 6 * 6 + 1 * 1.5]),
        ("sum((each e in s: p[0:2] + e), axis=0)", [6, 7]),
        ("sum((each e in s: p[0:2] + 1).T)", [3, 4]),
        ("ids(topk(p[s], 3))", [5, 0, 6]),
        ("ids(where(p[s] > 1))", [5, 6, 6, 6]),
        ("top(p[s], 3)", [5, 0.5, -INF]),
        ("concat(exp(p[s]) * 0 + 1, 2)", [1, 0, 1, 0, 2]),
        ("flatten(split (exp(p[s]) * 0 + 1) as [2, 2])", [1, 0, 1, 0]),
        ("(exp(p[s]) * 0 + 1)[1:3]", [0, 1]),
        ("exp(p[s])[1] + exp(p[s])[j[1] / 2]", 0),
        ("(each e in s: p[0:2] + 1)[-1]", [0, 0]),
        ("ids(cross(s, {0, 1}))", [10, 11, 12, 12, 0, 1, 12, 12]),
        ("f32(each e in 0..6: e in s)", [1, 0, 0, 0, 0, 1]),
        ("mask(p, s, -1)", [0.5, -1, -1, -1, -1, 5]),
    ],
)
def test_empty_slots(expr: str, wanted: Any):
    out = ("i64" if expr.startswith("ids") else "f32") + str(list(np.shape(wanted))).replace("[]", "")
    same(run(expr, before=HOLES, out=out, j=J, p=P), wanted)


def test_the_empty_selection():
    nothing = {"v": V, "before": "s = where(v > 9)"}
    same(run("sum e in s: v[e] * v", **nothing), np.zeros(4))
    same(run("each e in s: v[e]", **nothing), np.zeros(4))
    for reduction, wanted in {"max": -INF, "min": INF, "sum": 0}.items():
        same(run(f"{reduction}(v[s])", out="f32", **nothing), wanted)
    same(run("sum e in argmax(v[s]): v", **nothing), np.zeros(4))
    assert list(run("ids(topk(v[s], 2))", out="i64[2]", **nothing)) == [4, 4]
    assert code("v[argmax(v[s])]", out="f32", **nothing) == "E0406"


def test_inner_selections_do_not_leave_the_body():
    before = "m = split v as [2, 2]"
    same(run("sum g in 0..2: m[g][topk(m[g], 2)]", before=before, out="[2]", v=V), [7, 2.5])
    same(run("each g in 0..2: m[g][topk(-m[g], 1)]", before=before, out="[2, 1]", v=V), [[1], [1.5]])
    same(run("(sum g in 0..2: m[g][s])[s]", before=before + " s = topk(m[0] * -1, 2)", out="[2]", v=V), [2.5, 7])


def test_a_selection_leaves_as_its_indices():
    text = "moe m(v: [4]) -> i64[2] { aux s = topk(v, 2) aux n = 3 aux b = v[0] > 1 aux w = v[s] return s }"
    y, aux = reference(text)(V[None], {}, aux=True)
    assert y.tolist() == aux["s"].tolist() == [[2, 0]] and y.dtype == np.int64
    assert aux["n"].tolist() == [3] and aux["b"].tolist() == [True]
    same(aux["w"], [[4, 3]])


def test_match():
    arms = "match e { 0..1: x, 1: 2 * x, 2..3: 1, 3..: (split y as [1, 2])[e - 3] }"
    given = {"x": np.array([1.0, 2.0]), "y": np.array([5.0, 7.0]), "out": "[4, 2]"}
    same(run(f"each e in 0..4: {arms}", **given), [[1, 2], [2, 4], [1, 1], [5, 7]])
    same(run("(match i { 1: 5, 0..: x }) @ x", x=np.array([1.0, 2.0]), i=np.array(1), out="f32"), 15)
    assert code("match i { 0..3: 1, 4..: 2 }", out="f32", i=np.array(3)) == "E0208"
    assert run("match i { 0..3: i, 3..: 7 }", out="i64", i=np.array(3)) == 7


# ── functions and statements ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fns", "expr", "wanted"),
    [
        ("fn f(a, b=2 * 3) = a * b", "f(v)", V * 6),
        ("fn f(a, b=2) = a - b", "f(b=v, a=1)", 1 - V),
        ("fn f(a, b=a) = a * b", "f(v)", V * V),
        ("fn twice(g, a) = g(g(a))", "twice(sigmoid, v)", 1 / (1 + np.exp(-1 / (1 + np.exp(-V))))),
        ("fn part(g, a) = a / g(a)", "part(sum, v)", V / 9.5),
        ("fn part(g, a) = a / g(a)", "part(max, v)", V / 4),
        ("fn both(a) { s = sum(a) return a + s, s }", "first + second", V + 19),
        ("fn relu(a) = a + 1", "relu(v)", V + 1),  # hides the prelude's for the file
        ("fn relu(a) = a + 1", "relu2(v - 2)", np.maximum(V - 2, 0) ** 2),  # but not inside the prelude
        ("fn f(a) = g(a) * 2 fn g(a) = a + 1", "f(v)", (V + 1) * 2),
        ("", "local(v)", V * 4 + V),
        ("", "chosen(topk(v, 2), v)", V * 7),
        ("", "top(v, 4) + top * 0", [4, 3, 1.5, 1]),  # a value does not hide a function
    ],
)
def test_functions(fns: str, expr: str, wanted: Any):
    before = "n = N * 1 fn local(a) { fn inner(b) = b * n + v return inner(a) } top = v fn chosen(s, a) = sum(v[s]) * a"
    if "first" in expr:
        before += " first, second = both(v)"
    same(run(expr, fns=fns, before=before, v=V), wanted)


def test_prelude():
    def close(expr: str, wanted: Any) -> None:
        np.testing.assert_allclose(run(expr, out=str(list(np.shape(wanted))).replace("[]", "f32[]"), v=V - 2), wanted)

    v = V - 2
    e = np.exp(v)
    close(
        "concat(mean(v), norm(v), norm(v, 1), logsumexp(v))",
        [v.mean(), np.linalg.norm(v), abs(v).sum(), np.log(e.sum())],
    )
    close("softmax(v)", e / e.sum())
    close("silu(v)", v / (1 + np.exp(-v)))
    close("gelu(v)", [0.5 * a * (1 + math.erf(a / math.sqrt(2))) for a in v])
    close("gelu_tanh(v)", 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))))
    close("softplus(v)", np.log1p(e))
    close("clamp(v, -0.5, 1)", np.clip(v, -0.5, 1))
    close("rmsnorm(v)", v / np.sqrt((v * v).mean() + 1e-6))
    close("layernorm(v, eps=0.1)", (v - v.mean()) / np.sqrt(v.var() + 0.1))
    close("limit_groups(v, 2, 1, sum_top2, -inf)", [-INF, -INF, 2, -0.5])
    close("limit_groups(v, 2, 1, min, 0)", [0, 0, 2, -0.5])


def test_aux_is_evaluated_when_asked_for():
    text = "moe m(v: [4], i: i64) -> [4] { aux odd = v[i] aux load = sum(v) return v / load }"
    ref = reference(text)
    v, far = np.stack([V, V]), np.array([9, 9])
    same(ref(v, far, {}), v / 9.5)
    y, aux = ref((v, far), {}, aux=["load"])
    assert list(aux) == ["load"] and aux["load"].tolist() == [9.5, 9.5] and y.shape == (2, 4)
    with pytest.raises(CompileError, match="E0406"):
        ref(v, far, weights={}, aux=True)
    with pytest.raises(CompileError, match="no aux `nothing`"):
        ref(v, far, weights={}, aux=["nothing"])


def test_no_tokens():
    text = (
        "moe m[E=4, K=2](v: [E]) -> (y: [E], i: i64[K]) { param w: [E] aux s = v[topk(v, K)] return v * w, topk(v, K) }"
    )
    (y, i), aux = reference(text)(np.zeros((0, 4)), {"w": np.ones(4)}, aux=True)
    assert (y.shape, i.shape, aux["s"].shape, i.dtype) == ((0, 4), (0, 2), (0, 2), np.int64)


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("nothing", "E0101"),
        ("nothing(v)", "E0101"),
        ("v + v[:2]", "E0201"),
        ("v[:1] + v", "E0201"),
        ("v @ v[:2]", "E0201"),
        ("split v as [3, _]", "E0202"),
        ("v[0:N / 3]", "E0202"),
        ("topk(v, 5)", "E0203"),
        ("top(v, 5)", "E0203"),
        ("topk + 1", "E0204"),
        ("(v > 1) + 1", "E0204"),
        ("v and v", "E0204"),
        ("v % 2", "E0204"),
        ("slot(argmax(v))", "E0204"),
        ("rmsnorm(v, v)", "E0204"),
        ("mean(v, axis=v)", "E0204"),
        ("sum e in v: e", "E0204"),
        ("v[topk(v, 2)] + v[topk(-v, 2)]", "E0204"),
        ("v[topk(v, 3)][topk(-v, 2)]", "E0204"),
        ("(split v as [2, 2])[:, v > 2]", "E0204"),
        ("v[4]", "E0205"),
        ("v[-5]", "E0205"),
        ("v[0:5]", "E0205"),
        ("sum e in {0, -1}: v[e]", "E0205"),
        ("sum e in 0..5: v[e]", "E0406"),
        ("v[0, 0]", "E0207"),
        ("sum(v, axis=1)", "E0207"),
        ("v.T", "E0207"),
        ("topk(v)", "E0104"),
        ("softmax(v, 2, 3)", "E0104"),
        ("clamp(v, low=1)", "E0104"),
        ("silu(v, w=1)", "E0104"),
        ("sum(v, axis=0, axis=-1)", "E0104"),
        ("sum(v, 0, axis=0)", "E0104"),
        ("max(v, v, axis=0)", "E0104"),
        ("size(axis=0)", "E0104"),
        ("mean(v, axis=0, axis=0)", "E0104"),
        ("concat(v, axis=0, axis=0)", "E0104"),
        ("loop(v)", "E0103"),
        ("1 / 0", "E0204"),
        ("v, v", "E0106"),
        ("ids(topk(v, 4))", "E0204"),
        ("v[:2]", "E0201"),
    ],
)
def test_mistakes(expr: str, wanted: str):
    assert code(expr, v=V, fns="fn loop(a) = loop(a)") == wanted


def test_what_becomes_an_array_is_one():
    class Lazy:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            return np.eye(3)

    text = "moe layer[H=3](x: [H]) -> [H] { param a: [H, H]\n return a @ x }"
    assert np.array_equal(reference(text)(np.ones((1, 3)), {"a": Lazy()}), np.ones((1, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_are_read_like_arrays(dtype: torch.dtype):
    text = "moe layer[H=3](x: [H]) -> [H] { param a: [H, H]\n return a @ x }"
    matrix, x = torch.randn(3, 3).to(dtype), torch.randn(2, 3, requires_grad=True)
    wanted = reference(text)(x.detach().numpy(), {"a": matrix.float().numpy()})
    assert np.array_equal(reference(text)(x, {"a": matrix}), wanted)


def error_of(use: Any, *given: Any, **more: Any) -> str:
    with pytest.raises(CompileError) as error:
        use(*given, **more)
    return str(error.value)


def test_arrays_that_do_not_fit():
    text = "moe m[V=5](x: [2], i: i64) -> [2] { param w: [V, 2] param t: i64[V] return x * w[t[i]] }"
    ref = reference(text)
    x, i, w, t = np.ones((3, 2)), np.array([0, 1, 4]), np.ones((5, 2)), np.arange(5)
    same(ref(x, i, {"w": w, "t": t}), x)
    wrong = [
        ("E0401", (x, i), {"w": w}),
        ("E0402", (x, i), {"w": w, "t": t, "u": t}),
        ("E0403", (x, i), {"w": w.T, "t": t}),
        ("E0403", (x, i[:2]), {"w": w, "t": t}),
        ("E0404", (x, i), {"w": w, "t": t * 1.0}),
        ("E0404", (x, x[:, 0]), {"w": w, "t": t}),
        ("E0406", (x, i + 1), {"w": w, "t": t}),
        ("E0406", (x, i), {"w": w, "t": t - 1}),
    ]
    for wanted, inputs, weights in wrong:
        with pytest.raises(CompileError, match=wanted):
            ref(*inputs, weights)
    kernel = moec.compile(text, threads=1)
    packed = kernel.pack({"w": w, "t": t})
    for given in ((x,), (x, i, i)):
        message = error_of(ref, *given, weights={})
        assert "takes 2 inputs" in message and message == error_of(kernel, *given, weights=packed)
    with pytest.raises(CompileError, match="not arrays by name"):
        ref(x, i, [w, t])


@pytest.mark.parametrize("aux", ["nope", ["nope"], ["a", "nope"], 5])
def test_an_aux_that_there_is_not_is_the_same_error_as_a_kernel_s(aux: Any):
    text = "moe m[H=4](x: [H]) -> [H] { param w: [H] aux a = x return x * w }"
    x, w, kernel = np.ones((1, 4), np.float32), {"w": np.ones(4, np.float32)}, moec.compile(text, threads=1)
    message = error_of(reference(text), x, w, aux=aux)
    assert "E0305" in message and message == error_of(kernel, x, kernel.pack(w), aux=aux)


def test_what_is_quantised_are_weights():
    text = "moe m[H=4](x: [H]) -> [H] { param gate: [H, H] return gate @ x }"
    with pytest.raises(CompileError, match=r"E0402.*\n.*did you mean `gate`"):
        reference(text, quantized={"gaet": 64})
    with pytest.raises(CompileError, match="E0206"):
        reference(text, quantized={"gate": 0})
    assert reference(text, quantized={"gate": 64}).quantized == {"gate": 64}


# ── decisions that are close ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("expr", "near", "far"),
    [
        ("ids(topk(exp(v), 2))", [0, 1, 1.000001, 2], [0, 1, 1.1, 2]),
        ("ids(topk(exp(v), 2))", [0, 1, 2, 2.000001], [0, 0, 1, 2]),  # the order counts, what is not chosen does not
        ("argmax(exp(v))", [0, 1, 2, 2.000001], [0, 1, 1, 2]),
        ("ids(where(exp(v) > 1))", [0.000001, 1, 2, 3], [0.1, 1, 2, 3]),
        ("ids(where(floor(exp(v)) > 2))", [0.1, 1, 2, 1.098612], [0.1, 1, 2, 3]),
        ("ids(topk(max(split exp(v) as [2, 2]), 1))", [1, 0, 1.000001, 0], [1, 1, 1.1, 1.1]),
    ],
)
def test_stability(expr: str, near: list[float], far: list[float]):
    shape = {"argmax": "", "ids(wh": "[4]"}.get(expr[:6], "[1]" if "split" in expr else "[2]")
    ref = reference(f"moe m(v: [4]) -> i64{shape} {{ return {expr} }}")
    result = ref.run(np.array([near, far]), weights={})
    assert result.stable.tolist() == [False, True]
    assert ref.run(np.array([near, far]), weights={}, margin=1e-12).stable.all()


def test_exact_decisions_are_stable():
    body = "s = topk(v, 2) t = topk(mask(exp(v), s, -inf), 3) return if i == 3 then v else sum(v[t]) * v"
    ref = reference(f"moe m(v: [4], i: i64) -> [4] {{ {body} }}")
    assert ref.run(np.array([[1.0, 1.0, 3.0, 1.0]]), np.array([3]), weights={}).stable.all()


def test_what_is_rounded_down_compares_exactly():
    body = "return if floor(exp(v)) == floor(exp(v + 0.01)) then floor(v) else floor(1e-9) * v"
    ref = reference(f"moe m(v: [4]) -> [4] {{ {body} }}")
    assert ref.run(np.array([[0.1, 1.0, 2.0, 3.0]]), weights={}).stable.all()


# ── whole layers, from their papers ───────────────────────────────────────────────────────────────────────────────────


def sigmoid(v: Any) -> Any:
    return 1 / (1 + np.exp(-v))


def silu(v: np.ndarray) -> np.ndarray:
    return v * sigmoid(v)


def softmax(v: np.ndarray) -> np.ndarray:
    return np.exp(v - v.max()) / np.exp(v - v.max()).sum()


def swiglu(w: dict[str, np.ndarray], x: np.ndarray, e: Any = ..., prefix: str = "") -> np.ndarray:
    gate, up, down = (w[prefix + name][e] for name in ("gate", "up", "down"))
    return down @ (silu(gate @ x) * (up @ x))


def mixtral(w: dict[str, Any], x: np.ndarray) -> np.ndarray:
    p = softmax(w["router"] @ x)
    top = np.argsort(-p)[:2]
    return sum(p[e] / p[top].sum() * swiglu(w, x, e) for e in top)


def deepseek_v3(w: dict[str, Any], x: np.ndarray) -> np.ndarray:
    s = sigmoid(w["router"] @ x)
    key = (s + w["bias"]).reshape(4, 3)
    kept = np.argsort(-np.sort(key)[:, -2:].sum(1))[:2]
    key[[g for g in range(4) if g not in kept]] = -INF
    top = np.argsort(-key.ravel())[:3]
    chosen = sum(2.5 * s[e] / (s[top].sum() + 1e-20) * swiglu(w, x, e) for e in top)
    return chosen + swiglu(w, x, prefix="shared_")


def gpt_oss(w: dict[str, Any], x: np.ndarray) -> np.ndarray:
    logits = w["router"] @ x + w["router_bias"]
    top = np.argsort(-logits)[:4]
    weights, y = np.exp(logits[top]) / np.exp(logits[top]).sum(), np.zeros_like(x)
    for weight, e in zip(weights, top, strict=True):
        g = np.minimum(w["gate"][e] @ x + w["gate_bias"][e], 7)
        u = np.clip(w["up"][e] @ x + w["up_bias"][e], -7, 7)
        y += weight * (w["down"][e] @ ((u + 1) * g * sigmoid(1.702 * g)) + w["down_bias"][e])
    return y


def llama4(w: dict[str, Any], x: np.ndarray) -> np.ndarray:
    logits = w["router"] @ x
    return swiglu(w, x, prefix="shared_") + swiglu(w, sigmoid(logits.max()) * x, logits.argmax())


def phimoe(w: dict[str, Any], x: np.ndarray) -> np.ndarray:
    logits = w["router"] @ x
    first = logits.argmax()
    rest = np.where(np.arange(len(logits)) == first, -INF, logits)
    second, y = rest.argmax(), np.zeros_like(x)
    for scores, i in ((logits, first), (rest, second)):
        m = scores[i]
        near = (m - logits) / np.maximum(abs(logits), m) <= 0.02
        y += softmax(np.where(near, scores, -INF))[i] * swiglu(w, x, i)
    return y


LAYERS = {
    "mixtral": (mixtral, {"H": 16, "I": 12, "E": 6, "K": 2}),
    "deepseek_v3": (deepseek_v3, {"H": 16, "I": 12, "E": 12, "K": 3, "G": 4, "KG": 2}),
    "gpt_oss": (gpt_oss, {"H": 16, "I": 12, "E": 6, "K": 4}),
    "llama4": (llama4, {"H": 16, "I": 12, "E": 6}),
    "phimoe": (phimoe, {"H": 16, "I": 12, "E": 6}),
}


def random_weights(ref: Any, seed: int = 0) -> dict[str, np.ndarray]:
    from moec.language import syntax

    rng = np.random.default_rng(seed)
    return {
        name.id: rng.standard_normal([ref.dims[axis.id] for axis in node.type.shape]).astype(np.float32)
        for node in ref.layer.body
        if isinstance(node, syntax.Param)
        for name in node.names
    }


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str):
    formula, dims = LAYERS[name]
    ref = reference(EXAMPLES / f"{name}.moe", dims)
    weights = random_weights(ref)
    if name == "phimoe":  # rivals within two per cent of each other
        weights["router"] = weights["router"][[0, 0, 0, 1, 1, 2]] * (1 + 0.004 * np.arange(6)[:, None]).astype(
            np.float32
        )
    x = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)
    result = ref.run(x, weights)
    assert result.stable.mean() > 0.5
    exact = {key: value.astype(float) for key, value in weights.items()}
    np.testing.assert_allclose(result.y, [formula(exact, token) for token in x.astype(float)], rtol=1e-9, atol=1e-9)


def test_gpt_oss_from_its_checkpoint():
    """Gate and up lie interleaved and transposed; `bind` takes them apart."""
    file, dims = parse(read(EXAMPLES / "gpt_oss.moe")), LAYERS["gpt_oss"][1]
    ref = reference(EXAMPLES / "gpt_oss.moe", dims)
    w = random_weights(ref)
    gate_up = np.stack([w["gate"].swapaxes(1, 2), w["up"].swapaxes(1, 2)], -1).reshape(6, 16, 24)
    tensors = {
        "router.weight": w["router"],
        "router.bias": w["router_bias"],
        "experts.gate_up_proj": gate_up,
        "experts.gate_up_proj_bias": np.stack([w["gate_bias"], w["up_bias"]], -1).reshape(6, 24),
        "experts.down_proj": w["down"].swapaxes(1, 2),
        "experts.down_proj_bias": w["down_bias"],
    }
    bound = bind_weights(file, "transformers", tensors, dims)
    for name, value in w.items():
        np.testing.assert_array_equal(np.asarray(bound[name]), value, err_msg=name)
    x = np.random.default_rng(2).standard_normal((3, 16))
    same(ref(x, bound), ref(x, w))


def test_mixtral_in_bf16_rounds_where_the_file_says():
    dims = LAYERS["mixtral"][1]
    ref = reference(EXAMPLES / "mixtral.moe", dims, "bf16")
    w = {name: bf16(value) for name, value in random_weights(ref).items()}
    x = bf16(np.random.default_rng(3).standard_normal((8, 16)))

    def layer(x: np.ndarray) -> np.ndarray:
        p = softmax(bf16(w["router"] @ x))
        top = np.lexsort((np.arange(6), -p))[:2]
        experts = [w["down"][e] @ bf16(silu(w["gate"][e] @ x) * (w["up"][e] @ x)) for e in top]
        return sum(p[e] / p[top].sum() * y for e, y in zip(top, experts, strict=True))

    np.testing.assert_allclose(ref(x, w), [layer(token) for token in x], rtol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("others", ["v[0]", "-inf", "if v[0] > 0 then inf else -inf", "inf - inf"])
def test_infinities_are_no_neighbours_of_a_rank(others: str):
    body = f"s = exp(v) b = argmax(s) other = {others}"
    ranks = "rank(each e in 0..2: if e == b then max(s) else other, axis=batch)"
    ref = reference(f"moe m(v: [2]) -> i64[2] {{ {body} return {ranks} }}")
    assert ref.run(np.array([[-2, 1], [-1, 3], [-2, 1 + 1e-9]]), weights={}).stable.tolist() == [False, True, False]


@pytest.mark.filterwarnings("error")
def test_infinities_are_added_along_the_tokens_without_a_warning():
    sums = reference("moe m(v: [1]) -> [1] { return cumsum(v, axis=batch) + sum(v, axis=batch) }")
    assert np.isnan(sums(np.array([[INF], [-INF]]), {})).all()
