"""Types and attributes that both dialects use, and the way between them and shapes as formulas.

An array is a builtin `tensor`; while dimensions have no value its shape stands in the encoding
(`tensor<?x?xf32, #moe.shape<"E, H">>`). A scalar is its element type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from xdsl.ir import Attribute, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.utils.exceptions import VerifyException

from moec.dims import Dim, parse_dim

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


ELEMENTS: Final[dict[str, Attribute]] = {
    "real": RealType(),
    "f32": Float32Type(),
    "bf16": BFloat16Type(),
    "f16": Float16Type(),
    "i64": IntegerType(64),
    "bool": IntegerType(1),
}
_NAMES: Final = {attribute: name for name, attribute in ELEMENTS.items()}

FLOAT32: Final = Float32Type()
F32: Final[Attribute] = FLOAT32
I64: Final = ELEMENTS["i64"]
BOOL: Final = ELEMENTS["bool"]


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
    return Dim.of(attribute.value.data)


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
    sizes = [dim.constant for dim in shape]
    if all(size is not None for size in sizes):
        return TensorType(element, [int(size) for size in sizes if size is not None])
    encoding = ShapeAttr(StringAttr(", ".join(map(str, shape))))
    return TensorType(element, [DYNAMIC_INDEX] * len(shape), encoding)


def shape_of(type: Attribute) -> Shape:
    """The shape of an array; a scalar has none. Raises `VerifyException` where it is not made of formulas."""
    if not isinstance(type, TensorType):
        return ()
    encoding: Any = type.encoding
    if isinstance(encoding, ShapeAttr):
        return tuple(map(_formula, encoding.formulas.data.split(", ")))
    return tuple(Dim.of(size) for size in type.get_shape())


def element_of(type: Attribute) -> Attribute:
    """The element type of an array or scalar."""
    array: Any = type
    return array.get_element_type() if isinstance(type, TensorType) else type


def element_name(type: Attribute) -> str:
    """The element type's name in the language."""
    return _NAMES[element_of(type)]


def with_shape(type: Attribute, shape: Iterable[Dim]) -> Attribute:
    """An array of the same elements under another shape."""
    return array_type(element_of(type), tuple(shape))


def static_shape(type: Attribute) -> tuple[int, ...]:
    """The shape of an array all of whose dimensions have a value. Raises `VerifyException` where one has none."""
    if not isinstance(type, TensorType):
        return ()
    if not isinstance(type.encoding, NoneAttr):
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
