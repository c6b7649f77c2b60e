"""Rounds what a layer returns to the element types in which it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import ELEMENTS, F32, element_of, shape_of


@dataclass(frozen=True)
class RoundOutputs(ModulePass):
    """After it the types of `moe.return` are those of the buffers."""

    name: ClassVar[str] = "round-outputs"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for layer in op.body.block.ops:
            last = layer.regions[0].block.last_op
            if isinstance(layer, moe.LayerOp) and isinstance(last, moe.ReturnOp):
                for position, name in enumerate(layer.types):
                    last.operands[position] = _rounded(last, last.operands[position], name.data)


def _rounded(last: moe.ReturnOp, value: SSAValue, name: str) -> SSAValue:
    target = ELEMENTS[name]
    if element_of(value.type) == target:
        return value
    convert = arith.ExtFOp if target == F32 else arith.TruncFOp
    if not shape_of(value.type):
        scalar = convert(value, target)  # pyright: ignore[reportArgumentType]
        Rewriter.insert_op(scalar, InsertPoint.before(last))
        return scalar.results[0]
    block = Block(arg_types=[element_of(value.type)])
    scalar = convert(block.args[0], target)  # pyright: ignore[reportArgumentType]
    operation = moe.MapOp.make([value], regions=[moe.region_of([scalar], [scalar.results[0]], block)])
    Rewriter.insert_op(operation, InsertPoint.before(last))
    return operation.results[0]
