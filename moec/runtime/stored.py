"""Weights in a storage format on their way into panels: encoded here if they are dense, else just laid out anew.

What is encoded at once is a matrix of a parameter's last two axes, so what its weights mean depends neither on the
views that a layer takes of it nor on the panels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moec.diagnostics import fail
from moec.formats import FORMATS, Coded, encode
from moec.formats.panels import PanelLayout
from moec.runtime.interface import Array, Interface, Packed
from moec.runtime.memory import aligned_empty
from moec.runtime.stack import Data, Stack, apply_step
from moec.target import KernelShape


@dataclass(frozen=True, eq=False)
class Blocks:
    """A parameter of `shape` that comes in a storage format; `read(i)` gives the matrix [n, k] at place i of the
    leading axes, counted together."""

    shape: tuple[int, ...]
    format: str
    read: Callable[[int], Coded]

    def decode(self) -> NDArray[np.float32]:
        """All of it, dense."""
        parts = [self.read(index).decode() for index in range(prod(self.shape[:-2]))]
        return np.stack(parts).reshape(self.shape)


#: Where a parameter comes from.
Source: TypeAlias = Data | Stack | Blocks


def stored_panels(packed: Packed, sources: list[tuple[Source, Array]]) -> Data:
    """The panels of a stack of matrices in a storage format, one matrix after the other.

    Raises `CompileError`: E0306, E0407 where weights cannot be stored so, E0404 where they come in another format.
    """
    shape, format = KernelShape.parse(packed.tile, packed.dtype), FORMATS[packed.storage]
    place = PanelLayout(format.layout, shape.columns, packed.n, packed.k, len(sources))
    buffer = aligned_empty(packed.keys * place.nbytes)
    rows = [
        _Rows(source, param, packed.storage, steps)
        for (source, param), steps in zip(sources, packed.views, strict=True)
    ]
    for key in range(packed.keys):
        part = buffer[key * place.nbytes : (key + 1) * place.nbytes]
        place.pack([each.matrix(key, packed.n) for each in rows], part)
    return buffer


class _Rows:
    """The rows of a parameter in the order of a view: which of its matrices, and which row of that."""

    def __init__(self, source: Source, param: Array, storage: str, steps: tuple[str, ...]) -> None:
        self.read, self.shape = reader(source, param, storage), param.shape
        # A view never touches the last axis, so one number stands for each row.
        index = np.arange(prod(param.shape[:-1])).reshape(*param.shape[:-1], 1)
        for step in steps:
            name, *words = step.split()
            index = apply_step(index, " ".join([name, *words[:-1], "1"]) if name == "reshape" else step, None)
        self.index = index.reshape(-1)
        self.last: tuple[int, Coded] | None = None

    def matrix(self, key: int, n: int) -> Coded:
        wanted = self.index[key * n : (key + 1) * n]
        homes = wanted // self.shape[-2]
        cuts = [0, *(np.nonzero(np.diff(homes))[0] + 1).tolist(), n]
        parts = [self._part(int(homes[a]), wanted[a:b] % self.shape[-2]) for a, b in pairwise(cuts)]
        first = parts[0]
        if len(parts) == 1:
            return first
        fields = {name: np.concatenate([part.fields[name] for part in parts]) for name in first.fields}
        return Coded(first.layout, np.concatenate([part.codes for part in parts]), fields)

    def _part(self, home: int, rows: Any) -> Coded:
        if self.last is None or self.last[0] != home:
            self.last = home, self.read(home)
        coded = self.last[1]
        return coded if len(rows) == len(coded.codes) and bool((np.diff(rows) == 1).all()) else coded.take(rows)


def reader(source: Source, param: Array, storage: str) -> Callable[[int], Coded]:
    """How to get each matrix of a parameter in a storage format."""
    format, lead = FORMATS[storage], param.shape[:-2]
    if isinstance(source, Blocks):
        if source.format != storage:
            raise fail("E0404", f"`{param.name}` comes as {source.format}, not as {storage}")

        def checked(index: int) -> Coded:
            coded = source.read(index)
            if wrong := coded.wrong():
                raise fail("E0407", f"`{param.name}`, matrix {index}: {wrong}")
            return coded

        return checked

    def read(index: int) -> Coded:
        matrix: Any = source
        for at in np.unravel_index(index, lead) if lead else ():
            matrix = matrix[int(at)]
        return encode(format, np.asarray(matrix), param.name)

    return read


def decoded(interface: Interface, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with those that a kernel stores as it reads them: encoded, then decoded, in f32."""
    result = dict(arrays)
    for param in interface.params:
        storage = interface.storage.get(param.name)
        if storage is not None:
            blocks = Blocks(param.shape, storage, reader(arrays[param.name], param, storage))
            result[param.name] = blocks.decode()
    return result
