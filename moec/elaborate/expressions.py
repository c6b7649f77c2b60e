"""Expressions: `RULES` has the code for each kind of node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from xdsl.dialects import arith
from xdsl.ir import SSAValue

from moec.diagnostics import fail
from moec.dialects import moe
from moec.dialects.types import I64
from moec.dims import ZERO, Dim
from moec.elaborate import axes
from moec.elaborate.calls import call, no_string, unknown
from moec.elaborate.evaluator import Evaluator, Rule
from moec.elaborate.functions import FUNCTIONS
from moec.elaborate.match import match
from moec.elaborate.operators import binary, holds, truth_of, unary
from moec.elaborate.selections import as_selection, interval, listed
from moec.elaborate.values import Array, Batch, Bounds, Function, Number, Scope, Value
from moec.language import syntax

_CONSTANTS: Final = ("inf", "pi")


def _number(builder: Evaluator, node: syntax.Number, scope: Scope) -> Value:
    return Number(Dim.of(node.value), node.span)


def _name(builder: Evaluator, node: syntax.Name, scope: Scope) -> Value:
    value = scope.find(node.id) or builder.functions.find(node.id)
    if value is not None:
        return value
    if node.id in _CONSTANTS:
        return Number(Dim.symbol(node.id), node.span)
    if node.id in FUNCTIONS:
        return Function(node.id)
    if node.id == "batch":
        return Batch()
    raise unknown(builder, node, scope, [*scope.names(), *builder.functions.names(), *FUNCTIONS])


def _string(builder: Evaluator, node: syntax.String, scope: Scope) -> Value:
    raise no_string(node)


def _group(builder: Evaluator, node: syntax.Group, scope: Scope) -> Value:
    return builder.evaluate(node.inner, scope)


def _unary(builder: Evaluator, node: syntax.Unary, scope: Scope) -> Value:
    return unary(builder, node, builder.evaluate(node.operand, scope))


def _binary(builder: Evaluator, node: syntax.Binary, scope: Scope) -> Value:
    left = builder.evaluate(node.left, scope)
    right = builder.evaluate(node.right, scope)
    return binary(builder, node, left, right)


def _set(builder: Evaluator, node: syntax.Set, scope: Scope) -> Value:
    values = [builder.evaluate(element, scope) for element in node.elements]
    return listed(builder, values, [element.span for element in node.elements], node.span)


def _range(builder: Evaluator, node: syntax.Range, scope: Scope) -> Value:
    ends = [
        builder.integer(builder.evaluate(end, scope), end.span, "the end of a range")
        for end in (node.low, node.high)
        if end
    ]
    if not builder.at_most(ends[0], ends[1]):
        raise fail("E0206", f"the range {ends[0]}..{ends[1]} runs backwards", node.span)
    return interval(builder, ends[0], ends[1], node.span)


def _binder(builder: Evaluator, node: syntax.Binder, scope: Scope) -> Value:
    selection = as_selection(builder.evaluate(node.selection, scope), node.selection.span)
    body: list[Array] = []

    def emit(arguments: Sequence[SSAValue]) -> SSAValue:
        position, slot = arguments
        position.name_hint, slot.name_hint = node.name.id, "slot"
        bounds = Bounds(selection.start or ZERO, selection.domain)
        index = Array(position, node.name.span, bounds=bounds, slot=(selection, slot))
        inner = Scope(scope, {node.name.id: index}, {node.name.id: node.name.span})
        value = builder.array(builder.evaluate(node.body, inner), node.body.span)
        body.append(_summand(builder, node, value))
        return body[0].ssa

    region = builder.region([I64, I64], emit)
    if node.kind == "sum":
        return Array(builder.emit(moe.SumOp.make(selection.ssa, regions=[region])), body[0].origin, body[0].restriction)
    restriction = selection if selection.start is None else None
    return Array(builder.emit(moe.EachOp.make(selection.ssa, regions=[region])), node.span, restriction)


def _summand(builder: Evaluator, node: syntax.Binder, value: Array) -> Array:
    if node.kind == "each" or value.element == "i64":
        return builder.masked(value)
    return builder.masked(builder.f32(value, node.body.span))


def _if(builder: Evaluator, node: syntax.If, scope: Scope) -> Value:
    condition = builder.evaluate(node.condition, scope)
    if isinstance(condition, Number):
        taken = node.then if holds(condition, node.condition.span) else node.otherwise
        return builder.evaluate(taken, scope)
    flags = truth_of(builder, condition, node.condition.span)
    pair = [builder.evaluate(branch, scope) for branch in (node.then, node.otherwise)]
    spans = (node.then.span, node.otherwise.span)
    integral = builder.join_as_integers(pair)
    logical = all(map(builder.is_truth, pair))
    arrays = [
        builder.array(value, span, I64) if integral or logical else builder.f32(value, span)
        for value, span in zip(pair, spans, strict=True)
    ]
    result = builder.pointwise([flags, *arrays], node.span, arith.SelectOp)
    full = next((array for array in arrays if array.shape), None)
    bounds = _hull(builder, arrays) if integral and not result.shape else None
    return Array(result.ssa, full.origin if full else node.span, result.restriction, bounds)


def _hull(builder: Evaluator, arrays: Sequence[Array]) -> Bounds | None:
    """Bounds that hold the bounds of all, where the larger and the smaller are known."""
    known = [array.bounds for array in arrays]
    if any(bounds is None for bounds in known):
        return None
    found = [bounds for bounds in known if bounds is not None]
    low = found[0].low if builder.at_most(found[0].low, found[1].low) else found[1].low
    high = found[1].high if builder.at_most(found[0].high, found[1].high) else found[0].high
    return Bounds(low, high)


RULES: Final[Mapping[type[Any], Rule]] = {
    syntax.Number: _number,
    syntax.Name: _name,
    syntax.String: _string,
    syntax.Group: _group,
    syntax.Unary: _unary,
    syntax.Binary: _binary,
    syntax.Transpose: axes.transpose,
    syntax.Split: axes.split,
    syntax.Index: axes.index,
    syntax.Set: _set,
    syntax.Range: _range,
    syntax.Binder: _binder,
    syntax.If: _if,
    syntax.Match: match,
    syntax.Call: call,
}
