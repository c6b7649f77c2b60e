"""Rows gathered for tiles, as `plan.gather` describes them: where a row's vector stands, and the stage that copies it.

The rows of a key stand in groups of 16, the last of what is left; a group lies as [k / 32][rows][32] of bf16. So a tile
of a group is one piece of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from moec.codegen import tiles
from moec.codegen.frame import StageFrame, Word, ascend, row_bytes
from moec.codegen.llvm import Emitter, Value, i64
from moec.codegen.stages import BYTE_COST, Stage, Stages, write
from moec.dialects import plan
from moec.dialects.types import integer

#: k that stand together, and the bytes that they take.
DEPTH: Final = tiles.DEPTH
STEP_BYTES: Final = tiles.BYTES
#: What kernels may read behind the last gathered row.
SLACK: Final = tiles.ROWS * STEP_BYTES


@dataclass(frozen=True)
class GatheredRow:
    """A row's vector: its first 32 k at `start`, the next `step` bytes on."""

    start: Value
    step: Value

    @staticmethod
    def at(e: Emitter, rows: Value, nbytes: int, place: Value, first: Value, stop: Value) -> GatheredRow:
        """The row at a place of the grouping, of a key with the places `first` to `stop`, each of `nbytes`."""
        b = e.b
        within = b.sub(place, first)
        upper = b.and_(within, i64(-tiles.ROWS))
        count = e.least(b.sub(b.sub(stop, first), upper), i64(tiles.ROWS))
        group = e.at(rows, b.mul(b.add(first, upper), i64(nbytes)), 1)
        return GatheredRow(e.at(group, b.mul(b.sub(within, upper), i64(STEP_BYTES)), 1), b.mul(count, i64(STEP_BYTES)))

    def line(self, e: Emitter, at: Value | int) -> Value:
        """The address of 32 k."""
        at = i64(at) if isinstance(at, int) else at
        return e.at(self.start, e.b.mul(at, self.step), 1)

    def element(self, e: Emitter, k: Value) -> Value:
        """The address of one k; those up to the next multiple of 32 follow it."""
        return e.at(self.line(e, e.b.udiv(k, i64(DEPTH))), e.b.urem(k, i64(DEPTH)), STEP_BYTES // DEPTH)


def emit_gather(stages: Stages, op: plan.GatherOp, name: str) -> Stage:
    """The stage of a `plan.gather`: each row by itself, so that it can be cut among threads anywhere."""
    e, frame, given = stages.begin(name)
    domain, b = stages.domains[op.domain], e.b
    source = stages.domains[plan.domain_of(op.vector)]
    assert isinstance(op.vector.type, plan.RowsType) and isinstance(op.value.type, plan.RowsType)
    size, padded = row_bytes(op.vector.type.row), row_bytes(op.value.type.row)
    vectors, gathered = (frame.pointer_of(Word("rows", value)) for value in (op.vector, op.value))
    stop = given.end
    if op.group is not None:  # a key that no matrix has: its row has no place, and the call fails
        placed = e.load(e.at(frame.pointer_of(Word("offsets", op.group)), i64(integer(op.keys)), 8), "i64")
        stop = e.least(stop, placed)

    def rows(passing: bool) -> None:
        def turn(place: Value) -> None:
            row, first, last = _place(e, frame, stages, op, place)
            start = e.at(vectors, b.mul(ascend(e, frame, domain, source, row), i64(size)), 1)
            _copy(e, start, size, GatheredRow.at(e, gathered, padded, place, first, last), passing)

        e.loop(given.begin, stop, turn)

    write(e, frame.number_of(domain.word("count")), padded, rows)
    stages.finish(e, passing=True)
    return Stage(name, domain, None, 0, 2 * BYTE_COST * padded)


def _copy(e: Emitter, vector: Value, size: int, to: GatheredRow, passing: bool) -> None:
    """A row's vector, line after line."""

    def line(at: Value) -> None:
        value = e.load(e.at(vector, e.b.mul(at, i64(STEP_BYTES)), 1), "bf16", DEPTH)
        e.store(value, to.line(e, at), "bf16", passing)

    e.loop(0, size // STEP_BYTES, line)
    if tail := size % STEP_BYTES:
        last = to.line(e, size // STEP_BYTES)
        e.fill(last, STEP_BYTES)
        e.copy(last, e.at(vector, size - tail, 1), tail)


def _place(e: Emitter, frame: StageFrame, stages: Stages, op: plan.GatherOp, place: Value) -> tuple[Value, ...]:
    """The row at a place of the grouping, and the first place of its key and the one after the last."""
    domain, row = stages.domains[op.domain], place
    match op.grouping.data:
        case "none":
            return row, i64(0), frame.number_of(domain.word("count"))
        case "index":
            assert domain.expand is not None
            offsets, keys, at = domain.word("offsets"), domain.expand.index, place
        case _:
            assert op.group is not None and isinstance(op.group.owner, plan.GroupOp)
            offsets, keys = Word("offsets", op.group), op.group.owner.key
            row = e.load(e.at(frame.pointer_of(Word("order", op.group)), place, 8), "i64")
            at = ascend(e, frame, domain, stages.domains[plan.domain_of(keys)], row)
    key = e.load(e.at(frame.pointer_of(Word("rows", keys)), at, 8), "i64")
    bounds = (e.load(e.at(frame.pointer_of(offsets), e.b.add(key, i64(i)), 8), "i64") for i in (0, 1))
    return row, *bounds
