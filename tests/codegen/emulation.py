"""AMX where there is none: a program's tile instructions become calls of their meanings in NumPy.

Everything else of the program is compiled for this machine. So layers that multiply in tiles can be run, slowly, and
compared with the oracle: how rows are gathered and panels packed, which tiles are read, what is stored where.

Meanings after Intel's *Software Developer's Manual*, volume 2; there `tdpbf16ps` takes subnormal factors, sums and
results for zero, rounds to nearest even, and never raises anything.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from moec.codegen import native
from moec.codegen.llvm import I8, I64, PTR
from moec.codegen.tiles import (
    BYTES,
    CONFIGURATION,
    CONFIGURE,
    DOT_BF16,
    DOT_INT8,
    LOAD,
    RELEASE,
    ROWS,
    STORE,
    ZERO,
    Instruction,
)
from moec.dtypes import Storage, StorageLike
from moec.kernels import Layer
from moec.language.read import find_source
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.cache import Program
from moec.runtime.kernel import Kernel
from moec.target import Target

LINUX: Final = "x86_64-unknown-linux-gnu"
AMX: Final = Target.of(LINUX, "emeraldrapids")

_F32: TypeAlias = NDArray[np.float32]


@dataclass
class Tiles:
    """The tiles, u8[8, ROWS, BYTES], zeros outside of what is configured; the bytes of a row and the rows of each."""

    data: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((8, ROWS, BYTES), np.uint8))
    bytes: Sequence[int] = (BYTES,) * 8
    rows: Sequence[int] = (ROWS,) * 8


def _clear(tiles: Tiles) -> None:
    tiles.data[:] = 0


def _configure(tiles: Tiles, address: int) -> None:
    text = ctypes.string_at(address, struct.calcsize(CONFIGURATION))
    palette, start, *shape = struct.unpack(CONFIGURATION, text)
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


def dot_bf16(tiles: Tiles, to: int, left: int, right: int) -> None:
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


def dot_int8(tiles: Tiles, to: int, left: int, right: int) -> None:
    """c[m, n] += sum of a[m, 4p + i] b[p, n, i], signed bytes, in 32 bits."""
    a = tiles.data[left].view(np.int8).reshape(ROWS, ROWS, 4).astype(np.int32)
    b = tiles.data[right].view(np.int8).reshape(ROWS, ROWS, 4).astype(np.int32)
    assert tiles.bytes[left] == 4 * tiles.rows[right]
    tiles.data[to].view(np.int32)[:] += np.einsum("mpi,pni->mn", a, b)


def _flushed(values: _F32) -> _F32:
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)


#: What each instruction does.
MEANINGS: Final[dict[Instruction, Callable[..., None]]] = {
    CONFIGURE: _configure,
    RELEASE: _clear,
    ZERO: _zero,
    LOAD: _load,
    STORE: _store,
    DOT_BF16: dot_bf16,
    DOT_INT8: dot_int8,
}

#: The tiles of this thread; programs here run on one.
tiles: Final = Tiles()
#: How often each instruction ran: a test that means to run tiles can see that it did.
counts: Final[dict[str, int]] = {}


def _callback(instruction: Instruction, meaning: Callable[..., None]) -> Any:
    def run(*arguments: int) -> None:
        counts[instruction.name] = counts.get(instruction.name, 0) + 1
        meaning(tiles, *arguments)

    types = {I8: ctypes.c_int8, I64: ctypes.c_int64, PTR: ctypes.c_void_p}
    return ctypes.CFUNCTYPE(None, *(types[argument] for argument in instruction.arguments))(run)


_CALLBACKS: Final = {instruction.name: _callback(instruction, meaning) for instruction, meaning in MEANINGS.items()}


def emulated(text: str) -> str:
    """LLVM IR whose tile instructions are calls into this process."""
    for name, callback in _CALLBACKS.items():
        own = name.replace("llvm.x86", "emulated")
        address = ctypes.cast(callback, ctypes.c_void_p).value
        declared = re.search(rf'declare void @"{re.escape(name)}"\((.*)\)', text)
        if declared is None:
            continue
        call = f"call void inttoptr (i64 {address} to ptr)({declared[1]})\n  ret void"
        text = text.replace(declared[0], f'define internal void @"{name}"({declared[1]}) noinline {{\n  {call}\n}}')
        text = text.replace(f'@"{name}"', f'@"{own}"')
    assert "llvm.x86.t" not in text and "ldtilecfg" not in text.replace("emulated.ldtilecfg", "")
    return text


def compile_emulated(
    path: Path | str,
    dims: Mapping[str, int] | None = None,
    storage: StorageLike = None,
    target: Target = AMX,
    dtype: str = "bf16",
    activations: str = "real",
) -> Kernel:
    """A layer for a machine with AMX, or any other `target` whose other instructions this one has, to be run here."""
    options = Options.of(dims, dtype, threads=1, target=target, storage=storage, activations=activations)
    return Kernel(_Emulated(find_source(path), options)).prepare()


class _Emulated(Layer):
    def program(self, aux: tuple[str, ...], storage: Storage) -> Program:
        compilation = Compilation(self.source, replace(self.options, aux=aux, storage=storage))
        module = native.optimise(native.parse(emulated(compilation.llvm)), Target.host())
        return Program(compilation.interface, native.object_code(module, Target.host()))
