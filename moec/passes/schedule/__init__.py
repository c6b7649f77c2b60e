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
from moec.passes.preconditions import layers, too_early
from moec.passes.schedule.stages import Program
from moec.passes.widen_activations import is_too_narrow
from moec.target import Target


@dataclass(frozen=True)
class Schedule(ModulePass):
    """`target` prints as `moec.target.Target` does. Without `panels` nothing is packed: products are computed row by
    row, with weights as they lie.

    Needs `specialize`, `round-outputs`, and `widen-activations` for the same target. Leaves a `plan.program` in the
    place of each layer."""

    name: ClassVar[str] = "schedule"

    target: str = ""
    panels: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = Target.parse(self.target) if self.target else Target.host()
        for layer in layers(op, self, "specialize", "round-outputs"):
            self._require_wide(layer, target)
            program = Program(layer, target, self.panels).build()
            op.body.block.insert_op_before(program, layer)
            layer.detach()
            layer.erase()

    def _require_wide(self, layer: moe.LayerOp, target: Target) -> None:
        for product in layer.walk():
            if isinstance(product, moe.ContractOp) and is_too_narrow(product, target):
                fault = f"kernels of {target.cpu} read f32, not {product.vector.type}"
                raise too_early(self, fault, "widen-activations")
