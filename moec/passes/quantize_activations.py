"""Marks the products whose vectors are quantised: those with stored weights, where the caller wants integer arithmetic.

What quantising means stands in `moec.formats.activations`. A product keeps its real vector here; the stage that
multiplies quantises it on the way, so nothing else of the layer sees the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from moec.diagnostics import fail
from moec.dialects import moe
from moec.formats import FORMATS
from moec.passes.preconditions import layers
from moec.passes.views import weight_view


@dataclass(frozen=True)
class QuantizeActivations(ModulePass):
    """For every contraction with a weight that has a storage format, as `choose-storage` gives them.

    Needs `specialize`. Leaves `activations` at each of them."""

    name: ClassVar[str] = "quantize-activations"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for layer in layers(op, self, "specialize"):
            for operation in layer.walk():
                if isinstance(operation, moe.ContractOp):
                    view = weight_view(operation.weight)
                    if view is not None and view.storage:
                        _require_integers(view.storage)
                        operation.activations = StringAttr("int8")


def _require_integers(storage: str) -> None:
    if FORMATS[storage].layout.center is None:
        text = f"weights in {storage} are no integers, so they cannot be multiplied with int8 activations"
        some = [name for name, format in FORMATS.items() if format.layout.center is not None][:3]
        raise fail("E0306", text, help=f'`activations="real"`, or a format of integers such as {", ".join(some)}')
