"""Compiled layers on disk: one file an entry, checked when it is read, written aside and moved into place.

An entry is data, never code to be unpickled: a magic line, the SHA-256 of the rest, the length of the JSON, the JSON of
the `Interface`, the object file. Whatever is not exactly that is a miss. A directory that cannot be written makes a
cache that is always empty, not an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moec.files import cache_directory, write_aside
from moec.runtime.interface import Interface

_MAGIC: Final = b"moec object 1\n"
_HEAD: Final = len(_MAGIC) + 32 + 8
_SUFFIX: Final = ".moeo"

#: The bytes that a cache may hold; the entries that were not used for longest go first.
LIMIT: Final = 512 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled layer: its object file, and what a caller has to know."""

    interface: Interface
    image: bytes


@dataclass(frozen=True, slots=True)
class Cache:
    """The entries in `directory`, at most `limit` bytes of them."""

    directory: Path
    limit: int = LIMIT

    @staticmethod
    def default() -> Cache:
        """The user's cache: below `MOEC_CACHE_DIR`, or where the system keeps caches."""
        return Cache(cache_directory() / "objects")

    def load(self, key: str) -> Program | None:
        """The entry of a key, or None where there is none that is whole. Being used keeps an entry young."""
        path = self._path(key)
        try:
            data = path.read_bytes() if self._is_own() else b""
        except OSError:
            return None
        program = decode(data)
        if program is not None:
            with suppress(OSError):
                os.utime(path)
        return program

    def store(self, key: str, program: Program) -> None:
        """Puts an entry in place of what was there; does nothing where the directory cannot be written."""
        with suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_own():
                write_aside(self._path(key), lambda file: file.write(encode(program)), 0o600)
                self._evict()

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{_SUFFIX}"

    def _is_own(self) -> bool:
        """Whether nobody else can have put code there. Raises `OSError` where there is no directory."""
        stat = os.stat(self.directory)
        return not hasattr(os, "geteuid") or (stat.st_uid == os.geteuid() and not stat.st_mode & 0o022)

    def _evict(self) -> None:
        """Removes the entries used longest ago until the rest fits."""
        with os.scandir(self.directory) as found:
            entries = [(entry.stat(), entry.path) for entry in found if entry.name.endswith((_SUFFIX, ".part"))]
        total = sum(stat.st_size for stat, _ in entries)
        for stat, path in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self.limit:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= stat.st_size


def encode(program: Program) -> bytes:
    """An entry's bytes."""
    head = json.dumps(program.interface.to_json(), separators=(",", ":")).encode()
    body = len(head).to_bytes(8, "little") + head + program.image
    return _MAGIC + hashlib.sha256(body).digest() + body


def decode(data: bytes) -> Program | None:
    """The inverse of `encode`, or None where the bytes are not an entry of this version."""
    digest, body = data[len(_MAGIC) : _HEAD - 8], data[_HEAD - 8 :]
    if not data.startswith(_MAGIC) or len(data) < _HEAD or hashlib.sha256(body).digest() != digest:
        return None
    size = int.from_bytes(body[:8], "little")
    try:
        return Program(Interface.from_json(json.loads(body[8 : 8 + size])), body[8 + size :])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
