"""GGUF files, as llama.cpp writes them: keys and values, a list of tensors, their data.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. The `gguf` package
makes an object of each token of a model's vocabulary before it gives the first tensor; here they are stepped over, and
nothing of a tensor is read before it is packed.
"""

from __future__ import annotations

import re
import struct
from math import prod
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np

from moec.checkpoint.files import MappedFile, damaged
from moec.checkpoint.tensors import Tensor, check_shape
from moec.diagnostics import fail
from moec.formats import FORMATS

MAGIC: Final = b"GGUF"

#: Tensor types that are plain numbers.
_PLAIN: Final = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    24: np.dtype(np.int8),
    25: np.dtype(np.int16),
    26: np.dtype(np.int32),
    27: np.dtype(np.int64),
    28: np.dtype(np.float64),
    30: np.dtype(ml_dtypes.bfloat16),
}
#: Tensor types that are blocks: the storage format of each.
FORMAT_OF: Final = {row.tensor_type: name for name, row in FORMATS.items() if row.tensor_type is not None}
#: Tensor types that moec has no format for: name, weights of a block, bytes of a block.
_UNKNOWN: Final = {
    9: ("q8_1", 32, 40),
    15: ("q8_K", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    29: ("iq1_m", 256, 56),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
}
#: Bytes of the fixed-size values, by their type.
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MAX_AXES: Final = 4
_MAX_NESTING: Final = 8
#: The name of a file that is one of several, without its ending.
_PART: Final = re.compile(r"(.*-)([0-9]{5})-of-([0-9]{5})", re.DOTALL)


class _Wrong(Exception):
    """What is wrong with a header."""


class _Reader:
    """A place in a header that moves on with everything that is read."""

    def __init__(self, file: MappedFile) -> None:
        self.buffer, self.size, self.at = file.buffer, file.size, 0

    def skip(self, count: int) -> int:
        """Moves on by `count` bytes; where they begin."""
        start = self.at
        if count > self.size - start:
            raise _Wrong(f"its header goes on after the end of the file, at byte {self.size:,}")
        self.at = start + count
        return start

    def u32(self) -> int:
        return struct.unpack_from("<I", self.buffer, self.skip(4))[0]

    def u64(self) -> int:
        return struct.unpack_from("<Q", self.buffer, self.skip(8))[0]

    def string(self) -> str:
        count = self.u64()
        start = self.skip(count)
        try:
            return self.buffer[start : start + count].decode()
        except UnicodeDecodeError:
            raise _Wrong(f"a name at byte {start:,} is not UTF-8") from None

    def skip_value(self, kind: int, depth: int = 0) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.skip(self.u64())
        elif kind == _ARRAY and depth < _MAX_NESTING:
            inner, count = self.u32(), self.u64()
            if inner in _SIZES:
                self.skip(_SIZES[inner] * count)
            else:
                for _ in range(count):
                    self.skip_value(inner, depth + 1)
        else:
            raise _Wrong(f"a value of the type {kind} stands at byte {self.at:,}")


def read_gguf(file: MappedFile) -> dict[str, Tensor]:
    """The tensors of a file by name, their axes outermost first. Raises `CompileError`: E0408 where it is not in the
    format, E0901 where it is in a version that moec does not read."""
    reader = _Reader(file)
    try:
        reader.skip(len(MAGIC))
        version = reader.u32()
        if version not in (2, 3):
            raise fail("E0901", f"`{file.path}` is GGUF of version {version}; moec reads 2 and 3, little-endian")
        count, pairs = reader.u64(), reader.u64()
        alignment = _alignment(reader, pairs)
        found = [_entry(reader) for _ in range(count)]
        start = reader.at + -reader.at % alignment
    except _Wrong as error:
        raise damaged(file.path, str(error)) from None
    return _place(file, found, start, alignment)


def _alignment(reader: _Reader, pairs: int) -> int:
    """Steps over all keys and values; the one that matters here says what tensors are aligned to."""
    alignment = 32
    for _ in range(pairs):
        key, kind = reader.string(), reader.u32()
        if key == "general.alignment" and kind == 4:
            alignment = reader.u32()
            if alignment.bit_count() != 1:
                raise _Wrong(f"tensors would be aligned to {alignment} bytes")
        else:
            reader.skip_value(kind)
    return alignment


def _entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset of a tensor."""
    name, axes = reader.string(), reader.u32()
    if not 1 <= axes <= _MAX_AXES:
        raise _Wrong(f"tensor `{name}` has {axes} axes")
    shape = tuple(reader.u64() for _ in range(axes))[::-1]
    return name, shape, reader.u32(), reader.u64()


def _place(
    file: MappedFile, found: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
) -> dict[str, Tensor]:
    """Where each tensor lies: one after the other, each aligned, as the format has it."""
    tensors: dict[str, Tensor] = {}
    expected = 0
    for name, shape, kind, offset in found:
        if name in tensors:
            raise damaged(file.path, f"tensor `{name}` stands there twice")
        if offset != expected:
            raise damaged(file.path, f"tensor `{name}` begins at byte {offset:,} of the data, not at {expected:,}")
        tensors[name], nbytes = _tensor(file, name, shape, kind, start + offset)
        if start + offset + nbytes > file.size:
            end = start + offset + nbytes
            raise damaged(file.path, f"tensor `{name}` ends at byte {end:,}, the file at {file.size:,}")
        expected = offset + nbytes + -nbytes % alignment
    return tensors


def _tensor(file: MappedFile, name: str, shape: tuple[int, ...], kind: int, place: int) -> tuple[Tensor, int]:
    check_shape(file.path, name, shape)
    if kind in _PLAIN:
        tensor = Tensor(name, file, place, _PLAIN[kind], shape)
        return tensor, tensor.nbytes
    unknown, block, nbytes = _UNKNOWN.get(kind, ("", 0, 0))
    format = FORMAT_OF.get(kind, "")
    if format:
        block, nbytes = FORMATS[format].block, int(FORMATS[format].nbytes)
    if not block:
        raise damaged(file.path, f"tensor `{name}` is of the type {kind}, which is not known")
    if shape[-1] % block:
        raise damaged(file.path, f"tensor `{name}` has rows of {shape[-1]}, not a multiple of {block}")
    tensor = Tensor(name, file, place, np.dtype(np.uint8), shape, format, unknown)
    return tensor, prod(shape) // block * nbytes


def parts(path: Path) -> list[Path]:
    """The files that a file is one of: `name-00001-of-00003.gguf` and its siblings; itself where its name is no such
    one."""
    found = _PART.fullmatch(path.stem)
    if found is None or not 1 <= int(found[2]) <= int(found[3]):
        return [path]
    return [path.with_name(f"{found[1]}{i:05}-of-{found[3]}{path.suffix}") for i in range(1, int(found[3]) + 1)]
