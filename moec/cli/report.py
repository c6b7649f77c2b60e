"""How the commands print what they found: labelled lines, a table of stages, quantities with their units."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moec.diagnostics import plural
from moec.excerpt import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moec.measure.cost import Analysis, StageCost
    from moec.measure.limits import Limits
    from moec.options import Options
    from moec.runtime.interface import Array, Interface
    from moec.source import Source

_Made = TypeVar("_Made")
#: Where lines begin, right of their labels.
_INDENT: Final = 10

_Cell: TypeAlias = "Callable[[StageCost, Limits | None], str]"


class Report:
    """Lines with a label in front, as they are found; colours only on a terminal that wants them."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)

    def say(self, label: str, *lines: str | Text) -> None:
        """A label, then lines; what is too long for the screen goes on below, not under the label."""
        for line in lines:
            text = Text(printable(line)) if isinstance(line, str) else line
            for part in text.wrap(self.console, max(20, self.console.width - _INDENT)):
                part.rstrip()
                self.console.print(Text.assemble((label.ljust(_INDENT), "bold"), part), soft_wrap=True)
                label = ""

    def wait(self, text: str) -> AbstractContextManager[object]:
        """Says on a terminal what takes a moment."""
        return self.console.status(text, spinner="line")

    @contextmanager
    def progress(self, text: str) -> Generator[Callable[[int, int], None]]:
        """A bar on a terminal for what takes long; told how many bytes are done, and of how many."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(text.ljust(_INDENT - 1)), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(text, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def stages(self, analysis: Analysis, limits: Limits | None = None, times: Sequence[float] = ()) -> None:
        """A row for each stage; with `limits`, the least time that the machine allows; with `times`, what it took."""
        wide = self.console.width >= _WIDE
        names = _CHOSEN if limits is None else _EXPLAINED_WIDE if wide else _EXPLAINED
        gap = (0, 1, 0, 0) if wide else 0
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=gap, header_style="bold")
        for name in names:
            table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=name != "stage")
        if times:
            table.add_column("took", justify="right", no_wrap=True)
        for position, stage in enumerate(analysis.stages):
            took = [duration(times[position])] if times else []
            table.add_row(*(_CELLS[name](stage, limits) for name in names), *took)
        self.console.print()
        self.console.print(table)
        self.console.print()


# ── a table of stages ─────────────────────────────────────────────────────────────────────────────────────────────────


def _matrices(stage: StageCost, limits: Limits | None) -> str:
    if not stage.keys:
        return ""
    return f"[{stage.n}, {stage.k}]" if stage.keys == 1 else f"{stage.keys} x [{stage.n}, {stage.k}]"


def _least(stage: StageCost, limits: Limits | None) -> str:
    return duration(limits.seconds(stage.flops, stage.weights)) if limits and stage.flops else ""


def _slowest(stage: StageCost, limits: Limits | None) -> str:
    return limits.by(stage.flops, stage.weights) if limits and stage.flops else ""


_CELLS: Final[dict[str, _Cell]] = {
    "kind": lambda stage, _: stage.kind,
    "stage": lambda stage, _: stage.name,
    "matrices": _matrices,
    "grouped by": lambda stage, _: stage.grouping.replace("none", ""),
    "touched": lambda stage, _: f"{stage.touched:.1f}" if stage.keys > 1 else "",
    "tile": lambda stage, _: " ".join(stage.tile.split()[:2]),
    "rows": lambda stage, _: f"{stage.rows:,.0f}",
    "FLOP": lambda stage, _: amount(stage.flops) if stage.flops else "",
    "weights": lambda stage, _: amount(stage.weights, "B") if stage.weights else "",
    "moved": lambda stage, _: amount(stage.moved, "B"),
    "FLOP/B": lambda stage, _: f"{stage.flops / stage.nbytes:.1f}" if stage.flops else "",
    "limit": _least,
    "by": _slowest,
}
_WORDS: Final = ("kind", "stage", "matrices", "grouped by", "tile", "by")
#: What `moec run` shows, and `moec explain`, there also on a screen of at least so many columns.
_CHOSEN: Final = ("stage", "matrices", "tile", "rows", "FLOP", "weights")
_EXPLAINED: Final = ("stage", "matrices", "rows", "FLOP", "weights", "FLOP/B", "limit", "by")
_EXPLAINED_WIDE: Final = (*_CELLS,)
_WIDE: Final = 118


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def amount(value: float, unit: str = "") -> str:
    """Three digits and a prefix: `50.3 M`, `1.21 GB`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{_digits(value / factor)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Three digits and a unit: `44.9 ms`."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= 0.9995 * factor:
            return f"{_digits(seconds / factor)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def layer(interface: Interface) -> str:
    """A layer's name with the values of its dimensions."""
    return f"{interface.name}: {', '.join(f'{name} {value}' for name, value in interface.dims.items())}"


def call(tokens: int, dtype: str, threads: int, cpu: str) -> str:
    """What is asked of a layer: `128 tokens, f32, 2 threads, znver4`."""
    return f"{plural(tokens, 'token')}, {dtype}, {plural(threads, 'thread')}, {cpu}"


def signature(interface: Interface) -> str:
    """What a token brings and takes: `x: f32[1024] -> y: f32[1024]`."""
    results = (*interface.outputs, *interface.aux)
    return " -> ".join(", ".join(map(_typed, arrays)) for arrays in (interface.inputs, results))


def _typed(array: Array) -> str:
    return f"{array.name}: {array.dtype}{list(array.shape) or ''}"


def compiled(source: Source, options: Options, make: Callable[[], _Made]) -> tuple[_Made, str]:
    """What `make` makes of a layer, and how long that took, with or without the cache."""
    from moec.keys import cache_key
    from moec.runtime.cache import Cache

    kept = not os.environ.get("MOEC_DUMP") and Cache.default().load(cache_key(source, options)) is not None
    start = time.perf_counter()
    made = make()
    took = duration(time.perf_counter() - start)
    return made, f"in {took}, {'from the cache' if kept else 'not cached before'}"
