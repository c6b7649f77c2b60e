"""Axes: `.T`, `split`, and what stands in brackets behind an array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.ir import SSAValue

from moec.diagnostics import fail
from moec.dialects import moe
from moec.dialects.types import I64
from moec.dims import ONE, ZERO, Dim, ceiling, product
from moec.elaborate.builder import LEAST, dims_attr
from moec.elaborate.evaluator import Evaluator
from moec.elaborate.selections import interval
from moec.elaborate.values import Array, Bounds, Number, Scope, Selection, by_rows, kind_of, shape_origin, show
from moec.language import syntax
from moec.source import Span


def transpose(builder: Evaluator, node: syntax.Transpose, scope: Scope) -> Array:
    """`A.T`."""
    array = builder.array(builder.evaluate(node.operand, scope), node.operand.span)
    if len(array.shape) < 2:
        text = f"`.T` needs two axes, this has shape {show(array.shape)}"
        raise fail("E0207", text, node.span, help=_products(array) if array.shape else None)
    return Array(builder.emit(moe.TransposeOp.make(builder.masked(array).ssa)), array.origin)


def _products(vector: Array) -> str:
    """The help for a vector that is transposed: what that would be for."""
    outer = by_rows(vector, "a[i] * b")
    return f"a vector is no matrix: `{outer}` is an outer product, `a @ b` an inner one"


def split(builder: Evaluator, node: syntax.Split, scope: Scope) -> Array:
    """`split v as [G, _]`."""
    array = builder.array(builder.evaluate(node.operand, scope), node.operand.span)
    total, shape, hole = product(array.shape), [ONE] * len(node.shape), None
    for position, item in enumerate(node.shape):
        if isinstance(item, syntax.Name) and item.id == "_":
            if hole is not None:
                raise fail("E0202", "only one `_` can be computed", item.span)
            hole = position
        else:
            shape[position] = builder.integer(builder.evaluate(item, scope), item.span, "a dimension", 1)
    if hole is not None:
        shape[hole] = _quotient(builder, node, total, product(shape))
    known = (builder.known(product(shape)), builder.known(total))
    if product(shape) != total and (None in known or known[0] != known[1]):
        what = f"{show(array.shape)} does not split as {show(tuple(shape))}"
        raise fail("E0202", what, node.span, causes=[shape_origin(array)])
    return Array(builder.emit(moe.ReshapeOp.make(builder.masked(array).ssa, shape=dims_attr(shape))), array.origin)


def _quotient(builder: Evaluator, node: syntax.Split, total: Dim, part: Dim) -> Dim:
    known = builder.known(total / part)
    if known is not None and known.denominator != 1:
        raise fail("E0202", f"`{total}` = {builder.known(total)} is not divisible by {builder.known(part)}", node.span)
    return total / part


def index(builder: Evaluator, node: syntax.Index, scope: Scope) -> Array:
    """`A[i, a:b, selection]`: each item reads, cuts or chooses along the next axis."""
    base = builder.evaluate(node.operand, scope)
    array = builder.array(base, node.operand.span)
    if len(node.items) > len(array.shape):
        for name in (item for item in node.items if isinstance(item, syntax.Name)):
            builder.evaluate(name, scope)  # of `p[None, :]` the name is what is wrong
        raise fail("E0207", f"{kind_of(array)} has no axis {len(array.shape)}", node.span)
    axis = 0
    for item in node.items:
        array, axis = _item(builder, array, axis, item, scope)
    return array


def _item(builder: Evaluator, array: Array, axis: int, item: Any, scope: Scope) -> tuple[Array, int]:
    """Applies one item of an index to an axis; the axis that the next item is for."""
    if isinstance(item, syntax.Slice):
        return _slice(builder, array, axis, item, scope), axis + 1
    value = builder.evaluate(item, scope)
    if isinstance(value, Number):
        return _fixed(builder, array, axis, value, item.span), axis
    if not isinstance(value, Selection):
        value = builder.array(value, item.span, I64)
        if value.shape or value.element != "i64":
            what = f"{kind_of(value)} stands where an index is needed"
            raise fail("E0204", what, item.span, help=_chosen(item, value, array.shape[axis]))
    return _at(builder, array, axis, value, item.span)


def _chosen(item: syntax.Expr, value: Array, size: Dim) -> str | None:
    """The help for what stands where an index is needed: the selection that a vector means, the index that a number
    is."""
    if not value.shape and value.element != "bool":
        rounded = isinstance(item, syntax.Call) and item.function.id == "floor"
        number = item.span.text if rounded else f"floor({item.span.text})"
        return f"`argmax(each i in 0..{size}: if {number} == i then 1 else 0)` is that number as an index"
    if len(value.shape) != 1:
        return None
    if isinstance(item, syntax.Call) and item.function.id == "ids":
        return f"`{item.arguments[0].span.text}` itself selects these"
    hints = {
        "bool": f"`where({item.span.text})` selects those that hold",
        "i64": f"`given({item.span.text}, n)` selects by indices in `0..n`",
    }
    return hints.get(value.element)


def _at(builder: Evaluator, array: Array, axis: int, place: Array | Selection, span: Span) -> tuple[Array, int]:
    """The part at an index, or the parts at those of a selection; the axis that the next item is for."""
    if axis:
        return _along(builder, array, axis, place, span)
    if isinstance(place, Selection):
        return _gather(builder, array, place), 1
    return _element(builder, array, place, span), 0


def _fixed(builder: Evaluator, array: Array, axis: int, value: Number, span: Span) -> Array:
    """The part at an index that is known while compiling; the axis is gone."""
    offset = _position(builder, value, array.shape[axis], span)
    if len(array.shape) == 1:
        index = Array(builder.number(offset, I64), span, bounds=Bounds(offset, offset + ONE))
        return builder.extract(builder.masked(array), index, span)
    part = _part(builder, array, axis, offset, ONE, ONE)
    shape = part.shape[:axis] + part.shape[axis + 1 :]
    keep = array.restriction if axis else None
    return Array(builder.emit(moe.ReshapeOp.make(part.ssa, shape=dims_attr(shape))), array.origin, keep)


def _along(builder: Evaluator, array: Array, axis: int, place: Array | Selection, span: Span) -> tuple[Array, int]:
    """An index or selection of an inner axis: the same for every element of the axes before it."""
    selection = interval(builder, ZERO, array.shape[0], span)
    inner: list[tuple[Array, int]] = []

    def body(arguments: Sequence[SSAValue]) -> SSAValue:
        row = Array(builder.emit(moe.ExtractOp.make(array.ssa, arguments[0])), array.origin)
        inner.append(_at(builder, row, axis - 1, place, span))
        return inner[-1][0].ssa

    region = builder.region([I64, I64], body)
    result = Array(builder.emit(moe.EachOp.make(selection.ssa, regions=[region])), array.origin, array.restriction)
    return result, inner[-1][1] + 1


def _element(builder: Evaluator, array: Array, index: Array, span: Span) -> Array:
    """The part at one index of the first axis: at its slot, which is filled, where the index stands in one."""
    restriction = array.restriction
    slot = None if restriction is None else builder.slot_in(index, restriction)
    if slot is None:
        return builder.extract(builder.masked(array), index, span)
    return Array(builder.emit(moe.ExtractOp.make(array.ssa, slot)), array.origin)


def _gather(builder: Evaluator, array: Array, selection: Selection) -> Array:
    """The chosen parts: by index of a whole axis, by slot where the axis stands for a selection chosen from."""
    if array.restriction is selection:
        return array
    positions = selection.ssa
    if array.restriction is not None:
        positions = next((map for parent, map in selection.parents if parent is array.restriction), None)
        if positions is None:
            raise fail("E0204", "this vector belongs to another selection", builder.span)
    elif not builder.at_most(selection.domain, array.shape[0]):
        message = f"indices in 0..{selection.domain} can lie outside an axis of {array.shape[0]}"
        raise fail("E0205", message, builder.span, causes=[shape_origin(array)])
    return Array(builder.emit(moe.GatherOp.make(array.ssa, positions)), selection.origin, selection)


def _position(builder: Evaluator, value: Number, axis: Dim, span: Span) -> Dim:
    offset = builder.integer(value, span, "an index", least=LEAST)
    if (builder.known(offset) or 0) < 0:
        offset = axis + offset
    if not builder.at_most(offset + ONE, axis) or not builder.at_most(ZERO, offset):
        raise fail("E0205", f"index `{span.text}` lies outside an axis of {axis}", span)
    return offset


def _slice(builder: Evaluator, array: Array, axis: int, item: syntax.Slice, scope: Scope) -> Array:
    if item.low is item.high is item.step is None:
        return array
    size = array.shape[axis]
    low = _end(builder, item.low, ZERO, size, scope)
    high = _end(builder, item.high, size, size, scope)
    step = ONE if item.step is None else _integer_of(builder, item.step, scope, "a slice's step", 1)
    if not builder.at_most(ZERO, low) or not builder.at_most(low, high) or not builder.at_most(high, size):
        raise fail("E0205", f"slice {low}..{high} lies outside an axis of {size}", item.span)
    if low == ZERO and high == size and step == ONE:
        return array if axis else builder.unrestricted(array)
    return _part(builder, array, axis, low, _count(builder, high - low, step), step)


def _count(builder: Evaluator, length: Dim, step: Dim) -> Dim:
    """How many elements a slice takes."""
    if step.constant is not None and (count := ceiling(length, int(step.constant), builder.binding)) is not None:
        return count
    known = builder.known(length / step)
    return length / step if known is None else Dim.of(-((-known.numerator) // known.denominator))


def _integer_of(builder: Evaluator, node: Any, scope: Scope, what: str, least: int = LEAST) -> Dim:
    return builder.integer(builder.evaluate(node, scope), node.span, what, least)


def _end(builder: Evaluator, node: Any, default: Dim, size: Dim, scope: Scope) -> Dim:
    if node is None:
        return default
    dim = _integer_of(builder, node, scope, "the end of a slice")
    return size + dim if (builder.known(dim) or 0) < 0 else dim


def _part(builder: Evaluator, array: Array, axis: int, offset: Dim, size: Dim, step: Dim) -> Array:
    array = array if axis else builder.unrestricted(array)
    operation = moe.SliceOp.make(array.ssa, axis=axis, offset=offset, size=size, step=step)
    return Array(builder.emit(operation), array.origin, array.restriction)
