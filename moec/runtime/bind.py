"""The weights of a layer, taken from a checkpoint as a `bind` block says.

Nothing is copied that need not be: a tensor that is bound as it lies, sliced or transposed is a view, one tensor per
expert (`"experts.{e}.w1"`) becomes a `Stack`, which reads an expert when it is asked for it, and what is quantised
stays so (`Blocks`) in every view that keeps rows whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from moec.arrays import as_numpy, element, suits
from moec.checkpoint import Checkpoint
from moec.checkpoint.prefix import Below, elsewhere, nothing_below, where
from moec.diagnostics import CompileError, Diagnostic, fail, nearest, spoken
from moec.dims import Dim, Unbound, power
from moec.formats.blocks import Blocks, Source, dense, join_blocks
from moec.formats.origins import ORIGINS, Misfit, Origin
from moec.language import syntax
from moec.source import Span
from moec.stack import Data, Stack

Tensors = Mapping[str, Any]
Dims = Mapping[str, int]

#: Stands in a tensor's name for the number of an expert.
EXPERT = "{e}"
#: What it stands for; more digits than these number no expert.
_NUMBER: Final = re.compile("[0-9]{1,9}")


def bind_weights(file: syntax.File, name: str | None, tensors: Tensors, dims: Dims) -> dict[str, Source]:
    """Every parameter of the file's layer, from the tensors of a checkpoint. `name` is the `bind` block (None: every
    parameter is the tensor of its name), `dims` has the value of every dimension. Raises `CompileError` (E0405) where
    they do not fit, with every mistake there is."""
    params, entries = parameters(file), entries_of(file, name)
    if isinstance(tensors, Below) and not len(tensors):
        raise nothing_below("the checkpoint", tensors.prefix, tensors.whole, needed(file, name))
    found, mistakes = dict[str, Source](), list[Diagnostic]()
    for param, type in params.items():
        try:
            found[param] = Binding(param, tensors, dims).weight(type, entries.get(param))
        except CompileError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise CompileError(*dict.fromkeys(mistakes))
    return found


def parameters(file: syntax.File) -> dict[str, syntax.Type]:
    """The types of a layer's parameters."""
    nodes = [node for node in file.layers[0].body if isinstance(node, syntax.Param)]
    return {param.id: node.type for node in nodes for param in node.names}


def entries_of(file: syntax.File, name: str | None) -> dict[str, syntax.Entry]:
    """The entries of a `bind` block by parameter. Raises `CompileError` (E0405) where it does not fit the layer."""
    if name is None:
        return {}
    block = next((block for block in file.binds if block.name.id == name), None)
    if block is None:
        names = [block.name.id for block in file.binds]
        raise fail("E0405", f"there is no bind `{name}`", help=nearest(name, names))
    params = parameters(file)
    for entry in block.entries:
        if entry.param.id not in params:
            help = nearest(entry.param.id, list(params))
            layer = file.layers[0].name.id
            raise fail("E0405", f"`{entry.param.id}` is not a weight of `{layer}`", entry.param.span, help=help)
    return {entry.param.id: entry for entry in block.entries}


def choose_bind(file: syntax.File, tensors: Collection[str], kind: str) -> str | None:
    """The `bind` block for a checkpoint: of those whose tensors it has all, the only one, or the one that is called
    `kind`. None stands for the parameters' own names.

    Raises `CompileError` (E0405) where several would do, or none does.
    """
    names: list[str | None] = [block.name.id for block in file.binds] or [None]
    lacking = {name: [tensor for tensor in needed(file, name) if tensor not in tensors] for name in names}
    fitting = [name for name in names if not lacking[name]]
    if len(fitting) == 1 or (kind in fitting):
        return fitting[0] if len(fitting) == 1 else kind
    apart = elsewhere((missing[0] for missing in lacking.values() if missing), tensors)
    if len(names) == 1 and not (fitting or apart):
        return names[0]  # binding says all that is missing, and where it stands
    if fitting:
        listed = ", ".join(f"`{name}`" for name in fitting)
        raise fail("E0405", f"{where(tensors)} fits several binds: {listed}", help="name one (`bind=`, `--bind`)")
    lost = ", ".join(f"`{name}` needs `{missing[0]}`" for name, missing in lacking.items())
    raise fail("E0405", f"{where(tensors)} fits no bind: {lost}", help=apart)


def needed(file: syntax.File, name: str | None) -> Iterator[str]:
    """The tensors that a `bind` block cannot do without; of one per expert the first."""
    entries = entries_of(file, name)
    for param in parameters(file):
        entry = entries.get(param)
        origin = ORIGINS.get(entry.storage) if entry and entry.storage else None
        for tensor in strings(entry.value) if entry else [param]:
            first = tensor.replace(EXPERT, "0")
            if origin is None:
                yield first
            else:
                yield from (each for part, each in origin.names(first).items() if part not in origin.optional)


def asked_for(file: syntax.File, name: str | None) -> list[str]:
    """The tensors that a `bind` block cannot do without; those of all blocks where none is named."""
    names = [name] if name else [block.name.id for block in file.binds]
    return [tensor for block in names or [None] for tensor in needed(file, block)]


def called(file: syntax.File, name: str | None, tensors: Collection[str]) -> dict[str, str]:
    """What errors call the parameters that a `bind` block takes from a checkpoint: the tensors, and the file."""
    entries, home = entries_of(file, name), where(tensors)
    params = {param: strings(entries[param].value) if param in entries else [param] for param in parameters(file)}
    return {param: f"{', '.join(f'`{each}`' for each in names)} in {home}" for param, names in params.items()}


def strings(node: syntax.Expr) -> Iterator[str]:
    """The tensors that an expression names."""
    match node:
        case syntax.String():
            yield node.value
        case syntax.Group():
            yield from strings(node.inner)
        case syntax.Transpose() | syntax.Index() | syntax.Split():
            yield from strings(node.operand)
        case syntax.Call():
            for argument in node.arguments:
                yield from strings(argument.value)
        case _:
            pass


# ── what no checkpoint mends ──────────────────────────────────────────────────────────────────────────────────────────


def no_view(param: str, node: syntax.Expr) -> CompileError:
    """The error of an expression that is no view of tensors."""
    help = None
    if isinstance(node, syntax.Name):
        help = f'write `"{node.id}"`: a tensor\'s name stands in quotes'
    elif isinstance(node, syntax.Call) and node.function.id == "flatten":
        help = 'write `split "…" as [_]`'
    text = "a `bind` takes tensors, slices, `.T`, `split` and `concat`"
    return fail("E0405", f"`{param}`: {text}", node.span, help=help)


def no_origin(name: str, span: Span | None) -> CompileError:
    """The error of a word behind `as` that is none."""
    help = nearest(name, [*ORIGINS]) or f"there are {', '.join(ORIGINS)}"
    return fail("E0306", f"`{name}` is not a way to store tensors", span, help=help)


def no_step(param: str, node: syntax.Slice, step: int) -> CompileError:
    """The error of a slice that does not go on."""
    return fail("E0405", f"`{param}`: the step of `{node.span.text}` is {step}, not at least 1", node.span)


def no_formula(node: syntax.Expr) -> CompileError:
    """The error of a number that a `bind` cannot compute."""
    return fail("E0405", "a `bind` knows the dimensions and numbers only", node.span)


def no_dimension(name: syntax.Name, dimensions: Sequence[str]) -> CompileError:
    """The error of a name that is no dimension."""
    help = nearest(name.id, dimensions) or (f"the dimensions are {spoken(dimensions)}" if dimensions else None)
    return fail("E0405", f"`{name.id}` is not a dimension", name.span, help=help)


# ── dimensions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def whole(node: syntax.Expr, dims: Dims) -> int:
    """A formula over dimensions that is an integer."""
    try:
        value = formula(node, dims).evaluate({})
    except Unbound as error:
        unknown = next(name for name in names_in(node) if name.id == error.name)
        raise no_dimension(unknown, list(dims)) from None
    except OverflowError as error:
        raise fail("E0206", f"`{node.span.text}`: {error}", node.span) from None
    except (ValueError, ZeroDivisionError) as error:
        raise fail("E0202", f"`{node.span.text}`: {error or 'this divides by zero'}", node.span) from None
    if isinstance(value, float) or value.denominator != 1:
        raise fail("E0202", f"`{node.span.text}` is {value}, not an integer", node.span)
    return int(value)


def names_in(node: syntax.Expr) -> Iterator[syntax.Name]:
    """The names in a formula. Raises `CompileError` (E0405) where it is none."""
    match node:
        case syntax.Number():
            pass
        case syntax.Name():
            yield node
        case syntax.Group():
            yield from names_in(node.inner)
        case syntax.Unary(op="-" | "+"):
            yield from names_in(node.operand)
        case syntax.Binary() if node.op in OPERATORS:
            yield from names_in(node.left)
            yield from names_in(node.right)
        case _:
            raise no_formula(node)


def formula(node: syntax.Expr, dims: Dims) -> Dim:
    """A formula over dimensions, of which `dims` have values."""
    match node:
        case syntax.Number():
            return Dim.of(node.value)
        case syntax.Name():
            return Dim.of(dims[node.id]) if node.id in dims else Dim.symbol(node.id)
        case syntax.Group():
            return formula(node.inner, dims)
        case syntax.Unary(op="-" | "+"):
            value = formula(node.operand, dims)
            return -value if node.op == "-" else value
        case syntax.Binary() if node.op in OPERATORS:
            value = OPERATORS[node.op](formula(node.left, dims), formula(node.right, dims))
            if value is not None:
                return value
        case _:
            pass
    raise no_formula(node)


def _power(base: Dim, exponent: Dim) -> Dim | None:
    if exponent.constant is None:
        return None
    return power(base, exponent.constant, None if base.symbols else base.evaluate({}))


def _modulo(a: Dim, b: Dim) -> Dim | None:
    return None if a.constant is None or b.constant is None else Dim.of(a.constant % b.constant)


OPERATORS: Final[dict[str, Callable[[Dim, Dim], Dim | None]]] = {
    "+": Dim.__add__,
    "-": Dim.__sub__,
    "*": Dim.__mul__,
    "/": Dim.__truediv__,
    "%": _modulo,
    "**": _power,
}


# ── binding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Binding:
    """One parameter on its way out of the checkpoint."""

    param: str
    tensors: Tensors
    dims: Dims

    def weight(self, type: syntax.Type, entry: syntax.Entry | None) -> Source:
        shape = tuple(whole(length, self.dims) for length in type.shape or ())
        value = self._value(entry.value, entry.storage) if entry else self.tensor(self.param, None, None)
        source = f"`{entry.value.span.text}`" if entry else "the tensor of that name"
        source, span = f"{source} in {where(self.tensors)}", entry.value.span if entry else type.span
        if value.shape != shape:
            raise fail("E0405", f"`{self.param}` is {list(shape)}, but {source} is {list(value.shape)}", span)
        wanted = type.dtype or "real"
        if not isinstance(value, Blocks) and not suits(value.dtype, "f32" if wanted == "real" else wanted):
            raise fail("E0404", f"`{self.param}` is {wanted}, but {source} holds {element(value.dtype)}", span)
        return value

    def _value(self, node: syntax.Expr, storage: str | None) -> Source:
        match node:
            case syntax.String():
                return self.tensor(node.value, storage, node)
            case syntax.Group():
                return self._value(node.inner, storage)
            case syntax.Transpose():
                return self._transpose(self._plain(node.operand, storage), node)
            case syntax.Index():
                return self._index(self._value(node.operand, storage), node)
            case syntax.Split():
                return self._split(self._value(node.operand, storage), node)
            case syntax.Call() if node.function.id == "concat":
                return self._concat(node, storage)
            case _:
                raise no_view(self.param, node)

    def _plain(self, node: syntax.Expr, storage: str | None) -> Data | Stack:
        """A value whose rows a view takes apart, so it can only be dense."""
        return dense(self._value(node, storage), self.param)

    def _wrong(self, message: str, node: syntax.Node | None) -> CompileError:
        return fail("E0405", f"`{self.param}`: {message}", node.span if node else None)

    # tensors

    def tensor(self, name: str, storage: str | None, node: syntax.Node | None) -> Source:
        """A tensor, or one per expert stacked; `storage` is what stands behind `as`."""
        if EXPERT not in name:
            return self._read(name, storage, node)
        count = self._count(name, storage, node)
        first = self._read(name.replace(EXPERT, "0"), storage, node)

        def read(expert: int) -> Data | Blocks:
            tensor = name.replace(EXPERT, str(expert))
            return self._alike(first, self._read(tensor, storage, node), tensor, node)

        if isinstance(first, Blocks):
            return Blocks.stack([part for part in map(read, range(count)) if isinstance(part, Blocks)])  # all are
        if isinstance(self.tensors, Checkpoint):  # whose views are there without reading
            for expert in range(count):
                read(expert)
        return Stack((count, *first.shape), first.dtype, lambda expert: self._dense(read(expert)))

    def _alike(self, first: Data | Blocks, data: Data | Blocks, name: str, node: syntax.Node | None) -> Data | Blocks:
        """An expert's tensor. Raises `CompileError` (E0405) unless it is of the first one's shape, and stored alike."""
        found = f"`{name}` in {where(self.tensors)}"
        if data.shape != first.shape:
            raise self._wrong(f"{found} is {list(data.shape)}, the first is {list(first.shape)}", node)
        if isinstance(first, Blocks):
            if not isinstance(data, Blocks) or data.format != first.format:
                raise self._wrong(f"{found} is not stored as {first.format}, as the first is", node)
        elif not isinstance(data, Blocks) and data.dtype != first.dtype:
            raise self._wrong(f"{found} holds {element(data.dtype)}, the first {element(first.dtype)}", node)
        return data

    def _count(self, name: str, storage: str | None, node: syntax.Node | None) -> int:
        """How many experts have a tensor. Raises `CompileError` (E0405) where one lacks it that others follow."""
        origin = ORIGINS.get(storage) if storage else None
        pattern = origin.names(name)["codes"] if origin else name
        head, count = pattern.partition(EXPERT)[0], 0
        while pattern.replace(EXPERT, str(count)) in self.tensors:
            count += 1
        ends = (_NUMBER.match(tensor, len(head)) for tensor in self.tensors if tensor.startswith(head))
        for end in filter(None, ends):
            later = pattern.replace(EXPERT, end[0])
            if int(end[0]) > count and later in self.tensors:
                lost = f"`{pattern.replace(EXPERT, str(count))}` is missing from {where(self.tensors)}"
                raise self._wrong(f"{lost}, which has `{later}`", node)
        return count

    def _dense(self, value: Source) -> Data:
        return np.asarray(dense(value, self.param))

    def _read(self, name: str, storage: str | None, node: syntax.Node | None) -> Data | Blocks:
        if storage is None:
            value = self._find(name, node)
            return value if isinstance(value, Blocks) else as_numpy(value, name)
        if storage not in ORIGINS:
            raise no_origin(storage, node.span if node else None)
        return self._open(ORIGINS[storage], name, node)

    def _find(self, name: str, node: syntax.Node | None) -> Any:
        if name not in self.tensors:
            message = f"`{self.param}` needs the tensor `{name}`, which {where(self.tensors)} lacks"
            help = (node and elsewhere([name], self.tensors)) or nearest(name, list(self.tensors))
            help = help or (None if node else "a `bind` says which tensor a weight is")
            raise fail("E0405", message, node.span if node else None, help=help)
        return self.tensors[name]

    def _open(self, origin: Origin, name: str, node: syntax.Node | None) -> Blocks:
        """The parts of a quantised tensor together."""
        names = origin.names(name)
        parts = {
            part: as_numpy(self._find(tensor, node), tensor)
            for part, tensor in names.items()
            if part not in origin.optional or tensor in self.tensors
        }
        try:
            return origin.open(parts).checked(f"`{names['codes']}` in {where(self.tensors)}")
        except Misfit as error:
            stored = f"`{names['codes']}` in {where(self.tensors)}"
            raise self._wrong(f"{stored} is not stored `as {origin.name}`: {error}", node) from None

    # operations: on a stack they go to its arrays wherever the first axis is left alone

    def _transpose(self, value: Data | Stack, node: syntax.Transpose) -> Data | Stack:
        if len(value.shape) < 2:
            raise self._wrong(f"{list(value.shape)} has no two axes to exchange", node)
        if isinstance(value, Stack) and len(value.shape) > 2:
            return value.map(lambda data: data.swapaxes(-1, -2))
        return np.asarray(value).swapaxes(-1, -2)

    def _index(self, value: Source, node: syntax.Index) -> Source:
        if len(node.items) > len(value.shape):
            raise self._wrong(f"{len(node.items)} items for {list(value.shape)}", node)
        items = tuple(self._item(item, size) for item, size in zip(node.items, value.shape, strict=False))
        if isinstance(value, Blocks):
            lead, last = items[: len(value.shape) - 1], items[len(value.shape) - 1 :]
            rows = value.rows[lead]
            if last in ((), (slice(0, value.shape[-1], 1),)) and rows.ndim:
                return value.pick(rows)
            value = dense(value, self.param)
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
        if step < 1:
            raise no_step(self.param, item, step)
        if not 0 <= start <= stop <= size:
            raise self._wrong(f"`{item.span.text}` lies outside an axis of length {size}", item)
        return slice(start, stop, step)

    def _split(self, value: Source, node: syntax.Split) -> Source:
        lengths = [None if blank(length) else whole(length, self.dims) for length in node.shape]
        told, total = [length for length in lengths if length is not None], prod(value.shape)
        known, blanks = prod(told), len(lengths) - len(told)
        if min(told, default=1) < 1 or blanks > 1 or total % known or (not blanks and known != total):
            shown = ", ".join("_" if length is None else str(length) for length in lengths)
            raise self._wrong(f"{list(value.shape)} does not split as [{shown}]", node)
        shape = [total // known if length is None else length for length in lengths]
        if isinstance(value, Blocks):
            if shape[-1] == value.shape[-1] and len(shape) > 1:
                return value.pick(value.rows.reshape(shape[:-1]))
            value = dense(value, self.param)
        if isinstance(value, Stack) and shape[0] == len(value):
            return value.map(lambda data: data.reshape(shape[1:]))
        return np.asarray(value).reshape(shape)

    def _concat(self, node: syntax.Call, storage: str | None) -> Source:
        axis, parts = 0, list[Source]()
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
        blocks = [part for part in parts if isinstance(part, Blocks)]
        if len(blocks) == len(parts) and len({part.format for part in blocks}) == 1 and axis < min(ranks) - 1:
            return join_blocks(blocks, axis)
        plain = [dense(part, self.param) for part in parts]
        if axis and all(isinstance(part, Stack) for part in plain):
            shape = tuple(sum(s[axis] for s in shapes) if a == axis else n for a, n in enumerate(shapes[0]))
            join: Callable[[int], Data] = lambda e: np.concatenate([part[e] for part in plain], axis - 1)  # noqa: E731
            return Stack(shape, np.result_type(*(part.dtype for part in plain)), join)
        return np.concatenate([np.asarray(part) for part in plain], axis)


def blank(node: syntax.Expr) -> bool:
    """Whether an axis of a `split` is the one that is computed."""
    return isinstance(node, syntax.Name) and node.id == "_"
