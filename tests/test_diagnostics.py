"""How mistakes are shown: marks, texts beside and below them, several lines, wide characters, colours, JSON."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moec.diagnostics import CompileError, Diagnostic, Label, fail, nearest
from moec.source import Source, Span

TEXT = """\
moe m[H=4](x: [H]) -> [H] {
    param router: [E, H]

    p = router @ x
\tq = f(p,
\t      1,
\t      2)
    東京 = q
    return p
}
"""
SOURCE = Source("layer.moe", TEXT)


def at(part: str, occurrence: int = 0, source: Source = SOURCE) -> Span:
    places = [match.start() for match in re.finditer(re.escape(part), source.text)]
    return Span(source, places[occurrence], places[occurrence] + len(part))


def shown(span: Span | None, label: str = "", causes: tuple[Label, ...] = (), help: str | None = None) -> str:
    """What follows the first line."""
    return fail("E0201", "wrong", span, label, causes, help).diagnostics[0].render().partition("\n")[2]


CALL = at("f(p") | at("2)")

RENDERED = {
    "one": (
        shown(at("router", 1)),
        """\
 --> layer.moe:4:9
  |
4 |     p = router @ x
  |         ^^^^^^""",
    ),
    "text and help": (
        shown(at("router", 1), "a matrix", help="turn it"),
        """\
 --> layer.moe:4:9
  |
4 |     p = router @ x
  |         ^^^^^^ a matrix
  |
  = help: turn it""",
    ),
    "three on a line": (
        shown(at("@"), "here", (Label(at("router", 1), "[E, H]"), Label(at("x", 1), "[H]"))),
        """\
 --> layer.moe:4:16
  |
4 |     p = router @ x
  |         ------ ^ - [H]
  |         |      |
  |         |      here
  |         [E, H]""",
    ),
    "one inside another": (
        shown(at("router @ x"), "all", (Label(at("@"), "part"),)),
        """\
 --> layer.moe:4:9
  |
4 |     p = router @ x
  |         ^^^^^^^^^^
  |         |      |
  |         |      part
  |         all""",
    ),
    "a gap of one line, and one of more": (
        shown(at("router", 1), "used", (Label(at("router"), "declared"), Label(at("return"), "too"))),
        """\
 --> layer.moe:4:9
  |
2 |     param router: [E, H]
  |           ------ declared
3 |
4 |     p = router @ x
  |         ^^^^^^ used
...
9 |     return p
  |     ------ too""",
    ),
    "several lines, with tabs": (
        shown(CALL, "a call"),
        """\
 --> layer.moe:5:6
  |
5 |       q = f(p,
  |  _________^
6 | |           1,
7 | |           2)
  | |____________^ a call""",
    ),
    "several lines from the first column": (
        shown(at(TEXT.strip()), "all"),
        """\
  --> layer.moe:1:1
   |
 1 | / moe m[H=4](x: [H]) -> [H] {
...  |
10 | | }
   | |_^ all""",
    ),
    "several lines inside several lines": (
        shown(at("1"), "one", (Label(CALL, "call"), Label(at("p = router") | at("東京"), "body"))),
        """\
 --> layer.moe:6:8
  |
4 | /      p = router @ x
5 | |      q = f(p,
  | | _________-
6 | ||           1,
  | ||           ^ one
7 | ||           2)
  | ||____________- call
8 | |      東京 = q
  | |_________- body""",
    ),
    "wide characters": (
        shown(at("東京"), "two", (Label(at("q", 1), "one"),)),
        """\
 --> layer.moe:8:5
  |
8 |     東京 = q
  |     ^^^^   - one
  |     |
  |     two""",
    ),
    "empty": (
        shown(Span(SOURCE, at("x", 1).end, at("x", 1).end), "expected `)`"),
        """\
 --> layer.moe:4:19
  |
4 |     p = router @ x
  |                   ^ expected `)`""",
    ),
    "two files": (
        shown(at("p", 1), "called", (Label(at("b", 0, Source("prelude.moe", "a\nb")), "declared"),)),
        """\
 --> layer.moe:4:5
  |
4 |     p = router @ x
  |     ^ called
 ::: prelude.moe:2:1
  |
2 | b
  | - declared""",
    ),
    "no place": (shown(None, help="turn it"), "  = help: turn it"),
    "only a cause": (
        shown(None, causes=(Label(at("x"), "here"),)),
        """\
 --> layer.moe:1:12
  |
1 | moe m[H=4](x: [H]) -> [H] {
  |            - here""",
    ),
}


@pytest.mark.parametrize("name", RENDERED)
def test_rendering(name: str) -> None:
    found, expected = RENDERED[name]
    assert found == expected


def test_characters_that_cannot_be_shown() -> None:
    source = Source("odd.moe", "a\0b\u202ec\x7f\u0301d\ud800")
    text = shown(at("d", 0, source))
    assert text.splitlines()[2:] == ["1 | a␀b\ufffdc␡\u0301d\ufffd", "  |       ^"]


def test_names_from_files_do_not_turn_the_terminal_over() -> None:
    name, clean = "w\x1b[31m\u202e\r\nerror[E0001]: \x9b", "w␛[31m\ufffd␍␊error[E0001]: \ufffd"
    error = fail("E0405", f"`{name}`", Span(Source(name, "a b"), 0, 1), name, [Label(Span(SOURCE, 0, 3), name)], name)
    for text in (error.render(), re.sub(r"\x1b\[[0-9;]*m", "", error.render(color=True))):
        assert all(char.isprintable() or char == "\n" for char in text)
        assert text.count(clean) == 5 and len(text.splitlines()) == 11
    assert json.loads(json.dumps(error.diagnostics[0].to_json()))["help"] == name


def test_long_lines_are_cut_around_the_mark() -> None:
    source = Source("long.moe", "x" * 500 + "HERE" + "y" * 500)
    *_, line, marks = shown(at("HERE", 0, source), "this").splitlines()
    assert line.startswith("1 | …xxx") and line.endswith("yyy…") and len(line) < 140
    assert line.index("HERE") == marks.index("^^^^ this")


def test_colors_change_nothing_else() -> None:
    error = fail("E0201", "wrong", CALL, "call", [Label(at("p", 3), "p")], "turn it")
    colored = error.render(color=True)
    assert "\x1b[1;31m" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == str(error)


def test_several_diagnostics() -> None:
    error = CompileError(Diagnostic("E0101", "one"), Diagnostic("E0102", "two"))
    assert str(error) == "error[E0101]: one\n\nerror[E0102]: two"
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)


def test_json_counts_bytes() -> None:
    diagnostic = fail("E0101", "wrong", at("q", 1), "what", [Label(at("x"), "why")], "turn it").diagnostics[0]
    found = json.loads(json.dumps(diagnostic.to_json()))
    place = found["span"]
    assert TEXT.encode()[place["start"] : place["end"]] == b"q"
    assert (place["file"], place["line"], place["column"], place["label"]) == ("layer.moe", 8, 10, "what")
    assert [cause["label"] for cause in found["causes"]] == ["why"]
    assert (found["code"], found["severity"], found["message"], found["help"]) == ("E0101", "error", "wrong", "turn it")


def test_unknown_code() -> None:
    with pytest.raises(AssertionError):
        fail("E9999", "wrong")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ruoter", "router"), ("Gate", "gate"), ("rms", "rmsnorm"), ("gates", "gate"), ("HH", "H"), ("cros", "cross")]
    + [("gaet", "gate"), ("gato", "gate")]
    + [(name, None) for name in ("zebra", "cos", "sign", "shift", "sin", "e", "x")],
)
def test_nearest(name: str, expected: str | None) -> None:
    names = ["router", "down", "gate", "cross", "swiglu", "split", "min", "exp", "rmsnorm", "H"]
    assert nearest(name, names) == (f"did you mean `{expected}`?" if expected else None)


PLACES = st.tuples(st.integers(0, len(TEXT)), st.integers(0, len(TEXT))).map(lambda pair: Span(SOURCE, *sorted(pair)))


@given(PLACES, st.lists(PLACES.map(lambda span: Label(span, f"text {span.start}")), max_size=4))
def test_any_places(span: Span, causes: list[Label]) -> None:
    """Every text is shown once, behind a bar or a mark; marked lines are shown whole."""
    lines = shown(span, "main", tuple(causes)).splitlines()
    texts = ["main", *(cause.text for cause in causes)]
    for text in texts:
        assert sum(line.endswith(text) for line in lines) >= texts.count(text)
    assert all(line == line.rstrip() for line in lines)
    for place in (span, *(cause.span for cause in causes)):
        line = SOURCE.line(place.line).strip()
        assert any(shown_line.endswith(line) for shown_line in lines)
