"""Storage formats of weights, one row each: what a block is, what it means, how dense weights get there.

`layout` says what all of them have in common, `gguf` and `rows` what each is, `panels` how a matrix lies in the panels
that a kernel streams through. Nothing else in moec knows a format by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from moec.diagnostics import fail, nearest
from moec.dtypes import EXPERTS, Storage, StorageLike
from moec.formats import gguf, rows
from moec.formats.layout import F32, KINDS, Array, Bytes, Coded, Layout, join_rows, no_number
from moec.validation import by_name

__all__ = ["FORMATS", "Coded", "Format", "Layout", "encode", "find_format", "finite", "storable", "storage_of"]


@dataclass(frozen=True)
class Format:
    """A way to store a matrix [n, k].

    `block` consecutive weights of a row are what a writer encodes at once; with `whole`, k has to be a multiple of it.
    `nbytes` is what a block takes at its origin, `about` where that is defined. `split` takes an origin's bytes
    u8[n, blocks, nbytes] apart, `join` is its inverse; formats whose parts lie in several tensors have neither.
    `places` has for each field that might be no number where it begins in these bytes, `tensor_type` is what GGUF calls
    the format. So many `rows` may be encoded without the others; 0: only all of them together.
    """

    name: str
    about: str
    layout: Layout
    block: int
    nbytes: float
    encode: Callable[[F32], Coded]
    whole: bool = False
    split: Callable[[Bytes], Coded] | None = None
    join: Callable[[Coded], Bytes] | None = None
    places: Mapping[str, int] = field(default_factory=dict[str, int])
    tensor_type: int | None = None
    rows: int = 128

    @property
    def bits(self) -> float:
        """The bits of storage for each weight; what a whole row shares is not counted."""
        return 8 * self.nbytes / self.block


def _gguf(
    tensor_type: int,
    name: str,
    layout: Layout,
    block: int,
    nbytes: int,
    encode: Callable[[F32], Coded],
    split: Callable[[Bytes], Coded],
    join: Callable[[Coded], Bytes],
    *places: int,
) -> Format:
    floats = [field.name for field in layout.fields if field.kind in ("f16", "e8m0")]
    found = dict(zip(floats, places, strict=True))
    return Format(name, "GGUF", layout, block, nbytes, encode, True, split, join, found, tensor_type)


def _int4(group: int, zero: bool, kind: str) -> Format:
    name = f"int4_g{group}{'_zp' if zero else ''}{'_bf16' if kind == 'bf16' else ''}"
    layout = rows.int4(group, kind, zero)
    nbytes = group / 2 + 2 + (0.5 if zero else 0)
    about = "GPTQ, AWQ, compressed-tensors"
    return Format(name, about, layout, group, nbytes, partial(rows.encode_int4, layout))


_ROWS: Final = (
    Format("int8", "a scale for each row", rows.INT8, 1, 1, rows.encode_int8),
    _gguf(8, "q8_0", gguf.Q8_0, 32, 34, gguf.encode_q8_0, gguf.split_q8_0, gguf.join_q8_0, 0),
    _gguf(2, "q4_0", gguf.Q4_0, 32, 18, gguf.encode_q4_0, gguf.split_q4_0, gguf.join_small, 0),
    _gguf(3, "q4_1", gguf.Q4_1, 32, 20, gguf.encode_q4_1, gguf.split_q4_1, gguf.join_small, 0, 2),
    _gguf(6, "q5_0", gguf.Q5_0, 32, 22, gguf.encode_q5_0, gguf.split_q5_0, gguf.join_small, 0),
    _gguf(7, "q5_1", gguf.Q5_1, 32, 24, gguf.encode_q5_1, gguf.split_q5_1, gguf.join_small, 0, 2),
    _gguf(10, "q2_K", gguf.Q2_K, 256, 84, gguf.encode_q2_k, gguf.split_q2_k, gguf.join_q2_k, 80, 82),
    _gguf(11, "q3_K", gguf.Q3_K, 256, 110, gguf.encode_q3_k, gguf.split_q3_k, gguf.join_q3_k, 108),
    _gguf(12, "q4_K", gguf.Q4_K, 256, 144, gguf.encode_q4_k, gguf.split_q4_k, gguf.join_k, 0, 2),
    _gguf(13, "q5_K", gguf.Q5_K, 256, 176, gguf.encode_q5_k, gguf.split_q5_k, gguf.join_k, 0, 2),
    _gguf(14, "q6_K", gguf.Q6_K, 256, 210, gguf.encode_q6_k, gguf.split_q6_k, gguf.join_q6_k, 208),
    _gguf(20, "iq4_nl", gguf.IQ4_NL, 32, 18, gguf.encode_iq4_nl, gguf.split_iq4_nl, gguf.join_small, 0),
    _gguf(23, "iq4_xs", gguf.IQ4_XS, 256, 136, gguf.encode_iq4_xs, gguf.split_iq4_xs, gguf.join_iq4_xs, 0),
    *(_int4(group, zero, kind) for group in (32, 64, 128) for zero in (False, True) for kind in ("f16", "bf16")),
    Format(
        "mxfp4",
        "OCP Microscaling v1.0; GGUF, gpt-oss",
        gguf.MXFP4,
        32,
        17,
        gguf.encode_mxfp4,
        True,
        gguf.split_mxfp4,
        gguf.join_mxfp4,
        {"scale": 0},
        39,
    ),
    Format("nvfp4", "e2m1, a scale in e4m3 for 16, one in f32 for all", rows.NVFP4, 16, 9, rows.encode_nvfp4, rows=0),
    Format("fp8", "e4m3, a scale for each row", rows.FP8, 1, 1, rows.encode_fp8),
    Format("fp8_block", "e4m3, a scale for 128 × 128 (DeepSeek-V3)", rows.FP8_BLOCK, 128, 128, rows.encode_fp8_block),
)
#: The types of dense weights whose bits tell what is no number.
_KINDS: Final = {KINDS[kind]: kind for kind in ("f32", "f16", "bf16")}
#: The weights that are looked at together: what is computed of them stays in cache.
_LOOKED_AT: Final = 1 << 16
#: Every format by name.
FORMATS: Final = {row.name: row for row in _ROWS}


def find_format(name: str) -> Format:
    """The format of a name. Raises `CompileError` (E0306) where there is none."""
    if name not in FORMATS:
        help = nearest(name, [*FORMATS]) or f"the formats are {', '.join(FORMATS)}"
        raise fail("E0306", f"`{name}` is not a storage format", help=help)
    return FORMATS[name]


def storable(format: Format, k: int, called: str) -> None:
    """Raises `CompileError` (E0306) unless rows of `k` weights divide into a format's blocks; `called` is what the
    error calls them."""
    if format.whole and k % format.block:
        why = f"its rows have {k} weights, not a multiple of {format.block}"
        raise fail("E0306", f"{called} cannot be stored as {format.name}: {why}")


def finite(format: Format, weights: Array, called: str) -> None:
    """Raises `CompileError` (E0407) where one of dense weights [n, k] is infinite or NaN."""
    kind = _KINDS.get(weights.dtype)
    step = max(1, _LOOKED_AT // max(1, weights.shape[1]))
    for start in range(0, len(weights), step):
        part = weights[start : start + step]
        if (no_number(part, kind) if kind else ~np.isfinite(part)).any():
            raise fail("E0407", f"{called} holds a weight that is not finite, which {format.name} cannot store")


def encode(format: Format, weights: Array, called: str) -> Coded:
    """Dense weights [n, k], of any floating type, in a format.

    Raises `CompileError`: E0306 where rows do not divide into blocks, E0407 where a weight is not finite, or its scale
    would not be.
    """
    storable(format, weights.shape[1], called)
    finite(format, weights, called)
    step = format.rows or max(1, len(weights))  # a part at a time: what is computed on the way stays in cache
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [
            format.encode(np.ascontiguousarray(weights[start : start + step], np.float32))
            for start in range(0, max(1, len(weights)), step)
        ]
    coded = join_rows(parts)
    if wrong := coded.wrong():
        raise fail("E0407", f"{called} cannot be stored as {format.name}: {wrong}")
    return coded


def storage_of(storage: StorageLike) -> Storage:
    """The formats of parameters, sorted by name; one name alone is the format of all experts.

    Raises `CompileError` (E0306) where there is no such format, or what is given is none.
    """
    if storage is None:
        return ()
    chosen = {EXPERTS: storage} if isinstance(storage, str) else by_name(storage)
    if chosen is None:
        help = 'storage is given as `"q4_0"`, or as `{"gate": "q4_K"}`'
        raise fail("E0306", f"{storage!r} is neither a format nor formats by name", help=help)
    return tuple(sorted((name, find_format(str(format)).name) for name, format in chosen.items()))
