"""`moec compile`: any stage of a compilation, printed or written."""

from __future__ import annotations

import sys
from pathlib import Path

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
)
from moec.dtypes import StorageLike
from moec.language.read import read
from moec.options import Options, machine
from moec.pipeline import STAGES, Compilation
from moec.source import Source

_STAGES = "\b\nStages:\n" + "\n".join(f"  {name:<9} {stage.about}" for name, stage in STAGES.items())
_EXAMPLES = (
    "moec compile layer.moe --emit plan",
    "moec compile layer.moe --emit moe,plan,llvm,asm,obj -o build",
    "moec compile layer.moe --emit asm --target riscv64-linux-gnu -o -",
    "moec compile layer.moe --emit asm --mcpu znver4 -o layer.s",
)


@click.command("compile", epilog=epilog(*_EXAMPLES, more=_STAGES))
@file_argument
@click.option("--emit", metavar="STAGE,…", help="Stages to print or write.")
@click.option("-o", "--output", metavar="DIR|FILE|-", help="Where to: a name with a suffix is a file, - is the screen.")
@dims_option
@dtype_option
@storage_option
@activations_option
@aux_option
@click.option("--target", metavar="TRIPLE", help="The machine to compile for.  [default: this one]")
@click.option("--mcpu", metavar="NAME", help="Its cpu, as LLVM calls it, or `native`.")
@click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help="How hard LLVM tries.")
@error_format_option
def command(
    file: str,
    emit: str | None,
    output: str | None,
    dims: Dims,
    dtype: str,
    storage: StorageLike,
    activations: str,
    aux: tuple[str, ...],
    target: str | None,
    mcpu: str | None,
    level: int,
) -> None:
    """Compile FILE.

    With --emit one text goes to standard output unless -o says otherwise; several stages, and objects, go to files
    that are called <layer>.<stage>.<suffix>. Without --emit the result goes to the cache.
    """
    from moec import pipeline

    options = Options.of(
        dims,
        dtype,
        target=machine(target, mcpu),
        aux=aux,
        level=level,
        storage=storage,
        activations=activations,
    )
    source = read(file)
    if emit is None:
        if output is not None:
            raise click.UsageError("-o needs --emit: which stages should be written?")
        _summarise(source, options)
        return
    names = [name.strip() for name in emit.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("no stage is named", param_hint="--emit")
    texts = all(pipeline.find_stage(name).suffix != "o" for name in names)
    if output is None and len(names) == 1 and texts:
        output = "-"
    if output == "-" and not texts and sys.stdout.isatty():
        raise click.UsageError("an object file does not belong on a terminal; write it with -o FILE")
    compilation = pipeline.compile_source(source, options)
    if output == "-":
        for name in names:
            _print(compilation.show(name))
    else:
        for path in _write(compilation, names, Path(output or ".")):
            click.echo(path)


def _summarise(source: Source, options: Options) -> None:
    from moec import pipeline
    from moec.cli import report

    program, how = report.compiled(source, options, lambda: pipeline.build(source, options))
    screen = report.Report()
    screen.say("layer", report.layer(program.interface), report.signature(program.interface))
    screen.say("target", f"{options.target.triple}, {options.target.cpu}, {options.dtype}")
    screen.say("compiled", f"{how}, {len(program.image):,} bytes of code")


def _print(shown: str | bytes) -> None:
    click.echo(shown.removesuffix("\n") if isinstance(shown, str) else shown, nl=isinstance(shown, str))


def _write(compilation: Compilation, names: list[str], path: Path) -> list[Path]:
    """Writes stages to a directory, or one stage to a file."""
    from moec import pipeline

    if len(names) == 1 and path.suffix and not path.is_dir():
        shown = compilation.show(names[0])
        path.write_bytes(shown if isinstance(shown, bytes) else shown.encode())
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    return pipeline.write(compilation, names, path)
