"""`match`, compiled: what an arm's range leaves of another `match` inside it."""

from __future__ import annotations

import numpy as np

import moec

TEXT = """
moe m[H=8, E=4](x: [H], i: i64) -> [H] {
    fn inner(e) = match e { 0: x * 2, 1..3: x, 3: 1 }
    fn outer(e) = flatten(split inner(e) as [1, _])
    return sum e in {i % E}: match e { 3: max(outer(e), x), 0..3: outer(e) }
}
"""


def test_a_scalar_arm_has_the_shape_of_arms_out_of_range() -> None:
    x = np.random.default_rng(0).standard_normal((9, 8), dtype=np.float32)
    i = np.arange(9)
    kernel = moec.compile(TEXT, threads=1)
    found = kernel(x, i, weights=kernel.pack({}))
    wanted = moec.reference(TEXT)(x, i, {})
    assert np.allclose(found, wanted)
    assert np.array_equal(found[3], np.maximum(x[3], 1))
