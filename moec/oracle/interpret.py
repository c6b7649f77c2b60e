"""One token through the text: the meaning of every node of the syntax tree, on the values of `values`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np

from moec.diagnostics import fail, nearest
from moec.dtypes import DTYPES, F32, I64, REAL, DType
from moec.language import syntax
from moec.language.parse import prelude, takes_number
from moec.oracle import batch, functions
from moec.oracle.values import (
    Array,
    Builtin,
    Closure,
    Data,
    Fault,
    Origin,
    Selection,
    Value,
    array,
    bounds,
    common_axes,
    constant,
    integer,
    join,
    kind,
    lift,
    place,
    places,
)

T = TypeVar("T")
Scope = Mapping[str, Any]
Weight = Callable[[syntax.Name, DType, tuple[int, ...]], Data]
_signature = cache(inspect.signature)


@dataclass(eq=False, slots=True)
class Deferred:
    """An `aux`, evaluated where it is first used."""

    value: syntax.Expr
    scope: Scope
    result: Any = None


def functions_of(file: syntax.File, below: Scope) -> dict[str, Any]:
    """The names that a file's functions see: each other, and what lies below."""
    scope = dict(below)
    scope.update({node.name.id: Closure(node, scope) for node in file.functions})
    return scope


class Interpreter:
    """Evaluates expressions and bodies. `weight` hands out a parameter's array; `block_of` says of a matrix in blocks
    of how many elements vectors are quantised before they are multiplied with it; 0: not at all. `margin` is the
    smallest distance from a different decision since it was last set."""

    def __init__(
        self, file: syntax.File, real: DType, weight: Weight, block_of: Callable[[Data], int] = lambda _: 0
    ) -> None:
        self._dtypes = {**DTYPES, REAL: real}
        self._block_of = block_of
        self._weight = weight
        self._probing = False
        self._calls: tuple[int, ...] = ()
        self._probes: dict[tuple[int, ...], Value] = {}
        self._inside = 0
        self.batch = batch.Batch()
        self.margin = math.inf
        self.functions = functions_of(file, functions_of(prelude(), functions.names(real) | batch.names()))

    # ── bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def body(
        self, statements: Sequence[syntax.Statement], scope: dict[str, Any], aux: dict[str, Deferred] | None
    ) -> tuple[Any, ...]:
        """What a body returns. `scope` gains its names; `aux`, of a layer's body, its extra outputs."""
        for node in statements:
            match node:
                case syntax.Assign():
                    self._assign(node, scope)
                case syntax.Function():
                    scope[node.name.id] = Closure(node, dict(scope))
                case syntax.Return():
                    return tuple(self.evaluate(value, scope) for value in node.values)
                case _ if aux is None:
                    raise fail("E0204", "a function has neither weights nor extra outputs", node.span)
                case syntax.Param():
                    self._params(node, scope)
                case syntax.Aux():
                    aux[node.name.id] = scope[node.name.id] = Deferred(node.value, dict(scope))
        raise fail("E0106", "a body returns nothing", statements[0].span if statements else None)

    def _assign(self, node: syntax.Assign, scope: dict[str, Any]) -> None:
        results = self._results(node.value, scope)
        if len(results) != len(node.names):
            raise fail("E0104", f"{len(results)} results for {len(node.names)} names", node.span)
        scope.update({name.id: result for name, result in zip(node.names, results, strict=True)})

    def _params(self, node: syntax.Param, scope: dict[str, Any]) -> None:
        dtype, shape = self.type(node.type, scope)
        for name in node.names:
            scope[name.id] = array(self._weight(name, dtype, shape), dtype, exact=True)

    def type(self, node: syntax.Type, scope: Scope) -> tuple[DType, tuple[int, ...]]:
        dtype = self._dtypes.get(node.dtype or REAL)
        if dtype is None:
            raise fail("E0107", f"`{node.dtype}` is not an element type", node.span)
        return dtype, tuple(self.integer(length, scope) for length in node.shape or ())

    # ── expressions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def evaluate(self, node: syntax.Expr, scope: Scope) -> Value:
        """The value of an expression, which is one."""
        results = self._results(node, scope)
        if len(results) != 1:
            raise fail("E0104", f"{len(results)} results where one is needed", node.span)
        return results[0]

    def integer(self, node: syntax.Expr, scope: Scope) -> int:
        return self._checked(lambda: integer(self.evaluate(node, scope)), node)

    def force(self, deferred: Deferred) -> Value:
        if deferred.result is None:
            outside, self._probing = self._probing, False
            deferred.result = self.evaluate(deferred.value, deferred.scope)
            self._probing = outside
        return deferred.result

    def _results(self, node: syntax.Expr, scope: Scope) -> tuple[Value, ...]:
        value = self._checked(lambda: self._value(node, scope), node)
        return cast("tuple[Value, ...]", value) if isinstance(value, tuple) else (value,)

    def _checked(self, compute: Callable[[], T], node: syntax.Expr) -> T:
        try:
            return compute()
        except Fault as fault:
            raise fail(fault.code, fault.message, node.span) from None

    def _value(self, node: syntax.Expr, scope: Scope) -> Any:
        match node:
            case syntax.Number():
                return node.value
            case syntax.String():
                raise Fault("E0204", "only a `bind` names tensors")
            case syntax.Name():
                return self._name(node, scope)
            case syntax.Group():
                return self.evaluate(node.inner, scope)
            case syntax.Unary():
                return self._unary(node.op, self.evaluate(node.operand, scope))
            case syntax.Binary():
                return self._binary(node.op, self.evaluate(node.left, scope), self.evaluate(node.right, scope))
            case syntax.Range(low=low, high=high):
                if low is None or high is None:
                    raise Fault("E0204", "a range has two ends")
                return functions.interval(self.evaluate(low, scope), self.evaluate(high, scope))
            case syntax.Set():
                return functions.listed([self.evaluate(element, scope) for element in node.elements])
            case syntax.Transpose():
                return functions.transpose(self.evaluate(node.operand, scope))
            case syntax.Split():
                lengths = [None if _blank(length) else self.integer(length, scope) for length in node.shape]
                return functions.reshape(self.evaluate(node.operand, scope), lengths)
            case syntax.Index():
                return self._index(node, scope)
            case syntax.Call():
                return self._call(node, scope)
            case syntax.If():
                return self._if(node, scope)
            case syntax.Match():
                return self._match(node, scope)
            case syntax.Binder():
                return self._sum(node, scope) if node.kind == "sum" else self._each(node, scope)

    def _name(self, node: syntax.Name, scope: Scope) -> Value:
        if node.id not in scope:
            raise fail("E0101", f"`{node.id}` is not defined", node.span, help=nearest(node.id, list(scope)))
        value = scope[node.id]
        return self.force(value) if isinstance(value, Deferred) else value

    def _unary(self, op: str, operand: Value) -> Value:
        if op == "not":
            return functions.invert(operand)
        return functions.negate(operand) if op == "-" else functions.negate(functions.negate(operand))

    def _binary(self, op: str, left: Value, right: Value) -> Value:
        if op == "@" and isinstance(left, Array) and (block := self._block_of(left.data)):
            return functions.contract(left, right, block)
        result = functions.OPERATORS[op](left, right)
        if op in functions.COMPARISONS and not constant(result):
            self._decide(functions.comparison_margin(left, right))
        return result

    def _decide(self, margin: float) -> None:
        if not self._probing:
            self.margin = min(self.margin, margin)

    # ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, node: syntax.Call, scope: Scope) -> Any:
        function = self._function(node.function, scope)
        positional = [self.evaluate(argument.value, scope) for argument in node.arguments if argument.name is None]
        named = {argument.name: self.evaluate(argument.value, scope) for argument in node.arguments if argument.name}
        if len(positional) + len(named) < len(node.arguments):
            raise Fault("E0104", f"an argument of `{node.function.id}` is given twice")
        if isinstance(function, Closure):
            outside, self._calls = self._calls, (*self._calls, id(node))
            results = self.body(function.node.body, self._parameters(function, positional, named), None)
            self._calls = outside
            return results
        try:
            bound = _signature(function.call).bind(*positional, **named)
        except TypeError as error:
            raise Fault("E0104", f"`{function.name}`: {error}") from None
        if bound.arguments.get("axis") is batch.BATCH:
            if len(bound.arguments) > 2:
                raise Fault("E0104", "an axis goes with one argument")
            return self._along_batch(function.name, bound.args[0])
        result = function.call(*bound.args, **bound.kwargs)
        self._decide(functions.floor_margin(bound.args[0]) if function.name == "floor" else _margin(result))
        return result

    def _along_batch(self, name: str, value: Value) -> Array:
        """A function over the axis of tokens, element by element. Not every token comes to the same slots and arms."""
        if name == "size":
            return array(self.batch.tokens, I64)
        if self._inside:
            raise Fault("E0204", f"`{name}` along `batch` stands inside a `sum`, an `each` or a `match`")
        result, margin = self.batch.exchange(name, value, self.margin)
        self._decide(margin)
        return result

    def _function(self, node: syntax.Name, scope: Scope) -> Closure | Builtin:
        """The function of a name. A value of that name does not hide it: after `top = topk(p, K)`, `top(v, 2)` still
        is the function."""
        for names in (scope, self.functions):
            if isinstance(found := names.get(node.id), Closure | Builtin):
                return found
        raise fail("E0101", f"`{node.id}` is not a function", node.span, help=nearest(node.id, list(self.functions)))

    def _parameters(self, function: Closure, positional: list[Value], named: dict[str, Value]) -> dict[str, Any]:
        """The scope of a function's body: what the function sees, its arguments, and the defaults of the others."""
        parameters = function.node.parameters
        first = dict(zip((parameter.name for parameter in parameters), positional, strict=False))
        unknown = named.keys() - {parameter.name for parameter in parameters}
        if len(positional) > len(parameters) or unknown or named.keys() & first.keys():
            raise Fault("E0104", f"wrong arguments for `{function.node.name.id}`")
        given, scope = first | named, dict(function.scope)
        for parameter in parameters:
            if parameter.name in given:
                value = given[parameter.name]
                if takes_number(function.node, parameter) and isinstance(value, Array) and value.shape:
                    name = function.node.name.id
                    raise Fault("E0204", f"`{parameter.name}` of `{name}` is one number, not {kind(value)}")
                scope[parameter.name] = value
            elif parameter.default is not None:
                scope[parameter.name] = self.evaluate(parameter.default, scope)
            else:
                raise Fault("E0104", f"`{function.node.name.id}` needs a value for `{parameter.name}`")
        return scope

    # ── indexing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _index(self, node: syntax.Index, scope: Scope) -> Array:
        value, axis = lift(self.evaluate(node.operand, scope)), 0
        if len(node.items) > len(value.shape):
            raise Fault("E0207", f"{len(node.items)} items for {kind(value)}")
        for item in node.items:
            rank = len(value.shape)
            if isinstance(item, syntax.Slice):
                value = self._slice(value, axis, item, scope)
            else:
                value = self._at(value, axis, item, scope)
            axis += len(value.shape) == rank
        return value

    def _at(self, value: Array, axis: int, node: syntax.Expr, scope: Scope) -> Array:
        item, along, size = self.evaluate(node, scope), value.axes[axis], value.shape[axis]
        if isinstance(item, Selection):
            data = np.take(value.data, places(item, size, along, self._probing), axis)
            return value.on(axis, data, None if item.plain else item)
        if not isinstance(item, Fraction | float | Array):
            raise fail("E0204", f"expected an index, found {kind(item)}", node.span)
        found = self._checked(lambda: place(item, size, along, self._probing), node)
        data = value.filling(0)[(slice(None),) * axis + (found,)]
        return array(data, value.dtype, value.axes[:axis] + value.axes[axis + 1 :], value.exact)

    def _slice(self, value: Array, axis: int, node: syntax.Slice, scope: Scope) -> Array:
        if node.low is node.high is node.step is None:
            return value
        low, high, step = (end and self.integer(end, scope) for end in (node.low, node.high, node.step))
        step = 1 if step is None else step
        start, stop = bounds(low, high, step, value.shape[axis])
        return value.on(axis, value.filling(0)[(slice(None),) * axis + (slice(start, stop, step),)], None)

    # ── choice ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _if(self, node: syntax.If, scope: Scope) -> Value:
        condition = self.evaluate(node.condition, scope)
        if isinstance(condition, bool):
            return self.evaluate(node.then if condition else node.otherwise, scope)
        holds = functions.truth(condition)
        branches = [self.evaluate(branch, scope) for branch in (node.then, node.otherwise)]
        then, otherwise = map(lift, branches)
        data = np.where(holds.data, then.data, otherwise.data)
        return array(data, _blend(branches), common_axes([holds, then, otherwise]), then.exact and otherwise.exact)

    def _match(self, node: syntax.Match, scope: Scope) -> Value:
        """The first arm that holds; the other arms only lend it their shape and element type."""
        subject = self.evaluate(node.subject, scope)
        if not isinstance(subject, Array):
            return self.evaluate(self._arm(node, integer(subject), scope).body, scope)
        if not subject.integer or subject.shape:
            raise Fault("E0204", f"expected an index, found {kind(subject)}")
        self._inside += 1
        value = lift(self.evaluate(self._arm(node, int(subject.data), scope).body, scope))
        arms = [self._probe(arm.body, scope) for arm in node.arms]
        self._inside -= 1
        shapes = sorted({lift(arm).shape for arm in arms} - {()})
        if len(shapes) > 1:
            raise Fault("E0201", "the arms have different shapes: " + ", ".join(str(list(shape)) for shape in shapes))
        if value.shape or not shapes:
            return array(value.data, _blend(arms), value.axes, value.exact)
        return array(np.full(shapes[0], value.data), _blend(arms), exact=value.exact)

    def _arm(self, node: syntax.Match, index: int, scope: Scope) -> syntax.Arm:
        for arm in node.arms:
            match arm.pattern:
                case syntax.Range(low=low, high=high):
                    above = low is None or self.integer(low, scope) <= index
                    if above and (high is None or index < self.integer(high, scope)):
                        return arm
                case pattern:
                    if self.integer(pattern, scope) == index:
                        return arm
        if self._probing:
            return node.arms[0]
        raise Fault("E0208", f"no arm holds {index}")

    def _probe(self, node: syntax.Expr, scope: Scope) -> Value:
        """A value whose shape and element type are those of an expression, whatever its elements: indices are clamped
        and nothing counts as a decision. Shapes do not depend on the token, so once for each place is enough."""
        key = (*self._calls, id(node))
        if key not in self._probes:
            outside, self._probing = self._probing, True
            try:
                self._probes[key] = self.evaluate(node, scope)
            finally:
                self._probing = outside
        return self._probes[key]

    # ── sum and each ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _sum(self, node: syntax.Binder, scope: Scope) -> Array:
        _, form, terms = self._rows(node, scope)
        functions.numbers(form)
        data = sum((term.data for term in terms), np.zeros(lift(form).shape, np.int64))
        return array(data, I64 if lift(form).integer else F32, terms[0].axes if terms else None)

    def _each(self, node: syntax.Binder, scope: Scope) -> Array:
        selection, form, rows = self._rows(node, scope)
        like = lift(form)
        data = np.zeros((len(selection), *like.shape), like.data.dtype)
        data[selection.filled] = np.reshape([row.data for row in rows], (-1, *like.shape))
        axes = (None if selection.plain else selection, *(rows[0].axes if rows else (None,) * like.data.ndim))
        return array(data, join([form]), axes, all(row.exact for row in rows))

    def _rows(self, node: syntax.Binder, scope: Scope) -> tuple[Selection, Value, list[Array]]:
        """The selection, a value of the shape and element type of the body, and the body for each slot that is not
        empty."""
        selection = functions.select(self.evaluate(node.selection, scope))
        self._inside += 1
        rows = [
            self.evaluate(node.body, {**scope, node.name.id: _index(selection, slot)})
            for slot, filled in enumerate(selection.filled)
            if filled
        ]
        form = rows[0] if rows else self._form(node, scope, selection)
        self._inside -= 1
        return selection, form, _alike([lift(row) for row in rows])

    def _form(self, node: syntax.Binder, scope: Scope, selection: Selection) -> Value:
        """A value of the shape and element type of the body, where no slot is filled."""
        index = _index(selection, 0) if len(selection) else array(0, I64)
        return self._probe(node.body, {**scope, node.name.id: index})


def _alike(rows: list[Array]) -> list[Array]:
    """Rows as they leave a `sum` or an `each`: what is restricted to a selection inside becomes plain."""
    shared = len({row.axes for row in rows}) == 1
    return rows if shared else [row.plain() for row in rows]


def _index(selection: Selection, slot: int) -> Array:
    return replace(array(selection.indices[slot], I64), origin=Origin(selection, slot, bound=True))


def _blend(values: Sequence[Value]) -> DType:
    """The element type of a choice by value: f32, unless all are indices or all are truth values."""
    dtype = join(values)
    return F32 if dtype.floating else dtype


def _blank(node: syntax.Expr) -> bool:
    return isinstance(node, syntax.Name) and node.id == "_"


def _margin(result: object) -> float:
    """How far a choice is from a different one."""
    if isinstance(result, Array) and result.origin is not None:
        return result.origin.selection.margin
    return result.margin if isinstance(result, Selection) else math.inf
