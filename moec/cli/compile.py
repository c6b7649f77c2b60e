"""`moec compile`: any stage of a compilation, printed or written."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from moec.cli.shared import dims_option, dtype_option, file_argument, told
from moec.pipeline import STAGES

_STAGES = "\b\nStages:\n" + "\n".join(f"  {name:<9} {stage.about}" for name, stage in STAGES.items())
_EXAMPLES = """

\b
Examples:
  moec compile layer.moe --emit plan
  moec compile layer.moe --emit moe,plan,llvm,asm,obj -o build
  moec compile layer.moe --emit asm --target riscv64-linux-gnu --mcpu generic-rv64 -o -
"""


@click.command("compile", epilog=_STAGES + _EXAMPLES)
@file_argument
@click.option("--emit", metavar="STAGE,…", help="Stages to print or write.")
@click.option("-o", "--output", metavar="DIR|FILE|-", help="Where to write; - is standard output.")
@dims_option
@dtype_option
@click.option("--target", metavar="TRIPLE", help="The machine to compile for.  [default: this one]")
@click.option("--mcpu", metavar="NAME", help="Its cpu, as LLVM calls it, or `native`.")
@click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help="How hard LLVM tries.")
@told
def command(
    file: str,
    emit: str | None,
    output: str | None,
    dims: dict[str, int],
    dtype: str,
    target: str | None,
    mcpu: str | None,
    level: int,
) -> None:
    """Compile FILE. Without --emit the result goes to the cache only."""
    from moec import pipeline

    source = pipeline.find_source(Path(file))
    options = pipeline.Options.of(dims, dtype, None, pipeline.machine(target, mcpu), (), level)
    if emit is None:
        program = pipeline.build(source, options)
        click.echo(f"{program.interface.name}: {len(program.image):,} bytes of code")
        return
    names = [name.strip() for name in emit.split(",") if name.strip()]
    stages = [pipeline.find_stage(name) for name in names]
    compilation = pipeline.compile_source(source, options)
    if output is None and len(names) == 1 and names[0] != "obj":
        output = "-"
    if output == "-":
        for stage in stages:
            _print(stage.show(compilation))
        return
    for path in _write(compilation, names, output):
        click.echo(path)


def _print(shown: str | bytes) -> None:
    if isinstance(shown, str):
        click.echo(shown)
    elif sys.stdout.isatty():
        raise click.UsageError("an object file does not belong on a terminal; write it with -o FILE")
    else:
        sys.stdout.buffer.write(shown)


def _write(compilation: object, names: list[str], output: str | None) -> list[Path]:
    """Writes stages to a directory, or one stage to a file."""
    from moec import pipeline

    assert isinstance(compilation, pipeline.Compilation)
    path = Path(output or ".")
    if len(names) == 1 and path.suffix and not path.is_dir():
        shown = compilation.show(names[0])
        path.write_bytes(shown if isinstance(shown, bytes) else shown.encode())
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    return pipeline.write(compilation, names, path)
