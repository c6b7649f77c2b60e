"""Products in AMX's tiles: whole layers against the oracle, by emulation and, where there are tiles, for real; the
instructions against their meanings; facts about the assembly."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir

import moec
from moec.arrays import NUMPY
from moec.codegen import native, tiles
from moec.codegen.llvm import PTR, VOID, Emitter, i64
from moec.measure.compare import TOLERANCES
from moec.oracle import Result, reference
from moec.runtime.jit import Library
from moec.runtime.kernel import Kernel
from moec.runtime.stored import decoded
from moec.target import Target
from tests.agreement import require_right
from tests.codegen import emulation
from tests.examples import EXAMPLES, SMALL, load, random_inputs, random_weights

HAS_TILES: Final = Target.host().kernel("bf16").form == "amx"
with_tiles: Final = pytest.mark.skipif(not HAS_TILES, reason="no AMX here; the emulation runs anywhere")


def check(kernel: Kernel, layer: str, dims: dict[str, int], counts: tuple[int, ...]) -> list[np.ndarray]:
    """The kernel agrees with the oracle, and gives one token alone the same bits, unless it looks along the tokens or
    its weights are stored: a few rows do not go through tiles then. Its first outputs."""
    given = random_weights(load(layer), dims, seed=1)
    weights = {p.name: np.asarray(given[p.name]).astype(NUMPY[p.dtype]) for p in kernel.interface.params}
    packed = kernel.pack(weights)
    oracle = reference(EXAMPLES / f"{layer}.moe", dims=dims, dtype="bf16")
    calls, firsts = list[tuple[Any, Result]](), list[np.ndarray]()
    for tokens in counts:
        drawn = random_inputs(load(layer), dims, tokens, seed=tokens)
        values = list(drawn.values() if isinstance(drawn, dict) else drawn)
        inputs = [np.asarray(v).astype(NUMPY[i.dtype]) for v, i in zip(values, kernel.interface.inputs, strict=True)]
        outputs = kernel(*inputs, packed)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        truth = oracle.run(tuple(inputs), decoded(kernel.interface, weights), margin=5e-3)
        calls.append((outputs, truth))
        firsts.append(outputs[0])
        if kernel.interface.batch or kernel.interface.storage:
            continue
        alone = kernel(*(array[-1:] for array in inputs), packed)
        for one, all_of_them in zip(alone if isinstance(alone, tuple) else (alone,), outputs, strict=True):
            assert np.array_equal(one.view(np.uint8), all_of_them[-1:].view(np.uint8))
    require_right(calls, TOLERANCES["bf16"])
    return firsts


def check_emulated(layer: str, dims: dict[str, int], counts: tuple[int, ...], storage: str | None = None) -> None:
    emulation.counts.clear()
    check(emulation.compile_emulated(EXAMPLES / f"{layer}.moe", dims, storage), layer, dims, counts)
    assert emulation.counts[tiles.DOT_BF16.name] > 0


@pytest.mark.parametrize("layer", SMALL)
def test_layers_agree_with_the_oracle(layer: str) -> None:
    check_emulated(layer, SMALL[layer], (1, 37))


def test_many_rows_pass_over_parts_of_a_panel() -> None:
    """More than a block of rows for one matrix, and k in several parts, the last of which is not whole."""
    check_emulated("mixtral", {"H": 488, "I": 24, "E": 2, "K": 1}, (7, 600))


def test_long_vectors_are_cut_and_the_sums_of_panels_wait() -> None:
    """But not those of so few rows that they stay in the second cache."""
    check_emulated("mixtral", {"H": 1100, "I": 24, "E": 2, "K": 1}, (3, 100, 400))


@pytest.mark.parametrize("size", [8, 16, 40])
def test_zeros_follow_the_results_that_a_product_leaves_gathered(size: int) -> None:
    check_emulated("mixtral", {"H": 64, "I": size, "E": 3, "K": 2}, (1, 50))


@pytest.mark.parametrize("storage", ["q4_K", "int8"])
def test_stored_weights_are_decoded_into_tiles(storage: str) -> None:
    check_emulated("mixtral", {"H": 256, "I": 256, "E": 3, "K": 2}, (1, 60), storage)


@with_tiles
@pytest.mark.parametrize("layer", SMALL)
def test_tiles_give_what_the_emulation_gives(layer: str) -> None:
    """The same bits, of the program as it is and of the one whose instructions are NumPy."""
    counts = (1, 3, 17, 64)
    real = check(moec.compile(EXAMPLES / f"{layer}.moe", SMALL[layer], "bf16", threads=1), layer, SMALL[layer], counts)
    kernel = emulation.compile_emulated(EXAMPLES / f"{layer}.moe", SMALL[layer], target=Target.host())
    for one, other in zip(real, check(kernel, layer, SMALL[layer], counts), strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


def dot_program(target: Target, dot: tiles.Instruction) -> Library:
    """`void dot(ptr c, ptr a, ptr b)`: tiles of 64 bytes a row, c += a b."""
    module = ir.Module("dot")
    module.triple = target.triple
    function = ir.Function(module, ir.FunctionType(VOID, [PTR, PTR, PTR]), "dot")
    e = Emitter(ir.IRBuilder(function.append_basic_block()), target)
    tiles.configure(e.b)
    for tile, place in enumerate(function.args):
        tiles.LOAD.emit(e.b, tile, place, i64(64))
    dot.emit(e.b, 0, 1, 2)
    tiles.STORE.emit(e.b, 0, function.args[0], i64(64))
    tiles.RELEASE.emit(e.b)
    e.b.ret_void()
    return Library(native.object_code(native.parse(str(module)), target), "dot")


@with_tiles
def test_a_product_of_tiles_means_what_is_written_down() -> None:
    """Random numbers of like and of unlike size, subnormal ones, infinities and NaN."""
    library = dot_program(Target.host(), tiles.DOT_BF16)
    dot = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(library.address("dot"))
    random = np.random.default_rng(0)
    special = np.array([0, -0.0, 1e-39, -3e-39, 1e-20, 3e38, np.inf, -np.inf, np.nan, 1.0], np.float32)
    for turn in range(40):
        drawn: Any = random.standard_normal((2, 16, 32)).astype(np.float32)
        c = random.standard_normal((16, 16)).astype(np.float32)
        if turn % 4 == 1:
            drawn *= np.exp2(random.integers(-20, 20, drawn.shape)).astype(np.float32)
        if turn % 4 == 2:
            drawn *= np.float32(2.0**-62)  # products and sums around the smallest normal number
            c *= np.float32(2.0**-125)
        if turn % 4 == 3:
            drawn = np.where(random.random(drawn.shape) < 0.02, random.choice(special, drawn.shape), drawn)
        a, b = drawn.astype(ml_dtypes.bfloat16)
        state = emulation.Tiles()
        state.data[:3] = c.view(np.uint8), a.view(np.uint8), b.view(np.uint8)
        emulation.dot_bf16(state, 0, 1, 2)
        expected = state.data[0].view(np.float32)
        dot(c.ctypes.data, a.ctypes.data, b.ctypes.data)
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(c), ~numbers)
        np.testing.assert_array_equal(c[numbers].view(np.uint32), expected[numbers].view(np.uint32), f"turn {turn}")


@with_tiles
def test_a_product_of_bytes_means_what_is_written_down() -> None:
    library = dot_program(Target.host(), tiles.DOT_INT8)
    dot = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(library.address("dot"))
    random = np.random.default_rng(0)
    for _ in range(10):
        a, b = random.integers(-128, 128, (2, 16, 64)).astype(np.int8)
        c = random.integers(-(2**31), 2**31, (16, 16)).astype(np.int32)
        state = emulation.Tiles()
        state.data[:3] = c.view(np.uint8), a.view(np.uint8), b.view(np.uint8)
        emulation.dot_int8(state, 0, 1, 2)
        dot(c.ctypes.data, a.ctypes.data, b.ctypes.data)
        np.testing.assert_array_equal(c, state.data[0].view(np.int32))
