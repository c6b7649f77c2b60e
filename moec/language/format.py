"""The one layout of a `.moe` file: what `moec fmt` prints. It changes white space and where comments stand, no more.

Two columns are aligned in consecutive statements of a kind: the types of `param`, the `=` of values. Lines end before
column 100 where they can; operators begin the line that they continue, below the first operand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from moec.language import syntax
from moec.language.comments import Comments, branches, operands
from moec.language.layout import HARD, SOFT, Broken, Doc, Line, Remark, Text, group, join, nest, render
from moec.language.parse import parse
from moec.language.syntax import Node
from moec.source import Source

N = TypeVar("N", bound=Node)


def format_source(source: Source) -> str:
    """The text of a file in the canonical layout. Raises `CompileError` where it is not in the language."""
    file = parse(source)
    return render(_Printer(source, Comments(source, file)).block(file.items)).strip("\n") + "\n"


class _Printer:
    """Nodes to documents. A method a kind; comments come in wherever nodes stand on lines of their own."""

    def __init__(self, source: Source, comments: Comments) -> None:
        self._source, self._comments = source, comments

    # statements

    def block(self, nodes: Sequence[Node]) -> Doc:
        """Statements below each other, with at most one empty line between two."""
        lines: list[Doc] = []
        for node, doc in zip(nodes, self._aligned(nodes), strict=True):
            before = self._comments.before[id(node)]
            own = [comment for comment in before if comment.span.start < node.span.start]
            moved: list[Doc] = [_text(comment) for comment in before[len(own) :]]
            for comment in own:
                lines.append((self._gap(comment, lines), _text(comment)))
            lines.append((self._gap(node, lines), join(HARD, [*moved, (doc, self._behind(node))])))
            for comment in self._comments.after[id(node)]:
                lines.append((self._gap(comment, lines), _text(comment)))
        return join(HARD, lines)

    def _gap(self, node: Node, lines: Sequence[Doc]) -> Doc:
        """An empty line, where one stood before a node that is not the first."""
        return HARD if lines and self._spaced(node) else ()

    def _spaced(self, node: Node) -> bool:
        line, column = self._source.line_column(node.span.start)
        first = not self._source.line(line)[: column - 1].strip()
        return first and line > 1 and not self._source.line(line - 1).strip()

    def _aligned(self, nodes: Sequence[Node]) -> list[Doc]:
        """The documents of statements. Heads of the same kind in consecutive lines are equally wide."""
        breaks = [0, *(at for at, pair in enumerate(pairwise(nodes), 1) if not self._joined(*pair)), len(nodes)]
        docs: list[Doc] = []
        for start, end in pairwise(breaks):
            width = max((len(_head(node)) for node in nodes[start:end]), default=0)
            docs += [self._statement(node, width) for node in nodes[start:end]]
        return docs

    def _joined(self, above: Node, below: Node) -> bool:
        parted = self._spaced(below) or self._comments.before[id(below)] or self._comments.after[id(above)]
        return type(above) is type(below) and not parted

    def _statement(self, node: Node, width: int) -> Doc:
        match node:
            case syntax.Param():
                return Text(f"{_head(node):<{width}} "), self._type(node.type)
            case syntax.Assign():
                return Text(f"{_head(node):<{width}} = "), self._hanging(node.value)
            case syntax.Entry():
                storage = Text(f" as {node.storage}") if node.storage else Text("")
                return Text(f"{_head(node):<{width}} = "), self._hanging(node.value), storage
            case syntax.Aux():
                return Text(f"aux {node.name.id} = "), self._hanging(node.value)
            case syntax.Return():
                return Text("return "), self._returned(node)
            case syntax.Function():
                return self._function(node)
            case syntax.Layer():
                return self._layer(node)
            case syntax.Bind():
                return Text(f"bind {node.name.id} "), self._body(node, node.entries)
            case _:
                raise AssertionError(type(node))

    def _returned(self, node: syntax.Return) -> Doc:
        if len(node.values) == 1:
            return self._hanging(node.values[0])
        return nest(group(self._elements(node.values, self._expr, last=False)), by=None)

    def _function(self, node: syntax.Function) -> Doc:
        head = Text(f"fn {node.name.id}"), self._list("(", node.parameters, self._default, ")")
        if node.short:
            body = node.body[0]
            assert isinstance(body, syntax.Return)
            return *head, Text(" = "), self._hanging(body.values[0])
        return *head, Text(" "), self._body(node, node.body)

    def _layer(self, node: syntax.Layer) -> Doc:
        dimensions = self._list("[", node.dimensions, self._default, "]") if node.dimensions else ()
        inputs = self._list("(", node.inputs, self._declared, ")")
        if len(node.outputs) == 1:
            outputs = self._declared(node.outputs[0])
        else:
            outputs = self._list("(", node.outputs, self._declared, ")")
        flat = render(outputs)  # the inputs are to break before the outputs do
        outputs = outputs if "\n" in flat else Text(flat)
        head = Text(f"moe {node.name.id}"), dimensions, inputs, Text(" -> "), outputs, Text(" ")
        return *head, self._body(node, node.body)

    def _body(self, node: Node, statements: Sequence[Node]) -> Doc:
        head, inside = self._comments.head.get(id(node)), self._comments.inside[id(node)]
        remark = Remark(head.text.rstrip()) if head else ()
        if not statements and not inside and not head:
            return Text("{}")
        block = self.block(statements) if statements else join(HARD, map(_text, inside))
        return Text("{"), remark, nest(HARD, block) if statements or inside else (), HARD, Text("}")

    def _declared(self, node: syntax.Input | syntax.Output) -> Doc:
        return Text(f"{node.name}: " if node.name else ""), self._type(node.type)

    def _default(self, node: syntax.Dimension | syntax.Parameter) -> Doc:
        return (Text(f"{node.name}="), self._expr(node.default)) if node.default else Text(node.name)

    def _type(self, node: syntax.Type) -> Doc:
        shape = () if node.shape is None else self._list("[", node.shape, self._expr, "]", last=False)
        return Text(node.dtype or ""), shape

    # lists

    def _list(self, opening: str, nodes: Sequence[N], show: Callable[[N], Doc], closing: str, last: bool = True) -> Doc:
        """Nodes in brackets: on the same line, on a line of their own, or on a line each."""
        if not nodes:
            return Text(opening + closing)
        return group(Text(opening), nest(SOFT, group(self._elements(nodes, show, last))), SOFT, Text(closing))

    def _elements(self, nodes: Sequence[N], show: Callable[[N], Doc], last: bool) -> Doc:
        """Nodes with commas between; `last` says that a comma may follow the last one too."""
        parts: list[Doc] = []
        for index, node in enumerate(nodes):
            comma = Text(",") if index + 1 < len(nodes) else Broken(",") if last else ()
            after = [(HARD, _text(comment)) for comment in self._comments.after[id(node)]]
            parts.append((self._before(node), show(node), comma, self._behind(node), *after))
        return join(Line(), parts)

    def _before(self, node: Node, offset: int = 0) -> Doc:
        line = Line(offset=offset, hard=True)
        return tuple((_text(comment), line) for comment in self._comments.before[id(node)])

    def _behind(self, node: Node) -> Doc:
        comment = self._comments.behind.get(id(node))
        return Remark(comment.text.rstrip()) if comment else ()

    # expressions

    def _hanging(self, node: syntax.Expr) -> Doc:
        """The value of a statement: operators of further lines hang to the left of the operands."""
        return self._chain(node, hanging=True) if isinstance(node, syntax.Binary) else self._expr(node)

    def _expr(self, node: Node) -> Doc:
        match node:
            case syntax.Number():
                return Text(node.text)
            case syntax.String():
                return Text(f'"{node.value}"')
            case syntax.Name():
                return Text(node.id)
            case syntax.Unary():
                return Text("not " if node.op == "not" else node.op), self._expr(node.operand)
            case syntax.Binary():
                return self._chain(node, hanging=False)
            case syntax.Range():
                return self._range(node)
            case syntax.Call():
                return Text(node.function.id), self._list("(", node.arguments, self._argument, ")")
            case syntax.Slice():
                return self._slice(node)
            case syntax.Index():
                return self._expr(node.operand), self._list("[", node.items, self._expr, "]", last=False)
            case syntax.Transpose():  # `1.T` would be the number `1.`
                return self._expr(node.operand), Text(" .T" if isinstance(node.operand, syntax.Number) else ".T")
            case syntax.Split():
                shape = self._list("[", node.shape, self._expr, "]", last=False)
                return Text("split "), self._expr(node.operand), Text(" as "), shape
            case syntax.Binder():
                return self._binder(node)
            case syntax.If():
                return self._conditional(node)
            case syntax.Match():
                return self._match(node)
            case syntax.Set():
                return self._list("{", node.elements, self._expr, "}")
            case syntax.Group():
                return self._list("(", [node.inner], self._expr, ")", last=False)
            case _:
                raise AssertionError(type(node))

    def _chain(self, node: syntax.Binary, hanging: bool) -> Doc:
        parts: list[Doc] = []
        *_, (_, above), (last, tail) = chain = operands(node)
        remarked = self._comments.before[id(tail)] or id(above) in self._comments.behind
        hugging = _ends_in_match(tail) and not remarked
        for op, operand in chain[:-1] if hugging else chain:
            offset = -len(op) - 1 if hanging else 0
            lead = (Line(offset=offset), self._before(operand, offset), Text(f"{op} ")) if op else ()
            parts.append((lead, self._expr(operand), self._behind(operand)))
        body = nest(group(*parts), by=None)
        return (body, Text(f" {last} "), self._expr(tail), self._behind(tail)) if hugging else body

    def _binder(self, node: syntax.Binder) -> Doc:
        head = Text(f"{node.kind} {node.name.id} in "), self._expr(node.selection), Text(":")
        before, body, behind = self._before(node.body), self._expr(node.body), self._behind(node.body)
        if _ends_in_match(node.body) and not before:
            return head, Text(" "), body, behind
        return group(head, nest(Line(), before, body), behind)

    def _match(self, node: syntax.Match) -> Doc:
        """Arms on a line each, what they give aligned; a single arm may stay where it is."""
        line = HARD if len(node.arms) > 1 else Line()
        patterns = {id(arm): self._expr(arm.pattern) for arm in node.arms}
        texts = {key: render(pattern) for key, pattern in patterns.items()}
        width = max((len(text) for text in texts.values() if "\n" not in text), default=0)

        def arm(node: syntax.Arm) -> Doc:
            padding = " " * max(1, width - len(texts[id(node)]) + 1)
            return patterns[id(node)], Text(f":{padding}"), self._expr(node.body)

        arms = nest(line, self._elements(node.arms, arm, last=True))
        return group(Text("match "), self._expr(node.subject), Text(" {"), arms, line, Text("}"))

    def _range(self, node: syntax.Range) -> Doc:
        low = self._expr(node.low) if node.low else ()
        high = self._expr(node.high) if node.high else ()
        pointed = node.low and node.low.span.text.endswith(".")  # `1...3` would be `1`, `..`, `.3`
        return low, Text(" .." if pointed else ".."), high

    def _argument(self, node: syntax.Argument) -> Doc:
        return Text(f"{node.name}=" if node.name else ""), self._expr(node.value)

    def _slice(self, node: syntax.Slice) -> Doc:
        low, high, step = (self._expr(part) if part else () for part in (node.low, node.high, node.step))
        return low, Text(":"), high, (Text(":"), step) if node.step else ()

    def _conditional(self, node: syntax.If) -> Doc:
        *conditions, otherwise = branches(node)
        parts: list[Doc] = []
        for index in range(0, len(conditions), 2):
            condition, then = conditions[index : index + 2]
            word = Text("else if " if index else "if ")
            value = nest(Line(), self._before(then), Text("then "), self._expr(then), self._behind(then))
            lead = (Line(), self._before(condition)) if index else ()
            parts += [lead, group(word, self._expr(condition), self._behind(condition), value)]
        parts += [Line(), self._before(otherwise), Text("else "), self._expr(otherwise), self._behind(otherwise)]
        return nest(group(*parts), by=None)


def _text(comment: syntax.Comment) -> Text:
    return Text(comment.text.rstrip())


def _ends_in_match(node: syntax.Expr) -> bool:
    """Whether the last lines of an expression are the arms of a `match`: its beginning then stays on one line."""
    match node:
        case syntax.Match():
            return len(node.arms) > 1
        case syntax.Binary():
            return _ends_in_match(operands(node)[-1][1])
        case syntax.Binder():
            return _ends_in_match(node.body)
        case _:
            return False


def _head(node: Node) -> str:
    """What stands before the aligned column of a statement."""
    match node:
        case syntax.Param():
            return f"param {', '.join(name.id for name in node.names)}:"
        case syntax.Assign():
            return ", ".join(name.id for name in node.names)
        case syntax.Entry():
            return node.param.id
        case _:
            return ""
