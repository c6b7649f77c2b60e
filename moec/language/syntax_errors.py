"""Syntax errors, named by example rather than by the parser's state."""

from __future__ import annotations

import lark

from moec.diagnostics import CompileError, fail
from moec.source import Source, Span


def explain(error: lark.UnexpectedInput, source: Source) -> CompileError:
    start = min(error.pos_in_stream or 0, max(len(source.text) - 1, 0))
    token = getattr(error, "token", None)
    end = start + max(len(str(token)) if token else 1, 1)
    what = f"`{token}`" if token else f"`{source.text[start:end]}`"
    return fail("E0010", f"unexpected {what}", Span(source, start, end))
