"""Microkernels against float64 NumPy, and facts about the code that LLVM makes of them."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir

from moec.codegen.llvm import PTR
from moec.codegen.microkernel import MicrokernelArguments, emit_family, emit_microkernel
from moec.shapes import KernelShape
from moec.target import Target

NUMPY = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
DTYPES = tuple(NUMPY)
LINUX = "x86_64-unknown-linux-gnu"
RISCV = Target.of("riscv64-unknown-linux-gnu")
CROSS = {
    "intel": Target(LINUX, "sapphirerapids", ("-amx-bf16",)),
    "zen4": Target(LINUX, "znver4"),
    "skylake": Target(LINUX, "skylake-avx512"),
    "avx2": Target(LINUX, "haswell"),
    "sse2": Target(LINUX, "x86-64"),
    "neon": Target.of("aarch64-unknown-linux-gnu"),
    "riscv": RISCV,
    "riscv-vector": Target(RISCV.triple, RISCV.cpu, (*RISCV.features, "+v")),
    "other": Target.of("powerpc64le-unknown-linux-gnu"),
}
DOT = Target(LINUX, "x86-64-v4", ("+avx512bf16",))
HOST = Target.host()
RUNNABLE = {
    # Tiles have kernels of their own.
    "host": HOST.without("amx-bf16"),
    "avx512": Target(LINUX, "x86-64-v4"),
    "avx2": Target(LINUX, "x86-64-v3"),
    "sse2": Target(LINUX, "x86-64"),
}
KERNELS = [(name, dtype) for name in RUNNABLE for dtype in DTYPES] + [("dot", "bf16")]


@pytest.fixture(scope="module", autouse=True)
def initialize_llvm() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def machine(target: Target, jit: bool = False) -> Any:
    features = ",".join(target.features)
    found = llvm.Target.from_triple(target.triple)
    return found.create_target_machine(cpu=target.cpu, features=features, opt=2, reloc="pic", jit=jit)


def parsed(module: ir.Module, target: Target) -> Any:
    module.triple = target.triple
    checked = llvm.parse_assembly(str(module))
    checked.verify()
    return checked


Kernel = Callable[..., None]


class Family:
    """The kernels of one shape, compiled for a target that this machine can run."""

    def __init__(self, target: Target, shape: KernelShape) -> None:
        module = ir.Module()
        functions = emit_family(module, target, shape)
        self.shape = shape
        self.engine = llvm.create_mcjit_compiler(parsed(module, Target.host()), machine(target, jit=True))
        self.engine.finalize_object()
        types = MicrokernelArguments.type().args
        prototype = ctypes.CFUNCTYPE(None, *(ctypes.c_void_p if type == PTR else ctypes.c_int64 for type in types))
        self.kernels = [prototype(self.engine.get_function_address(function.name)) for function in functions]

    def __call__(
        self, lines: list[np.ndarray], panel: np.ndarray, c: np.ndarray, k: int, first: int = 0, accumulate: int = 0
    ) -> np.ndarray:
        """Runs over `c` [.., ldc] in place, prefetching from where nothing is mapped."""
        pointers = np.array([line.ctypes.data for line in lines], np.int64)
        arguments = MicrokernelArguments(
            rows=pointers.ctypes.data,
            panel=panel.ctypes.data,
            c=c.ctypes.data,
            ldc=c.shape[1],
            k=k,
            first=first,
            accumulate=accumulate,
            ahead=64,
            pace=192,
            apart=panel.nbytes // self.shape.streams,
        )
        self.kernels[len(lines) - 1](*arguments)
        return c


@cache
def family(name: str, dtype: str) -> Family:
    """The kernels for `dtype` on a row of `RUNNABLE`; skips the test where this machine cannot run them."""
    host = Target.host()
    if name == "dot":
        if "+avx512bf16" not in host.features:
            pytest.skip("the host has no `vdpbf16ps`")
        return Family(DOT, KernelShape("bf16", "dot", 8, 48, 2, 16))
    target = RUNNABLE[name]
    if target.architecture != host.architecture or target.vector_bits > host.vector_bits:
        pytest.skip(f"the host does not run {name}")
    return Family(target, target.kernel(dtype))


def packed(weights: np.ndarray, shape: KernelShape) -> np.ndarray:
    """[columns, k] weights as one panel, written from its definition."""
    columns, k = weights.shape
    raw = np.zeros(shape.steps(k) * shape.step_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    panel = raw[start : start + shape.steps(k) * shape.step_bytes].view(weights.dtype)
    view = panel.reshape(shape.streams, shape.steps(k), shape.columns // shape.streams, shape.kstep)
    for i in range(k):
        line = view[:, i // shape.kstep, :, i % shape.kstep]
        line[...] = np.pad(weights[:, i], (0, shape.columns - columns)).reshape(line.shape)
    return panel


def rows_of(x: np.ndarray, shape: KernelShape) -> list[np.ndarray]:
    """[rows, k] values as separate arrays in the dtype that the kernel takes."""
    return [np.array(line, NUMPY[shape.activation]) for line in x]


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_every_row_count_and_tail_agrees_with_float64(name: str, dtype: str) -> None:
    run = family(name, dtype)
    shape, rng = run.shape, np.random.default_rng(7)
    for k in (1, 2, 3, 7, 64, 1000):
        x = rng.standard_normal((shape.rows, k)).astype(NUMPY[dtype])
        weights = rng.standard_normal((shape.columns, k)).astype(NUMPY[dtype])
        exact = x.astype(np.float64) @ weights.astype(np.float64).T
        size = np.abs(x.astype(np.float64)) @ np.abs(weights.astype(np.float64)).T
        panel, lines = packed(weights, shape), rows_of(x, shape)
        before = rng.standard_normal((shape.rows, shape.columns + 5)).astype(np.float32)
        # A row's bits do not depend on the rows beside it.
        full = run(lines, panel, before.copy(), k)
        for rows in range(1, shape.rows + 1):
            for accumulate in (0, 1):
                c = run(lines[:rows], panel, before.copy(), k, accumulate=accumulate)
                np.testing.assert_array_equal(c[rows:], before[rows:])
                np.testing.assert_array_equal(c[:, shape.columns :], before[:, shape.columns :])
                got, start = c[:rows, : shape.columns], accumulate * before[:rows, : shape.columns]
                error = np.abs(got - (exact[:rows] + start))
                assert np.all(error <= 2.0**-22 * k**0.5 * (size[:rows] + np.abs(start))), (rows, k, accumulate)
                if not accumulate:
                    np.testing.assert_array_equal(got, full[:rows, : shape.columns])


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_cutting_k_changes_no_bit(name: str, dtype: str) -> None:
    run = family(name, dtype)
    shape, rng = run.shape, np.random.default_rng(8)
    x = rng.standard_normal((shape.rows, 301)).astype(NUMPY[dtype])
    panel = packed(rng.standard_normal((shape.columns, 301)).astype(NUMPY[dtype]), shape)
    lines, c = rows_of(x, shape), np.zeros((shape.rows, shape.columns), np.float32)
    for first, k in ((0, 2), (2, 128), (130, 171)):
        rest = panel[first * shape.columns :]
        run(lines, rest, c, k, first, accumulate=int(first > 0))
    np.testing.assert_array_equal(c, run(lines, panel, np.zeros_like(c), 301))


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_a_panel_in_two_streams_is_multiplied_as_in_one(name: str, dtype: str) -> None:
    run, rng = family(name, dtype), np.random.default_rng(9)
    shape = replace(run.shape, rows=3, columns=4 * run.shape.lanes)
    target = DOT if name == "dot" else RUNNABLE[name]
    one, two = Family(target, shape), Family(target, replace(shape, streams=2))
    for k in (1, 2, 7, 64, 301):
        lines = rows_of(rng.standard_normal((3, k)).astype(NUMPY[dtype]), shape)
        weights = rng.standard_normal((shape.columns, k)).astype(NUMPY[dtype])
        for rows in (1, 2, 3):
            before = rng.standard_normal((rows, shape.columns)).astype(np.float32)
            got = [
                run(lines[:rows], packed(weights, run.shape), before.copy(), k, accumulate=accumulate)
                for run in (one, two)
                for accumulate in (0, 1)
            ]
            np.testing.assert_array_equal(got[:2], got[2:])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for a page that nothing may read")
@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_nothing_is_read_past_a_row(name: str, dtype: str) -> None:
    run = family(name, dtype)
    shape, page = run.shape, mmap.PAGESIZE
    pages = np.frombuffer(mmap.mmap(-1, 2 * page), np.uint8)
    guard = ctypes.c_void_p(pages.ctypes.data + page)
    assert ctypes.CDLL(None).mprotect(guard, ctypes.c_size_t(page), 0) == 0
    for k in (1, 2, 7, 64):
        line = pages[:page].view(NUMPY[shape.activation])[-k:]
        line[:] = np.arange(k)
        panel = packed(np.ones((shape.columns, k), NUMPY[dtype]), shape)
        for rows in (1, shape.rows):
            c = run([line] * rows, panel, np.zeros((rows, shape.columns), np.float32), k)
            np.testing.assert_array_equal(c, np.full_like(c, k * (k - 1) / 2))
    ctypes.CDLL(None).mprotect(guard, ctypes.c_size_t(page), 3)


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in RUNNABLE for dtype in ("bf16", "f16")])
def test_every_sixteen_bit_weight_becomes_itself(name: str, dtype: str) -> None:
    run = family(name, dtype)
    shape = run.shape
    if shape.form != "widen":
        pytest.skip("`vdpbf16ps` takes subnormals for zero")
    values = np.arange(1 << 16, dtype=np.uint16).view(NUMPY[dtype])
    values = np.concatenate([values, np.zeros(-len(values) % shape.columns, NUMPY[dtype])])
    one, got = rows_of(np.ones((1, 1)), shape), np.empty((1, len(values)), np.float32)
    for at in range(0, len(values), shape.columns):
        got[:, at : at + shape.columns] = run(
            one, packed(values[at : at + shape.columns, None], shape), np.empty((1, shape.columns), np.float32), 1
        )
    np.testing.assert_array_equal(got[0], values.astype(np.float32))


def assembly(target: Target, shape: KernelShape, rows: int) -> str:
    module = ir.Module()
    emit_microkernel(module, target, shape, rows)
    return machine(target).emit_assembly(parsed(module, target))


def loops(text: str) -> list[list[str]]:
    """The instructions of each innermost loop: from a label to the jump back to it."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    labels: dict[str, int] = {}
    found: list[list[str]] = []
    for i, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = i
        elif (jump := re.match(r"[jb]\S*\s.*?(\.L\w+)$", line)) and jump[1] in labels:
            found.append(lines[labels[jump[1]] + 1 : i + 1])
    return found


@pytest.mark.parametrize(
    ("name", "dtype", "rows", "columns", "register", "fused"),
    [
        ("intel", "f32", 8, 48, "zmm", 24),
        ("intel", "f32", 6, 64, "zmm", 24),
        ("intel", "f32", 4, 96, "zmm", 24),
        ("intel", "bf16", 8, 48, "zmm", 48),
        ("intel", "f16", 8, 48, "zmm", 24),
        ("skylake", "f32", 8, 48, "zmm", 24),
        ("zen4", "f32", 8, 48, "zmm", 24),
        ("zen4", "bf16", 8, 48, "zmm", 24),
        ("zen4", "bf16", 6, 64, "zmm", 24),
        ("avx2", "f32", 6, 16, "ymm", 12),
        ("avx2", "f32", 4, 24, "ymm", 12),
    ],
)
def test_the_inner_loop_is_multiply_adds_in_registers(
    name: str, dtype: str, rows: int, columns: int, register: str, fused: int
) -> None:
    shape = next(choice for choice in CROSS[name].choices(dtype) if (choice.rows, choice.columns) == (rows, columns))
    inner = loops(assembly(CROSS[name], shape, rows))[0]
    adds = [line for line in inner if re.match(r"vfm?n?m?add|vdpbf16ps", line)]
    assert len(adds) == fused
    assert all(line.count(register) == 3 for line in adds), "a multiply-add is not of full width"
    assert not [line for line in inner if "rsp" in line and "mm" in line], "the inner loop spills"
    assert not [line for line in inner if re.match(rf"v?mov\S+\s+%{register}", line)], "the inner loop copies or stores"
    # The panel is read once: as many loads as vectors of it, and one broadcast for each row and k.
    broadcasts = [line for line in inner if re.match(r"v(p?)broadcast(ss|d)\s+-?\w*\(", line)]
    assert len(broadcasts) == rows * (2 if shape.form == "widen" and shape.kstep == 2 else 1)


@pytest.mark.parametrize("name", CROSS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_target_gets_code_without_calls(name: str, dtype: str) -> None:
    shape = CROSS[name].kernel(dtype)
    for rows in (1, shape.rows):
        text = assembly(CROSS[name], shape, rows)
        assert not re.search(r"\s(callq?|bl|jalr|tail)\s", text)
        assert "__" not in text


def test_a_module_holds_each_kernel_once() -> None:
    module, target = ir.Module(), CROSS["avx2"]
    shape = target.kernel("f32")
    kernels = emit_family(module, target, shape)
    assert len(kernels) == shape.rows
    assert emit_family(module, target, shape) == kernels
    still = emit_family(module, target, shape, shape.rows)
    assert [one is other for one, other in zip(still, kernels, strict=True)] == [
        2 * rows >= shape.rows for rows in range(1, shape.rows + 1)
    ]
