"""`moec bench`: moec beside other implementations of the same layers, measured in turns."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from moec.cli.shared import Dims, activations_option, dims_option, epilog, error_format_option, storage_option

if TYPE_CHECKING:
    from rich.console import Console

    from moec.bench.peers import Peer
    from moec.measure.limits import Limits

_EXAMPLES = (
    "moec bench examples/olmoe.moe --tokens 1,16,512 --against numpy,torch",
    "moec bench examples --dims H=512,I=256 --dtype f32,bf16 --threads 1,2 --json results.json",
)
_COLUMNS: Final = (
    "spec",
    "dtype",
    "storage",
    "threads",
    "tokens",
    "impl",
    "ms",
    "spread",
    "GFLOP/s",
    "GB/s",
    "of limit",
    "error",
)


def _names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    parts = _names(ctx, param, value)
    if not parts or not all(part.isascii() and part.isdigit() and 0 < int(part) < 1 << 20 for part in parts):
        raise click.BadParameter(f"`{value}` is not a list of numbers, as in 1,16,512", ctx, param)
    return [int(part) for part in parts]


@click.command("bench", epilog=epilog(*_EXAMPLES))
@click.argument("file", type=click.Path())
@dims_option
@click.option("--tokens", default="1,4,16,64,512", show_default=True, callback=_numbers, help="Tokens of a call.")
@click.option(
    "--dtype", default="f32", show_default=True, callback=_names, help="What `real` stands for, each in turn."
)
@storage_option
@activations_option
@click.option("--threads", default="1", show_default=True, callback=_numbers, help="Threads of a call, each in turn.")
@click.option("--against", default="numpy,torch", show_default=True, callback=_names, help="Peers; `moec peers` lists.")
@click.option(
    "--seconds", default=1.0, show_default=True, type=click.FloatRange(0), help="For each peer at each point."
)
@click.option("--json", "output", metavar="FILE|-", help="Write the results as JSON; - is standard output.")
@error_format_option
def command(
    file: str,
    dims: Dims,
    tokens: list[int],
    dtype: list[str],
    storage: dict[str, str],
    activations: str,
    threads: list[int],
    against: list[str],
    seconds: float,
    output: str | None,
) -> None:
    """Time the layer in FILE, or every layer in a directory, beside other implementations.

    Each is checked against the oracle, then all are timed in turns. `of limit` is the least time that the machine's
    arithmetic and memory allow, both measured in this process, over the median.
    """
    from rich.console import Console

    from moec import pipeline
    from moec.bench.peers import all_peers

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    known = all_peers()
    if unknown := [name for name in against if name not in known]:
        raise click.BadParameter(
            f"no peer is called `{unknown[0]}`; there are {', '.join(known)}", param_hint="--against"
        )
    for name in against:
        if known[name].python is None:
            console.print(f"{name} is not installed and left out: moec peers --install {name}")
    peers = [known[name] for name in against if known[name].python is not None]
    paths = sorted(Path(file).glob("*.moe")) if Path(file).is_dir() else [Path(file)]
    if not paths:
        raise click.BadParameter(f"`{file}` holds no .moe file", param_hint="FILE")
    results = _Results(console)
    for path in paths:
        source = pipeline.find_source(path)
        for kind in dtype:
            options = pipeline.Options.of(dims, kind, 1, storage=storage, activations=activations)
            for count in threads:
                results.add(path.stem, source, replace(options, threads=count), peers, tokens, seconds)
    found = results.finish()
    if output:
        text = json.dumps(found, indent=1) + "\n"
        click.echo(text, nl=False) if output == "-" else Path(output).write_text(text)
    if output != "-":
        _show(found["rows"])


class _Results:
    """What has been measured so far."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[dict[str, Any]] = []
        self.versions: dict[str, str] = {}
        self.limits: dict[tuple[str, int], list[Limits]] = {}

    def add(self, spec: str, source: Any, options: Any, peers: list[Peer], tokens: list[int], seconds: float) -> None:
        """A layer in one precision, on so many threads."""
        from moec.bench.trial import Trial, row

        told = set[str]()
        with (
            self.console.status(f"{spec}: weights, oracle, peers", spinner="line") as status,
            Trial(source, options, peers, tokens) as trial,
        ):
            status.stop()  # its thread would take the processor from what is timed
            for count in tokens:
                self._measure_limits(options.dtype, options.threads)
                samples = trial.measure(count, seconds, lambda text: None)
                limits = self._median(options.dtype, options.threads)
                self.rows += [row(spec, trial, count, sample, limits) for sample in samples]
                times = ", ".join(f"{sample.impl} {sample.median * 1e3:.3g}" for sample in samples)
                self.console.print(f"{spec} {options.dtype}, {options.threads} threads, {count} tokens, ms: {times}")
                for name in set(trial.failures) - told:
                    self.console.print(f"{name} is left out: {trial.failures[name]}")
                told |= set(trial.failures)
            self.versions |= trial.versions

    def _measure_limits(self, dtype: str, threads: int) -> None:
        from moec.measure.limits import measure_again

        self.limits.setdefault((dtype, threads), []).append(measure_again(dtype, threads))

    def _median(self, dtype: str, threads: int) -> Limits:
        """The best of the arithmetic, the median of the reads."""
        from moec.measure.limits import Limits

        found = self.limits[dtype, threads]
        return Limits(max(each.gflops for each in found), statistics.median(each.gbytes for each in found))

    def finish(self) -> dict[str, Any]:
        """Everything as JSON has it; the limits are measured once more."""
        for dtype, threads in self.limits:
            self._measure_limits(dtype, threads)
        limits = [
            {
                "dtype": dtype,
                "threads": threads,
                "gflops": self._median(dtype, threads).gflops,
                "gbytes_s": self._median(dtype, threads).gbytes,
                "samples": [[each.gflops, each.gbytes] for each in samples],
            }
            for (dtype, threads), samples in self.limits.items()
        ]
        return {
            "machine": _machine(),
            "commit": _commit(),
            "versions": {**_versions(), **self.versions},
            "limits": limits,
            "rows": self.rows,
        }


def _machine() -> dict[str, Any]:
    from moec.runtime.pool import default_threads
    from moec.target import Target

    return {"cpu": Target.host().cpu, "processors": default_threads(), "system": platform.platform()}


def _commit() -> str:
    """The commit of the checkout that runs, with `-dirty` where it has changes; moec's version outside of one."""
    from moec import __version__

    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return __version__
    return done.stdout.strip() or __version__


def _versions() -> dict[str, str]:
    import llvmlite
    import numpy

    from moec import __version__

    return {
        "moec": __version__,
        "python": platform.python_version(),
        "llvmlite": llvmlite.__version__,
        "numpy": numpy.__version__,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        table.add_column(
            name, justify="left" if name in ("spec", "dtype", "storage", "impl") else "right", no_wrap=True
        )
    for row in rows:
        spread = f"{row['ms_min']:.3g}–{row['ms_max']:.3g}"
        rates = (f"{row['gflops']:.1f}", f"{row['gbytes_s']:.1f}", f"{row['of_limit']:.0%}", f"{row['max_error']:.0e}")
        names = (row["spec"], row["dtype"], row["storage"], str(row["threads"]), str(row["tokens"]), row["impl"])
        table.add_row(*names, f"{row['ms_median']:.3g}", spread, *rates)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table) if console.is_terminal else Console(width=140, highlight=False).print(table)
