"""The command: what each subcommand does, its exit codes, and what it says of wrong input."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moec import pipeline
from moec.cli import main
from moec.cli.report import amount, duration
from moec.pipeline import STAGES
from moec.runtime.kernel import Kernel
from tests.checkpoint.models import weights, write_gguf

EXAMPLES = Path(__file__).parents[1] / "examples"
MIXTRAL = str(EXAMPLES / "mixtral.moe")
SMALL = ["--dims", "H=48,I=40,E=6"]
WRONG = "moe a[H=4, I=5](x: [H]) -> [H] {\n    param w: [I]\n    return x + w\n}\n"
ROUTED = """\
moe routed[H=24, E=5, K=2](x: [H]) -> [H] {
    param router: [E, H]
    param up:     [E, H, H]

    aux logits = router @ x
    top        = topk(logits, K)
    aux chosen = top

    return sum e in top: logits[e] * (up[e] @ x)
}
"""


def moec(*arguments: str, input: str | bytes | None = None, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), input=input, env=environment)


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moec", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def told(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stderr.splitlines()]


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.moe"
    path.write_text(WRONG)
    return str(path)


@pytest.fixture
def routed(tmp_path: Path) -> str:
    path = tmp_path / "routed.moe"
    path.write_text(ROUTED)
    return str(path)


# ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_run_checks_and_times(dtype: str) -> None:
    done = moec("run", MIXTRAL, *SMALL, "--dtype", dtype, "--tokens", "9", "--threads", "1")
    assert done.exit_code == 0, done.output
    for text in ("mixtral: H 48, I 40, E 6, K 2", f"9 tokens, {dtype}, 1 thread", "gate up", "6 x [40, 48]"):
        assert text in done.output
    assert re.search(r"right: error \d\.\de-\d\d of a token's largest magnitude", done.output)
    assert "18 of 18 tokens compared with the oracle, of 2 calls" in done.output
    assert re.search(r"time +\d+(\.\d+)? (us|ms|s) a call, the median of \d+", done.output)
    assert re.search(r"limit +\d+(\.\d+)? (ns|us|ms), by (math|memory)", done.output)
    assert "GFLOP/s" in done.output and "GB/s" in done.output


@pytest.mark.parametrize("columns", [80, 120])
def test_run_fits_the_screen(columns: int) -> None:
    done = moec("run", MIXTRAL, "--dims", "H=1024,I=64", "--tokens", "2", COLUMNS=str(columns))
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= columns
    assert "\x1b" not in done.output


def test_run_draws_integers_that_the_layer_can_use() -> None:
    done = moec("run", str(EXAMPLES / "deepseek_v4.moe"), "--dims", "H=40,I=32,E=9,K=4,V=37", "--tokens", "5")
    assert done.exit_code == 0, done.output


def test_run_takes_a_layer_without_parameters(tmp_path: Path) -> None:
    (tmp_path / "double.moe").write_text("moe double[H=8](x: [H]) -> [H] { return 2 * x }")
    done = moec("run", str(tmp_path / "double.moe"), "--tokens", "2")
    assert done.exit_code == 0, done.output
    assert "0 parameters" in done.output


def test_run_compares_auxiliary_outputs(routed: str) -> None:
    done = moec("run", routed, "--aux", "logits", "--aux", "chosen", "--tokens", "5")
    assert done.exit_code == 0, done.output
    assert "y: f32[24], logits: f32[5], chosen: i64[2]" in done.output


LIMITED = """moe limited[H=8, E=4](x: [H], limit: i64) -> [H] {
    param up: [E, H, H]
    s = where(each e in 0..E: e < limit%s)
    return sum e in s: up[e] @ x
}
"""


def test_run_claims_nothing_where_no_expert_is_chosen(tmp_path: Path) -> None:
    for more in ("", " + 2"):
        (tmp_path / "limited.moe").write_text(LIMITED % more)
        done = moec("run", str(tmp_path / "limited.moe"), "--tokens", "5")
        assert done.exit_code == 0, done.output
        assert ("nothing: every output is 0" in done.output) == (not more)
        assert ("right: error" in done.output) == ("FLOP/s" in done.output) == bool(more)
        assert ("slots that may be empty count as filled" in done.output) == bool(more)
    assert "at most" not in moec("run", MIXTRAL, *SMALL, "--tokens", "2").output


def test_run_says_whether_the_cache_had_it(tmp_path: Path) -> None:
    for expected in ("not cached before", "from the cache"):
        done = moec("run", MIXTRAL, *SMALL, "--tokens", "1", MOEC_CACHE_DIR=str(tmp_path))
        assert expected in done.output


def test_run_fails_where_outputs_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moec.measure.compare.TOLERANCES", {"f32": 1e-12})
    done = moec("run", MIXTRAL, *SMALL, "--tokens", "9")
    assert done.exit_code == 1
    assert "wrong: error" in done.output


@pytest.mark.parametrize("tokens", ["1", "40"])
def test_run_fails_where_nothing_is_clear_and_little_agrees(monkeypatch: pytest.MonkeyPatch, tokens: str) -> None:
    monkeypatch.setattr("moec.oracle.MARGINS", {"f32": float("inf")})
    arguments = ("run", MIXTRAL, *SMALL, "--tokens", tokens)
    done = moec(*arguments)
    assert done.exit_code == 0 and "right: error" in done.output
    called = Kernel.__call__
    monkeypatch.setattr(Kernel, "__call__", lambda *given, **named: called(*given, **named) + 1)
    done = moec(*arguments)
    assert done.exit_code == 1
    assert re.search(r"wrong: only 0 of \d\d tokens agree", done.output)


def test_run_asks_for_memory_before_it_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moec.host.free_memory", lambda: 1000)
    done = moec("run", MIXTRAL, *SMALL)
    assert done.exit_code == 1
    assert "error: not enough memory" in done.stderr and "--dims" in done.stderr


# ── compile ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#: A line that each stage has.
MARKS = {
    "ast": "Layer",
    "moe": "moe.layer",
    "passes": "// ----- after specialize",
    "moe-opt": "tensor<48xf32>",
    "plan": "plan.program",
    "llvm": "define",
    "llvm-opt": "define",
    "asm": "moec_run:",
}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "obj"])
def test_every_text_goes_to_standard_output(stage: str) -> None:
    done = moec("compile", MIXTRAL, *SMALL, "--emit", stage)
    assert done.exit_code == 0
    assert MARKS[stage] in done.stdout
    assert not done.stderr


def test_stages_go_to_files(tmp_path: Path) -> None:
    done = moec("compile", MIXTRAL, *SMALL, "--emit", ",".join(STAGES), "-o", str(tmp_path / "build"))
    assert done.exit_code == 0
    names = [f"mixtral.{name}.{stage.suffix}" for name, stage in STAGES.items()]
    assert [Path(line).name for line in done.stdout.split()] == names
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == sorted(names)
    assert (tmp_path / "build" / "mixtral.obj.o").read_bytes().startswith(b"\x7fELF")


def test_one_stage_goes_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "one.mlir"
    assert moec("compile", MIXTRAL, *SMALL, "--emit", "plan", "-o", str(path)).exit_code == 0
    assert "plan.program" in path.read_text()


def test_several_stages_go_to_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert moec("compile", MIXTRAL, *SMALL, "--emit", "moe,obj").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"mixtral.moe.mlir", "mixtral.obj.o"}


def test_an_object_goes_to_a_pipe() -> None:
    done = moec("compile", MIXTRAL, *SMALL, "--emit", "obj", "-o", "-")
    assert done.stdout_bytes.startswith(b"\x7fELF")


def test_an_object_does_not_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda stream: True, raising=False)
    done = moec("compile", MIXTRAL, *SMALL, "--emit", "obj", "-o", "-")
    assert done.exit_code == 2
    assert "does not belong on a terminal" in done.stderr


@pytest.mark.parametrize(
    ("triple", "word"),
    [("aarch64-linux-gnu", "fmla"), ("riscv64-linux-gnu", "fmadd.s"), ("x86_64-linux-gnu", "mulps")],
)
def test_other_machines(triple: str, word: str) -> None:
    done = moec("compile", MIXTRAL, *SMALL, "--emit", "asm", "--target", triple, "-o", "-")
    assert done.exit_code == 0
    assert "moec_run" in done.output and word in done.output


def test_other_cpus() -> None:
    native, none, zen = (
        moec("compile", MIXTRAL, *SMALL, "--emit", "asm", *cpu).stdout
        for cpu in (["--mcpu", "native"], [], ["--mcpu", "znver4"])
    )
    assert native == none
    assert "zmm" in zen


def test_levels() -> None:
    assert moec("compile", MIXTRAL, *SMALL, "--emit", "llvm-opt", "-O0").exit_code == 0
    assert moec("compile", MIXTRAL, *SMALL, "--emit", "llvm-opt", "-O", "3").exit_code == 0


def test_compile_without_a_stage_fills_the_cache(tmp_path: Path) -> None:
    for how in ("not cached before", "from the cache"):
        done = moec("compile", MIXTRAL, *SMALL, MOEC_CACHE_DIR=str(tmp_path))
        assert done.exit_code == 0
        assert "bytes of code" in done.output and how in done.output
    assert [path.suffix for path in (tmp_path / "objects").iterdir()] == [".moeo"]


def test_dimensions_may_be_given_one_by_one() -> None:
    done = moec("compile", MIXTRAL, "--dims", "H=16", "--dims", "I=32, E=4,", "--emit", "moe-opt")
    assert "tensor<4x32x16xf32>" in done.output


# ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_check_says_nothing_of_what_is_right() -> None:
    done = moec("check", *map(str, sorted(EXAMPLES.glob("*.moe"))))
    assert (done.exit_code, done.output) == (0, "")


def test_check_tells_errors_for_people_and_for_programs(wrong: str) -> None:
    done = moec("check", wrong)
    assert done.exit_code == 1
    assert "error[E0201]" in done.stderr and "^" in done.stderr and "\x1b" not in done.stderr
    (fault,) = told(moec("check", wrong, "--error-format", "json"))
    assert fault["code"] == "E0201" and fault["severity"] == "error"
    assert WRONG.encode()[fault["span"]["start"] : fault["span"]["end"]] == b"x + w"


def test_offsets_are_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.moe"
    path.write_text("# Übergröße ✓\n" + WRONG)
    (fault,) = told(moec("check", str(path), "--error-format", "json"))
    assert path.read_bytes()[fault["span"]["start"] : fault["span"]["end"]] == b"x + w"


def test_check_goes_on_after_an_error(wrong: str, tmp_path: Path) -> None:
    done = moec("check", wrong, str(tmp_path / "none.moe"), MIXTRAL, wrong, "--error-format", "json")
    assert done.exit_code == 1
    assert [fault["code"] for fault in told(done)] == ["E0201", "E0001", "E0201"]


def test_check_without_values_for_all_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "a.moe"
    path.write_text("moe a[H, G](x: [H]) -> [G, H / G] {\n    return split x as [G, _]\n}\n")
    assert moec("check", str(path)).exit_code == 0
    assert moec("check", str(path), "--dims", "H=6,G=3").exit_code == 0
    done = moec("check", str(path), "--dims", "H=6,G=4")
    assert done.exit_code == 1 and "E0202" in done.stderr
    assert "E0302" in moec("check", str(path), "--dims", "Q=6").stderr


def test_check_warns_of_what_nothing_uses(tmp_path: Path) -> None:
    path = tmp_path / "a.moe"
    path.write_text("fn f(a) = a\nmoe a[H=4, Q=2](x: [H]) -> [H] {\n    param w: [H]\n    y = x\n    return x\n}\n")
    done = moec("check", str(path))
    assert done.exit_code == 0
    for what in ("function `f`", "dimension `Q`", "parameter `w`", "value `y`"):
        assert f"warning[W0001]: {what} is never used" in done.stderr
    assert {warning["severity"] for warning in told(moec("check", str(path), "--error-format=json"))} == {"warning"}


def test_a_function_that_calls_itself_alone_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a.moe"
    path.write_text(
        "fn f(a) = f(a)\nfn g(a) = a\nmoe a[H=4](x: [H]) -> [H] {\n    fn h(a) = g(h(a))\n    return x\n}\n"
    )
    warned = [warning["message"] for warning in told(moec("check", str(path), "--error-format=json"))]
    assert warned == ["function `h` is never used", "function `f` is never used"]


def test_what_is_read_elsewhere_by_the_same_name_is_not_used(tmp_path: Path) -> None:
    """By a function whose own it is, a call of a function, a slot, and a bind, that fills a parameter."""
    path = tmp_path / "a.moe"
    path.write_text(
        "fn g(t) {\n    u = t\n    return u\n}\n"
        "moe a[H=4](x: [H]) -> [H] {\n    param bias: [H]\n    t = x\n    top = x\n    u = x\n    e = x[0]\n"
        "    return sum e in topk(top(g(x), 2), 1): x\n}\n"
        'bind b {\n    bias = "b"\n}\n'
    )
    warned = {warning["message"] for warning in told(moec("check", str(path), "--error-format=json"))}
    assert warned == {
        *("parameter `bias` is never used", "value `t` is never used", "value `top` is never used"),
        *("value `u` is never used", "value `e` is never used"),
    }


# ── fmt ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

LOOSE, LAID = "moe a[H=4](x:[H])->[H]{return x*2}", "moe a[H=4](x: [H]) -> [H] {\n    return x * 2\n}\n"


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    path = tmp_path / "a.moe"
    path.write_text(LOOSE)
    return path


def test_fmt_rewrites_in_place(loose: Path) -> None:
    loose.chmod(0o640)
    done = moec("fmt", str(loose))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"changed {loose}\n")
    assert loose.read_text() == LAID
    assert stat.S_IMODE(loose.stat().st_mode) == 0o640
    assert [path.name for path in loose.parent.iterdir()] == ["a.moe"]
    before = loose.stat()
    assert moec("fmt", str(loose)).output == ""
    assert loose.stat().st_ino == before.st_ino


def test_fmt_follows_links(loose: Path) -> None:
    link = loose.parent / "link.moe"
    link.symlink_to(loose)
    assert moec("fmt", str(link)).exit_code == 0
    assert link.is_symlink() and loose.read_text() == LAID


def test_fmt_check_and_diff_change_nothing(loose: Path) -> None:
    done = moec("fmt", "--check", str(loose))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"would change {loose}\n")
    done = moec("fmt", "--diff", str(loose))
    assert done.exit_code == 0
    assert f"-{LOOSE}\n\\ No newline at end of file\n+moe a" in done.stdout
    assert moec("fmt", "--check", "--diff", str(loose)).exit_code == 1
    assert loose.read_text() == LOOSE


def test_fmt_reads_standard_input() -> None:
    assert moec("fmt", "-", input=LOOSE).stdout == LAID
    assert moec("fmt", "-", input=LAID).stdout == LAID
    done = moec("fmt", "-", "--check", input=LOOSE)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "would change <stdin>\n")
    done = moec("fmt", "-", input=b"\xff")
    assert done.exit_code == 1 and "E0004" in done.stderr


def test_fmt_leaves_a_wrong_file_alone_and_goes_on(loose: Path) -> None:
    bad = loose.parent / "0.moe"
    bad.write_text("moe a[H=4](x: [H]) -> [H] {")
    done = moec("fmt", str(bad), str(loose))
    assert done.exit_code == 1 and "error[E00" in done.stderr
    assert bad.read_text() == "moe a[H=4](x: [H]) -> [H] {"
    assert loose.read_text() == LAID
    assert {path.name for path in loose.parent.iterdir()} == {"0.moe", "a.moe"}


def test_fmt_loses_nothing_where_it_cannot_write(loose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*names: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(loose))

    monkeypatch.setattr(os, "replace", replace)
    done = moec("fmt", str(loose))
    assert done.exit_code == 1
    assert done.stderr == f"error: `{loose}`: no space left on device\n"
    assert loose.read_text() == LOOSE
    assert [path.name for path in loose.parent.iterdir()] == ["a.moe"]


def test_examples_are_in_the_canonical_layout() -> None:
    done = moec("fmt", "--check", *map(str, sorted(EXAMPLES.glob("*.moe"))))
    assert done.exit_code == 0, done.output


# ── explain, opt ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_explain_takes_rates() -> None:
    done = moec("explain", MIXTRAL, "--tokens", "64", "--rates", "100,25")
    assert done.exit_code == 0
    assert "64 tokens, f32" in done.output and "100 GFLOP/s, 25.0 GB/s, as given" in done.output
    # All 8 experts are expected among 64 tokens: 3 matrices of 4096 x 14336 each, in f32.
    assert "45.1 GFLOP, 5.64 GB of weights" in done.output
    assert "limit     451 ms, by math" in done.output


def test_explain_one_token_touches_its_own_experts() -> None:
    done = moec("explain", MIXTRAL, "--rates", "100,25", COLUMNS="140")
    row = next(line for line in done.output.splitlines() if "gate up" in line)
    assert re.match(r"matmul +gate up +8 x \[14336, 4096\] +index +2\.0 ", row)
    assert "470 M" in row and "940 MB" in row


@pytest.mark.parametrize("name", ["deepseek_v3", "gemma4", "longcat_flash", "peer"])
def test_explain_any_layer_within_the_screen(name: str) -> None:
    done = moec("explain", str(EXAMPLES / f"{name}.moe"), "--rates", "100,25", "--dtype", "bf16", "--tokens", "3")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_explain_no_tokens() -> None:
    done = moec("explain", MIXTRAL, *SMALL, "--tokens", "0", "--rates", "100,25")
    assert done.exit_code == 0
    assert "nothing to do" in done.output


def test_explain_measures() -> None:
    done = moec("explain", MIXTRAL, *SMALL, "--threads", "1")
    assert done.exit_code == 0
    assert "measured just now on 1 thread" in done.output


def test_opt_is_forwarded() -> None:
    done = shell("opt", MIXTRAL, "-p", 'specialize{dims="H=48","I=40","E=6","K=2"},infer-shapes,cse')
    assert done.returncode == 0, done.stderr
    assert "tensor<6x40x48xf32>" in done.stdout
    assert "--print-between-passes" in shell("opt", "--help").stdout
    assert shell("opt", MIXTRAL, "-p", "no-such-pass").returncode != 0


def test_quantities() -> None:
    assert [amount(value) for value in (0, 7, 999, 999.6, 12345, 5.64e9)] == [
        "0",
        "7",
        "999",
        "1.00 k",
        "12.3 k",
        "5.64 G",
    ]
    assert amount(2.5e6, "B") == "2.50 MB" and amount(93, "B") == "93 B"
    assert [duration(value) for value in (2, 0.0449, 9.996e-6, 3e-9)] == ["2.00 s", "44.9 ms", "10.0 us", "3 ns"]


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "/no/such/file.moe"], 1),
        (["run", str(EXAMPLES)], 1),
        (["run", MIXTRAL, "--dims", "Q=3"], 1),
        (["run", MIXTRAL, "--dims", "H=0"], 1),
        (["run", MIXTRAL, "--dtype", "f64"], 1),
        (["run", MIXTRAL, *SMALL, "--aux", "nothing"], 1),
        (["run", MIXTRAL, "--dims", "H"], 2),
        (["run", MIXTRAL, "--dims", "H=-1"], 2),
        (["run", MIXTRAL, "--dims", "H=²"], 2),
        (["run", MIXTRAL, "--dims", "H=1;I=2"], 2),
        (["run", MIXTRAL, "--dims", f"H={'9' * 5000}"], 2),
        (["run", MIXTRAL, "--tokens", "0"], 2),
        (["run", MIXTRAL, "--threads", "0"], 2),
        (["run", MIXTRAL, "--error-format", "xml"], 2),
        (["run"], 2),
        (["check"], 2),
        (["frobnicate"], 2),
        (["compile", MIXTRAL, "--emit", "pln"], 1),
        (["compile", MIXTRAL, "--emit", "asm", "--target", "nowhere"], 1),
        (["compile", MIXTRAL, "--emit", "asm", "--target", "aarch64-linux-gnu", "--mcpu", "native"], 1),
        (["compile", MIXTRAL, *SMALL, "--emit", "moe", "-o", "/proc/none/a.mlir"], 1),
        (["compile", MIXTRAL, "--emit", ","], 2),
        (["compile", MIXTRAL, "-o", "build"], 2),
        (["compile", MIXTRAL, "-O", "9"], 2),
        (["explain", MIXTRAL, "--rates", "fast"], 2),
        (["explain", MIXTRAL, "--rates", "1,nan"], 2),
        (["explain", MIXTRAL, "--rates", "0,1"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    done = moec(*arguments)
    assert done.exit_code == code, done.output
    assert done.stderr and not done.stdout
    assert "Traceback" not in done.stderr and "its own fault" not in done.stderr


def test_a_file_that_may_not_be_read(loose: Path) -> None:
    loose.chmod(0)
    if os.access(loose, os.R_OK):
        pytest.skip("this user may read everything")
    for command in ("run", "compile", "check", "fmt", "explain"):
        done = moec(command, str(loose))
        assert done.exit_code == 1 and "E0001" in done.stderr


def test_errors_outside_the_language_are_json_too() -> None:
    arguments = ["compile", MIXTRAL, *SMALL, "--emit", "moe", "-o", "/proc/none/a.mlir"]
    (fault,) = told(moec(*arguments, "--error-format", "json"))
    assert fault["code"] is None and fault["severity"] == "error" and "/proc/none" in fault["message"]


@pytest.mark.parametrize("command", [[], ["run"], ["compile"], ["check"], ["fmt"], ["explain"]])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(command: list[str], flag: str) -> None:
    done = moec(*command, flag)
    assert done.exit_code == 0
    for text in ("Usage:", "Examples:", "Environment:", "MOEC_CACHE_DIR", "OMP_NUM_THREADS", "MOEC_DUMP", "NO_COLOR"):
        assert text in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_help_names_every_stage() -> None:
    listed = moec("compile", "-h").output
    assert all(f"  {name} " in listed and stage.about in listed for name, stage in STAGES.items())


def test_a_command_is_suggested() -> None:
    assert "Did you mean `compile`?" in moec("complie").output


def test_version() -> None:
    assert re.fullmatch(r"moec \d+\.\d+\.\d+\n", moec("--version").output)


def test_help_imports_no_compiler() -> None:
    script = (
        "import sys; from moec.cli import main; main(['--help'], standalone_mode=False);"
        "assert not {'xdsl', 'lark', 'rich', 'moec.elaborate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_a_fault_of_moec_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("moec.language.read.read", fail)
    done = moec("check", MIXTRAL)
    assert done.exit_code == 70
    assert "KeyError: 'surprise'" in done.stderr and "MOEC_DEBUG=1" in done.stderr
    assert "Traceback" not in done.stderr
    assert isinstance(moec("check", MIXTRAL, MOEC_DEBUG="1").exception, KeyError)


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moec.language.read.read", interrupt)
    done = moec("check", MIXTRAL)
    assert (done.exit_code, done.stdout) == (130, "")


# ── from a shell ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dumps(tmp_path: Path) -> None:
    where = {"MOEC_DUMP": "plan,asm", "MOEC_DUMP_DIR": str(tmp_path), "NO_COLOR": "1"}
    done = shell("run", MIXTRAL, *SMALL, "--tokens", "3", **where)
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout
    assert "plan.program" in (tmp_path / "mixtral.plan.mlir").read_text()
    assert "moec_run:" in (tmp_path / "mixtral.asm.s").read_text()


def test_a_reader_that_leaves_early() -> None:
    command = f"{sys.executable} -m moec compile {MIXTRAL} --emit llvm {' '.join(SMALL)} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert not done.stderr


def test_colours_only_on_a_terminal(wrong: str) -> None:
    command = [sys.executable, "-m", "moec", "check", wrong]
    assert "\x1b[" in on_a_terminal(command)
    assert "\x1b[" not in on_a_terminal(command, NO_COLOR="1")


def on_a_terminal(command: list[str], **environment: str) -> str:
    """What a command shows where its output is a terminal."""
    ours, theirs = os.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = {**inherited, "TERM": "xterm", **environment}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how Linux says that nobody writes to it any more
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    return shown.decode()


def test_completion() -> None:
    words = {"_MOEC_COMPLETE": "zsh_complete", "COMP_WORDS": "moec co", "COMP_CWORD": "1"}
    done = CliRunner().invoke(main, [], env=words, prog_name="moec", complete_var="_MOEC_COMPLETE")
    assert "compile" in done.output


# ── pack ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pack_then_run_on_the_packed_weights(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", [weights()], {"gate": "Q8_0", "up": "Q8_0"})
    olmoe, target = str(EXAMPLES / "olmoe.moe"), str(tmp_path / "layer.moepack")
    packed = moec("pack", str(tmp_path / "m.gguf"), "--spec", olmoe, "--prefix", "blk.0", "-o", target)
    assert packed.exit_code == 0, packed.output
    assert "q8_0: gate, up" in packed.output and "H 64, I 96, E 10, K 8" in packed.output
    shown = moec("pack", target, "--verify")
    assert shown.exit_code == 0 and "gate q8_0" in shown.output and "m.gguf, below `blk.0.`" in shown.output
    for where in (["--weights", target], ["--weights", str(tmp_path / "m.gguf"), "--prefix", "blk.0."]):
        ran = moec("run", olmoe, "--tokens", "3", "--threads", "1", *where)
        assert ran.exit_code == 0 and "right" in ran.output, ran.output
    damaged = bytearray(Path(target).read_bytes())
    damaged[-1] ^= 1
    damaged[-4096] ^= 1
    Path(target).write_bytes(damaged)
    result = moec("pack", target, "--verify", "--error-format", "json")
    assert result.exit_code == 1 and told(result)[0]["code"] == "E0408"


@pytest.mark.parametrize("command", ["pack", "run"])
def test_of_a_checkpoint_one_program_is_compiled(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "m.gguf", [weights()], dict.fromkeys(("gate", "up", "down"), "Q8_0"))
    model, olmoe = str(tmp_path / "m.gguf"), str(EXAMPLES / "olmoe.moe")
    compiled, compile_source = list[Any](), pipeline.compile_source

    def told(source: Any, options: Any) -> Any:
        compiled.append(dict(options.storage))
        return compile_source(source, options)

    monkeypatch.setattr(pipeline, "compile_source", told)
    monkeypatch.setenv("MOEC_CACHE_DIR", str(tmp_path))
    arguments = {
        "pack": [model, "--spec", olmoe, "-o", str(tmp_path / "layer.moepack")],
        "run": [olmoe, "--weights", model, "--tokens", "3", "--threads", "1"],
    }
    result = moec(command, *arguments[command], "--prefix", "blk.0")
    assert result.exit_code == 0, result.output
    assert compiled == [dict.fromkeys(("gate", "up", "down"), "q8_0")]


@pytest.mark.parametrize("arguments", [["--prefix", "blk.9"], [], ["--prefix", "blk.0", "--bind", "ggu"]])
def test_pack_says_what_does_not_fit(tmp_path: Path, arguments: list[str]) -> None:
    write_gguf(tmp_path / "m.gguf", [weights()], {})
    result = moec(
        "pack", str(tmp_path / "m.gguf"), "--spec", str(EXAMPLES / "olmoe.moe"), *arguments, "--error-format", "json"
    )
    assert result.exit_code == 1
    assert [mistake["code"] for mistake in told(result)] == ["E0405"]
    assert moec("pack", str(tmp_path / "m.gguf")).exit_code == 2
