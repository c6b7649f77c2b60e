"""The weights of a layer, taken from a checkpoint as a `bind` block says.

Nothing is copied that need not be: a tensor that is bound as it lies, sliced or transposed is a view, and one tensor
per expert (`"experts.{e}.w1"`) becomes a `Stack`, which reads an expert when it is asked for it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, Final

import numpy as np

from moec.diagnostics import CompileError, fail, nearest
from moec.language import syntax
from moec.runtime.arrays import as_numpy
from moec.runtime.stack import Data, Stack

Tensors = Mapping[str, Any]
Dims = Mapping[str, int]

#: Decodes a tensor in a storage format: the checkpoint and the tensor's name to its values.
Decoder = Callable[[Tensors, str], Any]


def bind_weights(
    file: syntax.File, name: str, tensors: Tensors, dims: Dims, formats: Mapping[str, Decoder] | None = None
) -> dict[str, Data | Stack]:
    """Every parameter of the file's layer, from the tensors of a checkpoint. `name` is the `bind` block, `dims`
    overrides dimensions, `formats` decodes what stands behind `as`. Raises `CompileError` (E0405) where they do not
    fit."""
    block = next((block for block in file.binds if block.name.id == name), None)
    if block is None:
        names = [block.name.id for block in file.binds]
        raise fail("E0405", f"there is no bind `{name}`", help=nearest(name, names))
    layer, entries = file.layers[0], {entry.param.id: entry for entry in block.entries}
    params = {param.id: node.type for node in layer.body if isinstance(node, syntax.Param) for param in node.names}
    for entry in block.entries:
        if entry.param.id not in params:
            help = nearest(entry.param.id, list(params))
            raise fail("E0405", f"`{entry.param.id}` is not a weight of `{layer.name.id}`", entry.param.span, help=help)
    values = dimensions(layer, dims)
    return {
        param: _Binding(param, tensors, values, formats or {}).weight(type, entries.get(param))
        for param, type in params.items()
    }


def dimensions(layer: syntax.Layer, given: Dims) -> dict[str, int]:
    """The value of every dimension: as given, or its default."""
    values: dict[str, int] = {}
    for node in layer.dimensions:
        if node.name in given:
            values[node.name] = given[node.name]
        elif node.default is not None:
            values[node.name] = whole(node.default, values)
        else:
            raise fail("E0301", f"the dimension `{node.name}` has no value", node.span)
    return values


OPERATORS: Final[dict[str, Callable[[Fraction, Fraction], Fraction | float]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b,
    "%": operator.mod,
    "**": lambda a, b: a**b,
}


def whole(node: syntax.Expr, dims: Dims) -> int:
    """A formula over dimensions that is an integer."""
    value = _formula(node, dims)
    if value.denominator != 1:
        raise fail("E0202", f"`{node.span.text}` is {value}, not an integer", node.span)
    return int(value)


def _formula(node: syntax.Expr, dims: Dims) -> Fraction:
    match node:
        case syntax.Number():
            return node.value
        case syntax.Name() if node.id in dims:
            return Fraction(dims[node.id])
        case syntax.Group():
            return _formula(node.inner, dims)
        case syntax.Unary(op="-" | "+"):
            value = _formula(node.operand, dims)
            return -value if node.op == "-" else value
        case syntax.Binary() if node.op in OPERATORS:
            try:
                return Fraction(OPERATORS[node.op](_formula(node.left, dims), _formula(node.right, dims)))
            except ZeroDivisionError:
                raise fail("E0202", f"`{node.span.text}` divides by zero", node.span) from None
        case _:
            raise fail("E0405", "a `bind` knows the dimensions and numbers only", node.span)


@dataclass(frozen=True, slots=True)
class _Binding:
    """One parameter on its way out of the checkpoint."""

    param: str
    tensors: Tensors
    dims: Dims
    formats: Mapping[str, Decoder]

    def weight(self, type: syntax.Type, entry: syntax.Entry | None) -> Data | Stack:
        shape = tuple(whole(length, self.dims) for length in type.shape or ())
        value = self._value(entry.value, entry.storage) if entry else self._tensor(self.param, None, None)
        if value.shape != shape:
            source = f"`{entry.value.span.text}`" if entry else "the tensor of that name"
            message = f"`{self.param}` is {list(shape)}, but {source} is {list(value.shape)}"
            raise fail("E0405", message, entry.value.span if entry else type.span)
        return value

    def _value(self, node: syntax.Expr, storage: str | None) -> Data | Stack:
        match node:
            case syntax.String():
                return self._tensor(node.value, storage, node)
            case syntax.Group():
                return self._value(node.inner, storage)
            case syntax.Transpose():
                return self._transpose(self._value(node.operand, storage), node)
            case syntax.Index():
                return self._index(self._value(node.operand, storage), node)
            case syntax.Split():
                return self._split(self._value(node.operand, storage), node)
            case syntax.Call() if node.function.id == "concat":
                return self._concat(node, storage)
            case _:
                raise self._wrong("a `bind` takes tensors, slices, `.T`, `split` and `concat`", node)

    def _wrong(self, message: str, node: syntax.Node | None) -> CompileError:
        return fail("E0405", f"`{self.param}`: {message}", node.span if node else None)

    # tensors

    def _tensor(self, name: str, storage: str | None, node: syntax.Node | None) -> Data | Stack:
        if "{e}" not in name:
            return self._read(name, storage, node)
        count = 0
        while name.replace("{e}", str(count)) in self.tensors:
            count += 1
        first = self._read(name.replace("{e}", "0"), storage, node)

        def read(expert: int) -> Data:
            data = first if expert == 0 else self._read(name.replace("{e}", str(expert)), storage, node)
            if data.shape != first.shape:
                tensor = name.replace("{e}", str(expert))
                raise self._wrong(f"`{tensor}` is {list(data.shape)}, the first is {list(first.shape)}", node)
            return data

        return Stack((count, *first.shape), first.dtype, read)

    def _read(self, name: str, storage: str | None, node: syntax.Node | None) -> Data:
        if storage is not None:
            if storage not in self.formats:
                raise fail("E0901", f"`{self.param}`: the storage format `{storage}`", node.span if node else None)
            return np.asarray(self.formats[storage](self.tensors, name))
        if name not in self.tensors:
            help = nearest(name, list(self.tensors))
            message = f"`{self.param}` needs the tensor `{name}`, which the checkpoint lacks"
            raise fail("E0405", message, node.span if node else None, help=help)
        return as_numpy(self.tensors[name], name)

    # operations: on a stack they go to its arrays wherever the first axis is left alone

    def _transpose(self, value: Data | Stack, node: syntax.Transpose) -> Data | Stack:
        if len(value.shape) < 2:
            raise self._wrong(f"{list(value.shape)} has no two axes to exchange", node)
        if isinstance(value, Stack) and len(value.shape) > 2:
            return value.map(lambda data: data.swapaxes(-1, -2))
        return np.asarray(value).swapaxes(-1, -2)

    def _index(self, value: Data | Stack, node: syntax.Index) -> Data | Stack:
        if len(node.items) > len(value.shape):
            raise self._wrong(f"{len(node.items)} items for {list(value.shape)}", node)
        items = tuple(self._item(item, size) for item, size in zip(node.items, value.shape, strict=False))
        if isinstance(value, Stack) and isinstance(items[0], slice):
            experts, rest = range(len(value))[items[0]], items[1:]
            part = value.part(experts)
            return part.map(lambda data: data[rest]) if rest and len(experts) else part
        if isinstance(value, Stack):
            return np.asarray(value[items[0]][items[1:]])
        return np.asarray(value[items])

    def _item(self, item: syntax.Expr | syntax.Slice, size: int) -> Any:
        if not isinstance(item, syntax.Slice):
            index = whole(item, self.dims)
            if not -size <= index < size:
                raise self._wrong(f"index {index} lies outside an axis of length {size}", item)
            return index
        ends = [None if end is None else whole(end, self.dims) for end in (item.low, item.high)]
        start, stop = ((end + size if end is not None and end < 0 else end) for end in ends)
        start, stop = start or 0, size if stop is None else stop
        step = 1 if item.step is None else whole(item.step, self.dims)
        if not 0 <= start <= stop <= size or step < 1:
            raise self._wrong(f"`{item.span.text}` lies outside an axis of length {size}", item)
        return slice(start, stop, step)

    def _split(self, value: Data | Stack, node: syntax.Split) -> Data | Stack:
        shape = [-1 if _blank(length) else whole(length, self.dims) for length in node.shape]
        known, total = prod(length for length in shape if length != -1), prod(value.shape)
        if shape.count(-1) > 1 or not known or total % known or (-1 not in shape and known != total):
            raise self._wrong(f"{list(value.shape)} does not split as [{', '.join(map(str, shape))}]", node)
        if isinstance(value, Stack) and shape[0] == len(value):
            return value.map(lambda data: data.reshape(shape[1:]))
        return np.asarray(value).reshape(shape)

    def _concat(self, node: syntax.Call, storage: str | None) -> Data | Stack:
        axis, parts = 0, list[Data | Stack]()
        for argument in node.arguments:
            if argument.name == "axis":
                axis = whole(argument.value, self.dims)
            else:
                parts.append(self._value(argument.value, storage))
        shapes = [list(part.shape) for part in parts]
        ranks = {len(shape) for shape in shapes}
        if len(ranks) != 1 or not -min(ranks) <= axis < min(ranks):
            raise self._wrong(f"cannot join {', '.join(map(str, shapes))} along axis {axis}", node)
        axis %= min(ranks)
        if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
            raise self._wrong(f"shapes do not fit: {', '.join(map(str, shapes))}", node)
        if axis and all(isinstance(part, Stack) for part in parts):
            shape = tuple(sum(s[axis] for s in shapes) if a == axis else n for a, n in enumerate(shapes[0]))
            join: Callable[[int], Data] = lambda e: np.concatenate([part[e] for part in parts], axis - 1)  # noqa: E731
            return Stack(shape, np.result_type(*(part.dtype for part in parts)), join)
        return np.concatenate([np.asarray(part) for part in parts], axis)


def _blank(node: syntax.Expr) -> bool:
    return isinstance(node, syntax.Name) and node.id == "_"
