"""The `plan` dialect: what runs, in which order, over which rows, with which tiles. It knows no LLVM.

A *domain* is a set of rows: the tokens, or the slots of a selection of another domain's rows, sorted by index. A value
of type `!plan.rows<T>` holds one T for each row of a domain. A stage (`plan.rows`, `plan.matmul`) runs over all rows of
a domain; its region says what happens to one row, in the operations of the `moe` dialect.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ArrayAttr, IndexType, IntegerAttr, StringAttr, SymbolNameConstraint, UnitAttr
from xdsl.ir import Attribute, Dialect, Operation, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
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
from xdsl.traits import IsolatedFromAbove, IsTerminator, Pure
from xdsl.utils.exceptions import VerifyException

from moec.dialects.types import AlongAttr


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
    traits = traits_def(IsolatedFromAbove())


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """Ends a program: the outputs, then the auxiliary outputs."""

    name = "plan.return"
    values = var_operand_def()
    traits = traits_def(IsTerminator())


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a stage: what each row leaves behind."""

    name = "plan.yield"
    values = var_operand_def()
    traits = traits_def(IsTerminator())


@irdl_op_definition
class SingleOp(IRDLOperation):
    """The domain of one row, which stands for the whole call: what it has, all rows of other domains can read."""

    name = "plan.single"
    domain = result_def(DomainType)


@irdl_op_definition
class ExpandOp(IRDLOperation):
    """The slots of a selection as a domain: one row a filled slot, sorted by index, then by row, then by slot."""

    name = "plan.expand"
    domain = operand_def(DomainType)
    slots = operand_def(RowsType)
    rows = result_def(DomainType)
    index = result_def(RowsType)
    slot = result_def(RowsType)


@irdl_op_definition
class GroupOp(IRDLOperation):
    """The rows of a domain ordered by a key in `0..keys`."""

    name = "plan.group"
    domain = operand_def(DomainType)
    key = operand_def(RowsType)
    keys = prop_def(IntegerAttr)
    result = result_def(GroupType)


@irdl_op_definition
class GatherOp(IRDLOperation):
    """The vectors of a domain's rows, copied in the order of a product's grouping, as its tiles want them.

    The rows of a key stand in groups of 16, the last of what is left, each group as [k / 32][rows][32], with zeros
    where k has run out: each row of the result is as long as the vector, up to a multiple of 32. `grouping` and `keys`
    are the product's.
    """

    name = "plan.gather"
    domain = operand_def(DomainType)
    vector = operand_def(RowsType)
    group = opt_operand_def(GroupType)
    grouping = prop_def(StringAttr)
    keys = prop_def(IntegerAttr)
    value = result_def(RowsType)


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


@irdl_op_definition
class RowsOp(IRDLOperation):
    """Work on one row after the other: the region's argument is the row's number."""

    name = "plan.rows"
    domain = operand_def(DomainType)
    body = region_def("single_block")
    values = var_result_def(RowsType)

    def verify_(self) -> None:
        last = self.body.block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException("plan.rows ends with plan.yield")
        if [RowsType(value.type) for value in last.values] != list(self.result_types):
            raise VerifyException("plan.rows: results differ from what is yielded")


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
    weights = var_operand_def()
    grouping = prop_def(StringAttr)
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

    def verify_(self) -> None:
        last = self.body.block.last_op
        if not isinstance(last, YieldOp) or len(last.values) != 1:
            raise VerifyException("plan.matmul ends with plan.yield of one value")
        if self.grouping.data not in ("none", "index", "key"):
            raise VerifyException(f"grouping {self.grouping}")
        if (self.grouping.data == "key") != (self.group is not None):
            raise VerifyException("plan.matmul has a group exactly when it is grouped by key")


@irdl_op_definition
class DescendOp(IRDLOperation):
    """The row of an expanded domain that stands for one slot of a row of the domain it was expanded from."""

    name = "plan.descend"
    domain = operand_def(DomainType)
    row = operand_def(IndexType)
    slot = operand_def()
    result = result_def(IndexType)
    traits = traits_def(Pure())


@irdl_op_definition
class ReadOp(IRDLOperation):
    """A row's value; of a value of an outer domain, the one that the row was expanded from."""

    name = "plan.read"
    source = operand_def(RowsType)
    row = operand_def(IndexType)
    result = result_def()
    traits = traits_def(Pure())

    def verify_(self) -> None:
        if self.source.type != RowsType(self.result.type):
            raise VerifyException(f"plan.read of {self.source.type} gives {self.result.type}")


def domain_of(value: SSAValue) -> SSAValue:
    """The domain that a value has a row for each row of."""
    owner = value.owner
    if isinstance(owner, ExpandOp):
        return owner.rows
    if isinstance(owner, BatchOp):
        return owner.into
    if isinstance(owner, GatherOp | RowsOp | MatmulOp):
        return owner.domain
    assert not isinstance(owner, Operation)
    return owner.args[0]


def read(source: SSAValue, row: SSAValue) -> ReadOp:
    """`plan.read` with its result type."""
    assert isinstance(source.type, RowsType)
    return ReadOp.build(operands=[source, row], result_types=[source.type.row])


Plan = Dialect(
    "plan",
    [ProgramOp, ReturnOp, YieldOp, SingleOp, ExpandOp, GroupOp, GatherOp, BatchOp, RowsOp, MatmulOp, DescendOp, ReadOp],
    [DomainType, RowsType, GroupType],
)
