"""`match`: which arm an index takes, and the arms as regions of one operation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from xdsl.ir import Block, Region

from moec.diagnostics import fail
from moec.dialects import moe
from moec.dialects.types import I64
from moec.dims import ONE, ZERO, Dim
from moec.elaborate.builder import LEAST, dims_attr
from moec.elaborate.evaluator import Evaluator
from moec.elaborate.values import (
    ANYWHERE,
    Array,
    Bounds,
    Number,
    Scope,
    Value,
    kind_of,
    shape_origin,
    show,
)
from moec.language import syntax


def match(builder: Evaluator, node: syntax.Match, scope: Scope) -> Value:
    """`match i { 0..E: …, E..: x }`."""
    subject = builder.evaluate(node.subject, scope)
    if isinstance(subject, Number):
        return _match_number(builder, node, subject, scope)
    index = builder.array(subject, node.subject.span, I64)
    if index.shape or index.element != "i64":
        raise fail("E0204", f"`match` takes an index, not {kind_of(index)}", node.subject.span)
    whole_range = index.bounds or ANYWHERE
    arms = _arms(builder, node, whole_range, scope)
    values = _unified(builder, [(arm, *_arm(builder, arm, bounds, node, index, scope)) for arm, bounds in arms])
    shape = next((array.shape for _, array in values if array.shape), None)
    if shape is None:
        shape = _lent(builder, node, [arm for arm, _ in arms], index, scope)
    regions = [_close(builder, block, array, shape, node) for block, array in values]
    ends = dims_attr([bounds.high for _, bounds in arms])
    low = None if builder.at_most(ZERO, whole_range.low) else whole_range.low
    result = builder.emit(moe.MatchOp.make(index.ssa, bounds=ends, low=low, regions=[regions]))
    return Array(result, next((array.origin for _, array in values if array.shape), node.span))


def _match_number(builder: Evaluator, node: syntax.Match, subject: Number, scope: Scope) -> Value:
    """The one arm that a compile-time number takes."""
    number = builder.integer(subject, node.subject.span, "the subject", LEAST)
    value = builder.settled(number, "this `match`", node.span)
    for arm in node.arms:
        taken = _pattern(builder, arm.pattern, ANYWHERE, scope)
        low, high = (builder.settled(end, "this `match`", node.span) for end in (taken.low, taken.high))
        if low <= value < high:
            return builder.evaluate(arm.body, scope)
    raise fail("E0208", f"no arm holds `{node.subject.span.text}` = {value}", node.span)


def _pattern(builder: Evaluator, pattern: Any, whole_range: Bounds, scope: Scope) -> Bounds:
    """The range that a pattern stands for; an open end is that of the whole range."""
    if not isinstance(pattern, syntax.Range):
        if isinstance(pattern, syntax.Name) and pattern.id == "_" and scope.find("_") is None:
            raise fail("E0101", "`_` is not defined", pattern.span, help="`n..: …` takes all from `n` on")
        value = builder.integer(builder.evaluate(pattern, scope), pattern.span, "a pattern", LEAST)
        return Bounds(value, value + ONE)
    ends = [whole_range.low, whole_range.high]
    for position, end in enumerate((pattern.low, pattern.high)):
        if end is not None:
            ends[position] = builder.integer(builder.evaluate(end, scope), end.span, "a pattern", LEAST)
    return Bounds(*ends)


def _arms(builder: Evaluator, node: syntax.Match, whole_range: Bounds, scope: Scope) -> list[tuple[syntax.Arm, Bounds]]:
    """The arms in rising order, each with the range that it takes; together they cover the index.

    Where every end has a value an earlier arm hides what later ones share with it; ends without values must join.
    """
    arms = [(arm, _pattern(builder, arm.pattern, whole_range, scope)) for arm in node.arms]
    ends = [end for bounds in (whole_range, *(b for _, b in arms)) for end in (bounds.low, bounds.high)]
    if all(builder.known(end) is not None for end in ends):
        arms = _segments(builder, arms, whole_range, ends)
    at = whole_range.low
    for _, bounds in arms:
        if not builder.at_most(bounds.low, at):
            raise fail("E0208", f"`match` leaves out {at}..{bounds.low}", node.span)
        at = bounds.high
    if not builder.at_most(whole_range.high, at):
        raise fail("E0208", f"`match` leaves out {at}..{whole_range.high}", node.span)
    return arms


def _segments(
    builder: Evaluator, arms: Sequence[tuple[syntax.Arm, Bounds]], whole_range: Bounds, ends: Sequence[Dim]
) -> list[tuple[syntax.Arm, Bounds]]:
    """The ranges between neighbouring ends, each with the first arm that holds it; those of one arm are joined."""
    low, high = builder.known(whole_range.low), builder.known(whole_range.high)
    points = {builder.known(end): end for end in ends if low <= builder.known(end) <= high}
    found: list[tuple[syntax.Arm, Bounds]] = []
    for start, stop in pairwise(sorted(points)):
        holding = (arm for arm, b in arms if builder.known(b.low) <= start and stop <= builder.known(b.high))
        arm = next(holding, None)
        if arm is None:
            continue
        if found and found[-1][0] is arm and found[-1][1].high is points[start]:
            found[-1] = (arm, Bounds(found[-1][1].low, points[stop]))
        else:
            found.append((arm, Bounds(points[start], points[stop])))
    return found


def _arm(
    builder: Evaluator, arm: syntax.Arm, bounds: Bounds, node: syntax.Match, index: Array, scope: Scope
) -> tuple[Block, Value]:
    """An arm's block, still open, and its value. The subject is known to lie in the arm's range."""
    inner = scope
    if isinstance(node.subject, syntax.Name):
        narrowed = Array(index.ssa, index.origin, None, bounds, index.slot, index.choice)
        inner = Scope(scope, {node.subject.id: narrowed}, {node.subject.id: node.subject.span})
    with builder.inside(Block()) as block:
        return block, builder.evaluate(arm.body, inner)


def _lent(
    builder: Evaluator, node: syntax.Match, taken: Sequence[syntax.Arm], index: Array, scope: Scope
) -> tuple[Dim, ...]:
    """The shape that arms beyond the index's range lend the others, if these are all scalars."""
    for arm in node.arms:
        if any(arm is other for other in taken):
            continue
        bounds = _pattern(builder, arm.pattern, index.bounds or ANYWHERE, scope)
        if builder.at_most(bounds.high, bounds.low):  # open towards a range that lies on its other side
            opens_low = isinstance(arm.pattern, syntax.Range) and arm.pattern.low is None
            bounds = Bounds(bounds.high - ONE, bounds.high) if opens_low else Bounds(bounds.low, bounds.low + ONE)
        with builder.probing():
            block, value = _arm(builder, arm, bounds, node, index, scope)
        block.erase()
        if isinstance(value, Array) and value.shape:
            return value.shape
    return ()


def _unified(builder: Evaluator, arms: Sequence[tuple[syntax.Arm, Block, Value]]) -> list[tuple[Block, Array]]:
    """The arms' values with one element type: integers if all are, else f32."""
    integral = builder.join_as_integers([value for _, _, value in arms])
    unified: list[tuple[Block, Array]] = []
    for arm, block, value in arms:
        with builder.inside(block):
            array = builder.array(value, arm.body.span, I64) if integral else builder.f32(value, arm.body.span)
            unified.append((block, builder.masked(array)))
    return unified


def _close(builder: Evaluator, block: Block, array: Array, shape: tuple[Dim, ...], node: syntax.Match) -> Region:
    """Ends an arm's block with its value, a scalar repeated to the shape of the others."""
    with builder.inside(block):
        if array.shape and array.shape != shape:
            what = f"arms of shapes {show(shape)} and {show(array.shape)}"
            raise fail("E0201", what, node.span, causes=[shape_origin(array)])
        return moe.region_of([], builder.broadcast(array, shape).ssa, block)
