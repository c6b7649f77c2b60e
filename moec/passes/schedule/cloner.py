"""Copies of what a value is computed from, in the region of the stage that computes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects.builtin import IndexType
from xdsl.ir import Block, Operation, SSAValue

from moec.dialects import moe, plan
from moec.dialects.types import I64
from moec.passes.captured import captured


@dataclass(frozen=True)
class Places:
    """Where the program has what the layer's values stand for.

    `params` maps a parameter to the program's argument, `stored` a value to the rows that hold it, `domains` a sparse
    sum whose products run as stages to the domain of its slots.
    """

    params: dict[SSAValue, SSAValue] = field(default_factory=dict[SSAValue, SSAValue])
    stored: dict[SSAValue, SSAValue] = field(default_factory=dict[SSAValue, SSAValue])
    domains: dict[Operation, SSAValue] = field(default_factory=dict[Operation, SSAValue])


class Cloner:
    """Copies what a value is computed from into a stage's region, down to what is stored.

    `source` is the block of the layer that the region's row stands for. The values of the blocks around it are copied
    by `outer`, into the region around.
    """

    def __init__(self, places: Places, source: Block, block: Block, row: SSAValue, outer: Cloner | None = None) -> None:
        self.places = places
        self.source = source
        self.block = block
        self.row = row
        self.outer = outer
        self.made: dict[SSAValue, SSAValue] = {}

    def __call__(self, value: SSAValue) -> SSAValue:
        """The copy of a value. Without recursion: what a value is made of may be as long as a layer."""
        open = [value]
        while open:
            latest = open[-1]
            missing = [] if latest in self.made else self._copy(latest)
            if missing:
                open += reversed(missing)
            else:
                open.pop()
        return self.made[value]

    def _copy(self, value: SSAValue) -> list[SSAValue]:
        """Copies a value, unless operands of its operation have to be copied before: these."""
        given = self._given(value)
        if given is None:
            owner = value.owner
            assert isinstance(owner, Operation), value
            read = captured(owner)
            if missing := [operand for operand in read if operand not in self.made]:
                return missing
            given = self._add(owner.clone({operand: self.made[operand] for operand in read}))
        self.made[value] = given
        return []

    def _given(self, value: SSAValue) -> SSAValue | None:
        """What stands for a value without a copy of its operation, if something does."""
        places, owner = self.places, value.owner
        if value in places.params:
            return places.params[value]
        home = owner if isinstance(owner, Block) else owner.parent
        if home is not self.source and self.outer is not None:
            return self.outer(value)
        if value in places.stored:
            return self._add(plan.read(places.stored[value], self.row))
        if isinstance(owner, moe.SumOp | moe.EachOp) and owner in places.domains:
            return self._rest(owner)
        return None

    def _add(self, operation: Operation) -> SSAValue:
        self.block.add_op(operation)
        return operation.results[0]

    def _rest(self, loop: moe.SumOp | moe.EachOp) -> SSAValue:
        """What is left of a sparse sum whose products run as stages: it reads their results, slot by slot."""
        slots = self(loop.slots)
        body = Block(arg_types=[I64, I64])
        domain = self.places.domains[loop]
        descend = plan.DescendOp.build(operands=[domain, self.row, body.args[1]], result_types=[IndexType()])
        body.add_op(descend)
        inner = Cloner(self.places, loop.body.block, body, descend.result, self)
        for argument, own in zip(loop.body.block.args, body.args, strict=True):
            own.name_hint = argument.name_hint
            inner.made[argument] = own
        region = moe.region_of([], inner(moe.yielded(loop.body)), body)
        return self._add(type(loop).make(slots, regions=[region]))
