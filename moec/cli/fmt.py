"""`moec fmt`: the one layout of a file."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import BinaryIO

import click

from moec.cli.shared import WRONG, epilog, error_format_option, tell, tell_of_file
from moec.diagnostics import CompileError, fail
from moec.files import write_aside
from moec.language.read import read
from moec.source import Source


@click.command(
    "fmt", epilog=epilog("moec fmt layer.moe", "moec fmt --check --diff examples/*.moe", "moec fmt - <a.moe")
)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
@error_format_option
def command(files: tuple[str, ...], check: bool, diff: bool) -> None:
    """Rewrite FILES in the canonical layout (`-`: standard input to standard output).

    A file is replaced as a whole or not at all; a file with an error stays as it is, and the others go on.
    """
    failed = False
    for file in files:
        try:
            changed = _format(file, write=not check and not diff, show=diff)
        except CompileError as error:
            tell(error)
            failed = True
        except OSError as error:
            tell_of_file(error)
            failed = True
        else:
            failed |= check and changed
    if failed:
        sys.exit(WRONG)


def _format(file: str, write: bool, show: bool) -> bool:
    """Whether a file's layout is not the canonical one; says so where it is not."""
    from moec.language.format import format_source

    source = _stdin() if file == "-" else read(file)
    text = format_source(source)
    changed = text != source.text
    if show:
        click.echo(_diff(source.text, text, source.name), nl=False)
    if file == "-" and write:
        click.echo(text, nl=False)
    elif changed:
        if write:
            write_aside(Path(file).resolve(), lambda stream: _flushed(stream, text))
        click.echo(f"{'changed' if write else 'would change'} {source.name}", err=True)
    return changed


def _diff(before: str, after: str, name: str) -> str:
    lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), name, name)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _stdin() -> Source:
    data: bytes = sys.stdin.buffer.read()
    try:
        return Source("<stdin>", data.decode())
    except UnicodeDecodeError as error:
        raise fail("E0004", f"standard input is not UTF-8: byte {error.start} cannot be decoded") from None


def _flushed(stream: BinaryIO, text: str) -> None:
    """Writes a text through to the disk."""
    stream.write(text.encode())
    stream.flush()
    os.fsync(stream.fileno())
