"""Emits `moe` operations for values: casts, broadcasting, pointwise maps, indexing. It knows no syntax."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import Any, Final

from xdsl.dialects import arith
from xdsl.dialects.builtin import ArrayAttr, FileLineColLoc, IntAttr, StringAttr, UnitAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from moec.diagnostics import CompileError, fail
from moec.dialects import moe
from moec.dialects.types import BOOL, ELEMENTS, F32, FLOAT32, I64, dim_attr, element_of
from moec.dims import ONE, ZERO, Dim, Unbound
from moec.elaborate.values import Array, Bounds, Number, Selection, Value, kind_of, shape_origin, show
from moec.source import Span

#: The least integer of 64 bits.
LEAST: Final = -(1 << 63)

#: The least magnitude that f32 rounds to infinity.
_BEYOND_F32: Final = 2**128 - 2**103

#: The most operations of a layer. Functions that call others twice each become so many; the largest of the examples has
#: some 350.
_MOST_OPERATIONS: Final = 10_000

#: Makes an element from elements: an operation's class, or a function that emits several and gives the last value.
Make = Callable[..., Operation | SSAValue]


class Builder:
    """Appends operations to the block in hand, at first the `outermost`. `binding` holds the dimensions whose value is
    known."""

    def __init__(self, binding: Mapping[str, int]) -> None:
        self.binding = binding
        self.outermost = self.block = Block()
        self.span: Span | None = None
        self._emitted = 0
        self._probing = False

    def emit(self, operation: Operation) -> SSAValue:
        """Appends an operation with the location in hand; returns its first result. Raises `CompileError` (E0007) where
        there are too many."""
        self._emitted += 1
        if self._emitted > _MOST_OPERATIONS:
            help = "a function that calls another twice, which calls a third twice, doubles at every step"
            raise fail("E0007", f"the layer has more than {_MOST_OPERATIONS} operations here", self.span, help=help)
        if self.span is not None:
            operation.location = FileLineColLoc(
                StringAttr(self.span.source.name), IntAttr(self.span.line), IntAttr(self.span.column)
            )
        self.block.add_op(operation)
        return operation.results[0]

    @contextmanager
    def inside(self, block: Block) -> Generator[Block]:
        """Appends to `block` for a while."""
        outer, self.block = self.block, block
        try:
            yield block
        finally:
            self.block = outer

    @contextmanager
    def probing(self) -> Generator[None]:
        """For a while only shapes are asked for: an index may lie outside its axis."""
        outer, self._probing = self._probing, True
        try:
            yield
        finally:
            self._probing = outer

    # what is known of numbers

    def known(self, dim: Dim) -> Any:
        """The value of a formula, or None while one of its dimensions has none."""
        try:
            return dim.evaluate(self.binding)
        except Unbound:
            return None
        except ZeroDivisionError:
            assert self.span is not None
            raise fail("E0202", f"`{dim}` divides by zero", self.span) from None
        except OverflowError:
            raise fail("E0206", "a number here is too large", self.span) from None

    def settled(self, dim: Dim, what: str, span: Span) -> Any:
        """The value of a formula that decides what is built. Raises `CompileError` (E0301) where it has none yet."""
        value = self.known(dim)
        if value is None:
            raise fail("E0301", f"{what} needs the values of its dimensions", span)
        return value

    def at_most(self, least: Dim, most: Dim) -> bool:
        """Whether `least <= most`, as far as is known."""
        difference = self.known(most - least)
        return difference is None or difference >= 0

    def integer(self, value: Value, span: Span, what: str, least: int = 0) -> Dim:
        """A compile-time integer, as a formula."""
        if not isinstance(value, Number) or value.truth:
            raise fail("E0204", f"{what} is a compile-time number, not {kind_of(value)}", span)
        known = self.known(value.dim)
        if known is None:
            return value.dim
        if not _is_integer(known):
            raise fail("E0202", f"{what} `{span.text}` is {known}, which is not an integer", span)
        if known < least:
            raise fail("E0206", f"{what} `{span.text}` is {known}, less than {least}", span)
        if not fits_i64(known):
            raise fail("E0206", f"{what} `{span.text}` is beyond 64 bits", span)
        return value.dim

    def is_integral(self, value: Value) -> bool:
        """Whether a value is an integer: an index, integers, or a number that is one, as far as is known."""
        if isinstance(value, Number):
            known = self.known(value.dim)
            return not value.truth and (known is None or _is_integer(known))
        return isinstance(value, Array) and value.element == "i64"

    def is_truth(self, value: Value) -> bool:
        """Whether a value is a truth value, or an array of them."""
        return value.truth if isinstance(value, Number) else isinstance(value, Array) and value.element == "bool"

    def join_as_integers(self, values: Sequence[Value]) -> bool:
        """Whether values become one array of integers; numbers alone become f32."""
        return all(map(self.is_integral, values)) and not all(isinstance(value, Number) for value in values)

    # scalars and casts

    def number(self, dim: Dim, element: Attribute = F32) -> SSAValue:
        """A compile-time number as a scalar. Raises `CompileError` (E0206) where it is beyond the element type."""
        value = self.known(dim)
        if element == F32 and value is not None and dim.finite and abs(value) >= _BEYOND_F32:
            raise fail("E0206", "this number is beyond the largest of f32, 3.4e38", self.span, help="write `inf`")
        return self.emit(moe.NumberOp.make(value=dim, element=element))

    def cast(self, scalar: SSAValue, to: Attribute) -> SSAValue:
        """A scalar in another element type; integers and truth values become numbers."""
        if scalar.type == to:
            return scalar
        if scalar.type == I64:
            scalar = self.emit(arith.SIToFPOp(scalar, FLOAT32))
        elif scalar.type == ELEMENTS["bool"]:
            scalar = self.emit(arith.UIToFPOp(scalar, FLOAT32))
        elif scalar.type != F32:
            scalar = self.emit(moe.CastOp.make(scalar, to=F32))
        return scalar if to == F32 else self.emit(moe.CastOp.make(scalar, to=to))

    # arrays

    def array(self, value: Value, span: Span, element: Attribute = F32) -> Array:
        """An array or scalar; a number becomes a scalar of `element`, a truth one of `bool`."""
        if isinstance(value, Number) and value.truth:
            return Array(self.number(value.dim, BOOL), span)
        if isinstance(value, Number) and element == I64:
            dim = self.integer(value, span, "this number", LEAST)
            return Array(self.number(dim, I64), span, bounds=Bounds(dim, dim + ONE))
        if isinstance(value, Number):
            return Array(self.number(value.dim, element), span)
        if isinstance(value, Array):
            return value
        suggestion = None
        if isinstance(value, Selection):
            suggestion = "`v[selection]` reads the chosen elements of `v`, `ids(selection)` is their indices"
        raise fail("E0204", f"{kind_of(value)} stands where an array is needed", span, kind_of(value), help=suggestion)

    def pointwise(self, arrays: Sequence[Array], span: Span, make: Make) -> Array:
        """`make` on the elements of arrays of one shape, and on scalars."""
        full = [array for array in arrays if array.shape]
        if not full:
            return Array(self._make(make, [array.ssa for array in arrays]), span)
        self.require_same_shape(full, span)
        with self.inside(Block(arg_types=[element_of(array.ssa.type) for array in full])) as block:
            elements = iter(block.args)
            value = self._make(make, [next(elements) if array.shape else array.ssa for array in arrays])
            body = moe.region_of([], value, block)
        map_op = moe.MapOp.make([array.ssa for array in full], regions=[body])
        return Array(self.emit(map_op), full[0].origin, self.common_restriction(full, span))

    def _make(self, make: Make, scalars: Sequence[SSAValue]) -> SSAValue:
        made = make(*scalars)
        return self.emit(made) if isinstance(made, Operation) else made

    def require_same_shape(self, arrays: Sequence[Array], span: Span) -> None:
        """Raises `CompileError` (E0201) where shapes differ."""
        first = arrays[0]
        for other in arrays[1:]:
            if other.shape != first.shape:
                raise self.mismatch(first, other, span)

    def mismatch(
        self,
        left: Array,
        right: Array,
        span: Span,
        differ: tuple[Dim, Dim] | None = None,
        help: str | None = None,
    ) -> CompileError:
        """The error of two shapes that do not fit, to be raised: at the lengths that `differ`, else at the first that
        do."""
        pairs = zip(left.shape, right.shape, strict=False)
        differ = differ or next((pair for pair in pairs if pair[0] != pair[1]), None)
        what = f": `{differ[0]}` and `{differ[1]}`" if differ else ""
        causes = [shape_origin(array) for array in (left, right)]
        text = f"shapes {show(left.shape)} and {show(right.shape)} do not fit{what}"
        return fail("E0201", text, span, causes=causes, help=help)

    def common_restriction(self, arrays: Sequence[Array], span: Span) -> Selection | None:
        """The selection that arrays are restricted to. Raises `CompileError` (E0204) where there are several."""
        found = [array.restriction for array in arrays if array.restriction is not None]
        if any(other is not found[0] for other in found[1:]):
            help = "`concat(v[s])` is a plain vector of the slots, with 0 where one is empty"
            raise fail("E0204", "vectors of different selections do not combine", span, help=help)
        return found[0] if found else None

    def cast_array(self, array: Array, to: Attribute, span: Span) -> Array:
        """An array or scalar in another element type."""
        if element_of(array.ssa.type) == to:
            return array
        return self.pointwise([array], span, partial(self.cast, to=to))

    def f32(self, value: Value, span: Span) -> Array:
        """A value as numbers in f32. Raises `CompileError` (E0204) for truth values, selections and functions."""
        array = self.array(value, span)
        if array.element == "bool":
            raise fail("E0204", "a truth value stands where a number is needed", span, help="`f32(c)` is 0 or 1")
        return self.cast_array(array, F32, span)

    def broadcast(self, array: Array, shape: Sequence[Dim]) -> Array:
        """An array of the leading axes (a scalar has none), repeated to a shape."""
        if array.shape == tuple(shape):
            return array
        operation = moe.BroadcastOp.make(array.ssa, shape=dims_attr(shape))
        return Array(self.emit(operation), array.origin, array.restriction)

    def masked(self, array: Array, fill: Dim = ZERO) -> Array:
        """The array with a number in the empty slots of its restriction."""
        selection = array.restriction
        if selection is None or not selection.partial:
            return array
        filled = Array(self.emit(moe.FilledOp.make(selection.ssa)), array.origin)
        other = Array(self.number(fill, element_of(array.ssa.type)), array.origin)
        keep = self.broadcast(filled, array.shape)
        return self.pointwise([keep, array, other], array.origin, arith.SelectOp)

    def unrestricted(self, array: Array) -> Array:
        """The array as an ordinary one: the empty slots of its restriction show as 0."""
        return Array(self.masked(array).ssa, array.origin)

    # regions

    def region(self, arg_types: Sequence[Attribute], body: Callable[[Sequence[SSAValue]], SSAValue]) -> Region:
        """A region whose value `body` emits."""
        with self.inside(Block(arg_types=arg_types)) as block:
            value = body(block.args)
            return moe.region_of([], value, block)

    # indices

    def extract(self, array: Array, index: Array, span: Span) -> Array:
        """`array[index]` along the first axis, checked against the axis as far as bounds are known."""
        axis = array.shape[0]
        checked = self.check_bounds(index, axis, array, span)
        operation = moe.ExtractOp.make(array.ssa, index.ssa, checked=UnitAttr() if checked else None)
        return Array(self.emit(operation), array.origin)

    def check_bounds(self, index: Array, axis: Dim, array: Array, span: Span) -> bool:
        """Raises where an index can lie outside; True where only the run can tell."""
        bounds = index.bounds
        if bounds is None or not bounds.finite or self._probing:
            return True
        if self.at_most(bounds.high, axis) and self.at_most(ZERO, bounds.low):
            return False
        what = f"index in {bounds.low}..{bounds.high} can lie outside an axis of {axis}"
        of_slots = index.slot is not None and index.slot[0].size == axis
        help = f"write `slot({span.text})` for the position of `{span.text}` in its selection" if of_slots else None
        raise fail("E0205", what, span, causes=[shape_origin(array)], help=help)

    def slot_in(self, index: Array, target: Selection) -> SSAValue | None:
        """The slot of `target` in which a bound variable's index stands, if its selection was chosen from there."""
        if index.choice is not None:
            selection, slot = index.choice, self.number(ZERO, I64)
        elif index.slot is not None:
            selection, slot = index.slot
        else:
            return None
        if selection is target:
            return slot
        for parent, positions in selection.parents:
            if parent is target:
                return self.emit(moe.AtOp.make(positions, slot))
        return None

    def chosen(self, inner: SSAValue, vector: Array, span: Span) -> Selection:
        """The selection that `inner`, a choice of positions of `vector`, stands for."""
        outer = vector.restriction
        size, is_partial = moe.slots(inner), moe.partial(inner)
        if outer is None:
            return Selection(inner, size, vector.shape[0], is_partial, span)
        composed = self.emit(moe.ComposeOp.make(outer.ssa, inner))
        further = [(parent, self.emit(moe.ComposeOp.make(map, inner))) for parent, map in outer.parents]
        return Selection(composed, size, outer.domain, is_partial, span, ((outer, inner), *further))


def _is_integer(value: Fraction | float) -> bool:
    """Whether a known number is an integer: a float stands for a root, `pi` or infinity."""
    return isinstance(value, Fraction) and value.denominator == 1


def fits_i64(value: Fraction) -> bool:
    return LEAST <= value < -LEAST


def index_bounds(op: str, left: Array, right: Array, known: Callable[[Dim], Any]) -> Bounds | None:
    """Where the result of integer arithmetic lies, if that is known. `known` is the value of a formula."""
    bounds = _exact_bounds(op, left, right, known)
    ends = [known(end) for end in (bounds.low, bounds.high - ONE)] if bounds is not None else []
    return None if any(end is not None and not fits_i64(end) for end in ends) else bounds  # where it wraps, anything


def _exact_bounds(op: str, left: Array, right: Array, known: Callable[[Dim], Any]) -> Bounds | None:
    a, b = left.bounds, right.bounds
    if b is None or not b.finite or ((a is None or not a.finite) and op != "%"):
        return None
    exact = (b.high - b.low) == ONE
    match op:
        case "+" if a:
            return Bounds(a.low + b.low, a.high + b.high - ONE)
        case "-" if a:
            return Bounds(a.low - b.high + ONE, a.high - b.low)
        case "*" if a:
            corners = [x * y for x in (a.low, a.high - ONE) for y in (b.low, b.high - ONE)]
            return Bounds(_extreme(corners, known, min), _extreme(corners, known, max) + ONE)
        case "/" if a and exact:
            if _negative(b.low, known):
                return Bounds(_floor((a.high - ONE) / b.low, known), _floor(a.low / b.low, known) + ONE)
            return Bounds(_floor(a.low / b.low, known), -_floor(-(a.high / b.low), known))
        case "%" if exact:
            return Bounds(b.low + ONE, ONE) if _negative(b.low, known) else Bounds(ZERO, b.low)
        case _:
            return None


def _negative(dim: Dim, known: Callable[[Dim], Any]) -> bool:
    value = known(dim)
    return value is not None and value < 0


def _extreme(dims: Sequence[Dim], known: Callable[[Dim], Any], pick: Callable[[Sequence[Any]], Any]) -> Dim:
    """The smallest or the largest of formulas, told by their values; without them that of positive factors."""
    values = [known(dim) for dim in dims]
    if None in values:
        return dims[0] if pick is min else dims[-1]
    return dims[values.index(pick(values))]


def _floor(dim: Dim, known: Callable[[Dim], Any]) -> Dim:
    value = known(dim)
    return dim if value is None or value.denominator == 1 else Dim.of(value.numerator // value.denominator)


def dims_attr(shape: Sequence[Dim]) -> Attribute:
    """A shape as an attribute."""
    return ArrayAttr([dim_attr(dim) for dim in shape])
