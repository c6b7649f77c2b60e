"""How checkpoints keep quantised weights, against the arithmetic of those who write them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from moec.diagnostics import CompileError
from moec.formats import FORMATS
from moec.formats.blocks import Blocks, join_blocks
from moec.formats.origins import ORIGINS, Misfit

N, K = 48, 256
FP8 = ml_dtypes.float8_e4m3fn
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def rng() -> Any:
    return np.random.default_rng(5)


def words(nibbles: Any, order: tuple[int, ...] = tuple(range(8))) -> Any:
    """Eight codes along the last axis in a word; the code at place i goes to the bits 4 * order[i]."""
    parts = nibbles.reshape(*nibbles.shape[:-1], -1, 8).astype(np.uint32)
    return np.bitwise_or.reduce(parts << np.array([4 * place for place in order], np.uint32), -1).view(np.int32)


def spread(numbers: Any, group: int, axis: int) -> Any:
    """A number for each group as one for each weight."""
    return np.repeat(numbers.astype(np.float32), group, axis)


def gptq(zero: bool, group: int = 128) -> tuple[dict[str, Any], Any]:
    codes = rng().integers(0, 16, (K, N))
    zeros = rng().integers(0, 15, (K // group, N)) if zero else np.full((K // group, N), 7)
    scales = rng().random((K // group, N)).astype(np.float16)
    parts = {"codes": np.ascontiguousarray(words(codes.T).T), "zeros": words(zeros), "scales": scales}
    parts["order"] = (np.arange(K) // group).astype(np.int32)
    return parts, ((codes - spread(zeros + 1, group, 0)) * spread(scales, group, 0)).T


def awq(group: int = 64) -> tuple[dict[str, Any], Any]:
    # A word's nibbles, lowest first, are the columns 0, 2, 4, 6, 1, 3, 5, 7.
    places = (0, 4, 1, 5, 2, 6, 3, 7)
    codes, zeros = rng().integers(0, 16, (K, N)), rng().integers(0, 16, (K // group, N))
    scales = rng().random((K // group, N)).astype(np.float16)
    parts = {"codes": words(codes, places), "zeros": words(zeros, places), "scales": scales}
    return parts, ((codes - spread(zeros, group, 0)) * spread(scales, group, 0)).T


def packed(zero: str = "", group: int = 32, kind: Any = ml_dtypes.bfloat16, n: int = N) -> tuple[dict[str, Any], Any]:
    """Codes and zero points of -8 .. 7; zero points in words of eight rows, or as they are."""
    codes, scales = rng().integers(-8, 8, (3, n, K)), rng().random((3, n, K // group)).astype(kind)
    zeros = rng().integers(-8, 8, scales.shape) if zero else np.zeros(scales.shape)
    parts = {"codes": words(codes + 8), "scales": scales, "shape": np.array([n, K])}
    if zero == "words":
        turned = np.pad((zeros + 8).swapaxes(1, 2), ((0, 0), (0, 0), (0, -n % 8)))
        parts["zeros"] = np.ascontiguousarray(words(turned).swapaxes(1, 2))
    elif zero:
        parts["zeros"] = zeros.astype(np.int8)
    return parts, (codes - spread(zeros, group, -1)) * spread(scales, group, -1)


def mxfp4() -> tuple[dict[str, Any], Any]:
    codes, scales = rng().integers(0, 16, (2, N, K // 32, 32)), rng().integers(100, 140, (2, N, K // 32))
    parts = {"codes": (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8), "scales": scales.astype(np.uint8)}
    return parts, np.ldexp(E2M1[codes], (scales - 127)[..., None]).reshape(2, N, K)


def nvfp4() -> tuple[dict[str, Any], Any]:
    codes, whole = rng().integers(0, 16, (N, K)), np.array(0.37, np.float32)
    scales = rng().random((N, K // 16), np.float32).astype(FP8)
    parts = {"codes": (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8), "scales": scales, "scale of all": whole}
    return parts, E2M1[codes] * (np.repeat(scales.astype(np.float32), 16, -1) * whole)


def fp8(scale: Any) -> tuple[dict[str, Any], Any]:
    codes = rng().standard_normal((2, N, K)).astype(FP8)
    return {"codes": codes, "scales": scale}, codes.astype(np.float32) * np.float32(scale)


def fp8_block() -> tuple[dict[str, Any], Any]:
    codes, scales = rng().standard_normal((200, 300)).astype(FP8), rng().random((2, 3), np.float32)
    spread = np.repeat(np.repeat(scales, 128, 0), 128, 1)[:200, :300]
    return {"codes": codes, "scales": scales}, codes.astype(np.float32) * spread


def int8() -> tuple[dict[str, Any], Any]:
    codes, scales = rng().integers(-128, 128, (2, N, K)).astype(np.int8), rng().random((2, N, 1), np.float32)
    return {"codes": codes, "scales": scales}, codes * scales


#: What int4 comes as: by its writer, for every group that moec has.
INT4: dict[str, tuple[str, str, tuple[dict[str, Any], Any]]] = {}
for size in (32, 64, 128):
    INT4[f"gptq {size}"] = ("gptq", f"int4_g{size}", gptq(False, size))
    INT4[f"gptq_zp {size}"] = ("gptq_zp", f"int4_g{size}_zp", gptq(True, size))
    INT4[f"awq {size}"] = ("awq", f"int4_g{size}_zp", awq(size))
    for name, kind in (("", np.float16), ("_bf16", ml_dtypes.bfloat16)):
        INT4[f"packed {size}{name}"] = ("packed", f"int4_g{size}{name}", packed("", size, kind))
        for zero in ("words", "bytes"):
            case = ("packed", f"int4_g{size}_zp{name}", packed(zero, size, kind))
            INT4[f"packed with zero points in {zero} {size}{name}"] = case
INT4["packed, rows that end inside a word"] = ("packed", "int4_g32_zp_bf16", packed("words", n=45))

CASES: dict[str, tuple[str, str, tuple[dict[str, Any], Any]]] = {
    **INT4,
    "mxfp4": ("mxfp4", "mxfp4", mxfp4()),
    "nvfp4": ("nvfp4", "nvfp4", nvfp4()),
    "fp8, a scale for each row": ("fp8", "fp8", fp8(rng().random((2, N, 1), np.float32))),
    "fp8, a scale for all": ("fp8", "fp8", fp8(np.array([0.25], np.float32))),
    "fp8_block": ("fp8_block", "fp8_block", fp8_block()),
    "int8": ("int8", "int8", int8()),
}


@pytest.mark.parametrize("case", CASES)
def test_an_origin_means_what_its_writer_says(case: str) -> None:
    name, format, (parts, wanted) = CASES[case]
    blocks = ORIGINS[name].open(parts)
    assert blocks.format == format and blocks.shape == wanted.shape
    np.testing.assert_allclose(blocks.decode(), wanted, rtol=2e-6, atol=1e-6)
    assert blocks.read(0).layout == FORMATS[format].layout


@pytest.mark.parametrize("name", ORIGINS)
def test_every_origin_is_tried(name: str) -> None:
    assert any(origin == name for origin, *_ in CASES.values())


@pytest.mark.parametrize("case", CASES)
def test_parts_that_do_not_fit_are_named(case: str) -> None:
    name, _, (parts, _) = CASES[case]
    for part in parts:
        with pytest.raises(Misfit):
            ORIGINS[name].open({**parts, part: np.zeros((3, 5, 7, 2), np.int16)})
        if part in ("scales", "zeros") and parts[part].size > 1:
            with pytest.raises(Misfit):
                ORIGINS[name].open({**parts, part: parts[part][:-1]})


@pytest.mark.parametrize("case", CASES)
def test_a_scale_that_is_no_number_is_found_before_codes_are_read(case: str) -> None:
    name, _, (parts, _) = CASES[case]
    for part in [part for part in parts if part.startswith("scale")]:
        scales = parts[part].copy()
        scales.reshape(-1)[-1] = 255 if scales.dtype == np.uint8 else np.nan
        blocks = ORIGINS[name].open({**parts, part: scales}).checked("`w` in `file`")
        with pytest.raises(CompileError, match=r"E0407.*`w` in `file`.*is not finite"):
            list(blocks.scan())
        with pytest.raises(CompileError, match="E0407"):
            blocks.read(len(parts["codes"]) - 1 if len(blocks.shape) > 2 else 0)
        joined = Blocks.stack([blocks, blocks])
        for view in (joined, joined.pick(joined.rows[:, ..., ::2]), join_blocks([blocks, blocks], 0)):
            with pytest.raises(CompileError, match=r"E0407.*`w` in `file`"):
                list(view.checked("another name").scan())
    list(ORIGINS[name].open(parts).checked("").scan())


@pytest.mark.parametrize(
    ("name", "case", "part", "change", "says"),
    [
        ("gptq", "gptq_zp 64", "zeros", lambda zeros: zeros, "it is `gptq_zp`"),
        ("gptq_zp", "gptq_zp 64", "order", lambda order: order[::-1].copy(), "act-order.*no 64 that lie together"),
        ("gptq", "gptq 64", "zeros", lambda zeros: zeros + 0x11111111, "second version"),
        ("gptq_zp", "gptq_zp 64", "zeros", lambda zeros: zeros | 15, "whether that is 0 or 16"),
        ("gptq", "gptq 64", "scales", lambda scales: scales.astype(np.float32), "float32, not float16"),
        ("gptq", "gptq 64", "scales", lambda scales: scales[:1], "groups of 32, 64 and 128"),
        ("packed", "packed 32", "order", lambda _: np.arange(K) % 8, "act-order"),
        ("packed", "packed 32", "shape", lambda _: np.array([N, K // 2]), "if they have 4 bits"),
        ("packed", "packed with zero points in bytes 32", "zeros", lambda zeros: zeros * 2, "outside -8"),
    ],
)
def test_what_cannot_be_read_says_why(name: str, case: str, part: str, change: Any, says: str) -> None:
    parts = CASES[case][2][0]
    with pytest.raises(Misfit, match=says):
        ORIGINS[name].open({**parts, part: change(parts.get(part))})


def test_an_order_that_was_never_set_is_none() -> None:
    parts, wanted = packed()
    blocks = ORIGINS["packed"].open({**parts, "order": np.full(K, -1, np.int32)})
    np.testing.assert_array_equal(blocks.decode(), wanted)
