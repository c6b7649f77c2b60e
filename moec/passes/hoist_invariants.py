"""Moves what does not depend on the slot out of sparse sums: it is computed once a token, not once a slot.

Out of a loop that may have no turn at all, as one over a range whose ends have no values yet, nothing moves that cannot
be speculated, since it may fail; and out of one that has none, or at most one, nothing: an arm of a `match` is computed
for the rows that take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation
from xdsl.passes import ModulePass
from xdsl.traits import IsTerminator, is_side_effect_free, is_speculatable

from moec.dialects import moe
from moec.dims import ONE, ZERO


@dataclass(frozen=True)
class HoistInvariants(ModulePass):
    """Inner regions first, so that work climbs as far as it can.

    Needs nothing. Leaves in a loop what depends on its slot, or may not be computed without one."""

    name: ClassVar[str] = "hoist-invariants"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        regions = [operation for operation in op.walk() if isinstance(operation, moe.SumOp | moe.EachOp)]
        for operation in reversed(regions):
            hoist(operation)


def hoist(loop: moe.SumOp | moe.EachOp) -> None:
    """Moves what does not depend on the slot to before the loop."""
    body, partial, turns = loop.body.block, moe.partial(loop.slots), moe.slots(loop.slots)
    if turns == ZERO or (partial and turns == ONE):
        return
    runs = not partial and turns.constant is not None
    for operation in list(body.ops):
        if _invariant(operation, body) and _may_move(operation, runs):
            operation.detach()
            assert loop.parent is not None
            loop.parent.insert_op_before(operation, loop)


def _may_move(operation: Operation, runs: bool) -> bool:
    """Whether an operation may be computed before a loop instead of in it; `runs` says that the loop has a turn."""
    moves = not operation.has_trait(IsTerminator) and is_side_effect_free(operation)
    return moves and (runs or is_speculatable(operation))


def _invariant(operation: Operation, body: Block) -> bool:
    """Whether nothing that the operation reads, its regions included, is made inside the body."""
    for inner in operation.walk():
        for operand in inner.operands:
            block = operand.owner if isinstance(operand.owner, Block) else operand.owner.parent
            if block is body:
                return False
    return True
