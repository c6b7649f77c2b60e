"""Buffers for weights: aligned, on huge pages, given back to the system when the last view dies.

NumPy and the standard library only; everything in `moec.runtime` may import it.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_HUGE: Final = 2 << 20


def aligned_empty(nbytes: int) -> NDArray[np.uint8]:
    """`nbytes` zero bytes, [nbytes] u8, at an address divisible by 64 (by 2 MiB from 2 MiB on).

    The pages are private and anonymous and are taken from the system as they are first touched, in huge pages
    (`madvise(2)`, MADV_HUGEPAGE) where Linux has them: a stream over weights then misses the TLB 512 times less.
    """
    if nbytes < _HUGE:
        raw = np.zeros(nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + nbytes]
    # Shared anonymous memory, `mmap`'s default, gets no huge pages.
    flags: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    pages = mmap.mmap(-1, nbytes + _HUGE, **flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # A kernel built without them: small pages are right too, only slower.
            pages.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(pages, np.uint8)
    start = -raw.ctypes.data % _HUGE
    return raw[start : start + nbytes]
