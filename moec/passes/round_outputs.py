"""Rounds what a layer returns to the element types in which it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import ELEMENTS, F32, element_of, shape_of
from moec.passes.preconditions import layers


@dataclass(frozen=True)
class RoundOutputs(ModulePass):
    """After it the types of `moe.return` are those of the buffers.

    Needs `specialize`. Leaves what is returned in the declared types."""

    name: ClassVar[str] = "round-outputs"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for layer in layers(op, self, "specialize"):
            last = layer.body.block.last_op
            assert isinstance(last, moe.ReturnOp)
            for position, name in enumerate(layer.types):
                last.operands[position] = _rounded(last, last.operands[position], name.data)


def _rounded(last: moe.ReturnOp, value: SSAValue, name: str) -> SSAValue:
    target = ELEMENTS[name]
    if element_of(value.type) == target:
        return value
    convert = partial(arith.ExtFOp if target == F32 else arith.TruncFOp, target_type=target)
    operation = moe.map_of([value], convert) if shape_of(value.type) else convert(value)
    Rewriter.insert_op(operation, InsertPoint.before(last))
    return operation.results[0]
