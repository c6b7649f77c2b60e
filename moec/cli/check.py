"""`moec check`: errors and warnings, nothing else."""

from __future__ import annotations

import sys

import click

from moec.cli.shared import WRONG, Dims, dims_option, epilog, error_format_option, tell
from moec.diagnostics import CompileError


@click.command("check", epilog=epilog("moec check examples/*.moe", "moec check layer.moe --error-format json"))
@click.argument("files", nargs=-1, required=True, type=click.Path())
@dims_option
@error_format_option
def command(files: tuple[str, ...], dims: Dims) -> None:
    """Check FILES: first as formulas, then, where every dimension has a value, with the numbers, down to the plan.

    Exit code 1 if any file has an error. Warnings do not change it.
    """
    wrong = False
    for file in files:
        try:
            check(file, dims)
        except CompileError as error:
            tell(error)
            wrong = True
    if wrong:
        sys.exit(WRONG)


def check(file: str, dims: Dims) -> None:
    """Raises `CompileError` where a file is wrong; prints warnings."""
    from moec.language.read import read
    from moec.language.unused import unused
    from moec.options import Options
    from moec.pipeline import Compilation

    compilation = Compilation(read(file), Options.of(dims))
    compilation.elaborate()
    for warning in unused(compilation.ast):
        tell(CompileError(warning))
    if all(dimension.name in compilation.binding for dimension in compilation.ast.layers[0].dimensions):
        compilation.schedule()
