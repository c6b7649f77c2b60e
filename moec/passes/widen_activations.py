"""Keeps vectors in the element type that the target's kernels read.

Where 16-bit weights are widened in the inner loop, the kernel reads f32: the vector is rounded as the layer says and
stored wide, once, instead of being widened for every panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import F32, element_name, element_of
from moec.passes.preconditions import layers
from moec.passes.views import weight_view
from moec.target import Target


@dataclass(frozen=True)
class WidenActivations(ModulePass):
    """`target` prints as `moec.target.Target` does.

    Needs `specialize`. Leaves each vector of a product as the target's kernel reads it."""

    name: ClassVar[str] = "widen-activations"

    target: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = Target.parse(self.target) if self.target else Target.host()
        wide: dict[SSAValue, SSAValue] = {}
        for layer in layers(op, self, "specialize"):
            for operation in list(layer.walk()):
                if isinstance(operation, moe.ContractOp) and is_too_narrow(operation, target):
                    vector = operation.vector
                    if vector not in wide:
                        wide[vector] = _widened(vector)
                    operation.operands[1] = wide[vector]


def is_too_narrow(operation: moe.ContractOp, target: Target) -> bool:
    """Whether the kernel of a product reads f32, as it stands in memory, and the vector is something else."""
    if operation.activations is not None or weight_view(operation.weight) is None:
        return False
    dtype = element_name(operation.weight.type)
    return element_of(operation.vector.type) != F32 and target.kernel(dtype).activation == "f32"


def _widened(vector: SSAValue) -> SSAValue:
    """The vector in f32, computed where the vector is."""
    operation = moe.map_of([vector], partial(arith.ExtFOp, target_type=F32))
    owner = vector.owner
    Rewriter.insert_op(operation, InsertPoint.at_start(owner) if isinstance(owner, Block) else InsertPoint.after(owner))
    return operation.results[0]
