"""The memory that calls work in: each thread has its own, whatever kernel it calls."""

from __future__ import annotations

import threading
from typing import Final

from moec.arrays import address
from moec.runtime.memory import aligned_empty


class Workspace(threading.local):
    """A thread's memory for calls: grown when a call needs more, then kept. `memory` is as the last call left it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Gives the memory back; this thread's next call takes and touches it anew."""
        self._take(64)

    def at_least(self, nbytes: int) -> int:
        """The address of so many bytes. Raises `MemoryError`."""
        if self.size < nbytes:
            try:
                self._take(nbytes)
            except (MemoryError, OSError, OverflowError, ValueError):
                raise MemoryError(f"a workspace of {nbytes:,} bytes cannot be had") from None
        return self.address

    def _take(self, nbytes: int) -> None:
        self.memory = aligned_empty(nbytes)
        self.address, self.size = address(self.memory), nbytes


WORKSPACE: Final = Workspace()
