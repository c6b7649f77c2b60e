"""`moec run`: compile, run on random weights, check against the oracle, time."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from moec.cli.shared import (
    WRONG,
    Dims,
    activations_option,
    aux_option,
    bind_option,
    dims_option,
    dtype_option,
    epilog,
    error_format_option,
    file_argument,
    prefix_option,
    storage_option,
    threads_option,
)
from moec.diagnostics import plural
from moec.dtypes import StorageLike

if TYPE_CHECKING:
    from moec.measure.compare import Comparison
    from moec.options import Options
    from moec.oracle import Reference
    from moec.runtime.weights import Weights
    from moec.source import Source

#: Seconds that the timing may take, and the calls that it takes at least and at most.
_SECONDS: Final = 1.0
_CALLS: Final = (5, 1000)

_EXAMPLES = (
    "moec run examples/mixtral.moe --dims H=1024,I=2048",
    "moec run examples/deepseek_v3.moe --dims H=512,I=256,E=32 --dtype bf16",
    "moec run examples/olmoe.moe --dims E=16 --storage q4_K,down=q6_K",
    "moec run examples/olmoe.moe --weights olmoe/ --prefix model.layers.3.mlp",
    "moec run examples/olmoe.moe --weights layer.moepack",
)


@click.command("run", epilog=epilog(*_EXAMPLES))
@file_argument
@dims_option
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(1), help="Rows of x.")
@dtype_option
@storage_option
@activations_option
@threads_option
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the random weights and inputs.")
@aux_option
@click.option("--weights", metavar="PATH", help="A checkpoint, or packed weights, instead of random ones.")
@prefix_option
@bind_option
@error_format_option
@click.pass_context
def command(
    ctx: click.Context,
    file: str,
    dims: Dims,
    tokens: int,
    dtype: str,
    storage: StorageLike,
    activations: str,
    threads: int | None,
    seed: int,
    aux: tuple[str, ...],
    weights: str | None,
    prefix: str,
    bind: str | None,
) -> None:
    """Compile FILE, run it on random weights and tokens, compare with the oracle, and time it.

    With --storage the weights are quantised, and the oracle reads what they decode to. With --weights they come from
    a file, and the oracle reads what was packed; dimensions, and of packed weights the dtype, are the file's.

    The oracle interprets the same text in float64. It checks 16 tokens, and as many more as it manages in about two
    seconds. A token may differ, and is left out, where a choice is so near a tie that f32 may rightly choose
    differently; three quarters of all tokens have to agree.

    Exit code 1 if fewer do, or if the error is larger than the precision allows.
    """
    from moec.fitting import fit
    from moec.kernels import open_layer
    from moec.language.read import read
    from moec.options import Options

    source, loaded = read(file), None
    if weights is not None:
        found, real = fit(source, weights, prefix, bind, dims)
        named = ctx.get_parameter_source("dtype") is click.core.ParameterSource.COMMANDLINE
        dims, dtype = found, dtype if named or real is None else real
    options = Options.of(dims, dtype, threads, aux=aux, storage=storage, activations=activations)
    if weights is not None:
        loaded = open_layer(source, options).load(weights, prefix, bind, storage)
        options = replace(options, storage=loaded.storage)
    run = _Run(source, options, tokens)
    if loaded is None:
        run.feed(seed)
    else:
        run.take(loaded, seed)
    right = run.check()
    run.time()
    if not right:
        sys.exit(WRONG)


class _Run:
    """One run, step by step; each step prints what it finds."""

    def __init__(self, source: Source, options: Options, tokens: int) -> None:
        from moec.cli import report
        from moec.kernels import compile_layer
        from moec.measure.compare import LEAST
        from moec.measure.cost import analyse
        from moec.pipeline import Compilation
        from moec.runtime.pool import default_threads

        self.source, self.options, self.tokens = source, options, tokens
        self.calls = -(-LEAST // tokens)  # that are checked
        self.threads = options.threads or default_threads()
        self.screen = report.Report()
        self.compilation = Compilation(self.source, options)
        self.kernel, how = report.compiled(self.source, options, lambda: compile_layer(self.source, options))
        self.cost = analyse(self.compilation.schedule(), tokens)
        self.screen.say("layer", report.layer(self.kernel.interface), report.signature(self.kernel.interface))
        call = report.call(tokens, options.dtype, self.threads, options.target.cpu)
        self.screen.say("call", f"{call}, {self.kernel.activations} activations")
        self.screen.say("compiled", how)
        self.screen.stages(self.cost)

    def feed(self, seed: int) -> None:
        """Random weights and inputs. Raises `MemoryError` before there is too little for them."""
        from moec.cli.report import amount, duration
        from moec.measure.feed import random_inputs, random_weights
        from moec.runtime.stored import decoded

        interface, module = self.kernel.interface, self.compilation.simplify()
        self._require_memory()
        with self.screen.wait("drawing random weights"):
            arrays = random_weights(interface, module, seed)
            self.inputs = random_inputs(interface, module, self.calls * self.tokens, seed)
            start = time.perf_counter()
            self.weights = self.kernel.pack(arrays)
            took = time.perf_counter() - start
            self.truth = decoded(interface, arrays)
        count, size = sum(a.size for a in arrays.values()), sum(a.nbytes for a in arrays.values())
        packed = f"packed in {duration(took)} to {amount(self.weights.nbytes, 'B')}"
        self.screen.say("weights", f"{amount(count)} parameters, {amount(size, 'B')}, {packed}")

    def take(self, weights: Weights, seed: int) -> None:
        """Weights of a file, and random inputs."""
        from moec.cli.report import amount
        from moec.measure.feed import random_inputs
        from moec.runtime.unpack import unpack

        self._require_memory()
        tokens = self.calls * self.tokens
        self.inputs = random_inputs(self.kernel.interface, self.compilation.simplify(), tokens, seed)
        self.weights, self.truth = weights, unpack(self.kernel.interface, weights)
        self.screen.say("weights", amount(weights.nbytes, "B"))

    def _require_memory(self) -> None:
        """What is drawn, packed, and read by the oracle in float64 has to fit."""
        from moec.cli.report import amount
        from moec.host import free_memory
        from moec.measure.cost import packed_bytes, param_bytes, param_count

        interface = self.kernel.interface
        needed = param_bytes(interface) + packed_bytes(interface) + 8 * param_count(interface)
        needed += interface.workspace(self.tokens, self.threads)
        needed += needed // 5  # the oracle rounds one parameter after the other on a copy
        free = free_memory()
        if free is not None and needed > free:
            text = f"the weights, their panels and what the oracle makes of them take {amount(needed, 'B')}"
            raise MemoryError(f"{text}, {amount(free, 'B')} are free; smaller dimensions help (--dims)")

    def _call(self, number: int = 0) -> list[Any]:
        """The outputs, the extra ones after them, of the first tokens or of those that so many calls further come."""
        aux, first = self.options.aux, number * self.tokens
        inputs = (array[first : first + self.tokens] for array in self.inputs)
        result = self.kernel(*inputs, self.weights, aux=aux)
        outputs = result[0] if aux else result
        extra = [result[1][name] for name in aux]
        return [*(outputs if len(self.kernel.interface.outputs) > 1 else [outputs]), *extra]

    def _compare(self, tolerance: float, seconds: float) -> Comparison:
        """The outputs of all calls beside what the oracle says, which gets about so many seconds."""
        import numpy as np

        from moec.measure.compare import compare

        together = self.tokens if self.kernel.interface.batch else 0
        outputs = [np.concatenate(parts) for parts in zip(*map(self._call, range(self.calls)), strict=True)]
        return compare(outputs, self._interpret, tolerance, seconds, together)

    def _interpret(self, tokens: slice) -> tuple[list[Any], Any]:
        aux = self.options.aux
        result = self.oracle.run(tuple(array[tokens] for array in self.inputs), weights=self.truth, aux=aux)
        return [*result.outputs, *(result.aux[name] for name in aux)], result.stable

    def check(self) -> bool:
        """Whether the outputs are what the oracle says."""
        from rich.text import Text

        from moec.measure.compare import TOLERANCES, TOLERANCES_QUANTIZED
        from moec.oracle import reference

        quantized, dims, dtype = self.kernel.interface.quantized, dict(self.options.dims), self.options.dtype
        tolerance = (TOLERANCES_QUANTIZED if quantized else TOLERANCES)[dtype]
        self.oracle = reference(self.source, dims, dtype, quantized)
        with self.screen.wait("checking against the oracle"):
            found = self._compare(tolerance, 2.0)
        self.empty = not found.telling
        if self.empty:
            text = ": every output is 0, or no number, as where no expert is chosen; other inputs may show more"
            self.screen.say("checked", Text.assemble(("nothing", "bold yellow"), text))
            return True
        verdict, style = ("right", "green") if found.right else ("wrong", "bold red")
        text = found.fault or f"error {found.error:.1e} of a token's largest magnitude, {tolerance:.0e} allowed"
        self.screen.say("checked", Text.assemble((verdict, style), f": {text}"), self._sample(found))
        if quantized:
            self._tell_loss(reference(self.source, dims, dtype))
        return found.right

    def _sample(self, found: Comparison) -> str:
        """How many tokens were compared, and with what."""
        sample = f"{found.counted} of {self.calls * self.tokens} tokens compared with the oracle"
        if self.calls > 1:
            sample += f", of {self.calls} calls"
        if silent := found.done - found.telling:
            sample += f", {silent} are 0 on both sides"
        if left := found.telling - found.counted:
            sample += f", {left} left out that differ by a choice so near a tie that f32 may fall otherwise"
        return sample + ("; it quantises as the kernel does" if self.kernel.interface.quantized else "")

    def _tell_loss(self, oracle: Reference) -> None:
        """What quantising the activations changes: the kernel beside the oracle that leaves them as they are."""
        self.oracle = oracle
        with self.screen.wait("comparing with real activations"):
            found = self._compare(float("inf"), 1.0)
        lengths: dict[int, list[str]] = {}
        for name, length in self.kernel.interface.quantized.items():
            lengths.setdefault(length, []).append(name)
        beside = [f"of {length} beside {', '.join(names)}" for length, names in sorted(lengths.items())]
        text = f"vectors quantised in blocks {', '.join(beside)}"
        self.screen.say("int8", text, f"error {found.error:.1e} of a token's largest magnitude against real ones")

    def time(self) -> None:
        """The time of a call; where it does something, its rate, and the machine's limits, measured right after it."""
        from moec.cli.report import amount, duration
        from moec.measure.limits import measure

        with self.screen.wait("timing"):
            times = self._times()
            limits = measure(self.options.dtype, self.threads, self.kernel.activations)
        flops, weights, median = self.cost.flops, self.cost.weights, statistics.median(times)
        least = limits.seconds(flops, weights)
        spread = f"{duration(min(times))} to {duration(max(times))}"
        share = f"the call is at {least / median:.0%} of it"
        if least > median:
            share = "the call is faster, since caches hold some of its weights"
        self.screen.say("time", f"{duration(median)} a call, the median of {len(times)}: {spread}")
        if self.empty:
            return
        note = ["at most: slots that may be empty count as filled, here and below"] if self.cost.partial else []
        rate = f"{amount(flops / median, 'FLOP')}/s, {amount(weights / median, 'B')}/s of weights"
        self.screen.say("rate", rate, *note)
        self.screen.say(
            "limit",
            f"{duration(least)}, by {limits.by(flops, weights)}; {share}",
            f"{limits}, measured just now on {plural(self.threads, 'thread')}",
        )

    def _times(self) -> list[float]:
        least, most = _CALLS
        self._call()
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < least or (time.perf_counter() - begin < _SECONDS and len(times) < most):
            start = time.perf_counter()
            self._call()
            times.append(time.perf_counter() - start)
        return times
