"""The `moe` dialect: what happens to one token.

Pointwise work is upstream `arith` and `math` on scalars inside `moe.map`; contractions, selections and the sparse sum
are operations of this dialect. It knows no memory and no machine, and of other tokens only `moe.batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, StringAttr, SymbolNameConstraint
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_region_def,
    var_result_def,
)
from xdsl.traits import IsolatedFromAbove, IsTerminator, Pure, RecursiveMemoryEffect

from moec.dialects.inference import InferredOp, require, require_at_most
from moec.dialects.types import (
    BOOL,
    F32,
    I64,
    DimAttr,
    RealType,
    SelectionType,
    ShapeAttr,
    array_type,
    dim_of,
    element_of,
    selection_type,
    shape_of,
    with_shape,
)
from moec.dims import Dim, product

#: The kind of a selection none of whose slots can be empty.
FULL = "full"


def _selection(value: SSAValue) -> SelectionType:
    require(isinstance(value.type, SelectionType), f"{value.type} is not a selection")
    assert isinstance(value.type, SelectionType)
    return value.type


def slots(value: SSAValue) -> Dim:
    """How many slots a selection has."""
    return dim_of(_selection(value).size)


def domain(value: SSAValue) -> Dim:
    """How many indices a selection chooses from."""
    return dim_of(_selection(value).domain)


def partial(value: SSAValue | None) -> bool:
    """Whether slots of a selection may be empty."""
    return value is not None and _selection(value).kind.data != FULL


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
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove())


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """Ends a layer: the outputs, then the auxiliary outputs."""

    name = "moe.return"
    values = var_operand_def()
    traits = traits_def(IsTerminator())


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a region: its values."""

    name = "moe.yield"
    values = var_operand_def()
    traits = traits_def(IsTerminator(), Pure())  # pure, or what it ends would never count as such


def yielded(region: Region) -> Sequence[SSAValue]:
    """The values that a region's `moe.yield` gives."""
    last = region.block.last_op
    assert isinstance(last, YieldOp)
    return last.values


# ── numbers and pointwise work ────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class NumberOp(InferredOp):
    """A compile-time number as a scalar."""

    name = "moe.number"
    value = prop_def(AnyAttr())
    element = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        dim_of(self.value)  # which says what is none
        return [self.element]


@irdl_op_definition
class CastOp(InferredOp):
    """Rounding to, or widening from, an element type; of a scalar."""

    name = "moe.cast"
    operand = operand_def()
    to = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [self.to]


@irdl_op_definition
class MapOp(InferredOp):
    """Pointwise work: the region computes one element from one element of each operand. Scalars are captured."""

    name = "moe.map"
    arrays = var_operand_def()
    body = region_def("single_block")
    values = var_result_def()
    traits = traits_def(Pure(), RecursiveMemoryEffect())

    def infer(self) -> Sequence[Attribute]:
        shapes = {shape_of(array.type) for array in self.arrays}
        require(len(shapes) == 1, f"operands have different shapes: {sorted(map(str, shapes))}")
        for array, argument in zip(self.arrays, self.body.block.args, strict=True):
            require(element_of(array.type) == argument.type, f"element {argument.type} of {array.type}")
        return [array_type(value.type, shape_of(self.arrays[0].type)) for value in yielded(self.body)]


@irdl_op_definition
class BroadcastOp(InferredOp):
    """A scalar, or an array of the leading axes, repeated to a shape."""

    name = "moe.broadcast"
    operand = operand_def()
    shape = prop_def(ArrayAttr[Attribute])
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, leading = tuple(map(dim_of, self.shape)), shape_of(self.operand.type)
        require(shape[: len(leading)] == leading, f"{self.operand.type} does not lead {self.shape}")
        return [with_shape(self.operand.type, shape)]


@irdl_op_definition
class ContractOp(InferredOp):
    """`W @ v`: the last axis of W against v, summed in f32. `activations = "int8"`: v enters in quantised blocks."""

    name = "moe.contract"
    weight = operand_def()
    vector = operand_def()
    activations = opt_prop_def(StringAttr)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        weight, vector = shape_of(self.weight.type), shape_of(self.vector.type)
        require(len(vector) == 1 and weight[-1:] == vector, f"{self.weight.type} @ {self.vector.type}")
        precision = (element_of(self.weight.type), F32)  # f32 holds what was rounded to the weight's precision
        require(element_of(self.vector.type) in precision, "the vector has not entered the weight's precision")
        return [array_type(F32, weight[:-1])]


@irdl_op_definition
class ReduceOp(InferredOp):
    """`sum`, `max` or `min` over an axis. With `slots`, empty slots of the axis are left out."""

    name = "moe.reduce"
    operand = operand_def()
    slots = opt_operand_def()
    kind = prop_def(StringAttr)
    axis = prop_def(IntegerAttr)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, axis = shape_of(self.operand.type), self.axis.value.data
        require(0 <= axis < len(shape), f"no axis {axis} in {self.operand.type}")
        return [with_shape(self.operand.type, shape[:axis] + shape[axis + 1 :])]


@irdl_op_definition
class BatchOp(InferredOp):
    """Work along the axis of tokens, element by element: over all tokens of a call (`sum`, `max`, `min`), over those
    up to this one (`cumsum`), of the one before this one, 0 for the first (`previous`), or how many rank ahead of this
    one (`rank`): larger ones, and equal ones before it. With `factors`, a vector, what is added up is its outer product
    with the operand."""

    name = "moe.batch"
    operand = operand_def()
    factors = opt_operand_def()
    kind = prop_def(StringAttr)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, kind = shape_of(self.operand.type), self.kind.data
        if self.factors is not None:
            require(kind == "sum", f"`{kind}` has no factors")
            require(len(shape_of(self.factors.type)) == 1, f"{self.factors.type} is not a vector")
            return [array_type(F32, [*shape_of(self.factors.type), *shape])]
        return [array_type(I64, shape) if kind == "rank" else self.operand.type]

    @property
    def same(self) -> bool:
        """Whether all tokens have the same result."""
        return self.kind.data not in ("cumsum", "previous", "rank")


# ── axes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class ExtractOp(InferredOp):
    """The part of an array at one index of its first axis. `checked = "run"` where only the run can tell."""

    name = "moe.extract"
    operand = operand_def()
    index = operand_def(I64)
    checked = opt_prop_def(StringAttr)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape = shape_of(self.operand.type)
        require(bool(shape), f"{self.operand.type} has no axis")
        return [with_shape(self.operand.type, shape[1:])]


@irdl_op_definition
class GatherOp(InferredOp):
    """The parts of an array at the indices of a selection, in slot order; empty slots are zero."""

    name = "moe.gather"
    operand = operand_def()
    slots = operand_def()
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape = shape_of(self.operand.type)
        require(bool(shape), f"{self.operand.type} has no axis")
        return [with_shape(self.operand.type, (slots(self.slots), *shape[1:]))]


@irdl_op_definition
class SliceOp(InferredOp):
    """`size` elements of an axis, from `offset`, `step` apart."""

    name = "moe.slice"
    operand = operand_def()
    axis = prop_def(IntegerAttr)
    offset = prop_def(AnyAttr())
    size = prop_def(AnyAttr())
    step = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, axis = list(shape_of(self.operand.type)), self.axis.value.data
        require(0 <= axis < len(shape), f"no axis {axis} in {self.operand.type}")
        shape[axis] = dim_of(self.size)
        return [with_shape(self.operand.type, shape)]


@irdl_op_definition
class ReshapeOp(InferredOp):
    """The same elements in the same order under another shape."""

    name = "moe.reshape"
    operand = operand_def()
    shape = prop_def(ArrayAttr[Attribute])
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape = tuple(map(dim_of, self.shape))
        sizes = product(shape), product(shape_of(self.operand.type))
        differ = sizes[0] != sizes[1] and None not in (sizes[0].constant, sizes[1].constant)  # `[H]` as [3, 4] may fit
        require(not differ, f"{self.operand.type} as {self.shape}")
        return [with_shape(self.operand.type, shape)]


@irdl_op_definition
class TransposeOp(InferredOp):
    """The last two axes exchanged."""

    name = "moe.transpose"
    operand = operand_def()
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape = shape_of(self.operand.type)
        require(len(shape) >= 2, f"{self.operand.type} has no two axes")
        return [with_shape(self.operand.type, (*shape[:-2], shape[-1], shape[-2]))]


@irdl_op_definition
class ConcatOp(InferredOp):
    """Arrays joined along an axis."""

    name = "moe.concat"
    arrays = var_operand_def()
    axis = prop_def(IntegerAttr)
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        axis, shapes = self.axis.value.data, [list(shape_of(array.type)) for array in self.arrays]
        total = list(shapes[0])
        for shape in shapes[1:]:
            require(len(shape) == len(total), "arrays of different rank")
            total[axis] = total[axis] + shape[axis]
            require(total[:axis] + total[axis + 1 :] == shape[:axis] + shape[axis + 1 :], "other axes differ")
        return [with_shape(self.arrays[0].type, total)]


@irdl_op_definition
class TopOp(InferredOp):
    """The `count` largest elements of the last axis, largest first."""

    name = "moe.top"
    operand = operand_def()
    count = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        shape, count = shape_of(self.operand.type), dim_of(self.count)
        require(bool(shape), f"{self.operand.type} has no axis")
        require_at_most(count, shape[-1], f"the {count} largest of {shape[-1]}")
        return [with_shape(self.operand.type, (*shape[:-1], count))]


# ── selections ────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class TopKOp(InferredOp):
    """The `count` largest of a vector; with `slots`, among the slots that are not empty."""

    name = "moe.topk"
    operand = operand_def()
    slots = opt_operand_def()
    count = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        (size,), count = shape_of(self.operand.type), dim_of(self.count)
        require_at_most(count, size, f"the {count} largest of {size}")
        return [selection_type(count, size, partial(self.slots))]


@irdl_op_definition
class WhereOp(InferredOp):
    """Those that hold, in rising order."""

    name = "moe.where"
    operand = operand_def()
    slots = opt_operand_def()
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        (size,) = shape_of(self.operand.type)
        return [selection_type(size, size, partial=True)]


@irdl_op_definition
class GivenOp(InferredOp):
    """The indices of a vector; those outside `0..domain` are empty slots."""

    name = "moe.given"
    ids = operand_def()
    domain = prop_def(AnyAttr())
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        (size,) = shape_of(self.ids.type)
        return [selection_type(size, dim_of(self.domain), partial=True)]


@irdl_op_definition
class CrossOp(InferredOp):
    """All pairs of two selections, the first outside."""

    name = "moe.cross"
    left = operand_def()
    right = operand_def()
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
        return [selection_type(high - low, high, partial=False)]


@irdl_op_definition
class ComposeOp(InferredOp):
    """The indices that a selection of slots stands for: `outer[inner[slot]]`."""

    name = "moe.compose"
    outer = operand_def()
    inner = operand_def()
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        either = partial(self.outer) or partial(self.inner)
        return [selection_type(slots(self.inner), domain(self.outer), either)]


@irdl_op_definition
class IdsOp(InferredOp):
    """The indices of a selection; an empty slot shows the domain's size."""

    name = "moe.ids"
    slots = operand_def()
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [array_type(I64, (slots(self.slots),))]


@irdl_op_definition
class AtOp(InferredOp):
    """The index in one slot."""

    name = "moe.at"
    slots = operand_def()
    slot = operand_def(I64)
    result = result_def(I64)
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        _selection(self.slots)
        return [I64]


@irdl_op_definition
class ContainsOp(InferredOp):
    """Whether an index is in a selection."""

    name = "moe.contains"
    slots = operand_def()
    index = operand_def(I64)
    result = result_def(BOOL)
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        _selection(self.slots)
        return [BOOL]


@irdl_op_definition
class MembersOp(InferredOp):
    """For each index of the domain, whether a selection holds it."""

    name = "moe.members"
    slots = operand_def()
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [array_type(BOOL, (domain(self.slots),))]


@irdl_op_definition
class FilledOp(InferredOp):
    """For each slot, whether it holds an index."""

    name = "moe.filled"
    slots = operand_def()
    result = result_def()
    traits = traits_def(Pure())

    def infer(self) -> Sequence[Attribute]:
        return [array_type(BOOL, (slots(self.slots),))]


# ── regions ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class SumOp(InferredOp):
    """The sparse sum: the region's value for the index and the number of each slot, added in slot order."""

    name = "moe.sum"
    slots = operand_def()
    body = region_def("single_block")
    result = result_def()
    traits = traits_def(Pure(), RecursiveMemoryEffect())

    def infer(self) -> Sequence[Attribute]:
        _selection(self.slots)
        return [yielded(self.body)[0].type]


@irdl_op_definition
class EachOp(InferredOp):
    """The region's value for the index and the number of each slot, along a new first axis; empty slots are zero."""

    name = "moe.each"
    slots = operand_def()
    body = region_def("single_block")
    result = result_def()
    traits = traits_def(Pure(), RecursiveMemoryEffect())

    def infer(self) -> Sequence[Attribute]:
        type = yielded(self.body)[0].type
        return [with_shape(type, (slots(self.slots), *shape_of(type)))]


@irdl_op_definition
class MatchOp(InferredOp):
    """One region an arm; arm i takes an index below `bounds[i]` that no earlier arm took. `low` is the least index,
    where that may be below 0."""

    name = "moe.match"
    index = operand_def(I64)
    bounds = prop_def(ArrayAttr[Attribute])
    low = opt_prop_def(AnyAttr())
    arms = var_region_def("single_block")
    result = result_def()
    traits = traits_def(Pure(), RecursiveMemoryEffect())

    def infer(self) -> Sequence[Attribute]:
        types = {yielded(arm)[0].type for arm in self.arms}
        require(len(types) == 1, f"arms of different types: {sorted(map(str, types))}")
        return [types.pop()]


def map_of(arrays: Sequence[SSAValue], make: Callable[..., Operation]) -> MapOp:
    """A map of one operation, made of an element of each array."""
    block = Block(arg_types=[element_of(array.type) for array in arrays])
    operation = make(*block.args)
    return MapOp.make(arrays, regions=[region_of([operation], [operation.results[0]], block)])


def region_of(operations: Sequence[Operation], values: Sequence[SSAValue], block: Block) -> Region:
    """Ends a block with `moe.yield` and wraps it."""
    block.add_ops([*operations, YieldOp.build(operands=[list(values)])])
    return Region(block)


Moe = Dialect(
    "moe",
    [
        LayerOp, ReturnOp, YieldOp, NumberOp, CastOp, MapOp, BroadcastOp, ContractOp, ReduceOp, BatchOp, ExtractOp,
        GatherOp, SliceOp, ReshapeOp, TransposeOp, ConcatOp, TopOp, TopKOp, WhereOp, GivenOp, CrossOp, ListedOp,
        RangeOp, ComposeOp, IdsOp, AtOp, ContainsOp, MembersOp, FilledOp, SumOp, EachOp, MatchOp,
    ],
    [RealType, DimAttr, ShapeAttr, SelectionType],
)  # fmt: skip
