"""Gives parameters their storage formats, after checking that each is only ever read as rows of blocks.

Blocks run along the last axis of a parameter. So a stored one may be sliced and indexed in front of it, also behind
other axes (`w[:, e]`), and multiplied; what is transposed, rounded, or read element by element has to be dense.
Where all experts get a format, what chooses stays dense, a router for each head as well: a wrong choice is worse than a
few bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from moec.diagnostics import CompileError, fail, nearest
from moec.dialects import moe
from moec.dialects.types import integer, static_shape
from moec.dtypes import EXPERTS
from moec.formats import find_format, storable
from moec.passes.preconditions import layers
from moec.passes.views import weight_view


@dataclass(frozen=True)
class ChooseStorage(ModulePass):
    """`storage` is `("gate=q4_K", …)`; the name `experts` stands for every parameter of three axes or more that can be
    stored and chooses nothing, unless it has an entry of its own; where nothing is stored at all, that is an error.

    Needs `specialize`. Leaves a format for each parameter, or none."""

    name: ClassVar[str] = "choose-storage"

    storage: tuple[str, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        chosen = dict(item.split("=", 1) for item in self.storage)
        for layer in layers(op, self, "specialize"):
            _choose(layer, chosen)


def _choose(layer: moe.LayerOp, chosen: dict[str, str]) -> None:
    names = [name.data for name in layer.params]
    formats: list[str] = []
    dense: dict[str, str] = {}
    choosing = _choosing(layer) if EXPERTS in chosen else set[SSAValue]()
    for name in chosen:
        if name not in names and name != EXPERTS:
            raise fail("E0402", f"`{name}` is not a weight of the layer", help=nearest(name, names))
    for name, value in zip(names, layer.body.block.args[len(layer.inputs) :], strict=True):
        shape, reason = list(static_shape(value.type)), _unstorable(value)
        wanted = chosen.get(name)
        if wanted is None and EXPERTS in chosen and len(shape) >= 3:
            if value in choosing:
                dense[name] = "selections are made from it"
            elif reason is None:
                wanted = chosen[EXPERTS]
            else:
                dense[name] = reason
        if wanted is not None:
            format = find_format(wanted)
            if reason is not None:
                raise fail("E0306", f"`{name}` cannot be stored as {wanted}: {reason}")
            storable(format, shape[-1], f"`{name}`")
        formats.append(wanted or "")
    if EXPERTS in chosen and not any(formats):
        params = zip(names, layer.body.block.args[len(layer.inputs) :], strict=True)
        ranked = sorted((value in choosing, name) for name, value in params if _unstorable(value) is None)
        raise _nothing_stored(chosen[EXPERTS], dense, [name for _, name in ranked])
    layer.properties["storage"] = ArrayAttr([StringAttr(format) for format in formats])


def _choosing(layer: moe.LayerOp) -> set[SSAValue]:
    """What selections are made from: among it the parameters that choose. What experts have added up is not asked where
    it comes from: who chooses after them would make routers of them all."""
    found: set[SSAValue] = set()
    waiting = [value for op in layer.walk() if isinstance(op, moe.TopKOp | moe.WhereOp) for value in op.operands]
    while waiting:
        value = waiting.pop()
        if value not in found:
            found.add(value)
            if isinstance(value.owner, Operation) and not _adds_products(value.owner):
                waiting += [operand for op in value.owner.walk() for operand in op.operands]
    return found


def _adds_products(op: Operation) -> bool:
    return isinstance(op, moe.SumOp) and any(isinstance(inner, moe.ContractOp) for inner in op.walk())


def _nothing_stored(wanted: str, dense: dict[str, str], others: list[str]) -> CompileError:
    """Why a format for all experts finds none: better said than a layer that stays dense unnoticed."""
    help = f"name the weights: `{others[0]}={wanted}`" if others else ""
    for name, reason in dense.items():
        return fail("E0306", f"`{name}` cannot be stored as {wanted}: {reason}", help=help)
    return fail("E0306", f"the layer has no stack of experts to store as {wanted}", help=help)


def storable_params(module: ModuleOp) -> list[str]:
    """The parameters of a module's layer that may be stored."""
    layer = _layer(module)
    params = zip(layer.params, layer.body.block.args[len(layer.inputs) :], strict=True)
    return [name.data for name, value in params if _unstorable(value) is None]


def stored_params(module: ModuleOp) -> dict[str, str]:
    """The parameters of a module's layer that are stored, and in which formats."""
    layer = _layer(module)
    formats = zip(layer.params, layer.storage or (), strict=True)
    return {name.data: format.data for name, format in formats if format.data}


def _layer(module: ModuleOp) -> moe.LayerOp:
    (layer,) = (op for op in module.body.block.ops if isinstance(op, moe.LayerOp))
    return layer


def _unstorable(value: SSAValue) -> str | None:
    """Why a parameter, or a view of one, has to be dense."""
    shape, stacked = static_shape(value.type), [_stacked(use.operation) for use in value.uses]
    if not stacked or (len(shape) < 2 and None in stacked):
        return "it is not multiplied with a vector"
    for use, matrix in zip(value.uses, stacked, strict=True):
        match use.operation:
            case moe.ContractOp() as op if op.weight is value and weight_view(value) is not None:
                reason = None
            case moe.ExtractOp() | moe.ReshapeOp() as op if static_shape(op.results[0].type)[-1:] == shape[-1:]:
                reason = _unstorable(op.results[0])
            case moe.SliceOp() as op if (
                integer(op.size) == shape[op.axis.value.data] or op.axis.value.data < len(shape) - 1
            ):
                reason = _unstorable(op.results[0])
            case moe.YieldOp() if matrix is not None:
                reason = _unstorable(matrix)
            case moe.TransposeOp():
                reason = "it is transposed"
            case moe.MapOp():
                reason = "it is rounded or computed with before it is multiplied"
            case _:
                reason = "it is not only multiplied with vectors"
        if reason is not None:
            return reason
    return None


def _stacked(operation: Operation) -> SSAValue | None:
    """The view of a parameter whose rows an operation leaves, as the end of `each i in 0..N: w[i, e]` does."""
    loop = operation.parent_op() if isinstance(operation, moe.YieldOp) else None
    return loop.result if isinstance(loop, moe.EachOp) and weight_view(loop.result) is not None else None
