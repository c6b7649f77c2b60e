"""Weights as a kernel reads them: some parameters as they are, some as panels, packed expert by expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from moec.diagnostics import CompileError, Diagnostic, nearest
from moec.runtime.arrays import NUMPY, Data, as_numpy, element
from moec.runtime.interface import Array, Interface, Packed
from moec.runtime.memory import aligned_empty
from moec.runtime.pack import pack_panels, panel_bytes
from moec.target import KernelShape


@dataclass(frozen=True, eq=False)
class Weights:
    """What `Kernel.pack` gives. `raw` has parameters by name, `panels` the packed ones by what they were packed for."""

    name: str
    raw: Mapping[str, Data]
    panels: Mapping[Packed, Data]

    @property
    def nbytes(self) -> int:
        """The bytes that the weights take."""
        return sum(data.nbytes for data in (*self.raw.values(), *self.panels.values()))


def pack(interface: Interface, arrays: Mapping[str, Any]) -> Weights:
    """Packs every parameter of a layer.

    `arrays` has for each parameter an array of its shape: NumPy, torch, DLPack, or a sequence of one array for each
    index of the first axis (`len`, `[i]`, `shape`, `dtype`), which is read one at a time. Floating types are converted,
    rounded to nearest even where the parameter's type is narrower. Besides the result no more than one expert is held.
    Raises `CompileError` (E0401 to E0404) with every mistake there is.
    """
    found = _check(interface, arrays)
    params = {param.name: param for param in interface.params}
    raw = {name: _converted(found[name], params[name]) for name in interface.raw}
    panels = {
        packed: _panels(packed, [(found[name], params[name]) for name in packed.params]) for packed in interface.packed
    }
    return Weights(interface.name, raw, panels)


def _check(interface: Interface, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by parameter, each something with `shape`, `dtype` and `[i]`."""
    names = [param.name for param in interface.params]
    mistakes = [
        Diagnostic("E0402", f"`{name}` is not a weight of `{interface.name}`", help=nearest(name, names))
        for name in arrays
        if name not in names
    ]
    found: dict[str, Any] = {}
    for param in interface.params:
        if param.name not in arrays:
            text = f"weight `{param.name}` of `{interface.name}` is missing: {param.dtype}{list(param.shape)}"
            mistakes.append(Diagnostic("E0401", text))
            continue
        try:
            found[param.name] = _readable(arrays[param.name], param.name)
            mistakes += _differences(found[param.name], param)
        except CompileError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise CompileError(*mistakes)
    return found


def _readable(value: Any, name: str) -> Any:
    lazy = all(hasattr(value, attribute) for attribute in ("shape", "dtype", "__getitem__", "__len__"))
    own = isinstance(value, np.ndarray) or hasattr(value, "__dlpack__") or not lazy
    return as_numpy(value, name) if own else value


def _differences(array: Any, param: Array) -> list[Diagnostic]:
    mistakes: list[Diagnostic] = []
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if shape != param.shape:
        text = f"weight `{param.name}` has the shape {list(shape)}, not {list(param.shape)}"
        if len(shape) == len(param.shape):
            axis = next(i for i, (a, b) in enumerate(zip(shape, param.shape, strict=True)) if a != b)
            text += f": axis {axis} is {shape[axis]}, not {param.shape[axis]}"
        mistakes.append(Diagnostic("E0403", text))
    wanted_float = param.dtype in ("f32", "bf16", "f16")
    is_float = dtype.kind == "f" or element(dtype) == "bf16"
    if wanted_float != is_float or (not wanted_float and dtype.kind not in "iu"):
        mistakes.append(Diagnostic("E0404", f"weight `{param.name}` holds {element(dtype)}, not {param.dtype}"))
    return mistakes


def _converted(array: Any, param: Array) -> Data:
    """A parameter as it is read raw: contiguous, aligned, of its own type."""
    dtype = NUMPY[param.dtype]
    if isinstance(array, np.ndarray):
        data: Data = array
        if data.dtype == dtype and data.flags.c_contiguous and data.ctypes.data % 64 == 0:
            return data
    out = aligned_empty(max(64, prod(param.shape) * dtype.itemsize))[: prod(param.shape) * dtype.itemsize]
    result = out.view(dtype).reshape(param.shape)
    if isinstance(array, np.ndarray) or not param.shape:
        result[...] = array
    else:
        for index in range(len(array)):
            result[index] = array[index]
    return result


def _panels(packed: Packed, sources: list[tuple[Any, Array]]) -> Data:
    """The panels of a stack of matrices, packed one matrix after the other."""
    shape = KernelShape.parse(packed.tile, packed.dtype)
    size = panel_bytes(shape, packed.n, packed.k, len(sources))
    buffer = aligned_empty(packed.keys * size)
    stacks = [_Stack(array, param, steps, packed) for (array, param), steps in zip(sources, packed.views, strict=True)]
    for key in range(packed.keys):
        matrices = [stack.matrix(key) for stack in stacks]
        pack_panels(matrices, shape, buffer[key * size : (key + 1) * size])
    return buffer


class _Stack:
    """The matrices that a view makes of a parameter, one at a time."""

    def __init__(self, array: Any, param: Array, steps: tuple[str, ...], packed: Packed) -> None:
        self._param = param
        self._packed = packed
        self._lazy = None if isinstance(array, np.ndarray) or steps or packed.keys != len(array) else array
        self._view: Any = None if self._lazy is not None else view(np.asarray(array), steps)

    def matrix(self, key: int) -> Data:
        """[n, k] of one key, rounded to the parameter's type if it has another."""
        part = self._lazy[key] if self._lazy is not None else self._view[self._index(key)]
        matrix = np.asarray(part).reshape(self._packed.n, self._packed.k)
        dtype = NUMPY[self._param.dtype]
        return matrix if matrix.dtype == dtype else matrix.astype(dtype)

    def _index(self, key: int) -> tuple[int, ...]:
        """The place of a key in the leading axes."""
        shape: tuple[int, ...] = self._view.shape
        lead = next(axis for axis in range(len(shape) + 1) if prod(shape[:axis]) == self._packed.keys)
        return tuple(int(i) for i in np.unravel_index(key, shape[:lead])) if lead else ()


def view(array: Data, steps: tuple[str, ...]) -> Data:
    """An array after the steps of a `Packed`. Casts are left to the packing, which rounds to the panels' type."""
    for step in steps:
        name, *numbers = step.split()
        match name:
            case "slice":
                axis, low, high, stride = map(int, numbers)
                array = array[(slice(None),) * axis + (slice(low, high, stride),)]
            case "reshape":
                array = array.reshape(tuple(map(int, numbers)))
            case "transpose":
                array = np.swapaxes(array, -1, -2)
            case _:
                assert name == "cast", step
    return array
