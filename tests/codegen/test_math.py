"""Elementary functions against float64 NumPy, itself checked against mpmath, and facts about the code they become."""

from __future__ import annotations

import ctypes
import itertools
import math
import platform
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import mpmath
import numpy as np
import pytest
from llvmlite import ir

from moec.codegen.math import FUNCTIONS
from moec.target import Target

F32 = ir.FloatType()
INF, NAN = math.inf, math.nan
WIDTHS = (0, 1, 4, 8, 16)  # 0: a scalar
LINUX = "x86_64-unknown-linux-gnu"
RISCV = Target.of("riscv64-unknown-linux-gnu")
CROSS = {
    "avx512": Target(LINUX, "x86-64-v4"),
    "avx2": Target(LINUX, "x86-64-v3"),
    "sse2": Target(LINUX, "x86-64"),
    "neon": Target.of("aarch64-unknown-linux-gnu"),
    "riscv": RISCV,
    "riscv-vector": Target(RISCV.triple, RISCV.cpu, (*RISCV.features, "+v")),
}
RUNNABLE = {"host": Target.host()}
if platform.machine() == "x86_64":
    RUNNABLE["no-fma"] = Target(LINUX, "x86-64")


class Oracle(NamedTuple):
    """What a function is: in float64 and in mpmath, where it is hard, and the bound that its docstring promises."""

    float64: Callable[[Any], Any]
    exact: Callable[[Any], Any]
    bound: float
    critical: tuple[float, ...]
    dense: tuple[float, float]


def cases() -> dict[str, Oracle]:
    ln2, ends = math.log(2), (0.0, 2.0**-149, 2.0**-126, 2.0**-26, 3.4e38)
    erf = np.vectorize(math.erf, otypes=[float])
    limit = 88.72283905206835  # e^x overflows
    quarters = (*(n * math.pi / 2 for n in (0.5, 1, 2, 3, 1001)), 16367173 * 2.0**72, 2.0**50, 2.0**76, 2.0**102)
    return {
        "math.absf": Oracle(np.abs, abs, 0.0, ends, (-2, 2)),
        "math.cos": Oracle(np.cos, mpmath.cos, 1.64, (*ends, *quarters), (-20, 20)),
        "math.erf": Oracle(erf, mpmath.erf, 1.68, (*ends, 1.1, 3.83, 3.92, 4.0), (-4.2, 4.2)),
        "math.exp": Oracle(np.exp, mpmath.exp, 1.96, (*ends, ln2, limit, 87.33654, 103.97208, 104, 89), (-104, 89)),
        "math.floor": Oracle(np.floor, mpmath.floor, 0.0, (*ends, 0.5, 1, 2, 3, 2.0**22, 2.0**23, 2.0**24), (-4, 4)),
        "math.log": Oracle(np.log, mpmath.log, 0.92, (*ends, 0.5**0.5, 1, 2**0.5, 2), (0, 3)),
        "math.rsqrt": Oracle(lambda x: 1 / np.sqrt(x), lambda x: 1 / mpmath.sqrt(x), 1.5, (*ends, 1, 4), (0, 4)),
        "math.sin": Oracle(np.sin, mpmath.sin, 1.65, (*ends, *quarters), (-20, 20)),
        "math.sqrt": Oracle(np.sqrt, mpmath.sqrt, 0.5, (*ends, 1, 4), (0, 4)),
        "math.tanh": Oracle(np.tanh, mpmath.tanh, 1.99, (*ends, ln2 / 4, 0.52, 9.01, 9.5), (-9.5, 9.5)),
    }


ORACLES = cases()
POW_BOUND = 0.55

Emit = Callable[..., Any]


def build_loop(emit: Emit, arity: int, width: int) -> ir.Module:
    """`void f(ptr x, …, ptr y, i64 n)`: y = emit(x, …), `width` elements a turn; n is a positive multiple."""
    module, lanes = ir.Module(), ir.VectorType(F32, width) if width else F32
    index = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()] * (arity + 1) + [index]), "f")
    *inputs, output, n = function.args
    entry, loop, done = (function.append_basic_block(name) for name in ("entry", "loop", "done"))
    b = ir.IRBuilder(entry)
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(index)
    i.add_incoming(index(0), entry)
    loaded = [b.load(b.gep(p, [i], source_etype=F32), align=4, typ=lanes) for p in inputs]
    b.store(emit(b, *loaded), b.gep(output, [i], source_etype=F32), align=4)
    following = b.add(i, index(max(width, 1)))
    i.add_incoming(following, loop)
    b.cbranch(b.icmp_unsigned("<", following, n), loop, done)
    b.position_at_end(done)
    b.ret_void()
    return module


def optimise(module: ir.Module, target: Target, jit: bool = False) -> tuple[Any, Any]:
    """The module after LLVM's passes, and the machine; loops stay as they stand in the text."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module.triple = target.triple
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=",".join(target.features), opt=2, reloc="pic", jit=jit
    )
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    return parsed, machine


Run = Callable[..., Any]


@cache
def compile_loop(emit: Emit, arity: int, width: int, target: Target) -> Run:
    """`emit` over arrays of f32, whose length is a multiple of 16."""
    parsed, machine = optimise(build_loop(emit, arity, width), target, jit=True)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    native = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (arity + 1), ctypes.c_int64)(engine.get_function_address("f"))

    def run(*inputs: Any, engine: Any = engine) -> Any:
        output = np.empty_like(inputs[0])
        assert all(x.dtype == np.float32 and x.flags.c_contiguous and x.size % 16 == 0 for x in inputs)
        native(*[x.ctypes.data for x in inputs], output.ctypes.data, output.size)
        return output

    return run


def padded(values: Any) -> Any:
    """The values as f32, repeated to a multiple of 16."""
    x = np.asarray(values, np.float32).ravel()
    return np.resize(x, -(-x.size // 16) * 16)


def neighbours(points: tuple[float, ...], reach: int = 40) -> Any:
    """All f32 within `reach` steps of the points and of their negatives."""
    at = np.abs(np.array(points, np.float32)).view(np.int32)
    bits = np.clip(at[:, None] + np.arange(-reach, reach + 1), 0, 0x7F800000).astype(np.uint32)
    return np.concatenate([bits.ravel(), bits.ravel() | 0x80000000]).view(np.float32)


@cache
def samples(name: str) -> Any:
    """Critical points, one point in every 2^-8 of each binade, random encodings, and the dense interval."""
    random = np.random.default_rng(0)
    everywhere = (np.arange(1 << 17, dtype=np.uint32) << 15) + random.integers(0, 1 << 15, 1 << 17, dtype=np.uint32)
    oracle = ORACLES[name]
    count = 1 << 14 if name == "math.erf" else 1 << 18
    dense = random.uniform(*oracle.dense, count)
    every = everywhere[:: 8 if name == "math.erf" else 1].view(np.float32)
    return padded(np.concatenate([neighbours(oracle.critical), every, dense.astype(np.float32)]))


def quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    with np.errstate(all="ignore"):
        return function(*[x.astype(np.float64) for x in arguments])


def measure_ulps(got: Any, exact: Any) -> Any:
    """The error of each f32 in units of the last place of the exact result; overflow counts as 2^128."""
    limit = 2.0**128
    clipped = np.clip(exact, -limit, limit)
    ulp = np.ldexp(1.0, np.clip(np.frexp(clipped)[1], -125, 128) - 24)
    error = np.abs(np.clip(quietly(np.positive, got), -limit, limit) - clipped) / ulp
    return np.where(np.isnan(got) & np.isnan(exact), 0.0, np.nan_to_num(error, nan=INF))


def same_bits(a: Any, b: Any) -> bool:
    return bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))


def test_table_is_covered() -> None:
    assert set(FUNCTIONS) == {*ORACLES, "math.powf"}


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("name", ORACLES)
def test_error_is_bounded(name: str, target: Target) -> None:
    x = samples(name)
    got = compile_loop(FUNCTIONS[name], 1, 16, target)(x)
    errors = measure_ulps(got, quietly(ORACLES[name].float64, x))
    worst = int(np.argmax(errors))
    print(f"{name}: {errors[worst]:.4f} ulp at {x[worst]!r}, {x.size} points")
    assert errors[worst] <= ORACLES[name].bound


@pytest.mark.parametrize("name", ORACLES)
def test_float64_is_a_good_oracle(name: str) -> None:
    random, oracle = np.random.default_rng(1), ORACLES[name]
    x = np.concatenate([random.choice(samples(name), 300), random.uniform(*oracle.dense, 300).astype(np.float32)])
    limit = 1e4 if name == "math.exp" else INF  # mpmath spells e^(10^38) out
    x = x[np.isfinite(x) & (np.abs(x) < limit)]
    expected = quietly(oracle.float64, x)
    x, expected = x[np.isfinite(expected)], expected[np.isfinite(expected)]
    with mpmath.workprec(120):
        for at, value in zip(x.tolist(), expected.tolist(), strict=True):
            exact = oracle.exact(mpmath.mpf(at))
            assert abs(exact - value) <= abs(exact) * 2.0**-49 + 2.0**-1000


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_width_changes_no_bit(name: str, target: Target) -> None:
    arity = 2 if name == "math.powf" else 1
    x = [*POW_PAIRS[0]] if arity == 2 else [samples(name)]
    scalar, *others = (compile_loop(FUNCTIONS[name], arity, width, target)(*x) for width in WIDTHS)
    assert all(same_bits(scalar, other) for other in others)


TINY = 2.0**-149
EDGES = {
    "math.absf": ((0.0, 0.0), (-0.0, 0.0), (-INF, INF), (-1.5, 1.5), (-TINY, TINY)),
    "math.cos": ((0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (TINY, 1.0), (-1e-5, 1.0)),
    "math.erf": ((0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (4.5, 1.0), (-1e30, -1.0), (TINY, TINY)),
    "math.exp": ((0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (88.8, INF), (-104.0, 0.0), (3e38, INF)),
    "math.floor": (
        *((0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF), (TINY, 0.0), (-TINY, -1.0), (-1.0, -1.0), (0.75, 0.0)),
        *((2.5, 2.0), (-2.5, -3.0), (8388607.5, 8388607.0), (-8388607.5, -8388608.0), (-8388609.0, -8388609.0)),
        *((3e38, 3e38), (0.99999994, 0.0), (-0.99999994, -1.0)),
    ),
    "math.log": ((0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-1.0, NAN), (-INF, NAN), (-TINY, NAN)),
    "math.rsqrt": ((0.0, INF), (-0.0, -INF), (INF, 0.0), (-1.0, NAN), (-INF, NAN), (4.0, 0.5), (2 * TINY, 2.0**74)),
    "math.sin": ((0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (TINY, TINY), (-3 * TINY, -3 * TINY), (1e-5, 1e-5)),
    "math.sqrt": ((0.0, 0.0), (-0.0, -0.0), (INF, INF), (-1.0, NAN), (-INF, NAN), (4.0, 2.0), (2 * TINY, 2.0**-74)),
    "math.tanh": ((0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (20.0, 1.0), (-3e38, -1.0), (-TINY, -TINY)),
}


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("name", EDGES)
def test_edges_are_exact(name: str, target: Target) -> None:
    x, expected = (padded(column) for column in zip(*EDGES[name], (NAN, NAN), (-NAN, NAN), strict=True))
    got = compile_loop(FUNCTIONS[name], 1, 16, target)(x)
    assert same_bits(got, expected), list(zip(x, got, expected, strict=True))


def pow_pairs() -> list[tuple[Any, Any]]:
    """Any encodings; results over the whole range; bases near 1 under great exponents; negative bases."""
    random, n = np.random.default_rng(2), 1 << 16
    bits = random.integers(0, 1 << 32, (3, n), dtype=np.uint64).astype(np.uint32).view(np.float32)
    base = np.abs(bits[2])
    spread = quietly(lambda x: random.uniform(-152, 129, n) / np.log2(x), base)
    near = 1 + random.integers(-40, 40, n) * 2.0**-24
    negative, integer = -np.exp(random.normal(0, 4, n)), random.integers(-30, 30, n)
    pairs = [(bits[0], bits[1]), (base, spread), (near, random.normal(0, 2.0**30, n)), (negative, integer)]
    return [(padded(x), padded(y)) for x, y in pairs]


POW_PAIRS = pow_pairs()


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
def test_pow_error_is_bounded(target: Target) -> None:
    run = compile_loop(FUNCTIONS["math.powf"], 2, 16, target)
    errors = np.concatenate([measure_ulps(run(x, y), quietly(np.power, x, y)) for x, y in POW_PAIRS])
    print(f"math.powf: {errors.max():.4f} ulp, {errors.size} points")
    assert errors.max() <= POW_BOUND


def expected_pow(x: float, y: float) -> float:
    """C's pow (Annex F.10.4.4), where Python's raises instead."""
    try:
        return math.pow(x, y)
    except OverflowError:
        return math.copysign(INF, x) if y % 2 == 1 else INF
    except ValueError:
        if x != 0:
            return NAN
        return math.copysign(INF, x) if y % 2 == 1 else INF


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
def test_pow_edges(target: Target) -> None:
    positive = [0, 1, 2, 0.5, 3, 1.5, 33, INF, 2.0**-149, 1e-38, 3.4e38, 1e10, 1e-20]
    positive += [0.99999994, 1.0000001, 8388607, 8388609, 8388607.5, 16777215, 16777216, 33554432]
    values = np.array([*positive, *[-v for v in positive], NAN], np.float32)
    x, y = (padded(column) for column in zip(*itertools.product(values, repeat=2), strict=True))
    expected = np.array([expected_pow(*pair) for pair in zip(x.tolist(), y.tolist(), strict=True)])
    got = compile_loop(FUNCTIONS["math.powf"], 2, 16, target)(x, y)
    special = ~np.isfinite(expected) | (expected == np.rint(expected)) & (np.abs(expected) < 2**23)
    with np.errstate(over="ignore"):
        assert same_bits(got[special], expected[special].astype(np.float32))
    assert measure_ulps(got, expected).max() <= POW_BOUND
    assert (
        np.array_equal(np.signbit(got), np.signbit(expected))
        or np.isnan(got[np.signbit(got) != np.signbit(expected)]).all()
    )


@pytest.mark.parametrize("target", CROSS.values(), ids=CROSS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_called(name: str, target: Target) -> None:
    for width in (0, 16):
        parsed, machine = optimise(build_loop(FUNCTIONS[name], 2 if name == "math.powf" else 1, width), target)
        assert not re.findall(r"^\s+(?:call|callq|bl|jal|tail)\s.*$", machine.emit_assembly(parsed), re.MULTILINE)


INSTRUCTIONS = {"math.exp": 16, "math.tanh": 20, "math.erf": 23, "math.log": 28, "math.floor": 7, "math.sin": 51}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_are_few(name: str) -> None:
    """Arithmetic of sixteen lanes: neither moves nor the loop, which holds the constants in registers."""
    parsed, machine = optimise(build_loop(FUNCTIONS[name], 1, 16), CROSS["avx512"])
    loop = machine.emit_assembly(parsed).split("LBB0_1:", 1)[1].split("\tjb\t")[0]
    arithmetic = re.findall(r"^\s+((?:v|k)(?!mov)\w+)\s", loop, re.MULTILINE)
    assert len(arithmetic) <= INSTRUCTIONS[name], arithmetic
