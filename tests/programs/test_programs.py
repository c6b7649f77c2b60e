"""Random programs: what is compiled agrees with the oracle.

`pytest tests/programs` checks 500 programs, `--programs 20000` that many, `--seed 7` others. A program that fails is
shrunk, and printed as text with its dimensions. At the end stands how many tokens were compared: one whose choices are
nearly tied may differ, but in every twenty programs three quarters of the tokens have to agree.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from functools import wraps
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, seed, settings

import moec
from moec.measure.compare import AGREEING, LEAST, TOLERANCES, errors
from moec.oracle import MARGINS, Reference, Result, functions, reference
from moec.oracle.values import Array, Value, constant, lift
from tests.programs.generate import Program, programs

Data = np.ndarray[Any, np.dtype[Any]]

#: Half a unit in the last place.
ROUNDING: Final = {"f32": 2.0**-24, "bf16": 2.0**-9, "f16": 2.0**-12}

#: The smallest normal number: what is below loses bits however it is computed.
SMALLEST: Final = {"f32": 1e-30, "bf16": 1e-30, "f16": 2.0**-14}

#: How many programs a test has; pytest-xdist hands the tests out.
SHARD: Final = 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "count" in metafunc.fixturenames:
        total = metafunc.config.getoption("--programs", default=500)
        shards = [(at // SHARD, min(SHARD, total - at)) for at in range(0, total, SHARD)]
        metafunc.parametrize(("shard", "count"), shards)


def test_compiled_programs_agree_with_the_oracle(
    shard: int, count: int, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    tally = Tally()

    @seed(pytestconfig.getoption("--seed", default=0) * 1_000_003 + shard)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def check(program: Program) -> None:
        note(str(program))
        nonlocal tally
        tally += run(
            program, lambda aux: moec.compile(program.text, program.dims, program.real, 1 + shard % 2, aux=aux)
        )

    check()
    record_property("tally", asdict(tally))
    tally.require()


def test_a_third_of_the_programs_rounds_nothing_to_fewer_bits_than_f32_has() -> None:
    kinds: list[str] = []

    @seed(0)
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def draw(program: Program) -> None:
        kinds.append(program.coarsest)

    draw()
    assert kinds.count("f32") >= len(kinds) / 3


def fixed(text: str, **dims: int) -> Program:
    """A program in f32 that runs on one token, and on 17."""
    return Program(text, dims, "f32", (1, 17), 0, 0.0, {}, frozenset())


#: A layer that chooses among equal scores, all of them 0: no choice is clear.
TIED: Final = """
moe tied[H=16, E=6, K=2](x: [H]) -> [H] {{
    param router: [E, H]
    param up:     [E, H, H]
    p = 0 * (router @ x)
    return sum e in topk(p, K): {weight} * (up[e] @ x)
}}
"""


def test_a_program_that_is_compiled_wrong_is_called_so_where_nothing_is_clear() -> None:
    right, wrong = (TIED.format(weight=weight) for weight in (1, 1.001))
    program = fixed(right, H=16, E=6, K=2)
    assert run(program, lambda aux: moec.compile(right, {}, "f32")) == Tally(1, 1, 18, 0, 18)
    tally = run(program, lambda aux: moec.compile(wrong, {}, "f32"))
    assert tally == Tally(1, 1, 18, 0, 0)
    with pytest.raises(AssertionError, match="too few tokens agree"):
        tally.require()


def test_loud_tokens_do_not_hide_that_quiet_ones_are_wrong() -> None:
    text = "moe loud[H=16](x: [H], in1: f32) -> [H] { return exp(4 * in1) * x }"
    wrong = text.replace("* x", "* x * (if in1 < 0 then 1.001 else 1)")
    agree(fixed(text, H=16), lambda aux: moec.compile(text, {}, "f32"))
    with pytest.raises(AssertionError, match="rounding explains"):
        agree(fixed(text, H=16), lambda aux: moec.compile(wrong, {}, "f32"))


# ── one program ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Tally:
    """What came of programs: how many there are, and how many round nothing to fewer bits than f32 has; of the tokens
    that they ran on those whose choices are clear, and those that agree."""

    programs: int = 0
    exact: int = 0
    tokens: int = 0
    stable: int = 0
    agreeing: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*map(operator.add, astuple(self), astuple(other)))

    def require(self) -> None:
        """Fails where fewer tokens agree than do of a compiler that is right; few tokens cannot tell."""
        assert self.tokens < LEAST or self.agreeing >= AGREEING * self.tokens, f"too few tokens agree: {self}"


#: Compiles a program for the auxiliary outputs of these names.
Compile = Callable[[Sequence[str]], moec.Kernel]


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


def agree(program: Program, compiled: Compile) -> None:
    """Fails unless a compiled program agrees with the oracle, at every number of tokens that it asks for."""
    run(program, compiled).require()


def run(program: Program, compiled: Compile) -> Tally:
    """Fails where a token whose choices are clear differs from the oracle's; how many were compared, and agree."""
    weights, dtype = program.weights(), program.coarsest
    oracle = reference(program.text, dims=program.dims, dtype=program.real)
    kernel = compiled(names_of_aux(oracle))
    packed = kernel.pack(weights)
    tally = Tally(programs=1, exact=dtype == "f32")
    for tokens in program.tokens:
        inputs = program.inputs(tokens)

        def truth() -> dict[str, Data]:
            return by_name(oracle, oracle.run(*inputs, weights=weights, aux=True))  # noqa: B023

        wanted = oracle.run(*inputs, weights=weights, aux=True, margin=MARGINS[dtype])
        outputs, aux = kernel(*inputs, weights=packed, aux=True)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = {f"output {i}": array for i, array in enumerate(outputs)} | dict(aux)
        right = np.ones(tokens, bool)
        for name, off in differences(by_name(oracle, wanted), found, SMALLEST[program.real]):
            agrees = off <= TOLERANCES[dtype]
            if not agrees[wanted.stable].all():
                excuse = wavering(truth, name, SMALLEST[program.real])
                agrees |= off <= excuse
                wrong = wanted.stable & ~agrees
                assert not wrong.any(), (
                    f"{name}, {tokens} tokens: off by {off[wrong]}, rounding explains {excuse[wrong]}"
                )
            right &= agrees
        tally += Tally(0, 0, tokens, int(wanted.stable.sum()), int(right.sum()))
    return tally


def names_of_aux(oracle: Reference) -> list[str]:
    return [node.name.id for node in oracle.layer.body if hasattr(node, "name") and type(node).__name__ == "Aux"]


def by_name(oracle: Reference, result: Result) -> dict[str, Data]:
    return {f"output {i}": array for i, array in enumerate(result.outputs)} | result.aux


def differences(wanted: Mapping[str, Data], found: Mapping[str, Data], smallest: float) -> Iterator[tuple[str, Data]]:
    """How far each output is off, a number for each token."""
    assert found.keys() == wanted.keys()
    for name, right in wanted.items():
        left = np.asarray(found[name])
        assert left.shape == right.shape, f"{name}: shape {left.shape}, not {right.shape}"
        yield name, errors(left, right, smallest)


# ── how much of a difference rounding explains ────────────────────────────────────────────────────────────────────────


def wavering(run: Callable[[], Mapping[str, Data]], name: str, smallest: float, times: int = 6) -> Data:
    """How far the oracle itself strays for each token when each of its operations is off by a few roundings: a program
    that cancels what it computes says little, however it is compiled. Nothing excuses a wrong integer."""
    right = run()[name]
    if right.dtype.kind in "ib":
        return np.zeros(len(right))
    strays = []
    for turn in range(times):
        with shaken(turn):
            strays.append(errors(run()[name], right, smallest))
    return 3 * np.max(strays, axis=0)


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
