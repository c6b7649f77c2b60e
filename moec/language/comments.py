"""Where the comments of a file stand: each is given to the node that it belongs to, so that `format` can print both.

A comment behind a node on its line belongs to it; one on a line of its own to what follows. Inside something that never
breaks there is no place for a comment: it moves out, to a line before what encloses it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile

from moec.language import syntax
from moec.language.syntax import Node
from moec.source import Source

#: Operators that are printed as one chain, by what they chain with.
CHAINS = {"+": "+", "-": "+", "*": "*", "/": "*", "%": "*", "and": "and", "or": "or", "@": "@", "**": "**"}


def operands(node: syntax.Binary) -> list[tuple[str, syntax.Expr]]:
    """`a + b - c` as its operands, each with the operator before it; the first with none."""
    chain = CHAINS.get(node.op)
    rightward = chain in ("@", "**")
    found: list[tuple[str, syntax.Expr]] = []
    rest: syntax.Expr = node
    while isinstance(rest, syntax.Binary) and (rest is node or CHAINS.get(rest.op) == chain):
        found.append((rest.op, rest.left if rightward else rest.right))
        rest = rest.right if rightward else rest.left
    if rightward:
        ops = ["", *(op for op, _ in found)]
        return list(zip(ops, [*(operand for _, operand in found), rest], strict=True))
    return [("", rest), *reversed(found)]


def branches(node: syntax.If) -> list[syntax.Expr]:
    """`if a then b else if c then d else e` as a, b, c, d, e."""
    found: list[syntax.Expr] = []
    rest: syntax.Expr = node
    while isinstance(rest, syntax.If):
        found += [rest.condition, rest.then]
        rest = rest.otherwise
    return [*found, rest]


class Comments:
    """The comments of a file by the `id` of their node: on lines before it, behind it, on lines after it.

    `head` are those behind the brace that opens a body, `inside` those of a body without statements.
    """

    def __init__(self, source: Source, file: syntax.File) -> None:
        self.before = defaultdict[int, list[syntax.Comment]](list)
        self.behind: dict[int, syntax.Comment] = {}
        self.after = defaultdict[int, list[syntax.Comment]](list)
        self.head: dict[int, syntax.Comment] = {}
        self.inside = defaultdict[int, list[syntax.Comment]](list)
        self._text = source.text
        for comment in file.comments:
            self._among(file.items, comment, enclosed=True)

    def _among(self, nodes: Sequence[Node], comment: syntax.Comment, enclosed: bool, open_end: bool = True) -> bool:
        """Gives a comment to one of several nodes that may stand on lines of their own; False where it has to move out.

        `enclosed` says that a comment may stand before the first, `open_end` that it may stand after the last.
        """
        place = comment.span.start
        previous = next((node for node in reversed(nodes) if node.span.end <= place), None)
        following = next((node for node in nodes if node.span.end > place), None)
        if following and following.span.start <= place and self._within(following, comment):
            return True
        if previous and not re.search(r"[\n()\[\]{}#]", self._text[previous.span.end : place]):
            self.behind[id(previous)] = comment
        elif following and (enclosed or previous):
            self.before[id(following)].append(comment)
        elif previous and not following and open_end:
            self.after[id(previous)].append(comment)
        else:
            return False
        return True

    def _within(self, node: Node, comment: syntax.Comment) -> bool:
        if isinstance(node, syntax.Layer | syntax.Bind) or (isinstance(node, syntax.Function) and not node.short):
            return self._in_definition(node, comment)
        for inner in _unbroken(node):
            if inner.span.start <= comment.span.start < inner.span.end:
                return self._within(inner, comment)
        nodes, enclosed = _broken(node)
        return self._among(nodes, comment, enclosed, open_end=not isinstance(node, syntax.Function))

    def _in_definition(self, node: syntax.Layer | syntax.Bind | syntax.Function, comment: syntax.Comment) -> bool:
        head, body = _definition(node)
        brace = self._brace(max([node.name, *head], key=lambda part: part.span.end).span.end)
        if comment.span.start < brace:
            return self._among(_listed(head), comment, enclosed=False, open_end=False)
        if not self._text[brace + 1 : comment.span.start].strip(" \t"):
            self.head[id(node)] = comment
        elif not body:
            self.inside[id(node)].append(comment)
        else:
            self._among(body, comment, enclosed=True)
        return True

    def _brace(self, start: int) -> int:
        found = re.compile(r"(?:#[^\n]*|[^{#])*").match(self._text, start)
        assert found
        return found.end()


def _definition(node: syntax.Layer | syntax.Bind | syntax.Function) -> tuple[Sequence[Node], Sequence[Node]]:
    match node:
        case syntax.Layer():
            return [*node.dimensions, *node.inputs, *node.outputs], node.body
        case syntax.Bind():
            return [], node.entries
        case syntax.Function():
            return node.parameters, node.body


def _listed(head: Sequence[Node]) -> Sequence[Node]:
    """The parts of a head that stand in brackets: a single output does not."""
    outputs = sum(isinstance(part, syntax.Output) for part in head)
    return list(takewhile(lambda part: not isinstance(part, syntax.Output), head)) if outputs == 1 else head


def _broken(node: Node) -> tuple[Sequence[Node], bool]:
    """The parts that are printed on lines of their own where they do not fit on one, and whether a bracket or a colon
    stands before the first."""
    match node:
        case syntax.Call():
            return node.arguments, True
        case syntax.Set():
            return node.elements, True
        case syntax.Index():
            return node.items, True
        case syntax.Split():
            return node.shape, True
        case syntax.Match():
            return node.arms, True
        case syntax.Group():
            return [node.inner], True
        case syntax.Binder():
            return [node.body], True
        case syntax.Binary():
            return [operand for _, operand in operands(node)], False
        case syntax.If():
            return branches(node), False
        case syntax.Return():
            return (node.values, False) if len(node.values) > 1 else ([], False)
        case syntax.Function():
            return node.parameters, False
        case _:
            return [], False


def _unbroken(node: Node) -> Sequence[Node]:
    """The parts that stand where their node stands."""
    match node:
        case syntax.Index() | syntax.Split() | syntax.Transpose() | syntax.Unary():
            found: Sequence[Node | None] = [node.operand]
        case syntax.Match():
            found = [node.subject]
        case syntax.Binder():
            found = [node.selection]
        case syntax.Range():
            found = [node.low, node.high]
        case syntax.Slice():
            found = [node.low, node.high, node.step]
        case syntax.Argument() | syntax.Assign() | syntax.Aux() | syntax.Entry():
            found = [node.value]
        case syntax.Arm():
            found = [node.pattern, node.body]
        case syntax.Return():
            found = node.values if len(node.values) == 1 else []
        case syntax.Function():
            found = node.body
        case _:
            found = []
    return [part for part in found if part]
