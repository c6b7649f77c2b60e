"""Formats whose codes and scales lie in arrays of their own: int8, int4 in groups, nvfp4, fp8.

What a checkpoint keeps of them differs by its writer (`moec.formats.origins`); here is what they mean, and how dense
weights are brought into them: scales that take the largest magnitude to the last code, codes rounded to nearest even.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from moec.formats.gguf import nearest_e2m1
from moec.formats.layout import F32, KINDS, Array, Coded, Field, Layout, number

INT8 = Layout(8, "integer", (Field("scale", "f32", 0),), 128)
FP8 = Layout(8, "e4m3", (Field("scale", "f32", 0),))
FP8_BLOCK = Layout(8, "e4m3", (Field("scale", "f32", 128),))
NVFP4 = Layout(4, "e2m1", (Field("super", "f32", 0), Field("scale", "e4m3", 16)))

_LARGEST_E4M3, _LARGEST_E2M1 = np.float32(448), np.float32(6)


def int4(group: int, kind: str, zero: bool) -> Layout:
    """Codes of four bits with a scale, and perhaps a zero point, for every `group`."""
    scale = Field("scale", kind, group)
    return Layout(4, "integer", (scale, Field("zero", "u8", group)) if zero else (scale,), 0 if zero else 8)


def _over(weights: F32, scale: F32) -> F32:
    """Weights in units of their scale; 0 where it is 0."""
    return np.divide(weights, scale, out=np.zeros(weights.shape, np.float32), where=scale != 0)


def _grouped(weights: F32, group: int) -> F32:
    """[n, k] as [n, groups, group], zeros where k has run out."""
    n, k = weights.shape
    return np.pad(weights, ((0, 0), (0, -k % group))).reshape(n, -1, group)


def encode_int8(weights: F32) -> Coded:
    scale = np.abs(weights).max(-1, keepdims=True, initial=0) / np.float32(127)
    codes = np.rint(_over(weights, scale)).clip(-127, 127).astype(np.int8)
    return Coded(INT8, codes.view(np.uint8) ^ np.uint8(128), {"scale": scale})


def encode_int4(layout: Layout, weights: F32) -> Coded:
    n, k = weights.shape
    field = layout.fields[0]
    blocks = _grouped(weights, field.span)
    if layout.field("zero") is None:
        scale = np.abs(blocks).max(-1) / np.float32(7)
        zero = np.full(scale.shape, 8, np.uint8)
    else:
        low = np.minimum(blocks.min(-1), 0)
        scale = (np.maximum(blocks.max(-1), 0) - low) / np.float32(15)
        zero = np.rint(_over(-low, scale)).clip(0, 15).astype(np.uint8)
    fields: dict[str, Array] = {"scale": scale.astype(KINDS[field.kind])}
    stored = number(fields["scale"], field.kind)[..., None]
    codes = (np.rint(_over(blocks, stored)) + zero[..., None]).clip(0, 15).astype(np.uint8)
    if layout.field("zero") is not None:
        fields["zero"] = zero
    return Coded(layout, np.ascontiguousarray(codes.reshape(n, -1)[:, :k]), fields)


def _e4m3(weights: F32) -> Array:
    """The nearest codes of e4m3; beyond the largest there is only the largest."""
    limited = weights.clip(-_LARGEST_E4M3, _LARGEST_E4M3)
    return limited.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def encode_fp8(weights: F32) -> Coded:
    scale = np.abs(weights).max(-1, keepdims=True, initial=0) / _LARGEST_E4M3
    return Coded(FP8, _e4m3(_over(weights, scale)), {"scale": scale})


def encode_fp8_block(weights: F32) -> Coded:
    """A scale for every block of 128 × 128; each of its rows has a copy."""
    n, k = weights.shape
    blocks = np.pad(np.abs(weights), ((0, -n % 128), (0, -k % 128))).reshape(-(-n // 128), 128, -1, 128)
    scale = np.repeat(blocks.max((1, 3)) / _LARGEST_E4M3, 128, axis=0)[:n]
    whole = np.repeat(scale, 128, axis=1)[:, :k]
    return Coded(FP8_BLOCK, _e4m3(_over(weights, whole)), {"scale": scale})


def encode_nvfp4(weights: F32) -> Coded:
    """A scale in e4m3 for every 16, relative to one in f32 for the matrix."""
    n, k = weights.shape
    largest = np.float32(np.abs(weights).max(initial=0))
    whole = largest / (_LARGEST_E4M3 * _LARGEST_E2M1)
    blocks = _grouped(weights, 16)
    scale = _e4m3(_over(np.abs(blocks).max(-1) / _LARGEST_E2M1, np.full((1, 1), whole, np.float32)))
    codes = nearest_e2m1(blocks, (whole * number(scale, "e4m3"))[..., None])
    fields = {"super": np.full((n, 1), whole, np.float32), "scale": scale}
    return Coded(NVFP4, np.ascontiguousarray(codes.reshape(n, -1)[:, :k]), fields)
