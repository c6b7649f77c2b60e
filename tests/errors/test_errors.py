"""Every code has a case, the case has the code, and the page about errors shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from moec.codes import CODES
from moec.diagnostics import CompileError
from tests.errors.cases import CASES, WITHOUT, told

ROOT = Path(__file__).parents[2]


def test_every_code_has_a_case() -> None:
    assert set(CASES) | WITHOUT == set(CODES)


@pytest.mark.parametrize("code", CASES)
def test_the_case_has_the_code_and_nothing_else(code: str) -> None:
    with pytest.raises(CompileError) as error:
        CASES[code]()
    assert [diagnostic.code for diagnostic in error.value.diagnostics] == [code]


@pytest.mark.parametrize("code", CASES)
def test_messages_are_written_alike(code: str) -> None:
    first = told(code).splitlines()[0]
    message = re.sub(r"`[^`]*`", "x", first.partition(": ")[2])
    assert re.match(r"(error|warning)\[\w+\]: ", first)
    assert not message.endswith(".")
    assert message[0].islower() or message[0].isdigit() or message[0] == "["


def test_the_page_is_up_to_date() -> None:
    assert subprocess.run([sys.executable, ROOT / "docs" / "errors.py", "--check"], check=False).returncode == 0
