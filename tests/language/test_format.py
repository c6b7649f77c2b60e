"""The layout: idempotent, without a change of meaning, with every comment; and what it looks like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moec.diagnostics import CompileError
from moec.language import syntax
from moec.language.format import format_source
from moec.language.layout import WIDTH
from moec.language.parse import parse
from moec.language.read import read
from moec.source import Source
from tests.language.texts import FILES, SPACES

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "moec" / "language" / "prelude.moe", *sorted((ROOT / "examples").glob("*.moe"))]
QUIET = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


def formatted(text: str) -> str:
    return format_source(Source("<test>", text))


def nodes(text: str) -> syntax.File:
    return replace(parse(Source("<test>", text)), comments=())


def comments(text: str) -> list[str]:
    return sorted(comment.text.rstrip() for comment in parse(Source("<test>", text)).comments)


def check(text: str) -> str:
    laid = formatted(text)
    assert nodes(laid) == nodes(text)
    assert comments(laid) == comments(text)
    assert formatted(laid) == laid
    assert not any(line != line.rstrip() for line in laid.split("\n"))
    assert "\n\n\n" not in laid and laid.endswith("\n")
    return laid


@QUIET
@given(FILES)
def test_random_syntax_survives(text: str) -> None:
    check(text)


@QUIET
@given(FILES, st.randoms(use_true_random=False))
def test_random_comments_survive(text: str, random: object) -> None:
    tokens = text.split(" ")
    assert hasattr(random, "choice")
    check(" ".join(token if '"' in token else f"{token} {random.choice(SPACES)}" for token in tokens))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_files_survive(path: Path) -> None:
    check(read(path).text)


def test_prelude_is_in_the_layout() -> None:
    source = read(TEXTS[0])
    assert format_source(source) == source.text


DEEP = {
    "groups": "(" * 190 + "a" + ")" * 190,
    "calls": "f(" * 90 + "a" + ")" * 90,
    "chain": " + ".join("a" * 190),
    "sums": "sum e in s: " * 190 + "a",
    "conditions": "if a then b else " * 190 + "a",
    "arms": "match a { 0: " * 90 + "b" + "}" * 90,
    "items": "a[" * 90 + "0" + "]" * 90,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting(name: str) -> None:
    check(f"fn f(s) = {DEEP[name]}")


def test_wrong_text() -> None:
    with pytest.raises(CompileError):
        formatted("fn f(")


GIVEN = {
    "alignment": """
moe m[H=4,I = 2*H](x:[H])->[H]{param a:[H]
param bb ,c:f32[H,I]

p=a top=b
aux q=p
w=top return w}""",
    "comments": """\
#!first



# second
moe m( # head
x: [H]) -> [H] { # body

# own
p = f(a, # inner
b)

# last
}
#end""",
    "long lines": """
fn f(a) {
    x = (sum e in top: w[e] * swiglu(gate[e], up[e], down[e], x)) + swiglu(shared_gate, shared_up, shared_down,
        x)
    y = function(an_argument_of_some_length, another_argument_of_length, axis=yet_another_argument,
        last=none_of_it)
    return sum e in a_selection_with_a_long_name: a_weight_of_the_selection[e] * swiglu(gate[e], up[e], down[e],
        x) }
moe m[H=1536, E=16](x: [H], before: f32[E + C + 2], and_another: [H]) -> (y: [H], scores: f32[E + C + 2],
    z: [H]) {}""",
    "spacing": "fn f(a,b = 1)=a [ : ,1 : : 2,I:].T @-b**-2+split a as[G,_]*{i,j}[0 .. 3,- 1]",
    "match and if": """
fn f(e)=w*match e{0..E:a,E:b+c,10..:0}
fn g(e) = if a<b then match a{0:b} else if not c then d else e""",
    "byte order mark and line breaks": "\ufefffn f(a) = a\r\n# x\r\nfn g(b) = b",
}
EXPECTED = {
    "alignment": """\
moe m[H=4, I=2 * H](x: [H]) -> [H] {
    param a:     [H]
    param bb, c: f32[H, I]

    p   = a
    top = b
    aux q = p
    w = top
    return w
}
""",
    "comments": """\
#!first

# second
# head
moe m(x: [H]) -> [H] {  # body
    # own
    p = f(
        a,  # inner
        b,
    )

    # last
}
#end
""",
    "long lines": """\
fn f(a) {
    x = (sum e in top: w[e] * swiglu(gate[e], up[e], down[e], x))
      + swiglu(shared_gate, shared_up, shared_down, x)
    y = function(
        an_argument_of_some_length,
        another_argument_of_length,
        axis=yet_another_argument,
        last=none_of_it,
    )
    return sum e in a_selection_with_a_long_name:
        a_weight_of_the_selection[e] * swiglu(gate[e], up[e], down[e], x)
}
moe m[H=1536, E=16](
    x: [H], before: f32[E + C + 2], and_another: [H]
) -> (y: [H], scores: f32[E + C + 2], z: [H]) {}
""",
    "spacing": "fn f(a, b=1) = a[:, 1::2, I:].T @ -b ** -2 + split a as [G, _] * {i, j}[0..3, -1]\n",
    "match and if": """\
fn f(e) = w * match e {
    0..E: a,
    E:    b + c,
    10..: 0,
}
fn g(e) = if a < b then match a { 0: b } else if not c then d else e
""",
    "byte order mark and line breaks": "fn f(a) = a\n# x\nfn g(b) = b\n",
}


@pytest.mark.parametrize("name", GIVEN)
def test_layout(name: str) -> None:
    assert check(GIVEN[name]) == EXPECTED[name]
    assert max(map(len, EXPECTED[name].split("\n"))) <= WIDTH
