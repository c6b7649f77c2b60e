"""The `plan` dialect: what runs, in which order, over which rows, with which tiles. It knows no LLVM.

A *domain* is a set of rows: the tokens, the slots of a selection of another domain's rows, sorted by index, or the one
row that stands for the whole call. A value of type `!plan.rows<T>` holds one T for each row of a domain. A stage
(`plan.rows`, `plan.matmul`) runs over all rows of a domain; its region says what happens to one row, in the operations
of the `moe` dialect. It reads what its own rows have, what those have that they were expanded from, and what the whole
call has: nothing else lies where its rows lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
from xdsl.dialects.builtin import (
    ArrayAttr,
    IndexType,
    IntegerAttr,
    StringAttr,
    SymbolNameConstraint,
    TensorType,
    UnitAttr,
)
from xdsl.dialects.utils.enum_attribute import EnumAttribute
from xdsl.ir import (
    Attribute,
    Block,
    Dialect,
    Operation,
    ParametrizedAttribute,
    SpacedOpaqueSyntaxAttribute,
    SSAValue,
    TypeAttribute,
)
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    RangeOf,
    irdl_attr_definition,
    irdl_op_definition,
    lazy_traits_def,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import HasAncestor, HasParent, IsolatedFromAbove, IsTerminator, Pure, SingleBlockImplicitTerminator
from xdsl.utils.str_enum import StrEnum

from moec.dialects.inference import ShapeError, require, require_as_many
from moec.dialects.moe import along
from moec.dialects.types import (
    F32,
    I64,
    AlongAttr,
    SelectionType,
    element_name,
    element_of,
    integer,
    static_shape,
)
from moec.dtypes import DTYPES
from moec.formats import FORMATS
from moec.shapes import KernelShape
from moec.steps import parse_view


@irdl_attr_definition
class DomainType(ParametrizedAttribute, TypeAttribute):
    """A set of rows."""

    name = "plan.domain"


@irdl_attr_definition
class RowsType(ParametrizedAttribute, TypeAttribute):
    """One value of the type `row` for each row of a domain."""

    name = "plan.rows"
    row: Attribute


@irdl_attr_definition
class GroupType(ParametrizedAttribute, TypeAttribute):
    """The rows of a domain ordered by a key."""

    name = "plan.group"


class Grouping(StrEnum):
    """Which of several matrices a row takes: there is only one, it is that of the row's own index, or of a key."""

    NONE = "none"
    INDEX = "index"
    KEY = "key"


@irdl_attr_definition
class GroupingAttr(EnumAttribute[Grouping], SpacedOpaqueSyntaxAttribute):
    """`#plan<grouping index>`."""

    name = "plan.grouping"


# ── programs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class ProgramOp(IRDLOperation):
    """All stages of a layer. Arguments: the tokens' domain, the inputs, the parameters."""

    name = "plan.program"
    sym_name = prop_def(SymbolNameConstraint())
    inputs = prop_def(ArrayAttr[StringAttr])
    params = prop_def(ArrayAttr[StringAttr])
    outputs = prop_def(ArrayAttr[StringAttr])
    aux = prop_def(ArrayAttr[StringAttr])
    types = prop_def(ArrayAttr[StringAttr])
    body = region_def("single_block")
    traits = lazy_traits_def(lambda: (IsolatedFromAbove(), SingleBlockImplicitTerminator(ReturnOp)))

    def verify_(self) -> None:
        block, count = self.body.block, len(self.inputs)
        require(bool(block.args) and block.args[0].type == DomainType(), "no domain of tokens")
        tokens, *arguments = block.args
        require_as_many(arguments, [*self.inputs, *self.params], "arguments", "inputs and parameters")
        for place, argument in enumerate(arguments):
            static_shape(_row(argument) if place < count else argument.type)
            require(place < count or not isinstance(argument.type, RowsType), "a parameter of {}", argument.type)
        for op in block.ops:
            require(isinstance(op, _STAGES), "{} is no stage", op.name)
        last = block.last_op
        assert isinstance(last, ReturnOp)
        require_as_many(last.values, [*self.outputs, *self.aux], "returned values", "outputs")
        require_as_many(self.types, last.values, "element types", "returned values")
        require(len(set(last.values)) == len(last.values), "what a stage leaves is returned twice")
        for value, type in zip(last.values, self.types, strict=True):
            made = isinstance(value.owner, Operation) and domain_of(value) is tokens
            require(made, "what is returned is not what a stage leaves for each token")
            require(element_name(_row(value)) == type.data, "{} leaves as {}", _row(value), type)


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """Ends a program: the outputs, then the auxiliary outputs, each what a stage leaves for the tokens."""

    name = "plan.return"
    values = var_operand_def(RowsType)
    traits = traits_def(IsTerminator(), HasParent(ProgramOp))


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a stage: what each row leaves behind."""

    name = "plan.yield"
    values = var_operand_def()
    traits = lazy_traits_def(lambda: (IsTerminator(), HasParent(RowsOp, MatmulOp)))


_OF_A_PROGRAM: Final = traits_def(HasParent(ProgramOp))
_OF_A_STAGE: Final = lazy_traits_def(lambda: (Pure(), HasAncestor(RowsOp, MatmulOp)))

# ── domains ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class SingleOp(IRDLOperation):
    """The domain of one row, which stands for the whole call: what it has, all rows of other domains can read."""

    name = "plan.single"
    domain = result_def(DomainType)
    traits = _OF_A_PROGRAM


@irdl_op_definition
class ExpandOp(IRDLOperation):
    """The slots of a selection as a domain: one row a filled slot, sorted by index, then by row, then by slot."""

    name = "plan.expand"
    domain = operand_def(DomainType)
    slots = operand_def(RowsType)
    rows = result_def(DomainType)
    index = result_def(RowsType(I64))
    slot = result_def(RowsType(I64))
    traits = _OF_A_PROGRAM

    def verify_(self) -> None:
        require(isinstance(_row(self.slots), SelectionType), "{} is not a selection", _row(self.slots))
        _require_readable(self.slots, self.domain)

    @property
    def indices(self) -> int:
        """How many indices the slots may hold."""
        row = _row(self.slots)
        assert isinstance(row, SelectionType)
        return integer(row.domain)


@irdl_op_definition
class GroupOp(IRDLOperation):
    """The rows of a domain ordered by a key in `0..keys`."""

    name = "plan.group"
    domain = operand_def(DomainType)
    key = operand_def(RowsType(I64))
    keys = prop_def(IntegerAttr)
    result = result_def(GroupType)
    traits = _OF_A_PROGRAM

    def verify_(self) -> None:
        require(integer(self.keys) > 0, "there are {} keys", integer(self.keys))
        _require_readable(self.key, self.domain)


# ── stages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class GatherOp(IRDLOperation):
    """The vectors of a domain's rows, copied in the order of a product's grouping, as its tiles want them.

    The rows of a key stand in groups of 16, the last of what is left, each group as [k / 32][rows][32], with zeros
    where k has run out: each row of the result is as long as the vector, up to a multiple of 32. `grouping` and `keys`
    are the product's. Nothing else can read rows that lie so.
    """

    name = "plan.gather"
    domain = operand_def(DomainType)
    vector = operand_def(RowsType)
    group = opt_operand_def(GroupType)
    grouping = prop_def(GroupingAttr)
    keys = prop_def(IntegerAttr)
    value = result_def(RowsType)
    traits = _OF_A_PROGRAM

    def verify_(self) -> None:
        _require_grouping(self)
        _require_readable(self.vector, self.domain)
        _require_gathered(self.value, _row(self.vector))


@irdl_op_definition
class BatchOp(IRDLOperation):
    """Work along all rows of a domain, as `moe.batch` says it: what each row is left with, or, where that is the same
    for all, the one of `plan.single`. `into` is the domain of the result."""

    name = "plan.batch"
    domain = operand_def(DomainType)
    source = operand_def(RowsType)
    into = operand_def(DomainType)
    factors = opt_operand_def(RowsType)
    kind = prop_def(AlongAttr)
    value = result_def(RowsType)
    traits = _OF_A_PROGRAM

    def verify_(self) -> None:
        kind, factors = self.kind.data, None if self.factors is None else _row(self.factors)
        made = along(kind, _row(self.source), factors)
        require(made == _row(self.value), "`{}` leaves {}, not {}", kind, made, _row(self.value))
        for value in (self.source, self.factors):
            at = self.domain if value is None else domain_of(value)
            require(at is self.domain or isinstance(at.owner, SingleOp), "no value for each row of the domain")
        fits = isinstance(self.into.owner, SingleOp) if kind.same else self.into is self.domain
        require(fits, "`{}` leaves {}", kind, "one row for all" if kind.same else "a row for each row")


@irdl_op_definition
class RowsOp(IRDLOperation):
    """Work on one row after the other: the region's argument is the row's number."""

    name = "plan.rows"
    domain = operand_def(DomainType)
    body = region_def("single_block", entry_args=RangeOf(IndexType()).of_length(1))
    values = var_result_def(RowsType)
    traits = traits_def(HasParent(ProgramOp), SingleBlockImplicitTerminator(YieldOp))

    def verify_(self) -> None:
        last = self.body.block.last_op
        assert isinstance(last, YieldOp)
        require([RowsType(type) for type in last.operand_types] == list(self.result_types), "it yields something else")
        _require_reads(self)


@irdl_op_definition
class MatmulOp(IRDLOperation):
    """Products of weight matrices with one vector a row, then the region on the sums.

    `grouping` says which matrix a row takes: `none`, the one; `index`, the domain's own index; `key`, that of `group`.
    `views` says how each parameter becomes a stack of [keys, columns, depth] before it is packed. The tile (`rows` by
    `columns`, `kstep`, `form`) is the microkernel's; `dtype` is that of the panels it reads. With a `storage` these are
    decoded from that format a part at a time. The region's arguments are the row's number, then for each
    weight the sums. What is `gathered` lies as `plan.gather` would leave it, in the order of this product's grouping.
    """

    name = "plan.matmul"
    domain = operand_def(DomainType)
    vector = operand_def(RowsType)
    group = opt_operand_def(GroupType)
    weights = var_operand_def(TensorType)
    grouping = prop_def(GroupingAttr)
    views = prop_def(ArrayAttr[ArrayAttr[StringAttr]])
    keys = prop_def(IntegerAttr)
    n = prop_def(IntegerAttr)
    k = prop_def(IntegerAttr)
    dtype = prop_def(StringAttr)
    tile = prop_def(StringAttr)
    storage = opt_prop_def(StringAttr)
    gathered = opt_prop_def(UnitAttr)
    body = region_def("single_block")
    value = result_def(RowsType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(HasParent(ProgramOp), SingleBlockImplicitTerminator(YieldOp))

    def verify_(self) -> None:
        _require_grouping(self)
        _require_readable(self.vector, self.domain)
        self._verify_tile()
        self._verify_weights()
        self._verify_vector()
        self._verify_region()

    @property
    def kernel(self) -> KernelShape:
        """The microkernel's tile. Raises `ShapeError` where that is none."""
        try:
            return KernelShape.parse(self.tile.data, self.dtype.data)
        except (LookupError, ValueError):
            raise ShapeError(f"{self.tile} is no tile") from None

    def _verify_tile(self) -> None:
        kernel, parts = self.kernel, len(self.weights)
        require(parts > 0, "there is no weight")
        require(kernel.dtype in DTYPES, "no element type is called {}", self.dtype)
        sizes = (kernel.rows, kernel.columns, kernel.kstep, kernel.lanes, kernel.streams)
        require(min(sizes) > 0 and kernel.columns % parts == 0, "{} for {} weights", self.tile, parts)
        storage = None if self.storage is None else self.storage.data
        require(storage is None or storage in FORMATS, "no storage format is called {}", self.storage)
        require(storage is not None or kernel.form not in ("int8", "codes"), "{} of dense weights", self.tile)

    def _verify_weights(self) -> None:
        """Raises `ShapeError` where views do not make of each parameter what is multiplied."""
        n, k, keys = integer(self.n), integer(self.k), integer(self.keys)
        require_as_many(self.views, self.weights, "views", "weights")
        for weight, view in zip(self.weights, self.views, strict=True):
            made = _viewed(static_shape(weight.type), [step.data for step in view])
            require(isinstance(weight.owner, Block), "{} is no parameter", weight.type)
            stacks = made[-1:] == (k,) and prod(made) == keys * n * k
            require(stacks, "{} becomes {}, not {} matrices [{}, {}]", weight.type, [*made], keys, n, k)

    def _verify_vector(self) -> None:
        kernel, k, row = self.kernel, integer(self.k), _row(self.vector)
        tiled = kernel.form == "amx"
        length = gathered_length(k) if tiled else k
        require(static_shape(row) == (length,), "a vector of {} beside matrices of {} k", row, k)
        require(element_name(row) == kernel.activation, "{} reads {}, not {}", self.tile, kernel.activation, row)
        maker = self.vector.owner
        gathered = isinstance(maker, GatherOp) or (isinstance(maker, MatmulOp) and maker.gathered is not None)
        require(gathered == tiled, "{} of vectors that are {}gathered", self.tile, "" if gathered else "not ")
        if isinstance(maker, GatherOp | MatmulOp) and gathered:
            require(_order(maker) == _order(self), "the vectors are gathered in another order")

    def _verify_region(self) -> None:
        n, block = integer(self.n), self.body.block
        last = block.last_op
        assert isinstance(last, YieldOp)
        require_as_many(block.args, [None, *self.weights], "arguments", "of the row and of each weight")
        row, *sums = block.args
        require(row.type == IndexType(), "{} is no row", row.type)
        for argument in sums:
            fits = element_of(argument.type) == F32 and prod(static_shape(argument.type)) == n
            require(fits, "{} as the sums of {} columns", argument.type, n)
        require(len(last.values) == 1, "it yields {} values, not one", len(last.values))
        (left,) = last.operand_types
        require(prod(static_shape(left)) == n, "it yields {} of {} columns", left, n)
        if self.gathered is None:
            require(self.value.type == RowsType(left), "it yields something else")
        else:
            require(self.kernel.form == "amx", "only tiles leave rows gathered")
            _require_gathered(self.value, left)
        _require_reads(self)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@irdl_op_definition
class DescendOp(IRDLOperation):
    """The row of an expanded domain that stands for one slot of a row of the domain it was expanded from."""

    name = "plan.descend"
    domain = operand_def(DomainType)
    row = operand_def(IndexType)
    slot = operand_def(I64)
    result = result_def(IndexType)
    traits = _OF_A_STAGE


@irdl_op_definition
class ReadOp(IRDLOperation):
    """A row's value; of a value of an outer domain, the one that the row was expanded from."""

    name = "plan.read"
    source = operand_def(RowsType)
    row = operand_def(IndexType)
    result = result_def()
    traits = _OF_A_STAGE

    def verify_(self) -> None:
        require(self.source.type == RowsType(self.result.type), "{} of {}", self.result.type, self.source.type)


# ── what lies where ───────────────────────────────────────────────────────────────────────────────────────────────────


def domain_of(value: SSAValue) -> SSAValue:
    """The domain that a value has a row for each row of. Raises `ShapeError` where no stage and no call leaves it."""
    owner = value.owner
    if isinstance(owner, ExpandOp):
        return owner.rows
    if isinstance(owner, BatchOp):
        return owner.into
    if isinstance(owner, GatherOp | RowsOp | MatmulOp):
        return owner.domain
    require(isinstance(owner, Block), "{} leaves no rows", value.type)
    assert isinstance(owner, Block)
    return owner.args[0]


def gathered_length(k: int) -> int:
    """The elements of a row of k that is gathered."""
    return -(-k // 32) * 32


def _row(value: SSAValue) -> Attribute:
    """What a value has for each row."""
    require(isinstance(value.type, RowsType), "{} are no rows", value.type)
    assert isinstance(value.type, RowsType)
    return value.type.row


def _require_readable(value: SSAValue, domain: SSAValue) -> None:
    """Raises `ShapeError` where a value has nothing for each row of a domain, nor for what it was expanded from."""
    has, at = domain_of(value), domain
    while at is not has and isinstance(at.owner, ExpandOp):
        at = at.owner.domain
    require(at is has or isinstance(has.owner, SingleOp), "{} of another domain are read", value.type)


def _require_reads(stage: RowsOp | MatmulOp) -> None:
    """Raises `ShapeError` where the region of a stage reads at what is no row, or what that has nothing of."""
    domains: dict[SSAValue, SSAValue] = {stage.body.block.args[0]: stage.domain}
    for op in stage.body.walk():
        if isinstance(op, DescendOp | ReadOp):
            require(op.row in domains, "{} at what is no row of the stage", op.name)
        if isinstance(op, DescendOp):
            maker = op.domain.owner
            fits = isinstance(maker, ExpandOp) and maker.domain is domains[op.row]
            require(fits, "the domain was not expanded from the row's")
            domains[op.result] = op.domain
        elif isinstance(op, ReadOp):
            _require_readable(op.source, domains[op.row])


def _order(op: GatherOp | MatmulOp) -> tuple[object, ...]:
    """What says in which order the rows of a domain are gathered."""
    return op.domain, op.group, op.grouping, op.keys


def _require_grouping(op: GatherOp | MatmulOp) -> None:
    """Raises `ShapeError` where rows do not find their matrices."""
    kind, keys, maker = op.grouping.data, integer(op.keys), op.domain.owner
    require((kind is Grouping.KEY) == (op.group is not None), "there is a group exactly where rows are grouped by key")
    if kind is Grouping.NONE:
        require(keys == 1, "{} keys without grouping", keys)
    elif kind is Grouping.INDEX:
        require(isinstance(maker, ExpandOp), "rows that no selection chose have no index")
        assert isinstance(maker, ExpandOp)
        require(maker.indices <= keys, "indices below {} of {} keys", maker.indices, keys)
    else:
        group = None if op.group is None else op.group.owner
        fits = isinstance(group, GroupOp) and (group.domain, group.keys) == (op.domain, op.keys)
        require(fits, "the group is not of these rows and keys")


def _require_gathered(value: SSAValue, vector: Attribute) -> None:
    """Raises `ShapeError` where a value does not hold vectors as `plan.gather` leaves them, for products to read."""
    require(len(static_shape(vector)) == 1, "{} is not a vector", vector)
    (length,) = static_shape(vector)
    made = TensorType(element_of(vector), [gathered_length(length)])
    require(_row(value) == made, "{} is gathered as {}, not {}", vector, made, _row(value))
    for use in value.uses:
        product = isinstance(use.operation, MatmulOp) and use.index == 1  # its vector
        require(product, "{} reads rows that are gathered", use.operation.name)


def _viewed(shape: tuple[int, ...], steps: Sequence[str]) -> tuple[int, ...]:
    """The shape that a view makes of a parameter's. Raises `ShapeError`."""
    try:
        arrangements, casts = parse_view(steps)
        array = np.broadcast_to(np.int8(0), shape)  # of one byte, whatever its shape
        for step in arrangements:
            array = step.apply(array, copy=False)
    except (LookupError, ValueError) as error:
        raise ShapeError(f"{[*steps]} is no view of {[*shape]}: {error}") from None
    for name in casts:
        require(name in DTYPES, "no element type is called {}", name)
    return array.shape


def read(source: SSAValue, row: SSAValue) -> ReadOp:
    """`plan.read` with its result type."""
    assert isinstance(source.type, RowsType)
    return ReadOp.build(operands=[source, row], result_types=[source.type.row])


Plan = Dialect(
    "plan",
    [ProgramOp, ReturnOp, YieldOp, SingleOp, ExpandOp, GroupOp, GatherOp, BatchOp, RowsOp, MatmulOp, DescendOp, ReadOp],
    [DomainType, RowsType, GroupType, GroupingAttr],
)
_STAGES: Final = (SingleOp, ExpandOp, GroupOp, GatherOp, BatchOp, RowsOp, MatmulOp, ReturnOp)
