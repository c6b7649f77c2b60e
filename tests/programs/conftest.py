"""How many programs, and which: `--programs 20000 --seed 7`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--programs", type=int, default=500, help="how many random programs are compiled and compared")
    parser.addoption("--seed", type=int, default=0, help="which random programs")
