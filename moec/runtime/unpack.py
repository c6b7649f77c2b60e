"""Packed weights as parameters again: what a kernel reads, for those who check it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moec.arrays import NUMPY, Data
from moec.diagnostics import fail, quoted
from moec.formats import FORMATS
from moec.formats.panels import PanelLayout
from moec.runtime.interface import Interface, Packed
from moec.runtime.pack import all_bytes, panel_shape
from moec.runtime.weights import Weights, parts
from moec.shapes import PanelShape
from moec.steps import Arrangement, parse_view


def unpack(interface: Interface, weights: Weights) -> dict[str, Data]:
    """Every parameter that a program reads, in its own type, or in f32 where it is stored in a format; zeros where no
    panel has what the layer never reads. Raises `CompileError` (E0402) where the weights are packed for another one."""
    if lost := [packed for packed in interface.packed if packed not in weights.panels]:
        text = f"these weights were packed for another kernel: {quoted(lost[0].params)} differ"
        raise fail("E0402", text, help="`kernel.of(weights)` has the interface of what reads them")
    arrays = {name: weights.raw[name] for name in interface.raw}
    stored = interface.storage
    for param in interface.params:
        if param.name not in arrays:
            dtype = np.dtype(np.float32) if param.name in stored else NUMPY[param.dtype]
            arrays[param.name] = np.zeros(param.shape, dtype)
    for packed in interface.packed:
        data = weights.panels[packed]
        for place, (name, view) in enumerate(zip(packed.params, packed.views, strict=True)):
            if name not in interface.raw:
                _fill(arrays[name], view, packed, (each[place] for each in _matrices(packed, data)))
    return arrays


def _matrices(packed: Packed, data: Data) -> Iterator[list[Data]]:
    """The matrices of each key, [n, k], one for each parameter that shares the panels."""
    size = all_bytes(packed) // packed.keys
    for key in range(packed.keys):
        yield _taken_apart(packed, data[key * size : (key + 1) * size])


def _taken_apart(packed: Packed, data: Data) -> list[Data]:
    shape, count = PanelShape.parse(packed.panel), len(packed.params)
    if packed.storage:
        layout = PanelLayout(FORMATS[packed.storage].layout, shape.columns, packed.n, packed.k, count)
        return [coded.decode() for coded in layout.unpack(data)]
    panels = data.view(NUMPY[shape.dtype]).reshape(panel_shape(shape, packed.n, packed.k, count))
    columns = panels.transpose(0, 2, 4, 1, 3, 5).reshape(len(panels), count, shape.columns // count, -1)
    rows = columns.swapaxes(0, 1).reshape(count, -1, columns.shape[-1])
    return list(rows[:, : packed.n, : packed.k])


def _fill(array: Data, view: tuple[str, ...], packed: Packed, matrices: Iterator[Data]) -> None:
    """Writes matrices to where a view takes them from."""
    steps, _ = parse_view(view)
    try:
        laid = _laid(array, steps, False)
    except ValueError:  # a step has to copy: go by the places of the elements
        for part, matrix in zip(parts(_laid(_places(array), steps, None), packed.keys), matrices, strict=True):
            array.reshape(-1)[part] = matrix.reshape(part.shape)
        return
    for part, matrix in zip(parts(laid, packed.keys), matrices, strict=True):
        part[...] = matrix.reshape(part.shape)


def _laid(array: Data, steps: list[Arrangement], copy: bool | None) -> Data:
    for step in steps:
        array = step.apply(array, copy)
    return array


def _places(array: Data) -> Data:
    return np.arange(array.size).reshape(array.shape)
