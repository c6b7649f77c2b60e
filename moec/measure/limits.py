"""The machine's limits, measured: how fast it multiplies and adds, and how fast it reads memory.

Both loops are emitted here, so they are measured by the same compiler, in the same process, as what they are compared
with.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from llvmlite import ir

from moec.codegen import native, tiles
from moec.codegen.floats import bf16_pairs
from moec.codegen.integer import multiply_add
from moec.codegen.llvm import F32, I32, I64, PTR, Emitter, Value, i64
from moec.codegen.pieces import PIECES
from moec.codegen.tile_kernel import TERMS
from moec.formats.layout import BLOCK
from moec.runtime.jit import Library
from moec.runtime.memory import aligned_empty
from moec.target import Target

#: Independent sums: enough to hide the latency of two multiply-adds a cycle.
_CHAINS: Final = 12
_TURNS: Final = 1 << 20
#: FLOPs of four products of tiles: of bf16, of numbers that are split into several, and of bytes.
_TILE_FLOPS: Final = {
    "amx": 4 * 2 * 16 * 16 * 32,
    **{f"amx {dtype}": 4 * 2 * 16 * 16 * 32 / len(TERMS[pieces]) for dtype, pieces in PIECES.items()},
    "amx int8": 4 * 2 * 16 * 16 * 64,
}
#: What is read: more than any cache that one core has to itself.
_BYTES: Final = 256 << 20
_SAMPLES: Final = 7


@dataclass(frozen=True, slots=True)
class Limits:
    """FLOPs and bytes a nanosecond: the best arithmetic sample, the median of the reads."""

    gflops: float
    gbytes: float

    def seconds(self, flops: float, nbytes: float) -> float:
        """The least time in which so much can be done: the longer of the two."""
        return max(flops / self.gflops, nbytes / self.gbytes) * 1e-9

    def by(self, flops: float, nbytes: float) -> str:
        """Which of the two takes longer: `math` or `memory`."""
        return "memory" if nbytes / self.gbytes > flops / self.gflops else "math"

    def __str__(self) -> str:
        return f"{self.gflops:.0f} GFLOP/s, {self.gbytes:.1f} GB/s"


@cache
def measure(dtype: str, threads: int = 1, activations: str = "real") -> Limits:
    """The limits for weights of an element type, of so many threads together, as they were when first asked for. With
    int8 activations the arithmetic is that of integers."""
    return measure_again(dtype, threads, activations)


def measure_again(dtype: str, threads: int = 1, activations: str = "real") -> Limits:
    """The limits as they are now. Takes about half a second."""
    target = Target.host()
    gflops = max(_gflops(target, form, threads) for form in _forms(target, dtype, activations))
    return Limits(gflops, _gbytes(target, threads))


def _forms(target: Target, dtype: str, activations: str) -> list[str]:
    """What multiplies fastest, or may."""
    if activations == "int8":
        return ["amx int8" if target.tiled_from(BLOCK) is not None else "int8"]
    shape = target.kernel(dtype)
    return [shape.form] if target.split_from(shape) is None else [shape.form, f"amx {dtype}"]


def _gflops(target: Target, form: str, threads: int) -> float:
    """The best sample of the arithmetic."""
    each = {"dot": 2, "int8": {"bytes": 4, "pairs": 2, "none": 1}[target.byte_dots]}.get(form, 1)
    flops = _TURNS * threads * _TILE_FLOPS.get(form, 2 * target.lanes * each * _CHAINS)
    fma = _function(target, lambda module: _fma(module, target, form), "fma")
    with ThreadPoolExecutor(threads) as pool:
        return flops / min(_times(pool, threads, lambda thread: fma(None, _TURNS))) * 1e-9


def _gbytes(target: Target, threads: int) -> float:
    """The median of the reads."""
    memory = aligned_empty(_BYTES)
    memory.view("f4")[::1024] = 1  # so that every page is there, and no number is denormal
    part = _BYTES // threads // 4096 * 4096
    read = _function(target, lambda module: _read(module, target), "read")
    with ThreadPoolExecutor(threads) as pool:
        reads = _times(pool, threads, lambda thread: read(memory.ctypes.data + thread * part, part))
    return part * threads / statistics.median(reads) * 1e-9


def _function(target: Target, emit: Callable[[Any], None], name: str) -> Callable[[int | None, int], float]:
    """What `emit` adds to a module, compiled."""
    module = ir.Module("moec_limits")
    module.triple = target.triple
    emit(module)
    library = Library(native.object_code(native.parse(str(module)), target), name)
    call = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_void_p, ctypes.c_int64)(library.address(name))
    return lambda place, count, _=library: call(place, count)  # or the library's memory would be given back


def _times(pool: ThreadPoolExecutor, threads: int, call: Callable[[int], object]) -> list[float]:
    """Seconds until every thread has made a call, several times over."""
    times: list[float] = []
    for _ in range(_SAMPLES + 1):
        start = time.perf_counter()
        list(pool.map(call, range(threads)))
        times.append(time.perf_counter() - start)
    return times[1:]


def _begin(module: Any, target: Target, name: str) -> tuple[Emitter, Any]:
    function = ir.Function(module, ir.FunctionType(F32, [PTR, I64]), name)
    return Emitter(ir.IRBuilder(function.append_basic_block("entry")), target), function


def _fma(module: Any, target: Target, form: str) -> None:
    """`f32 fma(ptr, turns)`: chains of multiply-adds that nothing else holds up."""
    e, function = _begin(module, target, "fma")
    if form in _TILE_FLOPS:
        _multiply_tiles(e, form, function.args[1])
        return
    vector = ir.VectorType(F32, e.lanes)
    factor = e.splat(e.b.sitofp(function.args[1], F32), e.lanes)

    def turn(i: Value, sums: Any) -> list[Value]:
        return [_multiply_add(e, form, total, factor) for total in sums]

    start = [ir.Constant(vector, [float(chain)] * e.lanes) for chain in range(_CHAINS)]
    e.b.ret(_add_up(e, e.fold(0, function.args[1], start, turn)))


def _multiply_tiles(e: Emitter, form: str, turns: Value) -> None:
    """Four sums of tiles, as a product has them."""
    dot = tiles.DOT_INT8 if form == "amx int8" else tiles.DOT_BF16
    tiles.configure(e.b)
    for tile in range(8):
        tiles.ZERO.emit(e.b, tile)

    def turn(_: Value) -> None:
        for n in range(4):
            dot.emit(e.b, n, 4 + n // 2, 6 + n % 2)

    e.loop(0, turns, turn)
    tiles.RELEASE.emit(e.b)
    e.b.ret(ir.Constant(F32, 0.0))


def _multiply_add(e: Emitter, form: str, total: Value, factor: Value) -> Value:
    if form == "int8":
        words = ir.VectorType(I32, e.lanes)
        integers = (e.b.bitcast(value, words) for value in (total, factor, factor))
        return e.b.bitcast(multiply_add(e, *integers), total.type)
    if form != "dot":
        return e.overloaded("llvm.fmuladd", total, factor, factor)
    pairs = bf16_pairs(e.b, factor, e.lanes)
    return e.call("llvm.x86.avx512bf16.dpbf16ps.512", total.type, total, pairs, pairs)


def _read(module: Any, target: Target) -> None:
    """`f32 read(from, bytes)`: the sum of everything, in vectors, four at a time."""
    e, function = _begin(module, target, "read")
    vector, step = ir.VectorType(F32, e.lanes), 4 * e.lanes

    def turn(i: Value, sums: Any) -> list[Value]:
        places = [e.at(function.args[0], e.b.add(i, i64(chain * 4 * e.lanes)), 1) for chain in range(4)]
        read = [e.b.load(place, typ=vector, align=4) for place in places]
        return [e.b.fadd(total, value) for total, value in zip(sums, read, strict=True)]

    zero = ir.Constant(vector, [0.0] * e.lanes)
    e.b.ret(_add_up(e, e.fold(0, function.args[1], [zero] * 4, turn, 4 * step)))


def _add_up(e: Emitter, sums: list[Value]) -> Value:
    """Something that depends on every sum, so that none is left out."""
    total = sums[0]
    for other in sums[1:]:
        total = e.b.fadd(total, other)
    return e.b.extract_element(total, ir.Constant(I32, 0))
