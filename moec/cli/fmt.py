"""`moec fmt`: the one layout of a file."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from pathlib import Path

import click

from moec.cli.shared import told


@click.command("fmt")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
@told
def command(files: tuple[str, ...], check: bool, diff: bool) -> None:
    """Rewrite FILES in the canonical layout (`-`: standard input to standard output).

    A file is replaced as a whole or not at all; a file with an error stays as it is.
    """
    changed = [file for file in files if _format(file, write=not check and not diff, show=diff)]
    for file in changed:
        click.echo(f"{'would change' if check or diff else 'changed'} {file}", err=True)
    if check and changed:
        sys.exit(1)


def _format(file: str, write: bool, show: bool) -> bool:
    """Whether a file's layout is not the canonical one."""
    from moec.language.format import format_source
    from moec.source import Source, read

    if file == "-":
        click.echo(format_source(Source("<stdin>", sys.stdin.read())), nl=False)
        return False
    source = read(file)
    text = format_source(source)
    if text == source.text:
        return False
    if show:
        lines = (source.text.splitlines(keepends=True), text.splitlines(keepends=True))
        click.echo("".join(difflib.unified_diff(*lines, file, file)), nl=False)
    if write:
        _replace(Path(file), text)
    return True


def _replace(path: Path, text: str) -> None:
    """Writes aside, then moves into place: no moment at which the file is not whole."""
    path = path.resolve()
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        os.chmod(aside, path.stat().st_mode)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
