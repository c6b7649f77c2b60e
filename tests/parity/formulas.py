"""What the papers' layers are made of, over whole batches, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from math import erf

import numpy as np

from tests.examples import Array

Arrays = Mapping[str, Array]


def softmax(v: Array) -> Array:
    u = np.exp(v - v.max(-1, keepdims=True))
    return u / u.sum(-1, keepdims=True)


def largest(v: Array, count: int) -> Array:
    """Where the `count` largest of each row are."""
    return v >= np.sort(v, -1)[..., -count, None]


def sparse_softmax(v: Array, count: int) -> Array:
    """The softmax over the `count` largest of each row, which is what renormalised weights are."""
    return softmax(np.where(largest(v, count), v, -np.inf))


def gelu(v: Array) -> Array:
    return 0.5 * v * (1 + np.vectorize(erf)(v / 2**0.5))


def silu(v: Array) -> Array:
    return v / (1 + np.exp(-v))
