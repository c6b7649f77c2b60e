"""Random programs: what is compiled agrees with the oracle.

`pytest tests/programs` checks 500 programs, `--programs 20000` that many, `--seed 7` others. A program that fails is
shrunk, and printed as text with its dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, seed, settings

import moec
from moec.oracle import MARGINS, Reference, Result, functions, reference
from moec.oracle.values import Array, Value, constant, lift
from tests.programs.generate import Program, programs

Data = np.ndarray[Any, np.dtype[Any]]

#: How far an output may be off, relative to its largest magnitude, by the shortest element type of the program.
TOLERANCE: Final = {"f32": 2e-5, "bf16": 2e-2, "f16": 3e-3}

#: Half a unit in the last place.
ROUNDING: Final = {"f32": 2.0**-24, "bf16": 2.0**-9, "f16": 2.0**-12}

#: The smallest normal number: what is below loses bits however it is computed.
SMALLEST: Final = {"f32": 0.0, "bf16": 0.0, "f16": 2.0**-14}

#: How many programs a test has; pytest-xdist hands the tests out.
SHARD: Final = 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "count" in metafunc.fixturenames:
        total = metafunc.config.getoption("--programs", default=500)
        shards = [(at // SHARD, min(SHARD, total - at)) for at in range(0, total, SHARD)]
        metafunc.parametrize(("shard", "count"), shards)


def test_compiled_programs_agree_with_the_oracle(shard: int, count: int, pytestconfig: pytest.Config) -> None:
    @seed(pytestconfig.getoption("--seed", default=0) * 1_000_003 + shard)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def check(program: Program) -> None:
        note(str(program))
        agree(program, lambda aux: moec.compile(program.text, program.dims, program.real, 1 + shard % 2, aux=aux))

    check()


# ── one program ───────────────────────────────────────────────────────────────────────────────────────────────────────


def agree_compiled(
    text: str,
    dims: Mapping[str, int],
    real: str,
    threads: int = 2,
    tokens: Sequence[int] = (1, 19, 0),
    below: Mapping[str, str] | None = None,
) -> None:
    """Compares a layer, as it is compiled for so many threads, with the oracle. `below` has for an index among the
    inputs the dimension that it stays below."""
    program = Program(text, dict(dims), real, tuple(tokens), 0, 0.0, dict(below or {}), frozenset())
    agree(program, lambda aux: moec.compile(text, dims, real, threads, aux=aux))


def agree(program: Program, compiled: Callable[[Sequence[str]], moec.Kernel]) -> None:
    """Compares a compiled program with the oracle, at every number of tokens that it asks for. `compiled` takes the
    names of the auxiliary outputs."""
    weights, smallest = program.weights(), SMALLEST[program.real]
    oracle = reference(program.text, dims=program.dims, dtype=program.real)
    kernel = compiled(names_of_aux(oracle))
    packed = kernel.pack(weights)
    for tokens in program.tokens:
        inputs = program.inputs(tokens)

        def truth() -> dict[str, Data]:
            return by_name(oracle, oracle.run(*inputs, weights=weights, aux=True))  # noqa: B023

        wanted = oracle.run(*inputs, weights=weights, aux=True, margin=MARGINS[program.coarsest])
        outputs, aux = kernel(*inputs, weights=packed, aux=True)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = {f"output {i}": array for i, array in enumerate(outputs)} | dict(aux)
        for name, difference in differences(by_name(oracle, wanted), found, wanted.stable, program.coarsest, smallest):
            excuse = wavering(truth, name, wanted.stable)
            assert difference <= excuse, (
                f"{name}, {tokens} tokens: off by {difference:.2e}, rounding explains {excuse:.2e}"
            )


def names_of_aux(oracle: Reference) -> list[str]:
    return [node.name.id for node in oracle.layer.body if hasattr(node, "name") and type(node).__name__ == "Aux"]


def by_name(oracle: Reference, result: Result) -> dict[str, Data]:
    return {f"output {i}": array for i, array in enumerate(result.outputs)} | result.aux


def differences(
    wanted: Mapping[str, Data], found: Mapping[str, Data], stable: Data, dtype: str, smallest: float
) -> Iterator[tuple[str, float]]:
    """The outputs that are off by more than the tolerance, and by how much, relative to the largest magnitude."""
    assert found.keys() == wanted.keys()
    for name, right in wanted.items():
        left, right = np.asarray(found[name])[stable], right[stable]
        assert left.shape == right.shape, f"{name}: shape {left.shape}, not {right.shape}"
        if right.dtype.kind in "ib":
            assert np.array_equal(left, right), f"{name}: {left} instead of {right}"
            continue
        difference = distance(left.astype(np.float64), right, smallest)
        if difference > TOLERANCE[dtype]:
            yield name, difference


def distance(left: Data, right: Data, smallest: float = 0) -> float:
    """How far apart two arrays are, relative to the largest magnitude or the smallest that has a precision to be
    relative to; infinite where NaN or an infinity stands in one only."""
    finite = np.isfinite(right)
    strange = ~finite & ~np.isnan(right)
    if not np.array_equal(np.isnan(left), np.isnan(right)) or not np.array_equal(left[strange], right[strange]):
        return float("inf")
    if not np.isfinite(left[finite]).all():
        return float("inf")
    scale = max(float(np.max(np.abs(right[finite]), initial=0)), smallest) or 1.0
    return float(np.max(np.abs(left - right)[finite], initial=0)) / scale


# ── how much of a difference rounding explains ────────────────────────────────────────────────────────────────────────


def wavering(run: Callable[[], Mapping[str, Data]], name: str, stable: Data, times: int = 6) -> float:
    """How far the oracle itself strays when each of its operations is off by a few roundings: a program that cancels
    what it computes says little, however it is compiled."""
    right = run()[name][stable]
    strays = []
    for turn in range(times):
        with shaken(turn):
            strays.append(distance(run()[name][stable], right))
    return 3 * max(strays)


@contextmanager
def shaken(turn: int) -> Iterator[None]:
    """The oracle with noise in the last place of all that it computes."""
    rng = np.random.default_rng(turn)
    operators, named = dict(functions.OPERATORS), dict(functions.FUNCTIONS)

    def noisy(value: Value, size: Any, unit: float) -> Value:
        if not isinstance(value, Array) or not value.dtype.floating:
            return value
        finite = np.isfinite(value.data) & np.isfinite(size)
        noise = unit * rng.uniform(-4, 4, value.shape) * np.where(finite, size, 0)
        return replace(value, data=value.data + np.where(finite, noise, 0))

    def off(function: Callable[..., Value]) -> Callable[..., Value]:
        @wraps(function)
        def apply(*arguments: Any, **more: Any) -> Value:
            value = function(*arguments, **more)
            size = np.abs(value.data) if isinstance(value, Array) else 0
            return noisy(value, size, ROUNDING["f32"])

        return apply

    def rounds(function: Callable[..., Value], dtype: str) -> Callable[..., Value]:
        @wraps(function)
        def apply(v: Value) -> Value:
            value = function(v)
            if dtype == "real" or not isinstance(value, Array) or constant(v):
                return value
            hit = np.where(rng.random(value.shape) < 0.2, np.abs(value.data), 0)
            return noisy(value, hit / 2, ROUNDING[dtype])

        return apply

    def contract(left: Value, right: Value) -> Value:
        matrix, vector = lift(left), lift(right)
        sizes = functions.contract(replace(matrix, data=np.abs(matrix.data)), replace(vector, data=np.abs(vector.data)))
        if matrix.dtype.name != "f32" and vector.dtype is not matrix.dtype:
            hit = np.where(rng.random(vector.shape) < 0.2, np.abs(vector.data), 0)
            right = noisy(functions.cast(vector, matrix.dtype), hit / 2, ROUNDING[matrix.dtype.name])
        return noisy(operators["@"](left, right), sizes.data, ROUNDING["f32"])

    try:
        functions.OPERATORS.update({name: off(operators[name]) for name in ("+", "-", "*", "/", "**")})
        functions.OPERATORS["@"] = contract
        functions.FUNCTIONS.update(
            {name: off(named[name]) for name in ("exp", "log", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos", "sum")}
        )
        functions.FUNCTIONS.update({name: rounds(named[name], name) for name in ("bf16", "f16")})
        yield
    finally:
        functions.OPERATORS.update(operators)
        functions.FUNCTIONS.update(named)


__all__: Sequence[str] = ["agree"]
