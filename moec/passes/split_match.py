"""Makes each arm of a `moe.match` that holds matrix products a sparse sum of its own.

Its selection has one slot, which is filled for the rows that take the arm; so the products run over those rows alone,
grouped by expert like any other. What the arms leave is added: all but one are nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, ModuleOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import I64, element_of, integer, shape_of
from moec.passes.views import is_matmul


@dataclass(frozen=True)
class SplitMatch(ModulePass):
    """Arms without products stay what they are."""

    name: ClassVar[str] = "split-match"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for operation in reversed(list(op.walk())):
            if isinstance(operation, moe.MatchOp) and any(map(is_matmul, operation.walk())):
                _split(operation)


def _split(match: moe.MatchOp) -> None:
    builder = _Inserter(match)
    total: SSAValue | None = None
    low = 0
    for region, bound in zip(list(match.arms), match.bounds, strict=True):
        high = integer(bound)
        part = _arm(builder, match.index, region, low, high)
        total = part if total is None else builder.add(total, part)
        low = high
    assert total is not None
    Rewriter.replace_op(match, [], [total])


class _Inserter:
    """Inserts operations before a match."""

    def __init__(self, before: Operation) -> None:
        self._point = InsertPoint.before(before)

    def __call__(self, operation: Operation) -> SSAValue:
        Rewriter.insert_op(operation, self._point)
        return operation.results[0]

    def add(self, left: SSAValue, right: SSAValue) -> SSAValue:
        make = arith.AddiOp if element_of(left.type) == I64 else arith.AddfOp
        return self(make(left, right) if not shape_of(left.type) else moe.map_of([left, right], make))


def _arm(insert: _Inserter, index: SSAValue, region: Region, low: int, high: int) -> SSAValue:
    """`sum j in given([index - low], high - low): arm` with the index `j + low`."""
    shift = insert(arith.ConstantOp(IntegerAttr(low, 64)))
    moved = insert(arith.SubiOp(index, shift)) if low else index
    ids = insert(moe.BroadcastOp.make(moved, shape=_ints([1])))
    selection = insert(moe.GivenOp.make(ids, domain=high - low))
    body = Block(arg_types=[I64, I64])
    local: SSAValue = body.args[0]
    if low:
        add = arith.AddiOp(local, shift)
        body.add_op(add)
        local = add.result
    for operation in list(region.block.ops):
        operation.detach()
        body.add_op(operation)
    for operation in body.walk():
        for position, operand in enumerate(operation.operands):
            if operand is index:
                operation.operands[position] = local
    return insert(moe.SumOp.make(selection, regions=[Region(body)]))


def _ints(sizes: list[int]) -> ArrayAttr[Attribute]:
    return ArrayAttr([IntegerAttr(size, 64) for size in sizes])
