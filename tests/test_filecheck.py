"""FileCheck: every file of tests/filecheck is run as its `RUN:` lines say, and its `CHECK` lines hold of the output.

A line reads `RUN: moec … | filecheck %s` (with flags of filecheck, if any), `%s` being the file itself. Commands run
from the top of the checkout, in this process; typed into a shell they do the same.
"""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options
from filecheck.parser import Parser, pattern_for_opts
from xdsl.ir import Attribute

from moec.cli import main

ROOT: Final = Path(__file__).parents[1]
FILES: Final = sorted(path for path in (ROOT / "tests" / "filecheck").rglob("*.*") if path.suffix in (".mlir", ".moe"))


def run(words: list[str]) -> str:
    """What a command of moec prints on its standard output."""
    printed, faults = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(faults):
        assert words[0] == "moec", f"not a command of moec: {shlex.join(words)}"
        try:
            code = main(words[1:], standalone_mode=False)
        except SystemExit as left:
            code = left.code
    assert not code, faults.getvalue()
    return printed.getvalue()


def check(words: list[str], text: str) -> None:
    """Holds `text` against the file that the `filecheck` command names."""
    options = parse_argv_options(words)
    content = FInput.canonicalize_line_ends(text)
    faults = io.StringIO()
    with Path(options.match_filename).open(encoding="utf-8") as lines, redirect_stderr(faults), redirect_stdout(faults):
        matcher = Matcher(options, FInput("-", content), Parser(options, lines, *pattern_for_opts(options)))
        code = matcher.run()
    assert code == 0, f"{faults.getvalue()}\n{text}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "tests" / "filecheck").as_posix())
def test_filecheck(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Attribute, "__post_init__", Attribute.__post_init__)  # xDSL's `--disable-verify` replaces it
    lines = re.findall(r"RUN:\s*(.+?)\s*$", path.read_text(), re.MULTILINE)
    assert lines, "no `RUN:` line"
    for line in lines:
        command, _, checks = line.replace("%s", str(path)).rpartition("|")
        check(shlex.split(checks), run(shlex.split(command)))
