"""Every example, compiled, against the oracle; and what a compiled layer promises besides the numbers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest

import moec
from moec.arrays import NUMPY
from moec.measure.compare import TOLERANCES
from moec.oracle import Result, reference
from tests.agreement import require_right
from tests.examples import EXAMPLES, SMALL, load, random_inputs, random_weights

#: Choices closer than this, relative to the largest, may fall differently in f32: a rounding of the working precision.
MARGIN: Final = {"f32": 1e-4, "bf16": 5e-3, "f16": 1e-3}


def rounded(array: Any, dtype: str) -> Any:
    return np.asarray(array).astype(NUMPY[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", SMALL)
def test_compiled_agrees_with_the_oracle(name: str, dtype: str) -> None:
    path, dims, file = EXAMPLES / f"{name}.moe", SMALL[name], load(name)
    kernel = moec.compile(path, dims=dims, dtype=dtype, threads=1)
    oracle = reference(path, dims=dims, dtype=dtype)
    given = random_weights(file, dims, seed=1)
    weights = {param.name: rounded(given[param.name], param.dtype) for param in kernel.interface.params}
    packed = kernel.pack(weights)
    calls: list[tuple[Any, Result]] = []
    for tokens in (1, 3, 17, 64):
        drawn = random_inputs(file, dims, tokens, seed=tokens)
        inputs = [rounded(v, i.dtype) for v, i in zip(drawn.values(), kernel.interface.inputs, strict=True)]
        calls.append((kernel(*inputs, packed), oracle.run(tuple(inputs), weights, margin=MARGIN[dtype])))
    require_right(calls, TOLERANCES[dtype])


@pytest.mark.parametrize("name", SMALL)
def test_no_tokens_give_no_rows(name: str) -> None:
    kernel = moec.compile(EXAMPLES / f"{name}.moe", dims=SMALL[name], threads=1)
    weights = kernel.pack(random_weights(load(name), SMALL[name], seed=0))
    inputs = [np.empty((0, *given.shape), NUMPY[given.dtype]) for given in kernel.interface.inputs]
    outputs = kernel(*inputs, weights)
    for found, wanted in zip(
        outputs if isinstance(outputs, tuple) else (outputs,), kernel.interface.outputs, strict=True
    ):
        assert found.shape == (0, *wanted.shape)
