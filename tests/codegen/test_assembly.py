"""Facts about the code that whole layers become: assembly and objects for machines that need not be this one."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Final

import pytest

from moec.dialects import plan
from moec.language.read import read
from moec.options import Options
from moec.pipeline import Compilation
from moec.shapes import KernelShape
from moec.target import Target
from tests.examples import EXAMPLES, SMALL

LINUX: Final = "x86_64-unknown-linux-gnu"
RISCV: Final = Target.of("riscv64-unknown-linux-gnu")
TARGETS: Final = {
    "zen4": Target(LINUX, "znver4"),
    "intel": Target(LINUX, "sapphirerapids", ("-amx-bf16",)),
    "amx": Target(LINUX, "graniterapids"),
    "v3": Target(LINUX, "x86-64-v3"),
    "x86-64": Target.of(LINUX),
    "aarch64": Target.of("aarch64-unknown-linux-gnu"),
    "riscv": RISCV,
    "riscv-vector": Target(RISCV.triple, RISCV.cpu, (*RISCV.features, "+v")),
}
DTYPES: Final = ("f32", "bf16", "f16")
REGISTER: Final = {512: "zmm", 256: "ymm"}

#: What C's own library always has, and LLVM therefore calls as it likes.
ALWAYS_THERE: Final = {"memset", "memcpy", "memmove"}

_FUSED: Final = re.compile(r"vfn?m(add|sub)|vdpbf16ps")
_SCALAR: Final = re.compile(r"v?(add|sub|mul|div|max|min|sqrt|fn?m(add|sub)\d+)s[sd]\b")


@cache
def compilation(name: str, target: str, dtype: str, small: bool = False) -> Compilation:
    return Compilation(
        read(EXAMPLES / f"{name}.moe"), Options.of(SMALL[name] if small else {}, dtype, target=TARGETS[target])
    )


def functions(text: str) -> dict[str, list[str]]:
    """The instructions and labels of each function of an assembly for x86."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for raw in text.splitlines():
        line = raw.split("#")[0].strip()
        if label := re.fullmatch(r'"?([A-Za-z_][\w.]*)"?:', line):
            lines = found.setdefault(label[1], [])
        elif line:
            lines.append(line)
    return found


def loops(lines: list[str]) -> list[list[str]]:
    """The instructions of each innermost loop: from a label to the jump back to it, with no such pair inside."""
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = i
        elif (jump := re.match(r"j\w+\s+(\.L\w+)$", line)) and jump[1] in labels:
            spans.append((labels[jump[1]], i))
    inner = [(a, b) for a, b in spans if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)]
    return [lines[start + 1 : end + 1] for start, end in inner]


def spilled(lines: list[str]) -> list[str]:
    """The instructions that read or write a vector on the stack (`rbp` is a register like any other here)."""
    return [line for line in lines if "(%rsp" in line and "mm" in line]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", ["zen4", "intel", "v3"])
def test_products_are_multiply_adds_of_full_width_in_registers(target: str, dtype: str) -> None:
    layer, register = compilation("mixtral", target, dtype), REGISTER[TARGETS[target].vector_bits]
    products = [op for op in layer.schedule().walk() if isinstance(op, plan.MatmulOp)]
    shapes = [KernelShape.parse(op.tile.data, op.dtype.data) for op in products]
    code = functions(layer.assembly)
    for shape in shapes:
        for rows in range(1, shape.rows + 1):
            name = f"moec_{replace(shape, rows=rows)}"
            turns = loops(code[name if name in code else f"{name}_still"])
            assert turns
            assert all(("prefetch" in " ".join(turn)) == (name in code) for turn in turns)
            for turn in turns:
                fused = [line for line in turn if _FUSED.match(line)]
                # Each row takes part with each vector of the panel, once for each k of a turn.
                assert fused and len(fused) % (rows * shape.vectors) == 0, turn
                assert all(f"%{register}" in line for line in fused), turn
                assert not re.search(r"%[xyz]mm", " ".join(fused).replace(f"%{register}", "")), turn
                assert not [line for line in turn if _SCALAR.match(line)], turn
                # Twelve sums, the halves of two vectors, a mask and a factor are one more than AVX2 has registers.
                assert len(spilled(turn)) <= (2 if (target, dtype) == ("v3", "bf16") else 0), turn


#: For a dtype: how its kernels are called, the width of a panel, products of pieces, loads of rows and of a panel.
TILED: Final = {
    "bf16": ("amx_bf16", 32, 1, 1, 1),
    "f16": ("amx_bf16x2", 64, 4, 2, 3),
    "f32": ("amx_bf16x3", 64, 6, 3, 4),
}


@pytest.mark.parametrize("dtype", TILED)
def test_products_in_tiles_load_each_once(dtype: str) -> None:
    """A turn of the kernel is as many products as sums for each pair of pieces, and loads only what changes."""
    name, columns, terms, left, right = TILED[dtype]
    code = functions(compilation("mixtral", "amx", dtype).assembly)
    for rows in (16, 32):
        lines = code[f"moec_{name}_{rows}x32_of_{columns}"]
        products = [i for i, line in enumerate(lines) if line.startswith("tdpbf16ps")]
        tiles, between = rows // 16, lines[: products[-1] + 1]
        assert len(products) == 2 * tiles * terms
        assert len({lines[i].split()[-1] for i in products}) == 2 * tiles, "each adds to a sum of its own"
        loads = [line for line in between if line.startswith("tileloadd")]
        assert len(loads) == 2 * tiles + left * tiles + right * 2  # the sums so far, the rows, the panel
        assert sum(line.startswith("tilestored") for line in lines[products[-1] :]) == 2 * tiles
    stages = [lines for name, lines in code.items() if "_matmul" in name]
    assert len(stages) == 3
    for lines in stages[dtype != "bf16" :]:  # a router's rows stay with multiply-adds
        assert sum(line.startswith("ldtilecfg") for line in lines) == 1
        assert sum(line.startswith("tilerelease") for line in lines) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", ["zen4", "intel", "v3"])
def test_the_activation_is_vectors_without_a_scalar_tail(target: str, dtype: str) -> None:
    register = REGISTER[TARGETS[target].vector_bits]
    code = functions(compilation("mixtral", target, dtype).assembly)
    stages = [lines for name, lines in code.items() if "_matmul" in name]
    assert len(stages) == 3
    turns = [turn for lines in stages for turn in loops(lines)]
    assert not [line for turn in turns for line in turn if _SCALAR.match(line)]
    if TARGETS[target].vector_registers == 32:  # with 16, a constant may stay in memory
        assert not [line for turn in turns for line in spilled(turn)]
    activations = [turn for turn in turns if sum(1 for line in turn if _FUSED.match(line)) > 4]
    assert 1 <= len(activations) <= 2  # results that stay in a cache, and those that go past it
    for swiglu in activations:
        assert [line for line in swiglu if re.match(rf"vdivps.*%{register}", line)]
        assert all(f"%{register}" in line for line in swiglu if _FUSED.match(line))


@pytest.mark.parametrize(("target", "past"), [("zen4", True), ("intel", True), ("v3", True), ("aarch64", False)])
def test_many_results_are_written_past_the_caches_of_machines_that_can(target: str, past: bool) -> None:
    text = compilation("mixtral", target, "f32").assembly
    assert bool(re.search(r"movntps", text)) == bool(re.search(r"\bsfence\b", text)) == past


def undefined(image: bytes) -> Iterator[str]:
    """The symbols that an ELF file of 64 bits, little end first, takes from elsewhere."""
    assert image[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, start + i * size) for i in range(count)]
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind == 2:  # the table of symbols; `link` is its table of names
            for at in range(offset + entry, offset + length, entry):
                name, _, _, section = struct.unpack_from("<IBBH", image, at)
                if section == 0:
                    first = sections[link][4] + name
                    yield image[first : image.index(b"\0", first)].decode()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_outside_is_called(target: str, dtype: str) -> None:
    assert set(undefined(compilation("mixtral", target, dtype).image)) <= ALWAYS_THERE


#: Every example on every kind of machine, in one of the dtypes.
PAIRS: Final = [(name, target, DTYPES[(i + j) % 3]) for i, name in enumerate(SMALL) for j, target in enumerate(TARGETS)]


@pytest.mark.parametrize(("name", "target", "dtype"), PAIRS)
def test_no_example_needs_a_library(name: str, target: str, dtype: str) -> None:
    assert set(undefined(compilation(name, target, dtype, small=True).image)) <= ALWAYS_THERE


@pytest.mark.parametrize("target", TARGETS)
def test_assembly_and_object_are_of_the_target(target: str) -> None:
    layer = compilation("mixtral", target, "f32")
    machines = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
    assert struct.unpack_from("<H", layer.image, 18)[0] == machines[TARGETS[target].architecture]
    instruction = {"x86_64": r"\tretq?\n", "aarch64": r"\tfmla\t", "riscv64": r"\t(fmadd\.s|vfmacc\.\w+|vfmadd\.\w+)\t"}
    assert re.search(instruction[TARGETS[target].architecture], layer.assembly)
    assert "moec_run:" in layer.assembly


def test_what_is_undefined_is_seen() -> None:
    from moec.codegen import native

    text = f'target triple = "{LINUX}"\ndeclare float @expf(float)\ndefine float @f(float %x) {{\n'
    text += "  %y = call float @expf(float %x)\n  ret float %y\n}\n"
    assert set(undefined(native.object_code(native.parse(text), TARGETS["x86-64"]))) == {"expf"}
