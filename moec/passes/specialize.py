"""Puts numbers for dimensions and an element type for `real`, in every type and every property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import AnyFloat, ArrayAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr, TensorType
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter
from xdsl.utils.exceptions import PassFailedException

from moec.dialects import moe
from moec.dialects.types import (
    BOOL,
    ELEMENTS,
    F32,
    I64,
    DimAttr,
    RealType,
    SelectionType,
    array_type,
    dim_attr,
    dim_of,
    element_of,
    shape_of,
)
from moec.dtypes import REALS


@dataclass(frozen=True)
class Specialize(ModulePass):
    """`dims` is `("H=4096", …)`, `real` one of f32, bf16, f16.

    Needs nothing but a value for every dimension. Leaves types of numbers, and neither `moe.number` nor `moe.cast`."""

    name: ClassVar[str] = "specialize"

    dims: tuple[str, ...] = ()
    real: str = "f32"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.real not in REALS:
            raise PassFailedException(f"`real` is f32, bf16 or f16, not `{self.real}`")
        binding = {name: int(value) for name, _, value in (item.partition("=") for item in self.dims)}
        substitute = _Substitution(binding, ELEMENTS[self.real])
        for operation in list(op.walk()):
            _retype(operation, substitute)
        for operation in list(op.walk()):
            if isinstance(operation, moe.NumberOp):
                Rewriter.replace_op(operation, _constant(operation))
            elif isinstance(operation, moe.CastOp):
                _settle(operation)
            elif isinstance(operation, moe.LayerOp):
                operation.properties["types"] = _types(operation.types, self.real)


@dataclass(frozen=True)
class _Substitution:
    binding: Mapping[str, int]
    real: Attribute

    def __call__(self, attribute: Any) -> Attribute:
        if isinstance(attribute, DimAttr):
            return dim_attr(dim_of(attribute).substitute(self.binding))
        if isinstance(attribute, ArrayAttr):
            return ArrayAttr([self(item) for item in attribute])  # pyright: ignore[reportUnknownVariableType]
        if isinstance(attribute, TensorType):
            array = cast(Attribute, attribute)
            shape = [dim.substitute(self.binding) for dim in shape_of(array)]
            return array_type(self(element_of(array)), shape)
        if isinstance(attribute, SelectionType):
            return SelectionType(self(attribute.size), self(attribute.domain), attribute.kind)
        return self.real if isinstance(attribute, RealType) else attribute


def _retype(operation: Operation, substitute: _Substitution) -> None:
    values: list[SSAValue] = list(operation.results)
    values += [argument for region in operation.regions for block in region.blocks for argument in block.args]
    for value in values:
        value._type = substitute(value.type)  # pyright: ignore[reportPrivateUsage]
    for name, attribute in operation.properties.items():
        operation.properties[name] = substitute(attribute)


def _types(names: ArrayAttr[StringAttr], real: str) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(real if name.data == "real" else name.data) for name in names])


def _constant(operation: moe.NumberOp) -> arith.ConstantOp:
    value, element = dim_of(operation.value).evaluate({}), operation.element
    if element in (BOOL, I64):
        return arith.ConstantOp(IntegerAttr(int(value), 64 if element == I64 else 1))
    return arith.ConstantOp(FloatAttr(float(value), cast(AnyFloat, element)))


def _settle(operation: moe.CastOp) -> None:
    """A cast becomes upstream's, or nothing."""
    value, target = operation.operand, operation.result.type
    if value.type == target:
        Rewriter.replace_op(operation, [], [value])
    else:
        Rewriter.replace_op(operation, (arith.ExtFOp if target == F32 else arith.TruncFOp)(value, target))  # pyright: ignore[reportArgumentType]
