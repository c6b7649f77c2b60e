"""Selections that are written down: a selection's name, `{i, j}`, `a..b`."""

from __future__ import annotations

from collections.abc import Sequence

from moec.diagnostics import fail
from moec.dialects import moe
from moec.dialects.types import I64
from moec.dims import ZERO, Dim
from moec.elaborate.builder import Builder
from moec.elaborate.values import ANYWHERE, Array, Selection, Value, kind_of
from moec.source import Span


def as_selection(value: Value, span: Span) -> Selection:
    """A selection; `argmax` is the selection of that one."""
    if isinstance(value, Selection):
        return value
    if isinstance(value, Array) and value.choice is not None:
        return value.choice
    index = isinstance(value, Array) and not value.shape and value.element == "i64"
    hint = f"`{{{span.text}}}` is the selection of that one" if index else None
    raise fail("E0204", f"{kind_of(value)} stands where a selection is needed", span, kind_of(value), help=hint)


def listed(builder: Builder, values: Sequence[Value], spans: Sequence[Span], span: Span) -> Selection:
    """`{i, j}`."""
    indices = [builder.array(value, place, I64) for value, place in zip(values, spans, strict=True)]
    highest = ZERO
    for index, place in zip(indices, spans, strict=True):
        if index.shape or index.element != "i64":
            raise fail("E0204", f"{kind_of(index)} stands where an index is needed", place)
        bounds = index.bounds or ANYWHERE
        if not bounds.finite or not builder.at_most(ZERO, bounds.low):
            what = f"an index in {bounds.low}..{bounds.high} can lie outside every domain `0..n`"
            together = ", ".join(span.text for span in spans)
            raise fail("E0205", what, place, help=f"`given(concat({together}), n)` skips what lies outside")
        if highest == ZERO or not builder.at_most(bounds.high, highest):
            highest = bounds.high
    ssa = builder.emit(moe.ListedOp.make([index.ssa for index in indices], domain=highest))
    return Selection(ssa, Dim.of(len(indices)), highest, False, span)


def interval(builder: Builder, low: Dim, high: Dim, span: Span) -> Selection:
    """`low..high`."""
    ssa = builder.emit(moe.RangeOp.make(low=low, high=high))
    return Selection(ssa, high - low, high, False, span, start=low)
