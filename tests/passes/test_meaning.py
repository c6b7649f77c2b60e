"""Every pass keeps the meaning: what runs without it gives the same bits, or the same numbers where it adds in another
order. And what it leaves is MLIR: it verifies, and reading what is printed gives the same module again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.math import Math
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from moec import pipeline
from moec.dialects.moe import Moe
from moec.dialects.plan import Plan
from moec.dtypes import Storage
from moec.kernels import Layer
from moec.measure.compare import TOLERANCES, errors
from moec.options import Options
from moec.passes.schedule import Schedule
from moec.pipeline import Compilation
from moec.runtime.cache import Program as Compiled
from moec.runtime.kernel import Kernel
from moec.source import Source
from tests.examples import EXAMPLES, SMALL, load, random_inputs, random_weights
from tests.programs.generate import Program, programs
from tests.programs.test_programs import Tally, run

#: What a program can do without. The other passes settle types, or what the stages after them rely on.
OPTIONAL: Final = (
    "merge-equal",
    "canonicalize",
    "dce",
    "hoist-invariants",
    "fuse-maps",
)

#: Also optional, but they move products from rows to kernels, which add in another order.
REORDERS: Final = ("distribute-products", "split-match")

Data = np.ndarray[Any, np.dtype[Any]]


class Without(Compilation):
    """A compilation that leaves passes out."""

    def __init__(self, source: Source, options: Options, missing: Iterable[str]) -> None:
        super().__init__(source, options)
        self.missing = frozenset(missing)

    def simplify(self, after: Any = None) -> ModuleOp:
        module, context = self.elaborate().module, Context()
        for each in self.passes():
            each.apply(context, module)
            module.verify()
        return module

    def passes(self) -> Iterator[ModulePass]:
        for each in pipeline.passes(self.options, self.binding):
            if each.name not in self.missing:
                yield each


class LayerWithout(Layer):
    """A layer, compiled without some passes."""

    def __init__(self, source: Source, options: Options, missing: Iterable[str]) -> None:
        super().__init__(source, options)
        self._program = Without(source, options, missing).program

    def program(self, aux: tuple[str, ...], storage: Storage) -> Compiled:
        return self._program


def results(
    source: Source, options: Options, missing: Iterable[str], weights: Mapping[str, Data], calls: Iterable[list[Data]]
) -> list[Data]:
    """All that a layer gives, compiled without some passes."""
    kernel = Kernel(LayerWithout(source, options, missing))
    packed = kernel.pack(weights)
    return [array for inputs in calls for array in as_list(kernel(*inputs, weights=packed))]


def as_list(outputs: Any) -> list[Data]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def without(missing: str) -> tuple[str, ...]:
    return (*OPTIONAL, *REORDERS) if missing == "all of them" else (missing,)


def same_bits(left: list[Data], right: list[Data]) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.dtype == other.dtype
        one, other = (np.ascontiguousarray(array).reshape(-1) for array in (one, other))
        same = one.view(np.uint8).tobytes() == other.view(np.uint8).tobytes()
        assert same, f"{np.flatnonzero(one != other)} differ: {one[one != other]} and {other[one != other]}"


@pytest.mark.parametrize("missing", [*OPTIONAL, *REORDERS, "all of them"])
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "moe_plus_plus", "peer", "gpt_oss", "longcat_flash"])
def test_examples_are_the_same_without(name: str, missing: str) -> None:
    source = Source(f"{name}.moe", (EXAMPLES / f"{name}.moe").read_text())
    options = Options.of(SMALL[name], threads=1)
    weights = random_weights(load(name), SMALL[name])
    calls = [list(random_inputs(load(name), SMALL[name], tokens).values()) for tokens in (1, 17)]
    found = results(source, options, without(missing), weights, calls)
    wanted = results(source, options, (), weights, calls)
    if missing in OPTIONAL:
        same_bits(found, wanted)
    for left, right in zip(found, wanted, strict=True):
        assert errors(left, right).max() <= TOLERANCES["f32"]


@pytest.mark.parametrize("shard", range(4))
def test_random_programs_are_the_same_without(shard: int) -> None:
    tally = Tally()

    @seed(shard)
    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs(tokens=(1, 3, 17)), st.sampled_from([*OPTIONAL, *REORDERS, "all of them"]))
    def check(program: Program, missing: str) -> None:
        nonlocal tally
        note(str(program))
        tally += check_program(program, missing)

    check()
    tally.require()


def check_program(program: Program, missing: str) -> Tally:
    """Compares a program with itself, compiled without a pass; where sums are added in another order, with the oracle,
    which knows how much that may matter."""
    source = Source("<generated>", program.text)

    def build(passes: Iterable[str], aux: Iterable[str]) -> Kernel:
        options = Options.of(program.dims, program.real, threads=1, aux=tuple(aux))
        return Kernel(LayerWithout(source, options, passes))

    if missing not in OPTIONAL:
        return run(program, lambda aux: build(without(missing), aux))
    weights = program.weights()
    found, wanted = (build(passes, ()) for passes in (without(missing), ()))
    for tokens in program.tokens:
        inputs = program.inputs(tokens)
        same_bits(*(as_list(kernel(*inputs, weights=kernel.pack(weights))) for kernel in (found, wanted)))
    return Tally()


# ── printing and parsing ──────────────────────────────────────────────────────────────────────────────────────────────


def round_trip(module: ModuleOp, after: str) -> None:
    """Fails unless what a module prints as reads as the same module."""
    context, text = Context(), str(module)
    for dialect in (Builtin, Arith, Math, Moe, Plan):
        context.load_dialect(dialect)
    again = Parser(context, text, f"after {after}").parse_module()
    again.verify()
    assert module.is_structurally_equivalent(again), f"after {after} it reads differently:\n{text}\n{again}"
    assert str(again) == text


def check_round_trips(source: Source, options: Options) -> None:
    compilation = Compilation(source, options)
    round_trip(compilation.elaborate().module, "elaboration")
    module = compilation.simplify(lambda each, module: round_trip(module, each.name))
    Schedule(str(options.target)).apply(Context(), module)
    module.verify()
    round_trip(module, "schedule")


@pytest.mark.parametrize("name", SMALL)
def test_examples_round_trip_after_every_pass(name: str) -> None:
    check_round_trips(Source(f"{name}.moe", (EXAMPLES / f"{name}.moe").read_text()), Options.of(SMALL[name], "bf16"))


@pytest.mark.parametrize("shard", range(2))
def test_random_programs_round_trip_after_every_pass(shard: int) -> None:
    @seed(shard)
    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def check(program: Program) -> None:
        note(str(program))
        check_round_trips(Source("<generated>", program.text), Options.of(program.dims, program.real))

    check()
