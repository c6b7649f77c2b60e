"""The parser: what it refuses and what it says; that nothing but `CompileError` comes out; its cached tables."""

from __future__ import annotations

import codecs
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.diagnostics import CompileError, Diagnostic
from moec.language import lalr, syntax, tables
from moec.language.parse import MAX_DEPTH, parse
from moec.language.read import MAX_BYTES, read
from moec.source import Source
from tests.language.texts import FILES

ROOT = Path(__file__).parents[2]
LONG, MANY = 100_000, 10_000


def text(source: str) -> syntax.File:
    return parse(Source("<test>", source))


def refused(source: str) -> Diagnostic:
    """What is said of a text, when it is one thing."""
    with pytest.raises(CompileError) as caught:
        text(source)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def expression(source: str) -> syntax.Expr:
    (value,) = text(f"fn f(a) = {source}").functions[0].body
    assert isinstance(value, syntax.Return)
    return value.values[0]


# ── what is read ──────────────────────────────────────────────────────────────────────────────────────────────────────

SAME = [
    ("a + b * c", "a + (b * c)"),
    ("a - b - c", "(a - b) - c"),
    ("A @ B @ x", "A @ (B @ x)"),
    ("-a ** -b", "-(a ** (-b))"),
    ("-a @ b", "-(a @ b)"),
    ("a ** b ** c", "a ** (b ** c)"),
    ("not a in s and b", "(not (a in s)) and b"),
    ("a * sum e in s: b + c", "a * (sum e in s: (b + c))"),
    ("if a then b else c + d", "if a then b else (c + d)"),
    ("0..n - 1", "0..(n - 1)"),
    ("W.T[0]", "(W.T)[0]"),
]


def ungrouped(node: Any) -> Any:
    """The same tree without parentheses."""
    if isinstance(node, syntax.Group):
        return ungrouped(node.inner)
    if isinstance(node, tuple):
        return tuple(map(ungrouped, node))
    if not isinstance(node, syntax.Node):
        return node
    fields = [getattr(node, name) for name in node.__dataclass_fields__ if name != "span"]
    return type(node).__name__, *map(ungrouped, fields)


@pytest.mark.parametrize(("source", "explicit"), SAME)
def test_precedence(source: str, explicit: str) -> None:
    assert ungrouped(expression(source)) == ungrouped(expression(explicit))


def test_nodes_are_values() -> None:
    assert text("fn f(a) = a+1") == text("fn f(a) =   a + 1 ")
    assert len({text("fn f(a) = a"), text(" fn f(a) = a")}) == 1


def test_spans() -> None:
    node = expression("b * (c + dd)")
    assert isinstance(node, syntax.Binary)
    assert node.right.span.text == "(c + dd)"
    assert repr(node.right.span) == "<test>:1:15"


def test_names_with_keywords_inside() -> None:
    assert text("fn summary(input, orbit, W_T) = input.T + not_in").functions[0].name.id == "summary"
    assert refused("fn f(W) = W.Tx").message == "`.Tx` is not in the language"


@pytest.mark.parametrize("source", ["\ufefffn f(a) = a", "fn f(a)\r\n=\ta # c\r\n", "fn f(a) = a#", '#"\nfn f(a) = a'])
def test_white_space(source: str) -> None:
    assert text(source).items == text("fn f(a) = a").items


def test_byte_order_mark_counts_in_offsets() -> None:
    place = refused("\ufefffn f(a) = ^").to_json()["span"]
    assert (place["start"], place["end"]) == (13, 14)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

BYTES = [
    (b"", "E0002"),
    (b" \n\t", "E0002"),
    (b"# only a comment", "E0002"),
    (codecs.BOM_UTF8, "E0002"),
    (b"fn f(a) = \xff", "E0004"),
    (codecs.BOM_UTF16_LE + "fn f(a) = a".encode("utf-16-le"), "E0004"),
    (b"#" * (MAX_BYTES + 1), "E0003"),
    (b"fn f(a) = a\0", "E0012"),
]


@pytest.mark.parametrize(("data", "code"), BYTES, ids=[f"{code}-{data[:6]!r}" for data, code in BYTES])
def test_bytes(data: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "layer.moe"
    path.write_bytes(data)
    with pytest.raises(CompileError) as caught:
        parse(read(path))
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == [code]


@pytest.mark.parametrize("name", ["missing.moe", ".", "nul\0.moe"])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="E0001"):
        read(tmp_path / name)


def test_largest_file() -> None:
    head = "fn f(a) = a #"
    text(head + "x" * (MAX_BYTES - len(head)))
    assert refused("#" + "é" * (MAX_BYTES // 2)).code == "E0003"


# ── syntax errors ─────────────────────────────────────────────────────────────────────────────────────────────────────

LAYER = "moe m[H=4, E=8](x: [H]) -> [H] {\n    param a: [H]\n"

COMMENT = "a comment begins with `#`; of indices `/` rounds down"

#: A text, the part of it that is marked, the message, and the help.
MISTAKES: list[tuple[str, str, str, str | None]] = [
    # brackets: the mark of a missing one is empty
    (LAYER + "    p = f(x\n    q = x\n    return q\n}", "", "`(` is not closed", None),
    (LAYER + "    p = x[1, 2\n}", "}", "`[` is not closed", None),
    (LAYER + "    return x\n\nbind t {}", "", "`{` is not closed", None),
    (LAYER + "    return x", "", "`{` is not closed", None),
    ("fn f(x) = (x]", "]", "`(` is not closed", None),
    ("fn f(x) = x)", ")", "`)` closes nothing", "remove it"),
    (LAYER + "    return x\n}}", "}", "`}` closes nothing", "remove it"),
    ("fn f(x) = f(a, b c)", "c", "expected `,` or `)`, found `c`", None),
    ('bind t { a = "abc }', '"abc }', "string is not closed", None),
    # definitions
    ("moe m[H=4](x: [H]) [H] { return x }", "[", "expected `->`, found `[`", None),
    ("moe m[H: 4](x: [H]) -> [H] {}", ":", "expected `=`, found `:`", "write `H=4`"),
    ("moe m(x: [H]) => [H] {}", "=>", "`=>` is not in the language", "write `->`"),
    ("moe m(x [H]) -> [H] {}", "[", "expected `:`, found `[`", None),
    ("fn f(x) x", "x", "expected `=` or `{`, found `x`", None),
    ("fn f(x: [H]) = x", ":", "a parameter of a `fn` has no type", "remove the type"),
    ("fn f(x) -> [H] { return x }", "->", "a `fn` declares no outputs", "remove the type"),
    ("def f(x):\n    return x", "def", "`def` is not in the language", "write `fn`"),
    ("import numpy", "import", "expected `bind`, `fn` or `moe`, found `import`", None),
    (LAYER + "    param b [H]\n}", "[", "expected `,` or `:`, found `[`", None),
    ('bind t { a: "x" }', ":", "expected `=`, found `:`", None),
    # names and values
    (LAYER + "    let p = a\n}", "let", "`let` is not in the language", "a name needs no keyword: write `x = …`"),
    (LAYER + "    p a\n}", "a", "expected `,` or `=`, found `a`", None),
    (LAYER + "    p := a\n}", ":=", "`:=` is not in the language", "write `=`"),
    (LAYER + "    b: [H]\n}", ":", "expected `=` after a name", "write `param b: [H]` for weights"),
    (LAYER + "    b, c: f32[E, H]\n}", ":", "expected `=` after a name", "write `param b, c: f32[E, H]` for weights"),
    (LAYER + "    b: real = a\n}", ":", "a name is given no type", "write `b = …`"),
    (LAYER + "    f = lambda v: v * 2\n}", "lambda", "`lambda` is not in the language", "write a local `fn f(v) = …`"),
    (
        LAYER + "    f = lambda v, w: v\n}",
        "lambda",
        "`lambda` is not in the language",
        "write a local `fn f(v, w) = …`",
    ),
    ("fn f(x) = g(lambda: x)", "lambda", "`lambda` is not in the language", "write a local `fn f(v) = …`"),
    ("fn g(x) = h(lambda v: v)", "lambda", "`lambda` is not in the language", "write a local `fn f(v) = …`"),
    (LAYER + "    p == a\n}", "==", "expected `,` or `=`, found `==`", "write `=`"),
    (LAYER + "    p += a\n}", "+=", "`+=` is not in the language", "give the new value a name of its own"),
    (LAYER + "    p[0] = a\n}", "[", "expected `=` after a name", None),
    (LAYER + "    f(b) = b\n}", "(", "expected `=` after a name", "write `fn f(…) = …` for a function"),
    (LAYER + "    in = 3\n}", "in", "`in` is a keyword", None),
    (LAYER + "    match = 3\n}", "match", "`match` is a keyword", None),
    ("fn sum(x) = x", "sum", "`sum` is a keyword", None),
    ("fn f(then) = 1", "then", "`then` is a keyword", None),
    ("fn größe(x) = x", "größe", "`größe` is not a name", None),
    # expressions
    (LAYER + "    p = if a = b then c else d\n}", "=", "`=` gives a name its value", "write `==` to compare"),
    (LAYER + "    p = if c a else b\n}", "a", "expected `then`, found `a`", "write `if c then a else b`"),
    (LAYER + "    p = if c then a\n    q = a\n}", "q", "expected `else`, found `q`", "write `if c then a else b`"),
    (LAYER + "    p = sum e in s a[e]\n}", "a", "expected `:`, found `a`", "write `sum e in s: …`"),
    (LAYER + "    p = each e s: a[e]\n}", "s", "expected `in`, found `s`", "write `each e in s: …`"),
    (LAYER + "    p = sum(e in s: a)\n}", ":", "unexpected `:`", "write `sum e in s: …`, without parentheses"),
    (LAYER + "    p = each (e in s: a)\n}", "(", "unexpected `(`", "write `each e in s: …`, without parentheses"),
    (LAYER + "    p = sum(e in t: a)\n}", ":", "unexpected `:`", "write `sum e in t: …`, without parentheses"),
    *(
        (
            LAYER + f"    p = {word}(e in top) {rest}\n}}",
            "(",
            "unexpected `(`",
            f"write `{word} e in top: …`, without parentheses",
        )
        for word in ("sum", "each")
        for rest in ("w[e] * a", "2 * a", "(w[e] * a)", "f(a)", "w * a", "\n    w[e] * a")
    ),
    (LAYER + "    p = sum(f(a)) w[e]\n}", "[", "expected `=` after a name", None),
    (LAYER + "    p = a +\n    q = a\n}", "+", "expected an expression after `+`", None),
    (LAYER + "    return a *\n}", "*", "expected an expression after `*`", None),
    ("fn f(x) =", "=", "expected an expression after `=`", None),
    ("fn f(x) = f(a,, b)", ",", "expected an expression, found `,`", None),
    (LAYER + "    p = softmax x\n    q = p\n}", "x", "unexpected `x`", "write `softmax(x)` to call `softmax`"),
    (LAYER + "    p = a < b < c\n}", "<", "comparisons do not chain", "join them with `and`"),
    (LAYER + "    p = a not in s\n}", "not in", "`not in` is not in the language", "write `not e in s`"),
    (
        "fn f(x) = sum(w[e] * x for e in top)",
        "for",
        "`for` is not in the language",
        "write `sum e in top: …`",
    ),
    (
        "fn f(x) = max(w[e] for e in 0..8)",
        "for",
        "`for` is not in the language",
        "write `max(each e in s: …)`",
    ),
    ("fn f(x) = [w[e] for e in s]", "[", "a list is no expression", "write `each e in s: …`"),
    ("fn f(x) =\n    [1, 2, 3]", "[", "a list is no expression", "write `concat(1, 2, 3)`"),
    ("fn f(x) = x * [[1, 2], [3, 4]]", "[", "a list is no expression", "write `concat(a, b)`"),
    (
        "fn f(x) = sum e in s: { g = gate[e] @ x; g * x }",
        "=",
        "`=` gives a name its value",
        "braces list indices; names for a part of an expression stand in a local `fn f(e) { … }`",
    ),
    ("fn f(x) = x[{1, i = 2}]", "=", "`=` gives a name its value", "write `==` to compare"),
    ("fn f(x) = split(x, 2)", ",", "`split` is no function", "write `split v as [2, _]`"),
    ("fn f(x) = top | {0}", "|", "`|` is not in the language", "selections are not joined: add a sum over each"),
    ("fn f(x) = a | b", "|", "`|` is not in the language", "write `or`"),
    ("fn f(x) = split x [2, _]", "", "expected `as`, found the end of the file", "write `split v as [A, B]`"),
    ("fn f(x) = split x + y as [2, _]", "+", "expected `as`, found `+`", "write `split (… + …) as [A, B]`"),
    ("fn f(x) = split A @ y as [2, _]", "@", "expected `as`, found `@`", "write `split (… @ …) as [A, B]`"),
    ("fn f(x) = match x { 0 a }", "a", "expected `:`, found `a`", None),
    ("fn f(x) = match x { 0 => a }", "=>", "`=>` is not in the language", "write `:`"),
    # characters and numbers
    ("fn f(x) = x ^ 2", "^", "`^` is not in the language", "write `**` for a power"),
    ("fn f(x) = a && b", "&&", "`&&` is not in the language", "write `and`"),
    ("fn f(x) = !x", "!", "`!` is not in the language", "write `not`"),
    ("fn f(x) = c ? a : b", "?", "`?` is not in the language", "write `if c then a else b`"),
    ("fn f(x) = x;", ";", "`;` is not in the language", "remove it: statements need nothing between them"),
    ("fn f(x) = a × b", "×", "`×` is not in the language", "write `*`"),
    ("fn f(x) = x \0", "\0", "character U+0000 is not in the language", None),
    (
        "fn f(x) = x // a comment",
        "//",
        "`//` is not in the language",
        COMMENT,
    ),
    ("fn f(x) = x /* a comment */", "/*", "`/*` is not in the language", "a comment begins with `#`"),
    (
        "fn f(x) = p[x // 2]",
        "//",
        "`//` is not in the language",
        COMMENT,
    ),
    # strings
    ("bind t { a = 'abc' }", "'abc'", "a string has double quotes", 'write `"abc"`'),
    ("fn f(x) = topk(x, 'K')", "'K'", "a string stands only in a `bind`", "write `K`, without quotes"),
    ("fn f(x) = float('-inf')", "'-inf'", "a string stands only in a `bind`", "write `-inf`, without quotes"),
    (
        "fn f(x) = einsum('eh,h->e', A, x)",
        "'eh,h->e'",
        "a string stands only in a `bind`",
        "write `W @ v` for the last axis of `W` against `v`",
    ),
    ("bind t { a = gate.weight }", "gate.weight", "a tensor's name stands in quotes", 'write `"gate.weight"`'),
    ("bind t { a = e.{e}.w1.q }", "e.{e}.w1.q", "a tensor's name stands in quotes", 'write `"e.{e}.w1.q"`'),
    ('bind t { a = "x".t }', ".t", "`.t` is not in the language", "write `.T`"),
    ("fn f(x) = x.shape", ".shape", "`.shape` is not in the language", "write `size(v, axis)`"),
    ("fn f(x) = x[s].sum()", ".sum", "`.sum` is not in the language", "write `sum(…)`"),
    ("fn f(x) = x.reshape(2, 4)", ".reshape", "`.reshape` is not in the language", "write `split v as [A, B]`"),
    ("fn f(x) = x.grad", ".grad", "`.grad` is not in the language", None),
    ("fn f(x) = .5 * x", ".5", "a number begins with a digit", "write `0.5`"),
    ("fn f(x) = 1.2.3", "1.2.3", "`1.2.3` is not a number", None),
    (LAYER + "    p = 1_000\n}", "1_000", "`1_000` is not a number", None),
    ("fn f(x) = 1e999999999", "1e999999999", "number is out of range", None),
    (f"fn f(x) = {'9' * 5000}", "9" * 5000, "number is out of range", None),
]


@pytest.mark.parametrize(("source", "part", "message", "help"), MISTAKES, ids=[mistake[2] for mistake in MISTAKES])
def test_mistakes(source: str, part: str, message: str, help: str | None) -> None:
    found = refused(source)
    assert found.span is not None
    assert (found.message, found.span.text, found.help) == (message, part, help)


def test_causes() -> None:
    (opened,) = refused(LAYER + "    p = (a + f(b)\n    q = 2\n    return q\n}").causes
    assert (opened.span.text, opened.span.line, opened.text) == ("(", 3, "opened here")
    (begun,) = refused("fn f(x) = if a then b + (if c then d else e)").causes
    assert (begun.span.start, begun.text) == (10, "of this `if`")


# ── nothing but CompileError ──────────────────────────────────────────────────────────────────────────────────────────

WORDS = [*tables.tables().words, *"()[]{},:=+-*/%@<>!#\"'.;^&|?~\\", "..", "**", "->", "==", ".T", "a", "1", "1.", "\n"]
WORDS += ["é", "\0", "\ud800", "\u202e", "日", "moe m(x: [H]) -> [H] {", "fn f(a) =", "sum e in s:", "_"]


def survives(source: str) -> None:
    """A text is read, or refused with an error that can be shown."""
    try:
        text(source)
    except CompileError as error:
        (diagnostic,) = error.diagnostics
        assert str(error) and diagnostic.render(color=True) and diagnostic.to_json()
        assert diagnostic.span is None or 0 <= diagnostic.span.start <= diagnostic.span.end <= len(source)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join) | st.lists(st.sampled_from(WORDS)).map("".join))
def test_random_tokens(source: str) -> None:
    survives(source)


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_random_characters(source: str) -> None:
    survives(source)


@settings(deadline=None, max_examples=50)
@given(FILES, st.integers(0, 1 << 30))
def test_random_damage(source: str, seed: int) -> None:
    chance = random.Random(seed)
    words = source.split(" ")
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(words))
        words[at : at + chance.randint(0, 2)] = chance.choice([[], [chance.choice(WORDS)], [words[at], words[at]]])
    survives(" ".join(words))


DEEP = {
    "groups": "(" * LONG + "a" + ")" * LONG,
    "open groups": "(" * LONG,
    "closed groups": ")" * LONG,
    "sums": "a + " * LONG + "a",
    "signs": "-" * LONG + "a",
    "powers": "a ** " * MANY + "a",
    "products": "a @ " * MANY + "a",
    "calls": "f(" * MANY + ")" * MANY,
    "slices": "a[:" * MANY + "]" * MANY,
    "conditions": "if a then b else " * MANY + "a",
    "arms": "match a { 0: " * MANY,
    "transposes": "a" + ".T" * MANY,
    "functions": "a " + "fn f(a) { " * MANY + "}" * MANY,
    "arguments": "f(" + "a," * MANY + ")",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_and_long(name: str) -> None:
    survives(f"fn f(a) = {DEEP[name]}")


def test_depth() -> None:
    near, beyond = MAX_DEPTH - 5, MAX_DEPTH + 1
    assert refused("fn f(a) = " + "(" * beyond + "a" + ")" * beyond).code == "E0005"
    for source in ("(" * near + "a" + ")" * near, "+".join("a" * near), "f(" * (near // 2) + "a" + ")" * (near // 2)):
        one, other = (text(f"fn f(a) = {source}") for _ in range(2))
        assert one == other and hash(one) == hash(other) and repr(one) == repr(other)


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ready(directory: Path) -> str:
    """What a new process says of itself after it has parsed the prelude: whether lark was needed."""
    code = (
        "import sys; from moec.language.parse import parse; from moec.language.read import read; "
        "parse(read('moec/language/prelude.moe')); print('lark' in sys.modules)"
    )
    environment = os.environ | {"MOEC_CACHE_DIR": str(directory)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_tables_are_cached(tmp_path: Path) -> None:
    assert ready(tmp_path) == "True"
    assert ready(tmp_path) == "False"
    (entry,) = tmp_path.iterdir()
    good = entry.read_bytes()
    for bad in (b"", b"nonsense", good[:-1], good.replace(b'"moe"', b'"mow"'), b"\xff" + good):
        entry.write_bytes(bad)
        assert tables._load(entry) is None
    assert ready(tmp_path) == "True"
    assert entry.read_bytes() == good


def test_no_cache_is_no_error(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("not a directory")
    assert ready(place) == "True"


def test_tables_survive_the_cache(tmp_path: Path) -> None:
    made = tables.build(tables.grammar())
    tables.save(made, tmp_path / "entry")
    assert tables._load(tmp_path / "entry") == made


def test_trees_are_those_of_lark() -> None:
    """The engine against lark's own parser on every file of the repository: the same rules, as often."""
    import lark

    parser = lark.Lark(tables.grammar(), parser="lalr", lexer="basic", start="file", maybe_placeholders=True)
    for path in [*sorted((ROOT / "examples").glob("*.moe")), ROOT / "moec" / "language" / "prelude.moe"]:
        source = read(path)
        found: list[str] = []

        def build(rule: str, items: list[Any], start: int, end: int, depth: int, found: list[str] = found) -> str:
            found.append(rule)
            return rule

        lalr.run(tables.tables(), lalr.tokenize(tables.tables(), source.text), build)
        assert sorted(found) == sorted(str(tree.data) for tree in parser.parse(source.text).iter_subtrees())
