"""Packing: matrices [..., N, K] as the panels that a microkernel streams through.

A matrix becomes [ceil(N / NR)][ceil(K / kstep)][NR][kstep] in the kernel's dtype, zeros where N or K has run out. Where
a kernel multiplies tiles of several steps and fewer columns, a panel is those tiles, each in one piece; where it reads
streams of fewer columns, those, one behind the other.
Matrices packed together share every panel: NR / 2 rows of the gate, then the same NR / 2 rows of the up projection,
so that one tile of C holds what their activation needs. Imports nothing of the compiler but the noun `PanelShape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moec.arrays import NUMPY
from moec.formats import FORMATS
from moec.formats.panels import PanelLayout
from moec.runtime.interface import Packed
from moec.runtime.memory import aligned_empty
from moec.shapes import PanelShape

Array: TypeAlias = NDArray[Any]

#: k in one blocked copy: with NR rows of it, source and destination stay in L1.
_BLOCK: Final = 128


def panel_shape(shape: PanelShape, n: int, k: int, matrices: int = 1) -> tuple[int, int, int, int, int, int]:
    """The dimensions [panels, k / depth, columns / width, depth / kstep, width, kstep] of `matrices` interleaved
    matrices of [n, k] each.

    Raises `ValueError` when a panel does not divide into `matrices` equal parts.
    """
    if shape.columns % matrices:
        raise ValueError(f"panels of {shape.columns} columns do not divide among {matrices} matrices")
    steps, width = shape.depth // shape.kstep or shape.steps(k), shape.width or shape.columns
    panels = -(-n // (shape.columns // matrices))
    return panels, shape.steps(k) // steps, shape.columns // width, steps, width, shape.kstep


def panel_bytes(shape: PanelShape, n: int, k: int, matrices: int = 1) -> int:
    """The bytes that the panels of one expert take: a multiple of 64 for every shape of a vector machine."""
    return prod(panel_shape(shape, n, k, matrices)) * NUMPY[shape.dtype].itemsize


def packed_bytes(shape: PanelShape, n: int, k: int, matrices: int, storage: str) -> int:
    """The bytes that the panels of one expert take, dense or in a storage format."""
    if not storage:
        return panel_bytes(shape, n, k, matrices)
    return PanelLayout(FORMATS[storage].layout, shape.columns, n, k, matrices).nbytes


def all_bytes(packed: Packed) -> int:
    """The bytes of all panels of a `Packed`. Raises `ValueError` or `LookupError` where it is none that is known."""
    shape = PanelShape.parse(packed.panel)
    return packed.keys * packed_bytes(shape, packed.n, packed.k, len(packed.params), packed.storage)


def pack_panels(
    matrices: Array | Sequence[Array], shape: PanelShape, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The panels of `matrices`, as bytes [..., *panel_shape] in `out` (made here when None).

    `matrices` is one array [..., N, K] or several of one shape to interleave, of any strides and any dtype that
    NumPy casts to `shape.dtype` (16-bit words count as their bit patterns for bf16). Leading axes are experts,
    packed one after the other, so only `out` and a block of a few KiB are ever held beside the weights.
    """
    stack = [matrices] if isinstance(matrices, np.ndarray) else list(matrices)
    dtype = NUMPY[shape.dtype]
    lead, (n, k) = stack[0].shape[:-2], stack[0].shape[-2:]
    if any(matrix.shape != stack[0].shape for matrix in stack):
        raise ValueError(f"interleaved matrices differ in shape: {[matrix.shape for matrix in stack]}")
    size = prod(lead) * panel_bytes(shape, n, k, len(stack))
    buffer = aligned_empty(size) if out is None else out
    if buffer.nbytes != size or buffer.dtype != np.uint8 or not buffer.flags.c_contiguous:
        raise ValueError(f"expected {size} contiguous bytes to pack into, not {buffer.nbytes} of {buffer.dtype}")
    panels = buffer.view(dtype).reshape(*lead, *panel_shape(shape, n, k, len(stack)))
    if not shape.depth:  # one depth of many steps is filled like many depths of one
        panels = panels.swapaxes(-5, -3)
    for expert in np.ndindex(*lead):
        for place, matrix in enumerate(stack):
            _pack(_words(matrix[expert], dtype), panels[expert], place, len(stack))
    return buffer


def _words(matrix: Array, dtype: np.dtype[Any]) -> Array:
    """`matrix` with bit patterns of bf16 read as such."""
    return matrix.view(dtype) if matrix.dtype == np.uint16 and dtype == NUMPY["bf16"] else matrix


def _pack(matrix: Array, panels: Array, place: int, count: int) -> None:
    """Writes [N, K] into the columns of one of `count` matrices, of panels of `panel_shape`."""
    tiles, width = panels.shape[2], panels.shape[4]
    part = tiles * width // count
    together = min(part, width)
    for first in range(0, part, together):
        tile, column = divmod(place * part + first, width)
        for p, panel in enumerate(panels[:, :, tile, :, column : column + together]):
            rows = matrix[p * part + first :][:together]
            panel[:, :, len(rows) :] = 0
            _pack_rows(rows, panel[:, :, : len(rows)])


def _pack_rows(rows: Array, panel: Array) -> None:
    """Writes [columns, K] into the view [k / depth, depth / kstep, columns, kstep]."""
    k, (_, steps, _, kstep) = rows.shape[1], panel.shape
    depth = steps * kstep
    full = k - k % depth
    for at in range(0, full, _BLOCK):
        block = rows[:, at : min(at + _BLOCK, full)]
        _move(block, panel[at // depth : (at + block.shape[1]) // depth])
    if full < k:
        last, rest = panel[full // depth], rows[:, full:]
        last[...] = 0
        whole = rest.shape[1] // kstep
        _move(rest[:, : whole * kstep], last[None, :whole])
        if whole * kstep < rest.shape[1]:
            last[whole, :, 0] = rest[:, -1]


def _move(block: Array, into: Array) -> None:
    """Writes [columns, K] into a view [., ., columns, kstep] of as many elements."""
    kstep, shape = into.shape[3], into.shape[:3]
    if abs(block.strides[0]) < abs(block.strides[1]):
        for i in range(kstep):
            into[..., i] = block[:, i::kstep].T.reshape(shape)
        return
    # A group of kstep k moves as one word wherever k runs fastest in the matrix.
    word = np.dtype(f"u{into.itemsize * kstep}")
    moves = block.dtype == into.dtype and block.strides[1] == block.itemsize
    words = block if moves else np.ascontiguousarray(block, into.dtype)
    into.view(word)[..., 0] = words.view(word).T.reshape(shape)
