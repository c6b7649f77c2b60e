"""Quantised activations: what they are, in NumPy.

A vector is cut into blocks of `BLOCK` elements, the last of them perhaps shorter. A block has a scale, its largest
magnitude ÷ 127, and an integer of -127 .. 127 for each element: the element × (127 ÷ largest magnitude), rounded to
nearest even. Everything is computed in f32, one rounding a step.

A block whose largest magnitude is below `SMALLEST` counts as zeros, since 127 ÷ it might not be a number. A block with
an infinity or a NaN has the scale NaN, so that every sum that it is part of is NaN.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moec.formats.layout import BLOCK, F32

#: The least magnitude that is told from zero.
SMALLEST: Final = 2.0**-100


def quantize(x: F32) -> tuple[NDArray[np.int8], F32]:
    """The integers [T, k] and the scales f32[T, ceil(k / BLOCK)] of vectors f32[T, k]."""
    rows, k = x.shape
    blocks = np.pad(x.astype(np.float32, copy=False), ((0, 0), (0, -k % BLOCK))).reshape(rows, -1, BLOCK)
    largest = np.abs(blocks).max(-1)
    finite, some = np.isfinite(largest), largest >= np.float32(SMALLEST)
    usable = np.where(finite & some, largest, np.float32(1))
    inverse = np.where(finite & some, np.float32(127) / usable, np.float32(0))
    with np.errstate(invalid="ignore"):
        codes = np.where(finite[..., None], np.rint(blocks * inverse[..., None]), 0).astype(np.int8)
    scale = np.where(some, usable * np.float32(1 / 127), np.float32(0))
    scale = np.where(finite, scale, np.float32(np.nan)).astype(np.float32)
    return codes.reshape(rows, -1)[:, :k], scale


def dequantize(codes: NDArray[np.int8], scale: F32) -> NDArray[Any]:
    """The numbers that integers and scales stand for, float64[T, k]."""
    k = codes.shape[1]
    return np.repeat(scale.astype(np.float64), BLOCK, axis=1)[:, :k] * codes
