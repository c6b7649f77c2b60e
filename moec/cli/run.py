"""`moec run`: compile, run on random weights, check against the oracle, time."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from moec.cli.shared import dims_option, dtype_option, file_argument, threads_option, told

if TYPE_CHECKING:
    from moec import pipeline
    from moec.runtime.kernel import Kernel
    from moec.runtime.weights import Weights

#: The largest error that is right, relative to the output's largest magnitude.
TOLERANCES: Final = {"f32": 2e-5, "bf16": 2e-2, "f16": 3e-3}
#: Seconds that the oracle, and the timing, may take.
_ORACLE_SECONDS, _TIMING_SECONDS = 2.0, 1.0


@click.command("run")
@file_argument
@dims_option
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(1), help="Rows of x.")
@dtype_option
@threads_option
@click.option("--seed", default=0, show_default=True, help="Of the random weights and inputs.")
@told
def command(file: str, dims: dict[str, int], tokens: int, dtype: str, threads: int | None, seed: int) -> None:
    """Compile FILE, run it on random weights and tokens, compare with the oracle, and time it.

    Exit code 1 if the error is larger than the precision allows.

    \b
    Examples:
      moec run examples/mixtral.moe --dims H=1024,I=2048
      moec run examples/deepseek_v3.moe --dims H=512,I=256,E=32 --dtype bf16 --tokens 16
    """
    from moec import pipeline

    run = _Run(Path(file), pipeline.Options.of(dims, dtype, threads), tokens, seed)
    run.compile()
    run.feed()
    checked = run.check()
    run.time()
    if not checked:
        sys.exit(1)


@dataclass
class _Run:
    """One run, step by step; each step prints what it found."""

    file: Path
    options: pipeline.Options
    tokens: int
    seed: int

    def __post_init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)

    def say(self, name: str, text: str) -> None:
        self.console.print(f"[bold]{name:<9}[/bold] {text}")

    def compile(self) -> None:
        from moec import pipeline

        source = pipeline.find_source(self.file)
        start = time.perf_counter()
        self.kernel: Kernel = pipeline.load(source, self.options)
        seconds = time.perf_counter() - start
        self.compilation = pipeline.Compilation(source, self.options)
        interface = self.kernel.interface
        dims = ", ".join(f"{name} {value}" for name, value in interface.dims.items())
        self.say("layer", f"{interface.name}: {dims}")
        self.say("machine", f"{self.options.target.cpu}, {self.options.dtype}, {self.threads} thread(s)")
        self.say("compiled", f"in {seconds * 1e3:.0f} ms")
        for packed in interface.packed:
            names = " ".join(packed.params)
            self.say("product", f"{names}  {packed.keys} x [{packed.n}, {packed.k}] {packed.dtype}, {packed.tile}")

    @property
    def threads(self) -> int:
        from moec.runtime.pool import default_threads

        return self.options.threads or default_threads()

    def feed(self) -> None:
        from moec.measure.feed import random_inputs, random_weights

        module = self.compilation.simplify()
        interface = self.kernel.interface
        self.arrays = random_weights(interface, module, self.seed)
        self.inputs = random_inputs(interface, module, self.tokens, self.seed)
        start = time.perf_counter()
        self.weights: Weights = self.kernel.pack(self.arrays)
        seconds = time.perf_counter() - start
        count = sum(array.size for array in self.arrays.values())
        self.say(
            "weights", f"{count / 1e6:,.1f} M, {self.weights.nbytes / 1e6:,.1f} MB, packed in {seconds * 1e3:.0f} ms"
        )

    def check(self) -> bool:
        """Compares as many tokens as the oracle manages in its time."""
        from moec.reference import reference

        outputs = self._outputs(self.kernel(*self.inputs, self.weights))
        oracle = reference(self.file, dims=dict(self.options.dims), dtype=self.options.dtype)
        start, done, unstable, error = time.perf_counter(), 0, 0, 0.0
        while done < self.tokens and (not done or time.perf_counter() - start < _ORACLE_SECONDS):
            stop = min(self.tokens, max(1, done * 2))
            result = oracle.run(tuple(array[done:stop] for array in self.inputs), self.arrays)
            error = max(error, _error([y[done:stop] for y in outputs], result.outputs, result.stable))
            unstable += int((~result.stable).sum())
            done = stop
        tolerance = TOLERANCES[self.options.dtype]
        right = error <= tolerance
        verdict = "[green]right[/green]" if right else "[red]wrong[/red]"
        ties = f", {unstable} left out (nearly tied choices)" if unstable else ""
        self.say(
            "checked", f"{verdict}: error {error:.1e} of at most {tolerance:.0e}, {done} of {self.tokens} tokens{ties}"
        )
        return right

    @staticmethod
    def _outputs(result: Any) -> list[Any]:
        return list(result) if isinstance(result, tuple) else [result]  # pyright: ignore[reportUnknownArgumentType]

    def time(self) -> None:
        from moec.measure.cost import analyse
        from moec.measure.limits import measure

        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < 5 or (time.perf_counter() - begin < _TIMING_SECONDS and len(times) < 1000):
            start = time.perf_counter()
            self.kernel(*self.inputs, self.weights)
            times.append(time.perf_counter() - start)
        median = statistics.median(times)
        cost = analyse(self.compilation.schedule(), self.tokens)
        limits = measure(self.options.dtype, self.threads)
        least = limits.seconds(cost.flops, cost.nbytes)
        spread = f"median of {len(times)}, {min(times) * 1e3:.3f} to {max(times) * 1e3:.3f}"
        self.say("time", f"{median * 1e3:.3f} ms for {self.tokens} tokens ({spread})")
        rates = f"{cost.flops / median / 1e9:.1f} GFLOP/s, {cost.nbytes / median / 1e9:.1f} GB/s of weights"
        self.say("rate", rates)
        machine = f"{limits.gflops:.0f} GFLOP/s, {limits.gbytes:.1f} GB/s"
        share = (
            f"{least / median:.0%} of the machine's"
            if least <= median
            else "beyond memory's: the caches hold the weights"
        )
        self.say("limit", f"{share} ({machine}, measured now)")


def _error(outputs: list[Any], wanted: Any, stable: Any) -> float:
    """The largest difference on stable tokens, relative to the largest magnitude."""
    import numpy as np

    worst = 0.0
    for y, truth in zip(outputs, wanted, strict=True):
        if stable.any():
            scale = max(float(np.abs(truth).max(initial=0.0)), 1e-30)
            difference = np.abs(np.asarray(y, np.float64) - truth)[stable].max(initial=0.0)
            worst = max(worst, float(difference) / scale)
    return worst
