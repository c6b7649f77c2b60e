"""What a `bind` block says of the parameters of a layer, read from the syntax tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moec.binding.formulas import Formula
from moec.binding.steps import Element, Index, Slice, Split, Stride, Transpose
from moec.binding.tensors import Place, Tensor
from moec.binding.views import Concat, View
from moec.diagnostics import CompileError, fail, nearest
from moec.formats.origins import ORIGINS, Origin
from moec.language import syntax
from moec.source import Span


@dataclass(frozen=True, slots=True)
class Bound:
    """A parameter as the layer declares it, and the view that it is bound to. `dtype` may be `real`; `span` is where
    a view of another shape or type is wrong."""

    param: str
    dtype: str
    shape: tuple[Formula, ...]
    view: View
    place: Place
    span: Span


def bound_by(file: syntax.File, name: str | None) -> list[Bound]:
    """Every parameter of the file's layer, and what the `bind` block of a name says that it is; a parameter without an
    entry, and all where `name` is None, is the tensor of its own name.

    Raises `CompileError`: E0405 where there is no such block, or it does not fit the layer, E0306.
    """
    types, entries = _types(file.layers[0]), _entries(file, name)
    return [_bound(param, type, entries.get(param)) for param, type in types.items()]


def _types(layer: syntax.Layer) -> Mapping[str, syntax.Type]:
    nodes = [node for node in layer.body if isinstance(node, syntax.Param)]
    return {param.id: node.type for node in nodes for param in node.names}


def _entries(file: syntax.File, name: str | None) -> Mapping[str, syntax.Entry]:
    """The entries of a block by parameter."""
    if name is None:
        return {}
    block = next((block for block in file.binds if block.name.id == name), None)
    if block is None:
        names = [block.name.id for block in file.binds]
        raise fail("E0405", f"there is no bind `{name}`", help=nearest(name, names))
    params, layer = list(_types(file.layers[0])), file.layers[0].name.id
    for entry in block.entries:
        if entry.param.id not in params:
            help = nearest(entry.param.id, params)
            raise fail("E0405", f"`{entry.param.id}` is not a weight of `{layer}`", entry.param.span, help=help)
    return {entry.param.id: entry for entry in block.entries}


def _bound(param: str, type: syntax.Type, entry: syntax.Entry | None) -> Bound:
    place = Place(param, entry.value.span if entry else None)
    view = _Reader(param, _origin(entry)).view(entry.value) if entry else View(Tensor(param, None, place))
    shape = tuple(map(Formula, type.shape or ()))
    return Bound(param, type.dtype or "real", shape, view, place, place.span or type.span)


def _origin(entry: syntax.Entry) -> Origin | None:
    """What stands behind `as`. Raises `CompileError` (E0306) where there is no such origin."""
    name, end = entry.storage, entry.span.end
    if name is None or name in ORIGINS:
        return ORIGINS[name] if name else None
    help = nearest(name, [*ORIGINS]) or f"there are {', '.join(ORIGINS)}"
    span = Span(entry.span.source, end - len(name), end)
    raise fail("E0306", f"`{name}` is not a way to store tensors", span, help=help)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the expression of one entry."""

    param: str
    origin: Origin | None

    def view(self, node: syntax.Expr) -> View:
        """Raises `CompileError` (E0405) where an expression is no view of tensors."""
        place = Place(self.param, node.span)
        match node:
            case syntax.String():
                return View(Tensor(node.value, self.origin, place))
            case syntax.Group():
                return self.view(node.inner)
            case syntax.Transpose():
                return self.view(node.operand).then(Transpose(place))
            case syntax.Index():
                return self.view(node.operand).then(Index(tuple(map(self._item, node.items)), place))
            case syntax.Split():
                return self.view(node.operand).then(Split(tuple(map(_length, node.shape)), place))
            case syntax.Call() if node.function.id == "concat":
                parts = [self.view(each.value) for each in node.arguments if each.name != "axis"]
                axes = [Formula(each.value) for each in node.arguments if each.name == "axis"]
                return View(Concat(tuple(parts), axes[-1] if axes else None, place))
            case _:
                raise self._no_view(node)

    def _item(self, node: syntax.Expr | syntax.Slice) -> Element | Slice:
        place = Place(self.param, node.span)
        if not isinstance(node, syntax.Slice):
            return Element(Formula(node), place)
        low, high = (Formula(end) if end else None for end in (node.low, node.high))
        return Slice(low, high, Stride(node.step, place) if node.step else None, place)

    def _no_view(self, node: syntax.Expr) -> CompileError:
        help = None
        if isinstance(node, syntax.Name):
            help = f'write `"{node.id}"`: a tensor\'s name stands in quotes'
        elif isinstance(node, syntax.Call) and node.function.id == "flatten":
            help = 'write `split "…" as [_]`'
        text = "a `bind` takes tensors, slices, `.T`, `split` and `concat`"
        return fail("E0405", f"`{self.param}`: {text}", node.span, help=help)


def _length(node: syntax.Expr) -> Formula | None:
    """A length of a `split`; None is `_`, the one that is computed."""
    return None if isinstance(node, syntax.Name) and node.id == "_" else Formula(node)
