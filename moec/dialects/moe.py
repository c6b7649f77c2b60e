"""The `moe` dialect: what happens to one token.

Pointwise work is upstream `arith` and `math` on scalars inside `moe.map`; contractions, selections and the sparse sum
are operations of this dialect. It knows no memory and no machine, and of other tokens only `moe.batch`.

No operation has effects. One may fail, a `moe.extract` that is checked: it is dropped where nobody reads it, but not
computed where it would not have been (`ConditionallySpeculatable`). Operations with regions are as what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, StringAttr, SymbolNameConstraint, UnitAttr
from xdsl.interfaces import ConditionallySpeculatableInterface
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    RangeOf,
    irdl_op_definition,
    lazy_traits_def,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_region_def,
)
from xdsl.traits import (
    HasParent,
    IsolatedFromAbove,
    IsTerminator,
    NoMemoryEffect,
    Pure,
    RecursivelySpeculatable,
    RecursiveMemoryEffect,
    SingleBlockImplicitTerminator,
)

from moec.dialects.inference import InferredOp, require, require_as_many, require_at_most
from moec.dialects.types import (
    ARRAY,
    BOOL,
    ELEMENT,
    ELEMENTS,
    F32,
    FLOAT,
    FLOATS,
    I64,
    Along,
    AlongAttr,
    DimAttr,
    RealType,
    ReductionAttr,
    SelectionType,
    Shape,
    ShapeAttr,
    array_type,
    dim_of,
    element_of,
    selection_type,
    shape_of,
    with_shape,
)
from moec.dims import ONE, ZERO, Dim, product
from moec.formats import FORMATS

#: The elements that are added up; those that are compared may have been rounded, too.
_COMPUTED: Final = (F32, I64)
#: The arguments of a region that runs for each slot of a selection: its index and its number.
_OF_A_SLOT: Final = RangeOf(I64).of_length(2)


def _selection(value: SSAValue) -> SelectionType:
    require(isinstance(value.type, SelectionType), "{} is not a selection", value.type)
    assert isinstance(value.type, SelectionType)
    return value.type


def _vector(value: SSAValue) -> Dim:
    """The length of a vector."""
    shape = shape_of(value.type)
    require(len(shape) == 1, "{} is not a vector", value.type)
    return shape[0]


def _axes(value: SSAValue) -> Shape:
    """The shape of an array that has axes."""
    shape = shape_of(value.type)
    require(bool(shape), "{} has no axis", value.type)
    return shape


def _axis(value: SSAValue, axis: IntegerAttr) -> int:
    """An axis of an array, by its number."""
    require(0 <= axis.value.data < len(shape_of(value.type)), "no axis {} in {}", axis.value.data, value.type)
    return axis.value.data


def _require_slots(selection: SSAValue | None, length: Dim) -> None:
    """Raises `ShapeError` where a selection has not a slot for each element of an axis."""
    if selection is not None:
        has = slots(selection)
        require(has == length, "{} slots along an axis of {}", has, length)


def _require_computed(value: SSAValue) -> None:
    require(element_of(value.type) in _COMPUTED, "{} holds neither f32 nor i64", value.type)


def _require_compared(value: SSAValue) -> None:
    element = element_of(value.type)
    require(element == I64 or element in FLOATS, "{} holds nothing that is compared", value.type)


def slots(value: SSAValue) -> Dim:
    """How many slots a selection has."""
    return dim_of(_selection(value).size)


def domain(value: SSAValue) -> Dim:
    """How many indices a selection chooses from."""
    return dim_of(_selection(value).domain)


def partial(value: SSAValue | None) -> bool:
    """Whether slots of a selection may be empty."""
    return value is not None and _selection(value).partial


# ── structure ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class LayerOp(IRDLOperation):
    """A layer: a region whose arguments are the token's inputs, then the parameters."""

    name = "moe.layer"
    sym_name = prop_def(SymbolNameConstraint())
    inputs = prop_def(ArrayAttr[StringAttr])
    params = prop_def(ArrayAttr[StringAttr])
    outputs = prop_def(ArrayAttr[StringAttr])
    aux = prop_def(ArrayAttr[StringAttr])
    types = prop_def(ArrayAttr[StringAttr])  # the element types in which outputs, then aux, leave
    storage = opt_prop_def(ArrayAttr[StringAttr])  # of each parameter, empty where it is dense
    body = region_def("single_block", entry_args=RangeOf(ARRAY))
    traits = lazy_traits_def(lambda: (IsolatedFromAbove(), SingleBlockImplicitTerminator(ReturnOp)))

    def verify_(self) -> None:
        last, names = self.body.block.last_op, [*self.inputs, *self.params]
        assert isinstance(last, ReturnOp)
        require_as_many(self.body.block.args, names, "arguments", "inputs and parameters")
        require_as_many(last.values, [*self.outputs, *self.aux], "returned values", "outputs")
        require_as_many(self.types, last.values, "element types", "returned values")
        if self.storage is not None:
            require_as_many(self.storage, self.params, "storage formats", "parameters")
            for name in self.storage:
                require(name.data in FORMATS or not name.data, "no storage format is called {}", name)
        for argument in self.body.block.args:
            shape_of(argument.type)  # which says what is none
        for value, type in zip(last.values, self.types, strict=True):
            require(type.data in ELEMENTS, "no element type is called {}", type)
            element, leaves = element_of(value.type), ELEMENTS[type.data]
            require(element == leaves or {element, leaves} <= FLOATS, "{} cannot leave as {}", value.type, type)


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """Ends a layer: the outputs, then the auxiliary outputs."""

    name = "moe.return"
    values = var_operand_def(ARRAY)
    traits = traits_def(IsTerminator(), HasParent(LayerOp))


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a region: its value."""

    name = "moe.yield"
    value = operand_def(ARRAY)
    traits = lazy_traits_def(  # pure, or what it ends would never count as such
        lambda: (IsTerminator(), Pure(), HasParent(MapOp, SumOp, EachOp, MatchOp))
    )


#: An operation has the effects of what its regions hold, each ended by `moe.yield`, and fails where that does.
_AS_ITS_REGIONS: Final = traits_def(
    SingleBlockImplicitTerminator(YieldOp), RecursiveMemoryEffect(), RecursivelySpeculatable()
)


def yielded(region: Region) -> SSAValue:
    """The value that a region's `moe.yield` gives."""
    last = region.block.last_op
    assert isinstance(last, YieldOp)
    return last.value


# ── numbers and pointwise work ────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class NumberOp(InferredOp):
    """A compile-time number as a scalar."""

    name = "moe.number"
    value = prop_def(AnyAttr())
    element = prop_def(ELEMENT)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        dim_of(self.value)  # which says what is none
        return [self.element]


@irdl_op_definition
class CastOp(InferredOp):
    """Rounding from f32 to, or widening to f32 from, an element type; of a scalar."""

    name = "moe.cast"
    operand = operand_def(FLOAT)
    to = prop_def(FLOAT)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        ends = self.operand.type, self.to
        require(F32 in ends or ends[0] == ends[1], "{} does not become {}", *ends)
        return [self.to]


@irdl_op_definition
class MapOp(InferredOp):
    """Pointwise work: the region computes one element from one element of each operand. Scalars are captured."""

    name = "moe.map"
    arrays = var_operand_def(ARRAY)
    body = region_def("single_block")
    result = result_def()
    traits = _AS_ITS_REGIONS

    def infer(self) -> Sequence[Attribute]:
        require(bool(self.arrays), "nothing is mapped")
        shape, value = _axes(self.arrays[0]), yielded(self.body)
        require_as_many(self.body.block.args, self.arrays, "arguments", "operands")
        for array, argument in zip(self.arrays, self.body.block.args, strict=True):
            require(shape_of(array.type) == shape, "{} beside {}", array.type, self.arrays[0].type)
            require(element_of(array.type) == argument.type, "{} for an element of {}", argument.type, array.type)
        require(not shape_of(value.type), "an element becomes {}", value.type)
        return [array_type(value.type, shape)]


@irdl_op_definition
class BroadcastOp(InferredOp):
    """A scalar, or an array of the leading axes, repeated to a shape."""

    name = "moe.broadcast"
    operand = operand_def(ARRAY)
    shape = prop_def(ArrayAttr[Attribute])
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, leading = tuple(map(dim_of, self.shape)), shape_of(self.operand.type)
        require(bool(shape), "nothing is repeated to a scalar")
        require(shape[: len(leading)] == leading, "{} does not lead {}", self.operand.type, self.shape)
        return [with_shape(self.operand.type, shape)]


@irdl_op_definition
class ContractOp(InferredOp):
    """`W @ v`: the last axis of W against v, summed in f32. `activations = "int8"`: v enters in quantised blocks."""

    name = "moe.contract"
    weight = operand_def(ARRAY)
    vector = operand_def(ARRAY)
    activations = opt_prop_def(StringAttr("int8"))
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        weight, vector = shape_of(self.weight.type), shape_of(self.vector.type)
        require(len(vector) == 1 and weight[-1:] == vector, "{} @ {}", self.weight.type, self.vector.type)
        element = element_of(self.weight.type)
        require(element in FLOATS, "{} holds no numbers that are multiplied", self.weight.type)
        # f32 holds what was rounded to the weight's precision
        fits = element_of(self.vector.type) in (element, F32)
        require(fits, "{} has not entered the weight's precision, {}", self.vector.type, element)
        return [array_type(F32, weight[:-1])]


@irdl_op_definition
class ReduceOp(InferredOp):
    """`sum`, `max` or `min` over an axis. With `slots`, which stand along the first, empty slots are left out."""

    name = "moe.reduce"
    operand = operand_def(ARRAY)
    slots = opt_operand_def(SelectionType)
    kind = prop_def(ReductionAttr)
    axis = prop_def(IntegerAttr)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, axis = shape_of(self.operand.type), _axis(self.operand, self.axis)
        _require_computed(self.operand)
        require(self.slots is None or axis == 0, "slots stand along the first axis, not along axis {}", axis)
        _require_slots(self.slots, shape[0])
        return [with_shape(self.operand.type, shape[:axis] + shape[axis + 1 :])]


@irdl_op_definition
class BatchOp(InferredOp):
    """Work along the axis of tokens, element by element, as `Along` says it: not in a region, which not every token
    comes to. With `factors`, a vector, what is added up is its outer product with the operand."""

    name = "moe.batch"
    operand = operand_def(ARRAY)
    factors = opt_operand_def(ARRAY)
    kind = prop_def(AlongAttr)
    result = result_def()
    traits = traits_def(Pure(), HasParent(LayerOp))

    def infer(self) -> Sequence[Attribute]:
        return [along(self.kind.data, self.operand.type, None if self.factors is None else self.factors.type)]

    @property
    def same(self) -> bool:
        """Whether all tokens have the same result."""
        return self.kind.data.same


def along(kind: Along, operand: Attribute, factors: Attribute | None) -> Attribute:
    """What work along the tokens makes of an array, and of the vector of factors beside it. Raises `ShapeError`."""
    element = element_of(operand)
    if factors is None:
        require(element in _COMPUTED, "{} holds neither f32 nor i64", operand)
        return array_type(I64, shape_of(operand)) if kind is Along.RANK else operand
    require(kind is Along.SUM, "`{}` has no factors", kind)
    shape = shape_of(factors)
    require(len(shape) == 1, "{} is not a vector", factors)
    for array in (operand, factors):
        require(element_of(array) in FLOATS, "{} holds no numbers that are multiplied", array)
    return array_type(F32, [*shape, *shape_of(operand)])


# ── axes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class ExtractOp(InferredOp, ConditionallySpeculatableInterface):
    """The part of an array at one index of its first axis. It is `checked`, and may fail, where only the run can tell
    whether that lies inside; else it is known to, in an arm of a `moe.match` by what the arm takes: nothing leaves
    one."""

    name = "moe.extract"
    operand = operand_def(ARRAY)
    index = operand_def(I64)
    checked = opt_prop_def(UnitAttr)
    result = result_def()
    traits = traits_def(NoMemoryEffect())

    def is_speculatable(self) -> bool:
        return self.checked is None

    def infer(self) -> Sequence[Attribute]:
        return [with_shape(self.operand.type, _axes(self.operand)[1:])]


@irdl_op_definition
class GatherOp(InferredOp):
    """The parts of an array at the indices of a selection, in slot order; empty slots are zero."""

    name = "moe.gather"
    operand = operand_def(ARRAY)
    slots = operand_def(SelectionType)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, indices = _axes(self.operand), domain(self.slots)
        require_at_most(indices, shape[0], "indices below {} of an axis of {}", indices, shape[0])
        return [with_shape(self.operand.type, (slots(self.slots), *shape[1:]))]


@irdl_op_definition
class SliceOp(InferredOp):
    """`size` elements of an axis, from `offset`, `step` apart."""

    name = "moe.slice"
    operand = operand_def(ARRAY)
    axis = prop_def(IntegerAttr)
    offset = prop_def(AnyAttr())
    size = prop_def(AnyAttr())
    step = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, axis = list(shape_of(self.operand.type)), _axis(self.operand, self.axis)
        offset, size, step = dim_of(self.offset), dim_of(self.size), dim_of(self.step)
        require_at_most(ONE, step, "a step of {}", step)
        require_at_most(ZERO, offset, "an offset of {}", offset)
        if size != ZERO:
            last = offset + (size - ONE) * step
            require_at_most(last + ONE, shape[axis], "element {} of an axis of {}", last, shape[axis])
        shape[axis] = size
        return [with_shape(self.operand.type, shape)]


@irdl_op_definition
class ReshapeOp(InferredOp):
    """The same elements in the same order under another shape."""

    name = "moe.reshape"
    operand = operand_def(ARRAY)
    shape = prop_def(ArrayAttr[Attribute])
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape = tuple(map(dim_of, self.shape))
        sizes = product(shape), product(_axes(self.operand))
        differ = sizes[0] != sizes[1] and None not in (sizes[0].constant, sizes[1].constant)  # `[H]` as [3, 4] may fit
        require(bool(shape) and not differ, "{} as {}", self.operand.type, self.shape)
        return [with_shape(self.operand.type, shape)]


@irdl_op_definition
class TransposeOp(InferredOp):
    """The last two axes exchanged."""

    name = "moe.transpose"
    operand = operand_def(ARRAY)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape = shape_of(self.operand.type)
        require(len(shape) >= 2, "{} has no two axes", self.operand.type)
        return [with_shape(self.operand.type, (*shape[:-2], shape[-1], shape[-2]))]


@irdl_op_definition
class ConcatOp(InferredOp):
    """Arrays of one element type, joined along an axis."""

    name = "moe.concat"
    arrays = var_operand_def(ARRAY)
    axis = prop_def(IntegerAttr)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        require(bool(self.arrays), "nothing is joined")
        first, *others = self.arrays
        total, axis = list(shape_of(first.type)), _axis(first, self.axis)
        for other in others:
            shape = list(shape_of(other.type))
            require(len(shape) == len(total), "{} beside {}", other.type, first.type)
            require(element_of(other.type) == element_of(first.type), "{} beside {}", other.type, first.type)
            total[axis] = total[axis] + shape[axis]
            alike = total[:axis] + total[axis + 1 :] == shape[:axis] + shape[axis + 1 :]
            require(alike, "{} beside {}", other.type, first.type)
        return [with_shape(first.type, total)]


@irdl_op_definition
class TopOp(InferredOp):
    """The `count` largest elements of the last axis, largest first."""

    name = "moe.top"
    operand = operand_def(ARRAY)
    count = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, count = _axes(self.operand), dim_of(self.count)
        _require_compared(self.operand)
        require_at_most(count, shape[-1], "the {} largest of {}", count, shape[-1])
        return [with_shape(self.operand.type, (*shape[:-1], count))]


# ── selections ────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class TopKOp(InferredOp):
    """The `count` largest of a vector; with `slots`, among the slots that are not empty."""

    name = "moe.topk"
    operand = operand_def(ARRAY)
    slots = opt_operand_def(SelectionType)
    count = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        size, count = _vector(self.operand), dim_of(self.count)
        _require_compared(self.operand)
        _require_slots(self.slots, size)
        require_at_most(count, size, "the {} largest of {}", count, size)
        return [selection_type(count, size, partial(self.slots))]


@irdl_op_definition
class WhereOp(InferredOp):
    """Those that hold, in rising order; with `slots`, among the slots that are not empty."""

    name = "moe.where"
    operand = operand_def(ARRAY)
    slots = opt_operand_def(SelectionType)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        size = _vector(self.operand)
        require(element_of(self.operand.type) == BOOL, "{} does not say what holds", self.operand.type)
        _require_slots(self.slots, size)
        return [selection_type(size, size, partial=True)]


@irdl_op_definition
class GivenOp(InferredOp):
    """The indices of a vector; those outside `0..domain` are empty slots."""

    name = "moe.given"
    ids = operand_def(ARRAY)
    domain = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        size = _vector(self.ids)
        require(element_of(self.ids.type) == I64, "{} holds no indices", self.ids.type)
        return [selection_type(size, dim_of(self.domain), partial=True)]


@irdl_op_definition
class CrossOp(InferredOp):
    """All pairs of two selections, the first outside."""

    name = "moe.cross"
    left = operand_def(SelectionType)
    right = operand_def(SelectionType)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        size, whole = slots(self.left) * slots(self.right), domain(self.left) * domain(self.right)
        return [selection_type(size, whole, partial(self.left) or partial(self.right))]


@irdl_op_definition
class ListedOp(InferredOp):
    """The listed indices."""

    name = "moe.listed"
    indices = var_operand_def(I64)
    domain = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [selection_type(Dim.of(len(self.indices)), dim_of(self.domain), partial=False)]


@irdl_op_definition
class RangeOp(InferredOp):
    """The integers from `low` up to, not including, `high`."""

    name = "moe.range"
    low = prop_def(AnyAttr())
    high = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        low, high = dim_of(self.low), dim_of(self.high)
        require_at_most(ZERO, low, "indices from {} on", low)
        require_at_most(low, high, "{}..{} runs backwards", low, high)
        return [selection_type(high - low, high, partial=False)]


@irdl_op_definition
class ComposeOp(InferredOp):
    """The indices that a selection of slots stands for: `outer[inner[slot]]`."""

    name = "moe.compose"
    outer = operand_def(SelectionType)
    inner = operand_def(SelectionType)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        indices, size = domain(self.inner), slots(self.outer)
        require_at_most(indices, size, "indices below {} of {} slots", indices, size)
        either = partial(self.outer) or partial(self.inner)
        return [selection_type(slots(self.inner), domain(self.outer), either)]


@irdl_op_definition
class IdsOp(InferredOp):
    """The indices of a selection; an empty slot shows the domain's size."""

    name = "moe.ids"
    slots = operand_def(SelectionType)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [array_type(I64, (slots(self.slots),))]


@irdl_op_definition
class AtOp(InferredOp):
    """The index in one slot."""

    name = "moe.at"
    slots = operand_def(SelectionType)
    slot = operand_def(I64)
    result = result_def(I64)
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [I64]


@irdl_op_definition
class ContainsOp(InferredOp):
    """Whether an index is in a selection."""

    name = "moe.contains"
    slots = operand_def(SelectionType)
    index = operand_def(I64)
    result = result_def(BOOL)
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [BOOL]


@irdl_op_definition
class MembersOp(InferredOp):
    """For each index of the domain, whether a selection holds it."""

    name = "moe.members"
    slots = operand_def(SelectionType)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [array_type(BOOL, (domain(self.slots),))]


@irdl_op_definition
class FilledOp(InferredOp):
    """For each slot, whether it holds an index."""

    name = "moe.filled"
    slots = operand_def(SelectionType)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [array_type(BOOL, (slots(self.slots),))]


# ── regions ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class SumOp(InferredOp):
    """The sparse sum: the region's value for the index and the number of each slot, added in slot order."""

    name = "moe.sum"
    slots = operand_def(SelectionType)
    body = region_def("single_block", entry_args=_OF_A_SLOT)
    result = result_def()
    traits = _AS_ITS_REGIONS

    def infer(self) -> Sequence[Attribute]:
        value = yielded(self.body)
        _require_computed(value)
        return [value.type]


@irdl_op_definition
class EachOp(InferredOp):
    """The region's value for the index and the number of each slot, along a new first axis; empty slots are zero."""

    name = "moe.each"
    slots = operand_def(SelectionType)
    body = region_def("single_block", entry_args=_OF_A_SLOT)
    result = result_def()
    traits = _AS_ITS_REGIONS

    def infer(self) -> Sequence[Attribute]:
        type = yielded(self.body).type
        return [with_shape(type, (slots(self.slots), *shape_of(type)))]


@irdl_op_definition
class MatchOp(InferredOp):
    """One region an arm; arm i takes an index below `bounds[i]` that no earlier arm took. `low` is the least index,
    where that may be below 0."""

    name = "moe.match"
    index = operand_def(I64)
    bounds = prop_def(ArrayAttr[Attribute])
    low = opt_prop_def(AnyAttr())
    arms = var_region_def("single_block", entry_args=RangeOf(I64).of_length(0))
    result = result_def()
    traits = _AS_ITS_REGIONS

    def infer(self) -> Sequence[Attribute]:
        require_as_many(self.arms, self.bounds, "arms", "bounds")
        require(bool(self.arms), "there is no arm")
        for low, high in pairwise(map(dim_of, self.bounds)):
            require_at_most(low, high, "a bound of {} after one of {}", high, low)
        if self.low is not None:
            dim_of(self.low)
        first, *others = (yielded(arm).type for arm in self.arms)
        for other in others:
            require(other == first, "{} beside {}", other, first)
        return [first]


def map_of(arrays: Sequence[SSAValue], make: Callable[..., Operation]) -> MapOp:
    """A map of one operation, made of an element of each array."""
    block = Block(arg_types=[element_of(array.type) for array in arrays])
    operation = make(*block.args)
    return MapOp.make(arrays, regions=[region_of([operation], operation.results[0], block)])


def region_of(operations: Sequence[Operation], value: SSAValue, block: Block) -> Region:
    """Ends a block with `moe.yield` and wraps it."""
    block.add_ops([*operations, YieldOp.build(operands=[value])])
    return Region(block)


Moe = Dialect(
    "moe",
    [
        LayerOp, ReturnOp, YieldOp, NumberOp, CastOp, MapOp, BroadcastOp, ContractOp, ReduceOp, BatchOp, ExtractOp,
        GatherOp, SliceOp, ReshapeOp, TransposeOp, ConcatOp, TopOp, TopKOp, WhereOp, GivenOp, CrossOp, ListedOp,
        RangeOp, ComposeOp, IdsOp, AtOp, ContainsOp, MembersOp, FilledOp, SumOp, EachOp, MatchOp,
    ],
    [RealType, DimAttr, ShapeAttr, SelectionType, ReductionAttr, AlongAttr],
)  # fmt: skip
