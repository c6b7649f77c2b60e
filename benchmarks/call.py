"""What a call costs: `python benchmarks/call.py`.

Of a layer of a few kilobytes at one token, the time of a call from Python and of its native code alone, called in a
native loop; the difference is what arrays, checks and ctypes cost (`torch` as an argument: with tensors too). Then a
layer that lives in the cache, at one token on one thread and on two, in turns: two should never be slower.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from llvmlite import ir

import moec
from moec.codegen import native
from moec.codegen.function import Address, Arguments, Integer, emit_function
from moec.codegen.llvm import PTR, Emitter
from moec.codegen.pool import call
from moec.codegen.program import RunArguments
from moec.runtime.jit import Library
from moec.target import Target

_LAYER: Final = Path(__file__).parents[1] / "examples" / "seed.moe"
_TURNS: Final = 40


@dataclass(frozen=True)
class _RepeatArguments(Arguments):
    run: Address
    tokens: Integer
    arguments: Address


def main() -> None:
    kernel, weights, x = _layer(H=32, I=32, E=4, K=2)
    calls = _turns(lambda: kernel(x, weights, threads=1), 500)
    alone = _turns(*_native_loop(kernel, weights, x))
    print(f"a call {calls:.1f} us, its native code {alone:.1f} us, so {calls - alone:.1f} us around it")
    if "torch" in sys.argv[1:]:
        import torch

        tensor = torch.from_numpy(x)
        calls = _turns(lambda: kernel(tensor, weights, threads=1), 500)
        print(f"with torch's tensors {calls:.1f} us, so {calls - alone:.1f} us")
    kernel, weights, x = _layer(H=256, I=1024, E=4, K=2)
    kernel(x, weights, threads=2)
    one, two = list[float](), list[float]()
    for _ in range(_TURNS):
        one.append(_per_call(lambda: kernel(x, weights, threads=1), 100))
        two.append(_per_call(lambda: kernel(x, weights, threads=2), 100))
    ratio = statistics.median(a / b for a, b in zip(one, two, strict=True))
    single, double = statistics.median(one), statistics.median(two)
    print(f"in the cache: {single:.1f} us on one thread, {double:.1f} us on two: {ratio:.2f}x")


def _layer(**dims: int) -> tuple[Any, Any, Any]:
    """A kernel, its weights, and one token."""
    kernel = moec.compile(_LAYER, dims=dims)
    random = np.random.default_rng(0)
    arrays = {p.name: random.standard_normal(p.shape, dtype=np.float32) / 16 for p in kernel.interface.params}
    return kernel, kernel.pack(arrays), random.standard_normal((1, dims["H"]), dtype=np.float32)


def _native_loop(kernel: Any, weights: Any, x: Any) -> tuple[Callable[[], object], int, int]:
    """Makes many calls of a kernel's code with the arguments of one call; how many there are."""
    code, taken = kernel._main._code, list[tuple[int, bytes]]()
    run, code.run = code.run, lambda tokens, arguments, pool: taken.append((tokens, arguments)) or 0
    kept = kernel(x, weights, threads=1)  # owns the memory that the arguments name
    code.run = run
    ((tokens, arguments),) = taken
    module, target, count = ir.Module("loop"), Target.host(), 2000
    module.triple = target.triple

    def repeated(e: Emitter, given: _RepeatArguments) -> None:
        once = RunArguments(tokens=given.tokens, arguments=given.arguments, pool=ir.Constant(PTR, None))
        e.loop(0, count, lambda _: call(e.b, given.run, once))

    emit_function(module, target, "repeat", _RepeatArguments, repeated)
    library = Library(native.object_code(native.parse(str(module)), target), "repeat")
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p)
    repeat, start = prototype(library.address("repeat")), ctypes.cast(run, ctypes.c_void_p)
    return lambda: (repeat(start, tokens, arguments), kept, library), 1, count


def _turns(act: Callable[[], object], times: int, each: int = 1) -> float:
    """The median of many turns: microseconds for each of `each` calls in an act."""
    return statistics.median(_per_call(act, times) for _ in range(_TURNS)) / each


def _per_call(act: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - start) / times * 1e6


if __name__ == "__main__":
    main()
