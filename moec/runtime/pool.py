"""The threads that kernels share: how many, started once, and the memory through which native code hands them work.

The workers are Python's threads, but they live in native code (`moec_work`), without the GIL; `moec.codegen.pool`
says what they do there. A process has one crew of them, which grows; a pool is a number of threads with which it is
called. A crew is never taken down: its threads are daemons and cost nothing while they sleep. After a `fork` the child
has none of them, so it starts a crew of its own.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from moec.runtime.jit import Library
from moec.runtime.memory import aligned_empty
from moec.target import LINE


class Line(IntEnum):
    """The fields of a pool, which is what a kernel takes, each at the start of a line."""

    SIZE = 0  # how many threads share a job, the caller counted
    PARALLEL = 1  # the address of `moec_parallel`
    CREW = 2  # the address of the crew's fields


class Field(IntEnum):
    """The fields of a crew, each at the start of a line that it has to itself."""

    STATE = 0  # bit 0: no job is open; then how many workers have joined; from bit 32 on the size of the job
    TICKET = 1  # i32: changes whenever a job opens; what workers sleep on
    SLEEPERS = 2
    BUSY = 3  # 1 while somebody has a job open
    STAGE = 4
    FRAME = 5
    UNITS = 6
    SCRATCH = 7
    STRIDE = 8
    CHUNK = 9
    NEXT = 10  # the first unit that nobody has taken
    CALLER = 11  # the processor that opened the job


class Crew:
    """The workers of this process, which all its pools share: as many as the largest of them has had need of."""

    def __init__(self, image: bytes) -> None:
        self._library = Library(image, "moec_work", "moec_parallel")
        self._memory = aligned_empty(LINE * len(Field))
        self._memory.view("i8")[Field.STATE * LINE // 8] = 1
        self.address: int = self._memory.ctypes.data
        self.parallel = self._library.address("moec_parallel")
        self._work = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(self._library.address("moec_work"))
        self._threads = 1

    def grow(self, threads: int) -> int:
        """Starts workers until there are so many threads, the caller counted; how many of them there are."""
        try:
            while self._threads < threads:
                arguments, name = (self.address, self._threads), f"moec-{self._threads}"
                self._threads += 1  # first, so that after an interrupt no two workers have one number
                threading.Thread(target=self._work, args=arguments, name=name, daemon=True).start()
        except RuntimeError:  # it cannot be started; those that were live in this memory
            self._threads -= 1
        return min(threads, self._threads)


class Pool:
    """The caller and the first workers of a crew, `threads` of them all: as many as were asked for, or as the system
    grants. `address` is what a kernel takes."""

    def __init__(self, crew: Crew, threads: int) -> None:
        self._crew = crew
        self._memory = aligned_empty(LINE * len(Line))
        self.address: int = self._memory.ctypes.data
        self.threads = crew.grow(threads)
        fields = self._memory.view("i8")
        fields[Line.SIZE * LINE // 8] = self.threads
        fields[Line.PARALLEL * LINE // 8] = crew.parallel
        fields[Line.CREW * LINE // 8] = crew.address


_crew: Crew | None = None
_pools: dict[int, Pool] = {}
_lock = threading.Lock()


def shared(threads: int, image: Callable[[], bytes]) -> Pool:
    """This process's pool of so many threads; `image` gives the code of the crew when it has to be started."""
    global _crew
    with _lock:
        if threads not in _pools:
            _crew = _crew or Crew(image())
            _pools[threads] = Pool(_crew, threads)
        return _pools[threads]


def _forget() -> None:
    global _crew, _lock
    _crew = None
    _pools.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def default_threads() -> int:
    """`MOEC_NUM_THREADS`, else `OMP_NUM_THREADS`, else the processors that this process may use; 1 where moec has no
    threads."""
    if sys.platform != "linux":
        return 1
    for name in ("MOEC_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdigit() and int(text) > 0:
            return int(text)
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, _quota() or allowed))


def _quota() -> int | None:
    """The whole processors that the control group grants (cgroup v2, then v1), if it limits them."""
    with suppress(OSError, ValueError):
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else -(-int(limit) // int(period))
    with suppress(OSError, ValueError):
        limit, period = (int(Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return None if limit <= 0 else -(-limit // period)
    return None
