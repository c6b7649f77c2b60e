"""The machine that this process runs on, as LLVM and Linux tell: what it is, and what it has left for this process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from moec.processors import likely

#: `arch_prctl`, its request for a part of the registers, and the part that holds tiles (Linux, arch/x86/include/uapi).
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18


def triple() -> str:
    """LLVM's name for the architecture and the system."""
    from llvmlite import binding

    return binding.get_process_triple()


def processor() -> tuple[str, tuple[str, ...]]:
    """The processor by LLVM's name, and the features that this process may use."""
    from llvmlite import binding

    features = usable(dict(binding.get_host_cpu_features()))
    return likely(binding.get_host_cpu_name(), features), features


def usable(features: Mapping[str, bool]) -> tuple[str, ...]:
    """The features of a processor, each with its sign, without those that the system keeps from this process."""
    tiles = [name for name, on in features.items() if name.startswith("amx-") and on]
    found = {**features, **dict.fromkeys(tiles, bool(tiles) and tiles_granted())}
    return tuple(sorted(f"{'+' if on else '-'}{name}" for name, on in found.items()))


def tiles_granted() -> bool:
    """Asks Linux for AMX's tiles, for this process, its threads and its children; whether they may use them.

    A process that has not asked is killed at its first tile. The kernel refuses where it does not know the request, a
    sandbox forbids it, or a thread's stack for signals is too small to hold tiles. Asking again changes nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    request = ctypes.CDLL(None).syscall
    request.restype = ctypes.c_long
    return request(*map(ctypes.c_long, (_ARCH_PRCTL, _REQUEST, _TILE_DATA))) == 0


def cache_bytes(level: int) -> int | None:
    """The bytes of the first core's data cache at `level`, as Linux tells them."""
    units = {"K": 10, "M": 20, "G": 30}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, at, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if int(at) == level and kind != "Instruction":
                return int(size[:-1]) << units[size[-1]] if size[-1] in units else int(size)
        except (OSError, ValueError, LookupError):
            continue
    return None


def free_memory() -> int | None:
    """The bytes of memory that this process may still take, where Linux says so."""
    found: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with suppress(OSError, ValueError):  # `max` where the control group sets no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(0, limit - used))
    return min(found, default=None)
