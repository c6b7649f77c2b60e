"""What becomes a stage of its own: contractions with weights, with the map that follows them, sums of such, and work
along the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.dialects import arith
from xdsl.dialects.math import Math
from xdsl.ir import Block, Operation, SSAValue, Use

from moec.dialects import moe
from moec.passes.captured import captured
from moec.passes.schedule.kernels import alike, interleaves
from moec.passes.views import is_cast, is_heavy, weight_view
from moec.target import Target

_VIEWS = (moe.ExtractOp, moe.SliceOp, moe.ReshapeOp, moe.TransposeOp, moe.AtOp)
_SCALAR = (*arith.Arith.operations, *Math.operations)


def is_free(operation: Operation) -> bool:
    """Whether an operation costs nothing worth storing: constants, ranges, views, and arithmetic on such scalars."""
    seen, open = set[Operation](), [operation]
    while open:
        operation = open.pop()
        if operation in seen:
            continue
        seen.add(operation)
        if isinstance(operation, _SCALAR):
            open += [operand.owner for operand in operation.operands if isinstance(operand.owner, Operation)]
        elif not _is_view(operation):
            return False
    return True


def _is_view(operation: Operation) -> bool:
    """Whether an operation only says where something lies."""
    match operation:
        case moe.MapOp():
            return is_cast(operation) and weight_view(operation.results[0]) is not None
        case moe.EachOp():
            return all(map(_multiplies, operation.result.uses)) and weight_view(operation.result) is not None
        case _:
            return isinstance(operation, (*_VIEWS, moe.RangeOp))


def _multiplies(use: Use) -> bool:
    """Whether a value is used as the weight of a contraction, or by what makes a view of it for one."""
    if isinstance(use.operation, _VIEWS):
        return all(map(_multiplies, use.operation.results[0].uses))
    return isinstance(use.operation, moe.ContractOp) and use.index == 0


@dataclass(eq=False)
class Unit:
    """A stage in the making: contractions with what follows them, a sparse sum that holds some, or work along the
    tokens."""

    contracts: list[moe.ContractOp] = field(default_factory=list[moe.ContractOp])
    epilogue: moe.MapOp | None = None
    loop: moe.SumOp | moe.EachOp | None = None
    batch: moe.BatchOp | None = None

    @property
    def operations(self) -> list[Operation]:
        """What the stage takes over, in order."""
        parts: list[Operation | None] = [*self.contracts, self.epilogue, self.loop, self.batch]
        return [part for part in parts if part is not None]

    @property
    def result(self) -> SSAValue:
        """What it leaves."""
        return self.operations[-1].results[0]

    def reads(self) -> list[SSAValue]:
        """What must be there before the stage runs."""
        made = {contract.result for contract in self.contracts}
        values = [value for operation in self.operations for value in captured(operation)]
        return [value for value in values if value not in made]


def find_units(operations: Sequence[Operation], target: Target, panels: bool) -> list[Unit]:
    """The units of a block's operations, in their order; what is in none is computed row by row, without `panels`
    products too."""
    taken: dict[Operation, Unit] = {op: Unit(batch=op) for op in operations if isinstance(op, moe.BatchOp)}
    if panels:
        _take_products(operations, target, taken)
    return list(dict.fromkeys(taken[operation] for operation in operations if operation in taken))


def _take_products(operations: Sequence[Operation], target: Target, taken: dict[Operation, Unit]) -> None:
    for operation in operations:
        if isinstance(operation, moe.MapOp) and not is_free(operation):
            unit = _fused(operation, operations, taken, target)
            if unit is not None:
                taken.update(dict.fromkeys(unit.operations, unit))
    for operation in operations:
        if operation in taken:
            continue
        if isinstance(operation, moe.ContractOp) and weight_view(operation.weight) is not None:
            taken[operation] = Unit(contracts=[operation])
        elif isinstance(operation, moe.SumOp | moe.EachOp) and is_heavy(operation):
            taken[operation] = Unit(loop=operation)


def _fused(
    consumer: moe.MapOp, operations: Sequence[Operation], taken: Mapping[Operation, Unit], target: Target
) -> Unit | None:
    """The contractions that a map follows: those of one vector by one index, if nobody else reads their sums."""
    candidates: list[moe.ContractOp] = []
    for value in consumer.arrays:
        owner = value.owner
        if not isinstance(owner, moe.ContractOp) or owner not in operations or owner in taken:
            continue
        if weight_view(owner.weight) is not None and all(use.operation is consumer for use in value.uses):
            candidates.append(owner)
    others = [v for v in consumer.arrays if v.owner not in candidates]
    if not candidates or not all(map(_is_flat, others)):
        return None
    last = max(candidates, key=operations.index)
    group = [contract for contract in candidates if alike(contract, last)]
    if not interleaves(group, target):
        group = [last]
    return Unit(contracts=list(dict.fromkeys(group)), epilogue=consumer)


def _is_flat(value: SSAValue) -> bool:
    """Whether an array can be read at any column of a tile: stored, or a row of a parameter. The sum of a loop is
    neither: its stages leave the parts, and adding them up for every tile would add up whole rows each time."""
    owner = value.owner
    while isinstance(owner, moe.ExtractOp):
        owner = owner.operand.owner
    return isinstance(owner, Block) or not (isinstance(owner, (*_VIEWS, moe.BroadcastOp)) or is_heavy(owner))
