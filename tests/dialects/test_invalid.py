"""What the verifiers of the two dialects refuse: with a message, never with an exception of Python's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from xdsl.context import Context
from xdsl.dialects import test
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import DiagnosticException, ParseError, VerifyException

from moec.dialects.moe import Moe
from moec.dialects.plan import Plan

HERE: Final = Path(__file__).parent


def parser(text: str) -> Parser:
    """What reads a text of the two dialects, and of those that they build on."""
    context = Context()
    for dialect in (Builtin, Arith, test.Test, Moe, Plan):
        context.load_dialect(dialect)
    return Parser(context, text)


def fault(make: Callable[[], ModuleOp]) -> str:
    """Why a module is refused; empty where it is not."""
    try:
        make().verify()
    except (DiagnosticException, ParseError, VerifyException) as error:
        return str(error)
    return ""


# ── moe ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

SHARED, *_PARTS = re.split(r"^// ----- ", (HERE / "moe_invalid.mlir").read_text(), flags=re.MULTILINE)
_FOUND = (re.fullmatch(r"expected-error \{\{(.*?)\}\}\n(.*)", part, re.DOTALL) for part in _PARTS)
#: A message, and the text of which it is said.
MOE: Final = [(found[1], found[2]) for found in _FOUND if found]


def test_what_the_others_read_is_accepted() -> None:
    assert not fault(parser(SHARED).parse_module)


@pytest.mark.parametrize(("message", "text"), MOE)
def test_what_is_wrong_with_a_layer_is_said(message: str, text: str) -> None:
    assert message in fault(parser(f"{SHARED}\n{text}").parse_module)


def test_every_operation_of_a_layer_is_refused_somewhere() -> None:
    assert not [op.name for op in Moe.operations if not any(f'"{op.name}"(' in text for _, text in MOE)]
