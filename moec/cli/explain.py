"""`moec explain`: what runs, and what the machine's limits say of each stage."""

from __future__ import annotations

from pathlib import Path

import click

from moec.cli.shared import dims_option, dtype_option, file_argument, told


@click.command("explain")
@file_argument
@dims_option
@dtype_option
@click.option("--tokens", default=1, show_default=True, type=click.IntRange(0), help="Tokens of a call.")
@click.option("--rates", metavar="GFLOPS,GBS", help="The machine's limits instead of measuring them.")
@told
def command(file: str, dims: dict[str, int], dtype: str, tokens: int, rates: str | None) -> None:
    """Explain FILE: for each stage its rows, FLOPs, bytes, tile, and the least time that the machine allows.

    \b
    Example:
      moec explain examples/mixtral.moe --tokens 512 --dtype bf16
    """
    from rich.console import Console
    from rich.table import Table

    from moec import pipeline
    from moec.measure.cost import analyse
    from moec.measure.limits import Limits, measure

    source = pipeline.find_source(Path(file))
    compilation = pipeline.Compilation(source, pipeline.Options.of(dims, dtype, 1))
    analysis = analyse(compilation.schedule(), tokens)
    limits = Limits(*_rates(rates)) if rates else measure(dtype)
    table = Table(title=f"{compilation.interface.name}, {tokens} tokens, {dtype}", title_justify="left")
    for heading in ("stage", "rows", "GFLOP", "MB", "FLOP/byte", "limit ms", "by"):
        table.add_column(heading, justify="left" if heading in ("stage", "by") else "right")
    for stage in analysis.stages:
        seconds = limits.seconds(stage.flops, stage.nbytes)
        by = "memory" if stage.nbytes / limits.gbytes > stage.flops / limits.gflops else "arithmetic"
        table.add_row(
            stage.about,
            f"{stage.rows:,.0f}",
            f"{stage.flops / 1e9:.3f}",
            f"{stage.nbytes / 1e6:,.2f}",
            f"{stage.flops / max(stage.nbytes, 1):.1f}",
            f"{seconds * 1e3:.3f}",
            by,
        )
    console = Console()
    console.print(table)
    total = limits.seconds(analysis.flops, analysis.nbytes)
    console.print(
        f"in all   {analysis.flops / 1e9:.3f} GFLOP, {analysis.nbytes / 1e6:,.2f} MB, at least {total * 1e3:.3f} ms"
    )
    console.print(f"limits   {limits.gflops:.0f} GFLOP/s, {limits.gbytes:.1f} GB/s, one thread")
    interface = compilation.interface
    needed = interface.bytes_per_token * tokens + interface.fixed_bytes
    console.print(f"memory   {needed / 1e6:,.2f} MB of workspace")


def _rates(text: str) -> tuple[float, float]:
    try:
        gflops, gbytes = (float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"`{text}` is not GFLOPS,GBS, as in 114,25", param_hint="--rates") from None
    return gflops, gbytes
