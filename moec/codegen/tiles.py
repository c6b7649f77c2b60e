"""AMX's instructions: what LLVM calls each, and what it does to the tiles, in NumPy.

Eight tiles of 16 rows of 64 bytes: kernels use one configuration, of whole tiles, so that no number of rows asks for
another. What the rows that a block does not have hold comes to nothing, since each row of a product depends on its own
row of the left tile only. Meanings after Intel's *Software Developer's Manual*, volume 2; there `tdpbf16ps` takes
subnormal factors, sums and results for zero, rounds to nearest even, and never raises anything.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import ml_dtypes
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from moec.codegen.llvm import I8, I64, PTR, VOID, Value

#: Rows of a tile, and bytes of each.
ROWS, BYTES = 16, 64
#: k that one product of bf16 takes in.
DEPTH: Final = 32
#: What `ldtilecfg` reads: palette 1, then the bytes and the rows of each tile.
CONFIGURATION: Final = struct.pack("<BB14x8H16x8B8x", 1, 0, *[BYTES] * 8, *[ROWS] * 8)

#: The tiles, u8[8, ROWS, BYTES].
Tiles: TypeAlias = NDArray[np.uint8]
_F32: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Instruction:
    """An instruction: LLVM's intrinsic, its arguments (I8: the number of a tile), and its meaning."""

    name: str
    arguments: tuple[Any, ...]
    meaning: Callable[..., None]

    def emit(self, b: Any, *arguments: Value | int) -> None:
        """Calls the intrinsic, declared on first use; integers are numbers of tiles."""
        if self.name not in b.module.globals:
            ir.Function(b.module, ir.FunctionType(VOID, self.arguments), self.name)
        values = [ir.Constant(I8, value) if isinstance(value, int) else value for value in arguments]
        b.call(b.module.globals[self.name], values)


def _clear(tiles: Tiles) -> None:
    tiles[:] = 0


def _configure(tiles: Tiles, address: int) -> None:
    assert ctypes.string_at(address, len(CONFIGURATION)) == CONFIGURATION
    tiles[:] = 0


def _zero(tiles: Tiles, tile: int) -> None:
    tiles[tile] = 0


def _load(tiles: Tiles, tile: int, address: int, stride: int) -> None:
    for row in range(ROWS):
        tiles[tile, row] = np.frombuffer(ctypes.string_at(address + row * stride, BYTES), np.uint8)


def _store(tiles: Tiles, tile: int, address: int, stride: int) -> None:
    for row in range(ROWS):
        ctypes.memmove(address + row * stride, tiles[tile, row].tobytes(), BYTES)


def _dot(tiles: Tiles, to: int, left: int, right: int) -> None:
    """c[m, n] += sum of a[m, 2p] b[p, n, 0] + sum of a[m, 2p + 1] b[p, n, 1]: two chains, added to each other first."""
    a = _flushed(tiles[left].view(ml_dtypes.bfloat16).astype(np.float32)).reshape(ROWS, ROWS, 1, 2)
    b = _flushed(tiles[right].view(ml_dtypes.bfloat16).astype(np.float32)).reshape(ROWS, ROWS, 2)
    sums = np.zeros((ROWS, ROWS, 2), np.float32)
    with np.errstate(all="ignore"):
        for pair in range(ROWS):
            # A product of two bf16 is exact in f64, and their sum too unless its terms are 2^29 apart.
            exact = a[:, pair].astype(np.float64) * b[pair].astype(np.float64) + sums
            sums = _flushed(exact.astype(np.float32))
        c = tiles[to].view(np.float32)
        c[:] = _flushed(_flushed(c) + _flushed(sums[..., 0] + sums[..., 1]))


def _flushed(values: _F32) -> _F32:
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)


CONFIGURE: Final = Instruction("llvm.x86.ldtilecfg", (PTR,), _configure)
RELEASE: Final = Instruction("llvm.x86.tilerelease", (), _clear)
ZERO: Final = Instruction("llvm.x86.tilezero", (I8,), _zero)
LOAD: Final = Instruction("llvm.x86.tileloadd64", (I8, PTR, I64), _load)
STORE: Final = Instruction("llvm.x86.tilestored64", (I8, PTR, I64), _store)
DOT_BF16: Final = Instruction("llvm.x86.tdpbf16ps", (I8, I8, I8), _dot)

INSTRUCTIONS: Final = (CONFIGURE, RELEASE, ZERO, LOAD, STORE, DOT_BF16)


def configure(b: Any) -> None:
    """Whole tiles from here to `RELEASE`."""
    module = b.module
    if "moec_tiles" not in module.globals:
        data = ir.Constant(ir.ArrayType(I8, len(CONFIGURATION)), bytearray(CONFIGURATION))
        constant = ir.GlobalVariable(module, data.type, "moec_tiles")
        constant.linkage, constant.global_constant, constant.align, constant.initializer = "internal", True, 64, data
    CONFIGURE.emit(b, b.bitcast(module.globals["moec_tiles"], PTR))
