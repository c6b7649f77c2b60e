"""Expressions: one method a kind of node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, singledispatchmethod
from itertools import pairwise
from typing import Any, Final

from xdsl.dialects import arith
from xdsl.ir import Block, Operation, Region, SSAValue

from moec.diagnostics import CompileError, Diagnostic, Label, fail, nearest
from moec.dialects import moe
from moec.dialects.types import BOOL, I64, element_of
from moec.dims import ONE, ZERO, Dim, ceiling, product
from moec.elaborate.builder import Builder, dims_attr, index_bounds
from moec.elaborate.functions import FUNCTIONS, Called, Operand, as_selection, is_integral, listed, power, whole
from moec.elaborate.values import ANYWHERE, Array, Bounds, Function, Number, Scope, Selection, Value, kind_of, show
from moec.language import syntax
from moec.source import Span

_FLOAT_OPS: Final[dict[str, Callable[..., Operation]]] = {
    "+": arith.AddfOp,
    "-": arith.SubfOp,
    "*": arith.MulfOp,
    "/": arith.DivfOp,
}
_INTEGER_OPS: Final[dict[str, Callable[..., Operation]]] = {
    "+": arith.AddiOp,
    "-": arith.SubiOp,
    "*": arith.MuliOp,
    "/": arith.FloorDivSIOp,
}
#: The predicates of `arith.cmpf` and `arith.cmpi`.
_COMPARE: Final = {
    "<": ("olt", "slt"),
    "<=": ("ole", "sle"),
    ">": ("ogt", "sgt"),
    ">=": ("oge", "sge"),
    "==": ("oeq", "eq"),
    "!=": ("une", "ne"),
}
_LOGIC: Final[dict[str, Callable[..., Operation]]] = {"and": arith.AndIOp, "or": arith.OrIOp}
_CONSTANTS: Final = ("inf", "pi")

#: How deep functions may call each other before one is said to need itself.
_MAX_CALLS: Final = 64


class Expressions(Builder):
    """Evaluates expressions to values, emitting operations on the way."""

    def __init__(self, binding: dict[str, int], functions: Scope) -> None:
        super().__init__(binding)
        self.functions = functions
        self._calls: list[tuple[syntax.Function, Span]] = []

    def evaluate(self, node: Any, scope: Scope) -> Value:
        """The value of an expression."""
        outer, self.span = self.span, node.span
        try:
            return self._eval(node, scope)
        finally:
            self.span = outer

    @singledispatchmethod
    def _eval(self, node: Any, scope: Scope) -> Value:
        raise fail("E0204", "this cannot stand in an expression here", node.span)

    # leaves

    @_eval.register
    def _number(self, node: syntax.Number, scope: Scope) -> Value:
        return Number(Dim.of(node.value), node.span)

    @_eval.register
    def _name(self, node: syntax.Name, scope: Scope) -> Value:
        value = scope.find(node.id) or self.functions.find(node.id)
        if value is not None:
            return value
        if node.id in _CONSTANTS:
            return Number(Dim.symbol(node.id), node.span)
        if node.id in FUNCTIONS:
            return Function(node.id)
        raise self.unknown(node, [*scope.names(), *self.functions.names(), *FUNCTIONS])

    def unknown(self, node: syntax.Name, names: Sequence[str]) -> CompileError:
        return fail("E0101", f"`{node.id}` is not defined", node.span, help=nearest(node.id, names))

    @_eval.register
    def _string(self, node: syntax.String, scope: Scope) -> Value:
        raise fail("E0204", "a string stands only in a `bind`", node.span)

    @_eval.register
    def _group(self, node: syntax.Group, scope: Scope) -> Value:
        return self.evaluate(node.inner, scope)

    # operators

    @_eval.register
    def _unary(self, node: syntax.Unary, scope: Scope) -> Value:
        value = self.evaluate(node.operand, scope)
        if node.op == "not":
            return self._not(value, node)
        if isinstance(value, Number):
            return Number(-value.dim if node.op == "-" else value.dim, node.span)
        if node.op == "+":
            return value
        if isinstance(value, Array) and value.element == "i64":
            return self._integers("-", Array(self.number(ZERO, I64), node.span), value, node.span)
        return self.pointwise([self.f32(value, node.operand.span)], node.span, arith.NegfOp)

    def _not(self, value: Value, node: syntax.Unary) -> Value:
        if isinstance(value, Number):
            return _truth(not self.known(value.dim), node.span)
        array = self._bool(value, node.operand.span)
        one = Array(self.number(ONE, BOOL), node.span)
        return self.pointwise([array, one], node.span, arith.XOrIOp)

    @_eval.register
    def _binary(self, node: syntax.Binary, scope: Scope) -> Value:
        left = self.evaluate(node.left, scope)
        right = self.evaluate(node.right, scope)
        return self._operators[node.op](self, node, left, right)

    def _arithmetic(self, node: syntax.Binary, left: Value, right: Value) -> Value:
        if isinstance(left, Number) and isinstance(right, Number):
            return self._fold(node, left.dim, right.dim)
        if is_integral(left) and is_integral(right):
            pair = (self.array(left, node.left.span, I64), self.array(right, node.right.span, I64))
            return self._integers(node.op, *pair, node.span)
        if node.op == "%":
            raise fail("E0204", "`%` works on integers", node.span)
        pair = (self.f32(left, node.left.span), self.f32(right, node.right.span))
        return self.pointwise(pair, node.span, _FLOAT_OPS[node.op])

    def _fold(self, node: syntax.Binary, left: Dim, right: Dim) -> Number:
        match node.op:
            case "+":
                dim = left + right
            case "-":
                dim = left - right
            case "*":
                dim = left * right
            case "/":
                if self.known(right) == 0:
                    raise fail("E0202", f"`{node.right.span.text}` is zero", node.right.span)
                dim = left / right
            case _:
                dim = self._remainder(node, left, right)
        return Number(dim, node.span)

    def _remainder(self, node: syntax.Binary, left: Dim, right: Dim) -> Dim:
        a, b = self.known(left), self.known(right)
        if a is None or not b:
            raise fail("E0301", "`%` of dimensions needs their values", node.span)
        return Dim.of(a % b)

    def _integers(self, op: str, left: Array, right: Array, span: Span) -> Array:
        def emit(a: SSAValue, b: SSAValue) -> SSAValue:
            if op != "%":
                return self.emit(_INTEGER_OPS[op](a, b))
            quotient = self.emit(arith.FloorDivSIOp(a, b))
            return self.emit(arith.SubiOp(a, self.emit(arith.MuliOp(quotient, b))))

        result = self.pointwise([left, right], span, emit)
        bounds = None if result.shape else index_bounds(op, left, right)
        return Array(result.ssa, result.origin, result.restriction, bounds)

    def _power(self, node: syntax.Binary, left: Value, right: Value) -> Value:
        if isinstance(left, Number) and isinstance(right, Number):
            exponent = self.known(right.dim)
            if isinstance(exponent, float) or exponent is None:
                raise fail("E0204", "the power of a number needs a known exponent", node.right.span)
            if abs(exponent) > 1024:
                raise fail("E0206", f"the exponent {exponent} of a number is beyond 1024", node.right.span)
            if self.known(left.dim) == 0 and exponent < 0:
                raise fail("E0202", f"`{node.span.text}` divides by zero", node.span)
            return Number(left.dim**exponent, node.span)
        return power(self, self.f32(left, node.left.span), right, node.span, node.right.span)

    def _compare(self, node: syntax.Binary, left: Value, right: Value) -> Value:
        floats, integers = _COMPARE[node.op]
        if isinstance(left, Number) and isinstance(right, Number):
            return self._compare_numbers(node, left, right)
        if is_integral(left) and is_integral(right):
            pair = (self.array(left, node.left.span, I64), self.array(right, node.right.span, I64))
            return self.pointwise(pair, node.span, partial(arith.CmpiOp, arg=integers))
        pair = (self.f32(left, node.left.span), self.f32(right, node.right.span))
        return self.pointwise(pair, node.span, partial(arith.CmpfOp, arg=floats))

    def _compare_numbers(self, node: syntax.Binary, left: Number, right: Number) -> Number:
        a, b = self.known(left.dim), self.known(right.dim)
        if a is None or b is None:
            raise fail("E0301", "this comparison needs the values of its dimensions", node.span)
        results = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}
        return _truth(results[node.op], node.span)

    def _logic(self, node: syntax.Binary, left: Value, right: Value) -> Value:
        if isinstance(left, Number) and isinstance(right, Number):
            a, b = bool(self.known(left.dim)), bool(self.known(right.dim))
            return _truth(a and b if node.op == "and" else a or b, node.span)
        pair = (self._bool(left, node.left.span), self._bool(right, node.right.span))
        return self.pointwise(pair, node.span, _LOGIC[node.op])

    def _bool(self, value: Value, span: Span) -> Array:
        array = self.array(value, span, BOOL)
        if array.element != "bool":
            raise fail("E0204", f"{kind_of(value)} stands where a truth value is needed", span)
        return array

    def _in(self, node: syntax.Binary, left: Value, right: Value) -> Value:
        index = self.array(left, node.left.span, I64)
        selection = as_selection(self, right, node.right.span)
        if index.element != "i64":
            raise fail("E0204", f"{kind_of(left)} stands where an index is needed", node.left.span)
        return self.pointwise([index], node.span, partial(moe.ContainsOp.make, selection.ssa))

    def _contract(self, node: syntax.Binary, left: Value, right: Value) -> Value:
        weight, vector = self.array(left, node.left.span), self.array(right, node.right.span)
        if weight.element in ("i64", "bool"):
            raise fail("E0204", f"`@` contracts numbers, not {weight.element}", node.left.span)
        if not weight.shape or len(vector.shape) != 1:
            wrong = node.right.span if weight.shape else node.left.span
            hint = "write `W.T @ v` for a vector times a matrix, `each i in 0..n: W @ A[i]` for several vectors"
            what = f"`{show(weight.shape)} @ {show(vector.shape)}`: `@` takes a vector on the right"
            raise fail("E0204", what, wrong, help=hint)
        if weight.shape[-1] != vector.shape[0]:
            raise self.mismatch(weight, vector, node.span)
        if len(weight.shape) == 1:
            self.common_restriction([weight, vector], node.span)
            weight = self.masked(weight)
        vector = self.masked(self.cast_array(vector, element_of(weight.ssa.type), node.right.span))
        restriction = weight.restriction if len(weight.shape) > 1 else None
        return Array(self.emit(moe.ContractOp.make(weight.ssa, vector.ssa)), weight.origin, restriction)

    _operators: Final[dict[str, Callable[..., Value]]] = {
        **dict.fromkeys(("+", "-", "*", "/", "%"), _arithmetic),
        **dict.fromkeys(_COMPARE, _compare),
        "**": _power,
        "@": _contract,
        "and": _logic,
        "or": _logic,
        "in": _in,
    }

    # axes

    @_eval.register
    def _transpose(self, node: syntax.Transpose, scope: Scope) -> Value:
        array = self.array(self.evaluate(node.operand, scope), node.operand.span)
        if len(array.shape) < 2:
            raise fail("E0207", f"`.T` needs two axes, this has shape {show(array.shape)}", node.span)
        return Array(self.emit(moe.TransposeOp.make(self.masked(array).ssa)), array.origin)

    @_eval.register
    def _split(self, node: syntax.Split, scope: Scope) -> Value:
        array = self.array(self.evaluate(node.operand, scope), node.operand.span)
        total, shape, hole = product(array.shape), [ONE] * len(node.shape), None
        for position, item in enumerate(node.shape):
            if isinstance(item, syntax.Name) and item.id == "_":
                if hole is not None:
                    raise fail("E0202", "only one `_` can be computed", item.span)
                hole = position
            else:
                shape[position] = self.integer(self.evaluate(item, scope), item.span, "a dimension", 1)
        if hole is not None:
            shape[hole] = self._quotient(node, total, product(shape))
        known = (self.known(product(shape)), self.known(total))
        if product(shape) != total and (None in known or known[0] != known[1]):
            label = Label(array.origin, f"{show(array.shape)} comes from here")
            raise fail(
                "E0202", f"{show(array.shape)} does not split as {show(tuple(shape))}", node.span, causes=[label]
            )
        return Array(self.emit(moe.ReshapeOp.make(self.masked(array).ssa, shape=dims_attr(shape))), array.origin)

    def _quotient(self, node: syntax.Split, total: Dim, part: Dim) -> Dim:
        known = self.known(total / part)
        if known is not None and known.denominator != 1:
            raise fail("E0202", f"`{total}` = {self.known(total)} is not divisible by {self.known(part)}", node.span)
        return total / part

    @_eval.register
    def _index(self, node: syntax.Index, scope: Scope) -> Value:
        base = self.evaluate(node.operand, scope)
        array = self.array(base, node.operand.span)
        if len(node.items) > len(array.shape):
            raise fail("E0207", f"{kind_of(array)} has no axis {len(array.shape)}", node.span)
        axis = 0
        for item in node.items:
            array, axis = self._item(array, axis, item, scope)
        return array

    def _item(self, array: Array, axis: int, item: Any, scope: Scope) -> tuple[Array, int]:
        """Applies one item of an index to an axis; the axis that the next item is for."""
        if isinstance(item, syntax.Slice):
            return self._slice(array, axis, item, scope), axis + 1
        value = self.evaluate(item, scope)
        if isinstance(value, Number):
            offset = self._position(value, array.shape[axis], item.span)
            part = self._part(array, axis, offset, ONE, ONE)
            shape = part.shape[:axis] + part.shape[axis + 1 :]
            if not shape:
                return self.extract(
                    array, Array(self.number(offset, I64), item.span, bounds=Bounds(offset, offset + ONE)), item.span
                ), axis
            keep = array.restriction if axis else None
            return Array(self.emit(moe.ReshapeOp.make(part.ssa, shape=dims_attr(shape))), array.origin, keep), axis
        if axis:
            return self._along(array, axis, value, item)
        if isinstance(value, Selection):
            return self._gather(array, value), 1
        index = self.array(value, item.span, I64)
        if index.shape or index.element != "i64":
            raise fail("E0204", f"{kind_of(index)} stands where an index is needed", item.span)
        return self._element(array, index, item.span), 0

    def _along(self, array: Array, axis: int, value: Value, item: Any) -> tuple[Array, int]:
        """An index or selection of an inner axis: the same for every element of the axes before it."""
        selection = whole(self, ZERO, array.shape[0], item.span)
        inner: list[tuple[Array, int]] = []

        def body(arguments: Sequence[SSAValue]) -> SSAValue:
            row = Array(self.emit(moe.ExtractOp.make(array.ssa, arguments[0], checked=None)), array.origin)
            if axis > 1:
                inner.append(self._along(row, axis - 1, value, item))
            elif isinstance(value, Selection):
                inner.append((self._gather(row, value), 1))
            else:
                inner.append((self._element(row, self.array(value, item.span, I64), item.span), 0))
            return inner[-1][0].ssa

        region = self.region([I64, I64], body)
        result = Array(self.emit(moe.EachOp.make(selection.ssa, regions=[region])), array.origin, array.restriction)
        return result, inner[-1][1] + 1

    def _element(self, array: Array, index: Array, span: Span) -> Array:
        restriction = array.restriction
        slot = self.slot_in(index, restriction) if restriction is not None else None
        if restriction is None:
            return self.extract(array, index, span)
        if slot is not None:
            return Array(self.emit(moe.ExtractOp.make(array.ssa, slot, checked=None)), array.origin)
        return self.extract(array, index, span)

    def _gather(self, array: Array, selection: Selection) -> Array:
        positions = selection.ssa
        if array.restriction is not None:
            positions = next((map for parent, map in selection.parents if parent is array.restriction), None)
            if array.restriction is selection:
                return array
            if positions is None:
                raise fail("E0204", "this vector belongs to another selection", self.span)
        elif not self.at_most(selection.domain, array.shape[0]):
            message = f"indices in 0..{selection.domain} can lie outside an axis of {array.shape[0]}"
            raise fail(
                "E0205", message, self.span, causes=[Label(array.origin, f"{show(array.shape)} comes from here")]
            )
        return Array(self.emit(moe.GatherOp.make(array.ssa, positions)), selection.origin, selection)

    def _position(self, value: Number, axis: Dim, span: Span) -> Dim:
        offset = self.integer(value, span, "an index", least=-(1 << 62))
        if (self.known(offset) or 0) < 0:
            offset = axis + offset
        if not self.at_most(offset + ONE, axis) or not self.at_most(ZERO, offset):
            raise fail("E0205", f"index `{span.text}` lies outside an axis of {axis}", span)
        return offset

    def _slice(self, array: Array, axis: int, item: syntax.Slice, scope: Scope) -> Array:
        size = array.shape[axis]
        low = self._end(item.low, ZERO, size, scope)
        high = self._end(item.high, size, size, scope)
        step = self._end(item.step, ONE, size, scope, least=1)
        if not self.at_most(ZERO, low) or not self.at_most(low, high) or not self.at_most(high, size):
            raise fail("E0205", f"slice {low}..{high} lies outside an axis of {size}", item.span)
        if low == ZERO and high == size and step == ONE:
            return array
        return self._part(array, axis, low, self._count(high - low, step), step)

    def _count(self, length: Dim, step: Dim) -> Dim:
        """How many elements a slice takes."""
        if step.constant is not None and (count := ceiling(length, int(step.constant))) is not None:
            return count
        known = self.known(length / step)
        return length / step if known is None else Dim.of(-((-known.numerator) // known.denominator))

    def _end(self, node: Any, default: Dim, size: Dim, scope: Scope, least: int = -(1 << 62)) -> Dim:
        if node is None:
            return default
        dim = self.integer(self.evaluate(node, scope), node.span, "the end of a slice", least)
        return size + dim if (self.known(dim) or 0) < 0 else dim

    def _part(self, array: Array, axis: int, offset: Dim, size: Dim, step: Dim) -> Array:
        array = array if axis else self.masked(array)
        operation = moe.SliceOp.make(array.ssa, axis=axis, offset=offset, size=size, step=step)
        return Array(self.emit(operation), array.origin, array.restriction if axis else None)

    # selections and regions

    @_eval.register
    def _set(self, node: syntax.Set, scope: Scope) -> Value:
        values = [self.evaluate(element, scope) for element in node.elements]
        return listed(self, values, [element.span for element in node.elements], node.span)

    @_eval.register
    def _range(self, node: syntax.Range, scope: Scope) -> Value:
        ends = [
            self.integer(self.evaluate(end, scope), end.span, "the end of a range")
            for end in (node.low, node.high)
            if end
        ]
        if not self.at_most(ends[0], ends[1]):
            raise fail("E0206", f"the range {ends[0]}..{ends[1]} runs backwards", node.span)
        return whole(self, ends[0], ends[1], node.span)

    @_eval.register
    def _binder(self, node: syntax.Binder, scope: Scope) -> Value:
        selection = as_selection(self, self.evaluate(node.selection, scope), node.selection.span)
        body: list[Array] = []

        def emit(arguments: Sequence[SSAValue]) -> SSAValue:
            index = Array(
                arguments[0],
                node.name.span,
                bounds=Bounds(selection.start or ZERO, selection.domain),
                slot=(selection, arguments[1]),
            )
            inner = Scope(scope, {node.name.id: index}, {node.name.id: node.name.span})
            value = self.array(self.evaluate(node.body, inner), node.body.span)
            body.append(self._summand(node, value))
            return body[0].ssa

        region = self.region([I64, I64], emit)
        if node.kind == "sum":
            return Array(
                self.emit(moe.SumOp.make(selection.ssa, regions=[region])), body[0].origin, body[0].restriction
            )
        restriction = selection if selection.start is None else None
        return Array(self.emit(moe.EachOp.make(selection.ssa, regions=[region])), node.span, restriction)

    def _summand(self, node: syntax.Binder, value: Array) -> Array:
        if node.kind == "each" or value.element == "i64":
            return self.masked(value)
        return self.masked(self.f32(value, node.body.span))

    @_eval.register
    def _if(self, node: syntax.If, scope: Scope) -> Value:
        condition = self.evaluate(node.condition, scope)
        if isinstance(condition, Number):
            return self.evaluate(node.then if self.known(condition.dim) else node.otherwise, scope)
        flags = self._bool(condition, node.condition.span)
        pair = [self.evaluate(branch, scope) for branch in (node.then, node.otherwise)]
        spans = (node.then.span, node.otherwise.span)
        integral = all(map(is_integral, pair)) and not all(isinstance(value, Number) for value in pair)
        arrays = [
            self.array(value, span, I64) if integral else self.f32(value, span)
            for value, span in zip(pair, spans, strict=True)
        ]
        result = self.pointwise([flags, *arrays], node.span, arith.SelectOp)
        full = next((array for array in arrays if array.shape), None)
        bounds = self._hull(arrays) if integral and not result.shape else None
        return Array(result.ssa, full.origin if full else node.span, result.restriction, bounds)

    def _hull(self, arrays: Sequence[Array]) -> Bounds | None:
        """Bounds that hold the bounds of all, where the larger and the smaller are known."""
        known = [array.bounds for array in arrays]
        if any(bounds is None for bounds in known):
            return None
        found = [bounds for bounds in known if bounds is not None]
        low = found[0].low if self.at_most(found[0].low, found[1].low) else found[1].low
        high = found[1].high if self.at_most(found[0].high, found[1].high) else found[0].high
        return Bounds(low, high)

    @_eval.register
    def _match(self, node: syntax.Match, scope: Scope) -> Value:
        subject = self.evaluate(node.subject, scope)
        if isinstance(subject, Number):
            return self._match_number(node, subject, scope)
        index = self.array(subject, node.subject.span, I64)
        if index.shape or index.element != "i64":
            raise fail("E0204", f"`match` takes an index, not {kind_of(index)}", node.subject.span)
        arms = self._arms(node, index.bounds or ANYWHERE, scope)
        values = self._unified([(arm, *self._arm(arm, bounds, node, index, scope)) for arm, bounds in arms])
        shape = next((array.shape for _, array in values if array.shape), None)
        if shape is None:
            shape = self._lent(node, [arm for arm, _ in arms], index, scope)
        regions = [self._close(block, array, shape, node) for block, array in values]
        ends = dims_attr([bounds.high for _, bounds in arms])
        result = self.emit(moe.MatchOp.make(index.ssa, bounds=ends, regions=[regions]))
        return Array(result, next((array.origin for _, array in values if array.shape), node.span))

    def _match_number(self, node: syntax.Match, subject: Number, scope: Scope) -> Value:
        value = self.known(subject.dim)
        for arm in node.arms:
            low, high = self._pattern(arm.pattern, ANYWHERE, scope)
            if value is not None and self.known(low) <= value < self.known(high):
                return self.evaluate(arm.body, scope)
        raise fail("E0208", f"no arm holds `{node.subject.span.text}` = {value}", node.span)

    def _pattern(self, pattern: Any, whole_range: Bounds, scope: Scope) -> tuple[Dim, Dim]:
        if not isinstance(pattern, syntax.Range):
            value = self.integer(self.evaluate(pattern, scope), pattern.span, "a pattern")
            return value, value + ONE
        ends = [whole_range.low, whole_range.high]
        for position, end in enumerate((pattern.low, pattern.high)):
            if end is not None:
                ends[position] = self.integer(self.evaluate(end, scope), end.span, "a pattern")
        return ends[0], ends[1]

    def _arms(self, node: syntax.Match, whole_range: Bounds, scope: Scope) -> list[tuple[syntax.Arm, Bounds]]:
        """The arms in rising order, each with the range that it takes; together they cover the index.

        Where every end has a value an earlier arm hides what later ones share with it; ends without values must join.
        """
        arms = [(arm, Bounds(*self._pattern(arm.pattern, whole_range, scope))) for arm in node.arms]
        ends = [end for bounds in (whole_range, *(b for _, b in arms)) for end in (bounds.low, bounds.high)]
        if all(self.known(end) is not None for end in ends):
            arms = self._segments(arms, whole_range, ends)
        at = whole_range.low
        for _, bounds in arms:
            if not self.at_most(bounds.low, at):
                raise fail("E0208", f"`match` leaves out {at}..{bounds.low}", node.span)
            at = bounds.high
        if not self.at_most(whole_range.high, at):
            raise fail("E0208", f"`match` leaves out {at}..{whole_range.high}", node.span)
        return arms

    def _segments(
        self, arms: Sequence[tuple[syntax.Arm, Bounds]], whole_range: Bounds, ends: Sequence[Dim]
    ) -> list[tuple[syntax.Arm, Bounds]]:
        """The ranges between neighbouring ends, each with the first arm that holds it; those of one arm are joined."""
        low, high = self.known(whole_range.low), self.known(whole_range.high)
        points = {self.known(end): end for end in ends if low <= self.known(end) <= high}
        found: list[tuple[syntax.Arm, Bounds]] = []
        for start, stop in pairwise(sorted(points)):
            holding = (arm for arm, b in arms if self.known(b.low) <= start and stop <= self.known(b.high))
            arm = next(holding, None)
            if arm is None:
                continue
            if found and found[-1][0] is arm and found[-1][1].high is points[start]:
                found[-1] = (arm, Bounds(found[-1][1].low, points[stop]))
            else:
                found.append((arm, Bounds(points[start], points[stop])))
        return found

    def _arm(
        self, arm: syntax.Arm, bounds: Bounds, node: syntax.Match, index: Array, scope: Scope
    ) -> tuple[Block, Value]:
        """An arm's block, still open, and its value. The subject is known to lie in the arm's range."""
        inner = scope
        if isinstance(node.subject, syntax.Name):
            narrowed = Array(index.ssa, index.origin, None, bounds, index.slot, index.choice)
            inner = Scope(scope, {node.subject.id: narrowed}, {node.subject.id: node.subject.span})
        with self.inside(Block()) as block:
            return block, self.evaluate(arm.body, inner)

    def _lent(self, node: syntax.Match, taken: Sequence[syntax.Arm], index: Array, scope: Scope) -> tuple[Dim, ...]:
        """The shape that arms beyond the index's range lend the others, if these are all scalars."""
        for arm in node.arms:
            if any(arm is other for other in taken):
                continue
            bounds = Bounds(*self._pattern(arm.pattern, index.bounds or ANYWHERE, scope))
            block, value = self._arm(arm, bounds, node, index, scope)
            block.erase()
            if isinstance(value, Array) and value.shape:
                return value.shape
        return ()

    def _unified(self, arms: Sequence[tuple[syntax.Arm, Block, Value]]) -> list[tuple[Block, Array]]:
        """The arms' values with one element type: integers if all are, else f32."""
        values = [value for _, _, value in arms]
        integral = all(map(is_integral, values)) and not all(isinstance(value, Number) for value in values)
        unified: list[tuple[Block, Array]] = []
        for arm, block, value in arms:
            with self.inside(block):
                array = self.array(value, arm.body.span, I64) if integral else self.f32(value, arm.body.span)
                unified.append((block, self.masked(array)))
        return unified

    def _close(self, block: Any, array: Array, shape: tuple[Dim, ...], node: syntax.Match) -> Region:
        with self.inside(block):
            if array.shape and array.shape != shape:
                raise fail(
                    "E0201",
                    f"arms of shapes {show(shape)} and {show(array.shape)}",
                    node.span,
                    causes=[Label(array.origin, f"{show(array.shape)} comes from here")],
                )
            return moe.region_of([], [self.broadcast(array, shape).ssa], block)

    # calls

    @_eval.register
    def _call(self, node: syntax.Call, scope: Scope) -> Value:
        results = self.call(node, scope)
        if len(results) != 1:
            raise fail("E0106", f"`{node.function.id}` returns {len(results)} values, one is needed", node.span)
        return results[0]

    def call(self, node: syntax.Call, scope: Scope) -> Sequence[Value]:
        """The results of a call: of a value that is a function, of the file, of the prelude, of the language."""
        name = node.function.id
        operands = [
            (argument.name, Operand(self.evaluate(argument.value, scope), argument.value.span))
            for argument in node.arguments
        ]
        found = scope.find(name)
        callee = found if isinstance(found, Function) else self.functions.find(name)
        if isinstance(callee, Function) and callee.node is not None:
            return self._inline(callee, operands, node)
        row_name = callee.name if isinstance(callee, Function) else name
        if row_name not in FUNCTIONS:
            raise self.unknown(node.function, [*self.functions.names(), *FUNCTIONS])
        return [self._builtin(row_name, operands, node)]

    def _builtin(self, name: str, operands: list[tuple[str | None, Operand]], node: syntax.Call) -> Value:
        row = FUNCTIONS[name]
        positional = [operand for label, operand in operands if label is None]
        named = {label: operand for label, operand in operands if label is not None}
        for label in named:
            if label not in row.named:
                raise fail("E0104", f"`{name}` has no parameter `{label}`", node.span)
        if not row.least <= len(positional) <= row.most:
            wanted = str(row.least) if row.least == row.most else f"{row.least} to {row.most}"
            raise fail("E0104", f"`{name}` takes {wanted} arguments, not {len(positional)}", node.span)
        return row.run(Called(name, self, positional, named, node.span))

    def _inline(
        self, callee: Function, operands: list[tuple[str | None, Operand]], node: syntax.Call
    ) -> Sequence[Value]:
        function = callee.node
        assert function is not None
        if len(self._calls) >= _MAX_CALLS:
            places = dict.fromkeys(place for _, place in self._calls[:3])
            chain = [Label(place, "called here") for place in places if place != node.span]
            raise fail(
                "E0103", f"`{callee.name}` needs itself", node.span, causes=chain, help="functions do not recurse"
            )
        scope = Scope(callee.scope)
        self._arguments(function, operands, scope, node)
        self._calls.append((function, node.span))
        try:
            return self.run(function.body, scope)
        except CompileError as error:
            raise _seen_from(error, node.span) from None
        finally:
            self._calls.pop()

    def _arguments(
        self, function: syntax.Function, operands: list[tuple[str | None, Operand]], scope: Scope, node: syntax.Call
    ) -> None:
        names = [parameter.name for parameter in function.parameters]
        positional = [operand for label, operand in operands if label is None]
        if len(positional) > len(names):
            declared = Label(function.name.span, "declared here")
            raise fail(
                "E0104",
                f"`{function.name.id}` takes {len(names)} arguments, not {len(positional)}",
                node.span,
                causes=[declared],
            )
        given = dict(zip(names, positional, strict=False))
        for label, operand in operands:
            if label is None:
                continue
            if label not in names or label in given:
                what = "is given twice" if label in given else "is not a parameter"
                raise fail(
                    "E0104", f"`{label}` {what} of `{function.name.id}`", operand.span, help=nearest(label, names)
                )
            given[label] = operand
        for parameter in function.parameters:
            if parameter.name in given:
                scope.values[parameter.name] = given[parameter.name].value
            elif parameter.default is not None:
                scope.values[parameter.name] = self.evaluate(parameter.default, scope)
            else:
                declared = Label(function.name.span, "declared here")
                raise fail(
                    "E0104",
                    f"`{function.name.id}` needs an argument for `{parameter.name}`",
                    node.span,
                    causes=[declared],
                )
            scope.places[parameter.name] = parameter.span

    def run(self, body: Sequence[syntax.Statement], scope: Scope) -> Sequence[Value]:
        """Runs a function's statements; its results."""
        for statement in body:
            match statement:
                case syntax.Return():
                    return [self.evaluate(value, scope) for value in statement.values]
                case syntax.Assign() | syntax.Function():
                    self.define(statement, scope, body)
                case _:
                    raise fail("E0106", "a function holds definitions and one `return`", statement.span)
        raise fail("E0106", "this function returns nothing", body[-1].span if body else self.span)

    def define(
        self, statement: syntax.Assign | syntax.Function, scope: Scope, body: Sequence[syntax.Statement]
    ) -> None:
        """Gives names their values."""
        if isinstance(statement, syntax.Function):
            self.name(statement.name, Function(statement.name.id, statement, scope), scope)
            return
        names = statement.names
        if len(names) == 1:
            values: Sequence[Value] = [self.evaluate(statement.value, scope)]
        elif isinstance(statement.value, syntax.Call):
            values = self.call(statement.value, scope)
        else:
            raise fail("E0106", "only a call gives several values", statement.value.span)
        if len(values) != len(names):
            raise fail("E0106", f"{len(names)} names for {len(values)} values", statement.span)
        for name, value in zip(names, values, strict=True):
            self.name(name, value, scope)

    def name(self, name: syntax.Name, value: Value, scope: Scope) -> None:
        if name.id in scope.places:
            before = Label(scope.places[name.id], "first defined here")
            raise fail("E0102", f"`{name.id}` is defined twice", name.span, causes=[before])
        scope.values[name.id] = value
        scope.places[name.id] = name.span
        if isinstance(value, Array | Selection) and value.ssa.name_hint is None:
            value.ssa.name_hint = name.id


def _truth(condition: bool, span: Span) -> Number:
    return Number(Dim.of(int(condition)), span)


def _seen_from(error: CompileError, call: Span) -> CompileError:
    """An error inside a function, told from the place in the user's file that called it."""
    return CompileError(*(_retold(diagnostic, call) for diagnostic in error.diagnostics))


def _retold(diagnostic: Diagnostic, call: Span) -> Diagnostic:
    span = diagnostic.span
    if span is None or span.source is call.source or len(diagnostic.causes) > 4:
        return diagnostic
    inside = Label(span, diagnostic.label or "inside this function")
    return Diagnostic(diagnostic.code, diagnostic.message, call, "", (inside, *diagnostic.causes), diagnostic.help)
