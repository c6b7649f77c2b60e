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
from moec.dialects.types import I64, dim_of, element_of, integer, shape_of
from moec.passes.preconditions import layers
from moec.passes.views import is_matmul


@dataclass(frozen=True)
class SplitMatch(ModulePass):
    """Arms without products stay what they are.

    Needs `specialize`. Leaves no `moe.match` that holds a product with a view of a parameter."""

    name: ClassVar[str] = "split-match"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for layer in layers(op, self, "specialize"):
            for operation in reversed(list(layer.walk())):
                if isinstance(operation, moe.MatchOp) and any(map(is_matmul, operation.walk())):
                    _split(operation)


def _split(match: moe.MatchOp) -> None:
    builder = _Inserter(match)
    total: SSAValue | None = None
    low = 0 if match.low is None else _end(match.low)
    for region, bound in zip(list(match.arms), match.bounds, strict=True):
        high = _end(bound)
        part = _arm(builder, match.index, region, low, high)
        total = part if total is None else builder.add(total, part)
        low = high
    assert total is not None
    Rewriter.replace_op(match, [], [total])


def _end(attribute: Attribute) -> int | None:
    """The end of a range, or None where it is infinite."""
    return integer(attribute) if dim_of(attribute).finite else None


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


def _arm(insert: _Inserter, index: SSAValue, region: Region, low: int | None, high: int | None) -> SSAValue:
    """`sum j in given([index - low], high - low): arm` with the index `j + low`. Without both ends there is no domain:
    then it is `sum j in given([outside], 1): arm`, with the index `j + index`, as `j` is 0."""
    body = Block(arg_types=[I64, I64])
    if low is None or high is None:
        shift, slot, domain = index, _outside(insert, index, low, high), 1
    else:
        shift = insert(arith.ConstantOp(IntegerAttr(low, 64)))
        slot, domain = insert(arith.SubiOp(index, shift)) if low else index, high - low
    local: SSAValue = body.args[0]
    if low != 0 or high is None:
        body.add_op(add := arith.AddiOp(local, shift))
        local = add.result
    for operation in region.walk():
        for position, operand in enumerate(operation.operands):
            if operand is index:
                operation.operands[position] = local
    for operation in list(region.block.ops):
        operation.detach()
        body.add_op(operation)
    ids = insert(moe.BroadcastOp.make(slot, shape=_ints([1])))
    selection = insert(moe.GivenOp.make(ids, domain=domain))
    return insert(moe.SumOp.make(selection, regions=[Region(body)]))


def _outside(insert: _Inserter, index: SSAValue, low: int | None, high: int | None) -> SSAValue:
    """1 where an arm that has one end at most does not take the index, else 0."""
    end = low if high is None else high
    yes, no = insert(arith.ConstantOp(IntegerAttr(1, 64))), insert(arith.ConstantOp(IntegerAttr(0, 64)))
    if end is None:
        return no
    limit = insert(arith.ConstantOp(IntegerAttr(end, 64)))
    beyond = insert(arith.CmpiOp(index, limit, "slt" if high is None else "sge"))
    return insert(arith.SelectOp(beyond, yes, no))


def _ints(sizes: list[int]) -> ArrayAttr[Attribute]:
    return ArrayAttr([IntegerAttr(size, 64) for size in sizes])
