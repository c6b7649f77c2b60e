"""Types and attributes that both dialects use, and the way between them and shapes as formulas.

An array is a builtin `tensor`; while dimensions have no value its shape stands in the encoding
(`tensor<?x?xf32, #moe.shape<"E, H">>`). A scalar is its element type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    BFloat16Type,
    Float16Type,
    Float32Type,
    IntAttr,
    IntegerAttr,
    IntegerType,
    NoneAttr,
    StringAttr,
    TensorType,
)
from xdsl.dialects.utils.enum_attribute import EnumAttribute
from xdsl.ir import Attribute, ParametrizedAttribute, SpacedOpaqueSyntaxAttribute, TypeAttribute
from xdsl.irdl import AttrSetConstraint, irdl_attr_definition
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from moec.dims import Dim, parse_dim
from moec.dtypes import REAL, REALS

Shape = tuple[Dim, ...]


@irdl_attr_definition
class RealType(ParametrizedAttribute, TypeAttribute):
    """The working precision, before a compile chooses it."""

    name = "moe.real"


@irdl_attr_definition
class DimAttr(ParametrizedAttribute):
    """A compile-time number: `#moe.dim<"E/G">`."""

    name = "moe.dim"
    formula: StringAttr


@irdl_attr_definition
class ShapeAttr(ParametrizedAttribute):
    """The shape of an array whose dimensions have no value yet: `#moe.shape<"E, H">`."""

    name = "moe.shape"
    formulas: StringAttr


@irdl_attr_definition
class SelectionType(ParametrizedAttribute, TypeAttribute):
    """`size` slots, each an index into `0..domain`. `kind` is `full`, or `partial` where slots may be empty."""

    name = "moe.selection"
    size: Attribute
    domain: Attribute
    kind: StringAttr

    def verify(self) -> None:
        for number in (self.size, self.domain):
            length_of(dim_of(number))
        if self.kind.data not in ("full", "partial"):
            raise VerifyException(f"a selection is full or partial, not {self.kind}")

    @property
    def partial(self) -> bool:
        """Whether slots may be empty."""
        return self.kind.data == "partial"


class Reduction(StrEnum):
    """What makes one element of many."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@irdl_attr_definition
class ReductionAttr(EnumAttribute[Reduction], SpacedOpaqueSyntaxAttribute):
    """`#moe<reduction sum>`."""

    name = "moe.reduction"


class Along(StrEnum):
    """Work along the axis of tokens: over all tokens of a call (`sum`, `max`, `min`), over those up to this one
    (`cumsum`), of the one before this one, 0 for the first (`previous`), or how many rank ahead of this one (`rank`):
    larger ones, and equal ones before it."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    CUMSUM = "cumsum"
    PREVIOUS = "previous"
    RANK = "rank"

    @property
    def same(self) -> bool:
        """Whether all tokens have the same result."""
        return self in (Along.SUM, Along.MAX, Along.MIN)


@irdl_attr_definition
class AlongAttr(EnumAttribute[Along], SpacedOpaqueSyntaxAttribute):
    """`#moe<along cumsum>`."""

    name = "moe.along"


ELEMENTS: Final[dict[str, Attribute]] = {
    "real": RealType(),
    "f32": Float32Type(),
    "bf16": BFloat16Type(),
    "f16": Float16Type(),
    "i64": IntegerType(64),
    "bool": IntegerType(1),
}
_NAMES: Final = {attribute: name for name, attribute in ELEMENTS.items()}

#: What an element may be, and what an array may be: a scalar is one without axes.
ELEMENT: Final = AttrSetConstraint(frozenset(ELEMENTS.values()))
ARRAY: Final = ELEMENT | TensorType.constr(ELEMENT)
#: The elements that are numbers with a point: those that are rounded and multiplied.
FLOATS: Final = frozenset(ELEMENTS[name] for name in (REAL, *REALS))
FLOAT: Final = AttrSetConstraint(FLOATS)

FLOAT32: Final = Float32Type()
F32: Final[Attribute] = FLOAT32
I64: Final = ELEMENTS["i64"]
BOOL: Final = ELEMENTS["bool"]


_whole = cache(Dim.of)  # few numbers, asked for whenever the IR is verified


def dim_attr(dim: Dim) -> Attribute:
    """A formula as an attribute; an integer of 64 bits is one of MLIR's own."""
    constant = dim.constant
    if constant is not None and constant.denominator == 1 and -(1 << 63) <= constant < 1 << 63:
        return IntegerAttr(int(constant), 64)
    return DimAttr(StringAttr(str(dim)))


def dim_of(attribute: Attribute) -> Dim:
    """The inverse of `dim_attr`. Raises `VerifyException` where an attribute is no number."""
    if isinstance(attribute, DimAttr):
        return _formula(attribute.formula.data)
    if not isinstance(attribute, IntegerAttr):
        raise VerifyException(f"{attribute} is not a number")
    return _whole(attribute.value.data)


def _formula(text: str) -> Dim:
    """A formula as it stands in IR. Raises `VerifyException` where it is none."""
    try:
        return parse_dim(text)
    except ZeroDivisionError:
        raise VerifyException(f"`{text}` divides by zero") from None
    except (OverflowError, ValueError) as error:
        raise VerifyException(f"`{text}` is not a formula: {error}") from None


def array_type(element: Attribute, shape: Sequence[Dim]) -> Attribute:
    """The type of an array: its element type when it has no axes."""
    if not shape:
        return element
    sizes = [length_of(dim) for dim in shape]
    if None not in sizes:
        return TensorType(element, [size for size in sizes if size is not None])
    encoding = ShapeAttr(StringAttr(", ".join(map(str, shape))))
    return TensorType(element, [DYNAMIC_INDEX] * len(shape), encoding)


def length_of(dim: Dim) -> int | None:
    """The length of an axis; None where it has no value yet. Raises `VerifyException` where no axis is so long."""
    length = dim.constant
    if length is not None and (length < 0 or length.denominator != 1):
        raise VerifyException(f"no axis has a length of {dim}")
    return None if length is None else length.numerator


def shape_of(type: Attribute) -> Shape:
    """The shape of an array; a scalar has none. Raises `VerifyException` where it is not made of formulas."""
    if not isinstance(type, TensorType):
        return ()
    encoding: Any = type.encoding
    formulas = encoding.formulas.data.split(", ") if isinstance(encoding, ShapeAttr) else None
    if formulas is None and DYNAMIC_INDEX not in type.get_shape():
        return tuple(map(_whole, type.get_shape()))
    if formulas is None or len(formulas) != type.get_num_dims():
        raise VerifyException(f"{type} has not a formula for each axis")
    return tuple(map(_formula, formulas))


def element_of(type: Attribute) -> Attribute:
    """The element type of an array or scalar."""
    array: Any = type
    return array.get_element_type() if isinstance(type, TensorType) else type


def element_name(type: Attribute) -> str:
    """The element type's name in the language. Raises `VerifyException` where it has none."""
    name = _NAMES.get(element_of(type))
    if name is None:
        raise VerifyException(f"{type} is no array of the language")
    return name


def with_shape(type: Attribute, shape: Iterable[Dim]) -> Attribute:
    """An array of the same elements under another shape."""
    return array_type(element_of(type), tuple(shape))


def static_shape(type: Attribute) -> tuple[int, ...]:
    """The shape of an array all of whose dimensions have a value. Raises `VerifyException` where one has none."""
    if not isinstance(type, TensorType):
        return ()
    if not isinstance(type.encoding, NoneAttr) or DYNAMIC_INDEX in type.get_shape():
        raise VerifyException(f"{type} has a dimension without a value: `specialize` comes first")
    return type.get_shape()


def selection_type(size: Dim, domain: Dim, partial: bool) -> SelectionType:
    """The type of `size` slots that hold indices below `domain`; if `partial`, some may be empty."""
    return SelectionType(dim_attr(size), dim_attr(domain), StringAttr("partial" if partial else "full"))


def integer(attribute: Attribute) -> int:
    """The value of an integer attribute. Raises `VerifyException` where it is another one."""
    number: Any = attribute
    if not isinstance(attribute, IntegerAttr | IntAttr):
        raise VerifyException(f"{attribute} is not an integer")
    return number.data if isinstance(attribute, IntAttr) else number.value.data
