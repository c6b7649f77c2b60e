"""Microkernels against float64 NumPy, and facts about the code that LLVM makes of them."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import cache

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir

from moec.codegen.microkernel import emit_family
from moec.target import KernelShape, Target

NUMPY = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
LINUX = "x86_64-unknown-linux-gnu"
AVX512 = Target(LINUX, "sapphirerapids")
ZEN4 = Target(LINUX, "znver4")
AVX2 = Target(LINUX, "haswell")
SSE2 = Target(LINUX, "x86-64")
NEON = Target.of("aarch64-unknown-linux-gnu", "generic")
RISCV = Target.of("riscv64-unknown-linux-gnu", "generic")
RISCV_VECTOR = replace(RISCV, features=(*RISCV.features, "+v"))
TARGETS = {"avx512": AVX512, "zen4": ZEN4, "avx2": AVX2, "sse2": SSE2}
TARGETS |= {"neon": NEON, "riscv": RISCV, "riscv-vector": RISCV_VECTOR}


@pytest.fixture(scope="module", autouse=True)
def initialize_llvm() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def machine(target: Target, jit: bool = False) -> llvm.TargetMachine:
    features = ",".join(target.features)
    found = llvm.Target.from_triple(target.triple)
    return found.create_target_machine(
        cpu=target.cpu, features=features, opt=2, reloc="pic", codemodel="small", jit=jit
    )


def host_with(target: Target) -> Target | None:
    """The host restricted to what `target` has, where the host has as much."""
    host = Target.host()
    if host.architecture != target.architecture or host.vector_bits < target.vector_bits:
        return None
    if target is ZEN4 and "+avx512bf16" not in host.features:
        return None
    return target if target in (SSE2, AVX2) else replace(target, cpu=target.cpu)


@cache
def kernels(target: Target, shape: KernelShape) -> tuple[llvm.ExecutionEngine, list[ctypes._CFunctionType]]:  # pyright: ignore
    module = ir.Module()
    module.triple = Target.host().triple
    functions = emit_family(module, target, shape, shape.rows)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    engine = llvm.create_mcjit_compiler(parsed, machine(target, jit=True))
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 4)
    return engine, [prototype(engine.get_function_address(function.name)) for function in functions]


def aligned(size: int, dtype: np.dtype) -> np.ndarray:
    raw = np.zeros(size * dtype.itemsize + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + size * dtype.itemsize].view(dtype)


def panel_of(weights: np.ndarray, shape: KernelShape) -> np.ndarray:
    """[columns, k] weights as one panel, written from its definition."""
    columns, k = weights.shape
    panel = aligned(shape.steps(k) * shape.columns * shape.kstep, weights.dtype)
    view = panel.reshape(shape.steps(k), shape.columns, shape.kstep)
    for i in range(k):
        view[i // shape.kstep, :columns, i % shape.kstep] = weights[:, i]
    return panel


def run(shape: KernelShape, kernel, x, panel, start, first=0, k=None, rows=None):
    """`start` [rows, ldc] after the kernel; `x` is a list of rows."""
    c = np.array(start, np.float32)
    pointers = np.array([row.ctypes.data for row in x], np.int64)
    kernel(pointers.ctypes.data, panel.ctypes.data, c.ctypes.data, c.shape[1], k, first, 1)
    return c


RUNNABLE = [(name, dtype) for name in ("avx512", "zen4", "avx2", "sse2") for dtype in ("f32", "bf16", "f16")]


@pytest.mark.parametrize(("name", "dtype"), RUNNABLE)
def test_every_row_count_and_tail_agrees_with_float64(name: str, dtype: str) -> None:
    target = host_with(TARGETS[name])
    if target is None:
        pytest.skip("the host lacks the instructions")
    shape = target.kernel(dtype)
    _, family = kernels(target, shape)
    rng = np.random.default_rng(7)
    for k in (1, 2, 3, 7, 64, 1000):
        x = rng.standard_normal((shape.rows, k)).astype(NUMPY[dtype])
        weights = rng.standard_normal((shape.columns, k)).astype(NUMPY[dtype])
        exact = x.astype(np.float64) @ weights.astype(np.float64).T
        bound = 1e-6 * (np.abs(x.astype(np.float64)) @ np.abs(weights.astype(np.float64)).T) * max(1, k**0.5) + 1e-30
        panel = panel_of(weights, shape)
        lines = [np.array(row).astype(NUMPY[shape.activation]) for row in x]
        before = rng.standard_normal((shape.rows, shape.columns + 5)).astype(np.float32)
        widest: np.ndarray | None = None
        for rows in range(shape.rows, 0, -1):
            for accumulate in (0, 1):
                c = before.copy()
                pointers = np.array([line.ctypes.data for line in lines[:rows]], np.int64)
                args = pointers.ctypes.data, panel.ctypes.data, c.ctypes.data, c.shape[1], k, 0, accumulate
                family[rows - 1](*args)
                np.testing.assert_array_equal(c[rows:], before[rows:])
                np.testing.assert_array_equal(c[:, shape.columns :], before[:, shape.columns :])
                got = c[:rows, : shape.columns]
                want = exact[:rows] + accumulate * before[:rows, : shape.columns]
                assert np.all(np.abs(got - want) <= bound[:rows] + 1e-6 * np.abs(want)), (rows, k, accumulate)
                if accumulate == 0:
                    widest = got if widest is None else widest
                    np.testing.assert_array_equal(got, widest[:rows])
