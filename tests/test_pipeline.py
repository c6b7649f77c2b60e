"""The road: every stage of every kind of layer, targets that this machine is not, options, dumps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import moec
from moec import pipeline
from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.language.parse import parse
from moec.language.read import find_source
from moec.options import Options
from moec.pipeline import STAGES, Compilation, compile_source
from moec.source import Source
from tests.examples import EXAMPLES, SMALL

TEXT = "moe tiny[H=8](x: [H]) -> [H] {\n    param w: [H, H]\n    aux twice = 2 * x\n    return w @ x\n}\n"


def codes(error: pytest.ExceptionInfo[CompileError]) -> list[str]:
    return [mistake.code for mistake in error.value.diagnostics]


def compilation(name: str, dims: Any = None, **options: Any) -> Compilation:
    return compile_source(find_source(EXAMPLES / f"{name}.moe"), Options.of(dims or SMALL[name], **options))


# ── stages ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#: What only the text of a stage has, of mixtral.
SIGNS = {
    "ast": "Name id=router",
    "moe": '#moe.shape<"E, I, H">',
    "passes": "// ----- after fuse-maps",
    "moe-opt": "moe.contract",
    "plan": "plan.matmul",
    "llvm": "define i64 @",
    "llvm-opt": "moec_run",
    "asm": "moec_run:",
    "obj": b"\x7fELF",
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_shown(stage: str) -> None:
    shown: Any = compilation("mixtral", target="x86_64-linux-gnu").show(stage)
    assert SIGNS[stage] in shown
    assert STAGES[stage].about


def test_stages_do_not_disturb_each_other() -> None:
    first, second = compilation("seed"), compilation("seed")
    forwards = {stage: first.show(stage) for stage in STAGES}
    backwards = {stage: second.show(stage) for stage in reversed(STAGES)}
    assert forwards == backwards


def test_the_passes_are_told_one_after_the_other() -> None:
    made = compilation("mixtral")
    names = [f"after {each.name}" for each in pipeline.passes(made.options, made.binding)]
    assert [text.splitlines()[0].removeprefix("// ----- ") for text in made.trace()] == ["as elaborated", *names]


def test_the_ir_is_verified_between_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: Any, ctx: Any, op: Any) -> None:
        op.body.block.first_op.properties.pop("sym_name")

    monkeypatch.setattr("moec.passes.hoist_invariants.HoistInvariants.apply", spoil)
    with pytest.raises(Exception, match="sym_name"):
        compilation("seed").simplify()


@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "riscv64-linux-gnu", "x86_64-linux-gnu:haswell"])
def test_other_machines_have_every_stage_too(target: str) -> None:
    made = compilation("seed", target=target, dtype="bf16")
    assert "moec_run:" in made.assembly
    assert made.image[:4] == b"\x7fELF"
    assert target.split(":")[0] in made.llvm


@pytest.mark.parametrize("level", range(4))
def test_every_level_gives_an_object(level: int) -> None:
    assert compilation("seed", level=level).image[:4] == b"\x7fELF"


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"dtype": "f64"}, "E0304"),
        ({"target": "x86_64-linux-gnu:nonsense"}, "E0303"),
        ({"target": "nonsense"}, "E0303"),
        ({"target": "aarch64-linux-gnu"}, "E0303"),
        ({"target": "a:b:c:d:e"}, "E0303"),
        ({"threads": 0}, "E0305"),
        ({"aux": ["twise"]}, "E0305"),
        ({"dims": {"h": 9}}, "E0302"),
        ({"dims": {"H": 0}}, "E0206"),
        ({"storage": 4}, "E0306"),
        ({"storage": ["q4_0"]}, "E0306"),
        ({"storage": {"w": None}}, "E0306"),
        ({"storage": {"w": ["q4_0"]}}, "E0306"),
        ({"storage": {3: "q4_0"}}, "E0306"),
        ({"aux": 3}, "E0305"),
        ({"aux": ["twice", 3]}, "E0305"),
        ({"aux": None}, "E0305"),
        ({"threads": np.array([1, 2])}, "E0305"),
        ({"target": 5}, "E0303"),
    ],
)
def test_a_wrong_option_is_named(options: Any, code: str) -> None:
    with pytest.raises(CompileError) as error:
        moec.compile(TEXT, **options)
    assert codes(error) == [code]


@pytest.mark.parametrize(
    ("dims", "code"),
    [
        ("H=8", "E0305"),
        (["H", 8], "E0305"),
        ({1: 2}, "E0305"),
        ({"H": Fraction(4)}, "E0206"),
        ({"H": 4.0}, "E0206"),
        ({"H": object()}, "E0206"),
        ({"H": np.array([1, 2])}, "E0206"),
        ({"H": None}, "E0206"),
        ({"H": True}, "E0206"),
        ({"H": np.True_}, "E0206"),
        ({"H": "8"}, "E0206"),
        ({"H": 0}, "E0206"),
        ({"H": 2**63}, "E0206"),
        ({"H": 10**5000}, "E0206"),
        ({"H": -(10**5000)}, "E0206"),
        ({"HH": 8}, "E0302"),
    ],
)
def test_wrong_dimensions_are_named_by_everybody(dims: Any, code: str, tmp_path: Path) -> None:
    save_file({"w": np.ones((8, 8), np.float32)}, tmp_path / "w.safetensors")
    uses: list[Callable[[], object]] = [
        lambda: moec.compile(TEXT, dims),
        lambda: moec.load(TEXT, tmp_path / "w.safetensors", dims=dims),
        lambda: moec.reference(TEXT, dims),
        lambda: elaborate(parse(Source("tiny.moe", TEXT)), dims),
    ]
    for use in uses:
        with pytest.raises(CompileError) as error:
            use()
        assert codes(error) == [code]


def test_integers_of_numpy_and_torch_are_dimensions() -> None:
    for size in (np.int64(4), np.uint8(4), np.array(4), torch.tensor(4)):
        assert moec.compile(TEXT, {"H": size}).dims == moec.reference(TEXT, {"H": size}).dims == {"H": 4}


@pytest.mark.parametrize("use", [moec.compile, moec.reference])
@pytest.mark.parametrize("given", [None, 3, TEXT.encode(), [TEXT]])
def test_what_is_neither_text_nor_path_is_no_layer(use: Any, given: Any) -> None:
    with pytest.raises(CompileError, match="a layer is a text or a path") as error:
        use(given)
    assert codes(error) == ["E0001"] and error.value.diagnostics[0].help


def test_every_dimension_without_a_value_is_told() -> None:
    text = TEXT.replace("[H=8]", "[H, I]")
    with pytest.raises(CompileError) as error:
        moec.compile(text)
    assert codes(error) == ["E0301", "E0301"]
    assert [mistake.span.text for mistake in error.value.diagnostics if mistake.span] == ["H", "I"]
    assert moec.compile(text, dims={"H": 8, "I": 1}).dims == {"H": 8, "I": 1}


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(CompileError, match="did you mean `plan`") as error:
        moec.compile(TEXT).inspect("plam")
    assert codes(error) == ["E0305"]
    nothing: Any = None
    with pytest.raises(CompileError, match="`None` is not a stage"):
        moec.compile(TEXT).inspect(nothing)


def test_a_source_is_a_path_a_text_or_itself(tmp_path: Path) -> None:
    (tmp_path / "tiny.moe").write_text(TEXT)
    texts = [find_source(given).text for given in (TEXT, tmp_path / "tiny.moe", str(tmp_path / "tiny.moe"))]
    assert texts == [TEXT] * 3
    source = Source("name", TEXT)
    assert find_source(source) is source
    assert find_source("").text == ""
    with pytest.raises(CompileError) as error:
        find_source(str(tmp_path / "none.moe"))
    assert codes(error) == ["E0001"]


@pytest.mark.parametrize("use", [moec.compile, moec.reference])
def test_compiler_and_oracle_agree_on_what_is_a_path(use: Any, tmp_path: Path) -> None:
    (tmp_path / "a{b}.moe").write_text(TEXT)
    assert use(str(tmp_path / "a{b}.moe")).dims == use(TEXT.replace("\n", " ")).dims


def test_an_aux_that_nobody_asks_for_costs_nothing() -> None:
    without, with_aux = (
        Compilation(Source("tiny.moe", TEXT), Options.of(aux=aux, target="x86_64-linux-gnu"))
        for aux in ((), ("twice",))
    )
    assert [array.name for array in without.interface.aux] == []
    assert [array.name for array in with_aux.interface.aux] == ["twice"]
    assert without.interface.extras == ("twice",)
    assert len(without.image) < len(with_aux.image)


# ── dumps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stages_are_dumped_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEC_DUMP", "plan,obj")
    monkeypatch.setenv("MOEC_DUMP_DIR", str(tmp_path))
    for _ in range(2):  # A program that the cache has is compiled again.
        moec.compile(TEXT)
        dumped = sorted(path.name for path in tmp_path.iterdir())
        assert dumped == ["tiny.obj.o", "tiny.plan.mlir"]
        (tmp_path / "tiny.plan.mlir").unlink()


def test_what_cannot_be_dumped_is_named_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEC_DUMP", "plan,nonsense")
    monkeypatch.setattr(pipeline, "compile_source", None)
    with pytest.raises(CompileError, match="`nonsense` is not a stage") as error:
        moec.compile(TEXT)
    assert codes(error) == ["E0305"]


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

EMIT = """
import sys
from moec.language.read import read
from moec.options import Options
from moec.pipeline import Compilation
sys.stdout.write(Compilation(read(sys.argv[1]), Options.of()).llvm)
"""


def test_every_process_makes_the_same_of_a_text() -> None:
    """Objects lie elsewhere in each, so what is in the order of their addresses differs."""
    command = [sys.executable, "-c", EMIT, str(EXAMPLES / "moe_plus_plus.moe")]
    texts = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(4)}
    assert len(texts) == 1
