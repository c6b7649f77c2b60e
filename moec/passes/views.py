"""What is a view of a parameter: slices, transposes, reshapes, casts and indexing, undone step by step.

Used by the passes that ask whether a contraction's weight can be packed ahead of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.dialects import arith
from xdsl.ir import Block, BlockArgument, SSAValue

from moec.dialects import moe
from moec.dialects.types import element_name, integer, static_shape
from moec.steps import Cast, Move, Reshape, Slice, Step, Transpose
from moec.target import Target


@dataclass(frozen=True, slots=True)
class WeightView:
    """A stack of matrices made of a parameter.

    `steps` turn the whole parameter into an array [*lead, …, columns, depth] in NumPy's terms; `indices` are the
    run-time indices of the leading axes, of the sizes `lead`.
    """

    param: SSAValue
    steps: tuple[Step, ...]
    indices: tuple[SSAValue, ...]
    lead: tuple[int, ...]
    columns: int
    depth: int
    dtype: str
    storage: str = ""

    def panels(self, target: Target) -> str:
        """The element type of the panels that a microkernel reads. Stored weights become f32, unless the target
        multiplies pairs of bf16."""
        return "f32" if self.storage and target.kernel(self.dtype).form == "widen" else self.dtype

    @property
    def keys(self) -> int:
        return prod(self.lead)


def weight_view(value: SSAValue) -> WeightView | None:
    """The view that a contraction's weight is, or None where it is computed for each token."""
    found = _trace(value)
    if found is None:
        return None
    param, steps, indices, lead = found
    shape = static_shape(value.type)
    if len(shape) < 2:
        return None
    dtype, storage = element_name(value.type), _storage(param)
    return WeightView(param, steps, indices, lead, prod(shape[:-1]), shape[-1], dtype, storage)


def _storage(param: SSAValue) -> str:
    """The storage format of a parameter; empty where it is dense."""
    assert isinstance(param, BlockArgument)
    layer = param.owner.parent_op()
    assert isinstance(layer, moe.LayerOp)
    return layer.storage.data[param.index - len(layer.inputs)].data if layer.storage else ""


def _is_param(value: SSAValue) -> bool:
    """Whether a layer's argument is one of its parameters: an input of several axes is different for every token."""
    assert isinstance(value, BlockArgument)
    layer = value.owner.parent_op()
    return isinstance(layer, moe.LayerOp) and value.index >= len(layer.inputs)


_Trace = tuple[SSAValue, tuple[Step, ...], tuple[SSAValue, ...], tuple[int, ...]]


def _trace(value: SSAValue) -> _Trace | None:
    owner = value.owner
    if isinstance(owner, Block):
        return (value, (), (), ()) if _is_param(value) else None
    if isinstance(owner, moe.EachOp):
        return _trace_stacked(owner, moe.yielded(owner.body))
    if not isinstance(owner, moe.ExtractOp | moe.SliceOp | moe.ReshapeOp | moe.TransposeOp | moe.MapOp):
        return None
    found = _trace(owner.operands[0])
    if found is None:
        return None
    param, steps, indices, lead = found
    match owner:
        case moe.ExtractOp():
            size = static_shape(owner.operand.type)[0]
            return param, steps, (*indices, owner.index), (*lead, size)
        case moe.SliceOp():
            low, size, stride = integer(owner.offset), integer(owner.size), integer(owner.step)
            step = Slice(owner.axis.value.data + len(lead), low, low + (size - 1) * stride + 1, stride)
        case moe.ReshapeOp():
            step = Reshape((*lead, *static_shape(owner.result.type)))
        case moe.TransposeOp():
            step = Transpose()
        case moe.MapOp():
            if not is_cast(owner):
                return None
            step = Cast(element_name(owner.result.type))
    return param, (*steps, step), indices, lead


def _trace_stacked(loop: moe.SumOp | moe.EachOp, row: SSAValue) -> _Trace | None:
    """`each i in a..b: row`, where the row is a part at `i` of a view: the axis of `i`, behind those of the other
    indices, as in `each i in 0..N: w[i, e]`."""
    found, span = _trace(row), loop.slots.owner
    if found is None or not isinstance(span, moe.RangeOp):
        return None
    param, steps, indices, lead = found
    own = loop.body.block.args[0]
    places = [place for place, index in enumerate(indices) if index is own]
    others = tuple(index for index in indices if index is not own)
    low, high = integer(span.low), integer(span.high)
    if len(places) != 1 or not 0 <= low < high <= lead[places[0]] or any(made_in(loop, index) for index in others):
        return None
    place, last = places[0], len(lead) - 1
    moved = () if place == last else (Move(place, last),)
    whole = high - low == lead[place]
    cut = () if whole else (Slice(last, low, high, 1),)
    return param, (*steps, *moved, *cut), others, (*lead[:place], *lead[place + 1 :])


def made_in(loop: moe.SumOp | moe.EachOp, value: SSAValue) -> bool:
    """Whether a value is made in the region of a loop, or is one of its arguments."""
    block = value.owner if isinstance(value.owner, Block) else value.owner.parent
    while block is not None and block is not loop.body.block:
        block = block.parent_block()
    return block is not None


def stacks(loop: moe.SumOp | moe.EachOp, row: SSAValue) -> bool:
    """Whether what a loop makes of a row inside it, or of an element of one, is a view of a parameter."""
    return _trace_stacked(loop, row) is not None


def is_cast(operation: moe.MapOp) -> bool:
    """Whether a map only changes the element type."""
    first, *rest = operation.body.block.ops
    casts = isinstance(first, arith.ExtFOp | arith.TruncFOp) and len(rest) == 1
    return casts and moe.yielded(operation.body) is first.results[0]


def is_matmul(operation: object) -> bool:
    """Whether a contraction's weight can be packed ahead of time."""
    return isinstance(operation, moe.ContractOp) and weight_view(operation.weight) is not None


def is_heavy(operation: object) -> bool:
    """Whether a sparse sum holds such a contraction."""
    return isinstance(operation, moe.SumOp | moe.EachOp) and any(is_matmul(inner) for inner in operation.walk())
