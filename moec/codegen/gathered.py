"""Rows gathered for tiles, as `plan.gather` describes them: where the vector of a row stands.

The rows of a key stand in groups of 16, the last of what is left; a group lies as [k / 32][rows][32] of bf16. So a tile
of a group is one piece of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from moec.codegen import tiles
from moec.codegen.llvm import Emitter, Value, i64

#: k that stand together, and the bytes that they take.
DEPTH: Final = tiles.DEPTH
LINE: Final = tiles.BYTES
#: What kernels may read behind the last gathered row.
SLACK: Final = tiles.ROWS * LINE


@dataclass(frozen=True)
class GatheredRow:
    """A row's vector: its first 32 k at `start`, the next `step` bytes on."""

    start: Value
    step: Value

    @staticmethod
    def at(e: Emitter, rows: Value, nbytes: int, place: Value, first: Value, stop: Value) -> GatheredRow:
        """The row at a place of the grouping, of a key with the places `first` to `stop`, each of `nbytes`."""
        b, height = e.b, i64(tiles.ROWS)
        within = b.sub(place, first)
        upper = b.and_(within, i64(-tiles.ROWS))
        left = b.sub(b.sub(stop, first), upper)
        count = b.select(b.icmp_signed("<", left, height), left, height)
        group = e.at(rows, b.mul(b.add(first, upper), i64(nbytes)), 1)
        return GatheredRow(e.at(group, b.mul(b.sub(within, upper), i64(LINE)), 1), b.mul(count, i64(LINE)))

    def line(self, e: Emitter, at: Value | int) -> Value:
        """The address of 32 k."""
        at = i64(at) if isinstance(at, int) else at
        return e.at(self.start, e.b.mul(at, self.step), 1)

    def element(self, e: Emitter, k: Value) -> Value:
        """The address of one k; those up to the next multiple of 32 follow it."""
        return e.at(self.line(e, e.b.udiv(k, i64(DEPTH))), e.b.urem(k, i64(DEPTH)), LINE // DEPTH)
