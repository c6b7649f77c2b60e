"""Texts whose functions and parentheses are nested as deep as each may be, and together deeper than Python goes."""

from __future__ import annotations

import pytest

from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.language.parse import parse
from moec.source import Source


def test_functions_and_parentheses_together_are_an_error() -> None:
    depth, calls = 40, 39
    functions = [f"fn f{i}(a) = {'(' * depth}f{i + 1}(a){')' * depth}" for i in range(calls)]
    text = "\n".join([*functions, f"fn f{calls}(a) = a", "moe m[H=4](x: [H]) -> [H] { return f0(x) }"])
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("deep.moe", text)))
    assert error.value.diagnostics[0].code == "E0005"
