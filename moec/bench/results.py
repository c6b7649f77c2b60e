"""What `moec bench` has measured so far, and how it is written down: the JSON, and the table on the screen."""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

    from moec.bench.peers import Peer
    from moec.measure.limits import Limits
    from moec.options import Options
    from moec.source import Source

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


class Results:
    """What has been measured so far."""

    def __init__(self, console: Console, version: str) -> None:
        self.console = console
        self.version = version
        self.rows: list[dict[str, Any]] = []
        self.versions: dict[str, str] = {}
        self.limits: dict[tuple[str, int, str], list[Limits]] = {}  # by precision, threads, activations

    def add(
        self, spec: str, source: Source, options: Options, peers: Sequence[Peer], tokens: Sequence[int], seconds: float
    ) -> None:
        """A layer in one precision, on so many threads."""
        from moec.bench.trial import Trial, row

        told = set[str]()
        with (
            self.console.status(f"{spec}: weights, oracle, peers", spinner="line") as status,
            Trial(source, options, peers, tokens) as trial,
        ):
            status.stop()  # its thread would take the processor from what is timed
            kind = options.dtype, options.threads or 1, options.activations
            for count in tokens:
                self._measure_limits(*kind)
                samples = trial.measure(count, seconds)
                limits = self._median(*kind)
                self.rows += [row(spec, trial, count, sample, limits) for sample in samples]
                times = ", ".join(f"{sample.impl} {sample.median * 1e3:.3g}" for sample in samples)
                self.console.print(f"{spec} {options.dtype}, {options.threads} threads, {count} tokens, ms: {times}")
                for name in set(trial.failures) - told:
                    self.console.print(f"{name} is left out: {trial.failures[name]}")
                for sample in samples:
                    if not sample.compared.counted:
                        self.console.print(f"{sample.impl}, {count} tokens: {sample.compared.fault}")
                told |= set(trial.failures)
            self.versions |= trial.versions

    def _measure_limits(self, dtype: str, threads: int, activations: str) -> None:
        from moec.measure.limits import measure_again

        found = self.limits.setdefault((dtype, threads, activations), [])
        found.append(measure_again(dtype, threads, activations))

    def _median(self, dtype: str, threads: int, activations: str) -> Limits:
        """The best of the arithmetic, the median of the reads."""
        from moec.measure.limits import Limits

        found = self.limits[dtype, threads, activations]
        return Limits(max(each.gflops for each in found), statistics.median(each.gbytes for each in found))

    def finish(self) -> dict[str, Any]:
        """Everything as JSON has it; the limits are measured once more."""
        for kind in self.limits:
            self._measure_limits(*kind)
        limits = [
            {
                "dtype": dtype,
                "threads": threads,
                "activations": activations,
                "gflops": self._median(dtype, threads, activations).gflops,
                "gbytes_s": self._median(dtype, threads, activations).gbytes,
                "samples": [[each.gflops, each.gbytes] for each in samples],
            }
            for (dtype, threads, activations), samples in self.limits.items()
        ]
        return {
            "machine": _machine(),
            "commit": _commit() or self.version,
            "versions": {"moec": self.version, **_versions(), **self.versions},
            "limits": limits,
            "rows": self.rows,
        }


def _machine() -> dict[str, Any]:
    from moec.runtime.pool import default_threads
    from moec.target import Target

    return {"cpu": Target.host().cpu, "processors": default_threads(), "system": platform.platform()}


def _commit() -> str:
    """The commit of the checkout that runs, with `-dirty` where anything in it but results has changed; empty outside
    of one."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")
    return f"{commit}-dirty" if commit and changed else commit


def _git(*words: str) -> str:
    """What a command of git prints, here; nothing where it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _versions() -> dict[str, str]:
    import llvmlite
    import numpy

    return {
        "python": platform.python_version(),
        "llvmlite": llvmlite.__version__,
        "numpy": numpy.__version__,
    }


def show(rows: list[dict[str, Any]]) -> None:
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
        error = f"{row['max_error']:.0e}" if row["compared"] else "unknown"
        rates = (f"{row['gflops']:.1f}", f"{row['gbytes_s']:.1f}", f"{row['of_limit']:.0%}", error)
        names = (row["spec"], row["dtype"], row["storage"], str(row["threads"]), str(row["tokens"]), row["impl"])
        table.add_row(*names, f"{row['ms_median']:.3g}", spread, *rates)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table) if console.is_terminal else Console(width=140, highlight=False).print(table)
