"""Takes what is the same for every token out of loops over ranges, for every index.

In `each e in 0..E: l[e] / norm(router[e])` that is the vector of the norms; in `sum e in 0..E: w[e] * (up[e] @ m)`,
with a mean `m` of all tokens, the products. A loop of which nothing depends on the token stays as it is. What is the
same for every token is computed once a call (`moec.passes.schedule`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue, Use
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import I64, SelectionType, element_of
from moec.passes.captured import captured
from moec.passes.constants import computed_once, is_constant, known_around
from moec.passes.loops import forget, over_range, stack
from moec.passes.preconditions import layers
from moec.passes.views import is_heavy, is_matmul, made_in


@dataclass(frozen=True)
class GatherConstants(ModulePass):
    """Inner loops first: what they leave depends on the indices around them alone.

    Needs `specialize`. Leaves nothing of that kind in a loop that it could leave."""

    name: ClassVar[str] = "gather-constants"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for layer in layers(op, self, "specialize"):
            loops = [loop for loop in layer.walk() if isinstance(loop, moe.SumOp | moe.EachOp) and over_range(loop)]
            for loop in reversed(loops):
                _gather(loop)


def _gather(loop: moe.SumOp | moe.EachOp) -> None:
    known, block = known_around(loop), loop.body.block
    if is_constant(loop, known):
        return
    values, _ = computed_once(block, {*known, *block.args}, lambda value: not _read_by_row(value))
    for value in values:
        made = value.owner
        assert isinstance(made, Operation)
        together = stack(loop, value, InsertPoint.before(loop))
        _climb(together, loop)
        item = moe.ExtractOp.make(together, block.args[1])
        Rewriter.insert_op(item, InsertPoint.after(made))
        value.replace_all_uses_with(item.result)
        forget(value)


def _read_by_row(value: SSAValue) -> bool:
    """Whether somebody reads a value where it lies for each row of a domain: stages that are no rows."""
    index = isinstance(value.type, SelectionType) or element_of(value.type) == I64
    return index or any(map(_reads_row, value.uses))


def _reads_row(use: Use) -> bool:
    operation = use.operation
    if isinstance(operation, moe.ContractOp):
        return use.index == 1 and is_matmul(operation)
    return is_heavy(operation) and use.index == 0


def _climb(value: SSAValue, loop: Operation) -> None:
    """Moves what makes a value out of all loops around another one whose index it does not need."""
    operation, place, around = value.owner, loop, loop.parent_op()
    assert isinstance(operation, Operation)
    read = captured(operation)
    while isinstance(around, moe.SumOp | moe.EachOp) and not any(made_in(around, value) for value in read):
        place, around = around, around.parent_op()
    if place is not loop:
        operation.detach()
        Rewriter.insert_op(operation, InsertPoint.before(place))
