"""The thread pool: how many threads there are, that they work, and what they cost while nobody calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moec
from moec.runtime import pool
from moec.target import LINE

TEXT = """
moe product[H=512, N=4096](x: [H]) -> [N] {
    param w: [N, H]
    return w @ x
}
"""


#: Pools whose workers wait in native code: what they read, and their code, must stay.
_kept: list[object] = []


def called(threads: int, tokens: int) -> tuple[Any, list[int]]:
    """Something to call, which has been called once, and the processor clocks of its pool's workers."""
    kernel = moec.compile(TEXT, threads=threads)
    weights, x = kernel.pack({"w": np.ones((4096, 512), np.float32)}), np.ones((tokens, 512), np.float32)
    known = set(threading.enumerate())
    _kept.append(dict(pool._pools))
    pool._forget()  # so that the pool is started here, and its workers are known
    kernel(x, weights)
    workers = [thread for thread in threading.enumerate() if thread not in known]
    assert [thread.name for thread in workers] == [f"moec-{i}" for i in range(1, threads)]
    return lambda: kernel(x, weights), [time.pthread_getcpuclockid(thread.ident or 0) for thread in workers]


def test_workers_work_and_cost_nothing_while_they_wait() -> None:
    call, clocks = called(threads=3, tokens=256)
    before = sum(map(time.clock_gettime, clocks))
    for _ in range(200):
        call()
        if sum(map(time.clock_gettime, clocks)) - before > 0.004:
            break
    busy = sum(map(time.clock_gettime, clocks))
    assert busy - before > 0.004
    time.sleep(0.05)
    # They look for work for 0.2 ms each, then sleep.
    assert sum(map(time.clock_gettime, clocks)) - busy < 0.001


def test_pools_of_all_sizes_share_their_workers() -> None:
    """Whoever calls with another number of threads starts only those that are missing, and the bits are the same."""
    kernel = moec.compile(TEXT, threads=1)
    random = np.random.default_rng(0)
    weights = kernel.pack({"w": random.standard_normal((4096, 512), np.float32)})
    x = random.standard_normal((64, 512), np.float32)
    wanted, known = kernel(x, weights), set(threading.enumerate())
    _kept.append(dict(pool._pools))
    pool._forget()
    for threads in (2, 7, 3, 40, 5, 2, 40):
        assert np.array_equal(kernel(x, weights, threads=threads), wanted)
    workers = [thread for thread in threading.enumerate() if thread not in known]
    assert [thread.name for thread in workers] == [f"moec-{i}" for i in range(1, 40)]


def test_those_who_are_not_asked_sleep_on() -> None:
    """A job for three threads wakes the second and third of them, whoever sleeps beside these."""
    call, clocks = called(threads=40, tokens=256)
    call()
    kernel = moec.compile(TEXT, threads=3)
    weights, x = kernel.pack({"w": np.ones((4096, 512), np.float32)}), np.ones((256, 512), np.float32)
    time.sleep(0.2)
    before = [time.clock_gettime(clock) for clock in clocks]
    for _ in range(20):
        kernel(x, weights)
        time.sleep(0.005)  # so that those who were woken sleep again
    spent = [time.clock_gettime(clock) - start for clock, start in zip(clocks, before, strict=True)]
    assert sum(spent[:2]) > 0
    assert sum(spent[2:31]) < 0.002  # those who share a bit are left out


def test_while_the_crew_has_a_job_others_compute_on_their_own_thread() -> None:
    """Nobody waits for the crew, and nobody but the caller does the work."""
    call, clocks = called(threads=3, tokens=256)
    wanted, crew = call(), pool._crew
    assert crew is not None
    time.sleep(0.05)  # so that the workers sleep
    crew._memory.view("i8")[pool.Field.BUSY * LINE // 8] = 1
    before = [time.clock_gettime(clock) for clock in clocks]
    for _ in range(20):
        assert np.array_equal(call(), wanted)
    assert [time.clock_gettime(clock) for clock in clocks] == before
    crew._memory.view("i8")[pool.Field.BUSY * LINE // 8] = 0
    while [time.clock_gettime(clock) for clock in clocks] == before:
        assert np.array_equal(call(), wanted)


def test_callers_of_all_sizes_at_once_get_the_same_bits() -> None:
    """One has the crew, the others work alone; who may join a job is told by the job itself."""
    kernel = moec.compile(TEXT, threads=1)
    random = np.random.default_rng(0)
    weights = kernel.pack({"w": random.standard_normal((4096, 512), np.float32)})
    inputs = [random.standard_normal((tokens, 512), np.float32) for tokens in (16, 48, 100)]
    wanted, wrong = [kernel(x, weights) for x in inputs], list[int]()

    def call(first: int) -> None:
        for turn in range(60):
            i, threads = (first + turn) % 3, 2 + (5 * first + 3 * turn) % 11
            if not np.array_equal(kernel(inputs[i], weights, threads=threads), wanted[i]):
                wrong.append(threads)

    callers = [threading.Thread(target=call, args=(first,)) for first in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_where_there_are_no_threads_a_kernel_runs_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEC_NUM_THREADS", "2")
    assert pool.default_threads() == 2
    monkeypatch.setattr(sys, "platform", "darwin")
    assert pool.default_threads() == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="sets of processors are Linux's")
def test_workers_keep_the_processors_that_they_may_use() -> None:
    """One that moves away from the caller's processor may come back; where there is one only, it stays."""
    allowed = os.sched_getaffinity(0)
    for processors in (allowed, {min(allowed)}):
        os.sched_setaffinity(0, processors)
        try:
            known = set(threading.enumerate())
            call, _ = called(threads=3, tokens=64)
            workers = [thread.native_id or 0 for thread in threading.enumerate() if thread not in known]
            for _ in range(30):
                call()
                time.sleep(0.001)
            end = time.monotonic() + 10  # one that another process holds up may still be on its way back
            while [os.sched_getaffinity(worker) for worker in workers] != [processors] * 2:
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_threads_that_the_system_does_not_grant_are_done_without() -> None:
    """Those that were started live in the pool's memory: it must not go with an error."""
    script = f"""
import resource
import numpy as np, moec
kernel = moec.compile({TEXT!r}, threads=1)
weights, x = kernel.pack({{"w": np.ones((4096, 512), np.float32)}}), np.ones((300, 512), np.float32)
y = kernel(x, weights)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (200 << 20),) * 2)
assert (kernel(x, weights, threads=64) == y).all()
from moec.runtime import pool
assert 1 <= pool._pools[64].threads < 64, pool._pools[64].threads
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"MOEC_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"MOEC_NUM_THREADS": "0"}, 1),
        ({"MOEC_NUM_THREADS": "many"}, 1),
        ({}, 1),
    ],
)
def test_threads_are_as_many_as_asked_for_or_as_processors_allowed(
    variables: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOEC_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert pool.default_threads() == count
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_a_control_groups_quota_is_kept(files: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path) -> str:
        if (name := str(path).removeprefix("/sys/fs/cgroup/")) not in files:
            raise FileNotFoundError(path)
        return files[name]

    for name in ("MOEC_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert pool.default_threads() == count
