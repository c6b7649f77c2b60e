"""The threads that kernels share: how many, started once, and the memory through which native code hands them work.

The workers are Python's threads, but they live in native code (`moec_work`), without the GIL; `moec.codegen.pool`
says what they do there. A pool is never taken down: its threads are daemons and cost nothing while they sleep. After a
`fork` the child has none of them, so it starts pools of its own.
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
    """The fields of a pool, each at the start of a line that it has to itself."""

    SIZE = 0  # how many threads share a job, the caller counted
    PARALLEL = 1  # the address of `moec_parallel`
    STATE = 2  # bit 0: no job is open; above: how many workers have joined
    TICKET = 3  # i32: changes whenever a job opens; what workers sleep on
    SLEEPERS = 4
    BUSY = 5  # 1 while somebody has a job open
    STAGE = 6
    FRAME = 7
    UNITS = 8
    SCRATCH = 9
    STRIDE = 10
    CHUNK = 11
    NEXT = 12  # the first unit that nobody has taken
    CALLER = 13  # the processor that opened the job


class Pool:
    """The caller and its workers, `threads` of them all: as many as were asked for, or as the system grants. `address`
    is what a kernel takes."""

    def __init__(self, image: bytes, threads: int) -> None:
        self._library = Library(image, "moec_work", "moec_parallel")
        self._memory = aligned_empty(LINE * len(Line))
        self.address: int = self._memory.ctypes.data
        fields = self._memory.view("i8")
        fields[Line.PARALLEL * LINE // 8] = self._library.address("moec_parallel")
        fields[Line.STATE * LINE // 8] = 1
        work = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(self._library.address("moec_work"))
        self.threads = 1
        with suppress(RuntimeError):  # of a thread that cannot be started; those that were live in this memory
            for worker in range(1, threads):
                name = f"moec-{worker}"
                threading.Thread(target=work, args=(self.address, worker), name=name, daemon=True).start()
                self.threads += 1
        fields[Line.SIZE * LINE // 8] = self.threads


_pools: dict[int, Pool] = {}
_lock = threading.Lock()


def shared(threads: int, image: Callable[[], bytes]) -> Pool:
    """This process's pool of so many threads; `image` gives the pool's code when it has to be started."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = Pool(image(), threads)
        return _pools[threads]


def _forget() -> None:
    global _lock
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
