"""The dumps of the moe and plan dialects are MLIR: xDSL reads them as they were printed, and so does LLVM's own parser.

LLVM's is `iree-opt`, an opt tool built from LLVM's MLIR that PyPI has; it knows nothing of our two dialects.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Final

import pytest
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.math import Math
from xdsl.parser import Parser
from xdsl.printer import Printer

from moec.dialects.moe import Moe
from moec.dialects.plan import Plan
from moec.language.read import read
from moec.options import Options
from moec.pipeline import Compilation
from moec.target import Target
from tests.examples import EXAMPLES, SMALL

IREE_OPT: Final = shutil.which("iree-opt", path=str(Path(sys.executable).parent)) or shutil.which("iree-opt")
STAGES: Final = ("moe", "moe-opt", "plan")
TARGET: Final = Target.of("x86_64-unknown-linux-gnu", "znver4")


def compilation(name: str, dtype: str = "bf16") -> Compilation:
    """An example with every aux that it has."""
    source = read(EXAMPLES / f"{name}.moe")
    extras = Compilation(source, Options.of(target=TARGET)).extras
    return Compilation(source, Options.of(SMALL[name], dtype, target=TARGET, aux=extras))


def parse(text: str) -> ModuleOp:
    """What xDSL reads, with our dialects and those of upstream that they build on; verified."""
    context = Context()
    for dialect in (Builtin, Arith, Math, Moe, Plan):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    module.verify()
    return module


def upstream(text: str) -> None:
    """Fails unless LLVM's own parser reads, verifies and prints a text."""
    assert IREE_OPT, "iree-base-compiler is not installed"
    command = [IREE_OPT, "--allow-unregistered-dialect", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SMALL)
def test_what_is_printed_parses_verifies_and_prints_the_same(name: str) -> None:
    layer = compilation(name)
    for stage in STAGES:
        text = str(layer.show(stage))
        assert str(parse(text)) == text, stage


@pytest.mark.parametrize("name", SMALL)
def test_the_parser_of_llvm_reads_every_stage(name: str) -> None:
    layer = compilation(name)
    upstream("// -----\n".join(f"module {{\n{layer.show(stage)}\n}}\n" for stage in STAGES))


def test_the_parser_of_llvm_reads_locations() -> None:
    printed = StringIO()
    Printer(printed, print_debuginfo=True).print_op(compilation("mixtral").elaborate().module)
    assert 'mixtral.moe":7:' in printed.getvalue()
    assert 'prelude.moe":' in printed.getvalue()
    upstream(printed.getvalue())


def test_what_is_not_mlir_is_refused() -> None:
    """The two tests above can fail."""
    with pytest.raises(AssertionError, match="error"):
        upstream('"moe.range"() <{low = 0 : i64}> : () -> !moe.selection<2 : i64, "full"')
    text = str(compilation("mixtral").show("plan"))
    with pytest.raises(Exception, match="keys without grouping"):
        parse(text.replace("#plan<grouping index>", "#plan<grouping none>"))
