"""What moec says when something is wrong: a code, a place, a cause, and a way out.

The layout follows rustc's: a line with the code and the fault, the smallest span with a caret, further spans that
explain, and `help:` only where it proposes a change. Every code stands in `CODES`; docs/errors.md is made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moec.codes import CODES
from moec.excerpt import Mark, draw, paint, printable
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

    def render(self, color: bool = False) -> str:
        """The diagnostic as text for a terminal."""
        marks = [Mark(self.span, printable(self.label), "^", self.severity)] if self.span else []
        marks += [Mark(cause.span, printable(cause.text), "-", "cause") for cause in self.causes]
        width = max((len(str(mark.last)) for mark in marks), default=1)
        message = paint(f": {printable(self.message)}", "bold", color)
        lines = [paint(f"{self.severity}[{self.code}]", self.severity, color) + message, *draw(marks, width, color)]
        if self.help:
            if marks:
                lines.append(" " * width + paint(" |", "gutter", color))
            head = f"{' ' * width} {paint('=', 'gutter', color)} {paint('help', 'help', color)}"
            lines.append(f"{head}: {printable(self.help)}")
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
        super().__init__(*diagnostics)
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics

    def __str__(self) -> str:
        return self.render()

    def render(self, color: bool = False) -> str:
        """The diagnostics as text for a terminal, an empty line between two."""
        return "\n\n".join(diagnostic.render(color) for diagnostic in self.diagnostics)


def fail(
    code: str,
    message: str,
    span: Span | None = None,
    label: str = "",
    causes: Sequence[Label] = (),
    help: str | None = None,
) -> CompileError:
    """A `CompileError` of one diagnostic, to be raised."""
    return CompileError(Diagnostic(code, message, span, label, tuple(causes), help))


#: How much two names have in common (difflib's ratio) of which one is suggested for the other. Where their lengths
#: differ by more than a third (`cos`, `cross`), neither is a slip of the other.
_NEAR: Final = 0.75
#: The same where one begins with the other (`rms`, `rmsnorm`).
_BEGINS: Final = 0.6


def nearest(name: object, names: Sequence[str]) -> str | None:
    """The help line that suggests the name most like `name`, if that is a text and one is near: the same but for case,
    else by `_NEAR`, else by `_BEGINS`."""
    from difflib import get_close_matches

    if not isinstance(name, str):
        return None
    matches = [other for other in names if other.lower() == name.lower()]
    near = get_close_matches(name, names, cutoff=_NEAR)
    matches += [other for other in near if abs(len(other) - len(name)) <= len(name) / 3]
    alike = get_close_matches(name, names, cutoff=_BEGINS)
    matches += [other for other in alike if other.startswith(name) or name.startswith(other)]
    return f"did you mean `{matches[0]}`?" if matches else None


def once(name: str, span: Span, seen: dict[str, Span], what: str = "") -> None:
    """Remembers where a name is defined. Raises `CompileError` (E0102) where it was before."""
    if name in seen:
        causes = [Label(seen[name], "first defined here")]
        raise fail("E0102", f"{what} `{name}` is defined twice".strip(), span, causes=causes)
    seen[name] = span


def plural(count: int, noun: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def quoted(names: Iterable[str]) -> str:
    """Names in a sentence, as they are written in a text: `` `a`, `b` ``."""
    return ", ".join(f"`{name}`" for name in names)


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
