"""Loops over a range, from outside: what a value inside is for every index, along an axis of its own.

Used by the passes that make of many small products one product of matrices.
"""

from __future__ import annotations

from functools import partial

from xdsl.dialects import arith
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import F32, I64, element_of, integer, static_shape
from moec.passes.captured import captured
from moec.passes.views import is_cast, made_in


def over_range(loop: moe.SumOp | moe.EachOp) -> bool:
    """Whether a loop goes over the integers from one to another."""
    return isinstance(loop.slots.owner, moe.RangeOp)


def varies(loop: moe.SumOp | moe.EachOp, value: SSAValue) -> bool:
    """Whether a value inside a loop is made of its index, or its slot."""
    seen, open = set[SSAValue](), [value]
    while open:
        value = open.pop()
        if value in seen or not made_in(loop, value):
            continue
        if isinstance(value.owner, Block):
            return True
        seen.add(value)
        open += captured(value.owner)
    return False


def stack(loop: moe.SumOp | moe.EachOp, value: SSAValue, before: InsertPoint) -> SSAValue:
    """A value inside a loop, along a new first axis."""
    inside, body = loop.body.block, Block(arg_types=[I64, I64])
    made: dict[SSAValue, SSAValue] = dict(zip(inside.args, body.args, strict=True))
    for argument, own in zip(inside.args, body.args, strict=True):
        own.name_hint = argument.name_hint
    wanted, needed = {value}, list[Operation]()
    for operation in reversed(list(inside.ops)):
        if not wanted.isdisjoint(operation.results):
            wanted.update(captured(operation))
            needed.append(operation)
    copies = [operation.clone(made) for operation in reversed(needed)]
    new = moe.EachOp.make(loop.slots, regions=[moe.region_of(copies, made.get(value, value), body)])
    Rewriter.insert_op(new, before)
    return new.results[0]


def column(loop: moe.SumOp | moe.EachOp, scalar: SSAValue, before: InsertPoint) -> SSAValue:
    """A scalar inside a loop over a range, for every index: where it is an element of a vector, that vector."""
    owner, span = scalar.owner, loop.slots.owner
    assert isinstance(span, moe.RangeOp)
    if isinstance(owner, arith.ExtFOp):
        wide = widened(column(loop, owner.input, before))
        Rewriter.insert_op(wide, before)
        return wide.results[0]
    if isinstance(owner, moe.ExtractOp) and owner.index is loop.body.block.args[0]:
        whole = (integer(span.low), integer(span.high)) == (0, static_shape(owner.operand.type)[0])
        if whole and not made_in(loop, owner.operand):
            return owner.operand
    return stack(loop, scalar, before)


def forget(value: SSAValue) -> None:
    """Erases what made a value that nobody reads any more."""
    owner = value.owner
    if isinstance(owner, Operation) and not any(result.first_use for result in owner.results):
        read = captured(owner)
        Rewriter.erase_op(owner)
        for operand in read:
            forget(operand)


def contract(weight: SSAValue, vector: SSAValue) -> moe.ContractOp:
    """A product. Where both sides are merely widened, it is that of what they were before."""
    narrow, thin = _unwidened(weight), _unwidened(vector)
    if element_of(narrow.type) == element_of(thin.type):
        weight, vector = narrow, thin
    return moe.ContractOp.make(weight, vector)


def widened(array: SSAValue) -> Operation:
    """An array in f32."""
    return moe.map_of([array], partial(arith.ExtFOp, target_type=F32))


def is_copy(op: moe.MapOp) -> bool:
    """Whether a map leaves its array as it is, as a cast does that turned out to be none."""
    return moe.yielded(op.body) is op.body.block.args[0]


def is_widening(op: moe.MapOp) -> bool:
    """Whether a map does nothing but widen to f32."""
    return is_cast(op) and element_of(op.result.type) == F32


def _unwidened(array: SSAValue) -> SSAValue:
    """What an array was before it became f32, if that is all that was done to it."""
    owner = array.owner
    return owner.arrays[0] if isinstance(owner, moe.MapOp) and is_widening(owner) else array


def is_linear(op: moe.MapOp) -> bool:
    """Whether a map leaves a sum of what it reads, each times a factor that is the same for all elements."""
    linear: set[SSAValue] = set(op.body.block.args)
    for inner in op.body.block.ops:
        reads = [operand in linear for operand in inner.operands]
        match inner:
            case arith.AddfOp() | arith.SubfOp():
                fits = all(reads) or not any(reads)
            case arith.MulfOp():
                fits = not all(reads)
            case arith.DivfOp():
                fits = not reads[1]
            case arith.NegfOp():
                fits = True
            case arith.SelectOp():
                fits = not reads[0] and reads[1] == reads[2]
            case moe.YieldOp():
                fits = all(reads)
            case _:
                fits = not any(reads)
        if not fits:
            return False
        if any(reads):
            linear.update(inner.results)
    return bool(op.arrays)
