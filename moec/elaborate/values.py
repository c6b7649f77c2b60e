"""What a name stands for while a file is elaborated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.ir import SSAValue

from moec.diagnostics import Label
from moec.dialects.types import Shape, element_name, shape_of
from moec.dims import Dim
from moec.language import syntax
from moec.source import Span


@dataclass(frozen=True, eq=False, slots=True)
class Number:
    """A compile-time number, or a `truth` that is known while compiling, as 0 or 1."""

    dim: Dim
    origin: Span
    truth: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Bounds:
    """An index lies in `low..high`. An end may be infinite."""

    low: Dim
    high: Dim

    @property
    def finite(self) -> bool:
        """Whether both ends are numbers."""
        return not any(
            factor == "inf" for end in (self.low, self.high) for monomial, _ in end.terms for factor, _ in monomial
        )


@dataclass(frozen=True, eq=False, slots=True)
class Array:
    """An array or a scalar. `origin` is where its shape comes from.

    `restriction` is the selection whose slots the first axis stands for. An index that is known to lie in a range has
    `bounds`; the variable of a `sum` or `each` has its `slot` in a selection; `argmax` has the `choice` that it made.
    """

    ssa: SSAValue
    origin: Span
    restriction: Selection | None = None
    bounds: Bounds | None = None
    slot: tuple[Selection, SSAValue] | None = None
    choice: Selection | None = None

    @property
    def shape(self) -> Shape:
        return shape_of(self.ssa.type)

    @property
    def element(self) -> str:
        return element_name(self.ssa.type)


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """Indices into `0..domain`, `size` slots of them, some empty if `partial`.

    `parents` lists the selections that this one was chosen from, each with the IR value that maps a slot here to a slot
    there. `start` is the first index of a range `a..b`.
    """

    ssa: SSAValue
    size: Dim
    domain: Dim
    partial: bool
    origin: Span
    parents: tuple[tuple[Selection, SSAValue], ...] = ()
    start: Dim | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Function:
    """A function with the scope that it was defined in; `node` is None for one of the language's own."""

    name: str
    node: syntax.Function | None = None
    scope: Scope | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """The axis of tokens, where an axis is named."""


Value = Number | Array | Selection | Function | Batch

#: What is known of an integer that comes from an input.
ANYWHERE = Bounds(-Dim.symbol("inf"), Dim.symbol("inf"))


@dataclass(eq=False, slots=True)
class Scope:
    """Names, with the place where each was given its value, and the scope around. `defined` has every name that the
    body defines, above or below."""

    outer: Scope | None = None
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    places: dict[str, Span] = field(default_factory=dict[str, Span])
    defined: Mapping[str, Span] = field(default_factory=dict[str, Span])

    def find(self, name: str) -> Value | None:
        """What a name stands for, here or in a scope around."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None

    def below(self, name: syntax.Name) -> Span | None:
        """Where a name gets its value further down, in the body here or in one around."""
        place = self.defined.get(name.id)
        if place is not None and place.source is name.span.source and place.start > name.span.start:
            return place
        return self.outer.below(name) if self.outer else None

    def names(self) -> list[str]:
        """All names that are known here."""
        return [*self.values, *(self.outer.names() if self.outer else [])]


def definitions(body: Sequence[syntax.Statement]) -> dict[str, Span]:
    """The names that statements define, with the place of each; of one that is defined twice the first."""
    found: dict[str, Span] = {}
    for statement in body:
        match statement:
            case syntax.Param() | syntax.Assign():
                names = statement.names
            case syntax.Aux() | syntax.Function():
                names = (statement.name,)
            case syntax.Return():
                names = ()
        for name in names:
            found.setdefault(name.id, name.span)
    return found


def shape_origin(array: Array) -> Label:
    """Where an array's shape comes from, as the cause of an error."""
    return Label(array.origin, f"{show(array.shape)} comes from here")


def by_rows(matrix: Array, body: str) -> str:
    """What is written for a computation of every row `i` of a matrix, or every element of a vector."""
    return f"each i in 0..{matrix.shape[0]}: {body}"


def kind_of(value: Value) -> str:
    """A value's kind in the words of the language reference."""
    match value:
        case Number(truth=True):
            return "a truth value"
        case Number():
            return "a compile-time number"
        case Selection():
            return "a selection"
        case Function():
            return "a function"
        case Batch():
            return "the axis of tokens"
        case Array() if value.shape:
            return f"an array of shape {show(value.shape)}"
        case Array() if value.element == "i64":
            return "an index"
        case Array():
            return "a scalar"


def show(shape: Shape) -> str:
    """A shape as it is written in the language."""
    return f"[{', '.join(map(str, shape))}]"
