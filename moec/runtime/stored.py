"""Weights in a storage format on their way into panels: encoded here if they are dense, else just laid out anew.

What is encoded at once is a matrix of a parameter's last two axes, so what its weights mean depends neither on the
views that a layer takes of it nor on the panels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeAlias

import numpy as np

from moec.diagnostics import fail
from moec.formats import FORMATS, Coded, encode
from moec.formats.blocks import Blocks
from moec.formats.panels import PanelLayout
from moec.runtime.interface import Array, Interface, Packed
from moec.runtime.memory import aligned_empty
from moec.runtime.stack import Data, Stack, apply_step
from moec.target import KernelShape

#: Where a parameter comes from.
Source: TypeAlias = Data | Stack | Blocks


def stored_panels(packed: Packed, sources: list[tuple[Source, Array]], progress: Callable[[int], object]) -> Data:
    """The panels of a stack of matrices in a storage format, one matrix after the other.

    Raises `CompileError`: E0306, E0407 where weights cannot be stored so, E0404 where they come in another format.
    """
    shape, format = KernelShape.parse(packed.tile, packed.dtype), FORMATS[packed.storage]
    place = PanelLayout(format.layout, shape.columns, packed.n, packed.k, len(sources))
    buffer = aligned_empty(packed.keys * place.nbytes)
    stacks = [
        _viewed(in_format(source, param, packed.storage), steps, packed.keys, packed.n)
        for (source, param), steps in zip(sources, packed.views, strict=True)
    ]
    for key in range(packed.keys):
        part = buffer[key * place.nbytes : (key + 1) * place.nbytes]
        place.pack([stack.read(key) for stack in stacks], part)
        progress(part.nbytes)
    return buffer


def _viewed(source: Blocks, steps: tuple[str, ...], keys: int, n: int) -> Blocks:
    """What the steps of a `Packed` make of a parameter: `keys` matrices of `n` rows each."""
    rows = source.rows[..., None]  # a view never touches the last axis, so one number stands for each row
    for step in steps:
        name, *words = step.split()
        rows = apply_step(rows, " ".join([name, *words[:-1], "1"]) if name == "reshape" else step, None)
    return source.pick(rows.reshape(keys, n))


def in_format(source: Source, param: Array, storage: str) -> Blocks:
    """A parameter in a storage format: as it comes, or dense weights encoded matrix by matrix."""
    format, lead = FORMATS[storage], param.shape[:-2]
    if isinstance(source, Blocks):
        if source.format != storage:
            raise fail("E0404", f"`{param.name}` comes as {source.format}, not as {storage}")
        return checked(source, f"`{param.name}`")

    def read(index: int) -> Coded:
        matrix: Any = source
        for at in np.unravel_index(index, lead) if lead else ():
            matrix = matrix[int(at)]
        return encode(format, np.asarray(matrix), param.name)

    return Blocks(param.shape, storage, read)


def checked(source: Blocks, name: str) -> Blocks:
    """Blocks whose scales are looked at when they are read: E0407 where one is no number."""

    def read(index: int) -> Coded:
        coded = source.read(index)
        if wrong := coded.wrong():
            raise fail("E0407", f"{name}, matrix {index}: {wrong}")
        return coded

    return Blocks(source.shape, source.format, read)


def dense(source: Blocks, name: str) -> Data | Stack:
    """Blocks as f32, decoded when they are read, along the first axis."""
    blocks, each = checked(source, f"`{name}`"), prod(source.shape[1:-2])
    if len(source.shape) == 2:
        return blocks.read(0).decode()

    def read(index: int) -> Data:
        parts = [blocks.read(index * each + i).decode() for i in range(each)]
        return np.stack(parts).reshape(source.shape[1:])

    return Stack(source.shape, np.dtype(np.float32), read)


def decoded(interface: Interface, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with those that a kernel stores as it reads them: encoded, then decoded, in f32."""
    result = dict(arrays)
    for param in interface.params:
        storage = interface.storage.get(param.name)
        if storage is not None:
            result[param.name] = in_format(arrays[param.name], param, storage).decode()
    return result
