"""What is said of texts that say elsewhere what they say not here: the message, and the way out."""

from __future__ import annotations

import pytest

from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.elaborate.functions import FUNCTIONS
from moec.language.foreign import FOREIGN_NAMES
from moec.language.parse import parse, prelude
from moec.source import Source

LAYER = (
    "moe m[H=4, E=4, K=2](x: [H], id: i64) -> %s {\n    param p: [E]\n    param w: [K]\n    s = topk(p, K)\n    %s\n}\n"
)

#: The type of the output, the body, the part of it that is marked, the message, and the help.
HINTS: list[tuple[str, str, str, str, str | None]] = [
    (
        "[E]",
        "return rmsnorm(p, eps=w)",
        "w",
        "`eps` of `rmsnorm` is one number, not an array of shape [K]",
        "it has no weights: write `rmsnorm(p) * w`",
    ),
    ("[E]", "return p * norm(p, w)", "w", "`p` of `norm` is one number, not an array of shape [K]", None),
    (
        "[K]",
        "return where(p > 0, p, w)",
        "where(p > 0, p, w)",
        "`where` takes 1 argument, not 3",
        "write `if c then a else b`",
    ),
    (
        "[E]",
        "return p[p > 0.1]",
        "p > 0.1",
        "an array of shape [E] stands where an index is needed",
        "`where(p > 0.1)` selects those that hold",
    ),
    (
        "[K]",
        "return p[ids(s)]",
        "ids(s)",
        "an array of shape [K] stands where an index is needed",
        "`s` itself selects these",
    ),
    (
        "[K]",
        "t = ids(s) return p[t]",
        "t",
        "an array of shape [K] stands where an index is needed",
        "`given(t, n)` selects by indices in `0..n`",
    ),
    ("[E]", "return x[0.5 * x]", "0.5 * x", "an array of shape [H] stands where an index is needed", None),
    (
        "f32",
        "return sum e in {id, 0}: p[e]",
        "id",
        "an index in -inf..inf can lie outside every domain `0..n`",
        "`given(concat(id, 0), n)` skips what lies outside",
    ),
    (
        "f32",
        "return sum e in s: w[e]",
        "e",
        "index in 0..E can lie outside an axis of K",
        "write `slot(e)` for the position of `e` in its selection",
    ),
    ("f32", "return sum e in {0, 4}: p[e]", "e", "index in 0..5 can lie outside an axis of E", None),
    (
        "[K]",
        "return p[topk(p, k=K)]",
        "k",
        "`topk` has no parameter `k`",
        "its arguments stand in order, without names",
    ),
    (
        "f32",
        "return sum(p, dim=0)",
        "dim",
        "`sum` has no parameter `dim`",
        "write `axis=…`",
    ),
    ("f32", "return mean(p, dim=0)", "dim", "`mean` has no parameter `dim`", "write `axis=…`"),
    (
        "f32",
        "return max(p, along=0)",
        "along",
        "`max` has no parameter `along`",
        "its arguments stand in order, without names, but for `axis`",
    ),
    ("f32", "return norm(p, q=2)", "q", "`norm` has no parameter `q`", "its parameters are `v`, `p`"),
    ("f32", "return norm(p, v=p)", "v", "`v` of `norm` is given twice", None),
    *(
        (
            "[E]",
            f"return softmax(p, {axis}=-1)",
            axis,
            f"`softmax` has no parameter `{axis}`",
            "leave it out: `softmax` is of a vector; `each i in 0..n: softmax(m[i])` is of every row",
        )
        for axis in ("dim", "axis")
    ),
    (
        "[E]",
        "return p / sum(p, axis=-1, keepdims=True)",
        "keepdims",
        "`sum` has no parameter `keepdims`",
        "leave it out: the axis goes, and a scalar fits every shape",
    ),
    # names that something else has
    (
        "[E]",
        "return if True then p else p",
        "True",
        "`True` is not in the language",
        "there are no truth literals: write `0 < 1`",
    ),
    (
        "[E]",
        "return if false then p else p",
        "false",
        "`false` is not in the language",
        "there are no truth literals: write `0 > 1`",
    ),
    (
        "f32",
        "return sum e in range(E): p[e]",
        "range",
        "`range` is not in the language",
        "write `0..n`; `each i in 0..n: i` is the vector",
    ),
    ("f32", "return sum(p) / len(p)", "len", "`len` is not in the language", "write `size(v)`"),
    (
        "[E]",
        "return p[argsort(p)]",
        "argsort",
        "`argsort` is not in the language",
        "`topk(v, n)` selects the n largest in order, `top(v, n)` is their values",
    ),
    (
        "[E]",
        "return p + zeros(E)",
        "zeros",
        "`zeros` is not in the language",
        "a number stands beside arrays of every shape; `each i in 0..n: 0` is a vector",
    ),
    ("[E]", "return mask(p, s, -Inf)", "Inf", "`Inf` is not in the language", "write `inf`"),
    ("[E]", "return mask(p, s, nan)", "nan", "`nan` is not in the language", "write `inf - inf`"),
    ("f32", "return float(id)", "float", "`float` is not in the language", "write `f32(v)`"),
    (
        "[E]",
        "return p[None, :]",
        "None",
        "`None` is not in the language",
        "`each i in 0..n: v` has an axis of `n` in front",
    ),
    ("f32", 'return sum(top(p, "K"))', '"K"', "a string stands only in a `bind`", "write `K`, without quotes"),
    ("f32", "return match id { 0: 1, _: 2 }", "_", "`_` is not defined", "`n..: …` takes all from `n` on"),
    # selections
    (
        "f32",
        "v, t = topk(p, K) return v",
        "v, t = topk(p, K)",
        "2 names for 1 value",
        "`topk` gives a selection; the values at `top = topk(p, K)` are `p[top]`",
    ),
    (
        "f32",
        "return sum e in concat(s, {0}): p[e]",
        "s",
        "`concat` joins arrays, not selections",
        "selections are not joined: add a sum over each",
    ),
    (
        "f32",
        "return sum e in (s or {0}): p[e]",
        "s",
        "a selection stands where a truth value is needed",
        "selections are not joined: add a sum over each",
    ),
    (
        "[K]",
        "t = topk(-p, K) return p[s] + p[t]",
        "p[s] + p[t]",
        "vectors of different selections do not combine",
        "`concat(v[s])` is a plain vector of the slots, with 0 where one is empty",
    ),
    (
        "[E]",
        "return cumsum(p)",
        "cumsum(p)",
        "`cumsum` goes along the tokens: `cumsum(v, axis=batch)`",
        "along a vector, `each i in 0..n: sum j in 0..n: if j <= i then v[j] else 0`",
    ),
    (
        "[3]",
        "m = each i in 0..3: each j in 0..5: 1 return m @ p",
        "m @ p",
        "shapes [3, 5] and [E] do not fit: `5` and `E`",
        None,
    ),
    (
        "[K]",
        "return p[topk(p, id)]",
        "id",
        "the count is a compile-time number, not an index",
        "with `top = topk(v, E)`, `where(each e in top: slot(e) < id)` is the first of these",
    ),
    (
        "f32",
        "return sum(e in s) * p[e]",
        "e",
        "`e` is not defined",
        "write `sum e in s: …`, without parentheses",
    ),
    # rows
    (
        "[E]",
        'return softmax(p, "last")',
        '"last"',
        "a string stands only in a `bind`",
        "leave it out: `softmax` is of a vector; `each i in 0..n: softmax(m[i])` is of every row",
    ),
    (
        "[E]",
        "return softmax(p, -1)",
        "softmax(p, -1)",
        "`softmax` takes 1 argument, not 2",
        "leave it out: `softmax` is of a vector; `each i in 0..n: softmax(m[i])` is of every row",
    ),
    (
        "[3, E]",
        "m = each i in 0..3: p return softmax(m)",
        "m",
        "`softmax` is of a vector, not of an array of shape [3, E]",
        "`each i in 0..3: softmax(m[i])` is of every row",
    ),
    (
        "i64[3]",
        "return argmax(each i in 0..3: p)",
        "each i in 0..3: p",
        "`argmax` takes a vector, not an array of shape [3, E]",
        "`each i in 0..3: argmax(m[i])` is of every row",
    ),
    (
        "[3, E]",
        "m = each i in 0..3: p return m * p",
        "m * p",
        "shapes [3, E] and [E] do not fit: `3` and `E`",
        "`each i in 0..3: m[i] * p` is of every row",
    ),
    (
        "[3, E]",
        "m = each i in 0..3: p return (p + 1) - m",
        "(p + 1) - m",
        "shapes [E] and [3, E] do not fit: `E` and `3`",
        "`each i in 0..3: (p + 1) - m[i]` is of every row",
    ),
    (
        "[E, 3]",
        "m = each e in 0..E: each i in 0..3: 1 return m / p",
        "m / p",
        "shapes [E, 3] and [E] do not fit",
        "`each i in 0..E: m[i] / p[i]` is of every row",
    ),
    (
        "[H, H]",
        "return x * x.T",
        "x.T",
        "`.T` needs two axes, this has shape [H]",
        "a vector is no matrix: `each i in 0..H: a[i] * b` is an outer product, `a @ b` an inner one",
    ),
    # several results
    (
        "[E]",
        "fn two(a) { return a, a + 1 } fn same(a) { return two(a) } a, b = same(p) return a",
        "two(a)",
        "`two` returns 2 values, one is needed",
        "name them first: `a, b = two(…)`",
    ),
    # names that nothing has
    (
        "[E]",
        "return sign(p)",
        "sign",
        "`sign` is not in the language",
        "write `if v > 0 then 1 else if v < 0 then -1 else 0`",
    ),
    ("[E]", "return tan(p)", "tan", "`tan` is not in the language", "write `sin(v) / cos(v)`"),
    (
        "[E]",
        "return round(p)",
        "round",
        "`round` is not in the language",
        "write `floor(v + 0.5)`, which rounds halves up",
    ),
    ("[E]", "return ceil(p)", "ceil", "`ceil` is not in the language", "write `-floor(-v)`"),
    ("f32", "return floor(id > 0)", "id > 0", "a truth value stands where a number is needed", "`f32(c)` is 0 or 1"),
    (
        "f32",
        "return p[floor(x[0])]",
        "floor(x[0])",
        "a scalar stands where an index is needed",
        "`argmax(each i in 0..E: if floor(x[0]) == i then 1 else 0)` is that number as an index",
    ),
    (
        "f32",
        "return p[2 * x[0]]",
        "2 * x[0]",
        "a scalar stands where an index is needed",
        "`argmax(each i in 0..E: if floor(2 * x[0]) == i then 1 else 0)` is that number as an index",
    ),
    ("[E]", "return cost(p)", "cost", "`cost` is not defined", "did you mean `cos`?"),
    ("[E]", "return rounded(p)", "rounded", "`rounded` is not defined", None),
    ("i64", "return sum e in s: 1", "sum e in s: 1", "the output is `f32`, not `i64`", None),
    ("[E]", "return p > 0", "p > 0", "the output is `bool`, not `real`", "`f32(…)` converts it"),
    ("f32", "return id", "id", "the output is `i64`, not `f32`", "`f32(…)` converts it"),
]


@pytest.mark.parametrize(("output", "body", "part", "message", "help"), HINTS, ids=[hint[1] for hint in HINTS])
def test_hints(output: str, body: str, part: str, message: str, help: str | None) -> None:
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("m.moe", LAYER % (output, body))))
    (found,) = error.value.diagnostics
    assert found.span is not None
    assert (found.message, found.span.text, found.help) == (message, part, help)


@pytest.mark.parametrize(("name", "help"), [("h", "did you mean `H`?"), ("top_k", "the dimensions are `H`, `E`, `K`")])
def test_a_dimension_that_is_none_is_told_the_others(name: str, help: str) -> None:
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("m.moe", LAYER % ("[E]", "return p"))), {name: 4})
    assert error.value.diagnostics[0].help == help


@pytest.mark.parametrize("body", ["(sum e in s: p[e]) * p[e]", "p[e] * sum e in s: p[e]"])
def test_a_name_outside_of_what_binds_it_is_shown_that(body: str) -> None:
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("m.moe", LAYER % ("f32", f"return {body}"))))
    (found,) = error.value.diagnostics
    assert (found.message, found.help) == ("`e` is not defined", None)
    assert [(cause.span.text, cause.text) for cause in found.causes] == [("e", "bound only inside this `sum`")]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("y = f(p) fn f(v) = v * 2 return y", "f"),
        ("y = norm1(p) fn norm1(v) = v * 2 return y", "norm1"),
        ("y = v + p v = p return y", "v"),
        ("y = q + p param q: [E] return y", "q"),
        ("fn g(v) = f(v) y = g(p) fn f(v) = v return y", "f"),
        ("fn g(v) { u = f(v) fn f(v) = v return u } return g(p)", "f"),
        ("fn g(v) { u = cosh + v cosh = v return u } return g(p)", "cosh"),
    ],
)
def test_a_name_above_its_definition_is_shown_that(body: str, name: str) -> None:
    text = LAYER % ("[E]", body)
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("m.moe", text)))
    (found,) = error.value.diagnostics
    assert found.span is not None and found.span.text == name
    assert (found.code, found.message) == ("E0101", f"`{name}` is not defined yet")
    assert found.help == "a name is visible below its definition: move it up"
    (cause,) = found.causes
    assert (cause.span.text, cause.text) == (name, "defined here, below")
    assert cause.span.start > found.span.start


def test_a_name_in_its_own_definition_is_not_below() -> None:
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("m.moe", LAYER % ("[E]", "z = z + p return z"))))
    assert error.value.diagnostics[0].message == "`z` is not defined"


#: What a help of `FOREIGN_NAMES` says to write is in the language: the name, with what stands for its letters.
WRITTEN = [
    ("roll", "each i in 0..E: p[(i + 1) % E]"),
    ("shift", "concat(0, p[:-1])"),
    ("flip", "each i in 0..E: p[E - 1 - i]"),
    ("sign", "if p > 0 then 1 else if p < 0 then -1 else 0"),
    ("var", "p + mean((p - mean(p)) ** 2)"),
    ("any", "p * (if max(f32(p > 0)) > 0 then 1 else 0)"),
    ("all", "p * (if min(f32(p > 0)) > 0 then 1 else 0)"),
    ("prod", "p * exp(sum(log(p)))"),
    ("mish", "p * tanh(softplus(p))"),
    ("tan", "sin(p) / cos(p)"),
    ("mod", "p - 3 * floor(p / 3)"),
    ("ceil", "-floor(-p)"),
    ("round", "floor(p + 0.5)"),
    ("trunc", "if p < 0 then -floor(-p) else floor(p)"),
    ("frac", "p - floor(p)"),
    ("elu", "if p > 0 then p else exp(p) - 1"),
    ("log_softmax", "p - logsumexp(p)"),
    ("argmin", "p + argmax(-p)"),
]


@pytest.mark.parametrize(("name", "written"), WRITTEN, ids=[row[0] for row in WRITTEN])
def test_what_is_to_be_written_is_in_the_language(name: str, written: str) -> None:
    assert name in FOREIGN_NAMES
    elaborate(parse(Source("m.moe", LAYER % ("[E]", f"return {written}"))))


def test_no_help_is_for_a_name_of_the_language() -> None:
    taken = {*FUNCTIONS, *(function.name.id for function in prelude().functions)}
    assert not taken & set(FOREIGN_NAMES)


#: The type of an input, and the message and the help.
TYPES = [
    ("i32", "`i32` is not an element type", "write `i64`"),
    ("int", "`int` is not an element type", "write `i64`"),
    ("float32", "`float32` is not an element type", "write `f32`"),
    ("bfloat16[H]", "`bfloat16` is not an element type", "write `bf16`"),
    ("H", "`H` is not an element type", "write `[H]`"),
    *(
        (kind, f"`{kind}` is not an element type", "the element types are `real`, `f32`, `bf16`, `f16`, `i64`, `bool`")
        for kind in ("float", "Tensor", "u8")
    ),
    ("[T, H]", "`T` is not defined", "a layer describes one token: `x: [H]`"),
    ("f32[B, T, 3, H]", "`B` is not defined", "a layer describes one token: `x: f32[3, H]`"),
    ("[h, H]", "`h` is not defined", "did you mean `H`?"),
    ("[T]", "`T` is not defined", None),
]


@pytest.mark.parametrize(("type", "message", "help"), TYPES, ids=[row[0] for row in TYPES])
def test_types(type: str, message: str, help: str | None) -> None:
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("m.moe", f"moe m[H=4](x: {type}) -> f32 {{ return 1 }}")))
    (found,) = error.value.diagnostics
    assert (found.message, found.help) == (message, help)
