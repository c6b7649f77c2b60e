"""Strided views: which shapes the same memory has, and that nothing of a parameter is copied to see it otherwise."""

from __future__ import annotations

import random
from math import prod

import numpy as np
import pytest

import moec
from moec.codegen.views import View


def test_strides_of_other_shapes_are_numpys() -> None:
    chance = random.Random(1)
    found = 0
    for _ in range(2000):
        array = np.zeros([chance.choice((1, 1, 2, 3, 4)) for _ in range(4)], np.int8)
        array = array[tuple(slice(None, None, chance.choice((1, 1, 1, 2))) for _ in array.shape)]
        array = array.transpose(chance.choice(((0, 1, 2, 3), (0, 1, 3, 2))))
        array = np.broadcast_to(array[..., None], (*array.shape, chance.choice((1, 1, 2))))
        shape = list(array.shape)
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(shape))
            pair = shape[at : at + 2]
            shape[at : at + 2] = chance.choice(([prod(pair)], [*pair, 1], pair))
        shape = chance.choice((shape, [2, array.size // 2] if array.size % 2 == 0 else [array.size]))
        moved = array.reshape(shape)
        strides = View(None, "bool", array.shape, array.strides).strides_as(shape)
        lies = array.size == 1 or np.shares_memory(moved, array)
        assert (strides is not None) == lies
        if strides is not None:
            assert all(a == b for a, b, size in zip(strides, moved.strides, shape, strict=True) if size > 1)
            found += array.strides != moved.strides
    assert found > 500


ROWS = """\
moe rows[V=1000, H=64](x: [H], id: i64) -> [H] {
    param emb: [V, H, 2]
    param wide: [V, 2 * H]
    return x + ROW
}
"""


@pytest.mark.parametrize(
    "row",
    [
        "emb[:, :, 1][id]",
        "(split emb[:, :, 1] as [V, 1, H])[id][0]",
        "flatten((split wide[:, H:] as [V, H / 16, 16])[id])",
    ],
)
def test_a_part_of_a_parameter_is_not_copied_for_each_token(row: str) -> None:
    text, rng = ROWS.replace("ROW", row), np.random.default_rng(0)
    kernel = moec.compile(text, threads=1)
    arrays = {param.name: rng.standard_normal(param.shape, np.float32) for param in kernel.interface.params}
    x, id = rng.standard_normal((5, 64), np.float32), np.array([0, 999, 3, 3, 500])
    y = kernel(x, id, kernel.pack(arrays))
    np.testing.assert_array_equal(y, x + (arrays["wide"][id, 64:] if "wide" in row else arrays["emb"][id, :, 1]))
    np.testing.assert_allclose(y, moec.reference(text)(x, id, arrays), atol=1e-6)
    assert kernel.interface.workspace(5, 1) < 4 * 64 * 1000
