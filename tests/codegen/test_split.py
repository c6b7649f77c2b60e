"""Products of f32 and f16 through tiles of bf16: the pieces of numbers, and layers against the oracle and beside
multiply-adds; by emulation, and where there are tiles, for real."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir

import moec
from moec.arrays import NUMPY
from moec.codegen import native, tiles
from moec.codegen.pieces import PIECES, emit_split_panel, emit_split_row
from moec.measure.compare import TOLERANCES, errors
from moec.oracle import reference
from moec.runtime.jit import Library
from moec.runtime.kernel import Kernel
from moec.runtime.memory import aligned_empty
from moec.runtime.stored import decoded
from moec.shapes import KernelShape
from moec.target import Target
from tests.codegen import emulation
from tests.examples import EXAMPLES, load, random_inputs, random_weights

AMX: Final = Target.of(emulation.LINUX, "graniterapids")
#: The same machine where f32 stays with multiply-adds.
PLAIN: Final = AMX.without("amx-bf16")
LEAST: Final = AMX.split_from(AMX.kernel("f32")) or 0
HAS_TILES: Final = Target.host().split_from(Target.host().kernel("f32")) is not None

# ── pieces ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def compiled(emit: Callable[..., ir.Function], *arguments: Any) -> tuple[Library, str]:
    """A function of `moec.codegen.pieces` for this machine."""
    target, module = Target.host(), ir.Module("split")
    module.triple = target.triple
    function = emit(module, target, *arguments)
    return Library(native.object_code(native.parse(str(module)), target), function.name), function.name


def split(emit: Callable[..., ir.Function], arguments: tuple[Any, ...], source: Any, to: Any, *numbers: int) -> None:
    library, name = compiled(emit, *arguments)
    types = (ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * len(numbers))
    ctypes.CFUNCTYPE(None, *types)(library.address(name))(source.ctypes.data, to.ctypes.data, *numbers)


def taken_apart(size: int) -> Any:
    """Memory for so many bf16, full of something."""
    memory = aligned_empty(2 * size).view(np.uint16)
    memory[:] = 0x1234
    return memory.view(ml_dtypes.bfloat16)


def split_row(x: Any, pieces: int) -> Any:
    """f32[pieces, k / 32 * 32]"""
    turns = -(-len(x) // tiles.DEPTH)
    to = taken_apart(turns * pieces * tiles.ROWS * tiles.DEPTH)
    split(emit_split_row, (pieces, len(x) % tiles.DEPTH), x, to, len(x))
    found = to.reshape(turns, pieces, tiles.ROWS, tiles.DEPTH)[:, :, 0].astype(np.float32)
    return found.transpose(1, 0, 2).reshape(pieces, -1)


def split_panel(panel: Any, dtype: str, streams: int = 1) -> Any:
    """f32[pieces, k / 32 * 32, columns] of [k, columns], which stand in so many streams."""
    (k, columns), pieces = panel.shape, PIECES[dtype]
    shape = KernelShape(dtype, "fma", 1, columns, 1, tiles.ROWS, streams)
    panel = np.ascontiguousarray(panel.reshape(k, streams, -1).swapaxes(0, 1))
    turns, width = -(-k // tiles.DEPTH), columns // tiles.ROWS
    to = taken_apart(turns * pieces * columns * tiles.DEPTH)
    split(emit_split_panel, (shape, k % tiles.DEPTH), panel, to, k, panel.nbytes // streams)
    found = to.reshape(turns, pieces, width, tiles.ROWS, tiles.ROWS, 2).astype(np.float32)
    return found.transpose(1, 0, 3, 5, 2, 4).reshape(pieces, -1, columns)


#: Every f32 whose last piece is not subnormal, on either side of 0, and 0.
_WORDS: Final = st.integers(25 << 23, (255 << 23) - 1) | st.just(0)


@given(words=st.lists(_WORDS, min_size=1, max_size=70), signs=st.integers(0, 2**70 - 1))
def test_three_pieces_are_an_f32(words: list[int], signs: int) -> None:
    x = np.array([word | (signs >> i & 1) << 31 for i, word in enumerate(words)], np.uint32).view(np.float32)
    found = split_row(x, 3).astype(np.float64)
    np.testing.assert_array_equal(found.sum(axis=0)[: len(x)], x)
    assert not found[:, len(x) :].any()


def test_two_pieces_are_an_f16() -> None:
    """Every one that there is."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = np.resize(every[np.isfinite(every)], (1 << 11, 32))
    found = split_panel(every, "f16")
    np.testing.assert_array_equal(found.sum(axis=0), every.astype(np.float32))


@pytest.mark.parametrize("k", [32, 31, 33, 64, 90])
@pytest.mark.parametrize("columns", [16, 48, 64])
@pytest.mark.parametrize("dtype", PIECES)
def test_panels_end_with_zeros(dtype: str, columns: int, k: int) -> None:
    panel = np.random.default_rng(k).standard_normal((k, columns)).astype(NUMPY[dtype])
    for streams in (1, 2) if columns == 64 else (1,):
        found = split_panel(panel, dtype, streams).astype(np.float64)
        np.testing.assert_array_equal(found.sum(axis=0)[:k], panel)
        assert not found[:, k:].any()


# ── layers ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def tiled(layer: str, dims: dict[str, int], dtype: str, storage: str | None = None, target: Target = AMX) -> Kernel:
    return emulation.compile_emulated(EXAMPLES / f"{layer}.moe", dims, storage, target, dtype)


def call(kernel: Kernel, layer: str, dims: dict[str, int], tokens: int, dtype: str) -> tuple[Any, Any]:
    """A layer's output and its errors, of the tokens whose experts are sure; of the largest magnitude."""
    given = random_weights(load(layer), dims, seed=1)
    weights = {p.name: np.asarray(given[p.name]).astype(NUMPY[p.dtype]) for p in kernel.interface.params}
    drawn = random_inputs(load(layer), dims, tokens, seed=tokens)
    values = list(drawn.values() if isinstance(drawn, dict) else drawn)
    inputs = [np.asarray(v).astype(NUMPY[i.dtype]) for v, i in zip(values, kernel.interface.inputs, strict=True)]
    found: Any = kernel(*inputs, kernel.pack(weights))
    oracle = reference(EXAMPLES / f"{layer}.moe", dims=dims, dtype=dtype)
    truth = oracle.run(tuple(inputs), decoded(kernel.interface, weights), margin=1e-5)
    assert truth.stable.sum() >= tokens // 2
    return found, errors(found, truth.outputs[0])[truth.stable]


@pytest.mark.parametrize("dtype", PIECES)
@pytest.mark.parametrize(
    ("dims", "tokens"),
    [
        ({"H": 64, "I": 64, "E": 1, "K": 1}, LEAST),
        ({"H": 50, "I": 48, "E": 2, "K": 1}, 250),  # three tiles beside each other, k that ends inside a turn
        ({"H": 96, "I": 40, "E": 3, "K": 2}, 200),
        ({"H": 33, "I": 130, "E": 1, "K": 1}, 300),
    ],
)
def test_many_rows_agree_with_the_oracle(dtype: str, dims: dict[str, int], tokens: int) -> None:
    emulation.counts.clear()
    _, error = call(tiled("mixtral", dims, dtype), "mixtral", dims, tokens, dtype)
    assert emulation.counts[tiles.DOT_BF16.name] > 0
    assert error.max() <= TOLERANCES[dtype]


@pytest.mark.parametrize("kilobytes", [128, 512])
def test_long_vectors_are_cut_and_the_sums_of_panels_wait(kilobytes: int) -> None:
    """In three stretches; there are more rows than a block has. Fewer pass over whole vectors, for the same bits."""
    dims = {"H": 700, "I": 24, "E": 1, "K": 1}
    small = Target(emulation.LINUX, "graniterapids", l2=kilobytes << 10)
    kernel = tiled("mixtral", dims, "f32", target=small)
    emulation.counts.clear()
    many, error = call(kernel, "mixtral", dims, 300, "f32")
    assert emulation.counts[tiles.DOT_BF16.name] > 0
    assert error.max() <= TOLERANCES["f32"]
    given = random_weights(load("mixtral"), dims, seed=1)
    packed = kernel.pack({p.name: np.asarray(given[p.name]).astype(NUMPY[p.dtype]) for p in kernel.interface.params})
    (x,) = (np.asarray(v).astype(np.float32) for v in random_inputs(load("mixtral"), dims, 300, seed=300).values())
    few: Any = kernel(x[: LEAST + 7], packed)
    np.testing.assert_array_equal(few.view(np.uint32), many[: LEAST + 7].view(np.uint32))


@pytest.mark.parametrize("storage", ["q4_K", "q8_0", "int8"])
def test_stored_weights_are_decoded_and_split(storage: str) -> None:
    dims = {"H": 256, "I": 256, "E": 1, "K": 1}
    emulation.counts.clear()
    _, error = call(tiled("mixtral", dims, "f32", storage), "mixtral", dims, 2 * LEAST, "f32")
    assert emulation.counts[tiles.DOT_BF16.name] > 0
    assert error.max() <= TOLERANCES["f32"]


def test_tiles_are_as_exact_as_multiply_adds() -> None:
    dims = {"H": 512, "I": 256, "E": 1, "K": 1}
    (_, ours), (_, theirs) = (
        call(tiled("mixtral", dims, "f32", target=target), "mixtral", dims, LEAST, "f32") for target in (AMX, PLAIN)
    )
    assert 0 < ours.mean() <= 1.5 * theirs.mean()


def test_few_rows_stay_with_multiply_adds() -> None:
    """And give their bits."""
    dims = {"H": 64, "I": 64, "E": 1, "K": 1}
    emulation.counts.clear()
    one, other = (
        call(tiled("mixtral", dims, "f32", target=target), "mixtral", dims, LEAST - 1, "f32")[0]
        for target in (AMX, PLAIN)
    )
    assert tiles.DOT_BF16.name not in emulation.counts
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


def test_a_router_gives_the_same_bits_however_many_tokens_come_together() -> None:
    text = """
    moe router[H, E](x: [H]) -> f32[E] {
        param w: [E, H]
        return w @ x
    }
    """
    kernel = emulation.compile_emulated(text, {"H": 96, "E": 20}, dtype="f32", target=AMX)
    random = np.random.default_rng(0)
    packed = kernel.pack({"w": random.standard_normal((20, 96), np.float32)})
    x = random.standard_normal((3 * LEAST, 96), np.float32)
    np.testing.assert_array_equal(kernel(x, packed)[-1:], kernel(x[-1:], packed))


def test_infinities_and_what_is_no_number() -> None:
    """They stay in their rows, and infinities are not lost: such rows, and those of the same expert, are those of
    multiply-adds."""
    dims = {"H": 64, "N": 40, "E": 2}
    text = "moe m[H, N, E](x: [H], e: i64) -> f32[N] { param w: [E, N, H] return w[e] @ x }"
    one, other = (emulation.compile_emulated(text, dims, dtype="f32", target=target) for target in (AMX, PLAIN))
    random = np.random.default_rng(0)
    packed = one.pack({"w": random.standard_normal((2, 40, 64), np.float32)})
    x = random.standard_normal((2 * LEAST, 64), np.float32)
    experts = np.arange(2 * LEAST) % 2
    for row, number in ((3, np.nan), (5, np.inf), (7, -np.inf)):
        x[row, 5] = number
    emulation.counts.clear()
    y: Any = one(x, experts, packed)
    assert emulation.counts[tiles.DOT_BF16.name] > 0
    right = other(x, experts, packed)
    np.testing.assert_array_equal(y[1::2], right[1::2])
    assert np.isnan(y[3]).all() and np.isinf(y[5:9:2]).all() and np.isfinite(np.delete(y, [3, 5, 7], 0)).all()
    assert not np.array_equal(y[::2], right[::2])


@pytest.mark.skipif(not HAS_TILES, reason="no AMX here; the emulation runs anywhere")
@pytest.mark.parametrize("dtype", PIECES)
def test_tiles_give_what_the_emulation_gives(dtype: str) -> None:
    """The same bits, and the same whatever the number of threads."""
    dims = {"H": 100, "I": 72, "E": 3, "K": 2}
    path = EXAMPLES / "mixtral.moe"
    kernels = [moec.compile(path, dims, dtype, threads=threads) for threads in (1, 2)]
    kernels.append(tiled("mixtral", dims, dtype, target=Target.host()))
    first, *others = (call(kernel, "mixtral", dims, 200, dtype)[0] for kernel in kernels)
    for other in others:
        np.testing.assert_array_equal(first.view(np.uint8), other.view(np.uint8))
