"""How many programs, and which: `--programs 20000 --seed 7`; and at the end, how many tokens were compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--programs", type=int, default=500, help="how many random programs are compiled and compared")
    parser.addoption("--seed", type=int, default=0, help="which random programs")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total = Counter[str]()
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        total.update(dict(report.user_properties).get("tally", {}))
    if total["tokens"]:
        stable, agreeing = (total[name] / total["tokens"] for name in ("stable", "agreeing"))
        programs = f"{total['programs']} random programs, {total['exact']} of them in f32 throughout"
        tokens = f"{total['tokens']} tokens, of which {stable:.1%} have clear choices and {agreeing:.1%} agree"
        terminalreporter.write_line(f"{programs}: {tokens}")
