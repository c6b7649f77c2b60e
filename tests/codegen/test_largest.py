"""The largest of vectors of any length: short ones are looked through, long ones by the largest of their parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import moec

LONG = "moe m[N, K](x: [N], keep: bool[N]) -> (i64[K], i64[K]) { return topk(x, K), topk(x[where(keep)], K) }"


@pytest.mark.parametrize("target", ["host", "vectors", "avx512f"])
@pytest.mark.parametrize("length", [1, 15, 511, 513, 1008, 1023, 1024, 1025, 2049, 4100])
def test_the_largest_in_order_the_first_of_equals(length: int, target: str) -> None:
    host = moec.Target.host()
    machine = host if target == "host" else host.without(target)
    count = min(length, 70)
    kernel = moec.compile(LONG, dims={"N": length, "K": count}, threads=1, target=machine)
    rng = np.random.default_rng(length)
    x = rng.integers(-9, 9, (4, length)).astype(np.float32)  # with many ties
    x[1] = rng.standard_normal(length)
    x[2, ::3], x[3, ::5] = np.nan, -np.inf
    keep = rng.random((4, length)) < np.array([[0.5], [0.0], [1.0], [0.02]])
    best, kept = kernel(x, keep, kernel.pack({}))
    for row in range(4):
        np.testing.assert_array_equal(best[row], ordered(x[row])[:count])
        places = np.flatnonzero(keep[row])
        wanted = places[ordered(x[row, places])][:count]
        np.testing.assert_array_equal(kept[row, : len(wanted)], wanted)
        assert (kept[row, len(wanted) :] == length).all()


def ordered(x: Any) -> Any:
    """The positions, the largest first, NaN before all, the lower of equals first."""
    return np.lexsort((np.arange(len(x)), -np.nan_to_num(x, nan=np.inf, neginf=-1e38), ~np.isnan(x)))
