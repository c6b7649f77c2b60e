"""What can be said of `bind` blocks without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moec.diagnostics import Label, fail, nearest
from moec.formats.origins import ORIGINS
from moec.language import syntax
from moec.runtime.bind import blank, names_in, no_dimension, no_origin, no_step, no_view, whole
from moec.source import Span


def once(name: str, span: Span, seen: dict[str, Span], what: str) -> None:
    """Raises `CompileError` (E0102) where a name was given before."""
    if name in seen:
        causes = [Label(seen[name], "first defined here")]
        raise fail("E0102", f"{what} `{name}` is defined twice".strip(), span, causes=causes)
    seen[name] = span


def check_binds(file: syntax.File, layer: syntax.Layer, binding: Mapping[str, int]) -> None:
    """No name twice, entries of the layer's weights only, and in them nothing that no checkpoint could hold.

    Raises `CompileError` (E0102, E0202, E0206, E0306, E0405).
    """
    weights = [name.id for node in layer.body if isinstance(node, syntax.Param) for name in node.names]
    dimensions = [dimension.name for dimension in layer.dimensions]
    blocks: dict[str, Span] = {}
    for block in file.binds:
        once(block.name.id, block.name.span, blocks, "bind")
        entries: dict[str, Span] = {}
        for entry in block.entries:
            once(entry.param.id, entry.param.span, entries, "entry")
            if entry.param.id not in weights:
                help = nearest(entry.param.id, weights)
                text = f"`{entry.param.id}` is not a weight of `{layer.name.id}`"
                raise fail("E0405", text, entry.param.span, help=help)
            _Entry(entry.param.id, dimensions, binding).check(entry)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is read of an entry: the parameter's name, the dimensions, and those that have values."""

    param: str
    dimensions: Sequence[str]
    binding: Mapping[str, int]

    def check(self, entry: syntax.Entry) -> None:
        self._value(entry.value)
        if entry.storage is not None and entry.storage not in ORIGINS:
            end = entry.span.end
            raise no_origin(entry.storage, Span(entry.span.source, end - len(entry.storage), end))

    def _value(self, node: syntax.Expr) -> None:
        match node:
            case syntax.String():
                pass
            case syntax.Group():
                self._value(node.inner)
            case syntax.Transpose():
                self._value(node.operand)
            case syntax.Index():
                self._value(node.operand)
                for item in node.items:
                    self._item(item)
            case syntax.Split():
                self._value(node.operand)
                for length in node.shape:
                    if not blank(length):
                        self._number(length)
            case syntax.Call() if node.function.id == "concat":
                for argument in node.arguments:
                    (self._number if argument.name == "axis" else self._value)(argument.value)
            case _:
                raise no_view(self.param, node)

    def _item(self, item: syntax.Expr | syntax.Slice) -> None:
        if not isinstance(item, syntax.Slice):
            self._number(item)
            return
        for end in filter(None, (item.low, item.high)):
            self._number(end)
        step = self._number(item.step) if item.step else None
        if step is not None and step < 1:
            raise no_step(self.param, item, step)

    def _number(self, node: syntax.Expr) -> int | None:
        """An integer; None while one of its dimensions has no value."""
        names = list(names_in(node))
        for name in names:
            if name.id not in self.dimensions:
                raise no_dimension(name, self.dimensions)
        known = all(name.id in self.binding for name in names)
        return whole(node, self.binding) if known else None
