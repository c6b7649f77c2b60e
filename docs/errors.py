"""Writes docs/errors.md: every code, what it stands for, and an example with what moec says of it.

    python docs/errors.py            writes the page
    python docs/errors.py --check    exits with 1 if the page is not what would be written

The examples are the rows of `tests/errors/cases.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from moec.codes import CODES  # noqa: E402
from tests.errors.cases import CASES, told  # noqa: E402

PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Errors

Every error has a code. It names the smallest place that is wrong and what it clashes with; where there is a way out,
`help:` says it.
`--error-format json` gives the same for programs, with offsets in bytes. This page is made by `python docs/errors.py`.
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for code, meaning in CODES.items():
        parts.append(f"## {code}: {meaning}\n")
        if code in CASES:
            parts.append(f"```text\n{told(code)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
