"""What other implementations have to know of a layer: the common form, found by trying.

Libraries cannot read a `.moe` file. They do experts of two or three matrices behind a softmax router; whether a layer
is one of these, and which, is decided by the oracle on tiny dimensions, not by the layer's name or how its text is put.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moec.oracle import Reference, reference
from moec.source import Source

_Array: TypeAlias = NDArray[Any]

_DIMS: Final = {"H": 6, "I": 10, "E": 5, "K": 2}
_SHAPES: Final = {
    "router": "EH",
    "gate": "EIH",
    "up": "EIH",
    "down": "EHI",
    "up_bias": "EI",
    "down_bias": "EH",
}
_NEEDED: Final = {"router", "up", "down"}
_ACTIVATIONS: Final = ("silu", "gelu", "gelu_tanh", "relu")
_TOKENS: Final = 7


@dataclass(frozen=True, slots=True)
class Form:
    """y = sum of w (down act(gate x) (up x)) where `gated`, else of w (down act(up x + up_bias) + down_bias); w are the
    K largest of softmax(router x), over their sum where `normalised`."""

    activation: str
    gated: bool
    normalised: bool


def find_form(source: Source) -> Form | None:
    """The common form that a layer is, or None where it is another."""
    oracle = _tiny(source)
    if oracle is None:
        return None
    random = np.random.default_rng(0)
    shapes = {name: tuple(_DIMS[axis] for axis in _SHAPES[name]) for name in _params(oracle)}
    weights = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    x = random.standard_normal((_TOKENS, _DIMS["H"]))
    try:
        truth = oracle(x.astype(np.float32), {name: array.astype(np.float32) for name, array in weights.items()})
    except Exception:  # the shapes are others: not a layer of this kind
        return None
    exact = {name: array.astype(np.float32).astype(np.float64) for name, array in weights.items()}
    inputs = x.astype(np.float32).astype(np.float64)
    return next((form for form in _candidates(weights) if np.allclose(_value(form, inputs, exact), truth, 1e-9)), None)


def _tiny(source: Source) -> Reference | None:
    """The oracle of a layer whose dimensions and parameters are called as in this form."""
    from moec.diagnostics import CompileError

    try:
        oracle = reference(source, dims=_DIMS)
    except CompileError:
        return None
    names = set(_params(oracle))
    known = names <= {*_SHAPES} and names >= _NEEDED and set(oracle.dims) == set(_DIMS)
    return oracle if known and len(oracle.layer.inputs) == 1 and len(oracle.layer.outputs) == 1 else None


def _params(oracle: Reference) -> list[str]:
    from moec.language.syntax import Param

    return [name.id for node in oracle.layer.body if isinstance(node, Param) for name in node.names]


def _candidates(weights: Mapping[str, _Array]) -> Iterator[Form]:
    gated = "gate" in weights
    if not (gated and {"up_bias", "down_bias"} & set(weights)):
        yield from (Form(name, gated, normalised) for name, normalised in product(_ACTIVATIONS, (True, False)))


def _value(form: Form, x: _Array, weights: Mapping[str, _Array]) -> _Array:
    """What a form gives in float64, [T, H]."""
    logits = x @ weights["router"].T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    y = np.zeros_like(x)
    for row, (share, out) in enumerate(zip(p, y, strict=True)):
        top = np.argsort(-share, kind="stable")[: _DIMS["K"]]
        total = share[top].sum() if form.normalised else 1.0
        for e in top:
            h = weights["up"][e] @ x[row] + (weights["up_bias"][e] if "up_bias" in weights else 0)
            h = (
                _activate(form.activation, weights["gate"][e] @ x[row]) * h
                if form.gated
                else _activate(form.activation, h)
            )
            out += (
                share[e] / total * (weights["down"][e] @ h + (weights["down_bias"][e] if "down_bias" in weights else 0))
            )
    return y


def _activate(name: str, v: _Array) -> _Array:
    from math import erf, pi, sqrt

    match name:
        case "relu":
            return np.maximum(v, 0)
        case "silu":
            return v / (1 + np.exp(-v))
        case "gelu":
            return 0.5 * v * (1 + np.array([erf(value / sqrt(2)) for value in v]))
        case _:
            return 0.5 * v * (1 + np.tanh(sqrt(2 / pi) * (v + 0.044715 * v**3)))
