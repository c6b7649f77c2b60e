"""The text of a `.moe` file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from moec.diagnostics import fail
from moec.source import Source

#: The longest text that is compiled, in bytes.
MAX_BYTES: Final = 1 << 20


def find_source(source: Source | Path | str) -> Source:
    """The text that `source` is: a `Source`, the text itself (it has a line break, begins with a definition, or is
    empty), or a path. Raises `CompileError` (E0001, E0003, E0004) where it cannot be read."""
    if isinstance(source, Source):
        return source
    if isinstance(source, str) and _is_text(source):
        return Source("<string>", source)
    return read(source)


def _is_text(source: str) -> bool:
    return not source.strip() or "\n" in source or source.lstrip().startswith(("moe ", "fn ", "bind "))


def read(path: str | Path) -> Source:
    """The text of a file. Raises `CompileError`: E0001 (unreadable, or no path), E0003 (beyond `MAX_BYTES`), E0004 (not
    UTF-8)."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise fail("E0001", f"cannot read `{path}`: {reason}") from None
    except TypeError:
        what = f"a layer is a text or a path, not `{type(path).__name__}`"
        raise fail("E0001", what, help="`moec.compile(text)`, or the path of a .moe file") from None
    if len(data) > MAX_BYTES:
        raise fail("E0003", f"`{path}` is larger than {MAX_BYTES} bytes")
    try:
        return Source(str(path), data.decode())
    except UnicodeDecodeError as error:
        raise fail("E0004", f"`{path}` is not UTF-8: byte {error.start} cannot be decoded") from None
