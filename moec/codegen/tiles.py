"""AMX's instructions: what LLVM calls each, and what it does to the tiles, in NumPy.

Eight tiles of at most 16 rows of at most 64 bytes: a kernel has one configuration, of the depth and the height of its
products, and no number of rows asks for another. What the rows that a block does not have hold comes to nothing, since
each row of a product depends on its own row of the left tile only. Meanings after Intel's *Software Developer's
Manual*, volume 2; there `tdpbf16ps` takes subnormal factors, sums and results for zero, rounds to nearest even, and
never raises anything.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
#: What `ldtilecfg` reads: palette 1, then the bytes of a row and the rows of each tile.
_CONFIGURATION: Final = "<BB14x8H16x8B8x"
_F32: TypeAlias = NDArray[np.float32]


@dataclass
class Tiles:
    """The tiles, u8[8, ROWS, BYTES], zeros outside of what is configured; the bytes of a row and the rows of each."""

    data: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((8, ROWS, BYTES), np.uint8))
    bytes: Sequence[int] = (BYTES,) * 8
    rows: Sequence[int] = (ROWS,) * 8


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
    tiles.data[:] = 0


def _configure(tiles: Tiles, address: int) -> None:
    text = ctypes.string_at(address, struct.calcsize(_CONFIGURATION))
    palette, start, *shape = struct.unpack(_CONFIGURATION, text)
    assert (palette, start) == (1, 0)
    tiles.bytes, tiles.rows = shape[:8], shape[8:]
    tiles.data[:] = 0


def _zero(tiles: Tiles, tile: int) -> None:
    tiles.data[tile] = 0


def _load(tiles: Tiles, tile: int, address: int, stride: int) -> None:
    for row in range(tiles.rows[tile]):
        text = ctypes.string_at(address + row * stride, tiles.bytes[tile])
        tiles.data[tile, row, : tiles.bytes[tile]] = np.frombuffer(text, np.uint8)


def _store(tiles: Tiles, tile: int, address: int, stride: int) -> None:
    for row in range(tiles.rows[tile]):
        ctypes.memmove(address + row * stride, tiles.data[tile, row].tobytes(), tiles.bytes[tile])


def _dot_bf16(tiles: Tiles, to: int, left: int, right: int) -> None:
    """c[m, n] += sum of a[m, 2p] b[p, n, 0] + sum of a[m, 2p + 1] b[p, n, 1]: two chains, added to each other first."""
    a = _flushed(tiles.data[left].view(ml_dtypes.bfloat16).astype(np.float32)).reshape(ROWS, ROWS, 1, 2)
    b = _flushed(tiles.data[right].view(ml_dtypes.bfloat16).astype(np.float32)).reshape(ROWS, ROWS, 2)
    sums = np.zeros((ROWS, ROWS, 2), np.float32)
    with np.errstate(all="ignore"):
        for pair in range(ROWS):
            # A product of two bf16 is exact in f64, and their sum too unless its terms are 2^29 apart.
            exact = a[:, pair].astype(np.float64) * b[pair].astype(np.float64) + sums
            sums = _flushed(exact.astype(np.float32))
        c = tiles.data[to].view(np.float32)
        c[:] = _flushed(_flushed(c) + _flushed(sums[..., 0] + sums[..., 1]))


def _dot_int8(tiles: Tiles, to: int, left: int, right: int) -> None:
    """c[m, n] += sum of a[m, 4p + i] b[p, n, i], signed bytes, in 32 bits."""
    a = tiles.data[left].view(np.int8).reshape(ROWS, ROWS, 4).astype(np.int32)
    b = tiles.data[right].view(np.int8).reshape(ROWS, ROWS, 4).astype(np.int32)
    assert tiles.bytes[left] == 4 * tiles.rows[right]
    tiles.data[to].view(np.int32)[:] += np.einsum("mpi,pni->mn", a, b)


def _flushed(values: _F32) -> _F32:
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)


CONFIGURE: Final = Instruction("llvm.x86.ldtilecfg", (PTR,), _configure)
RELEASE: Final = Instruction("llvm.x86.tilerelease", (), _clear)
ZERO: Final = Instruction("llvm.x86.tilezero", (I8,), _zero)
LOAD: Final = Instruction("llvm.x86.tileloadd64", (I8, PTR, I64), _load)
STORE: Final = Instruction("llvm.x86.tilestored64", (I8, PTR, I64), _store)
DOT_BF16: Final = Instruction("llvm.x86.tdpbf16ps", (I8, I8, I8), _dot_bf16)
DOT_INT8: Final = Instruction("llvm.x86.tdpbssd", (I8, I8, I8), _dot_int8)

INSTRUCTIONS: Final = (CONFIGURE, RELEASE, ZERO, LOAD, STORE, DOT_BF16, DOT_INT8)


def configure(b: Any) -> None:
    """From here to `RELEASE`, all tiles are whole."""
    CONFIGURE.emit(b, configuration(b, BYTES, ROWS))


def configuration(b: Any, depth: int, rows: int) -> Any:
    """The address of a configuration: tiles 4 and 5 have `depth` bytes of k in each of `rows` rows, 6 and 7 as many in
    16 columns of 32 bits; the others have as many rows, and whole ones."""
    module, name = b.module, f"moec_tiles_{depth}_{rows}"
    if name not in module.globals:
        data = bytearray(
            struct.pack(_CONFIGURATION, 1, 0, *_shape(BYTES, depth, BYTES), *_shape(rows, rows, depth // 4))
        )
        constant = ir.GlobalVariable(module, ir.ArrayType(I8, len(data)), name)
        constant.linkage, constant.global_constant, constant.align = "internal", True, 64
        constant.initializer = ir.Constant(constant.value_type, data)
    return b.bitcast(module.globals[name], PTR)


def _shape(sums: int, left: int, right: int) -> list[int]:
    """A number for each tile."""
    return [sums] * 4 + [left] * 2 + [right] * 2
