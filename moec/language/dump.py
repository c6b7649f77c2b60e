"""The syntax tree as indented text, one node a line: the stage `ast`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from moec.language import syntax


def dump(node: syntax.Node, places: bool = True) -> str:
    """`node` and everything below it. A leaf stands on one line with its place, if they are asked for:
    `Name id=x @3:7`."""
    return "\n".join(_lines(node, "", "", places)) + "\n"


def _lines(node: syntax.Node, label: str, indent: str, places: bool) -> Iterator[str]:
    values = {field.name: getattr(node, field.name) for field in fields(node) if field.name != "span"}
    words = [f"{name}={value}" for name, value in values.items() if _is_word(value)]
    place = [f"@{node.span.line}:{node.span.column}"] if places else []
    yield " ".join([f"{indent}{label}{type(node).__name__}", *words, *place])
    for name, value in values.items():
        for child in value if isinstance(value, tuple) else (value,):  # pyright: ignore[reportUnknownVariableType]
            if isinstance(child, syntax.Node):
                yield from _lines(child, f"{name}: ", f"{indent}  ", places)


def _is_word(value: Any) -> bool:
    return value is not None and not isinstance(value, syntax.Node | tuple)
