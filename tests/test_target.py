"""Targets: the text they print as, and the facts of the table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moec import host
from moec.processors import likely
from moec.shapes import KernelShape, PanelShape
from moec.target import Target

LINUX = "x86_64-unknown-linux-gnu"


@pytest.mark.parametrize(
    "text",
    [
        f"{LINUX}:znver4:+avx512f,+avx512bf16",
        f"{LINUX}:haswell:",
        f"{LINUX}:rocketlake:+avx512f,-amx-fp16:49152/2097152",
        "riscv64-unknown-linux-gnu:generic-rv64:+m,+a,+f,+d,+c",
    ],
)
def test_text_parses_and_prints_back(text: str) -> None:
    assert str(Target.parse(text)) == text
    assert Target.parse(str(Target.parse(text))) == Target.parse(text)


@pytest.mark.parametrize("text", ["", "x86_64", ":znver4:", "a:b:c", "a:b:+c:1", "a:b:+c:1/x", "a:b:+c:1/2:3"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|starts with"):
        Target.parse(text)


@pytest.mark.parametrize(
    ("told", "expected", "features"),
    [
        ("rocketlake", "sapphirerapids", "+amx-bf16 +amx-int8 +avx512bf16 +avx512vnni +avxvnni +avx512fp16"),
        ("znver3", "znver4", "+avx512bf16 +avx512vnni -amx-bf16"),
        ("graniterapids", "graniterapids", "+amx-bf16 +amx-int8 +avx512bf16 +avx512vnni +avx512fp16"),
        ("emeraldrapids", "emeraldrapids", "-amx-bf16 -amx-int8 +avx512bf16 +avx512vnni +avx512fp16"),
        ("znver6", "znver6", "+avx512bf16 +avx512vnni +avx512fp16"),
        ("haswell", "sapphirerapids", "-amx-bf16 +avx512bf16 +avx512vnni +avx512fp16"),
        ("znver5", "znver5", "+avx512bf16 +avx512vnni +avxvnni"),
        ("newer", "newer", "+avx512bf16 +avx512vnni"),
        ("haswell", "haswell", "-avx512bf16"),
    ],
)
def test_a_processor_is_known_by_its_features(told: str, expected: str, features: str) -> None:
    """A hypervisor may give one that it made up a number that LLVM takes for another."""
    common = "+avx2 +fma +f16c" + (" +avx512f +avx512bw" if "+avx512" in features else "")
    assert likely(told, tuple(f"{common} {features}".split())) == expected


def test_the_host_survives_its_text() -> None:
    host = Target.host()
    assert Target.parse(str(host)) == host
    assert Target.of(host.triple, "native") == host
    assert host.l1 >= 8 << 10 and host.l2 >= host.l1


def test_native_is_refused_for_another_architecture() -> None:
    with pytest.raises(
        ValueError, match="which `riscv64-linux` is not" if Target.host().architecture != "riscv64" else ""
    ):
        Target.of("riscv64-linux" if Target.host().architecture != "riscv64" else "s390x-linux", "native")


@pytest.mark.parametrize(
    ("cpu", "bits", "registers", "bf16"),
    [
        ("znver4", 512, 32, "dot_bf16_8x48"),
        ("znver5", 512, 32, "dot_bf16_8x48"),
        ("cooperlake", 512, 32, "widen_bf16"),
        ("sapphirerapids", 512, 32, "amx_bf16_32x32"),
        ("emeraldrapids", 512, 32, "amx_bf16_32x32"),
        ("skylake-avx512", 512, 32, "widen_bf16"),
        ("znver3", 256, 16, "widen_bf16"),
        ("x86-64", 128, 16, "widen_bf16"),
        ("no-such-cpu", 128, 16, "widen_bf16"),
    ],
)
def test_a_cpu_stands_in_its_row(cpu: str, bits: int, registers: int, bf16: str) -> None:
    target = Target.of(LINUX, cpu)
    assert (target.vector_bits, target.vector_registers) == (bits, registers)
    assert target.lanes * 32 == bits
    assert str(target.kernel("bf16")).startswith(bf16)


def test_features_add_to_a_cpu_and_take_away() -> None:
    assert Target.parse(f"{LINUX}:x86-64:+avx512bf16").vector_bits == 512
    assert Target.parse(f"{LINUX}:znver4:-avx512f").vector_bits == 256
    assert Target.parse(f"{LINUX}:znver4:-avx512bf16").kernel("bf16").form == "widen"
    assert Target.parse(f"{LINUX}:emeraldrapids:-amx-bf16").kernel("bf16").form == "widen"
    assert Target.parse(f"{LINUX}:emeraldrapids:-amx-tile,-amx-bf16").kernel("bf16").activation == "f32"
    assert not Target.parse(f"{LINUX}:x86-64:").converts_f16
    assert Target.parse("riscv64-linux:generic-rv64:+v").vector_bits == 128
    assert Target.parse("riscv64-linux:generic-rv64:").vector_bits == 32


@pytest.mark.parametrize("cpu", ["znver4", "sapphirerapids", "haswell", "x86-64"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_every_choice_fits_the_registers(cpu: str, dtype: str) -> None:
    target = Target.of(LINUX, cpu)
    for shape in target.choices(dtype):
        assert shape.columns % shape.lanes == 0
        sums = shape.rows * shape.vectors // (256 if shape.form == "amx" else 1)
        assert sums + shape.vectors < (8 if shape.form == "amx" else target.vector_registers)
        assert shape.kstep == (2 if dtype == "bf16" else 1)


def test_bytes_go_through_tiles_where_the_machine_is_faster_so() -> None:
    target = Target.of(LINUX, "emeraldrapids")
    assert 16 < (target.tiled_from(64) or 0) <= (target.tiled_from(32) or 0) <= 64
    assert target.tiled_from(16) is None
    for other in (f"{LINUX}:emeraldrapids:-amx-int8", f"{LINUX}:emeraldrapids:-avx512vnni", f"{LINUX}:znver4:"):
        assert Target.parse(other).tiled_from(64) is None


def test_f32_is_split_where_there_are_tiles_of_bf16() -> None:
    target = Target.of(LINUX, "graniterapids")
    for dtype, splits in (("f32", True), ("f16", True), ("bf16", False)):
        assert (target.split_from(target.kernel(dtype)) is not None) == splits
    for other in (target.without("amx-bf16"), Target.of(LINUX, "znver4"), target.without("vectors")):
        assert other.split_from(other.kernel("f32")) is None


def test_few_rows_pass_over_what_the_first_cache_holds_where_the_second_is_too_slow() -> None:
    fast, slow = (replace(Target.of(LINUX, cpu), l1=48 << 10, l2=2 << 20) for cpu in ("znver4", "graniterapids"))
    assert fast.part_bytes == (256 << 10, 256 << 10) and slow.part_bytes == (32 << 10, 256 << 10)


def test_a_machine_without_a_feature_keeps_the_others() -> None:
    target = Target(LINUX, "znver4", ("+avx512bf16", "+avx512f"), 1 << 15, 1 << 20)
    assert target.without("avx512bf16", "f16c") == replace(target, features=("+avx512f", "-avx512bf16", "-f16c"))


def test_what_needs_a_feature_goes_with_it() -> None:
    """As in LLVM, which cannot emit what a kernel would otherwise ask of it."""
    target = Target.of(LINUX, "emeraldrapids")
    assert target.without("amx-tile").kernel("bf16").form == "widen"
    for gone, bits in {"avx2": 128, "fma": 128, "f16c": 256, "avx512f": 256}.items():
        assert target.without(gone).vector_bits == bits
    assert target.without("avx512bw").vector_bits == 512 and target.without("avx512bw").byte_dots == "bytes"


def test_the_shape_pads_a_matrix_least() -> None:
    target = Target.of(LINUX, "znver4")
    assert 768 % target.kernel("bf16", 768).columns == 0
    assert 1408 % target.kernel("bf16", 1408).columns == 0
    assert target.kernel("f32", 1).columns <= 48
    paired = target.kernel("f32", 768, interleaved=2)
    assert paired.columns % (2 * paired.lanes) == 0


def test_what_is_streamed_stands_in_two_parts_where_memory_serves_them_faster() -> None:
    target = Target.of(LINUX, "graniterapids")
    untiled = target.without("amx-tile")
    for machine, dtype in ((target, "f32"), (target, "f16"), (untiled, "f32"), (untiled, "bf16")):
        shape = machine.kernel(dtype, 4096, streamed=True)
        assert (shape.streams, shape.columns) == (2, 2 * machine.streams.columns[dtype])
        assert KernelShape.parse(shape.tile, dtype) == shape
        assert shape.panel.steps(100) * shape.kstep == 100 and PanelShape.parse(str(shape.panel)) == shape.panel
        assert machine.rate(shape) > machine.rate(replace(shape, streams=1))
    assert target.kernel("f32", 512, interleaved=3, streamed=True).vectors % 3 == 0
    assert target.kernel("f32", 48, streamed=True).columns == 48  # two streams would be a third zeros
    assert target.kernel("bf16", streamed=True) == target.kernel("bf16")
    other = Target.of(LINUX, "znver4")
    assert other.choices("f32", streamed=True) == other.choices("f32")


def test_a_shape_counts_its_panels_and_steps() -> None:
    shape = KernelShape("bf16", "dot", 8, 48, 2, 16)
    assert (shape.panels(1), shape.panels(96), shape.panels(97), shape.steps(7), shape.vectors) == (1, 2, 3, 4, 3)
    assert shape.activation == "bf16"


def test_a_machine_runs_what_it_surely_has() -> None:
    host = Target(LINUX, "znver4", ("+avx512f", "+avx512bf16", "+avx2", "+fma", "+f16c", "+sse3"))
    assert all(Target.of(LINUX, cpu).runs_on(host) for cpu in ("x86-64", "x86-64-v3", "haswell", "znver4"))
    # The table knows no difference between these and the host, but LLVM does.
    assert not any(Target.of(LINUX, cpu).runs_on(host) for cpu in ("sapphirerapids", "znver5", "nonsense"))
    assert not Target.of(LINUX, "x86-64-v4").runs_on(Target.of(LINUX, "haswell"))
    assert not Target.of("aarch64-linux-gnu").runs_on(host)
    assert not Target.of("x86_64-apple-darwin").runs_on(host)


@pytest.mark.parametrize("granted", [True, False])
def test_tiles_are_a_feature_only_where_the_system_grants_them(monkeypatch: pytest.MonkeyPatch, granted: bool) -> None:
    monkeypatch.setattr(host, "tiles_granted", lambda: granted)
    features = host.usable({"avx512f": True, "avx512bf16": True, "amx-tile": True, "amx-bf16": True, "sse4a": False})
    assert "+avx512f" in features and "-sse4a" in features and ("+amx-bf16" in features) is granted
    form = Target(LINUX, "emeraldrapids", features).kernel("bf16").form
    assert form == ("amx" if granted else "widen")


def test_a_machine_without_tiles_does_not_ask_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "tiles_granted", lambda: pytest.fail("asked"))
    assert host.usable({"avx2": True, "amx-tile": False}) == ("+avx2", "-amx-tile")
