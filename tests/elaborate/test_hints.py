"""What is said of texts that say elsewhere what they say not here: the message, and the way out."""

from __future__ import annotations

import pytest

from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.language.parse import parse
from moec.source import Source

LAYER = (
    "moe m[H=4, E=4, K=2](x: [H], id: i64) -> %s {\n    param p: [E]\n    param w: [K]\n    s = topk(p, K)\n    %s\n}\n"
)

#: The type of the output, the body, the part of it that is marked, the message, and the help.
HINTS: list[tuple[str, str, str, str, str | None]] = [
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
        "`slot(e)` is the position of `e` in its selection",
    ),
    ("f32", "return sum e in {0, 4}: p[e]", "e", "index in 0..5 can lie outside an axis of E", None),
    (
        "[K]",
        "return p[topk(p, k=K)]",
        "topk(p, k=K)",
        "`topk` has no parameter `k`",
        "its arguments stand in order, without names",
    ),
    (
        "f32",
        "return sum(p, dim=0)",
        "sum(p, dim=0)",
        "`sum` has no parameter `dim`",
        "its arguments stand in order, without names, but for `axis`",
    ),
    (
        "f32",
        "return mean(p, dim=0)",
        "0",
        "`dim` is not a parameter of `mean`",
        "the parameters are `v`, `axis`",
    ),
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
