"""What a pass needs: a module as the passes before it leave one. Who runs passes by hand, as `moec opt` does, is told
which of them comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, NoneAttr, TensorType
from xdsl.ir import Attribute
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import PassFailedException

from moec.dialects import moe, plan
from moec.dialects.types import ELEMENTS, RealType, SelectionType, element_of
from moec.dtypes import REAL


def layers(module: ModuleOp, each: ModulePass, *after: str) -> list[moe.LayerOp]:
    """The layers of a module, which a pass works on. Raises `PassFailedException` where one is not as the passes that
    are named leave it."""
    found = [op for op in module.body.block.ops if isinstance(op, moe.LayerOp)]
    for layer in found:
        for name in after:
            if (fault := _FAULTS[name](layer)) is not None:
                raise too_early(each, fault, name)
    return found


def programs(module: ModuleOp, each: ModulePass) -> list[plan.ProgramOp]:
    """The programs of a module. Raises `PassFailedException` where there is still a layer."""
    for layer in layers(module, each):
        raise too_early(each, f"{layer.sym_name} is a layer", "schedule")
    return [op for op in module.body.block.ops if isinstance(op, plan.ProgramOp)]


def too_early(each: ModulePass, fault: str, first: str) -> PassFailedException:
    """The error of a pass that is run before another one, to be raised."""
    return PassFailedException(f"`{each.name}` cannot run yet: {fault}; `{first}` comes first")


def _unspecialized(layer: moe.LayerOp) -> str | None:
    """What of a layer still depends on values that dimensions get, or on what `real` stands for."""
    if any(name.data == REAL for name in layer.types):
        return "an output is `real`"
    for op in layer.walk():
        if isinstance(op, moe.NumberOp | moe.CastOp):
            return f"there is a {op.name}"
    return next((f"there is {type}" for type in _types(layer) if _is_open(type)), None)


def _types(layer: moe.LayerOp) -> Iterator[Attribute]:
    for op in layer.walk():
        yield from op.result_types
        for region in op.regions:
            yield from region.block.arg_types


def _is_open(type: Attribute) -> bool:
    """Whether a type has a dimension without a value, or `real` elements."""
    if isinstance(type, SelectionType):
        return not (isinstance(type.size, IntegerAttr) and isinstance(type.domain, IntegerAttr))
    if isinstance(element_of(type), RealType):
        return True
    return isinstance(type, TensorType) and not isinstance(type.encoding, NoneAttr)


def _unrounded(layer: moe.LayerOp) -> str | None:
    """What of a layer does not leave in its declared type."""
    last = layer.body.block.last_op
    assert isinstance(last, moe.ReturnOp)
    pairs = zip(last.operand_types, layer.types, strict=True)
    return next((f"{type} leaves as {name}" for type, name in pairs if element_of(type) != ELEMENTS[name.data]), None)


#: For a pass, what of a layer is not as it leaves one.
_FAULTS: Final[dict[str, Callable[[moe.LayerOp], str | None]]] = {
    "specialize": _unspecialized,
    "round-outputs": _unrounded,
}
