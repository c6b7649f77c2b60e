"""Blocks of rows beside quantised codes: for every format and number of rows the bits of a row at a time."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
import pytest

import moec
from moec.arrays import NUMPY
from moec.formats import FORMATS
from moec.formats.blocks import Blocks
from moec.formats.layout import BLOCK
from moec.language.read import find_source
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.kernel import Kernel
from moec.target import Target
from tests.examples import EXAMPLES
from tests.formats.test_activations import INTEGERS, PRODUCT
from tests.formats.test_storage import DIMS, arrays_of

#: Panels of 64, 48 and 16 columns, the last not full.
WIDTHS: Final = (70, 96, 10)
#: A machine that keeps integers of several rows in registers, without tiles.
VECTORS: Final = Target.host().without("amx-tile", "amx-int8", "amx-bf16")
needs_vectors = pytest.mark.skipif(not VECTORS.byte_blocks, reason="needs a processor with 512-bit vpdpbusd")


def same(a: Any, b: Any) -> bool:
    return np.array_equal(a.view(np.uint8), b.view(np.uint8))


def alone(kernel: Kernel, x: Any, packed: Any) -> Any:
    """Every row in a call of its own, which no block of rows serves."""
    return np.concatenate([kernel(x[row : row + 1], packed) for row in range(len(x))])


@needs_vectors
@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("n", WIDTHS)
def test_rows_together_have_the_bits_that_they_have_alone(name: str, n: int) -> None:
    """Tiles of every height, one and several, more than a block of rows; a row of NaN and one of zeros among them."""
    k = 768 if FORMATS[name].block == 256 else 704
    random = np.random.default_rng(1)
    coded = FORMATS[name].encode(random.standard_normal((n, k), np.float32))
    options: dict[str, Any] = {"dims": {"H": k, "N": n}, "storage": {"w": name}, "activations": "int8"}
    kernel = moec.compile(PRODUCT, target=VECTORS, threads=1, **options)
    packed = kernel.pack({"w": Blocks(coded.shape, name, lambda _: coded)})
    x = random.standard_normal((70, k), np.float32)
    x[3, 5], x[4] = np.nan, 0
    expected = alone(kernel, x, packed)
    for rows in (5, 6, 7, 8, 9, 11, 13, 24, 70):
        assert same(kernel(x[:rows], packed), expected[:rows])
    assert np.isnan(expected[3]).all() and np.isfinite(np.delete(expected, 3, 0)).all()


@needs_vectors
def test_layers_give_the_bits_of_one_token() -> None:
    """Gate and up in one panel, rows that are quantised where they are multiplied, experts with few rows and many."""
    kernel = moec.compile(
        EXAMPLES / "mixtral.moe", DIMS["mixtral"], "bf16", 1, VECTORS, storage="q4_K", activations="int8"
    )
    packed = kernel.pack(arrays_of("mixtral"))
    x = np.random.default_rng(3).standard_normal((60, DIMS["mixtral"]["H"])).astype(NUMPY["bf16"])
    assert same(kernel(x, packed), alone(kernel, x, packed))


def test_integers_stay_in_registers() -> None:
    """A tile of six rows multiplies, scales and adds with next to nothing on the stack."""
    target = Target.of("x86_64-unknown-linux-gnu", "znver4")
    for name, vectors in {"int8": 4, "int4_g128": 4, "q8_0": 2, "q4_0": 2}.items():
        options = Options.of({"H": 256, "N": 64}, target=target, storage={"w": name}, activations="int8")
        text = str(Compilation(find_source(PRODUCT), options).show("asm"))
        names = re.findall(r"^moec_byte_block_\w+_6(?=:)", text, re.MULTILINE)
        assert len(names) == 1
        loop = text[(start := text.index(f"\n{names[0]}:")) : text.index(".Lfunc_end", start)]
        assert loop.count("vpdpbusd") == 6 * vectors * BLOCK // 4
        assert len([line for line in loop.splitlines() if "zmm" in line and "%rsp" in line]) <= 8
