"""`moe` to `plan`: cuts a layer into stages.

Contractions with weights become `plan.matmul`, over all tokens or over the slots of a selection grouped by expert; the
pointwise work on their sums goes along. A sparse sum that holds such contractions becomes a domain of its own for them;
what is left of it reads their results. Everything else is computed row by row in `plan.rows`, as late as it can be.

`units` says what becomes a stage of its own, `kernels` with which microkernel, `levels` in which order and what is
stored, `cloner` what stands in a stage's region; `stages` puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from moec.dialects import moe
from moec.passes.schedule.stages import Program
from moec.target import Target


@dataclass(frozen=True)
class Schedule(ModulePass):
    """`target` prints as `moec.target.Target` does. Without `panels` nothing is packed: products are computed row by
    row, with weights as they lie."""

    name: ClassVar[str] = "schedule"

    target: str = ""
    panels: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = Target.parse(self.target) if self.target else Target.host()
        for layer in list(op.body.block.ops):
            if isinstance(layer, moe.LayerOp):
                program = Program(layer, target, self.panels).build()
                op.body.block.insert_op_before(program, layer)
                layer.detach()
                layer.erase()
