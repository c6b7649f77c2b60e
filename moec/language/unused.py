"""What a file defines and never uses, as warnings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any

from moec.diagnostics import Diagnostic
from moec.language import syntax
from moec.source import Span

#: A name that is read, and whether it is called: a value does not hide a function.
_Read = tuple[str, bool]


def unused(file: syntax.File) -> list[Diagnostic]:
    """A warning (W0001) for each dimension, parameter, value or function that nothing reads."""
    return [
        Diagnostic("W0001", f"{what} `{name}` is never used", span, severity="warning")
        for what, name, span in _of_file(file)
        if not name.startswith("_")
    ]


# ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────────────

_Definition = tuple[str, str, Span]


def _of_file(file: syntax.File) -> Iterator[_Definition]:
    for layer in file.layers:
        read = set(_reads((layer, file.binds)))
        given = [("dimension", each.name, each.span) for each in layer.dimensions]
        given += [("input", each.name, each.span) for each in layer.inputs]
        yield from (each for each in given if (each[1], False) not in read)
        yield from _of_body(layer.body, read)
    yield from _of_functions(file.functions, set(_reads((file.layers, file.functions))))


def _of_body(body: Sequence[syntax.Statement], read: Collection[_Read]) -> Iterator[_Definition]:
    """What statements define and nothing of `read` is."""
    for statement in body:
        match statement:
            case syntax.Param() | syntax.Assign():
                what = "parameter" if isinstance(statement, syntax.Param) else "value"
                yield from ((what, name.id, name.span) for name in statement.names if (name.id, False) not in read)
            case syntax.Function():
                yield from _of_functions([statement], read)
            case _:
                pass


def _of_functions(functions: Sequence[syntax.Function], read: Collection[_Read]) -> Iterator[_Definition]:
    for function in functions:
        if not any((function.name.id, called) in read for called in (False, True)):
            yield "function", function.name.id, function.name.span
        yield from _of_body(function.body, set(_reads(function.body)))


# ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reads(node: Any) -> Iterator[_Read]:
    """The names that a node reads of what lies around it: not those that it binds itself. What a function reads of
    itself, nobody else asks for."""
    match node:
        case syntax.Name():
            yield node.id, False
        case syntax.Call():
            yield node.function.id, True
            yield from _reads(node.arguments)
        case syntax.Binder():
            yield from _reads(node.selection)
            yield from _without({node.name.id}, _reads(node.body))
        case syntax.Function():
            yield from _reads(node.parameters)
            local = {name.id for each in node.body if isinstance(each, syntax.Assign) for name in each.names}
            local |= {each.name.id for each in node.body if isinstance(each, syntax.Function)}
            yield from _without({node.name.id, *(each.name for each in node.parameters), *local}, _reads(node.body))
        case syntax.Layer():
            yield from _reads((node.dimensions, node.inputs, node.outputs, node.body))
        case syntax.Bind():
            yield from _reads(node.entries)
        case syntax.Param():
            yield from _reads(node.type)
        case syntax.Assign() | syntax.Aux() | syntax.Entry():
            yield from _reads(node.value)
        case tuple():
            for part in node:  # pyright: ignore[reportUnknownVariableType]
                yield from _reads(part)
        case syntax.Node():
            yield from _reads(tuple(getattr(node, field.name) for field in fields(node) if field.name != "span"))
        case _:
            pass


def _without(bound: Collection[str], reads: Iterator[_Read]) -> Iterator[_Read]:
    return (read for read in reads if read[0] not in bound)
