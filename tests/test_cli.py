"""The command: what each subcommand does, its exit codes, and what it says of wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moec.cli import main
from moec.pipeline import STAGES

EXAMPLES = Path(__file__).parents[1] / "examples"
MIXTRAL = str(EXAMPLES / "mixtral.moe")
SMALL = ["--dims", "H=48,I=40,E=6"]
WRONG = "moe a[H=4, I=5](x: [H]) -> [H] {\n    param w: [I]\n    return x + w\n}\n"


def moec(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=input)


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.moe"
    path.write_text(WRONG)
    return str(path)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_run_checks_and_times(dtype: str) -> None:
    done = moec("run", MIXTRAL, *SMALL, "--dtype", dtype, "--tokens", "9", "--threads", "1")
    assert done.exit_code == 0, done.output
    for word in ("mixtral: H 48", dtype, "right: error", "9 tokens", "the median of", "FLOP/s"):
        assert word in done.output


def test_run_draws_integers_that_the_layer_can_use() -> None:
    done = moec("run", str(EXAMPLES / "deepseek_v4.moe"), "--dims", "H=40,I=32,E=9,K=4,V=37", "--tokens", "5")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "obj"])
def test_every_stage_goes_to_standard_output(stage: str) -> None:
    done = moec("compile", MIXTRAL, *SMALL, "--emit", stage)
    assert done.exit_code == 0
    assert len(done.output) > 100


def test_stages_go_to_files(tmp_path: Path) -> None:
    done = moec("compile", MIXTRAL, *SMALL, "--emit", "moe,plan,llvm,llvm-opt,asm,obj", "-o", str(tmp_path / "build"))
    assert done.exit_code == 0
    names = {path.name for path in (tmp_path / "build").iterdir()}
    assert names == {
        f"mixtral.{name}.{STAGES[name].suffix}" for name in ("moe", "plan", "llvm", "llvm-opt", "asm", "obj")
    }
    assert (tmp_path / "build" / "mixtral.obj.o").read_bytes().startswith(b"\x7fELF")
    done = moec("compile", MIXTRAL, *SMALL, "--emit", "plan", "-o", str(tmp_path / "one.mlir"))
    assert "plan.program" in (tmp_path / "one.mlir").read_text()


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "riscv64-linux-gnu", "x86_64-linux-gnu"])
def test_other_machines(triple: str) -> None:
    done = moec("compile", MIXTRAL, *SMALL, "--emit", "asm", "--target", triple, "-o", "-")
    assert done.exit_code == 0
    assert "moec_run" in done.output


def test_compile_without_a_stage_fills_the_cache() -> None:
    done = moec("compile", MIXTRAL, *SMALL)
    assert done.exit_code == 0
    assert "bytes of code" in done.output


def test_check_says_nothing_of_what_is_right() -> None:
    done = moec("check", *map(str, sorted(EXAMPLES.glob("*.moe"))))
    assert (done.exit_code, done.output) == (0, "")


def test_check_tells_errors_for_people_and_for_programs(wrong: str) -> None:
    done = moec("check", wrong)
    assert done.exit_code == 1
    assert "error[E0201]" in done.output and "^" in done.output
    done = moec("check", wrong, "--error-format", "json")
    told: dict[str, Any] = json.loads(done.output)
    assert told["code"] == "E0201"
    start, end = told["span"]["start"], told["span"]["end"]
    assert WRONG.encode()[start:end] == b"x + w"


def test_check_warns_of_what_nothing_uses(tmp_path: Path) -> None:
    path = tmp_path / "a.moe"
    path.write_text("moe a[H=4](x: [H]) -> [H] {\n    param w: [H]\n    return x\n}\n")
    done = moec("check", str(path))
    assert done.exit_code == 0
    assert "warning[W0001]: parameter `w` is never used" in done.output


def test_fmt_rewrites_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.moe"
    path.write_text("moe a[H=4](x:[H])->[H]{return x*2}")
    assert moec("fmt", "--check", str(path)).exit_code == 1
    assert moec("fmt", "--diff", str(path)).exit_code == 0
    assert path.read_text().startswith("moe a[H=4](x:[H])")
    assert moec("fmt", str(path)).exit_code == 0
    assert path.read_text() == "moe a[H=4](x: [H]) -> [H] {\n    return x * 2\n}\n"
    assert moec("fmt", "--check", str(path)).exit_code == 0
    assert moec("fmt", "-", input="fn f(a)=a").output == "fn f(a) = a\n"


def test_fmt_leaves_a_wrong_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.moe"
    path.write_text("moe a[H=4](x: [H]) -> [H] {")
    assert moec("fmt", str(path)).exit_code == 1
    assert path.read_text() == "moe a[H=4](x: [H]) -> [H] {"
    assert [p.name for p in tmp_path.iterdir()] == ["a.moe"]


def test_examples_are_in_the_canonical_layout() -> None:
    done = moec("fmt", "--check", *map(str, sorted(EXAMPLES.glob("*.moe"))))
    assert done.exit_code == 0, done.output


def test_explain_takes_rates() -> None:
    done = moec("explain", MIXTRAL, *SMALL, "--tokens", "16", "--rates", "114,25")
    assert done.exit_code == 0
    assert "114 GFLOP/s, 25.0 GB/s" in done.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "/no/such/file.moe"], 1),
        (["run", MIXTRAL, "--dims", "Q=3"], 1),
        (["run", MIXTRAL, "--dtype", "f64"], 1),
        (["run", MIXTRAL, "--dims", "H"], 2),
        (["run"], 2),
        (["frobnicate"], 2),
        (["compile", MIXTRAL, "--emit", "pln"], 1),
        (["compile", MIXTRAL, "--emit", "asm", "--target", "nowhere"], 1),
        (["compile", MIXTRAL, "-O", "9"], 2),
        (["explain", MIXTRAL, "--rates", "fast"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    done = moec(*arguments)
    assert done.exit_code == code
    assert "Traceback" not in done.output


@pytest.mark.parametrize("command", [[], ["run"], ["compile"], ["check"], ["fmt"], ["explain"]])
def test_help(command: list[str]) -> None:
    done = moec(*command, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.output
    if not command:
        assert "MOEC_CACHE_DIR" in done.output and "Examples:" in done.output


def test_from_a_shell(tmp_path: Path) -> None:
    environment = {**os.environ, "MOEC_DUMP": "plan", "MOEC_DUMP_DIR": str(tmp_path), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "moec", "run", MIXTRAL, *SMALL, "--tokens", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout
    assert "plan.program" in (tmp_path / "mixtral.plan.mlir").read_text()
    piped = f"{sys.executable} -m moec compile {MIXTRAL} --emit llvm --dims H=48,I=40 | head -1"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
