"""Safetensors files: a length, a JSON header, the tensors one after the other.

The format is that of https://huggingface.co/docs/safetensors. Its own package hands out copies and keeps every page
that it has touched; here a tensor is a view of the file, and what was read can be let go of. So the header is read
here: it is as short as the format.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, Final, cast

import ml_dtypes
import numpy as np

from moec.checkpoint.files import MappedFile, damaged
from moec.checkpoint.tensors import BEYOND, Tensor, check_shape
from moec.diagnostics import CompileError

#: The format's own limit of a header, in bytes.
MAX_HEADER: Final = 100_000_000

DTYPES: Final = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    "BOOL": np.dtype(np.bool_),
}


def read_safetensors(file: MappedFile) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises `CompileError` (E0408) where it is not in the format."""
    size = int.from_bytes(file.buffer[:8], "little")
    if file.size >= 8 and all(9 <= byte < 127 for byte in file.buffer[:8]):  # a text, as a length beyond every file
        raise damaged(file.path, "it is neither safetensors nor GGUF")
    if file.size < 8 or size > MAX_HEADER or 8 + size > file.size:
        raise damaged(file.path, f"its header would have {size:,} bytes, the file has {file.size:,}")
    try:
        header: Any = json.loads(bytes(file.buffer[8 : 8 + size]), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise damaged(file.path, f"its header is not JSON: {str(error).lower()}") from None
    if not isinstance(header, dict):
        raise damaged(file.path, "its header is not a table")
    entries = {str(name): entry for name, entry in cast("dict[str, Any]", header).items() if name != "__metadata__"}
    placed = [_tensor(file, name, entry, 8 + size) for name, entry in entries.items()]
    _check_whole(file, placed, 8 + size)
    return {tensor.name: tensor for tensor, _ in placed}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _tensor(file: MappedFile, name: str, entry: Any, start: int) -> tuple[Tensor, int]:
    """A tensor and the bytes that it takes. One of a type that moec does not have is an error where it is read."""

    def wrong(message: str) -> CompileError:
        return damaged(file.path, f"tensor `{name}` {message}")

    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and 0 <= number < BEYOND for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        raise wrong("has no type, shape and offsets") from None
    if not whole:
        raise wrong("has a shape or offsets that are no numbers, or out of range")
    if not isinstance(dtype, str):
        raise wrong(f"has the type `{dtype}`, which is no name")
    check_shape(file.path, name, shape)
    known = DTYPES.get(dtype)
    nbytes = end - begin if known is None else prod(shape) * known.itemsize
    if end - begin != nbytes or nbytes < 0:
        raise wrong(f"lies in {end - begin:,} bytes, but {dtype} {list(shape)} takes {nbytes:,}")
    if start + end > file.size:
        raise wrong(f"ends at byte {start + end:,}, the file at {file.size:,}")
    if known is None:
        return Tensor(name, file, start + begin, np.dtype(np.uint8), shape, unknown=dtype), nbytes
    return Tensor(name, file, start + begin, known, shape), nbytes


def _check_whole(file: MappedFile, placed: list[tuple[Tensor, int]], start: int) -> None:
    """The format leaves no gaps and lets nothing overlap."""
    for tensor, nbytes in sorted(placed, key=lambda pair: (pair[0].offset, pair[1])):
        if tensor.offset != start:
            raise damaged(file.path, f"tensor `{tensor.name}` begins at byte {tensor.offset:,}, not at {start:,}")
        start += nbytes
    if start != file.size:
        raise damaged(file.path, f"its tensors end at byte {start:,}, the file at {file.size:,}")
