"""The examples that no library has, from their papers: dense NumPy over whole batches, every expert computed.

A choice of experts is a matrix of weights [T, E] here, zero for those that are not chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from tests.examples import Array
from tests.parity.formulas import Arrays, gelu, largest, silu, softmax, sparse_softmax


def seed(x: Array, w: Arrays, count: int) -> Array:
    weights = sparse_softmax(x @ w["router"].T, count)
    hidden = np.maximum(np.einsum("th,eih->tei", x, w["up"]) + w["up_bias"], 0)
    return np.einsum("te,teh->th", weights, np.einsum("tei,ehi->teh", hidden, w["down"]) + w["down_bias"])


def peer(x: Array, w: Arrays, count: int) -> Array:
    """The scores of all pairs at once, where the layer only looks at pairs of the best keys."""
    queries = np.einsum("th,apdh->tapd", x, w["query"])
    halves = np.einsum("tapd,pmd->ptam", queries, w["keys"])
    pairs = halves[0][..., :, None] + halves[1][..., None, :]
    weights = sparse_softmax(pairs.reshape(*pairs.shape[:2], -1), count).sum(1)
    return (weights * gelu(x @ w["down"].T)) @ w["up"]


def moe_plus_plus(x: Array, w: Arrays, count: int, before: Array) -> Array:
    scores = x @ w["router"].T + before @ w["residual"].T
    p = softmax(scores)
    hidden = silu(np.einsum("th,eih->tei", x, w["gate"])) * np.einsum("th,eih->tei", x, w["up"])
    mix = softmax(np.einsum("th,cmh->tcm", x, w["mix"]))
    experts = [
        np.einsum("tei,ehi->teh", hidden, w["down"]),
        mix[..., :1] * x[:, None] + mix[..., 1:] * w["constant"],
        x[:, None],
        np.zeros_like(x)[:, None],
    ]
    return np.einsum("te,teh->th", np.where(largest(scores, count), p, 0), np.concatenate(experts, 1))


def hierarchical(x: Array, w: Arrays, count: int) -> Array:
    groups = sparse_softmax(x @ w["gates"].T, count)
    within = sparse_softmax(np.einsum("th,geh->tge", x, w["router"]), count)
    hidden = np.maximum(np.einsum("th,geih->tgei", x, w["up"]), 0)
    return np.einsum("tg,tge,tgei,gehi->th", groups, within, hidden, w["down"], optimize=True)


def expert_choice(x: Array, w: Arrays, count: int) -> Array:
    """An expert's tokens are those with the largest scores in its column."""
    p = softmax(x @ w["router"].T)
    taken = largest(p.T, len(x) * count // p.shape[1]).T
    hidden = gelu(np.einsum("th,eih->tei", x, w["up"]))
    return np.einsum("te,tei,ehi->th", np.where(taken, p, 0), hidden, w["down"], optimize=True)


#: The layer as its paper has it: inputs, weights and K to [T, H].
PAPERS: Final[dict[str, Callable[..., Array]]] = {
    "seed": seed,
    "peer": peer,
    "moe_plus_plus": moe_plus_plus,
    "hierarchical": hierarchical,
    "expert_choice": expert_choice,
}
