"""`moec opt`: the passes and dialects that it knows, the options that it reads, and what it says of wrong input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from xdsl.passes import PassPipeline

from moec import opt

MIXTRAL: Final = str(Path(__file__).parents[1] / "examples" / "mixtral.moe")
SMALL: Final = 'specialize{dims="H=48","I=40","E=8","K=2" real=bf16}'


def test_every_pass_is_registered_under_its_own_name() -> None:
    files = [f for f in (Path(opt.__file__).parent / "passes").rglob("*.py") if "(ModulePass)" in f.read_text()]
    names = [f.parent.name if f.stem == "__init__" else f.stem for f in files]
    assert sorted(opt.PASSES) == sorted(name.replace("_", "-") for name in names)
    for name in opt.PASSES:
        assert opt.load_pass(name).name == name


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('specialize{dims="H=64","E=4" real=bf16}', {"dims": ("H=64", "E=4"), "real": "bf16"}),
        ('specialize{dims="H=64"}', {"dims": ("H=64",), "real": "f32"}),
        ('schedule{target="x86_64-linux:znver4:+avx512bf16"}', {"target": "x86_64-linux:znver4:+avx512bf16"}),
        ("fuse-maps", {}),
    ],
)
def test_a_pass_reads_its_options_and_prints_them(text: str, fields: dict[str, object]) -> None:
    (made,) = PassPipeline.parse_spec(opt.UNIVERSE.all_passes, text).passes
    assert {name: getattr(made, name) for name in fields} == fields
    (again,) = PassPipeline.parse_spec(opt.UNIVERSE.all_passes, str(made)).passes
    assert again == made


def test_the_output_of_a_pass_is_input_of_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tidy, hoist = "widen-activations,cse,canonicalize,dce", "hoist-invariants,fuse-maps"
    steps = (SMALL, "infer-shapes,round-outputs", tidy, hoist, "schedule")
    assert opt.main([MIXTRAL, "-p", ",".join(steps)]) == 0
    whole, path = capsys.readouterr().out, Path(MIXTRAL)
    for step in steps:
        assert opt.main([str(path), "-p", step]) == 0
        path = tmp_path / "layer.mlir"
        path.write_text(capsys.readouterr().out)
    assert path.read_text() == whole
    assert '"plan.program"' in whole


def test_xdsl_opt_itself_knows_the_dialects_and_passes() -> None:
    driver = [sys.executable, "-c", "from xdsl.tools.xdsl_opt import main; main()", "-p", "infer-shapes"]
    module = '"moe.layer"() <{sym_name = "l", inputs = [], params = [], outputs = [], aux = [], types = []}> ({\n'
    module += '  "moe.return"() : () -> ()\n}) : () -> ()\n'
    done = subprocess.run(driver, input=module, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"moe.layer"' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([MIXTRAL, "-p", "fold"], "Unrecognized passes: ['fold']"),
        ([MIXTRAL, "-p", "specialize{dims=H=3}"], "Malformed pass arguments"),
        ([MIXTRAL, "-p", 'specialize{dims="H=3"}'], "dimension `E` has no value"),
        ([MIXTRAL, "-p", "specialize{real=f8}"], "`real` is f32, bf16 or f16, not `f8`"),
        ([MIXTRAL, "-p", f'{SMALL},schedule{{target="zen"}}'], "expected `triple:cpu:features`"),
        (["nowhere.mlir"], "No such file"),
        ([__file__], "Unrecognized file extension 'py'"),
    ],
)
def test_wrong_input_is_said_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opt.main(arguments) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ") and "Traceback" not in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("operand", "result", "message"),
    [
        ("tensor<4xf32>", "tensor<4xf32>", "tensor<4xf32> has no two axes"),
        ("tensor<2x4xf32>", "tensor<2x4xf32>", "results are tensor<2x4xf32>, inferred tensor<4x2xf32>"),
    ],
)
def test_an_operation_that_does_not_verify_is_named(
    operand: str, result: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.mlir"
    path.write_text(f'%0 = "test.op"() : () -> {operand}\n%1 = "moe.transpose"(%0) : ({operand}) -> {result}\n')
    assert opt.main([str(path)]) == 1
    assert message in capsys.readouterr().err


#: What stands in no layer.
LOOSE: Final = """\
%x = "test.op"() : () -> tensor<8xf32>
%s = "moe.range"() <{low = 0 : i64, high = 8 : i64}> : () -> !moe.selection<8 : i64, 8 : i64, "full">
%y = "moe.sum"(%s) ({
^bb0(%e: i64, %slot: i64):
  %r = "moe.reduce"(%x) <{kind = #moe<reduction sum>, axis = 0 : i64}> : (tensor<8xf32>) -> f32
  "moe.yield"(%r) : (f32) -> ()
}) : (!moe.selection<8 : i64, 8 : i64, "full">) -> f32
"test.op"(%y) : (f32) -> ()
"""
#: A target on which weights of bf16 are widened in the inner loop.
WIDENING: Final = 'target="x86_64-unknown-linux-gnu:haswell:"'
#: For a pass, what comes first, and the passes that have run without it.
EARLY: Final = [
    ("round-outputs", "specialize", ""),
    ("choose-storage", "specialize", ""),
    ("quantize-activations", "specialize", ""),
    ("distribute-products", "specialize", ""),
    ("split-match", "specialize", ""),
    ("widen-activations", "specialize", ""),
    ("gather-constants", "specialize", ""),
    ("schedule", "specialize", ""),
    ("schedule", "round-outputs", f"{SMALL},widen-activations{{{WIDENING}}},"),
    ("schedule", "widen-activations", f"{SMALL},round-outputs,"),
    ("fold-gathers", "schedule", f"{SMALL},"),
]


@pytest.mark.parametrize(("name", "first", "before"), EARLY)
def test_a_pass_that_runs_too_early_says_what_comes_first(
    name: str, first: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"{{{WIDENING}}}" if name == "schedule" else ""
    assert opt.main([MIXTRAL, "-p", f"{before}{name}{options}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: `{name}` cannot run yet: ")
    assert printed.endswith(f"; `{first}` comes first\n")


@pytest.mark.parametrize("name", sorted({*opt.PASSES} - {name for name, _, _ in EARLY} - {"specialize"}))
def test_a_pass_that_needs_nothing_runs_on_any_layer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt.main([MIXTRAL, "-p", name]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", opt.PASSES)
def test_no_pass_fails_where_there_is_no_layer(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loose.mlir"
    path.write_text(LOOSE)
    assert opt.main([str(path), "-p", name]) == 0, capsys.readouterr().err
    assert '"moe.sum"' in capsys.readouterr().out


def _turned(size: str) -> str:
    """An array whose axes are of one size, transposed."""
    array = f'tensor<?x?xf32, #moe.shape<"{size}, {size}">>'
    return f'%0 = "test.op"() : () -> {array}\n%1 = "moe.transpose"(%0) : ({array}) -> {array}\n'


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (_turned("E/0"), [], "`E/0` divides by zero"),
        (_turned("E *"), [], "`E *` is not a formula"),
        (_turned("E*(G - 1)^(-1)"), ["-p", 'specialize{dims="E=4","G=1"}'], "a formula divides by zero"),
        ('%0 = "moe.number"() <{value = "q", element = f32}> : () -> f32', [], '"q" is not a number'),
        (
            '%0 = "moe.listed"() <{domain = "q"}> : () -> !moe.selection<0 : i64, 4 : i64, "full">',
            [],
            '"q" is not a number',
        ),
    ],
)
def test_a_formula_without_a_value_is_said(
    text: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.mlir"
    path.write_text(text)
    assert opt.main([str(path), *arguments]) == 1
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed


def test_a_layer_that_is_wrong_reads_as_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.moe"
    path.write_text("moe wrong[H=4](x: [H]) -> [H] { return y }")
    assert opt.main([str(path)]) == 1
    assert capsys.readouterr().err.startswith("error[E0101]: ")


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        opt.main(["--no-such-flag"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: moec opt")
