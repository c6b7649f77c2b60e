"""Text to syntax. The grammar is moe.lark; this module builds the nodes and says what is wrong with a text that is not."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import lark
from lark.visitors import Transformer_NonRecursive, VisitError

from moec.diagnostics import fail
from moec.language import syntax
from moec.source import Source, Span

#: The longest text that is read, in bytes, and the deepest nesting of expressions.
MAX_BYTES = 1 << 20
MAX_DEPTH = 200


def parse(source: Source) -> syntax.File:
    """The syntax of a text. Raises `CompileError` (E00xx) where it is not in the language."""
    if not source.text.strip():
        raise fail("E0002", f"`{source.name}` is empty", help="a file holds at least one `moe name[dims](x: [H]) -> [H] { … }`")
    if len(source.text.encode()) > MAX_BYTES:
        raise fail("E0003", f"`{source.name}` is larger than {MAX_BYTES} bytes")
    try:
        tree = _parser().parse(source.text)
    except lark.UnexpectedInput as error:
        from moec.language.syntax_errors import explain

        raise explain(error, source) from None
    try:
        return _Builder(source).transform(tree)
    except VisitError as error:
        raise error.orig_exc from None


def read(path: str | Path) -> Source:
    """The text of a file. Raises `CompileError` where it cannot be read or is not UTF-8."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise fail("E0001", f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_BYTES:
        raise fail("E0003", f"`{path}` is larger than {MAX_BYTES} bytes")
    try:
        return Source(str(path), data.decode())
    except UnicodeDecodeError as error:
        raise fail("E0004", f"`{path}` is not UTF-8: byte {error.start} cannot be decoded") from None


@cache
def grammar() -> str:
    """The text of moe.lark: inside an installed package, or at the top of a checkout."""
    packaged = resources.files("moec.language") / "moe.lark"
    if packaged.is_file():
        return packaged.read_text()
    return (Path(__file__).parents[2] / "grammar" / "moe.lark").read_text()


@cache
def _parser() -> lark.Lark:
    return lark.Lark(grammar(), parser="lalr", start="file", propagate_positions=True, maybe_placeholders=True)


def _comments(source: Source) -> tuple[syntax.Comment, ...]:
    found = re.finditer(r'"[^"\n]*"|#[^\n]*', source.text)
    return tuple(
        syntax.Comment(Span(source, *match.span()), match.group()) for match in found if match.group().startswith("#")
    )


def _listed(items: list[Any], kind: type[Any]) -> tuple[Any, ...]:
    return tuple(item for item in items if isinstance(item, kind))


@lark.v_args(meta=True)
class _Builder(Transformer_NonRecursive[Any, Any]):
    """One method a rule of the grammar, from the bottom up, so that depth costs no recursion."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._depth: dict[int, int] = {}
        self._kept: list[object] = []  # keeps nodes alive, so that no id is used twice

    def _token(self, token: lark.Token) -> Span:
        assert token.start_pos is not None and token.end_pos is not None
        return Span(self._source, token.start_pos, token.end_pos)

    def _name(self, token: lark.Token) -> syntax.Name:
        return syntax.Name(self._token(token), str(token))

    def _span(self, meta: Any) -> Span:
        return Span(self._source, getattr(meta, "start_pos", 0), getattr(meta, "end_pos", 0))

    def _node(self, node: Any, *children: Any) -> Any:
        depth = 1 + max((self._depth.get(id(child), 0) for child in children), default=0)
        if depth > MAX_DEPTH:
            raise fail("E0005", f"expression is nested deeper than {MAX_DEPTH} levels", node.span)
        self._depth[id(node)] = depth
        self._kept.append(node)
        return node

    # expressions

    def number(self, meta: Any, items: list[Any]) -> Any:
        text = str(items[0])
        return syntax.Number(self._span(meta), Fraction(text), text)

    def string(self, meta: Any, items: list[Any]) -> Any:
        return syntax.String(self._span(meta), str(items[0])[1:-1])

    def name(self, meta: Any, items: list[Any]) -> Any:
        return self._name(items[0])

    def group(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.Group(self._span(meta), items[0]), *items)

    def set(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.Set(self._span(meta), tuple(items)), *items)

    def unary(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.Unary(self._span(meta), str(items[0]), items[1]), items[1])

    def binary(self, meta: Any, items: list[Any]) -> Any:
        left, op, right = items
        return self._node(syntax.Binary(self._span(meta), str(op), left, right), left, right)

    def range(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.Range(self._span(meta), items[0], items[1]), *items)

    def binder(self, meta: Any, items: list[Any]) -> Any:
        kind, name, selection, body = items
        node = syntax.Binder(self._span(meta), str(kind), self._name(name), selection, body)
        return self._node(node, selection, body)

    def conditional(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.If(self._span(meta), *items), *items)

    def match(self, meta: Any, items: list[Any]) -> Any:
        arms = _listed(items, syntax.Arm)
        return self._node(syntax.Match(self._span(meta), items[0], arms), items[0], *(arm.body for arm in arms))

    def arm_at(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Arm(self._span(meta), items[0], items[1])

    def arm_range(self, meta: Any, items: list[Any]) -> Any:
        low, high, body = items
        ends = [end.span for end in (low, high) if end is not None]
        start = ends[0].start if low is not None else self._span(meta).start
        pattern = syntax.Range(Span(self._source, start, ends[-1].end if ends else start + 2), low, high)
        return syntax.Arm(self._span(meta), pattern, body)

    def split(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.Split(self._span(meta), items[0], tuple(items[1:])), *items)

    def index(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.Index(self._span(meta), items[0], tuple(items[1:])), *items)

    def at(self, meta: Any, items: list[Any]) -> Any:
        return items[0]

    def slice(self, meta: Any, items: list[Any]) -> Any:
        low, _, high, _, step = (*items, None, None)[:5]
        return syntax.Slice(self._span(meta), low, high, step)

    def transpose(self, meta: Any, items: list[Any]) -> Any:
        return self._node(syntax.Transpose(self._span(meta), items[0]), *items)

    def argument(self, meta: Any, items: list[Any]) -> Any:
        name, value = items
        if isinstance(value, lark.Token):  # `sum` as a function
            value = self._name(value)
        return self._node(syntax.Argument(self._span(meta), name and str(name), value), value)

    def call(self, meta: Any, items: list[Any]) -> Any:
        arguments = _listed(items, syntax.Argument)
        return self._node(syntax.Call(self._span(meta), self._name(items[0]), arguments), *arguments)

    # definitions

    def typed(self, meta: Any, items: list[Any]) -> Any:
        shape = tuple(item for item in items[1:] if item is not None)
        brackets = self._source.text[self._span(meta).start : self._span(meta).end].endswith("]")
        return syntax.Type(self._span(meta), str(items[0]), shape if brackets else None)

    def untyped(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Type(self._span(meta), None, tuple(item for item in items if item is not None))

    def dimension(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Dimension(self._span(meta), str(items[0]), items[1])

    def dimensions(self, meta: Any, items: list[Any]) -> Any:
        return _listed(items, syntax.Dimension)

    def input(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Input(self._span(meta), str(items[0]), items[1])

    def inputs(self, meta: Any, items: list[Any]) -> Any:
        return _listed(items, syntax.Input)

    def output(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Output(self._span(meta), items[0] and str(items[0]), items[1])

    def outputs(self, meta: Any, items: list[Any]) -> Any:
        return _listed(items, syntax.Output)

    def layer(self, meta: Any, items: list[Any]) -> Any:
        name, dimensions, inputs, outputs, body = items
        return syntax.Layer(self._span(meta), self._name(name), dimensions, inputs or (), outputs, body)

    def parameter(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Parameter(self._span(meta), str(items[0]), items[1])

    def function(self, meta: Any, items: list[Any]) -> Any:
        parameters, body = _listed(items, syntax.Parameter), items[-1]
        short = not isinstance(body, tuple)
        statements: Any = (syntax.Return(body.span, (body,)),) if short else body
        return syntax.Function(self._span(meta), self._name(items[0]), parameters, statements, short)

    def body(self, meta: Any, items: list[Any]) -> Any:
        return tuple(items)

    def param(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Param(self._span(meta), tuple(map(self._name, items[:-1])), items[-1])

    def assign(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Assign(self._span(meta), tuple(map(self._name, items[:-1])), items[-1])

    def aux(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Aux(self._span(meta), self._name(items[0]), items[1])

    def return_(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Return(self._span(meta), tuple(items))

    def entry(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Entry(self._span(meta), self._name(items[0]), items[1], items[2] and str(items[2]))

    def bind(self, meta: Any, items: list[Any]) -> Any:
        return syntax.Bind(self._span(meta), self._name(items[0]), _listed(items, syntax.Entry))

    def file(self, meta: Any, items: list[Any]) -> syntax.File:
        kinds = (syntax.Layer, syntax.Function, syntax.Bind)
        layers, functions, binds = (_listed(items, kind) for kind in kinds)
        span = Span(self._source, 0, len(self._source.text))
        return syntax.File(span, layers, functions, binds, tuple(items), _comments(self._source))


setattr(_Builder, "return", _Builder.return_)
