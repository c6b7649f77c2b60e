"""What is made of parameters, and of what work along the tokens leaves all of them, is the same for every token of a
call: what of it is worth being computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from xdsl.dialects import arith
from xdsl.dialects.math import Math
from xdsl.ir import Block, Operation, SSAValue
from xdsl.traits import is_speculatable

from moec.dialects import moe
from moec.passes.captured import captured
from moec.passes.loops import over_range
from moec.passes.views import is_matmul

_LONG = (moe.SumOp, moe.ReduceOp, moe.ContractOp, moe.TopOp)
_SLOW = (arith.DivfOp, *Math.operations)


def computed_once(
    block: Block, known: Iterable[SSAValue], kept: Callable[[SSAValue], bool] = lambda value: True
) -> tuple[list[SSAValue], set[Operation]]:
    """Of what a block makes of `known` values alone, the values that are worth keeping, and may be `kept`, each with a
    reader that knows more; and all operations that only they need."""
    operations, _ = constants(block, known)
    worth: set[Operation] = set()
    for operation in operations:
        if _is_long(operation) or any(value.owner in worth for value in captured(operation)):
            worth.add(operation)
    needed, values = set(operations) if worth else set[Operation](), list[SSAValue]()
    for operation in reversed(operations) if worth else ():
        if all(_in(block, use.operation) in needed for use in operation.results[0].uses):
            continue
        if operation in worth and kept(operation.results[0]):
            values.append(operation.results[0])
        else:
            needed.discard(operation)
    return values[::-1], needed


def apart(block: Block, values: Iterable[SSAValue], once: Collection[Operation]) -> list[Operation]:
    """All operations that make values which are computed `once`, in order. What others read too is copied for them."""
    wanted, found = set(values), list[Operation]()
    for operation in reversed(list(block.ops)):
        if isinstance(operation, moe.BatchOp) or wanted.isdisjoint(operation.results):
            continue
        wanted.update(captured(operation))
        if operation not in once:
            copy = operation.clone()
            block.insert_op_before(copy, operation)
            inside = set(found)
            operation.results[0].replace_uses_with_if(
                copy.results[0], lambda use, inside=inside: _in(block, use.operation) in inside
            )
            operation = copy
        found.append(operation)
    return found[::-1]


def constants(block: Block, known: Iterable[SSAValue], products: bool = True) -> tuple[list[Operation], set[SSAValue]]:
    """The operations of a block that read `known` values alone and what is made of them, in order: without what cannot
    be speculated, since it may fail. Then all that is known, which is also what work along the tokens leaves them all.
    Without `products` nothing that needs those that panels are packed for, or the other tokens."""
    there, found = set(known), list[Operation]()
    for operation in block.ops:
        if isinstance(operation, moe.BatchOp):
            if operation.same and products:
                there.add(operation.result)
        elif len(operation.results) == 1 and is_constant(operation, there, products):
            there.update(operation.results)
            found.append(operation)
    return found, there


def known_around(operation: Operation, products: bool = True) -> set[SSAValue]:
    """What around an operation is the same for every token, for the indices of the ranges that it stands in."""
    block, around = operation.parent, operation.parent_op()
    assert block is not None and around is not None
    if isinstance(around, moe.LayerOp):
        known = set[SSAValue](block.args[len(around.inputs) :])
    else:
        known = known_around(around, products)
        if isinstance(around, moe.SumOp | moe.EachOp) and over_range(around):
            known.update(block.args)
    return constants(block, known, products)[1]


def is_constant(operation: Operation, known: Collection[SSAValue], products: bool = True) -> bool:
    """Whether an operation is one of those that `constants` finds."""

    def same(values: Iterable[SSAValue]) -> bool:
        return all(value in known or _is_literal(value) for value in values)

    # what it reads itself says so for most, and without a walk
    if not (same(operation.operands) and same(captured(operation)) and is_speculatable(operation)):
        return False
    return products or not any(map(is_matmul, operation.walk()))


def _is_literal(value: SSAValue) -> bool:
    return isinstance(value.owner, moe.RangeOp | moe.NumberOp | arith.ConstantOp)


def _is_long(operation: Operation) -> bool:
    """Whether an operation reads more than it leaves, or does more to an element than a few cycles' work."""
    return any(isinstance(inner, _LONG) or _is_slow(inner) for inner in operation.walk())


def _is_slow(operation: Operation) -> bool:
    return isinstance(operation, _SLOW) and isinstance(operation.parent_op(), moe.MapOp)


def _in(block: Block, operation: Operation) -> Operation:
    """The operation of a block that an operation is, or stands in."""
    while operation.parent is not block:
        parent = operation.parent_op()
        assert parent is not None
        operation = parent
    return operation
