"""Division of integers, whatever the inputs hold: a processor would stop the process."""

from __future__ import annotations

import numpy as np

import moec

TEXT = "moe m[H=1](x: [H], i: i64, j: i64) -> (q: i64, r: i64) {\n    return i / j, i % j\n}\n"


def test_division_of_integers_has_a_result() -> None:
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    i = np.array([7, -7, 7, -7, 7, 0, least, least, most])
    j = np.array([2, 2, -2, -2, 0, 0, 0, -1, -1])
    x = np.zeros((len(i), 1), np.float32)
    kernel = moec.compile(TEXT, threads=1)
    for found in (kernel(x, i, j, kernel.pack({})), moec.reference(TEXT)(x, i, j, {})):
        assert np.array_equal(found[0], [3, -4, -4, 3, 0, 0, 0, least, -most])
        assert np.array_equal(found[1], [1, 1, -1, -1, 7, 0, least, 0, 0])
