"""How checkpoints keep quantised weights, against the arithmetic of those who write them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from moec.formats import FORMATS
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


def gptq(zero: bool) -> tuple[dict[str, Any], Any]:
    codes = rng().integers(0, 16, (K, N))
    zeros = rng().integers(0, 16, (K // 128, N)) if zero else np.full((K // 128, N), 7)
    scales = rng().random((K // 128, N)).astype(np.float16)
    parts = {"codes": np.ascontiguousarray(words(codes.T).T), "zeros": words(zeros), "scales": scales}
    parts["order"] = (np.arange(K) // 128).astype(np.int32)
    spread = [np.repeat(part.astype(np.float32), 128, 0) for part in (zeros + 1, scales)]
    return parts, ((codes - spread[0]) * spread[1]).T


def awq() -> tuple[dict[str, Any], Any]:
    # A word's nibbles, lowest first, are the columns 0, 2, 4, 6, 1, 3, 5, 7.
    places = (0, 4, 1, 5, 2, 6, 3, 7)
    codes, zeros = rng().integers(0, 16, (K, N)), rng().integers(0, 16, (K // 64, N))
    scales = rng().random((K // 64, N)).astype(np.float16)
    spread = [np.repeat(part.astype(np.float32), 64, 0) for part in (zeros, scales)]
    parts = {"codes": words(codes, places), "zeros": words(zeros, places), "scales": scales}
    return parts, ((codes - spread[0]) * spread[1]).T


def packed() -> tuple[dict[str, Any], Any]:
    codes, scales = rng().integers(-8, 8, (3, N, K)), rng().random((3, N, K // 32)).astype(ml_dtypes.bfloat16)
    return {"codes": words(codes + 8), "scales": scales}, codes * np.repeat(scales.astype(np.float32), 32, -1)


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


CASES: dict[str, tuple[str, str, tuple[dict[str, Any], Any]]] = {
    "gptq": ("gptq", "int4_g128", gptq(False)),
    "gptq_zp": ("gptq_zp", "int4_g128_zp", gptq(True)),
    "awq": ("awq", "int4_g64_zp", awq()),
    "packed": ("packed", "int4_g32_bf16", packed()),
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


def test_what_gptq_may_be_and_moec_cannot_read() -> None:
    parts, _ = gptq(True)
    with pytest.raises(Misfit, match="gptq_zp"):
        ORIGINS["gptq"].open(parts)
    with pytest.raises(Misfit, match="g_idx"):
        ORIGINS["gptq_zp"].open({**parts, "order": parts["order"][::-1].copy()})
