"""Weights as a kernel reads them: some parameters as they are, some as panels, packed expert by expert."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np

from moec.arrays import NUMPY, Data, address, as_numpy, element, is_torch, suits
from moec.diagnostics import CompileError, Diagnostic, fail, nearest, quoted
from moec.dtypes import Storage
from moec.formats.blocks import Blocks, Source, dense
from moec.runtime.interface import Array, Interface, Packed
from moec.runtime.memory import aligned_empty
from moec.runtime.pack import all_bytes, pack_panels, panel_bytes
from moec.runtime.stored import scan, stored_panels
from moec.shapes import PanelShape
from moec.stack import Stack
from moec.steps import Arrangement, Slice, parse_view

#: Is told how many bytes more have been packed.
Progress: TypeAlias = Callable[[int], object]


def ignore(nbytes: int) -> None:
    """For those who do not want to know."""


class Tally:
    """Adds up what has been packed, and tells it with what there is to pack."""

    def __init__(self, tell: Callable[[int, int], object], total: int) -> None:
        self._tell, self._total, self._done = tell, total, 0

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        self._tell(self._done, self._total)


@dataclass(frozen=True, eq=False)
class Weights:
    """What `Kernel.pack` gives: `raw` has parameters as they are read whole, `panels` the packed ones.

    `rest` has the parameters that only an auxiliary output reads, as they were given; a call that asks for one has them
    packed then. `storage` is what `Kernel.pack` was asked for. What is packed is a copy, or mapped from a file: nothing
    that the caller writes into its own arrays afterwards is seen.
    """

    name: str
    raw: dict[str, Data]
    panels: dict[Packed, Data]
    rest: Mapping[str, Source]
    storage: Storage = ()
    #: What the weights were packed from, where that is a file: plain data.
    source: dict[str, Any] = field(default_factory=dict[str, Any])
    #: By what a program reads (`Interface.reads`): where all of it lies. No program is kept for it.
    addresses: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    #: By process: one that is forked while a thread packs would wait for that thread, which it does not have.
    _locks: dict[int, threading.Lock] = field(default_factory=dict[int, threading.Lock])

    @property
    def nbytes(self) -> int:
        """The bytes that the weights take."""
        return sum(data.nbytes for data in (*self.raw.values(), *self.panels.values()))

    @property
    def formats(self) -> dict[str, str]:
        """The storage format of every parameter that is kept in one."""
        return {name: packed.storage for packed in self.panels if packed.storage for name in packed.params}

    def complete(self, interface: Interface) -> tuple[int, ...]:
        """Where everything lies that a program reads, in the order of its arguments; packs what only it reads.

        Raises `CompileError` (E0402) where the weights were packed for a program that reads them otherwise.
        """
        if self.name != interface.name:
            raise fail("E0402", f"these are weights of `{self.name}`, not of `{interface.name}`")
        missing = [name for name in interface.raw if name not in self.raw]
        missing += [name for packed in interface.packed if packed not in self.panels for name in packed.params]
        known = {**self.raw, **self.rest}
        params = {param.name: param for param in interface.params}
        lost = [name for name in missing if name not in known or _differences(known[name], params[name])]
        lost += [name for name in interface.raw if name in self.raw and not _is_raw(self.raw[name], params[name])]
        if lost:
            names = quoted(dict.fromkeys(lost))
            hint = "pack them with this kernel; name the `aux` when compiling if only it reads them so"
            raise fail("E0402", f"these weights were packed for another kernel: {names} differ", help=hint)
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            self.add(interface, known)
            data = [*(self.raw[name] for name in interface.raw), *(self.panels[packed] for packed in interface.packed)]
            return self.addresses.setdefault(interface.reads, tuple(map(address, data)))

    def add(self, interface: Interface, known: Mapping[str, Source], progress: Progress = ignore) -> None:
        """Packs what a program reads and is not there yet, of the parameters `known`."""
        params = {param.name: param for param in interface.params}
        for name in interface.raw:
            if name not in self.raw:
                self.raw[name] = converted(known[name], params[name])
                progress(self.raw[name].nbytes)
        for packed in interface.packed:
            if packed not in self.panels:
                sources = [(known[name], params[name]) for name in packed.params]
                self.panels[packed] = _panels(packed, sources, progress)


def packed_size(interface: Interface) -> int:
    """The bytes of all weights that a program reads."""
    raw = [prod(p.shape) * NUMPY[p.dtype].itemsize for p in interface.params if p.name in interface.raw]
    return sum(raw) + sum(map(all_bytes, interface.packed))


def pack(
    interface: Interface, arrays: Mapping[str, Any], storage: Storage = (), progress: Progress = ignore
) -> Weights:
    """Packs every parameter of a layer; `progress` is told how many bytes more of `packed_size` there are.

    `arrays` has for each parameter an array of its shape: NumPy, torch, DLPack, or a sequence of one array for each
    index of the first axis (`len`, `[i]`, `shape`, `dtype`), which is read one at a time. Floating types are converted,
    rounded to nearest even where the parameter's type is narrower; integers have to fit. Besides the result no more
    than one expert is held, and before memory is taken for that, all scales have been looked at. Raises `CompileError`:
    E0401 to E0404 with every mistake there is, E0407 where a number is none, E0306.
    """
    found = _check(interface, arrays)
    _scan(interface, found)
    read = {*interface.raw, *(name for packed in interface.packed for name in packed.params)}
    rest = {name: array for name, array in found.items() if name not in read}
    weights = Weights(interface.name, {}, {}, rest, storage)
    weights.add(interface, found, progress)
    return weights


def require_names(interface: Interface, arrays: object) -> None:
    """Raises `CompileError` (E0401) where weights are not arrays by name."""
    if hasattr(arrays, "keys"):
        return
    names = ", ".join(f'"{param.name}": …' for param in interface.params)
    what = f"the weights of `{interface.name}` are `{type(arrays).__name__}`, not arrays by name"
    raise fail("E0401", what, help=f"`kernel.pack({{{names}}})`")


def require_packed(name: str, weights: object) -> None:
    """Raises `CompileError` (E0401) where weights of a kernel are not packed."""
    if not isinstance(weights, Weights):
        what = f"the weights of `{name}` are `{type(weights).__name__}`, not packed"
        raise fail("E0401", what, help="`kernel.pack(arrays)` packs them")


def _check(interface: Interface, arrays: Mapping[str, Any]) -> dict[str, Source]:
    """The arrays by parameter."""
    names = [param.name for param in interface.params]
    mistakes = [
        Diagnostic("E0402", f"`{name}` is not a weight of `{interface.name}`", help=nearest(name, names))
        for name in arrays
        if name not in names
    ]
    found: dict[str, Source] = {}
    for param in interface.params:
        if param.name not in arrays:
            text = f"weight `{param.name}` of `{interface.name}` is missing: {param.dtype}{list(param.shape)}"
            mistakes.append(Diagnostic("E0401", text))
            continue
        try:
            found[param.name] = _readable(arrays[param.name], param)
            mistakes += _differences(found[param.name], param)
        except CompileError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise CompileError(*mistakes)
    return found


def _scan(interface: Interface, found: Mapping[str, Source]) -> None:
    """Raises `CompileError` (E0407) where what will be packed holds a scale that is no number, or a weight that cannot
    be quantised."""
    params = {param.name: param for param in interface.params}
    stored = interface.storage
    for name, source in found.items():
        for _ in scan(source, params[name], stored.get(name, "")):
            pass


def _readable(value: Any, param: Array) -> Source:
    if isinstance(value, Blocks | Stack):
        return value
    lazy = all(hasattr(value, attribute) for attribute in ("shape", "dtype", "__getitem__", "__len__"))
    own = isinstance(value, np.ndarray) or is_torch(value) or hasattr(value, "__dlpack__") or not lazy
    return as_numpy(value, param.name, param.dtype) if own else Stack.of(value)


def _differences(array: Source, param: Array) -> list[Diagnostic]:
    mistakes: list[Diagnostic] = []
    shape, dtype = tuple(array.shape), NUMPY["f32"] if isinstance(array, Blocks) else np.dtype(array.dtype)
    if shape != param.shape:
        text = f"weight `{param.name}` has the shape {list(shape)}, not {list(param.shape)}"
        if len(shape) == len(param.shape):
            axis = next(i for i, (a, b) in enumerate(zip(shape, param.shape, strict=True)) if a != b)
            text += f": axis {axis} is {shape[axis]}, not {param.shape[axis]}"
        mistakes.append(Diagnostic("E0403", text))
    if not suits(dtype, param.dtype):
        mistakes.append(Diagnostic("E0404", f"weight `{param.name}` holds {element(dtype)}, not {param.dtype}"))
    return mistakes


def _is_raw(data: Data, param: Array) -> bool:
    """Whether an array is what a program reads of a parameter: it reads no shape and no type."""
    return data.shape == param.shape and data.dtype == NUMPY[param.dtype]


def converted(array: Source, param: Array) -> Data:
    """A copy of a parameter as it is read raw: contiguous, aligned, of its own type."""
    dtype = NUMPY[param.dtype]
    array = dense(array, param.name)
    out = aligned_empty(max(64, prod(param.shape) * dtype.itemsize))[: prod(param.shape) * dtype.itemsize]
    result = out.view(dtype).reshape(param.shape)
    if isinstance(array, np.ndarray) or not param.shape:
        result[...] = array
    else:
        for index in range(len(array)):
            result[index] = array[index]
    return result


def _panels(packed: Packed, sources: list[tuple[Source, Array]], progress: Progress) -> Data:
    """The panels of a stack of matrices, packed one matrix after the other."""
    if packed.storage:
        return stored_panels(packed, sources, progress)
    shape = PanelShape.parse(packed.panel)
    size = panel_bytes(shape, packed.n, packed.k, len(sources))
    buffer = aligned_empty(packed.keys * size)
    stacks = [
        matrices(dense(array, param.name), param.dtype, view, packed)
        for (array, param), view in zip(sources, packed.views, strict=True)
    ]
    for key, group in enumerate(zip(*stacks, strict=True)):
        pack_panels(list(group), shape, buffer[key * size : (key + 1) * size])
        progress(size)
    return buffer


# ── views of parameters ───────────────────────────────────────────────────────────────────────────────────────────────


def matrices(array: Data | Stack, dtype: str, view: tuple[str, ...], packed: Packed) -> Iterator[Data]:
    """The matrices [n, k] that a view of a `Packed` makes of a parameter of the type `dtype`, one key after another.

    Each is rounded as the view says, but for the last rounding, to the panels' type, which packing does on its way. No
    more than one is held, unless a step mixes the first axis of an array that is not in memory with others.
    """
    (steps, casts), laid = parse_view(view), array
    for step in steps:
        laid = _lay_out(laid, step)
    for part in parts(laid, packed.keys):
        matrix = np.asarray(part).reshape(packed.n, packed.k)
        for cast in [dtype, *casts][:-1]:
            matrix = matrix.astype(NUMPY[cast], copy=False)
        yield matrix


def parts(array: Any, keys: int) -> Iterator[Any]:
    """The arrays at the first `keys` places of the leading axes."""
    if keys == 1:
        yield array
        return
    for part in map(array.__getitem__, range(len(array))):
        yield from parts(part, keys // len(array))


def _lay_out(array: Data | Stack, step: Arrangement) -> Data | Stack:
    """One step without a copy; of a stack, or where NumPy would have to copy, later and one array at a time."""
    if isinstance(array, np.ndarray):
        try:
            return step.apply(array, copy=False)
        except ValueError:
            array = Stack.of(array)
    if isinstance(step, Slice) and step.axis == 0:
        return array.part(step.places)
    inside = step.inside(array.shape)
    if inside is None:
        return step.apply(np.asarray(array), copy=None)
    return array.map(lambda part: inside.apply(part, copy=None))
