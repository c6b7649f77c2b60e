"""What is made of parameters alone is the same for every token of a call: what of it is worth being computed once."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from xdsl.dialects import arith
from xdsl.dialects.math import Math
from xdsl.ir import Block, Operation, SSAValue, Use

from moec.dialects import moe
from moec.dialects.types import I64, SelectionType, element_of
from moec.passes.captured import captured
from moec.passes.loops import over_range
from moec.passes.views import is_heavy, is_matmul

_LONG = (moe.SumOp, moe.ReduceOp, moe.ContractOp, moe.TopOp)
_SLOW = (arith.DivfOp, *Math.operations)


def computed_once(block: Block, known: Iterable[SSAValue]) -> tuple[list[SSAValue], set[Operation]]:
    """Of what a block makes of `known` values alone, the values that are worth keeping, each with a reader that knows
    more; and all operations that only they need."""
    operations = constants(block, known)
    worth: set[Operation] = set()
    for operation in operations:
        if _is_long(operation) or any(value.owner in worth for value in captured(operation)):
            worth.add(operation)
    needed, values = set(operations) if worth else set[Operation](), list[SSAValue]()
    for operation in reversed(operations) if worth else ():
        if all(_in(block, use.operation) in needed for use in operation.results[0].uses):
            continue
        if operation in worth and not _read_by_row(operation.results[0]):
            values.append(operation.results[0])
        else:
            needed.discard(operation)
    return values[::-1], needed


def constants(block: Block, known: Iterable[SSAValue]) -> list[Operation]:
    """The operations of a block that read `known` values alone and what is made of them, in order: without products
    that panels are packed for, what goes along the tokens, and what may fail."""
    there, found = set(known), list[Operation]()
    for operation in block.ops:
        if len(operation.results) == 1 and is_constant(operation, there):
            there.update(operation.results)
            found.append(operation)
    return found


def known_around(operation: Operation) -> set[SSAValue]:
    """What around an operation is the same for every token, for the indices of the ranges that it stands in."""
    block, around = operation.parent, operation.parent_op()
    assert block is not None and around is not None
    if isinstance(around, moe.LayerOp):
        known = set[SSAValue](block.args[len(around.inputs) :])
    else:
        known = known_around(around)
        if isinstance(around, moe.SumOp | moe.EachOp) and over_range(around):
            known.update(block.args)
    return known.union(*(found.results for found in constants(block, known)))


def is_constant(operation: Operation, known: Collection[SSAValue]) -> bool:
    """Whether an operation is one of those that `constants` finds."""

    def same(values: Iterable[SSAValue]) -> bool:
        return all(value in known or _is_literal(value) for value in values)

    # what it reads itself says so for most, and without a walk
    return same(operation.operands) and same(captured(operation)) and not any(map(_is_own, operation.walk()))


def _is_literal(value: SSAValue) -> bool:
    return isinstance(value.owner, moe.RangeOp | moe.NumberOp | arith.ConstantOp)


def _is_own(operation: Operation) -> bool:
    checked = isinstance(operation, moe.ExtractOp) and operation.checked is not None
    return checked or isinstance(operation, moe.BatchOp) or is_matmul(operation)


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


def _read_by_row(value: SSAValue) -> bool:
    """Whether somebody reads a value where it lies for each row of a domain: stages that are no rows."""
    index = isinstance(value.type, SelectionType) or element_of(value.type) == I64
    return index or any(map(_reads_row, value.uses))


def _reads_row(use: Use) -> bool:
    operation = use.operation
    if isinstance(operation, moe.ContractOp):
        return use.index == 1 and is_matmul(operation)
    return isinstance(operation, moe.BatchOp) or (is_heavy(operation) and use.index == 0)
