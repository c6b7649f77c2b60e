"""What a file defines and never uses, as warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Final

from moec.diagnostics import Diagnostic
from moec.language import syntax
from moec.source import Span


def unused(file: syntax.File) -> list[Diagnostic]:
    """A warning (W0001) for each dimension, parameter, value or function that nothing reads."""
    nodes = list(walk([*file.layers, *file.functions, *file.binds]))
    read = Counter(node.id for node in nodes if isinstance(node, syntax.Name))
    for function in (node for node in nodes if isinstance(node, syntax.Function)):
        own = [node for node in walk([function]) if isinstance(node, syntax.Name) and node.id == function.name.id]
        read[function.name.id] -= len(own)  # what it reads of itself, nobody else asks for
    found = [(what, name, span) for what, name, span in _definitions(file) if read[name] < 1]
    return [
        Diagnostic("W0001", f"{what} `{name}` is never used", span, severity="warning")
        for what, name, span in found
        if not name.startswith("_")
    ]


def _definitions(file: syntax.File) -> Iterator[tuple[str, str, Span]]:
    for layer in file.layers:
        for dimension in layer.dimensions:
            yield "dimension", dimension.name, dimension.span
        for given in layer.inputs:
            yield "input", given.name, given.span
        yield from _bodies(layer.body)
    for function in file.functions:
        yield "function", function.name.id, function.name.span
        yield from _bodies(function.body)


def _bodies(body: tuple[syntax.Statement, ...]) -> Iterator[tuple[str, str, Span]]:
    for statement in body:
        match statement:
            case syntax.Param():
                yield from (("parameter", name.id, name.span) for name in statement.names)
            case syntax.Assign():
                yield from (("value", name.id, name.span) for name in statement.names)
            case syntax.Function():
                yield "function", statement.name.id, statement.name.span
                yield from _bodies(statement.body)
            case _:
                pass


#: Names that a node defines, not reads.
_DEFINED: Final[dict[type[Any], tuple[str, ...]]] = {
    syntax.Param: ("names",),
    syntax.Assign: ("names",),
    syntax.Function: ("name",),
    syntax.Layer: ("name",),
}


def walk(nodes: list[Any]) -> Iterator[Any]:
    """Every node below, without the names that are being defined."""
    while nodes:
        node = nodes.pop()
        if isinstance(node, tuple):
            nodes.extend(node)  # pyright: ignore[reportUnknownArgumentType]
        elif is_dataclass(node) and not isinstance(node, Span):
            yield node
            skipped = _DEFINED.get(type(node), ())
            nodes.extend(getattr(node, field.name) for field in fields(node) if field.name not in (*skipped, "span"))
