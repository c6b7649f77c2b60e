"""Compiled layers against the models' own code: the blocks of `transformers` that have an example, and those that have
a file in `layers/`, written from the model's code alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import moec
from moec.binding.bind import bind_weights
from moec.integrations import transformers as integration
from moec.language import syntax
from moec.language.parse import parse
from moec.language.read import read
from moec.oracle import Reference
from moec.runtime.kernel import Kernel
from tests.examples import BELOW, EXAMPLES, SMALL, dimensions, random_inputs
from tests.parity import layer_blocks
from tests.parity.blocks import BLOCKS, Block, build, run, state

LAYERS: Final = Path(integration.__file__).parent / "layers"

#: How far an output may be off, relative to the largest magnitude. In bf16 the library rounds between matrices, too.
TOLERANCE: Final = {"f32": 1e-5, "bf16": 2e-2}


@dataclass(frozen=True)
class Row:
    """A layer's file, its small dimensions, and the table that its block stands in."""

    path: Path
    dims: Mapping[str, int]
    blocks: Mapping[str, Block]
    below: Mapping[str, str]


def rows() -> dict[str, Row]:
    """Every layer that a library has code for, by name."""
    found = {name: Row(EXAMPLES / f"{name}.moe", SMALL[name], BLOCKS, BELOW.get(name, {})) for name in BLOCKS}
    for name in layer_blocks.BLOCKS:
        below = layer_blocks.BELOW.get(name, {})
        found[name] = Row(LAYERS / f"{name}.moe", layer_blocks.DIMS[name], layer_blocks.BLOCKS, below)
    return found


ROWS: Final = rows()


@cache
def load(name: str, real: str) -> tuple[syntax.File, Kernel]:
    """A layer's tree and its machine code."""
    path = ROWS[name].path
    return parse(read(path)), moec.compile(path, dims=ROWS[name].dims, dtype=real, threads=1)


def compare(name: str, tokens: int, real: str = "f32", loudness: float = 1.0, seed: int = 0) -> float:
    """The largest difference between the compiled layer and the model's block, relative to the largest magnitude.

    Tokens whose choice is nearly a tie are left out: the library adds up in another order, and breaks ties as it likes.
    """
    row = ROWS[name]
    file, kernel = load(name, real)
    dims = dimensions(file, row.dims)
    block = build(name, dims, seed, real, row.blocks)
    weights = bind_weights(file, "transformers", state(block), dims)
    inputs = random_inputs(file, dims, tokens, seed + 1, real, row.below)
    first = next(iter(inputs))
    inputs[first] = inputs[first] * inputs[first].dtype.type(loudness)

    theirs = run(name, block, inputs, row.blocks).astype(np.float64)
    outputs = kernel(*inputs.values(), kernel.pack(weights))
    ours = (outputs[0] if isinstance(outputs, tuple) else outputs).astype(np.float64)
    assert ours.shape == theirs.shape

    untied = Reference(file, dims, real).run(*inputs.values(), weights=weights, margin=1e-6).stable
    assert tokens < 7 or untied.mean() >= 0.25
    return float(np.abs(ours - theirs)[untied].max(initial=0) / np.abs(theirs).max())


@pytest.fixture(autouse=True)
def library() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.23")
    torch.set_num_threads(1)


@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize("name", ROWS)
def test_equals_the_models_block(name: str, tokens: int) -> None:
    assert compare(name, tokens) <= TOLERANCE["f32"]


@pytest.mark.parametrize("name", ROWS)
def test_equals_the_models_block_where_clamps_bite(name: str) -> None:
    assert compare(name, 33, loudness=8.0, seed=1) <= TOLERANCE["f32"]


@pytest.mark.parametrize("name", ROWS)
def test_equals_the_models_block_in_bf16(name: str) -> None:
    assert compare(name, 33, real="bf16", seed=2) <= TOLERANCE["bf16"]


def test_a_mixture_of_heads_from_its_choice_to_its_output() -> None:
    """Both halves of JetMoE's attention in turn: indices and weights that leave one layer enter another."""
    import torch

    (file, queries), (_, heads) = load("jetmoe_queries", "f32"), load("jetmoe_heads", "f32")
    dims = dict(ROWS["jetmoe_queries"].dims)
    block = build("jetmoe_queries", dims, blocks=ROWS["jetmoe_queries"].blocks)
    given = [
        kernel.pack(bind_weights(load(name, "f32")[0], "transformers", state(block), dims))
        for name, kernel in (("jetmoe_queries", queries), ("jetmoe_heads", heads))
    ]
    x = random_inputs(file, dims, 33)["x"]
    ours = heads(*queries(x, given[0]), given[1])
    with torch.inference_mode():
        made, _, choice = block.map(torch.from_numpy(x)[None])
        theirs = block.reduce(made, choice)[0].numpy()
    assert np.abs(ours - theirs).max() <= TOLERANCE["f32"] * np.abs(theirs).max()


def test_every_layer_stands_in_a_table() -> None:
    assert {path.stem for path in LAYERS.glob("*.moe")} == {
        name for name, row in ROWS.items() if row.path.parent == LAYERS
    }
