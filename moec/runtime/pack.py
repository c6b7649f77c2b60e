"""Packing: matrices [..., N, K] as the panels that a microkernel streams through.

A matrix becomes [ceil(N / NR)][ceil(K / kstep)][NR][kstep] in the kernel's dtype, zeros where N or K has run out; where
a kernel multiplies several steps at once, K is taken up to a whole number of those.
Matrices packed together share every panel: NR / 2 rows of the gate, then the same NR / 2 rows of the up projection,
so that one tile of C holds what their activation needs. Imports nothing of the compiler but the noun `PanelShape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from moec.formats import FORMATS
from moec.formats.panels import PanelLayout
from moec.runtime.interface import Packed
from moec.runtime.memory import aligned_empty
from moec.target import PanelShape

Array: TypeAlias = NDArray[Any]

_NUMPY: Final = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16": np.dtype(np.float16),
}
#: k in one blocked copy: with NR rows of it, source and destination stay in L1.
_BLOCK: Final = 128


def panel_shape(shape: PanelShape, n: int, k: int, matrices: int = 1) -> tuple[int, int, int, int]:
    """The dimensions [panels, steps, columns, kstep] of `matrices` interleaved matrices of [n, k] each.

    Raises `ValueError` when a panel does not divide into `matrices` equal parts.
    """
    if shape.columns % matrices:
        raise ValueError(f"panels of {shape.columns} columns do not divide among {matrices} matrices")
    return -(-n // (shape.columns // matrices)), shape.steps(k), shape.columns, shape.kstep


def panel_bytes(shape: PanelShape, n: int, k: int, matrices: int = 1) -> int:
    """The bytes that the panels of one expert take: a multiple of 64 for every shape of a vector machine."""
    return prod(panel_shape(shape, n, k, matrices)) * _NUMPY[shape.dtype].itemsize


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
    """The panels of `matrices`, as bytes [..., panels, steps, columns, kstep] in `out` (made here when None).

    `matrices` is one array [..., N, K] or several of one shape to interleave, of any strides and any dtype that
    NumPy casts to `shape.dtype` (16-bit words count as their bit patterns for bf16). Leading axes are experts,
    packed one after the other, so only `out` and a block of a few KiB are ever held beside the weights.
    """
    stack = [matrices] if isinstance(matrices, np.ndarray) else list(matrices)
    dtype = _NUMPY[shape.dtype]
    lead, (n, k) = stack[0].shape[:-2], stack[0].shape[-2:]
    if any(matrix.shape != stack[0].shape for matrix in stack):
        raise ValueError(f"interleaved matrices differ in shape: {[matrix.shape for matrix in stack]}")
    size = prod(lead) * panel_bytes(shape, n, k, len(stack))
    buffer = aligned_empty(size) if out is None else out
    if buffer.nbytes != size or buffer.dtype != np.uint8 or not buffer.flags.c_contiguous:
        raise ValueError(f"expected {size} contiguous bytes to pack into, not {buffer.nbytes} of {buffer.dtype}")
    panels = buffer.view(dtype).reshape(*lead, *panel_shape(shape, n, k, len(stack)))
    for expert in np.ndindex(*lead):
        for place, matrix in enumerate(stack):
            part = shape.columns // len(stack)
            _pack(_words(matrix[expert], dtype), panels[expert][:, :, place * part : (place + 1) * part])
    return buffer


def _words(matrix: Array, dtype: np.dtype[Any]) -> Array:
    """`matrix` with bit patterns of bf16 read as such."""
    return matrix.view(dtype) if matrix.dtype == np.uint16 and dtype == _NUMPY["bf16"] else matrix


def _pack(matrix: Array, panels: Array) -> None:
    """Writes [N, K] into the view [panels, steps, columns, kstep]."""
    k, (count, _, columns, kstep) = matrix.shape[1], panels.shape
    whole = k - k % kstep
    # A group of kstep k moves as one word wherever k runs fastest in the matrix.
    word = np.dtype(f"u{panels.itemsize * kstep}")
    moves = matrix.dtype == panels.dtype and matrix.strides[1] == matrix.itemsize
    transposed = abs(matrix.strides[0]) < abs(matrix.strides[1])
    for p in range(count):
        rows = matrix[p * columns : (p + 1) * columns]
        used = len(rows)
        panel = panels[p]
        panel[:, used:] = 0
        for at in range(0, whole, _BLOCK):
            block = rows[:, at : min(at + _BLOCK, whole)]
            into = panel[at // kstep : (at + block.shape[1]) // kstep, :used]
            if transposed:
                for i in range(kstep):
                    into[..., i] = block[:, i::kstep].T
            else:
                words = block if moves else np.ascontiguousarray(block, panels.dtype)
                into.view(word)[..., 0] = words.view(word).T
        if whole < k:
            panel[whole // kstep, :used, 0] = rows[:, -1]
            panel[whole // kstep, :used, 1:] = 0
        panel[-(-k // kstep) :, :used] = 0
