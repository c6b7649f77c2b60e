"""The kernel of tiles: 16 or 32 rows by 16 or 32 columns of bf16, 32 k at once.

It adds to C, rows of f32 that are as long as a panel is wide, the products of `turns` times 32 k; where `accumulate` is
0, C is only written. `upper` and `lower` are the tiles of the first and the next 16 rows, `*_step` bytes from one 32 k
to the next: 64 for each row that is there. The kernel reads 1024 bytes from each step on and computes whole tiles; what
stands in the rows that are not there leaves the others alone. A panel is tiles, too: [k / 32][columns / 16][16][16][2].
While a turn runs, `lines` lines are prefetched, a multiple of 4: half of them from `ahead` on, half from `apart` bytes
behind it, `pace` bytes further each turn. They are spread over the turn and come from both places by turns: memory
serves that faster, and all at once they would hold up the tiles that wait for lines of their own.

Factors may be split into pieces (`moec.codegen.split`): each 32 k of rows are then so many tiles of 16 rows, one after
the other, whatever the steps, and so are those of a panel, [k / 32][pieces][columns / 16][16][16][2].

A sum is a chain over the turns and the pieces, each of them two chains in the order of k (`moec.codegen.tiles`). So a
row's bits depend neither on the rows beside it nor on where k is cut at multiples of 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from llvmlite import ir

from moec.codegen import tiles
from moec.codegen.function import Address, Arguments, Integer, emit_function
from moec.codegen.llvm import Emitter, Value, i64

#: Pairs of pieces whose products are added, of a row and of a panel; the least of three are left out. From one to the
#: next only one side changes, so that its tiles alone are loaded.
TERMS: Final = {
    1: ((0, 0),),
    2: ((1, 1), (1, 0), (0, 0), (0, 1)),
    3: ((2, 0), (0, 0), (0, 2), (0, 1), (1, 1), (1, 0)),
}


@dataclass(frozen=True)
class TileArguments(Arguments):
    """What the kernel takes."""

    upper: Address
    upper_step: Integer
    lower: Address
    lower_step: Integer
    panel: Address
    c: Address
    turns: Integer
    accumulate: Integer
    ahead: Address
    apart: Integer
    pace: Integer
    lines: Integer


@dataclass(frozen=True)
class TileShape:
    """What a kernel computes at once: `height` by `width` tiles of a panel that is `columns` wide."""

    height: int
    width: int
    columns: int
    pieces: int = 1

    def __str__(self) -> str:
        split = f"x{self.pieces}" if self.pieces > 1 else ""
        return f"amx_bf16{split}_{tiles.ROWS * self.height}x{tiles.ROWS * self.width}_of_{self.columns}"

    @property
    def turn_bytes(self) -> int:
        """The bytes of 32 k of a panel."""
        return self.pieces * self.columns * tiles.BYTES


def emit_kernel(module: Any, target: Any, shape: TileShape) -> ir.Function:
    """The kernel of a shape, added to `module` (once; a second call finds it)."""
    return emit_function(
        module, target, f"moec_{shape}", TileArguments, lambda e, given: _Kernel(e, shape, given).emit()
    )


class _Kernel:
    """One kernel. Tiles 0 to 3 are C, row by row; 4 and 5 the rows, 6 and 7 the panel."""

    def __init__(self, e: Emitter, shape: TileShape, given: TileArguments) -> None:
        self.e, self.shape, self.given = e, shape, given
        rows = [(given.upper, given.upper_step), (given.lower, given.lower_step)][: shape.height]
        split = i64(shape.pieces * tiles.ROWS * tiles.BYTES)
        self.rows = [(start, split if shape.pieces > 1 else step) for start, step in rows]

    def emit(self) -> None:
        e, width, row, given = self.e, self.shape.width, 4 * self.shape.columns, self.given
        sums = [(i * width + j, i, j) for i in range(self.shape.height) for j in range(width)]
        places = [(n, e.at(given.c, i * tiles.ROWS * row + j * tiles.BYTES, 1)) for n, i, j in sums]
        with e.either(e.b.icmp_signed("!=", given.accumulate, i64(0))) as otherwise:
            for n, place in places:
                tiles.LOAD.emit(e.b, n, place, i64(row))
            otherwise()
            for n, _ in places:
                tiles.ZERO.emit(e.b, n)
        terms = len(TERMS[self.shape.pieces])
        shares = [e.b.udiv(e.b.mul(given.lines, i64(term)), i64(4 * terms)) for term in range(terms + 1)]
        e.loop(0, given.turns, lambda turn: self._turn(turn, shares))
        for n, place in places:
            tiles.STORE.emit(e.b, n, place, i64(row))

    def _turn(self, turn: Value, shares: Sequence[Value]) -> None:
        """32 k. What is prefetched beside a term is from its share to the next."""
        e, width = self.e, self.shape.width
        panel = e.at(self.given.panel, e.b.mul(turn, i64(self.shape.turn_bytes)), 1)
        ahead = e.at(self.given.ahead, e.b.mul(turn, self.given.pace), 1)
        loaded = (-1, -1)
        for term, (left, right) in enumerate(TERMS[self.shape.pieces]):
            self._prefetch(ahead, *shares[term : term + 2])
            if right != loaded[1]:
                for j in range(width):
                    place = right * self.shape.columns // tiles.ROWS + j
                    tiles.LOAD.emit(e.b, 6 + j, e.at(panel, place * tiles.ROWS * tiles.BYTES, 1), i64(tiles.BYTES))
            for i, (start, step) in enumerate(self.rows):
                if left != loaded[0]:
                    place = e.b.add(e.b.mul(turn, step), i64(left * tiles.ROWS * tiles.BYTES))
                    tiles.LOAD.emit(e.b, 4 + i, e.at(start, place, 1), i64(tiles.BYTES))
                for j in range(width):
                    tiles.DOT_BF16.emit(e.b, i * width + j, 4 + i, 6 + j)
            loaded = left, right

    def _prefetch(self, start: Value, begin: Value, end: Value) -> None:
        """Prefetches two lines at either place for each share from `begin` below `end`."""
        e = self.e

        def some(at: Value) -> None:
            first = e.at(start, e.b.mul(at, i64(2 * tiles.BYTES)), 1)
            for line in (0, tiles.BYTES):
                e.prefetch(e.at(first, line, 1))
                e.prefetch(e.at(first, e.b.add(self.given.apart, i64(line)), 1))

        e.loop(begin, end, some)
