"""The abstract syntax of a `.moe` file. Every node carries the span that it was read from.

Nodes are values: frozen, compared by content, without behaviour. `parse` builds them, `elaborate`, the oracle and
`binding` read them, `format` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any

from moec.source import Span


@dataclass(frozen=True, slots=True)
class Node:
    span: Span = field(compare=False, repr=False)


# ── expressions ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A literal, exact: `2.5` is five halves. `text` is how it was written."""

    value: Fraction
    text: str


@dataclass(frozen=True, slots=True)
class String(Node):
    """The name of a tensor in a checkpoint; only a `bind` block has them."""

    value: str


@dataclass(frozen=True, slots=True)
class Name(Node):
    id: str


@dataclass(frozen=True, slots=True)
class Unary(Node):
    op: str  # + - not
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Node):
    op: str  # + - * / % ** @ < <= > >= == != and or in
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`low..high`: the integers from `low` up to, not including, `high`. Open ends only in a `match` arm."""

    low: Expr | None
    high: Expr | None


@dataclass(frozen=True, slots=True)
class Argument(Node):
    name: str | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Node):
    function: Name
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Slice(Node):
    """`low:high:step` inside brackets."""

    low: Expr | None
    high: Expr | None
    step: Expr | None


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`operand[items]`: one item for each of the leading axes."""

    operand: Expr
    items: tuple[Expr | Slice, ...]


@dataclass(frozen=True, slots=True)
class Transpose(Node):
    """`operand.T`: the last two axes exchanged."""

    operand: Expr


@dataclass(frozen=True, slots=True)
class Split(Node):
    """`split operand as [shape]`: the same elements in the same order under another shape."""

    operand: Expr
    shape: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Binder(Node):
    """`sum name in selection: body`, or `each`."""

    kind: str  # sum each
    name: Name
    selection: Expr
    body: Expr


@dataclass(frozen=True, slots=True)
class If(Node):
    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class Arm(Node):
    """One arm of a `match`: a single number, or a range whose ends may be open."""

    pattern: Expr
    body: Expr


@dataclass(frozen=True, slots=True)
class Match(Node):
    subject: Expr
    arms: tuple[Arm, ...]


@dataclass(frozen=True, slots=True)
class Set(Node):
    """`{i, j}`: the selection of the listed indices, in that order."""

    elements: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Group(Node):
    """Parentheses, kept so that `format` prints what was written."""

    inner: Expr


Leaf = Number | String | Name
Expr = Leaf | Unary | Binary | Range | Call | Index | Transpose | Split | Binder | If | Match | Set | Group


# ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Type(Node):
    """`dtype[shape]`; `dtype` is None where it was left out, `shape` is None for a scalar without brackets."""

    dtype: str | None
    shape: tuple[Expr, ...] | None


@dataclass(frozen=True, slots=True)
class Dimension(Node):
    name: str
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Input(Node):
    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Output(Node):
    name: str | None
    type: Type


@dataclass(frozen=True, slots=True)
class Param(Node):
    names: tuple[Name, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class Assign(Node):
    names: tuple[Name, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class Aux(Node):
    name: Name
    value: Expr


@dataclass(frozen=True, slots=True)
class Return(Node):
    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    name: str
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Function(Node):
    """`fn name(parameters) = …` or a body in braces. `short` says that it was written with `=`."""

    name: Name
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    short: bool


Statement = Param | Assign | Aux | Return | Function


@dataclass(frozen=True, slots=True)
class Layer(Node):
    """`moe name[dimensions](inputs) -> outputs { body }`."""

    name: Name
    dimensions: tuple[Dimension, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Entry(Node):
    """`param = "tensor"[…] as storage` of a `bind` block."""

    param: Name
    value: Expr
    storage: str | None


@dataclass(frozen=True, slots=True)
class Bind(Node):
    """How one kind of checkpoint stores the weights."""

    name: Name
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class File(Node):
    layers: tuple[Layer, ...]
    functions: tuple[Function, ...]
    binds: tuple[Bind, ...]
    items: tuple[Layer | Function | Bind, ...]  # the same, in the order of the text
    comments: tuple[Comment, ...]


@dataclass(frozen=True, slots=True)
class Comment(Node):
    text: str


def walk(node: Any) -> Iterator[Node]:
    """A node and every one below it, in no order."""
    open = [node]
    while open:
        node = open.pop()
        if isinstance(node, tuple):
            open.extend(node)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(node, Node):
            yield node
            open.extend(getattr(node, each.name) for each in fields(node) if each.name != "span")
