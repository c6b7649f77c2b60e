"""`moec check`: errors and warnings, nothing else."""

from __future__ import annotations

import sys

import click

from moec.cli.shared import dims_option, tell, told
from moec.diagnostics import CompileError


@click.command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@dims_option
@told
def command(files: tuple[str, ...], dims: dict[str, int]) -> None:
    """Check FILES: first as formulas, then, where every dimension has a value, with the numbers.

    Exit code 1 if any file has an error.
    """
    wrong = False
    for file in files:
        try:
            check(file, dims)
        except CompileError as error:
            tell(error, _format())
            wrong = True
    if wrong:
        sys.exit(1)


def check(file: str, dims: dict[str, int]) -> None:
    """Raises `CompileError` where a file is wrong; prints warnings."""
    from moec.elaborate import elaborate
    from moec.language.parse import parse
    from moec.language.unused import unused
    from moec.source import read

    tree = parse(read(file))
    elaborate(tree, dims)
    for warning in unused(tree):
        tell(CompileError(warning), _format())


def _format() -> str:
    return click.get_current_context().params.get("error_format") or "human"
