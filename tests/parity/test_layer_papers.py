"""The layers of `layers/papers/`, compiled, against their papers, and against the oracle where numbers are rounded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import moec
from moec.language import syntax
from moec.language.parse import parse
from moec.language.read import read
from moec.oracle import Reference, Result
from moec.runtime.kernel import Kernel
from tests.examples import Array, dimensions, random_inputs, random_weights
from tests.parity.layer_papers import BELOW, DIMS, PAPERS

LAYERS: Final = Path(__file__).parent / "layers" / "papers"

#: How far an output may be off, relative to the largest magnitude.
TOLERANCE: Final = {"f32": 1e-5, "bf16": 2e-2, "f16": 3e-3}

#: These compare equal numbers on purpose, which the oracle takes for ties.
EQUAL: Final = ("remoe", "sparsemax", "top_p")


@cache
def load(name: str, real: str) -> tuple[syntax.File, Kernel]:
    """A layer's tree and its machine code."""
    path = LAYERS / f"{name}.moe"
    return parse(read(path)), moec.compile(path, dims=DIMS[name], dtype=real, threads=1)


def difference(ours: Array, theirs: Array, where: Array) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs)[where].max(initial=0) / np.abs(theirs).max())


def untied(name: str, answer: Result) -> Array:
    """The tokens whose choice does not hang on the last bits."""
    if name in EQUAL:
        return np.ones_like(answer.stable)
    assert len(answer.stable) < 7 or answer.stable.mean() >= 0.5
    return answer.stable


def sample(name: str, tokens: int, real: str) -> tuple[Array, Reference, Mapping[str, Array], Mapping[str, Array]]:
    """What the compiled layer makes of random tokens, the oracle, the weights and the inputs."""
    file, kernel = load(name, real)
    dims, below = dimensions(file, DIMS[name]), BELOW.get(name, {})
    weights = random_weights(file, dims, 0, real, below)
    inputs = random_inputs(file, dims, tokens, 1, real, below)
    outputs = kernel(*inputs.values(), kernel.pack(weights))
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    return first.astype(np.float64), Reference(file, dims, real), weights, inputs


def wide(values: Mapping[str, Array]) -> dict[str, Array]:
    """In double precision; integers as they are."""
    return {key: value if value.dtype == np.int64 else value.astype(np.float64) for key, value in values.items()}


@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize("name", PAPERS)
def test_equals_the_paper(name: str, tokens: int) -> None:
    ours, reference, weights, inputs = sample(name, tokens, "f32")
    x, *others = wide(inputs).values()
    theirs = PAPERS[name](x, wide(weights), dimensions(reference.file, DIMS[name]), *others)
    answer = reference.run(*inputs.values(), weights=weights, margin=1e-6)
    assert difference(ours, theirs, untied(name, answer)) <= TOLERANCE["f32"]


@pytest.mark.parametrize("real", ["bf16", "f16"])
@pytest.mark.parametrize("name", PAPERS)
def test_equals_the_oracle(name: str, real: str) -> None:
    ours, reference, weights, inputs = sample(name, 33, real)
    answer = reference.run(*inputs.values(), weights=weights, margin=1e-5)
    assert difference(ours, answer.outputs[0], untied(name, answer)) <= TOLERANCE[real]


def test_every_paper_stands_in_the_table() -> None:
    assert {path.stem for path in LAYERS.glob("*.moe")} == set(PAPERS) == set(DIMS)
