"""`moec explain`: what runs, and what the machine's limits say of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from moec.cli.shared import (
    Dims,
    activations_option,
    aux_option,
    dims_option,
    dtype_option,
    epilog,
    error_format_option,
    file_argument,
    storage_option,
    threads_option,
)
from moec.diagnostics import plural
from moec.dtypes import StorageLike

if TYPE_CHECKING:
    from moec.cli.report import Report
    from moec.measure.cost import Analysis
    from moec.measure.limits import Limits

_EXAMPLES = (
    "moec explain examples/mixtral.moe --tokens 512 --dtype bf16",
    "moec explain examples/mixtral.moe --rates 114,25",
    "moec explain examples/olmoe.moe --tokens 16 --measure",
)
_COLUMNS = """\b
Columns:
  matrices   how many there are x [columns, depth]
  rows       tokens, or the slots that they choose
  weights    bytes of the matrices that so many rows are expected to touch
  FLOP/B     FLOPs for each byte of weights and of rows
  limit      the longer of FLOPs and bytes of weights, at the machine's rates
A wide screen also shows how rows are grouped, how many matrices they touch,
the tile, and the bytes of rows that are moved.
"""


@click.command("explain", epilog=epilog(*_EXAMPLES, more=_COLUMNS))
@file_argument
@dims_option
@click.option("--tokens", default=1, show_default=True, type=click.IntRange(0), help="Tokens of a call.")
@dtype_option
@storage_option
@activations_option
@threads_option
@aux_option
@click.option("--rates", metavar="GFLOPS,GBS", help="The machine's limits, instead of measuring them.")
@click.option("--measure", is_flag=True, help="Run it on random weights and time each stage.")
@error_format_option
def command(
    file: str,
    dims: Dims,
    tokens: int,
    dtype: str,
    storage: StorageLike,
    activations: str,
    threads: int | None,
    aux: tuple[str, ...],
    rates: str | None,
    measure: bool,
) -> None:
    """Explain FILE: for each stage its rows, FLOPs, bytes, tile, and the least time that the machine allows.

    Nothing of the layer runs: the numbers come from its plan. With --measure it does run, and `took` is the median
    time of each stage, by the processor's clock.
    """
    from moec import pipeline
    from moec.cli import report
    from moec.language.read import read
    from moec.measure.cost import analyse, packed_bytes, param_bytes
    from moec.measure.limits import measure as measure_limits
    from moec.options import Options
    from moec.runtime.pool import default_threads

    given = _limits(rates) if rates else None
    options = Options.of(dims, dtype, threads, aux=aux, storage=storage, activations=activations)
    source = read(file)
    compilation = pipeline.Compilation(source, options)
    analysis = analyse(compilation.schedule(), tokens)
    interface = compilation.interface
    count = threads or default_threads()
    limits = given or measure_limits(dtype, count, "int8" if interface.quantized else "real")
    screen = report.Report()
    screen.say("layer", report.layer(interface), report.signature(interface))
    screen.say("call", report.call(tokens, dtype, count, options.target.cpu))
    times: Sequence[float] = ()
    if measure:
        from moec.bench.stages import time_stages

        times = time_stages(source, options, tokens, len(analysis.stages))
    screen.stages(analysis, limits, times)
    origin = "as given" if given else f"measured just now on {plural(count, 'thread')}"
    _say_limit(screen, analysis, limits, origin, sum(times))
    sizes = (param_bytes(interface), packed_bytes(interface), interface.workspace(tokens, count))
    raw, packed, workspace = (report.amount(size, "B") for size in sizes)
    screen.say("memory", f"{raw} of weights, {packed} packed, {workspace} of workspace")


def _say_limit(screen: Report, analysis: Analysis, limits: Limits, origin: str, took: float) -> None:
    """All stages together: what they do, the least time for it, and the time that they `took`, if they ran."""
    from moec.cli import report

    flops, weights = report.amount(analysis.flops, "FLOP"), report.amount(analysis.weights, "B")
    screen.say("in all", f"{flops}, {weights} of weights, {report.amount(analysis.moved, 'B')} of rows")
    least = limits.seconds(analysis.flops, analysis.weights)
    by = limits.by(analysis.flops, analysis.weights)
    if took:
        screen.say("took", f"{report.duration(took)}; the limit is {least / took:.0%} of it")
    screen.say("limit", f"{report.duration(least)}, by {by}" if least else "nothing to do", f"{limits}, {origin}")


def _limits(text: str) -> Limits:
    from moec.measure.limits import Limits

    try:
        gflops, gbytes = (float(part) for part in text.split(","))
    except ValueError:
        gflops = gbytes = 0.0
    if not (0 < gflops < float("inf") and 0 < gbytes < float("inf")):
        raise click.BadParameter(f"`{text}` is not GFLOPS,GBS, as in 114,25", param_hint="--rates")
    return Limits(gflops, gbytes)
