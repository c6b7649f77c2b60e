"""What lies around a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xdsl.ir import Block, SSAValue

from moec.codegen.frame import FLAG, Domain, StageFrame, Word, ascend, row_layout, row_value
from moec.codegen.llvm import Emitter, Value, i64
from moec.codegen.views import View
from moec.dialects import plan


class Surroundings:
    """What a row reads from around it: parameters, and the rows of other stages, its own domain's or an outer one's.

    `row` is the region's argument for the row, one of `domain`; `domains` are those of the program.
    """

    def __init__(
        self, domains: Mapping[SSAValue, Domain], frame: StageFrame, e: Emitter, domain: Domain, row: SSAValue
    ) -> None:
        self._domains = domains
        self._frame = frame
        self._e = e
        self._of_row: dict[SSAValue, Domain] = {row: domain}

    def param(self, value: SSAValue) -> Any:
        """A parameter as it lies in memory: a view, or the scalar."""
        assert isinstance(value.owner, Block), value
        dtype, shape = row_layout(value.type)
        pointer = self._frame.pointer_of(Word("param", value))
        return View.dense(pointer, dtype, shape) if shape else self._e.load(pointer, dtype)

    def read(self, source: SSAValue, row: SSAValue, index: Value) -> Any:
        """What another stage left for the row `row`, whose number is `index`."""
        target = self._domains[plan.domain_of(source)]
        index = ascend(self._e, self._frame, self._domain(row), target, index)
        assert isinstance(source.type, plan.RowsType)
        found = row_value(self._e, source.type.row, self._frame.pointer_of(Word("rows", source)), index)
        if isinstance(found, View) and not found.shape:
            return self._e.load(found.pointer, found.dtype)
        return found

    def _domain(self, row: SSAValue) -> Domain:
        if row not in self._of_row:
            owner = row.owner
            assert isinstance(owner, plan.DescendOp)
            self._of_row[row] = self._domains[owner.domain]
        return self._of_row[row]

    def descend(self, domain: SSAValue, row: Value, slot: Value) -> Value:
        """The row of an expanded domain that stands for a slot of `row`."""
        inner, e = self._domains[domain], self._e
        place = e.b.add(e.b.mul(row, i64(inner.slots)), slot)
        return e.load(e.at(self._frame.pointer_of(inner.word("position")), place, 8), "i64")

    def flag_outside(self) -> None:
        """Makes the call fail: an index that the call alone knows lies outside its table."""
        e = self._e
        e.b.store(i64(1), self._frame.pointer_of(FLAG), align=8)
