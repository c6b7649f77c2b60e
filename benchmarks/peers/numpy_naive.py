"""The loop that one writes first: token by token, expert by expert, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy_grouped import activate, route, versions, wrap
from peer import Layer, Program, Run, narrowed, serve


def prepare(layer: Layer, weights: Mapping[str, np.ndarray]) -> Run:
    router, up, down, gate = weights["router"], weights["up"], weights["down"], weights.get("gate")
    bias, last = weights.get("up_bias"), weights.get("down_bias")
    tidy = narrowed if layer.dtype == "bf16" else np.asarray

    def run(x: np.ndarray) -> np.ndarray:
        y = np.zeros_like(x)
        for t, row in enumerate(x):
            chosen, w = route(layer, tidy(router @ row)[None])
            for e, share in zip(chosen[0], w[0], strict=True):
                h = up[e] @ row
                if bias is not None:
                    h += bias[e]
                h = activate(layer.activation, h) if gate is None else h * activate(layer.activation, gate[e] @ row)
                out = down[e] @ tidy(h)
                y[t] += share * (out if last is None else out + last[e])
        return y

    return run


if __name__ == "__main__":
    serve(Program(lambda layer: {"loop": prepare}, wrap, np.asarray, versions))
