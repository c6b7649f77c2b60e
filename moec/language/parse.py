"""Text to syntax: builds the nodes of a text, or says why it is not in the language. The grammar is moe.lark."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final

from moec.diagnostics import Label, fail
from moec.language import lalr, syntax
from moec.language.read import MAX_BYTES
from moec.language.tables import tables
from moec.source import Source, Span

#: The deepest nesting of expressions.
MAX_DEPTH = 200

#: The longest number that is read, and the largest exponent of ten: anything beyond is no f64.
MAX_DIGITS = 400

#: What a layer looks like.
A_LAYER: Final = "a layer is `moe name[dims](x: [H]) -> [H] { … }`"


@cache
def prelude() -> syntax.File:
    """The functions that every file may use."""
    return parse(Source("prelude.moe", Path(__file__).with_name("prelude.moe").read_text(encoding="utf-8")))


def takes_number(function: syntax.Function, parameter: syntax.Parameter) -> bool:
    """Whether a parameter is a setting of one of the prelude's functions: each that has a default is one number."""
    return parameter.default is not None and function.span.source is prelude().span.source


def parse(source: Source) -> syntax.File:
    """The syntax of a text. Raises `CompileError` (E00xx) where it is not in the language."""
    if len(source.text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise fail("E0003", f"`{source.name}` is larger than {MAX_BYTES} bytes")
    tokens = lalr.tokenize(tables(), source.text)
    if len(tokens) == 1:
        raise fail("E0002", f"`{source.name}` is empty", help="write `moe name[H=64](x: [H]) -> [H] { … }`")
    try:
        return lalr.run(tables(), tokens, _Builder(source).build)
    except lalr.Unexpected as error:
        from moec.language.syntax_errors import explain

        raise explain(error, source) from None


def only_layer(file: syntax.File) -> syntax.Layer:
    """The layer that a file defines. Raises `CompileError` (E0105) where it defines none, or several."""
    if len(file.layers) == 1:
        return file.layers[0]
    if not file.layers:
        raise fail("E0105", f"`{file.span.source.name}` defines no layer", help=A_LAYER)
    first, second = file.layers[:2]
    causes = [Label(first.name.span, "the first is here")]
    raise fail("E0105", "a file defines one layer", second.name.span, causes=causes)


def _comments(source: Source) -> tuple[syntax.Comment, ...]:
    found = re.finditer(r'"[^"\n]*"|#[^\n]*', source.text)
    return tuple(
        syntax.Comment(Span(source, *match.span()), match.group()) for match in found if match.group().startswith("#")
    )


def _listed(items: list[Any], kind: type[Any]) -> tuple[Any, ...]:
    return tuple(item for item in items if isinstance(item, kind))


class _Builder:
    """One method a rule of the grammar: its node, from the rule's span and the nodes below."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def build(self, rule: str, items: list[Any], start: int, end: int, depth: int) -> Any:
        span = Span(self._source, start, end)
        if depth > MAX_DEPTH:
            raise fail("E0005", f"expression is nested deeper than {MAX_DEPTH} levels", span)
        return getattr(self, f"{rule}_")(span, items)

    def _name(self, token: lalr.Token) -> syntax.Name:
        return syntax.Name(Span(self._source, token.start, token.end), token.text)

    # expressions

    def number_(self, span: Span, items: list[Any]) -> Any:
        text = items[0].text
        exponent = re.split("[eE]", text)[1:]
        if len(text) > MAX_DIGITS or (exponent and abs(int(exponent[0])) > MAX_DIGITS):
            raise fail("E0006", "number is out of range", span, f"more than {MAX_DIGITS} digits")
        return syntax.Number(span, Fraction(text), text)

    def string_(self, span: Span, items: list[Any]) -> Any:
        return syntax.String(span, items[0].text[1:-1])

    def name_(self, span: Span, items: list[Any]) -> Any:
        return self._name(items[0])

    def group_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Group(span, items[0])

    def set_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Set(span, tuple(items))

    def unary_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Unary(span, items[0].text, items[1])

    def binary_(self, span: Span, items: list[Any]) -> Any:
        left, op, right = items
        return syntax.Binary(span, op.text, left, right)

    def range_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Range(span, items[0], items[1])

    def binder_(self, span: Span, items: list[Any]) -> Any:
        kind, name, _, selection, body = items
        return syntax.Binder(span, kind.text, self._name(name), selection, body)

    def conditional_(self, span: Span, items: list[Any]) -> Any:
        return syntax.If(span, *items)

    def match_(self, span: Span, items: list[Any]) -> Any:
        arms = _listed(items, syntax.Arm)
        return syntax.Match(span, items[0], arms)

    def arm_at_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Arm(span, items[0], items[1])

    def arm_range_(self, span: Span, items: list[Any]) -> Any:
        low, high, body = items
        ends = [end.span for end in (low, high) if end is not None]
        start = ends[0].start if low is not None else span.start
        pattern = syntax.Range(Span(self._source, start, ends[-1].end if ends else start + 2), low, high)
        return syntax.Arm(span, pattern, body)

    def split_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Split(span, items[0], tuple(items[1:]))

    def index_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Index(span, items[0], tuple(items[1:]))

    def at_(self, span: Span, items: list[Any]) -> Any:
        return items[0]

    def slice_(self, span: Span, items: list[Any]) -> Any:
        low, _, high, _, step = (*items, None, None)[:5]
        return syntax.Slice(span, low, high, step)

    def transpose_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Transpose(span, items[0])

    def argument_(self, span: Span, items: list[Any]) -> Any:
        name, value = items
        if isinstance(value, lalr.Token):  # `sum` as a function
            value = self._name(value)
        return syntax.Argument(span, name and name.text, value)

    def call_(self, span: Span, items: list[Any]) -> Any:
        arguments = _listed(items, syntax.Argument)
        return syntax.Call(span, self._name(items[0]), arguments)

    # definitions

    def typed_(self, span: Span, items: list[Any]) -> Any:
        shape = tuple(item for item in items[1:] if item is not None)
        brackets = self._source.text[span.start : span.end].endswith("]")
        return syntax.Type(span, items[0].text, shape if brackets else None)

    def untyped_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Type(span, None, tuple(item for item in items if item is not None))

    def dimension_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Dimension(span, items[0].text, items[1])

    def dimensions_(self, span: Span, items: list[Any]) -> Any:
        return _listed(items, syntax.Dimension)

    def input_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Input(span, items[0].text, items[1])

    def inputs_(self, span: Span, items: list[Any]) -> Any:
        return _listed(items, syntax.Input)

    def output_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Output(span, items[0] and items[0].text, items[1])

    def outputs_(self, span: Span, items: list[Any]) -> Any:
        return _listed(items, syntax.Output)

    def layer_(self, span: Span, items: list[Any]) -> Any:
        name, dimensions, inputs, outputs, body = items
        return syntax.Layer(span, self._name(name), dimensions, inputs or (), outputs, body)

    def parameter_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Parameter(span, items[0].text, items[1])

    def function_(self, span: Span, items: list[Any]) -> Any:
        parameters, body = _listed(items, syntax.Parameter), items[-1]
        short = isinstance(body, syntax.Node)
        value: Any = body
        statements: Any = (syntax.Return(value.span, (value,)),) if short else body
        return syntax.Function(span, self._name(items[0]), parameters, statements, short)

    def body_(self, span: Span, items: list[Any]) -> Any:
        return tuple(items)

    def param_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Param(span, tuple(map(self._name, items[:-1])), items[-1])

    def assign_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Assign(span, tuple(map(self._name, items[:-1])), items[-1])

    def aux_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Aux(span, self._name(items[0]), items[1])

    def return_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Return(span, tuple(items))

    def entry_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Entry(span, self._name(items[0]), items[1], items[2] and items[2].text)

    def bind_(self, span: Span, items: list[Any]) -> Any:
        return syntax.Bind(span, self._name(items[0]), _listed(items, syntax.Entry))

    def file_(self, span: Span, items: list[Any]) -> syntax.File:
        kinds = (syntax.Layer, syntax.Function, syntax.Bind)
        layers, functions, binds = (_listed(items, kind) for kind in kinds)
        span = Span(self._source, 0, len(self._source.text))
        return syntax.File(span, layers, functions, binds, tuple(items), _comments(self._source))
