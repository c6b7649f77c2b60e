"""When everything of a block is computed, and what has to be stored for it.

What a stage reads is stored on an earlier level, or computed by the rows stage of its own. On each level the rows stage
runs first, then the units of that level.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from xdsl.ir import Block, Operation, OpResult, SSAValue

from moec.dialects import moe
from moec.passes.captured import captured
from moec.passes.schedule.units import Unit, is_free
from moec.passes.views import is_heavy, weight_view


class Levels:
    """The level of each unit and of each other operation of a block. What is made by none of `operations` is there
    before.

    `last` is the level on which the block's own values are read. `params` are the layer's parameters. What is made
    `once` is stored as early as it can be, the `kept` values for everybody.
    """

    def __init__(
        self,
        block: Block,
        operations: Sequence[Operation],
        units: Sequence[Unit],
        params: Collection[SSAValue],
        once: Collection[Operation] = (),
        kept: Collection[SSAValue] = (),
    ) -> None:
        self._block = block
        self._operations = operations
        self._units = units
        self._params = params
        self._once = once
        self._kept = kept
        self._unit_of = {op: unit for unit in units for op in unit.operations}
        self._levels: dict[Operation, int] = {}
        self._unit_levels: dict[Unit, int] = {}
        self._set()

    def _set(self) -> None:
        for operation in self._operations:
            unit = self._unit_of.get(operation)
            if unit is None:
                self._levels[operation] = max(map(self.ready, captured(operation)), default=0)
            elif operation is unit.operations[-1]:
                self._unit_levels[unit] = max(map(self.ready, unit.reads()), default=0)
        last = self._block.last_op
        assert last is not None
        self.last = max(map(self.ready, last.operands), default=0)
        self._delay()

    def of(self, unit: Unit) -> int:
        """The level of a unit's stage."""
        return self._unit_levels[unit]

    def ready(self, value: SSAValue) -> int:
        """The level on whose rows stage a value can be read or computed."""
        owner = value.owner
        if isinstance(owner, Block) or owner.parent is not self._block:
            return 0
        if owner in self._unit_of:
            return self.of(self._unit_of[owner]) + 1
        return self._levels.get(owner, 0)

    def _delay(self) -> None:
        """Moves row-by-row work to the latest level on which somebody reads it, so that less is stored."""
        for operation in reversed(self._operations):
            if operation in self._unit_of or operation in self._once:
                continue
            readers = [self._reader(use.operation) for result in operation.results for use in result.uses]
            levels = [level for level in readers if level is not None]
            if levels:
                self._levels[operation] = min(levels)

    def _reader(self, operation: Operation) -> int | None:
        while operation.parent is not self._block:
            parent = operation.parent_op()
            assert parent is not None
            operation = parent
        if operation in self._unit_of:
            return self.of(self._unit_of[operation])
        return self._levels.get(operation, self.last)

    def requests(self) -> dict[SSAValue, int]:
        """The values that have to be stored, each with the level on which it can be."""
        wanted = {value: self.ready(value) for value in self._kept}
        for unit in self._units:
            for value in self._direct(unit):
                wanted[value] = self.ready(value)
            for value in unit.reads():
                wanted.update(self._roots(value, inside=unit.loop is not None))
        for operation, level in self._levels.items():
            if not is_free(operation):
                wanted.update(self._earlier(captured(operation), level))
        last = self._block.last_op
        assert last is not None
        if isinstance(last, moe.ReturnOp):
            wanted.update(self._earlier(last.operands, self.last))
        return wanted

    def _direct(self, unit: Unit) -> list[SSAValue]:
        """What a stage, or one inside it, reads as a whole from memory: vectors, keys, selections."""
        wanted: list[SSAValue] = []
        for operation in unit.operations:
            for inner in operation.walk():
                if isinstance(inner, moe.SumOp | moe.EachOp) and is_heavy(inner):
                    wanted.append(inner.slots)
                elif isinstance(inner, moe.BatchOp):
                    wanted += inner.operands
                elif isinstance(inner, moe.ContractOp) and (view := weight_view(inner.weight)) is not None:
                    wanted += [inner.vector, *view.indices]
        params = self._params  # a stage reads rows: of what is the same for all, each row is a copy
        return [value for value in wanted if self._here(value) or self._summed(value) or value in params]

    def _summed(self, value: SSAValue) -> bool:
        """Whether a value is the result of a loop of this block: its stages store the parts, not the whole."""
        unit = self._unit_of.get(value.op) if isinstance(value, OpResult) else None
        return unit is not None and unit.loop is not None

    def _here(self, value: SSAValue) -> bool:
        return isinstance(value, OpResult) and value.op in self._levels

    def _roots(self, value: SSAValue, inside: bool = False) -> dict[SSAValue, int]:
        """The values worth storing that a value is made of by free operations. `inside` a loop, whose rows are others,
        the result of another loop cannot be put together."""
        found, seen, open = dict[SSAValue, int](), set[SSAValue](), [value]
        while open:
            value = open.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in self._kept or (inside and self._summed(value)):
                found[value] = self.ready(value)
            elif isinstance(value, OpResult) and self._here(value) and weight_view(value) is None:
                if is_free(value.op):
                    open += reversed(captured(value.op))
                else:
                    found[value] = self._levels[value.op]
        return found

    def _earlier(self, values: Iterable[SSAValue], level: int) -> dict[SSAValue, int]:
        found: dict[SSAValue, int] = {}
        for value in values:
            found.update({root: at for root, at in self._roots(value).items() if at < level})
        return found
