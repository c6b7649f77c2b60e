"""The block formats of GGUF, byte by byte (ggml-common.h), taken apart and put together again.

A matrix arrives as u8[n, blocks, bytes]. Encoders give the bits that the `gguf` package gives where it has one; for the
K-quants, which it only decodes, they round to the nearest scale, then to the nearest code.
"""

from __future__ import annotations

import numpy as np

from moec.formats.layout import F32, TABLES, Array, Bytes, Coded, Field, Layout, number

_F16 = np.dtype(np.float16)


def _half(block: int, *names: str) -> tuple[Field, ...]:
    return tuple(Field(name, "f16", block) for name in names)  # pyright: ignore[reportArgumentType]


def _super(scale: str, span: int, minimum: bool) -> tuple[Field, ...]:
    fields = (Field("super", "f16", 256), Field("scale", scale, span))
    return (*fields, Field("super_minimum", "f16", 256), Field("minimum", scale, span)) if minimum else fields


Q8_0 = Layout(8, "integer", _half(32, "scale"), 128)
Q4_0 = Layout(4, "integer", _half(32, "scale"), 8)
Q4_1 = Layout(4, "integer", _half(32, "scale", "minimum"))
Q5_0 = Layout(5, "integer", _half(32, "scale"), 16)
Q5_1 = Layout(5, "integer", _half(32, "scale", "minimum"))
Q2_K = Layout(2, "integer", _super("u8", 16, True))
Q3_K = Layout(3, "integer", _super("i8", 16, False), 4)
Q4_K = Layout(4, "integer", _super("u8", 32, True))
Q5_K = Layout(5, "integer", _super("u8", 32, True))
Q6_K = Layout(6, "integer", _super("i8", 16, False), 32)
IQ4_NL = Layout(4, "iq4", _half(32, "scale"))
IQ4_XS = Layout(4, "iq4", _super("i8", 32, False))
MXFP4 = Layout(4, "e2m1", (Field("scale", "e8m0", 32),))


# ── bits ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _f16(data: Bytes) -> Array:
    return np.ascontiguousarray(data).view(_F16)[..., 0]


def _u8(data: Array) -> Bytes:
    return np.ascontiguousarray(data, _F16)[..., None].view(np.uint8)


def _apart(data: Bytes, width: int, run: int) -> Bytes:
    """Codes of `width` bits: each `run` bytes hold 8 / width runs of codes, the first in the lowest bits."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    parts = data.reshape(*data.shape[:-1], -1, 1, run) >> shifts & np.uint8((1 << width) - 1)
    return parts.reshape(*data.shape[:-1], -1)


def _together(codes: Bytes, width: int, run: int) -> Bytes:
    """The inverse of `_apart`."""
    count = 8 // width
    parts = codes.reshape(*codes.shape[:-1], -1, count, run) & np.uint8((1 << width) - 1)
    shifted = parts << np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(shifted, axis=-2).reshape(*codes.shape[:-1], -1)


def _coded(layout: Layout, codes: Bytes, **fields: Array) -> Coded:
    """Blocks [n, blocks, …] as rows [n, …]."""
    flat = {name: np.ascontiguousarray(data.reshape(len(data), -1)) for name, data in fields.items()}
    return Coded(layout, np.ascontiguousarray(codes.reshape(len(codes), -1)), flat)


def _blocks(coded: Coded, block: int) -> tuple[Bytes, dict[str, Array]]:
    """Rows [n, …] as blocks [n, blocks, …]; a field with one number a block loses its last axis."""
    n, k = coded.shape
    fields = {name: data.reshape(n, k // block, -1) for name, data in coded.fields.items()}
    return coded.codes.reshape(n, k // block, block), fields


# ── blocks of 32 ──────────────────────────────────────────────────────────────────────────────────────────────────────


def split_q8_0(data: Bytes) -> Coded:
    return _coded(Q8_0, data[..., 2:] ^ np.uint8(128), scale=_f16(data[..., :2]))


def join_q8_0(coded: Coded) -> Bytes:
    codes, fields = _blocks(coded, 32)
    return np.concatenate([_u8(fields["scale"][..., 0]), codes ^ np.uint8(128)], -1)


def _split_small(layout: Layout, data: Bytes) -> Coded:
    """q4_0, q4_1, q5_0, q5_1: scale, minimum, fifth bits, and the lower nibbles of both halves in one byte."""
    names = [field.name for field in layout.fields]
    fields = {name: _f16(data[..., 2 * i : 2 * i + 2]) for i, name in enumerate(names)}
    codes = _apart(data[..., -16:], 4, 16)
    if layout.bits == 5:
        high = data[..., 2 * len(names) : 2 * len(names) + 4]
        codes = codes | np.unpackbits(high, axis=-1, bitorder="little") << np.uint8(4)
    return _coded(layout, codes, **fields)


def join_small(coded: Coded) -> Bytes:
    codes, fields = _blocks(coded, 32)
    parts = [_u8(fields[field.name][..., 0]) for field in coded.layout.fields]
    if coded.layout.bits == 5:
        parts.append(np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little"))
    return np.concatenate([*parts, _together(codes, 4, 16)], -1)


def split_q4_0(data: Bytes) -> Coded:
    return _split_small(Q4_0, data)


def split_q4_1(data: Bytes) -> Coded:
    return _split_small(Q4_1, data)


def split_q5_0(data: Bytes) -> Coded:
    return _split_small(Q5_0, data)


def split_q5_1(data: Bytes) -> Coded:
    return _split_small(Q5_1, data)


def split_iq4_nl(data: Bytes) -> Coded:
    return _split_small(IQ4_NL, data)


def split_mxfp4(data: Bytes) -> Coded:
    return _coded(MXFP4, _apart(data[..., 1:], 4, 16), scale=data[..., 0])


def join_mxfp4(coded: Coded) -> Bytes:
    codes, fields = _blocks(coded, 32)
    return np.concatenate([fields["scale"], _together(codes, 4, 16)], -1)


# ── blocks of 256 ─────────────────────────────────────────────────────────────────────────────────────────────────────


def split_q2_k(data: Bytes) -> Coded:
    scales, codes = data[..., :16], _apart(data[..., 16:80], 2, 32)
    return _coded(
        Q2_K,
        codes,
        super=_f16(data[..., 80:82]),
        scale=scales & np.uint8(15),
        super_minimum=_f16(data[..., 82:]),
        minimum=scales >> np.uint8(4),
    )


def join_q2_k(coded: Coded) -> Bytes:
    codes, fields = _blocks(coded, 256)
    scales = fields["scale"] | fields["minimum"] << np.uint8(4)
    supers = [_u8(fields[name][..., 0]) for name in ("super", "super_minimum")]
    return np.concatenate([scales, _together(codes, 2, 32), *supers], -1)


def split_q3_k(data: Bytes) -> Coded:
    high, low, packed = _apart(data[..., :32], 1, 32), _apart(data[..., 32:96], 2, 32), data[..., 96:108]
    scales = _apart(packed[..., :8], 4, 8) | _apart(packed[..., 8:], 2, 4) << np.uint8(4)
    signed = (scales - np.uint8(32)).view(np.int8)
    return _coded(Q3_K, low | high << np.uint8(2), super=_f16(data[..., 108:]), scale=signed)


def join_q3_k(coded: Coded) -> Bytes:
    codes, fields = _blocks(coded, 256)
    scales = fields["scale"].view(np.uint8) + np.uint8(32)
    packed = [_together(scales, 4, 8), _together(scales >> np.uint8(4), 2, 4)]
    bits = [_together(codes >> np.uint8(2), 1, 32), _together(codes, 2, 32)]
    return np.concatenate([*bits, *packed, _u8(fields["super"][..., 0])], -1)


def _split_scales(data: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of six bits out of twelve bytes."""
    a, b, c = data[..., :4], data[..., 4:8], data[..., 8:]
    six, four, two = np.uint8(63), np.uint8(15), np.uint8(48)
    scale = np.concatenate([a & six, c & four | a >> np.uint8(2) & two], -1)
    return scale, np.concatenate([b & six, c >> np.uint8(4) | b >> np.uint8(2) & two], -1)


def _join_scales(scale: Bytes, minimum: Bytes) -> Bytes:
    two, four = np.uint8(48), np.uint8(4)
    a, b = (part[..., :4] | (part[..., 4:] & two) << np.uint8(2) for part in (scale, minimum))
    return np.concatenate([a, b, scale[..., 4:] & np.uint8(15) | minimum[..., 4:] << four], -1)


def split_q4_k(data: Bytes) -> Coded:
    return _split_k(Q4_K, data, _apart(data[..., 16:], 4, 32))


def split_q5_k(data: Bytes) -> Coded:
    high, low = _apart(data[..., 16:48], 1, 32), _apart(data[..., 48:], 4, 32)
    return _split_k(Q5_K, data, low | high << np.uint8(4))


def _split_k(layout: Layout, data: Bytes, codes: Bytes) -> Coded:
    scale, minimum = _split_scales(data[..., 4:16])
    supers = {"super": _f16(data[..., :2]), "super_minimum": _f16(data[..., 2:4])}
    return _coded(layout, codes, scale=scale, minimum=minimum, **supers)


def join_k(coded: Coded) -> Bytes:
    """q4_K and q5_K."""
    codes, fields = _blocks(coded, 256)
    parts = [_u8(fields[name][..., 0]) for name in ("super", "super_minimum")]
    parts.append(_join_scales(fields["scale"], fields["minimum"]))
    if coded.layout.bits == 5:
        parts.append(_together(codes >> np.uint8(4), 1, 32))
    return np.concatenate([*parts, _together(codes, 4, 32)], -1)


def split_q6_k(data: Bytes) -> Coded:
    low, high = _apart(data[..., :128], 4, 64), _apart(data[..., 128:192], 2, 32)
    scales = np.ascontiguousarray(data[..., 192:208]).view(np.int8)
    return _coded(Q6_K, low | high << np.uint8(4), super=_f16(data[..., 208:]), scale=scales)


def join_q6_k(coded: Coded) -> Bytes:
    codes, fields = _blocks(coded, 256)
    low, high = _together(codes, 4, 64), _together(codes >> np.uint8(4), 2, 32)
    return np.concatenate([low, high, fields["scale"].view(np.uint8), _u8(fields["super"][..., 0])], -1)


def split_iq4_xs(data: Bytes) -> Coded:
    """The upper two bits of eight scales, the lower four of them, then the codes as in blocks of 32."""
    high, low = _apart(data[..., 2:4], 2, 1), _apart(data[..., 4:8], 4, 1)
    signed = ((low | high << np.uint8(4)) - np.uint8(32)).view(np.int8)
    return _coded(IQ4_XS, _apart(data[..., 8:], 4, 16), super=_f16(data[..., :2]), scale=signed)


def join_iq4_xs(coded: Coded) -> Bytes:
    codes, fields = _blocks(coded, 256)
    scales = fields["scale"].view(np.uint8) + np.uint8(32)
    packed = [_together(scales >> np.uint8(4), 2, 1), _together(scales, 4, 1)]
    return np.concatenate([_u8(fields["super"][..., 0]), *packed, _together(codes, 4, 16)], -1)


# ── encoders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _inverse(d: F32) -> F32:
    with np.errstate(divide="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d)


def encode_q8_0(weights: F32) -> Coded:
    blocks = weights.reshape(len(weights), -1, 32)
    d = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(d)
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    rounded = np.sign(scaled) * (whole + np.floor(2 * (magnitude - whole)))  # halves away from zero, as roundf
    return _coded(Q8_0, rounded.astype(np.int8).view(np.uint8) ^ np.uint8(128), scale=d[..., 0].astype(_F16))


def _encode_signed(layout: Layout, weights: F32) -> Coded:
    """q4_0, q5_0: the weight of largest magnitude gets the code 0, the most negative one."""
    blocks = weights.reshape(len(weights), -1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    d = largest / np.float32(-layout.bias)
    codes = np.trunc(blocks * _inverse(d) + np.float32(layout.bias + 0.5)).clip(0, 2 * layout.bias - 1)
    return _coded(layout, codes.astype(np.uint8), scale=d[..., 0].astype(_F16))


def _encode_unsigned(layout: Layout, weights: F32) -> Coded:
    """q4_1, q5_1: the smallest weight gets the code 0, the largest the last one."""
    blocks = weights.reshape(len(weights), -1, 32)
    most, low = (1 << layout.bits) - 1, blocks.min(-1, keepdims=True)
    d = (blocks.max(-1, keepdims=True) - low) / np.float32(most)
    codes = np.trunc((blocks - low) * _inverse(d) + np.float32(0.5)).clip(0, most)
    fields = {"scale": d[..., 0].astype(_F16), "minimum": low[..., 0].astype(_F16)}
    return _coded(layout, codes.astype(np.uint8), **fields)


def encode_q4_0(weights: F32) -> Coded:
    return _encode_signed(Q4_0, weights)


def encode_q5_0(weights: F32) -> Coded:
    return _encode_signed(Q5_0, weights)


def encode_q4_1(weights: F32) -> Coded:
    return _encode_unsigned(Q4_1, weights)


def encode_q5_1(weights: F32) -> Coded:
    return _encode_unsigned(Q5_1, weights)


def encode_mxfp4(weights: F32) -> Coded:
    """The scale puts the largest magnitude into the last octave of e2m1, as the specification says; what then lies
    beyond 6 becomes 6."""
    blocks = weights.reshape(len(weights), -1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        code = np.where(largest > 0, np.floor(np.log2(largest)) - 2 + 127, 0).clip(0, 254).astype(np.uint8)
    return _coded(MXFP4, nearest_e2m1(blocks, number(code, "e8m0")), scale=code[..., 0])


def nearest_e2m1(weights: F32, scale: F32) -> Bytes:
    """The codes whose doubled values times `scale` come nearest; the first of two that are as near."""
    best, least = np.zeros(weights.shape, np.uint8), np.full(weights.shape, np.inf, np.float32)
    for code, value in enumerate(TABLES["e2m1"]):
        error: F32 = np.abs(scale * np.float32(value) - weights)
        closer = error < least
        best[closer], least = code, np.where(closer, error, least)
    return best


def _nearest_iq4(weights: F32, scale: F32) -> Bytes:
    """The same of values that rise with their codes: which of the middles between two lie below."""
    table = np.array(TABLES["iq4"], np.float32)
    middles = (table[:-1] + table[1:]) / 2
    return np.searchsorted(middles, weights * _inverse(scale)).astype(np.uint8)


def encode_iq4_nl(weights: F32) -> Coded:
    """The weight of largest magnitude gets the code 0, the most negative value."""
    blocks = weights.reshape(len(weights), -1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    scale = (largest / np.float32(TABLES["iq4"][0])).astype(_F16)
    return _coded(IQ4_NL, _nearest_iq4(blocks, scale.astype(np.float32)), scale=scale[..., 0])


def _encode_super(layout: Layout, weights: F32, most: int) -> Coded:
    """q2_K, q4_K, q5_K: scales and minima of sub-blocks in steps of a sixteenth or a sixty-third of the largest."""
    span, top = layout.span, np.float32((1 << layout.bits) - 1)
    blocks = weights.reshape(len(weights), -1, 256 // span, span)
    low = np.minimum(blocks.min(-1), 0)
    steps = {"super": (np.maximum(blocks.max(-1), 0) - low) / top, "super_minimum": -low}
    fields: dict[str, Array] = {}
    for (name, sizes), part in zip(steps.items(), ("scale", "minimum"), strict=True):
        unit = (sizes.max(-1, keepdims=True) / np.float32(most)).astype(_F16)
        fields[name] = unit[..., 0]
        fields[part] = np.rint(sizes * _inverse(unit.astype(np.float32))).clip(0, most).astype(np.uint8)
    scale, offset = _coded(layout, np.zeros(blocks.shape, np.uint8), **fields).factors
    assert offset is not None
    scale, offset = (factor.reshape(*blocks.shape[:-1], 1) for factor in (scale, offset))
    codes = np.rint((blocks - offset) * _inverse(scale)).clip(0, top)
    return _coded(layout, codes.astype(np.uint8), **fields)


def encode_q2_k(weights: F32) -> Coded:
    return _encode_super(Q2_K, weights, 15)


def encode_q4_k(weights: F32) -> Coded:
    return _encode_super(Q4_K, weights, 63)


def encode_q5_k(weights: F32) -> Coded:
    return _encode_super(Q5_K, weights, 63)


def _signed_scales(weights: F32, span: int, furthest: int, lowest: int) -> tuple[Array, Array, F32]:
    """The supers of blocks, the scales of their sub-blocks, from `lowest` on, and their products. Each takes the weight
    of largest magnitude to about `furthest`, so it may be negative."""
    blocks = weights.reshape(len(weights), -1, 256 // span, span)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)[..., 0]
    sizes = largest / np.float32(furthest)
    place = np.abs(sizes).argmax(-1, keepdims=True)
    unit = (np.take_along_axis(sizes, place, -1) / np.float32(lowest)).astype(_F16)
    scale = np.rint(sizes * _inverse(unit.astype(np.float32))).clip(lowest, -1 - lowest).astype(np.int8)
    return unit[..., 0], scale, (unit.astype(np.float32) * scale)[..., None]


def _encode_symmetric(layout: Layout, weights: F32, lowest: int) -> Coded:
    """q3_K, q6_K: the weight of largest magnitude of a sub-block gets the code 0."""
    unit, scale, step = _signed_scales(weights, layout.span, -layout.bias, lowest)
    blocks = weights.reshape(*scale.shape, layout.span)
    codes = np.rint(blocks * _inverse(step)).clip(-layout.bias, layout.bias - 1) + np.float32(layout.bias)
    return _coded(layout, codes.astype(np.uint8), super=unit, scale=scale)


def encode_iq4_xs(weights: F32) -> Coded:
    unit, scale, step = _signed_scales(weights, 32, TABLES["iq4"][0], -32)
    return _coded(IQ4_XS, _nearest_iq4(weights.reshape(*scale.shape, 32), step), super=unit, scale=scale)


def encode_q3_k(weights: F32) -> Coded:
    return _encode_symmetric(Q3_K, weights, -32)


def encode_q6_k(weights: F32) -> Coded:
    return _encode_symmetric(Q6_K, weights, -128)
