"""Weights in a storage format on their way into panels: encoded here if they are dense, else just laid out anew.

What is encoded at once is a matrix of a parameter's last two axes, so what its weights mean depends neither on the
views that a layer takes of it nor on the panels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from moec.diagnostics import fail
from moec.formats import FORMATS, Coded, encode, finite
from moec.formats.blocks import Blocks, Source
from moec.formats.panels import PanelLayout
from moec.runtime.interface import Array, Interface, Packed
from moec.runtime.memory import aligned_empty
from moec.shapes import PanelShape
from moec.stack import Data, Stack
from moec.steps import Reshape, parse_view


def stored_panels(packed: Packed, sources: list[tuple[Source, Array]], progress: Callable[[int], object]) -> Data:
    """The panels of a stack of matrices in a storage format, one matrix after the other.

    Raises `CompileError`: E0306, E0407 where weights cannot be stored so, E0404 where they come in another format.
    """
    shape, format = PanelShape.parse(packed.panel), FORMATS[packed.storage]
    place = PanelLayout(format.layout, shape.columns, packed.n, packed.k, len(sources))
    buffer = aligned_empty(packed.keys * place.nbytes)
    stacks = [
        _viewed(in_format(source, param, packed.storage), view, packed.keys, packed.n)
        for (source, param), view in zip(sources, packed.views, strict=True)
    ]
    for key in range(packed.keys):
        part = buffer[key * place.nbytes : (key + 1) * place.nbytes]
        place.pack([stack.read(key) for stack in stacks], part)
        progress(part.nbytes)
    return buffer


def _viewed(source: Blocks, view: tuple[str, ...], keys: int, n: int) -> Blocks:
    """What a view of a `Packed` makes of a parameter: `keys` matrices of `n` rows each."""
    (steps, casts), rows = parse_view(view), source.rows[..., None]
    assert not casts, view
    for step in steps:  # none touches the last axis, so one number stands for each row
        of_rows = Reshape((*step.sizes[:-1], 1)) if isinstance(step, Reshape) else step
        rows = of_rows.apply(rows, copy=None)
    return source.pick(rows.reshape(keys, n))


def in_format(source: Source, param: Array, storage: str) -> Blocks:
    """A parameter in a storage format: as it comes, or dense weights encoded matrix by matrix."""
    format, lead = FORMATS[storage], param.shape[:-2]
    if isinstance(source, Blocks):
        if source.format != storage:
            raise fail("E0404", f"`{param.name}` comes as {source.format}, not as {storage}")
        return source.checked(f"`{param.name}`")

    def read(index: int) -> Coded:
        matrix, at = _matrix(source, index, lead)
        return encode(format, matrix, _called(source, param, at))

    return Blocks(param.shape, storage, read)


def _matrix(source: Data | Stack, index: int, lead: tuple[int, ...]) -> tuple[Data, int]:
    """The matrix at a place of the leading axes, counted together, and its place along the first."""
    matrix: Any = source
    places = [int(at) for at in np.unravel_index(index, lead)] if lead else [0]
    for at in places if lead else ():
        matrix = matrix[at]
    return np.asarray(matrix), places[0]


def _called(source: Data | Stack, param: Array, at: int) -> str:
    """What an error calls a part of a parameter."""
    return source.called.replace("{e}", str(at)) if isinstance(source, Stack) and source.called else f"`{param.name}`"


def scan(source: Source, param: Array, storage: str) -> Iterator[int]:
    """Looks for what cannot be packed before memory is taken for it: scales that are no numbers, and weights, where
    they are quantised here. Tells how many bytes it has passed, matrix after matrix. What can be read only once is
    looked at when it is read.

    Raises `CompileError` (E0407).
    """
    if not isinstance(source, np.ndarray) and source.scan is not None:
        yield from source.scan()
    elif storage and not isinstance(source, Blocks) and (not isinstance(source, Stack) or source.called):
        lead = param.shape[:-2]
        for index in range(prod(lead)):
            matrix, at = _matrix(source, index, lead)
            finite(FORMATS[storage], matrix, _called(source, param, at))
            yield matrix.nbytes


def decoded(interface: Interface, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with those that a kernel stores as it reads them: encoded, then decoded, in f32."""
    result = dict(arrays)
    for param in interface.params:
        storage = interface.storage.get(param.name)
        if storage is not None:
            result[param.name] = in_format(arrays[param.name], param, storage).decode()
    return result
