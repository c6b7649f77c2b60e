"""Gives every result the type that follows from its operands, from the arguments down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation
from xdsl.passes import ModulePass

from moec.dialects.inference import InferredOp


@dataclass(frozen=True)
class InferShapes(ModulePass):
    """Raises `ShapeError` where operands do not fit.

    Needs nothing. Leaves result types that follow from the operands."""

    name: ClassVar[str] = "infer-shapes"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        _block(op.body.block)


def _block(block: Block) -> None:
    for operation in block.ops:
        _operation(operation)


def _operation(operation: Operation) -> None:
    for region in operation.regions:
        for block in region.blocks:
            _block(block)
    if isinstance(operation, InferredOp):
        operation.update_types()
