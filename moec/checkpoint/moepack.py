"""The container of packed weights: a JSON header and raw sections that can be mapped.

    magic 8 | version u32 | bytes of the header u64 | SHA-256 of the header | header | sections

Numbers are little-endian. Sections begin at multiples of `PAGE`, in order, with zeros between; the header has for each
its offset behind the header, its bytes and its SHA-256, under `sections`; the rest of the header is the writer's.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from moec.checkpoint.files import MappedFile, damaged
from moec.checkpoint.tensors import BEYOND
from moec.diagnostics import fail
from moec.files import write_aside

Bytes = NDArray[np.uint8]

MAGIC: Final = b"\x93moepack"
VERSION: Final = 1
PAGE: Final = 4096
_HEAD: Final = struct.Struct("<8sIQ32s")
_MAX_HEADER: Final = 64 << 20
_WRITTEN: Final = 64 << 20


def is_moepack(path: Path | str) -> bool:
    """Whether a file begins as packed weights do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def write_moepack(
    path: Path | str,
    header: Mapping[str, Any],
    sections: Sequence[Bytes],
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes a file aside and moves it into place: whoever opens `path` finds the old one or the new one, whole.

    `progress` is told how many bytes more have been written. Raises `OSError`.
    """
    path, places, offset = Path(path), list[list[int | str]](), 0
    for data in sections:
        places.append([offset, data.nbytes, hashlib.sha256(data.data).hexdigest()])
        offset += data.nbytes + -data.nbytes % PAGE
    text = json.dumps({**header, "sections": places}, separators=(",", ":")).encode()
    head = _HEAD.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest()) + text

    def write(file: BinaryIO) -> None:
        _write_page(file, head)
        for data in sections:
            _write_page(file, data.data, progress)

    write_aside(path, write)


def _write_page(file: BinaryIO, data: bytes | memoryview, progress: Callable[[int], object] | None = None) -> None:
    """Writes bytes, piece by piece, and zeros up to a whole page."""
    for start in range(0, len(data), _WRITTEN):
        written = file.write(data[start : start + _WRITTEN])
        if progress is not None:
            progress(written)
    file.write(bytes(-len(data) % PAGE))


class Moepack:
    """An opened file: its `header`, and its sections, each mapped where it lies.

    Opening checks the header's checksum and that the file has exactly the bytes that the header tells; `verify` reads
    all of it. Raises `CompileError`: E0001, E0408.
    """

    def __init__(self, path: Path | str, verify: bool = False) -> None:
        self._file = MappedFile(Path(path))
        self.header, start = self._read_header()
        try:
            self._places = [(start + _whole(at), _whole(size), str(sum)) for at, size, sum in self.header["sections"]]
        except (KeyError, TypeError, ValueError):
            raise damaged(self.path, "its header has no sections") from None
        for index, (offset, nbytes, _) in enumerate(self._places):
            if offset != start:
                raise damaged(self.path, f"section {index} begins at byte {offset:,}, not at {start:,}")
            start += nbytes + -nbytes % PAGE
        if start != self._file.size:
            raise self._damaged(f"it should have {start:,} bytes, and has {self._file.size:,}")
        if verify:
            self.verify()

    @property
    def path(self) -> Path:
        return self._file.path

    def __len__(self) -> int:
        return len(self._places)

    def section(self, index: int) -> Bytes:
        """A section's bytes, read-only."""
        offset, nbytes, _ = self._places[index]
        return self._file.view(offset, np.dtype(np.uint8), (nbytes,))

    def verify(self) -> None:
        """Reads every section. Raises `CompileError` (E0408) where one has changed since it was written."""
        for index, (_, _, sum) in enumerate(self._places):
            if hashlib.sha256(self.section(index).data).hexdigest() != sum:
                raise self._damaged(f"section {index} is not what was written")

    def _damaged(self, message: str) -> Exception:
        return damaged(self.path, message, help="pack the weights again")

    def _read_header(self) -> tuple[dict[str, Any], int]:
        """The header and where the sections begin."""
        file, buffer = self._file, self._file.buffer
        if file.size < _HEAD.size or buffer[: len(MAGIC)] != MAGIC:
            raise damaged(self.path, "it holds no packed weights")
        _, version, size, digest = _HEAD.unpack_from(buffer)
        if version != VERSION:
            text = f"`{self.path}` is packed weights of version {version}, this moec reads {VERSION}"
            raise fail("E0408", text, help="pack the weights again")
        if size > _MAX_HEADER or _HEAD.size + size > file.size:
            raise self._damaged(f"its header would have {size:,} bytes, the file has {file.size:,}")
        text = buffer[_HEAD.size : _HEAD.size + size]
        if hashlib.sha256(text).digest() != digest:
            raise self._damaged("its header is not what was written")
        try:
            header: Any = json.loads(text, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            raise self._damaged("its header is not a table")
        end = _HEAD.size + size
        return cast("dict[str, Any]", header), end + -end % PAGE


def _finite(text: str) -> float:
    """A number of a header that is no integer. Raises `ValueError` where it is infinite, or none."""
    if not isfinite(number := float(text)):
        raise ValueError(f"{text} is no number")
    return number


def _whole(number: object) -> int:
    """An offset, or a count of bytes. Raises `ValueError` where it is neither."""
    if type(number) is not int or not 0 <= number < BEYOND:
        raise ValueError(f"{number} is no offset")
    return number
