"""The examples against the models' own code: each `.moe` file, and the block of `transformers` that it describes.

An implementation is whatever turns a file, its dimensions, weights and inputs into an output; the oracle is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pytest

from moec.binding.bind import bind_weights
from moec.language import syntax
from moec.oracle import Reference
from tests.examples import EXAMPLES, SMALL, Array, dimensions, load, random_inputs, random_weights
from tests.parity.blocks import BLOCKS, build, run, state
from tests.parity.example_papers import PAPERS

#: `(file, dims, weights, inputs, real)` to the layer's first output, [T, H].
Implementation = Callable[[syntax.File, Mapping[str, int], Mapping[str, Any], Mapping[str, Array], str], Array]

#: How far an output may be off, relative to the largest magnitude. In bf16 the library rounds between matrices, too.
TOLERANCE: Final = {"f32": 1e-5, "bf16": 2e-2}


def oracle(
    file: syntax.File, dims: Mapping[str, int], weights: Mapping[str, Any], inputs: Mapping[str, Array], real: str
) -> Array:
    """What the oracle says."""
    return Reference(file, dict(dims), real).run(*inputs.values(), weights=weights).outputs[0]


def compare(
    name: str, implementation: Implementation, tokens: int, real: str = "f32", loudness: float = 1.0, seed: int = 0
) -> float:
    """The largest difference between an implementation and the model's block, relative to the largest magnitude.

    Tokens with a tie are left out: the library breaks ties as it likes. `loudness` scales the inputs.
    """
    file = load(name)
    dims = dimensions(file, SMALL[name])
    block = build(name, dims, seed, real)
    weights = bind_weights(file, "transformers", state(block), dims)
    inputs = random_inputs(file, dims, tokens, seed + 1, real)
    inputs["x"] = inputs["x"] * inputs["x"].dtype.type(loudness)

    theirs = run(name, block, inputs).astype(np.float64)
    ours = np.asarray(implementation(file, dims, weights, inputs, real)).astype(np.float64)
    assert ours.shape == theirs.shape == (tokens, dims["H"])

    untied = Reference(file, dims, real).run(*inputs.values(), weights=weights).margins > 0
    assert untied.mean() >= 0.5
    return float(np.abs(ours - theirs)[untied].max() / np.abs(theirs).max())


@pytest.fixture
def library() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.23")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_the_models_block(name: str, tokens: int) -> None:
    assert compare(name, oracle, tokens) <= TOLERANCE["f32"]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_the_models_block_where_clamps_bite(name: str) -> None:
    assert compare(name, oracle, 33, loudness=8.0, seed=1) <= TOLERANCE["f32"]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_the_models_block_in_bf16(name: str) -> None:
    assert compare(name, oracle, 33, real="bf16", seed=2) <= TOLERANCE["bf16"]


@pytest.mark.parametrize("name", PAPERS)
def test_equals_the_paper(name: str) -> None:
    file = load(name)
    dims = dimensions(file, SMALL[name])
    weights = random_weights(file, dims)
    inputs = random_inputs(file, dims, 33)
    wide = {key: value.astype(np.float64) for key, value in weights.items()}
    x, *others = (value.astype(np.float64) for value in inputs.values())
    theirs = PAPERS[name](x, wide, dims["K"], *others)
    ours = oracle(file, dims, weights, inputs, "f32")
    assert np.abs(ours - theirs).max() <= TOLERANCE["f32"] * np.abs(theirs).max()


def test_one_tensor_per_expert_is_the_same_layer() -> None:
    file = load("qwen3_moe")
    dims = dimensions(file, SMALL["qwen3_moe"])
    weights = random_weights(file, dims)
    stacked = {
        "gate.weight": weights["router"],
        "experts.gate_up_proj": np.concatenate([weights["gate"], weights["up"]], 1),
        "experts.down_proj": weights["down"],
    }
    scattered = {"gate.weight": weights["router"]} | {
        f"experts.{e}.{part}_proj.weight": weights[part][e] for part in ("gate", "up", "down") for e in range(dims["E"])
    }
    for kind, tensors in {"transformers": stacked, "safetensors": scattered}.items():
        bound = bind_weights(file, kind, tensors, dims)
        for name, weight in weights.items():
            np.testing.assert_array_equal(np.asarray(bound[name]), weight)


def test_every_example_stands_in_a_table() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.moe")}
    assert names == set(SMALL)
    assert names == {*BLOCKS, *PAPERS}
