"""What is wrong with a text that is not in the language, said as its writer would see it.

The parser stops at the first token that cannot follow. `RULES` are the mistakes that people make, most telling first:
each looks at that token, at what stands around it and at what was open, and answers with an error or with None. What
none of them knows becomes "expected this, found that".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from moec.diagnostics import CompileError, Label, fail
from moec.language.foreign import (
    FOREIGN_COMMENTS,
    FOREIGN_FIELDS,
    FOREIGN_SIGNS,
    FOREIGN_WORDS,
    JOINED,
    unquoted,
)
from moec.language.lalr import UNKNOWN, Token, Unexpected
from moec.language.syntax import Binary
from moec.language.tables import END, tables
from moec.source import Source, Span

CLOSING = {"(": ")", "[": "]", "{": "}"}
OPENING = {closing: opening for opening, closing in CLOSING.items()}

#: Kinds that continue an expression.
CONTINUING = {"COMPARE", "ADD", "MUL", "**", "@", "..", "and", "or", "in", "(", "[", "_TRANSPOSE"}

#: Kinds with more than one spelling.
SPOKEN = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "COMPARE": "a comparison",
    "ADD": "`+` or `-`",
    "MUL": "`*` or `/`",
    "_TRANSPOSE": "`.T`",
    END: "the end of the file",
}


def explain(error: Unexpected, source: Source) -> CompileError:
    """The error of a text that the parser has refused."""
    mistake = Mistake(error, source)
    return next(found for rule in RULES if (found := rule(mistake)))


@dataclass(frozen=True)
class Mistake:
    """The token that cannot follow, and what stands around it."""

    error: Unexpected
    source: Source

    def at(self, offset: int) -> Token:
        """The token `offset` places after the refused one; an empty one outside the text."""
        index = self.error.index + offset
        tokens = self.error.tokens
        return tokens[index] if 0 <= index < len(tokens) else Token("", "", 0, 0)

    @property
    def token(self) -> Token:
        return self.at(0)

    @property
    def previous(self) -> Token:
        return self.at(-1)

    @property
    def names_statement(self) -> bool:
        """Whether a statement has begun with a name, and the refused token stands where its `=` should."""
        return self.expected == frozenset({"=", ","})

    @property
    def expected(self) -> frozenset[str]:
        return self.error.expected

    @cached_property
    def pending(self) -> list[Token]:
        """The tokens whose construct is not finished, outermost first."""
        return [entry.value for entry in self.error.stack if isinstance(entry.value, Token)]

    @cached_property
    def opened(self) -> list[Token]:
        """The brackets that are open, outermost first."""
        opened: list[Token] = []
        for token in self.pending:
            if token.kind in CLOSING:
                opened.append(token)
            elif token.kind in OPENING:
                opened.pop()
        return opened

    def inside(self, *kinds: str) -> Token | None:
        """The innermost unfinished token of these kinds within the innermost bracket."""
        start = self.opened[-1].start if self.opened else -1
        return next((t for t in reversed(self.pending) if t.start > start and t.kind in kinds), None)

    @property
    def in_call(self) -> bool:
        """Whether the innermost bracket holds the arguments of a call."""
        if not self.opened or self.opened[-1].kind != "(":
            return False
        return self.before(self.opened[-1]).kind == "NAME" and self.before(self.opened[-1], 2).kind not in ("fn", "]")

    @property
    def in_bind(self) -> bool:
        """Whether a `bind` block is open."""
        return any(token.kind == "bind" for token in self.pending)

    def before(self, token: Token, count: int = 1) -> Token:
        """The token `count` places before another."""
        return self.at(self.error.tokens.index(token) - count - self.error.index)

    def span(self, first: Token, last: Token | None = None) -> Span:
        return Span(self.source, first.start, (last or first).end)

    def line(self, token: Token) -> int:
        return self.source.line_column(token.start)[0]

    def fail(
        self,
        message: str,
        span: Span | None = None,
        label: str = "",
        help: str | None = None,
        code: str = "E0010",
        cause: Label | None = None,
    ) -> CompileError:
        return fail(code, message, span or self.span(self.token), label, (cause,) if cause else (), help)


# ── characters ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _string(mistake: Mistake) -> CompileError | None:
    token, text = mistake.token, mistake.source.text
    if token.text == '"':
        end = re.compile(r"[^\r\n]*").match(text, token.start)
        assert end
        span = Span(mistake.source, token.start, end.end())
        return mistake.fail("string is not closed", span, 'expected `"`', code="E0011")
    if token.text == "'" and (quoted := re.compile(r"'([^'\"\r\n]*)'").match(text, token.start)):
        span = Span(mistake.source, *quoted.span())
        if mistake.in_bind:
            return mistake.fail("a string has double quotes", span, help=f'write `"{quoted[1]}"`', code="E0012")
        called = mistake.before(mistake.opened[-1]).text if mistake.opened else ""
        help = unquoted(quoted[1], called)
        return mistake.fail("a string stands only in a `bind`", span, help=help, code="E0012")
    return None


def _tensor(mistake: Mistake) -> CompileError | None:
    """`router = gate.weight` in a `bind`."""
    if mistake.token.text != "." or not mistake.in_bind or mistake.previous.kind != "NAME":
        return None
    name = re.compile(r"(\w|\.|\{e\})+").match(mistake.source.text, mistake.previous.start)
    assert name
    span = Span(mistake.source, *name.span())
    return mistake.fail("a tensor's name stands in quotes", span, help=f'write `"{name[0]}"`')


def _point(mistake: Mistake) -> CompileError | None:
    """`.5`, `1.2.3`, `W.shape`."""
    token, after = mistake.token, mistake.at(1)
    if token.text != "." or after.start != token.end:
        return None
    if mistake.previous.kind == "NUMBER" and mistake.previous.end == token.start:
        span = mistake.span(mistake.previous, after)
        return mistake.fail(f"`{span.text}` is not a number", span)
    span = mistake.span(token, after)
    if after.kind == "NUMBER":
        return mistake.fail("a number begins with a digit", span, help=f"write `0.{after.text}`")
    if after.kind == "NAME" or after.kind in tables().words:
        return mistake.fail(f"`{span.text}` is not in the language", span, help=FOREIGN_FIELDS.get(after.text))
    return None


def _character(mistake: Mistake) -> CompileError | None:
    token, text = mistake.token, mistake.source.text
    if token.kind != UNKNOWN:
        return None
    if re.match(r"\w", token.text) and token.text not in FOREIGN_SIGNS:
        start = token.start - len(re.split(r"\W", text[max(0, token.start - 200) : token.start])[-1])
        word = re.compile(r"\w+").match(text, start)
        assert word
        span = Span(mistake.source, *word.span())
        return mistake.fail(f"`{word[0]}` is not a name", span, "only a to z, A to Z, 0 to 9 and `_`", code="E0012")
    pair = text[token.start : token.start + 2]
    sign = pair if pair in FOREIGN_SIGNS else token.text
    spoken = f"`{sign}`" if sign.isprintable() else f"character U+{ord(sign):04X}"
    span = Span(mistake.source, token.start, token.start + len(sign))
    joins = sign == "|" and (mistake.previous.kind == "}" or mistake.at(1).kind == "{")
    help = JOINED if joins else FOREIGN_SIGNS.get(sign)
    return mistake.fail(f"{spoken} is not in the language", span, help=help, code="E0012")


def _number(mistake: Mistake) -> CompileError | None:
    """`1_000`, `0x10`, `2x`: a number that runs into a name."""
    for first, last in ((mistake.previous, mistake.token), (mistake.at(-2), mistake.previous)):
        if first.kind == "NUMBER" and last.start == first.end and last.kind == "NAME":
            span = mistake.span(first, last)
            return mistake.fail(f"`{span.text}` is not a number", span)
    return None


def _comment(mistake: Mistake) -> CompileError | None:
    for first, last in ((mistake.previous, mistake.token), (mistake.token, mistake.at(1))):
        if (help := FOREIGN_COMMENTS.get(first.text + last.text)) and first.end == last.start:
            span = mistake.span(first, last)
            return mistake.fail(f"`{span.text}` is not in the language", span, help=help)
    return None


def _update(mistake: Mistake) -> CompileError | None:
    """`a += b`."""
    token, after = mistake.token, mistake.at(1)
    if token.kind in ("ADD", "MUL", "@", "**") and after.kind == "=" and after.start == token.end:
        span = mistake.span(token, after)
        help = "give the new value a name of its own"
        return mistake.fail(f"`{span.text}` is not in the language", span, "a name gets its value once", help)
    return None


def _ternary(mistake: Mistake) -> CompileError | None:
    """`a if c else b`."""
    if mistake.token.kind == "if" and mistake.line(mistake.previous) == mistake.line(mistake.token):
        return mistake.fail("`if` stands before its condition and both results", help="write `if c then a else b`")
    return None


# ── brackets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _closing(mistake: Mistake) -> CompileError | None:
    """A closing bracket that is not the one that is due."""
    token = mistake.token
    opened = mistake.opened[-1] if mistake.opened else None
    if token.kind not in OPENING or (opened and CLOSING[opened.kind] == token.kind):
        return None
    if opened is None or (all(CLOSING[other.kind] != token.kind for other in mistake.opened) and opened.kind == "{"):
        return mistake.fail(f"`{token.text}` closes nothing", help="remove it", code="E0011")
    cause = Label(mistake.span(opened), "opened here")
    label = f"expected `{CLOSING[opened.kind]}`"
    return mistake.fail(f"`{opened.text}` is not closed", None, label, code="E0011", cause=cause)


def _unclosed(mistake: Mistake) -> CompileError | None:
    """A bracket that nothing closes, where it could have been closed; at the end of the file, any."""
    if not mistake.opened:
        return None
    opened = mistake.opened[-1]
    closing = CLOSING[opened.kind]
    ended = mistake.token.kind == END
    if not ended and (closing not in mistake.expected or _closes(mistake, opened)):
        return None
    end = mistake.previous.end
    cause = Label(mistake.span(opened), "opened here")
    place = Span(mistake.source, end, end)
    return mistake.fail(f"`{opened.text}` is not closed", place, f"expected `{closing}`", code="E0011", cause=cause)


def _closes(mistake: Mistake, opened: Token) -> bool:
    """Whether the brackets after the refused token, counted by themselves, close an open one."""
    awaited = [CLOSING[opened.kind]]
    for token in mistake.error.tokens[mistake.error.index :]:
        if token.kind in CLOSING:
            awaited.append(CLOSING[token.kind])
        elif token.kind in OPENING:
            if token.kind != awaited.pop():
                return False
            if not awaited:
                return True
    return False


# ── names and `=` ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _keyword(mistake: Mistake) -> CompileError | None:
    token, words = mistake.token, tables().words
    if token.kind == "=" and mistake.previous.kind in words:
        token = mistake.previous
    elif (
        token.kind not in words
        or "NAME" not in mistake.expected
        or "NUMBER" in mistake.expected
        or ("return" in mistake.expected and mistake.at(1).kind not in ("=", ","))
    ):
        return None
    return mistake.fail(f"`{token.text}` is a keyword", mistake.span(token), "expected a name", code="E0013")


def _foreign(mistake: Mistake) -> CompileError | None:
    """`let x = 1`, `def f(x):`."""
    at_start = mistake.line(mistake.previous) != mistake.line(mistake.at(-2)) or not mistake.at(-2).text
    candidates = [mistake.token] if "moe" in mistake.expected else []
    candidates += [mistake.previous] if mistake.names_statement and at_start else []
    for token in candidates:
        if help := FOREIGN_WORDS.get(token.text):
            return mistake.fail(f"`{token.text}` is not in the language", mistake.span(token), help=help)
    return None


def _dangling(mistake: Mistake) -> CompileError | None:
    """`p = a +`, and the next line closes the body or begins a statement."""
    operators = (CONTINUING - {"_TRANSPOSE", "(", "["}) | {"=", ",", ":", "not", "then", "else", "return"}
    if mistake.token.kind == "=" and mistake.previous.kind == "NAME":
        operator, found = mistake.at(-2), mistake.previous
    elif "NUMBER" in mistake.expected:
        operator, found = mistake.previous, mistake.token
    else:
        return None
    if operator.kind not in operators or (mistake.line(found) == mistake.line(operator) and found.kind != END):
        return None
    return mistake.fail(f"expected an expression after `{operator.text}`", mistake.span(operator))


def _list(mistake: Mistake) -> CompileError | None:
    """`w = [1, 2, 3]`, `[p[e] for e in s]`."""
    if mistake.token.kind != "[" or "NUMBER" not in mistake.expected:
        return None
    inner = re.compile(r"\[([^][\n]*)\]").match(mistake.source.text, mistake.token.start)
    help = f"write `concat({inner[1]})`" if inner else "write `concat(a, b)`"
    if any(token.text == "for" for token in mistake.error.tokens[mistake.error.index :][:20]):
        help = "write `each e in s: …`"
    return mistake.fail("a list is no expression", help=help)


def _local(mistake: Mistake) -> CompileError | None:
    """`sum e in s: { g = gate[e] @ x … }`."""
    begins = mistake.opened and mistake.opened[-1] == mistake.at(-2) and mistake.at(-2).kind == "{"
    if not begins or mistake.token.kind != "=" or "COMPARE" not in mistake.expected:
        return None
    help = "braces list indices; names for a part of an expression stand in a local `fn f(e) { … }`"
    return mistake.fail("`=` gives a name its value", None, "not in an expression", help)


def _colon(mistake: Mistake) -> CompileError | None:
    """`p := x`, `router: [E, H]`, `p: [H] = x`."""
    token, after = mistake.token, mistake.at(1)
    if not mistake.names_statement or token.kind != ":":
        return None
    if after.kind == "=" and after.start == token.end:
        return mistake.fail("`:=` is not in the language", mistake.span(token, after), help="write `=`")
    type = re.compile(r"[ \t]*(\w*[ \t]*\[[^]{}\n]*\]|\w++(?![ \t]*[\w(\[]))").match(mistake.source.text, token.end)
    if type is None:
        return None
    names = mistake.source.text[_first_name(mistake).start : mistake.previous.end]
    if mistake.source.text[type.end() :].lstrip().startswith("="):
        return mistake.fail("a name is given no type", help=f"write `{names} = …`")
    return mistake.fail("expected `=` after a name", help=f"write `param {names}: {type[1]}` for weights")


def _first_name(mistake: Mistake) -> Token:
    """The first of the names, joined by commas, that stand before the refused token."""
    place = -1
    while mistake.at(place - 1).kind == "," and mistake.at(place - 2).kind == "NAME":
        place -= 2
    return mistake.at(place)


def _equals(mistake: Mistake) -> CompileError | None:
    token, after = mistake.token, mistake.at(1)
    if token.kind != "=":
        return None
    if after.text == ">" and after.start == token.end:
        wanted = next((sign for sign in ("->", ":") if sign in mistake.expected), None)
        span = mistake.span(token, after)
        return mistake.fail("`=>` is not in the language", span, help=f"write `{wanted}`" if wanted else None)
    if "COMPARE" in mistake.expected:
        return mistake.fail("`=` gives a name its value", None, "not in an expression", "write `==` to compare")
    return None


def _lambda(mistake: Mistake) -> CompileError | None:
    """`f = lambda v: v * 2`, `gated(lambda v: v, …)`."""
    place = -1
    while mistake.at(place).kind in ("NAME", ",") and mistake.at(place).text != "lambda":
        place -= 1
    word = mistake.at(place)
    if word.text != "lambda" or mistake.token.kind not in (":", "NAME"):
        return None
    named = mistake.at(place - 1).kind == "=" and mistake.at(place - 2).kind == "NAME"
    name = mistake.at(place - 2).text if named else "f"
    head = re.compile(r"[\w \t,]*(?=:)").match(mistake.source.text, word.end)
    parameters = head[0].strip() if head else ""
    help = f"write a local `fn {name}({parameters or 'v'}) = …`"
    return mistake.fail("`lambda` is not in the language", mistake.span(word), help=help)


def _target(mistake: Mistake) -> CompileError | None:
    """`p[0] = 1`, `f(x) = x`."""
    if not mistake.names_statement or mistake.token.kind not in ("(", "["):
        return None
    name = mistake.previous.text
    if mistake.token.kind == "(":
        return mistake.fail("expected `=` after a name", None, help=f"write `fn {name}(…) = …` for a function")
    return mistake.fail("expected `=` after a name", None, f"a part of `{name}` cannot be given a value")


def _beside(mistake: Mistake) -> CompileError | None:
    """`p = softmax x`: an operand without an operator, read as the beginning of a statement."""
    name, before = mistake.previous, mistake.at(-2)
    if not mistake.names_statement or name.kind != "NAME" or before.kind in ("{", "}"):
        return None
    if mistake.line(name) != mistake.line(before):
        return None
    help = f"write `{before.text}({name.text})` to call `{before.text}`" if before.kind == "NAME" else None
    return mistake.fail(f"unexpected `{name.text}`", mistake.span(name), "expected an operator", help)


# ── expressions and definitions ───────────────────────────────────────────────────────────────────────────────────────


def _comparison(mistake: Mistake) -> CompileError | None:
    if mistake.token.kind not in ("COMPARE", "in") or "NUMBER" in mistake.expected:
        return None
    last = mistake.error.stack[-1].value if mistake.error.stack else None
    if not isinstance(last, Binary) or last.op not in ("<", "<=", "==", "!=", ">=", ">", "in"):
        return None
    return mistake.fail("comparisons do not chain", None, "second comparison", "join them with `and`")


def _not_in(mistake: Mistake) -> CompileError | None:
    if mistake.token.kind == "not" and mistake.at(1).kind == "in":
        span = mistake.span(mistake.token, mistake.at(1))
        return mistake.fail("`not in` is not in the language", span, help="write `not e in s`")
    return None


def _binder(mistake: Mistake) -> CompileError | None:
    """`sum(e in s: …)`, `each (e in s: …)`, `sum(e in s) w[e] * …`."""
    if mistake.token.kind == ":" and mistake.opened:
        opened, marked = mistake.opened[-1], mistake.token
    elif mistake.token.kind == "(" and mistake.previous.kind in ("sum", "each"):
        opened = marked = mistake.token
    else:
        opened = marked = _summed(mistake)
    if opened is None or marked is None or mistake.before(opened).kind not in ("sum", "each"):
        return None
    head = re.compile(r"\(\s*([A-Za-z_]\w*\s+in\s+[\w.]+)\s*[:)]").match(mistake.source.text, opened.start)
    help = f"write `{mistake.before(opened).text} {head[1] if head else 'e in s'}: …`, without parentheses"
    return mistake.fail(f"unexpected `{marked.text}`", mistake.span(marked), help=help)


def _summed(mistake: Mistake) -> Token | None:
    """The parenthesis of a `sum(e in s)`, a call as it reads, that ends before the refused token or the name before."""
    last = -2 if mistake.names_statement else -1
    if mistake.at(last).kind != ")":
        return None
    depth, place = 0, last
    while mistake.at(place).text:
        depth += {")": 1, "(": -1}.get(mistake.at(place).kind, 0)
        if depth == 0:
            break
        place -= 1
    binds = [mistake.at(place + step).kind for step in range(3)] == ["(", "NAME", "in"]
    return mistake.at(place) if binds else None


def _generator(mistake: Mistake) -> CompileError | None:
    """`sum(w[e] for e in top)`, `max(w[e] for e in top)`."""
    if mistake.token.text != "for" or not mistake.opened or mistake.opened[-1].kind != "(":
        return None
    named = [mistake.at(place).kind for place in range(1, 5)] == ["NAME", "in", "NAME", ")"]
    binder = mistake.source.text[mistake.at(1).start : mistake.at(3).end] if named else "e in s"
    called = mistake.before(mistake.opened[-1]).text
    help = f"write `sum {binder}: …`" if called == "sum" else f"write `{called}(each {binder}: …)`"
    return mistake.fail("`for` is not in the language", help=help)


def _signature(mistake: Mistake) -> CompileError | None:
    """Types in the head of a `fn`; `:` for the default of a dimension."""
    opened = mistake.opened[-1] if mistake.opened else None
    if mistake.token.kind == "->" and {"=", "{"} <= mistake.expected:
        return mistake.fail("a `fn` declares no outputs", help="remove the type")
    if mistake.token.kind == ":" and opened and mistake.before(opened, 2).kind == "fn":
        return mistake.fail("a parameter of a `fn` has no type", help="remove the type")
    if mistake.token.kind == ":" and opened and mistake.before(opened, 2).kind == "moe" and "=" in mistake.expected:
        return mistake.fail("expected `=`, found `:`", help=f"write `{mistake.previous.text}={mistake.at(1).text}`")
    return None


def _split(mistake: Mistake) -> CompileError | None:
    """`split a + b as [A, B]`, `split(p, 2)`."""
    if mistake.token.kind == "," and mistake.opened and mistake.before(mistake.opened[-1]).kind == "split":
        shape = f"[{mistake.at(1).text}, _]" if mistake.at(1).kind in ("NUMBER", "NAME") else "[A, B]"
        return mistake.fail(
            "`split` is no function", None, "its shape stands behind `as`", f"write `split v as {shape}`"
        )
    due, token = mistake.inside("split"), mistake.token
    if due is None or "as" not in mistake.expected or token.kind not in CONTINUING:
        return None
    cause = Label(mistake.span(due), "of this `split`")
    help = f"write `split (… {token.text} …) as [A, B]`"
    return mistake.fail(f"expected `as`, found `{token.text}`", help=help, cause=cause)


#: Kind that is missing → the kinds that made it due, and how the whole is written.
FORMS = {
    "then": (("if",), "if c then a else b"),
    "else": (("if",), "if c then a else b"),
    "in": (("sum", "each"), "{} e in s: …"),
    ":": (("sum", "each"), "{} e in s: …"),
    "as": (("split",), "split v as [A, B]"),
}


def _other(mistake: Mistake) -> CompileError:
    token, wanted = mistake.token, _wanted(mistake.expected)
    if mistake.in_call and "," in wanted:
        wanted = [kind for kind in wanted if kind != "="]
    found = "the end of the file" if token.kind == END else f"`{token.text}`"
    span = Span(mistake.source, token.start, token.end)
    if len(wanted) > 4 or not wanted:
        return mistake.fail(f"unexpected {found}", span)
    message = f"expected {_spoken(wanted)}, found {found}"
    for kind in wanted:
        kinds, form = FORMS.get(kind, ((), ""))
        if due := mistake.inside(*kinds):
            cause = Label(mistake.span(due), f"of this `{due.text}`")
            return mistake.fail(message, span, help=f"write `{form.format(due.text)}`", cause=cause)
    return mistake.fail(message, span, help="write `=`" if token.text == "==" and "=" in wanted else None)


def _wanted(expected: Iterable[str]) -> list[str]:
    """The kinds that are worth naming: an expression as a whole, no operators where something else is due."""
    kinds = set(expected)
    if "NUMBER" in kinds:
        return ["an expression"]
    if {"param", "return"} <= kinds:
        kinds = kinds - {"param", "return", "aux", "fn", "NAME"} | {"a statement"}
    rest = kinds - CONTINUING
    if len(rest) > 1:
        rest.discard(END)
    return sorted(rest or kinds, key=_listing)


def _listing(kind: str) -> tuple[bool, str]:
    """Closing brackets last."""
    return kind in OPENING, kind


def _spoken(kinds: list[str]) -> str:
    names = [SPOKEN.get(kind, kind if kind.startswith("a") and " " in kind else f"`{kind}`") for kind in kinds]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


RULES: tuple[Callable[[Mistake], CompileError | None], ...] = (
    _string,
    _tensor,
    _point,
    _character,
    _comment,
    _update,
    _ternary,
    _closing,
    _unclosed,
    _keyword,
    _foreign,
    _binder,
    _lambda,
    _list,
    _dangling,
    _local,
    _colon,
    _equals,
    _target,
    _number,
    _beside,
    _comparison,
    _not_in,
    _generator,
    _signature,
    _split,
    _other,
)
