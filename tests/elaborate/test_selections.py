"""Vectors restricted to a selection with empty slots, compiled."""

from __future__ import annotations

import numpy as np

import moec

TEXT = """
moe m[E=4](x: [E]) -> (f32[3], f32[2]) {
    s = where(x > 0)
    v = x[s]
    m = each e in s: concat(x[e], 2 * x[e])
    return top(v, 3), sum(top(m, 2), axis=0)
}
"""


def test_empty_slots_come_last_among_the_largest_and_count_for_nothing() -> None:
    x = np.array([[-1, 2, -3, 4], [-1, -1, -1, -1], [1, 2, 3, 4]], np.float32)
    kernel = moec.compile(TEXT, threads=1)
    largest, sums = kernel(x, weights=kernel.pack({}))
    inf = np.inf
    assert np.array_equal(largest, [[4, 2, -inf], [-inf, -inf, -inf], [4, 3, 2]])
    assert np.array_equal(sums, [[12, 6], [0, 0], [20, 10]])
    for found, wanted in zip((largest, sums), moec.reference(TEXT)(x, {}), strict=True):
        assert np.array_equal(found, wanted)
