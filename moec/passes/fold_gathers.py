"""Lets products leave their results as the next product wants its rows, instead of copying them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from moec.dialects import plan
from moec.passes.preconditions import programs


@dataclass(frozen=True)
class FoldGathers(ModulePass):
    """After it, rows that a product in tiles makes only for another one over the same grouping are never moved.

    Needs `schedule`. Leaves no `plan.gather` of what such a product can leave gathered."""

    name: ClassVar[str] = "fold-gathers"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for program in programs(op, self):
            for gather in list(program.body.block.ops):
                if isinstance(gather, plan.GatherOp) and (product := _source(gather)) is not None:
                    product.gathered = UnitAttr()
                    value = Rewriter.replace_value_with_new_type(product.value, gather.value.type)
                    Rewriter.replace_op(gather, [], [value])


def _source(gather: plan.GatherOp) -> plan.MatmulOp | None:
    """The product whose results are gathered, if it can leave them so."""
    product = gather.vector.owner
    if not isinstance(product, plan.MatmulOp) or len(list(product.value.uses)) > 1:
        return None
    tiled = product.kernel.form == "amx"
    mine, its = ((op.domain, op.group, op.grouping, op.keys) for op in (gather, product))
    return product if tiled and mine == its else None
