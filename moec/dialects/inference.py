"""Operations that infer their result types: what building, verifying and the pass `infer-shapes` share."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Self

from xdsl.dialects.builtin import IntegerAttr, StringAttr
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import IRDLOperation
from xdsl.utils.exceptions import VerifyException

from moec.dialects.types import F32, dim_attr
from moec.dims import Dim


class ShapeError(VerifyException):
    """Operands, properties or regions that an operation cannot have."""


def require(condition: bool, message: str, *of: object) -> None:
    """Raises `ShapeError` where a condition does not hold. `of` are what the `{}` of its message stand for: types are
    slow to print, and nearly always fit."""
    if not condition:
        raise ShapeError(message.format(*of))


def require_as_many(some: Sized, others: Sized, what: str, of: str) -> None:
    """Raises `ShapeError` where there are not as many of one as of the other; both have a name."""
    require(len(some) == len(others), "there are {} {} for {} {}", len(some), what, len(others), of)


def require_at_most(least: Dim, most: Dim, message: str, *of: object) -> None:
    """Raises `ShapeError` where `least` is known to be larger."""
    difference = None if least == most else (most - least).constant
    require(difference is None or difference >= 0, message, *of)


class InferredOp(IRDLOperation):
    """An operation whose result types follow from its operands and properties."""

    def infer(self) -> Sequence[Attribute]:
        """The result types, from the operands' types and the properties. Raises `ShapeError` where these, or what the
        regions hold, do not fit together."""
        raise NotImplementedError(self.name)  # every operation says its own; xDSL's base class cannot be abstract

    @classmethod
    def make(
        cls,
        *operands: SSAValue | Sequence[SSAValue] | None,
        regions: Sequence[Region | Sequence[Region]] = (),
        **properties: Attribute | Dim | str | int | None,
    ) -> Self:
        """A new operation with inferred result types."""
        attributes = {name: _attribute(value) for name, value in properties.items() if value is not None}
        operation = cls.build(
            operands=[[] if operand is None else operand for operand in operands],
            properties=attributes,
            regions=list(regions),
            result_types=[F32 for _ in cls.get_irdl_definition().results],  # until they are inferred
        )
        operation.update_types()
        return operation

    def update_types(self) -> None:
        """Gives the results the types that `infer` says."""
        types = self.infer()
        assert len(types) == len(self.results), self.name
        for result, type in zip(self.results, types, strict=True):
            if result.type != type:
                result._type = type  # pyright: ignore[reportPrivateUsage]

    def verify_(self) -> None:
        """Raises `VerifyException` where the stated result types are not those that `infer` gives."""
        stated, inferred = list(self.result_types), list(self.infer()) if self.results else []
        if stated != inferred:
            texts = (", ".join(map(str, types)) for types in (stated, inferred))
            raise VerifyException("{}: results are {}, inferred {}".format(self.name, *texts))


def _attribute(value: Attribute | Dim | str | int) -> Attribute:
    if isinstance(value, Dim):
        return dim_attr(value)
    if isinstance(value, str):
        return StringAttr(value)
    return IntegerAttr(value, 64) if isinstance(value, int) else value
