"""Drops the auxiliary outputs that nobody asked for; what only they needed is then dead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.passes import ModulePass

from moec.dialects import moe
from moec.passes.preconditions import layers


@dataclass(frozen=True)
class KeepAux(ModulePass):
    """`names` are those that stay; they keep their order.

    Needs nothing. Leaves no other auxiliary output."""

    name: ClassVar[str] = "keep-aux"

    names: tuple[str, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for layer in layers(op, self):
            _keep(layer, self.names)


def _keep(layer: moe.LayerOp, names: tuple[str, ...]) -> None:
    last, count = layer.body.block.last_op, len(layer.outputs)
    assert isinstance(last, moe.ReturnOp)
    kept = [*range(count)]
    kept += [count + place for place, name in enumerate(layer.aux) if name.data in names]
    layer.properties["aux"] = ArrayAttr([name for name in layer.aux if name.data in names])
    layer.properties["types"] = ArrayAttr([layer.types.data[place] for place in kept])
    last.operands = [last.operands[place] for place in kept]
