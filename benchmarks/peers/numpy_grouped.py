"""NumPy at its best: the tokens of each expert gathered, and one BLAS product for each of its matrices.

NumPy has no products of bf16, so such weights are widened once, when they are loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from peer import Layer, Program, Run, narrowed, serve, widened

_erf = np.vectorize(math.erf, otypes=[np.float32])


def activate(name: str, v: np.ndarray) -> np.ndarray:
    """An activation, in as few passes over `v` as NumPy allows."""
    if name == "relu":
        return np.maximum(v, 0, out=v)
    if name == "silu":
        with np.errstate(over="ignore"):
            return v / (1 + np.exp(-v))
    if name == "gelu_tanh":
        return 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    return 0.5 * v * (1 + _erf(v / math.sqrt(2)))


def route(layer: Layer, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The experts that each token chooses, and their weights: both [T, K]."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    chosen = np.argpartition(-p, layer.K - 1, axis=1)[:, : layer.K]
    w = np.take_along_axis(p, chosen, axis=1)
    return chosen, w / w.sum(axis=1, keepdims=True) if layer.normalised else w


def prepare(layer: Layer, weights: Mapping[str, np.ndarray]) -> Run:
    router, up, down = weights["router"], weights["up"], weights["down"]
    gate = weights.get("gate")
    bias, last = weights.get("up_bias"), weights.get("down_bias")
    tidy = narrowed if layer.dtype == "bf16" else np.asarray  # the logits' and the inner rounding of the layer

    def run(x: np.ndarray) -> np.ndarray:
        chosen, w = route(layer, tidy(x @ router.T))
        y = np.zeros_like(x)
        flat = chosen.ravel()
        order = np.argsort(flat, kind="stable")
        ends = np.cumsum(np.bincount(flat, minlength=layer.E))
        for e in np.flatnonzero(np.diff(ends, prepend=0)):
            slots = order[ends[e - 1] if e else 0 : ends[e]]
            tokens = slots // layer.K
            rows = x[tokens]
            if gate is not None:
                h = activate(layer.activation, rows @ gate[e].T)
                h *= rows @ up[e].T
            else:
                h = rows @ up[e].T
                if bias is not None:
                    h += bias[e]
                h = activate(layer.activation, h)
            out = tidy(h) @ down[e].T
            if last is not None:
                out += last[e]
            y[tokens] += w.ravel()[slots, None] * out  # no token chooses an expert twice
        return y

    return run


def wrap(array: np.ndarray, dtype: str) -> np.ndarray:
    return widened(array) if array.dtype == np.uint16 else array


def versions() -> dict[str, str]:
    return {"numpy": np.__version__}


if __name__ == "__main__":
    serve(Program(lambda layer: {"grouped": prepare}, wrap, np.asarray, versions))
