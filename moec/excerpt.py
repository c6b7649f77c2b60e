"""Excerpts of a source with marks below the places that are spoken of, as rustc draws them; for `diagnostics` only."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from moec.source import Source, Span

TAB = 4
WIDEST = 120  # columns of a line that are shown
TALLEST = 6  # lines of a span that are shown; of a longer one only the first and the last

STYLES = {"error": "1;31", "warning": "1;33", "help": "1;36", "gutter": "1;34", "cause": "1;34", "bold": "1"}

#: Characters that would turn the order of the text around them.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place, what is said of it, and how it is drawn: `^` and the colour of the severity, or `-` for a cause."""

    span: Span
    text: str
    sign: str
    style: str

    @property
    def first(self) -> int:
        return self.span.line

    @property
    def last(self) -> int:
        return self.span.source.line_column(max(self.span.start, self.span.end - 1))[0]


@dataclass(slots=True)
class Row:
    """A line of output, put together from pieces at columns; a later piece covers an earlier one."""

    cells: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def put(self, column: int, text: str, style: str = "") -> Row:
        self.cells += [(" ", "")] * (column + len(text) - len(self.cells))
        self.cells[column : column + len(text)] = [(char, style) for char in text]
        return self

    def render(self, color: bool) -> str:
        pieces = (
            paint("".join(char for char, _ in cells), style, color)
            for style, cells in groupby(self.cells, key=lambda cell: cell[1])
        )
        return "".join(pieces).rstrip()


def paint(text: str, style: str, color: bool) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if color and style and text.strip() else text


def printable(text: str) -> str:
    """A text as a terminal may have it: names come from files, and might turn it over."""
    return "".join(map(_shown, text))


def draw(marks: Sequence[Mark], width: int, color: bool) -> Iterable[str]:
    """The excerpts that hold the marks, one a source, the first mark's first. `width` is the gutter's."""
    sources = list(dict.fromkeys(mark.span.source for mark in marks))
    for index, source in enumerate(sources):
        here = [mark for mark in marks if mark.span.source is source]
        arrow = paint(":::" if index else "-->", "gutter", color)
        yield f"{' ' * width}{arrow} {printable(source.name)}:{here[0].span.line}:{here[0].span.column}"
        yield " " * width + paint(" |", "gutter", color)
        yield from (row.render(color) for row in _Excerpt(source, here, width).rows())


class _Excerpt:
    """The lines of one source that hold marks."""

    def __init__(self, source: Source, marks: Sequence[Mark], width: int) -> None:
        self.source, self.width = source, width
        self.single = [mark for mark in marks if mark.first == mark.last]
        self.several = sorted((mark for mark in marks if mark.first < mark.last), key=lambda m: (m.first, -m.last))
        self.slots = self._slots()
        self.margin = max(self.slots.values()) + 2 if self.several else 0

    def _slots(self) -> dict[int, int]:
        """For each mark of several lines the column of the margin in which its bar runs."""
        slots: dict[int, int] = {}
        ends: list[int] = []
        for mark in self.several:
            free = next((slot for slot, end in enumerate(ends) if end < mark.first), len(ends))
            ends[free:] = [mark.last, *ends[free + 1 :]]
            slots[id(mark)] = free
        return slots

    def rows(self) -> Iterable[Row]:
        previous = 0
        for number in self._shown():
            if previous and number > previous + 1:
                yield self._bars(Row().put(0, "...", "gutter"), self._entering(number))
            yield from self._line(number)
            previous = number

    def _shown(self) -> list[int]:
        shown = {mark.first for mark in self.single}
        for mark in self.several:
            short = mark.last - mark.first < TALLEST
            shown |= set(range(mark.first, mark.last + 1)) if short else {mark.first, mark.last}
        shown |= {number + 1 for number in shown if number + 2 in shown}  # a gap of one line is no gap
        return sorted(shown)

    def _line(self, number: int) -> Iterable[Row]:
        singles = [mark for mark in self.single if mark.first == number]
        starts = [mark for mark in self.several if mark.first == number]
        ends = [mark for mark in self.several if mark.last == number]
        view = _View(self.source, number, [*singles, *starts, *ends])
        bars = self._entering(number)
        row = self._bars(self._row(f"{number:>{self.width}} | "), bars)
        for mark in (mark for mark in starts if view.indented(mark.span)):
            row.put(self._column(mark), "/", mark.style)
            bars.append(mark)
        yield row.put(self._edge, view.text)
        yield from (self._bars(row, bars) for row in self._below(view, singles))
        for mark in (mark for mark in starts if mark not in bars):
            yield self._stroke(mark, view.start(mark.span), bars, "")
            bars.append(mark)
        for mark in reversed(ends):
            yield self._stroke(mark, view.end(mark.span) - 1, bars, mark.text)
            bars.remove(mark)

    def _entering(self, number: int) -> list[Mark]:
        """The marks whose bars come down into a line."""
        return [mark for mark in self.several if mark.first < number <= mark.last]

    @property
    def _edge(self) -> int:
        return self.width + 3 + self.margin

    def _row(self, gutter: str = "") -> Row:
        return Row().put(0, gutter or " " * self.width + " | ", "gutter")

    def _column(self, mark: Mark) -> int:
        return self.width + 3 + self.slots[id(mark)]

    def _bars(self, row: Row, marks: Sequence[Mark]) -> Row:
        for mark in marks:
            row.put(self._column(mark), "|", mark.style)
        return row

    def _stroke(self, mark: Mark, column: int, bars: Sequence[Mark], text: str) -> Row:
        """From a bar to the place where its mark begins or ends."""
        row, start = self._bars(self._row(), bars), self._column(mark) + 1
        row.put(start, "_" * (self._edge + column - start) + mark.sign, mark.style)
        return row.put(self._edge + column + 2, text, mark.style) if text else row

    def _below(self, view: _View, marks: Sequence[Mark]) -> Iterable[Row]:
        """The marks of one line with their texts: the last one beside its mark, the others below theirs."""
        if not marks:
            return
        row = self._row()
        ordered = sorted(marks, key=lambda mark: mark.sign == "^")
        for mark in ordered:
            start, end = view.start(mark.span), view.end(mark.span)
            row.put(self._edge + start, mark.sign * (end - start), mark.style)
        spoken = [mark for mark in marks if mark.text]
        spoken.sort(key=lambda mark: (view.start(mark.span), view.end(mark.span)), reverse=True)
        reach = max(view.end(mark.span) for mark in marks)
        if spoken and view.end(spoken[0].span) == reach:
            beside = spoken.pop(0)
            row.put(self._edge + reach + 1, beside.text, beside.style)
        yield row
        if spoken:
            yield self._hang(view, spoken)
        for index, mark in enumerate(spoken):
            yield self._hang(view, spoken[index + 1 :]).put(self._edge + view.start(mark.span), mark.text, mark.style)

    def _hang(self, view: _View, marks: Sequence[Mark]) -> Row:
        row = self._row()
        for mark in marks:
            row.put(self._edge + view.start(mark.span), "|", mark.style)
        return row


class _View:
    """A line as shown: tabs spread, wide characters two columns, unprintable ones replaced, cut where very long."""

    def __init__(self, source: Source, number: int, marks: Sequence[Mark]) -> None:
        line = source.line(number)
        shown = [_shown(char) for char in line]
        self.columns = [0]
        for char, text in zip(line, shown, strict=True):
            self.columns.append(self.columns[-1] + _width(char, text))
        self.line, self.low, self.high = line, 0, len(line)
        if self.columns[-1] > WIDEST:
            first = min((mark.span.column - 1 for mark in marks if mark.first == number), default=len(line))
            self.low = max(0, min(first - WIDEST // 4, len(line) - WIDEST // 2))
            self.high = min(len(line), self.low + WIDEST)
        cut = "…" if self.low else ""
        self.shift = len(cut) - self.columns[self.low]
        self.text = cut + "".join(shown[self.low : self.high]) + ("…" if self.high < len(line) else "")

    def start(self, span: Span) -> int:
        return self._at(span.column - 1)

    def end(self, span: Span) -> int:
        """The column after the mark; a mark is at least one column wide."""
        number, column = span.source.line_column(max(span.start, span.end - 1))
        end = self._at(column - 1 + (span.end > span.start))
        return max(end, self.start(span) + 1) if number == span.line else max(end, 1)

    def indented(self, span: Span) -> bool:
        """Whether nothing stands before a span in its line."""
        return not self.line[: span.column - 1].strip()

    def _at(self, index: int) -> int:
        return self.columns[min(max(index, self.low), self.high)] + self.shift


def _shown(char: str) -> str:
    if char == "\t":
        return " " * TAB
    if char in _TURNING or "\ud800" <= char <= "\udfff":
        return "\ufffd"
    if ord(char) < 32 or ord(char) == 127:
        return chr(0x2421 if ord(char) == 127 else 0x2400 + ord(char))
    return "\ufffd" if unicodedata.category(char) == "Cc" else char


def _width(char: str, shown: str) -> int:
    if shown != char:
        return len(shown)
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
