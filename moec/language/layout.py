"""Documents that know how to break: the algebra of Wadler's "A prettier printer", with comments at the ends of lines.

A document is text and places where a line may end. `render` lays it out: a group stands on one line where it fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

WIDTH = 100
INDENT = 4


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A place to break: `flat` if its group stands on one line. `offset` shifts the next line; `hard` always breaks."""

    flat: str = " "
    offset: int = 0
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """Text only where its group is broken."""

    text: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment that ends its line. What follows in the document must begin with a line break."""

    text: str


@dataclass(frozen=True, slots=True)
class Nest:
    """Indented by `by`; None for indented to the column where it begins."""

    by: int | None
    inner: Doc


@dataclass(frozen=True, slots=True)
class Group:
    inner: Doc
    forced: bool


Doc = Text | Line | Broken | Remark | Nest | Group | tuple["Doc", ...]

SOFT = Line("")
HARD = Line(hard=True)


def join(separator: Doc, docs: Iterable[Doc]) -> Doc:
    parts: list[Doc] = []
    for doc in docs:
        parts += [separator, doc] if parts else [doc]
    return tuple(parts)


def group(*docs: Doc) -> Group:
    """A group, broken in any case where a comment or a hard break stands inside."""
    return Group(docs, any(map(_forced, docs)))


def nest(*docs: Doc, by: int | None = INDENT) -> Nest:
    return Nest(by, docs)


def _forced(doc: Doc) -> bool:
    match doc:
        case Group():
            return doc.forced
        case Nest():
            return _forced(doc.inner)
        case tuple():
            return any(map(_forced, doc))
        case _:
            return isinstance(doc, Remark) or (isinstance(doc, Line) and doc.hard)


def render(doc: Doc) -> str:
    """The text of a document. Comments at the ends of consecutive lines are aligned."""
    lines: list[tuple[str, str]] = [("", "")]
    column = 0
    stack: list[_Item] = [(0, True, doc)]
    while stack:
        indent, broken, doc = stack.pop()
        match doc:
            case Text() | Broken():
                if broken or isinstance(doc, Text):
                    lines[-1] = (lines[-1][0] + doc.text, lines[-1][1])
                    column += len(doc.text)
            case Line():
                if broken or doc.hard:
                    column = max(0, indent + doc.offset)
                    lines.append((" " * column, ""))
                else:
                    lines[-1] = (lines[-1][0] + doc.flat, lines[-1][1])
                    column += len(doc.flat)
            case Remark():
                lines[-1] = (lines[-1][0], f"{lines[-1][1]} {doc.text}".strip())
            case Nest():
                stack.append((column if doc.by is None else indent + doc.by, broken, doc.inner))
            case Group():
                flat = not doc.forced and _fits(WIDTH - column, (indent, False, doc.inner), stack)
                stack.append((indent, not flat, doc.inner))
            case tuple():
                stack += [(indent, broken, part) for part in reversed(doc)]
    return _remarked([(code.rstrip(), remark) for code, remark in lines])


#: What is still to be laid out: its indentation, whether its group is broken, the document.
_Item = tuple[int, bool, Doc]


def _fits(room: int, item: _Item, rest: Sequence[_Item]) -> bool:
    """Whether the text up to the next line break that is certain or possible has room."""
    stack, following = [item], len(rest)
    while room >= 0:
        if not stack:
            if not following:
                return True
            following -= 1
            stack.append(rest[following])
        indent, broken, doc = stack.pop()
        match doc:
            case Text():
                room -= len(doc.text)
            case Broken():
                room -= len(doc.text) if broken else 0
            case Line():
                if broken or doc.hard:
                    return True
                room -= len(doc.flat)
            case Nest() | Group():
                stack.append((indent, broken, doc.inner))
            case tuple():
                stack += [(indent, broken, part) for part in reversed(doc)]
            case Remark():
                return True
    return False


def _remarked(lines: Sequence[tuple[str, str]]) -> str:
    """The lines with their comments, two columns behind the longest of the consecutive lines that have one."""
    out: list[str] = []
    for remarked, run in groupby(lines, key=lambda line: bool(line[1])):
        run = list(run)
        column = max(len(code) for code, _ in run) + 2
        out += [f"{code:<{column}}{remark}" if remarked else code for code, remark in run]
    return "\n".join(out)
