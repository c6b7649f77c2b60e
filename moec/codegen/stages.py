"""A stage of the plan as one LLVM function.

What its `begin` and `end` count is the stage's own: rows for `plan.rows`, the panels of all keys for `plan.matmul`. So
a stage can be cut among threads anywhere; what it writes does not depend on the cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from llvmlite import ir
from xdsl.ir import Operation, SSAValue

from moec.codegen.frame import Domain, Frame, StageFrame, Word, row_bytes, row_value
from moec.codegen.function import Address, Arguments, Integer
from moec.codegen.llvm import VOID, Emitter, Value, i64
from moec.codegen.rows import RULES
from moec.codegen.rows.row import Row, Scratch
from moec.codegen.rows.surroundings import Surroundings
from moec.codegen.selections import Chosen
from moec.codegen.views import put
from moec.dialects import plan
from moec.target import Target

#: Picoseconds, roughly, for a byte moved.
BYTE_COST: Final = 50
#: Results of a stage beyond such a part of the second cache do not stay there until a later stage reads them: weights
#: pass by in between.
_PASSING: Final = 4


@dataclass(frozen=True)
class StageArguments(Arguments):
    """What a stage takes: the frame of the call, its share of the units, the memory of its thread."""

    frame: Address
    begin: Integer
    end: Integer
    scratch: Address


@dataclass
class Stage:
    """A finished stage.

    `units` is how many a call has (None: one a row of `domain`), `scratch` the bytes that each thread needs. A call
    takes one thread about `row_cost` picoseconds for each row and `key_cost` for each of at most `keys` matrices, well
    enough to choose between one thread and several. From `many` rows on a chunk has at least `least_units`: what
    it first makes ready of the rows is then small beside the work.
    """

    name: str
    domain: Domain
    units: int | None
    scratch: int
    row_cost: int
    key_cost: int = 0
    keys: int = 0
    least_units: int = 1
    many: int = 0


class Stages:
    """Emits stages into a module. `domains` and `frame` are the program's."""

    def __init__(
        self, module: Any, target: Target, frame: Frame, domains: dict[SSAValue, Domain], program: plan.ProgramOp
    ) -> None:
        self.module = module
        self.target = target
        self.frame = frame
        self.domains = domains
        last = program.body.block.last_op
        #: The rows that are the caller's own arrays.
        self.outputs = list(last.operands) if last else []

    def begin(self, name: str) -> tuple[Emitter, StageFrame, StageArguments]:
        """The emitter of a new function, positioned after its loads from the frame, and what the function finds."""
        function, given = StageArguments.declare(self.module, name)
        function.linkage = "internal"
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        e = Emitter(builder, self.target)
        frame = StageFrame(e, self.frame, given.frame)
        body = builder.append_basic_block("body")
        builder.position_at_end(body)
        return e, frame, given

    @staticmethod
    def finish(e: Emitter, passing: bool = False) -> None:
        """Ends a function; other threads see what it wrote, also `passing` by the caches."""
        if passing and e.target.writes_past_caches:
            e.call("llvm.x86.sse.sfence", VOID)
        e.b.ret_void()
        entry, body = e.b.function.blocks[:2]
        ir.IRBuilder(entry).branch(body)

    # rows

    def rows(self, op: plan.RowsOp, name: str) -> Stage:
        e, frame, given = self.begin(name)
        domain = self.domains[op.domain]
        scratch = Scratch(given.scratch)

        def turn(index: Value) -> None:
            around = Surroundings(self.domains, frame, e, domain, op.body.block.args[0])
            row = Row(e, around, scratch, RULES)
            row.values[op.body.block.args[0]] = index
            last = op.body.block.last_op
            assert last is not None
            places = self._places(e, frame, op, last, index)
            for value, place in places:
                row.places.setdefault(value, place)
            row.run(op.body.block)
            for value, place in places:
                _leave(e, row[value], place)

        e.loop(given.begin, given.end, turn)
        self.finish(e)
        moved = sum(row_bytes(value.type.row) for value in op.values)
        return Stage(name, domain, None, scratch.size, BYTE_COST * (moved + scratch.size))

    def _places(
        self, e: Emitter, frame: StageFrame, op: plan.RowsOp, last: Operation, index: Value
    ) -> list[tuple[SSAValue, Any]]:
        return [
            (value, row_value(e, value.type, frame.pointer_of(Word("rows", result)), index))
            for value, result in zip(last.operands, op.values, strict=True)
        ]


def write(e: Emitter, rows: Value, nbytes: int, emit: Callable[[bool], None]) -> None:
    """`emit(passing)` of what writes `rows` rows of `nbytes` in whole lines: past the caches, where the target can and
    they are so many that nobody finds one there later."""
    if not e.target.writes_past_caches:
        emit(False)
        return
    with e.either(e.b.icmp_signed(">", rows, i64(e.target.l2 // _PASSING // nbytes))) as otherwise:
        emit(True)
        otherwise()
        emit(False)


def _leave(e: Emitter, value: Any, place: Any) -> None:
    if isinstance(value, Chosen):
        if value.pointer is not place.pointer:
            e.loop(0, value.size, lambda slot: place.put(e, slot, value.at(e, slot)))
    else:
        put(e, value, place)
