"""A tensor in a file: where it lies and what it is. Nothing of it is read before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moec.checkpoint.files import MappedFile, damaged
from moec.diagnostics import fail
from moec.formats import FORMATS, Coded
from moec.formats.blocks import Blocks

#: Beyond every offset and every array's bytes.
BEYOND: Final = 1 << 63
#: NumPy's arrays have up to 64 axes; stacking tensors and decoding them adds some.
_MAX_AXES: Final = 32
#: The bytes of the largest element.
_WIDEST: Final = 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """Elements of `dtype`, or the blocks of a storage `format` along the last axis; `unknown` names a format that moec
    does not have. `nbytes` is what the tensor takes in its file, from `offset` on."""

    name: str
    file: MappedFile
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    format: str = ""
    unknown: str = ""

    @property
    def nbytes(self) -> int:
        if self.format:
            row = FORMATS[self.format]
            return prod(self.shape) // row.block * int(row.nbytes)
        return prod(self.shape) * self.dtype.itemsize

    def open(self) -> NDArray[Any] | Blocks:
        """The tensor as a view of its file. Raises `CompileError` (E0901) where its format is not known."""
        if self.unknown:
            raise fail("E0901", f"`{self.name}` in `{self.file.path}` is stored as {self.unknown}, which moec lacks")
        if not self.format:
            return self.file.view(self.offset, self.dtype, self.shape)
        format = FORMATS[self.format]
        assert format.split is not None
        nbytes, (n, k) = int(format.nbytes), self.shape[-2:] if len(self.shape) > 1 else (1, *self.shape)
        size, split, kinds = n * k // format.block * nbytes, format.split, format.layout.kinds

        def matrix(index: int) -> NDArray[np.uint8]:
            return self.file.view(self.offset + index * size, np.dtype(np.uint8), (n, k // format.block, nbytes))

        def scales(index: int) -> dict[str, NDArray[Any]]:
            data = matrix(index)
            return {
                name: data[..., at : at + kinds[name].itemsize].view(kinds[name])[..., 0]
                for name, at in format.places.items()
            }

        read: Callable[[int], Coded] = lambda index: split(matrix(index))  # noqa: E731
        found = Blocks((*self.shape[:-2], n, k), self.format, read, scales)
        return found.checked(f"tensor `{self.name}` in `{self.file.path}`")


def check_shape(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Raises `CompileError` (E0408) where no array can have a tensor's shape, also where an axis of 0 lets it take no
    bytes."""
    if len(shape) > _MAX_AXES:
        raise damaged(path, f"tensor `{name}` has {len(shape)} axes")
    if prod(filter(None, shape)) >= BEYOND // _WIDEST:
        raise damaged(path, f"tensor `{name}` has a shape that no array can have")
