"""What the parts of moec are worth: each is switched off alone, and timed in turns with the whole.

Nothing is emulated: without a part, the same layer is compiled without it (`Options.without`, the target's `-vectors`),
or called without it. Beside each figure stands the claim that moec grew out of.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from moec.bench.layer_files import layer_path
from moec.bench.peers import all_peers
from moec.bench.trial import Trial
from moec.kernels import compile_layer
from moec.language.read import read
from moec.measure.feed import random_inputs, random_weights
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.pool import default_threads
from moec.runtime.workspace import WORKSPACE

#: Dimensions and tokens. The first batch was 32 x 512 tokens: 16384, of which 512 are enough to keep every part busy.
_SHAPES: Final = (
    ({"H": 1024, "I": 4096, "E": 8, "K": 2}, 512, "32 x 512 tokens, of which 512"),
    ({"H": 256, "I": 1024, "E": 4, "K": 2}, 1024, "8 x 128 tokens"),
)
#: What was claimed of each part, and of the whole beside others.
_CLAIMS: Final = {
    "simd": "15-60x",
    "specialize": "2x",
    "arena": "1.2-1.5x",
    "pack": "",
    "threads": "",
    "numpy-naive": "382x",
    "torch": "7x",
}
_ABOUT: Final = {
    "simd": "one number at a time, fused multiply-adds as before",
    "simd-128": "vectors of 128 bits, the least that x86-64 has",
    "specialize": "dimensions and strides read from memory",
    "arena": "the workspace taken and touched anew in each call",
    "pack": "weights read where they lie, for one token after the other",
    "pack-anew": "panels, but packed anew in each call",
    "threads": "one thread of all",
    "numpy-naive": "NumPy, token by token",
    "torch": "PyTorch at its best",
}
PARTS: Final = ("simd", "specialize", "arena", "pack", "threads")
#: Rounds of each, and seconds after which no further round begins.
_ROUNDS, _SECONDS = 7, 12.0


@dataclass(frozen=True, slots=True)
class Worth:
    """A call without a part beside a call with all, both the median of interleaved rounds, in ms."""

    name: str
    ms_with: float
    ms_without: float

    @property
    def factor(self) -> float:
        return self.ms_without / self.ms_with

    @property
    def claim(self) -> str:
        """What was claimed of it, or of the part that it is a way to leave out."""
        return _CLAIMS.get(self.name, _CLAIMS.get(self.name.partition("-")[0], ""))


def ablate_all(parts: Sequence[str], console: Console, show: bool) -> list[dict[str, Any]]:
    """Measures parts at every shape; says what came of it on standard output where `show` asks for that."""
    found: list[dict[str, Any]] = []
    for dims, tokens, about in _SHAPES:
        worths = [*measure_parts(parts, dims, tokens, console), *measure_others(dims, tokens, console)]
        shape = ", ".join(f"{name} {value}" for name, value in dims.items())
        if show:
            _show(f"{shape}: {tokens} tokens ({about})", worths)
        found += [
            {
                "dims": dims,
                "tokens": tokens,
                "without": each.name,
                "ms_with": each.ms_with,
                "ms_without": each.ms_without,
                "factor": each.factor,
                "claim": each.claim,
            }
            for each in worths
        ]
    return found


def measure_parts(parts: Sequence[str], dims: dict[str, int], tokens: int, console: Console) -> list[Worth]:
    """What each part is worth on one thread; `threads`, on all."""
    source, whole = read(layer_path("seed")), Options.of(dims, "f32", 1)
    kernel, module = compile_layer(source, whole), Compilation(source, whole).simplify()
    arrays = random_weights(kernel.interface, module)
    inputs = random_inputs(kernel.interface, module, tokens)
    weights = kernel.pack(arrays)

    def call(options: Options) -> Callable[[], object]:
        other = compile_layer(source, options)
        packed = other.pack(arrays)
        return lambda: other(*inputs, packed)

    def anew() -> object:
        WORKSPACE.forget()
        return kernel(*inputs, weights)

    scalar = whole.target.without("vectors")
    calls: dict[str, Callable[[], Callable[[], object]]] = {
        "simd": lambda: call(replace(whole, target=scalar)),
        "simd-128": lambda: call(replace(whole, target=replace(whole.target, cpu="x86-64", features=()))),
        "specialize": lambda: call(replace(whole, without=("specialize",))),
        "arena": lambda: anew,
        "pack": lambda: call(replace(whole, without=("pack",))),
        "pack-anew": lambda: lambda: kernel(*inputs, kernel.pack(arrays)),
    }
    if whole.target.architecture != "x86_64":
        del calls["simd-128"]
    found: list[Worth] = []
    for name, make in calls.items():
        if name.partition("-")[0] in parts:
            console.print(f"without {name}: {_ABOUT[name]}")
            found.append(_beside(name, lambda: kernel(*inputs, weights), make()))
    count = default_threads()
    if "threads" in parts and count > 1:
        every = call(replace(whole, threads=count))
        found.append(_beside("threads", every, lambda: kernel(*inputs, weights)))
    return found


def _beside(name: str, whole: Callable[[], object], less: Callable[[], object]) -> Worth:
    """Both, in turns (A B A B)."""
    times: tuple[list[float], list[float]] = ([], [])
    whole()
    less()
    begin = time.perf_counter()
    while len(times[0]) < _ROUNDS and (len(times[0]) < 2 or time.perf_counter() - begin < _SECONDS):
        for call, past in zip((whole, less), times, strict=True):
            start = time.perf_counter()
            call()
            past.append(time.perf_counter() - start)
    return Worth(name, *(statistics.median(past) * 1e3 for past in times))


def measure_others(dims: dict[str, int], tokens: int, console: Console) -> list[Worth]:
    """The whole beside the two implementations that were claimed to be so much slower, on one thread."""
    peers = [all_peers()[name] for name in ("numpy-naive", "torch")]
    source = read(layer_path("seed"))
    with Trial(source, Options.of(dims, "f32", 1), [each for each in peers if each.python], [tokens]) as trial:
        samples = trial.measure(tokens, 2.0)
        for name, reason in trial.failures.items():
            console.print(f"{name} is left out: {reason}")
    own = next(each for each in samples if each.impl == "moec")
    others = [each for each in samples if each is not own]
    return [Worth(each.impl.partition("/")[0], own.median * 1e3, each.median * 1e3) for each in others]


def _show(title: str, worths: Sequence[Worth]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left")
    for name in ("without", "which is", "ms with", "ms without", "worth", "claimed"):
        table.add_column(name, justify="right" if name in ("ms with", "ms without", "worth") else "left")
    for each in worths:
        row = (f"{each.ms_with:.3g}", f"{each.ms_without:.4g}", f"{each.factor:.2f}x", each.claim)
        table.add_row(each.name, _ABOUT[each.name], *row)
    Console(highlight=False, markup=False, emoji=False, width=120).print(table, "")
