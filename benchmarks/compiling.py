"""How long a process takes to have a layer ready: compiled anew, and from the cache; after the imports.

    python -m benchmarks.compiling examples/mixtral.moe --runs 5

The medians, in milliseconds, one thread. Each sample is a process of its own; a cold one has a cache directory in which
nothing is but the parser's tables.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

CLOCK: Final = """
import sys, time, moec
start = time.perf_counter()
moec.compile(sys.argv[1], dtype=sys.argv[2], threads=1)
print(1e3 * (time.perf_counter() - start))
"""
TABLES: Final = "from moec.language.tables import tables; tables()"


def milliseconds(file: str, dtype: str, directory: Path) -> float:
    """How long a new process takes, with the cache in `directory`."""
    return float(_python(directory, CLOCK, file, dtype))


def _python(directory: Path, *arguments: str) -> str:
    environment = {**os.environ, "MOEC_CACHE_DIR": str(directory)}
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@click.command()
@click.argument("file", default="examples/mixtral.moe", type=click.Path(exists=True))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="Samples of each.")
@click.option("--dtype", default="f32,bf16,f16", show_default=True, help="What `real` stands for, each in turn.")
def main(file: str, runs: int, dtype: str) -> None:
    """Time the compilation of FILE."""
    click.echo("| real | compiled | from the cache |\n|---|---|---|")
    for real in dtype.split(","):
        with tempfile.TemporaryDirectory() as root:
            directories = [Path(root) / str(run) for run in range(runs)]
            for directory in directories:
                _python(directory, TABLES)
            cold = [milliseconds(file, real, directory) for directory in directories]
            warm = [milliseconds(file, real, directory) for directory in directories]
        click.echo(f"| {real} | {statistics.median(cold):.0f} ms | {statistics.median(warm):.1f} ms |")


if __name__ == "__main__":
    main()
