"""Files that moec writes: where its own are kept, and how one takes the place of another."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO


def cache_directory() -> Path:
    """What can be made again: `MOEC_CACHE_DIR`, or the user's cache directory."""
    if chosen := os.environ.get("MOEC_CACHE_DIR"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("moec"))


def write_aside(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o666) -> None:
    """What `write` writes, aside first, then moved into place: whoever opens `path` finds the old file or the new one,
    whole. A new file has the permissions `mode` less the umask, another one keeps its own.

    Raises `OSError`, whose file is `path`; nothing else is left then.
    """
    aside = path.with_name(f".moec-{token_hex(8)}.part")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            with suppress(FileNotFoundError):
                os.chmod(aside, stat.S_IMODE(path.stat().st_mode))
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def require_place(path: Path) -> None:
    """Raises `OSError` where no file of that name can be: before long work, so that it is not done for nothing."""
    code = errno.EISDIR if path.is_dir() else 0 if path.parent.is_dir() else errno.ENOENT
    if code:
        raise OSError(code, os.strerror(code), str(path))
