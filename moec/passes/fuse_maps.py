"""Joins pointwise work: a `moe.map` whose result only another map reads becomes part of that map, unless it is computed
once for all tokens and the other is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, OpResult, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from moec.dialects import moe
from moec.dialects.types import element_of
from moec.passes.constants import computed_once
from moec.passes.loops import is_copy
from moec.passes.preconditions import layers


@dataclass(frozen=True)
class FuseMaps(ModulePass):
    """Maps are visited in program order, so that chains collapse into their last link.

    Needs nothing. Leaves no map that only another one reads, but for what is computed once."""

    name: ClassVar[str] = "fuse-maps"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kept: set[SSAValue] = set()
        for layer in layers(op, self):
            block = layer.body.block
            kept.update(computed_once(block, block.args[len(layer.inputs) :])[0])
        for operation in list(op.walk()):
            if isinstance(operation, moe.MapOp):
                if is_copy(operation):
                    Rewriter.replace_op(operation, [], [operation.arrays[0]])
                else:
                    _absorb(operation, kept)


def _absorb(consumer: moe.MapOp, kept: set[SSAValue]) -> None:
    """Replaces a map by one that computes its producers' work too, where nobody else reads it; what is `kept`, for all
    tokens, stays."""
    producers = [producer for producer in _producers(consumer) if producer.result not in kept]
    if not producers:
        return
    inputs, block, mapping = _signature(consumer, producers)
    for producer in producers:
        _inline(producer, block, mapping)
    for value, argument in zip(consumer.arrays, consumer.body.block.args, strict=True):
        argument.replace_all_uses_with(mapping[value])
    for operation in list(consumer.body.block.ops):
        operation.detach()
        block.add_op(operation)
    fused = moe.MapOp.make(inputs, regions=[Region(block)])
    fused.location = consumer.location
    fused.result.name_hint = consumer.result.name_hint
    if consumer.result in kept:
        kept.add(fused.result)
    Rewriter.replace_op(consumer, fused)
    for producer in producers:
        producer.detach()
        producer.erase()
    _absorb(fused, kept)  # what several of the joined maps read has one reader now


def _producers(consumer: moe.MapOp) -> list[moe.MapOp]:
    """The maps in the same block whose results only this one reads."""
    found: list[moe.MapOp] = []
    for value in consumer.arrays:
        owner = value.owner
        if not isinstance(value, OpResult) or not isinstance(owner, moe.MapOp) or owner in found:
            continue
        if owner.parent is consumer.parent and all(use.operation is consumer for use in value.uses):
            found.append(owner)
    return found


def _signature(
    consumer: moe.MapOp, producers: list[moe.MapOp]
) -> tuple[list[SSAValue], Block, dict[SSAValue, SSAValue]]:
    """The arrays that the joined map reads, each once, and its block with an argument for each."""
    made = {producer.result for producer in producers}
    inputs: dict[SSAValue, None] = {}
    for owner in (*producers, consumer):
        inputs.update({value: None for value in owner.arrays if value not in made})
    block = Block(arg_types=[element_of(value.type) for value in inputs])
    return list(inputs), block, dict(zip(inputs, block.args, strict=True))


def _inline(producer: moe.MapOp, block: Block, mapping: dict[SSAValue, SSAValue]) -> None:
    """Moves a producer's work to the end of the joined block; its result is then known there."""
    for value, argument in zip(producer.arrays, producer.body.block.args, strict=True):
        argument.replace_all_uses_with(mapping[value])
    for operation in list(producer.body.block.ops):
        if isinstance(operation, moe.YieldOp):
            mapping[producer.result] = operation.value
            operation.detach()
            operation.erase()
        else:
            operation.detach()
            block.add_op(operation)
