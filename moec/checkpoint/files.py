"""Files that are mapped, not read: views of their bytes, and letting go of the pages that were touched."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moec.diagnostics import CompileError, fail


class MappedFile:
    """A file's bytes, read-only. Raises `CompileError` (E0001, E0408) where there are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise fail("E0001", f"cannot read `{path}`: it is not a file")
                if not status.st_size:
                    raise damaged(path, "it is empty")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise fail("E0001", f"cannot read `{path}`: {reason}") from None
        self.size = len(self._map)
        #: What tells a file from one that was put in its place.
        self.stamp = (path.name, status.st_size, status.st_mtime_ns)

    @property
    def buffer(self) -> mmap.mmap:
        return self._map

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """An array at an offset, as it lies there. The caller has checked that it ends before the file does."""
        return np.ndarray(shape, dtype, self._map, offset) if 0 not in shape else np.empty(shape, dtype)

    def release(self) -> None:
        """Gives the pages back to the system's cache; whoever reads them again gets them from there."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def damaged(path: Path, message: str, help: str | None = None) -> CompileError:
    """The error for a file that is not what its format says."""
    return fail("E0408", f"`{path}` cannot be read: {message}", help=help)
