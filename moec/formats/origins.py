"""What stands behind `as` in a `bind`: how checkpoints keep formats whose parts lie in tensors of their own.

An origin says which tensors belong together and makes `Blocks` of them. Names are patterns in which `{}` is the name
that the `bind` gives. GGUF needs none of this: there a tensor says itself how it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np

from moec.formats import rows
from moec.formats.blocks import Blocks
from moec.formats.gguf import MXFP4
from moec.formats.layout import Array, Bytes, Coded, Layout

Parts = Mapping[str, Array]
Fields = Mapping[str, Array]


class Misfit(Exception):
    """Why tensors are not what an origin says."""


@dataclass(frozen=True)
class Origin:
    """`parts` are the patterns of the tensors' names by what they hold, `optional` those that may be missing; `open`
    makes the blocks of their views, and raises `Misfit` where shapes or types are not the origin's."""

    name: str
    about: str
    parts: Mapping[str, str]
    open: Callable[[Parts], Blocks]
    optional: frozenset[str] = frozenset()

    def names(self, tensor: str) -> dict[str, str]:
        """The tensors' names by what they hold."""
        return {part: pattern.replace("{}", tensor) for part, pattern in self.parts.items()}


def _typed(parts: Parts, part: str, *types: Any) -> Array:
    """A part, after checking that its elements are of one of the types."""
    array = parts[part]
    if array.dtype not in [np.dtype(type) for type in types]:
        wanted = " or ".join(str(np.dtype(type)) for type in types)
        raise Misfit(f"its {part} are {array.dtype}, not {wanted}")
    return array


def _shaped(array: Array, part: str, shape: tuple[int, ...]) -> Array:
    if array.shape != shape:
        raise Misfit(f"its {part} are {list(array.shape)}, not {list(shape)}")
    return array


def _flat(array: Array, axes: int) -> Array:
    """The leading axes as one, before the last `axes`."""
    return array.reshape(-1, *array.shape[array.ndim - axes :])


def _nibbles(data: Bytes) -> Bytes:
    """Two codes of a byte along the last axis, the lower first."""
    return np.stack([data & np.uint8(15), data >> np.uint8(4)], -1).reshape(*data.shape[:-1], -1)


def _matrix(parts: Parts, part: str, *types: Any) -> Array:
    array = _typed(parts, part, *types)
    if array.ndim < 2:
        raise Misfit(f"its {part} are {list(array.shape)}, not a matrix")
    return array


def _blocks(
    shape: tuple[int, ...],
    format: str,
    layout: Layout,
    codes: Callable[[int], Bytes],
    fields: Callable[[int], Fields],
) -> Blocks:
    """Blocks of the codes and fields of each matrix."""
    return Blocks(shape, format, lambda index: Coded(layout, codes(index), fields(index)), fields)


# ── fp8, int8 ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_rows(layout: Layout, format: str, type: Any, flip: int) -> Callable[[Parts], Blocks]:
    """Codes of 8 bits with a scale for each row, or one for the whole tensor."""

    def open(parts: Parts) -> Blocks:
        codes = _matrix(parts, "codes", type)
        (*lead, n, k), scale = codes.shape, _typed(parts, "scales", np.float32, np.float16, ml_dtypes.bfloat16)
        shape = (*lead, n, 1)
        if scale.size == 1:
            scale = np.broadcast_to(scale.reshape(-1)[:1], shape)
        elif scale.size == prod(shape):
            scale = scale.reshape(shape)
        scales, matrices = _flat(_shaped(scale, "scales", shape), 2), _flat(codes, 2)

        def fields(index: int) -> Fields:
            return {"scale": scales[index].astype(np.float32)}

        def codes_of(index: int) -> Bytes:
            return np.ascontiguousarray(matrices[index]).view(np.uint8) ^ np.uint8(flip)

        return _blocks((*lead, n, k), format, layout, codes_of, fields)

    return open


def _open_fp8_block(parts: Parts) -> Blocks:
    codes = _matrix(parts, "codes", ml_dtypes.float8_e4m3fn)
    *lead, n, k = codes.shape
    scale = _typed(parts, "scales", np.float32, ml_dtypes.bfloat16)
    _shaped(scale, "scales", (*lead, -(-n // 128), -(-k // 128)))
    scales, matrices = _flat(scale, 2), _flat(codes, 2)

    def fields(index: int) -> Fields:
        return {"scale": np.repeat(scales[index].astype(np.float32), 128, axis=0)[:n]}

    def codes_of(index: int) -> Bytes:
        return np.ascontiguousarray(matrices[index]).view(np.uint8)

    return _blocks((*lead, n, k), "fp8_block", rows.FP8_BLOCK, codes_of, fields)


# ── fp4 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_mxfp4(parts: Parts) -> Blocks:
    blocks = _matrix(parts, "codes", np.uint8)
    if blocks.ndim < 3 or blocks.shape[-1] != 16:
        raise Misfit(f"its codes are {list(blocks.shape)}, not […, n, k / 32, 16]")
    *lead, n, groups, _ = blocks.shape
    scale = _shaped(_typed(parts, "scales", np.uint8, ml_dtypes.float8_e8m0fnu), "scales", (*lead, n, groups))
    scales, matrices = _flat(scale, 2), _flat(blocks, 3)

    def fields(index: int) -> Fields:
        return {"scale": np.ascontiguousarray(scales[index]).view(np.uint8)}

    def codes(index: int) -> Bytes:
        return _nibbles(matrices[index]).reshape(n, -1)

    return _blocks((*lead, n, 32 * groups), "mxfp4", MXFP4, codes, fields)


def _open_nvfp4(parts: Parts) -> Blocks:
    packed = _matrix(parts, "codes", np.uint8)
    *lead, n, half = packed.shape
    scale = _typed(parts, "scales", ml_dtypes.float8_e4m3fn)
    _shaped(scale, "scales", (*lead, n, -(-2 * half // 16)))
    whole = _typed(parts, "scale of all", np.float32)
    wholes = np.broadcast_to(whole.reshape(-1), (prod(lead),)) if whole.size == 1 else whole.reshape(-1)
    _shaped(wholes, "scales of all", (prod(lead),))
    scales, matrices = _flat(scale, 2), _flat(packed, 2)

    def fields(index: int) -> Fields:
        whole = np.full((n, 1), wholes[index], np.float32)
        return {"super": whole, "scale": np.ascontiguousarray(scales[index]).view(np.uint8)}

    return _blocks((*lead, n, 2 * half), "nvfp4", rows.NVFP4, lambda index: _nibbles(matrices[index]), fields)


# ── int4 in groups ────────────────────────────────────────────────────────────────────────────────────────────────────

_SCALES: Final = {np.dtype(np.float16): "", np.dtype(ml_dtypes.bfloat16): "_bf16"}


def _grouped(k: int, scale: Array, groups: int, zero: bool) -> tuple[str, Layout]:
    """The format whose groups divide rows of `k` weights into so many, with scales of that type."""
    if scale.dtype not in _SCALES:
        raise Misfit(f"its scales are {scale.dtype}, not float16 or bfloat16")
    span = next((span for span in (32, 64, 128) if -(-k // span) == groups), None)
    if span is None:
        raise Misfit(f"its rows of {k} weights have {groups} scales; moec has groups of 32, 64 and 128")
    kind = "bf16" if _SCALES[scale.dtype] else "f16"
    return f"int4_g{span}{'_zp' if zero else ''}{_SCALES[scale.dtype]}", rows.int4(span, kind, zero)


def _eights(words: Array, order: tuple[int, ...] = tuple(range(8))) -> Bytes:
    """Eight codes of each word of 32 bits along the last axis, in the order of their places."""
    shifts = np.array([4 * place for place in order], np.uint32)
    codes = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts & np.uint32(15)
    return codes.astype(np.uint8).reshape(*words.shape[:-1], -1)


#: Where AWQ keeps the codes of eight consecutive columns: in which four bits of a word.
_AWQ: Final = (0, 4, 1, 5, 2, 6, 3, 7)


def _in_order(parts: Parts, k: int, layout: Layout) -> None:
    """Raises `Misfit` unless the groups of a row lie one after the other. Where all of `g_idx` is -1 there is none."""
    order, span = parts.get("order"), layout.fields[0].span
    if order is None or (_shaped(order, "order", (k,)) == -1).all():
        return
    if (order != np.arange(k) // span).any():
        why = f"`g_idx` gives its columns another order (act-order), so no {span} that lie together share a scale"
        raise Misfit(f"{why}; moec has no format for that")


def _open_gptq(zero: bool) -> Callable[[Parts], Blocks]:
    """Words hold eight k of a column; zero points are kept one too small. Symmetric ones are all 8, and are checked."""

    def open(parts: Parts) -> Blocks:
        words = _matrix(parts, "codes", np.int32)
        if words.ndim != 2:
            raise Misfit(f"its codes are {list(words.shape)}, not [k / 8, n]")
        (eighth, n), scale = words.shape, parts["scales"]
        k, groups = 8 * eighth, scale.shape[0] if scale.ndim == 2 else 0
        format, layout = _grouped(k, _shaped(scale, "scales", (groups, n)), groups, zero)
        zeros = _shaped(_typed(parts, "zeros", np.int32), "zeros", (groups, n // 8))
        _in_order(parts, k, layout)
        if (zeros.view(np.uint32) == 0x88888888).all():
            raise Misfit("its zero points are kept as 8, which GPTQ's second version does; moec reads the first")
        if not (zero or (zeros == 0x77777777).all()):
            raise Misfit("its zero points are not all in the middle: it is `gptq_zp`")
        if zero and (_eights(zeros) == 15).any():
            raise Misfit("a zero point is kept as 15, one too small: its readers differ on whether that is 0 or 16")

        def fields(index: int) -> Fields:
            scales = {"scale": np.ascontiguousarray(scale.T)}
            return {**scales, "zero": np.ascontiguousarray((_eights(zeros) + np.uint8(1)).T)} if zero else scales

        def codes(index: int) -> Bytes:
            return np.ascontiguousarray(_eights(np.ascontiguousarray(words.T)))

        return _blocks((n, k), format, layout, codes, fields)

    return open


def _open_awq(parts: Parts) -> Blocks:
    """Words hold eight columns of a k."""
    words = _matrix(parts, "codes", np.int32)
    if words.ndim != 2:
        raise Misfit(f"its codes are {list(words.shape)}, not [k, n / 8]")
    (k, eighth), scale = words.shape, parts["scales"]
    n, groups = 8 * eighth, scale.shape[0] if scale.ndim == 2 else 0
    format, layout = _grouped(k, _shaped(scale, "scales", (groups, n)), groups, True)
    zeros = _shaped(_typed(parts, "zeros", np.int32), "zeros", (groups, eighth))

    def fields(index: int) -> Fields:
        return {"scale": np.ascontiguousarray(scale.T), "zero": np.ascontiguousarray(_eights(zeros, _AWQ).T)}

    return _blocks((n, k), format, layout, lambda index: np.ascontiguousarray(_eights(words, _AWQ).T), fields)


def _open_packed(parts: Parts) -> Blocks:
    """compressed-tensors' `pack-quantized`: words hold eight k of a row, the lowest first; codes are less 8.

    Zero points, also less 8, are words of eight rows; older files have them as they are, as int8.
    """
    words = _matrix(parts, "codes", np.int32)
    (*lead, n, eighth), scale = words.shape, parts["scales"]
    k, groups = 8 * eighth, scale.shape[-1] if scale.ndim else 0
    if "shape" in parts and (told := [int(length) for length in parts["shape"].reshape(-1)[-2:]]) != [n, k]:
        raise Misfit(f"its codes are {[n, k]} if they have 4 bits, but its shape is {told}")
    format, layout = _grouped(k, _shaped(scale, "scales", (*lead, n, groups)), groups, "zeros" in parts)
    _in_order(parts, k, layout)
    scales, matrices = _flat(scale, 2), _flat(words, 2)
    zeros = _packed_zeros(parts, lead, n, groups) if "zeros" in parts else None

    def fields(index: int) -> Fields:
        found = {"scale": np.ascontiguousarray(scales[index])}
        return found if zeros is None else {**found, "zero": zeros(index)}

    return _blocks((*lead, n, k), format, layout, lambda index: _eights(matrices[index]), fields)


def _packed_zeros(parts: Parts, lead: list[int], n: int, groups: int) -> Callable[[int], Bytes]:
    """The zero points of each matrix, u8[n, groups]."""
    zeros = _typed(parts, "zeros", np.int32, np.int8)
    if zeros.dtype == np.int8:
        plain = _flat(_shaped(zeros, "zeros", (*lead, n, groups)), 2)
        if plain.size and not -8 <= plain.min() <= plain.max() <= 7:
            raise Misfit("a zero point lies outside -8 .. 7")
        return lambda index: (plain[index] + np.int8(8)).view(np.uint8)
    packed = _flat(_shaped(zeros, "zeros", (*lead, -(-n // 8), groups)), 2)
    return lambda index: np.ascontiguousarray(_eights(np.ascontiguousarray(packed[index].T))[:, :n].T)


_GPTQ: Final = {"codes": "{}.qweight", "scales": "{}.scales", "zeros": "{}.qzeros", "order": "{}.g_idx"}
_AWQ_PARTS: Final = {part: _GPTQ[part] for part in ("codes", "scales", "zeros")}
_PACKED: Final = {
    "codes": "{}_packed",
    "scales": "{}_scale",
    "zeros": "{}_zero_point",
    "order": "{}_g_idx",
    "shape": "{}_shape",
}
_SCALED: Final = {"codes": "{}", "scales": "{}_scale"}
_INVERSE: Final = {"codes": "{}", "scales": "{}_scale_inv"}
_FP4: Final = {"codes": "{}_blocks", "scales": "{}_scales"}
_TWICE: Final = {**_SCALED, "scale of all": "{}_scale_2"}
_ORDER: Final = frozenset({"order"})

_ROWS: Final = (
    Origin("int8", "int8, a scale for each row", _SCALED, _open_rows(rows.INT8, "int8", np.int8, 128)),
    Origin("fp8", "e4m3, a scale for each row", _SCALED, _open_rows(rows.FP8, "fp8", ml_dtypes.float8_e4m3fn, 0)),
    Origin("fp8_block", "e4m3, a scale for 128 × 128, DeepSeek-V3", _INVERSE, _open_fp8_block),
    Origin("mxfp4", "gpt-oss", _FP4, _open_mxfp4),
    Origin("nvfp4", "ModelOpt", _TWICE, _open_nvfp4),
    Origin("gptq", "GPTQ, symmetric, 4 bits", _GPTQ, _open_gptq(False), _ORDER),
    Origin("gptq_zp", "GPTQ with zero points, 4 bits", _GPTQ, _open_gptq(True), _ORDER),
    Origin("awq", "AWQ, 4 bits", _AWQ_PARTS, _open_awq),
    Origin("packed", "compressed-tensors, 4 bits", _PACKED, _open_packed, frozenset({"zeros", "order", "shape"})),
)
#: Every origin by its name behind `as`.
ORIGINS: Final = {row.name: row for row in _ROWS}
