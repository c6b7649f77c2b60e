"""Numbers known when compiling: how large they may be, what infinity does, the ranges of indices, parts of an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import moec
from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.language.parse import parse
from moec.source import Source


def scale(number: str) -> tuple[float, float]:
    """A number times 1, compiled and interpreted."""
    text = f"moe m[H=12](x: [H]) -> [H] {{\n    return ({number}) * x\n}}\n"
    x = np.ones((1, 12), np.float32)
    kernel = moec.compile(text, threads=1)
    return kernel(x, weights=kernel.pack({}))[0, 0], moec.reference(text)(x, {})[0, 0]


@pytest.mark.parametrize("number", ["1e19", "-1e30", "2 ** 127", "3.4028235e38", "0.1 ** 1000", "1 / inf", "H * inf"])
def test_numbers_beyond_64_bits_are_numbers(number: str) -> None:
    found, wanted = scale(number)
    assert np.float32(wanted) == found


@pytest.mark.parametrize("number", ["(H ** 0.5) ** 3", "1 / (H ** -0.3 * H ** -0.3)", "((H + 0.5) ** -1) ** 3"])
def test_a_root_may_be_raised(number: str) -> None:
    found, wanted = scale(number)
    assert np.isclose(found, wanted)


@pytest.mark.parametrize("number", ["inf - inf", "inf / inf", "0 * inf"])
def test_infinity_follows_no_algebra(number: str) -> None:
    assert np.isnan(scale(number)).all()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("1e39", "E0206"),
        ("2 ** 1024 * 2 ** 1024", "E0206"),
        (" * ".join(["2 ** 1024"] * 9), "E0206"),
        ("(10 ** 300 * 10 ** 300) ** 0.5", "E0206"),
        ("1e200 ** 0.5", "E0206"),
        ("(2 ** 300) ** 0.5", "E0206"),
        ("pi ** 100", "E0206"),
        ("((H + 1 / H + H ** 0.5 + H ** 0.3) ** 8) ** 8", "E0206"),
        ("2 ** 10000000000", "E0206"),
        ("0 ** -1", "E0202"),
        ("(0 - 1) ** 0.5", "E0202"),
        ("H % 0", "E0202"),
        ("inf % 2", "E0204"),
    ],
)
def test_what_is_no_number_is_an_error(number: str, code: str) -> None:
    with pytest.raises(CompileError) as error:
        scale(number)
    assert error.value.diagnostics[0].code == code


@pytest.mark.parametrize(
    "body",
    [
        "match L { 0..8: x, 8..: 2 * x }",
        "match H { 0..L: x, L..: 2 * x }",
        "if L == 3 then x else 2 * x",
        "if not L > 3 then x else 2 * x",
        "if 1 < 2 and L > 3 then x else 2 * x",
        "if x > 0 and L > 3 then x else 2 * x",
        "floor(L / 2) * x",
    ],
)
def test_what_decides_has_a_value(body: str) -> None:
    text = f"moe m[H=12, L](x: [H]) -> [H] {{\n    return {body}\n}}\n"
    with pytest.raises(CompileError, match="E0301"):
        elaborate(parse(Source("layer.moe", text)))
    elaborate(parse(Source("layer.moe", text)), {"L": 3})


def rows(index: str) -> str:
    """A layer that reads a table of three rows at a computed place."""
    return f"moe m[H=4, E=6](x: [H]) -> [E, H] {{\n    param w: [3, H]\n    return each e in 0..E: w[{index}] * x\n}}\n"


@pytest.mark.parametrize(
    "index",
    ["e / 2", "2 - e / 2", "(e - 6) / 2 + 3", "(e % 2) * -2 + 2", "(e - 3) * (e - 3) % 3", "(2 - e) % 3", "e % -3 + 2"],
)
def test_an_index_in_its_range_is_read(index: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4), np.float32), rng.standard_normal((3, 4), np.float32)
    kernel = moec.compile(rows(index), threads=1)
    assert np.allclose(kernel(x, kernel.pack({"w": w})), moec.reference(rows(index))(x, {"w": w}))


@pytest.mark.parametrize("index", ["5 + e * -1", "e % -3", "e / -2", "e * -1", "(e - 5) * (e - 5)", "(e - 1) / 2 * 2"])
def test_an_index_that_can_leave_its_range_is_an_error(index: str) -> None:
    with pytest.raises(CompileError) as error:
        moec.compile(rows(index), threads=1)
    assert error.value.diagnostics[0].code == "E0205"


@pytest.mark.parametrize("index", ["e / 0", "e % 0", "e / (E - 6)"])
def test_a_division_by_a_known_zero_is_an_error(index: str) -> None:
    with pytest.raises(CompileError) as error:
        moec.compile(rows(index), threads=1)
    assert error.value.diagnostics[0].code == "E0202"


def test_an_index_that_wraps_is_checked_when_the_kernel_runs() -> None:
    kernel = moec.compile(rows("e * 6148914691236517206 / 6148914691236517206"), threads=1)
    with pytest.raises(IndexError):
        kernel(np.ones((1, 4), np.float32), kernel.pack({"w": np.ones((3, 4), np.float32)}))


def beside(value: str) -> str:
    """A layer of one number for each index below 4."""
    return f"moe m[H=4, I=2](x: [H]) -> f32[H] {{\n    return each e in 0..H: {value}\n}}\n"


@pytest.mark.parametrize(
    "value",
    [
        "e * (I / H)",
        "e / (I / H)",
        "e * H ** -0.5",
        "e - pi",
        "min(e, inf)",
        "f32(e < inf)",
        "f32(e == H / 8)",
        "f32(e * (H / I) / 3)",
        "concat(7, I)[e / I] / 3",
        "f32(max(H, 6) * e / 4)",
        "f32(min(H, I) * e / 4)",
        "f32(abs(-3) * e / 4)",
        "f32(abs(I - H) * e / 4)",
        "f32(floor(7 / I) * e / 2)",
        "f32(floor(-H / 3) * e / 4)",
        "f32(floor(H ** 0.5) * e / 4)",
        "f32(floor(e) / 3)",
        "floor(-inf) * e",
        "floor(inf - inf) * e",
        "floor(e * 0.7)",
        "concat(x, x)[floor(H / 3)] + e",
        "x[argmax(each i in 0..H: if floor(e * 0.7) == i then 1 else 0)] + e",
        "max(I / H, 0.25) * e",
        "abs(-inf) * e",
        "max(H ** -0.5, 1e-3) * e",
        "min(inf - inf, 1) * e",
        "min(1, inf - inf) * e",
        "max(H, 6) / 4",
        "concat(x, x)[max(H, 6) - 1] + e",
    ],
)
def test_an_index_beside_a_number_is_an_integer_where_both_are(value: str) -> None:
    x = np.ones((1, 4), np.float32)
    kernel = moec.compile(beside(value), threads=1)
    assert np.allclose(kernel(x, kernel.pack({})), moec.reference(beside(value))(x, {}), equal_nan=True)


@pytest.mark.parametrize(
    "value", ["f32(0.5 in 0..H)", "f32(H / 8 in {e})", "f32(e in {inf})", "match H / 3 { 0..: x[e] }"]
)
def test_what_is_no_integer_does_not_stand_for_one(value: str) -> None:
    with pytest.raises(CompileError, match="E0202"):
        moec.compile(beside(value), threads=1)
    with pytest.raises(CompileError, match="E0202"):
        moec.reference(beside(value))(np.ones((1, 4), np.float32), {})


@pytest.mark.parametrize("body", ["match i { 0..1e19: x, 1e19..: x, ..0: x }", "sum e in 0..1e19: x"])
def test_an_integer_has_64_bits(body: str) -> None:
    with pytest.raises(CompileError) as error:
        moec.compile(f"moe m[H=12](x: [H], i: i64) -> [H] {{\n    return {body}\n}}\n", threads=1)
    assert error.value.diagnostics[0].code == "E0206"


def test_parts_of_an_axis_are_formulas_of_it() -> None:
    text = """
        moe m[H=12](x: [H]) -> [H] {
            param g: [H / 2]
            halves = concat(x[0::2] * g, x[1::2] * g)
            quarters = concat(x[:H / 4], x[H / 4:])
            return halves + quarters + sum((split x as [3, 4])[2])
        }
    """
    x, g = np.random.default_rng(0).standard_normal((2, 12), np.float32), np.arange(6, dtype=np.float32)
    kernel = moec.compile(text, threads=1)
    wanted = np.concatenate([x[:, 0::2] * g, x[:, 1::2] * g], axis=1) + x + x[:, 8:].sum(1, keepdims=True)
    assert np.allclose(kernel(x, kernel.pack({"g": g})), wanted, rtol=1e-5)


def test_an_if_between_truth_values_is_one() -> None:
    text = """
        moe m[H=12](x: [H], flag: bool, flags: bool[H]) -> (y: [H], n: f32) {
            c = if flags then x > 0 else not flags
            return (if c then x else 0), sum e in where(if flag then x > 1 else flags): 1
        }
    """
    rng = np.random.default_rng(0)
    x, flag, flags = rng.standard_normal((9, 12), np.float32), rng.random(9) < 0.5, rng.random((9, 12)) < 0.5
    kernel = moec.compile(text, threads=1)
    y, count = kernel(x, flag, flags, kernel.pack({}))
    assert np.array_equal(y, np.where(np.where(flags, x > 0, True), x, 0))
    assert np.array_equal(count, np.where(flag[:, None], x > 1, flags).sum(1))


def test_a_dimension_may_be_an_integer_of_numpy() -> None:
    assert moec.compile(rows("e % 3"), {"H": np.int64(8)}, threads=1).dims["H"] == 8
    with pytest.raises(CompileError, match="`H` is '8', not a positive integer"):
        moec.compile(rows("e % 3"), {"H": "8"}, threads=1)  # type: ignore[dict-item]  # which is the mistake


@pytest.mark.parametrize("condition", ["2", "1", "H", "not H", "1 < 2 and H", "x > 0 or 1", "not not 0", "(1 < 2) + 0"])
def test_a_number_is_no_condition(condition: str) -> None:
    text = f"moe m[H=12](x: [H]) -> [H] {{\n    return if {condition} then x else 2 * x\n}}\n"
    with pytest.raises(CompileError, match="E0204"):
        moec.compile(text, threads=1)
    with pytest.raises(CompileError, match="E0204"):
        moec.reference(text)(np.ones((1, 12), np.float32), {})


def truths(result: str, out: str) -> tuple[Any, Any]:
    """What both say of truth values `a` and `b`, of four indices each, and `c`."""
    text = f"moe m[N=4](x: f32[N], a: bool[N], b: bool[N], c: bool) -> {out} {{ return {result} }}"
    x = np.ones((2, 4), np.float32)
    a, b, c = np.array([[0, 0, 1, 1]] * 2) > 0, np.array([[0, 1, 0, 1]] * 2) > 0, np.array([True, False])
    kernel = moec.compile(text, threads=1)
    return kernel(x, a, b, c, kernel.pack({})), np.asarray(moec.reference(text)(x, a, b, c, {}))


@pytest.mark.parametrize(
    ("result", "out", "wanted"),
    [
        ("a == b", "bool[N]", [[1, 0, 0, 1]] * 2),
        ("a != b", "bool[N]", [[0, 1, 1, 0]] * 2),
        ("a == c", "bool[N]", [[0, 0, 1, 1], [1, 1, 0, 0]]),
        ("a != (N == 4)", "bool[N]", [[1, 1, 0, 0]] * 2),
        ("if (x > 0) == a then 1 else 0", "f32[N]", [[0, 0, 1, 1]] * 2),
        ("f32(c != (1 < 0))", "f32", [1, 0]),
        ("f32((1 < 2) == (N == 4))", "f32", [1, 1]),
        ("if c then N == 4 else N == 3", "bool", [1, 0]),
        ("each i in 0..N: N == 4", "bool[N]", [[1] * 4] * 2),
        ("N == 4", "bool", [1, 1]),
    ],
)
def test_truth_values_are_equal_or_not(result: str, out: str, wanted: list[int]) -> None:
    for found in truths(result, out):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "result", ["a == 1", "a != x", "x == (N == 4)", "x * (N == 4)", "x ** (N == 4)", "a < b", "x[N == 3] + x"]
)
def test_truth_values_are_no_numbers(result: str) -> None:
    text = f"moe m[N=4](x: f32[N], a: bool[N], b: bool[N]) -> f32[N] {{ return f32({result}) }}"
    with pytest.raises(CompileError, match="E0204"):
        moec.compile(text, threads=1)
    with pytest.raises(CompileError, match="E0204"):
        moec.reference(text)(np.ones((1, 4), np.float32), np.ones((1, 4), bool), np.ones((1, 4), bool), {})


@pytest.mark.parametrize(
    "expression",
    [
        "e * 0 + 1",
        "1 + e - e",
        "(e * 0 + 9223372036854775807) + 5",
        "(e * 0 - 7) / 2",
        "if not (e * 0 < 0) then e else 0",
    ],
)
def test_integers_that_come_to_a_constant_are_folded(expression: str) -> None:
    text = f"moe m[N=4](x: f32[N]) -> i64 {{ return sum e in where(x > 2): {expression} }}"
    x = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [9, 1, 1, 1]], np.float32)
    kernel = moec.compile(text, threads=1)
    assert np.array_equal(kernel(x, kernel.pack({})), moec.reference(text)(x, {}))


@pytest.mark.parametrize(("expression", "wanted"), [("1.0 / i", 0), ("i * H / 3", 9), ("f32(i) * H / 3", 28 / 3)])
def test_a_number_beside_an_index_counts_as_an_integer(expression: str, wanted: float) -> None:
    text = f"moe m[H=4](x: [H], i: i64) -> f32 {{ return f32({expression}) + 0 * sum(x) }}"
    x, i = np.zeros((1, 4), np.float32), np.array([7])
    kernel = moec.compile(text, threads=1)
    for y in (kernel(x, i, kernel.pack({})), moec.reference(text)(x, i, {})):
        assert np.allclose(y, wanted)


@pytest.mark.parametrize("power", ["0.5", "-0.5", "1 / 2", "3", "-1"])
def test_powers_at_the_edges(power: str) -> None:
    """A half is a root, where `pow` has other edges: of -0 and -inf."""
    text = f"moe m[H=6](x: [H]) -> [H] {{ return x ** ({power}) }}"
    x = np.array([[-0.0, 0.0, -np.inf, np.inf, np.nan, 4]], np.float32)
    kernel = moec.compile(text, threads=1)
    ours, theirs = kernel(x, weights=kernel.pack({})), moec.reference(text)(x, {})
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))
    if power == "-0.5":
        np.testing.assert_array_equal(ours, [[-np.inf, np.inf, np.nan, 0, np.nan, 0.5]])
