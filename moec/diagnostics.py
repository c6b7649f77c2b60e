"""What moec says when something is wrong: a code, a place, a cause, and a way out.

The layout follows rustc's: a line with the code and the fault, the smallest span with a caret, further spans that
explain, and `help:` only where it proposes a change. Every code stands in `CODES`; docs/errors.md is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from moec.codes import CODES
from moec.source import Span


@dataclass(frozen=True, slots=True)
class Label:
    """A place and what is to be said of it."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake. `code` is a key of `CODES`; `span` is None when the mistake is not in a text."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    causes: tuple[Label, ...] = ()
    help: str | None = None
    severity: str = "error"

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    def render(self) -> str:
        """The diagnostic as text for a terminal, without colours."""
        lines = [f"{self.severity}[{self.code}]: {self.message}"]
        labels = [Label(self.span, self.label)] if self.span else []
        labels += self.causes
        width = max((len(str(label.span.line)) for label in labels), default=1)
        for index, label in enumerate(labels):
            mark = "^" if index == 0 and self.span else "-"
            lines += _excerpt(label, mark, width, first=index == 0)
        if self.help:
            lines.append(f"{' ' * width} = help: {self.help}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The diagnostic as plain data; offsets count bytes of the UTF-8 encoded file."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "span": _place(self.span, self.label) if self.span else None,
            "causes": [_place(cause.span, cause.text) for cause in self.causes],
            "help": self.help,
        }


class CompileError(Exception):
    """The input is wrong. `diagnostics` says how, one entry a mistake."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics
        super().__init__("\n\n".join(diagnostic.render() for diagnostic in diagnostics))


def fail(
    code: str, message: str, span: Span | None = None, label: str = "", causes: Sequence[Label] = (), help: str | None = None
) -> CompileError:
    """A `CompileError` of one diagnostic, to be raised."""
    return CompileError(Diagnostic(code, message, span, label, tuple(causes), help))


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The help line that suggests the name most like `name`, if one is near."""
    matches = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean `{matches[0]}`?" if matches else None


def _place(span: Span, label: str) -> dict[str, Any]:
    source = span.source
    return {
        "file": source.name,
        "start": source.byte_offset(span.start),
        "end": source.byte_offset(span.end),
        "line": span.line,
        "column": span.column,
        "label": label,
    }


def _excerpt(label: Label, mark: str, width: int, first: bool) -> list[str]:
    span, gutter = label.span, " " * width
    line = span.source.line(span.line)
    before = "".join("\t" if char == "\t" else " " for char in line[: span.column - 1])
    length = max(1, min(span.end - span.start, len(line) - span.column + 1))
    arrow = "-->" if first else ":::"
    return [
        f"{gutter}{arrow} {span.source.name}:{span.line}:{span.column}",
        f"{gutter} |",
        f"{span.line:>{width}} | {line}",
        f"{gutter} | {before}{mark * length}{' ' + label.text if label.text else ''}",
    ]
