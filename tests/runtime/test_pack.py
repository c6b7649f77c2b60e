"""Packing against its definition, its memory and its buffers."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from moec.runtime.memory import aligned_empty
from moec.runtime.pack import pack_panels, panel_bytes, panel_shape
from moec.shapes import PanelShape

NUMPY = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
SHAPES = {
    "f32": PanelShape(48, "f32"),
    "bf16": PanelShape(48, "bf16", 2, 2),
    "f16": PanelShape(6, "f16"),
    "tiles": PanelShape(32, "bf16", 2, 32, 16),
    "streams": PanelShape(64, "f32", 1, 0, 32),
    "streams of pairs": PanelShape(64, "bf16", 2, 0, 32),
}


def defined(matrices: list[np.ndarray], shape: PanelShape) -> np.ndarray:
    """One expert's panels, element by element."""
    n, k = matrices[0].shape
    depth = shape.depth or shape.steps(k) * shape.kstep
    out = np.zeros(panel_shape(shape, n, k, len(matrices)), NUMPY[shape.dtype])
    part = shape.columns // len(matrices)
    for m, matrix in enumerate(matrices):
        for row in range(n):
            for i in range(k):
                tile, column = divmod(m * part + row % part, shape.width or shape.columns)
                step = i % depth // shape.kstep
                out[row // part, i // depth, tile, step, column, i % shape.kstep] = matrix[row, i]
    return out


def matrix(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(NUMPY[dtype])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (48, 2), (50, 7), (96, 257)])
@pytest.mark.parametrize("count", [1, 2])
def test_panels_are_what_their_definition_says(name: str, n: int, k: int, count: int) -> None:
    rng, shape = np.random.default_rng(1), SHAPES[name]
    matrices = [matrix(rng, shape.dtype, n, k) for _ in range(count)]
    got = pack_panels(matrices if count > 1 else matrices[0], shape)
    assert got.ctypes.data % 64 == 0
    assert got.tobytes() == defined(matrices, shape).tobytes()


@pytest.mark.parametrize("name", SHAPES)
def test_any_strides_and_any_dtype_go_in(name: str) -> None:
    rng, shape = np.random.default_rng(2), SHAPES[name]
    dtype = NUMPY[shape.dtype]
    whole = matrix(rng, "f32", 3, 2 * 50, 2 * 31)
    for view in (whole[:, ::2, ::2], whole[:, :50, :], whole.swapaxes(1, 2), whole[:, ::-1, ::-1]):
        want = b"".join(defined([expert.astype(dtype)], shape).tobytes() for expert in view)
        assert pack_panels(view, shape).tobytes() == want
        assert pack_panels(view.astype(dtype), shape).tobytes() == want


def test_bit_patterns_of_bf16_are_bf16() -> None:
    weights = matrix(np.random.default_rng(3), "bf16", 2, 50, 10)
    shape = SHAPES["bf16"]
    assert pack_panels(weights.view(np.uint16), shape).tobytes() == pack_panels(weights, shape).tobytes()


def test_a_used_buffer_is_overwritten_whole() -> None:
    shape = SHAPES["bf16"]
    weights = matrix(np.random.default_rng(4), "bf16", 50, 7)
    out = np.full(panel_bytes(shape, 50, 7), 0xFF, np.uint8)
    assert pack_panels(weights, shape, out) is out
    assert out.tobytes() == defined([weights], shape).tobytes()


@pytest.mark.parametrize("name", ["f32", "bf16", "streams"])
def test_packing_holds_next_to_nothing_beside_the_weights(name: str) -> None:
    weights = np.ones((2, 512, 1024), np.float32)
    for stack in (weights, weights.swapaxes(1, 2), weights[:, ::2]):
        out = aligned_empty(2 * panel_bytes(SHAPES[name], *stack.shape[1:]))
        tracemalloc.start()
        pack_panels(stack, SHAPES[name], out)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 0.05 * stack.nbytes


def test_what_does_not_fit_is_refused() -> None:
    shape = SHAPES["f32"]
    with pytest.raises(ValueError, match="contiguous bytes"):
        pack_panels(np.zeros((4, 4), np.float32), shape, np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match="differ in shape"):
        pack_panels([np.zeros((4, 4), np.float32), np.zeros((4, 5), np.float32)], shape)
    with pytest.raises(ValueError, match="do not divide"):
        panel_shape(shape, 4, 4, 5)


@pytest.mark.parametrize("nbytes", [1, 1000, (2 << 20) - 1, 2 << 20, (5 << 20) + 3])
def test_buffers_are_aligned_zero_and_writable(nbytes: int) -> None:
    buffer = aligned_empty(nbytes)
    assert buffer.shape == (nbytes,) and not buffer.any()
    assert buffer.ctypes.data % (64 if nbytes < 2 << 20 else 2 << 20) == 0
    buffer[:] = 1
