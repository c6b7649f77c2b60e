"""Codes in AMX's tiles: with int8 activations the bits of dot products, for every format and number of rows; with real
ones sums of what is looked up. By emulation, or for real."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest

import moec
from moec.arrays import NUMPY
from moec.codegen import tiles
from moec.formats import FORMATS
from moec.formats.blocks import Blocks
from moec.formats.layout import BLOCK, GROUP
from moec.language.read import find_source
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.kernel import Kernel
from moec.target import Target
from tests.codegen import emulation
from tests.examples import EXAMPLES
from tests.formats.test_activations import INTEGERS, PRODUCT
from tests.formats.test_storage import DIMS, arrays_of

DOTS: Final = Target.parse(f"{emulation.LINUX}:emeraldrapids:-amx-int8")
TILED: Final = [name for name in INTEGERS if emulation.AMX.tiled_from(FORMATS[name].layout.stretch)]
NARROW: Final = [name for name, format in FORMATS.items() if format.layout.looked_up]
N: Final = 70


def products(name: str, k: int) -> tuple[Kernel, Kernel]:
    """A product through tiles, and through dot products only."""
    dims, storage = {"H": k, "N": N}, {"w": name}
    one, other = (
        emulation.compile_emulated(PRODUCT, dims, storage, target, "f32", "int8") for target in (emulation.AMX, DOTS)
    )
    return one, other


def same(a: Any, b: Any) -> bool:
    return np.array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.parametrize("name", TILED)
def test_tiles_give_the_bits_of_dot_products(name: str) -> None:
    """Whole tiles and not, several parts of a panel and one, panels that are not full; a row of NaN beside others."""
    k = 768 if FORMATS[name].block == 256 else 704
    random = np.random.default_rng(1)
    coded = FORMATS[name].encode(random.standard_normal((N, k), np.float32))
    one, other = products(name, k)
    packed = other.pack({"w": Blocks(coded.shape, name, lambda _: coded)})
    for rows in (48, 85):
        x = random.standard_normal((rows, k), np.float32)
        x[3, 5], x[4] = np.nan, 0
        emulation.counts.clear()
        y = one(x, packed)
        assert emulation.counts[tiles.DOT_INT8.name] > 0
        assert same(y, other(x, packed)) and same(y[-1:], one(x[-1:], packed))
        assert np.isnan(y[3]).all() and np.isfinite(np.delete(y, 3, 0)).all()


def test_more_rows_than_a_block_has() -> None:
    random = np.random.default_rng(2)
    coded = FORMATS["int8"].encode(random.standard_normal((N, 100), np.float32))
    one, other = products("int8", 100)
    packed = one.pack({"w": Blocks(coded.shape, "int8", lambda _: coded)})
    x = random.standard_normal((530, 100), np.float32)
    assert same(one(x, packed), other(x, packed))


def test_few_rows_and_short_stretches_stay_with_dot_products() -> None:
    """Blocks of rows are as fast in vectors, and with a scale for 16 k a tile is a quarter full."""
    assert {name for name in INTEGERS if name not in TILED} == {"q2_K", "q3_K", "q6_K", "nvfp4"}
    options = Options.of({"H": 256, "N": N}, target=emulation.AMX, storage={"w": "q6_K"}, activations="int8")
    assert "tdpbssd" not in str(Compilation(find_source(PRODUCT), options).show("llvm"))
    coded = FORMATS["q8_0"].encode(np.ones((N, 64), np.float32))
    one, _ = products("q8_0", 64)
    emulation.counts.clear()
    one(np.ones((31, 64), np.float32), one.pack({"w": Blocks(coded.shape, "q8_0", lambda _: coded)}))
    assert not emulation.counts


@pytest.mark.parametrize("name", NARROW)
def test_some_rows_meet_codes_that_are_looked_up(name: str) -> None:
    """Beside rows of bf16 codes are exact, and scales come in afterwards: unlike weights of many rows, which are
    rounded to bf16, they give sums as exact as f32 is. Tiles of 8 rows and of 16, not all of them there."""
    k = 768 if FORMATS[name].block == 256 else 704
    random = np.random.default_rng(5)
    coded = FORMATS[name].encode(random.standard_normal((N, k), np.float32))
    kernel = emulation.compile_emulated(PRODUCT, {"H": k, "N": N}, {"w": name}, emulation.AMX, "bf16")
    packed, weights = kernel.pack({"w": Blocks(coded.shape, name, lambda _: coded)}), coded.decode().astype(float)
    for rows in (3, 8) if FORMATS[name].layout.stretch < GROUP else (3, 8, 13):
        x = random.standard_normal((rows, k), np.float32).astype(NUMPY["bf16"])
        emulation.counts.clear()
        y = kernel(x, packed)
        assert emulation.counts[tiles.DOT_BF16.name] > 0
        wide = x.astype(float)
        assert (np.abs(y - wide @ weights.T) <= 2e-6 * np.abs(wide) @ np.abs(weights.T)).all()
        assert same(y[-3:], kernel(x[-3:], packed))


def test_layers_give_the_same_bits() -> None:
    """Gate and up in one panel, rows that are quantised where they are multiplied, experts with few rows and many."""
    one, other = (
        emulation.compile_emulated(EXAMPLES / "mixtral.moe", DIMS["mixtral"], "q4_K", target, "bf16", "int8")
        for target in (emulation.AMX, DOTS)
    )
    packed = other.pack(arrays_of("mixtral"))
    x = np.random.default_rng(3).standard_normal((200, DIMS["mixtral"]["H"])).astype(NUMPY["bf16"])
    emulation.counts.clear()
    y = one(x, packed)
    assert emulation.counts[tiles.DOT_INT8.name] > 0
    assert same(y, other(x, packed)) and same(y[7:8], one(x[7:8], packed))


def test_sums_stay_in_registers() -> None:
    """No vector of the loop in which integers are scaled goes through the stack."""
    options = Options.of({"H": 256, "N": N}, target=emulation.AMX, storage={"w": "q5_1"}, activations="int8")
    text = str(Compilation(find_source(PRODUCT), options).show("asm"))
    steps = text[(start := text.index("\nmoec_steps_")) : text.index(".Lfunc_end", start)]
    assert steps.count("vcvtdq2ps") == 16 * BLOCK // 32 and "tdpbssd" in steps
    assert not [line for line in steps.splitlines() if "zmm" in line and "%rsp" in line]


@pytest.mark.skipif(Target.host().tiled_from(BLOCK) is None, reason="no AMX here; the emulation runs anywhere")
@pytest.mark.parametrize("name", TILED)
def test_tiles_of_this_machine(name: str) -> None:
    k = 768 if FORMATS[name].block == 256 else 704
    random, dims = np.random.default_rng(4), {"H": k, "N": N}
    coded = FORMATS[name].encode(random.standard_normal((N, k), np.float32))
    kernel = moec.compile(PRODUCT, dims, "f32", 2, storage={"w": name}, activations="int8")
    packed = kernel.pack({"w": Blocks(coded.shape, name, lambda _: coded)})
    _, other = products(name, k)
    for rows in (48, 85, 300):
        x = random.standard_normal((rows, k), np.float32)
        assert same(kernel(x, packed), other(x, packed))
