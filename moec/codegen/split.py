"""Products of f32 through tiles of bf16, for many rows: every factor is the sum of three bf16.

The significand of an f32 has 24 bits, that of a bf16 8. So x = x0 + x1 + x2, exactly: x0 is the upper half of the
word, x1 that of what is left, and x2 what is left then. Of the nine products of two such sums six are added,

    x w = x0 w0 + x0 w1 + x1 w0 + x1 w1 + x0 w2 + x2 w0    (each of them exact, the additions in f32)

and three left out, which together are below 2^-21 of |x w|, 2^-24 on average: about what one rounding of f32 costs.
The errors of whole products are those of a chain of multiply-adds. (After G. Henry, P. T. P. Tang and A. Heinecke,
*Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations*, 2019.) A tile of bf16 does
sixteen times the FLOPs of a vector of f32, so six products are worth it. An f16 has 11 bits: two pieces, all four
products, and nothing is left out.

Tiles take subnormal numbers for zero. So pieces below 2^-126 are lost, those of factors below 2^-102. Infinity has no
pieces that are numbers: rows among which there is one are multiplied again without tiles; a weight comes out as NaN.

With few rows memory is what limits, and those stay with the multiply-adds of `moec.codegen.microkernel`, on the same
panels. Of many, a block is split, a stretch of k at a time, into scratch memory that stays in the second cache while
panels pass by; a part of a panel into some that stays in the first while the rows of the block pass over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from moec.codegen import tiles
from moec.codegen.amx import Stretch, Stretched
from moec.codegen.llvm import SIZES, Value, i64
from moec.codegen.matmul import Block, Panels, Rows
from moec.codegen.pieces import PIECES, SplitPanelArguments, SplitRowArguments, emit_split_panel, emit_split_row
from moec.codegen.stages import Stages
from moec.codegen.stored import StoredMatmul
from moec.codegen.tile_kernel import TileArguments, TileShape, emit_kernel
from moec.dialects import plan
from moec.formats.layout import BLOCK
from moec.shapes import KernelShape

#: Rows that two tiles hold.
_ROWS: Final = 2 * tiles.ROWS
#: For so many panels at least many rows are split: that takes about as long as passing over one panel (5 to 7 % of
#: products with 16 to 64 panels). Twice as many would leave threads without work where experts are few (measured with 8
#: experts on 16 threads).
_LEAST_PANELS: Final = 4


@dataclass(frozen=True)
class _Part:
    """A part of a panel: its stretch, where it begins in that and in all of k, its turns, what follows it in memory,
    and the lines of that to prefetch in each turn."""

    stretch: Stretch
    start: Value
    at: Value
    turns: Value
    following: Value
    lines: Value


class SplitMatmul(Stretched):
    """Lets the rows of a key pass through tiles where they are many."""

    #: k of a part of a panel: a short one stays in the first cache beside the rows that pass over it, but sums are read
    #: and written once a part. As many as are decoded at once.
    PART = BLOCK

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        least = stages.target.split_from(shape)
        assert least is not None
        self.least, self.pieces = least, PIECES[shape.dtype]
        pairs, odd = divmod(shape.columns // tiles.ROWS, 2)
        #: Tiles in the width of each kernel's columns, one kernel after the other.
        self.widths = [2] * pairs + [1] * odd
        self.stretches = self.choose_stretches(self.k, 2 * self.pieces, self.PART)
        #: Bytes from one 32 k of 16 split rows to the next, and from one stretch of them to that of the next 16.
        self.step = self.pieces * tiles.ROWS * tiles.BYTES

    def emit_kernels(self) -> None:
        super().emit_kernels()
        module, target, shape, rest = self.stages.module, self.stages.target, self.shape, self.k % tiles.DEPTH
        self.tiled = {
            (height, width): emit_kernel(module, target, TileShape(height, width, shape.columns, self.pieces))
            for height in (1, 2)
            for width in set(self.widths)
        }
        self.split_row = emit_split_row(module, target, self.pieces, rest)
        self.split_panel = emit_split_panel(module, target, shape, rest)

    @property
    def least_units(self) -> tuple[int, int]:
        return _LEAST_PANELS, self.least * self.keys

    def take_scratch(self) -> None:
        super().take_scratch()
        #: Whether a row of the key has infinities, or what is no number.
        self.strange = self.scratch.take(self.e, SIZES["i64"])
        self.split_rows = self.scratch.take(self.e, self.stretches.most_turns // tiles.ROWS * self.step)
        self.part = self.scratch.take(self.e, self.PART // tiles.DEPTH * self.pieces * self.shape.columns * tiles.BYTES)

    def _key(self, panels: Panels) -> None:
        e, rows = self.e, self._rows(panels.key, panels.share)
        e.store(i64(0), self.strange, "i64")
        many = e.b.icmp_signed(">=", e.b.sub(rows.stop, rows.first), i64(self.least))
        with e.when(many):
            tiles.configure(e.b)
            self._pass(panels, rows)
            tiles.RELEASE.emit(e.b)
        strange = e.b.icmp_signed("!=", e.load(self.strange, "i64"), i64(0))
        with e.when(e.b.or_(e.b.not_(many), strange)):
            super()._key(panels)

    def _prepare(self, rows: Rows, first: Value, size: Value) -> Stretch:
        """The pieces of a stretch of the rows of a block."""
        e = self.e
        stretch = Stretch(first, size, e.b.mul(self._count(size, tiles.DEPTH), i64(self.step)))

        def split(place: Value, strange: Sequence[Value]) -> list[Value]:
            vector = e.at(self._vector(place), first, 4)
            to = self._split_at(stretch, e.b.sub(place, rows.first))
            found = e.b.call(self.split_row, SplitRowArguments(row=vector, to=to, depth=size))
            return [e.b.or_(strange[0], found)]

        (strange,) = e.fold(rows.first, rows.stop, [e.load(self.strange, "i64")], split)
        e.store(strange, self.strange, "i64")
        return stretch

    def _split_at(self, stretch: Stretch, row: Value) -> Value:
        """Where the pieces of a stretch of a row of the block begin."""
        e, rows = self.e, i64(tiles.ROWS)
        group = e.at(self.split_rows, e.b.mul(e.b.udiv(row, rows), stretch.rows_bytes), 1)
        return e.at(group, e.b.mul(e.b.urem(row, rows), i64(tiles.BYTES)), 1)

    def _stretch(self, panel: Value, block: Block, stretch: Stretch) -> None:
        """Part after part: it is split, then the rows pass over it and prefetch their shares of what follows."""
        e, b, first, size = self.e, self.e.b, stretch.first, stretch.size
        rows = b.sub(block.high, block.low)
        blocks = self._count(rows, _ROWS)
        calls = b.mul(blocks, i64(len(self.widths)))
        lines = b.mul(b.add(b.udiv(i64(self.turn_lines - 1), b.mul(calls, i64(4))), i64(1)), i64(4))

        def multiply(start: Value) -> None:
            at, depth = b.add(first, start), e.least(b.sub(size, start), i64(self.PART))
            self._split_part(panel, at, depth)
            following = self._following(panel, first, size, b.add(start, depth))
            part = _Part(stretch, start, at, self._count(depth, tiles.DEPTH), following, lines)
            e.loop(0, blocks, lambda i: self._pass_part(part, i, rows, block.sums))

        e.loop(0, size, multiply, step=self.PART)

    @property
    def turn_lines(self) -> int:
        """How many lines of a panel 32 k are."""
        return -(-tiles.DEPTH * self.stretches.k_bytes // tiles.BYTES)

    def _following(self, panel: Value, first: Value, size: Value, done: Value) -> Value:
        """What is read next when `done` of the `size` k of a panel from `first` on are: the others, or the same stretch
        of the next panel."""
        b, (this, following) = self.e.b, (panel, self.e.at(panel, self.panel_bytes, 1))
        last = b.icmp_signed("==", done, size)
        return self._place(b.select(last, following, this), b.add(first, b.select(last, i64(0), done)))

    def _split_part(self, panel: Value, at: Value, depth: Value) -> None:
        """The pieces of `depth` k of a panel."""
        self._split(self._place(panel, at), depth, self.apart)

    def _split(self, dense: Value, depth: Value, apart: int) -> None:
        """The pieces of `depth` k of a dense panel, whose streams are so many bytes apart."""
        arguments = SplitPanelArguments(panel=dense, to=self.part, depth=depth, apart=i64(apart))
        self.e.b.call(self.split_panel, arguments)

    def _pass_part(self, part: _Part, block: Value, rows: Value, sums: Value) -> None:
        """Up to 32 of so many rows pass over a part."""
        e, b, step = self.e, self.e.b, i64(self.step)
        row, pace, streams = b.mul(block, i64(_ROWS)), b.mul(part.lines, i64(tiles.BYTES // 2)), self.shape.streams
        upper = e.at(self._split_at(part.stretch, row), b.mul(b.udiv(part.start, i64(tiles.DEPTH)), step), 1)
        lower = e.at(upper, part.stretch.rows_bytes, 1)
        sums = e.at(sums, b.mul(row, i64(4 * self.shape.columns)), 1)
        half = b.mul(pace, part.turns)
        apart, share = (i64(self.apart), half) if streams == 2 else (half, b.mul(half, i64(2)))
        following = e.at(part.following, b.mul(b.mul(block, i64(len(self.widths))), share), 1)
        arguments = partial(
            TileArguments,
            upper=upper,
            upper_step=step,
            lower=lower,
            lower_step=step,
            turns=part.turns,
            accumulate=part.at,
            apart=apart,
            pace=pace,
            lines=part.lines,
        )

        def call(height: int) -> None:
            column = 0
            for i, width in enumerate(self.widths):
                panel, to = e.at(self.part, column * tiles.ROWS * tiles.BYTES, 1), e.at(sums, column * tiles.BYTES, 1)
                ahead = e.at(following, b.mul(i64(i), share), 1)
                b.call(self.tiled[height, width], arguments(panel=panel, c=to, ahead=ahead))
                column += width

        with e.either(b.icmp_signed(">", b.sub(rows, row), i64(tiles.ROWS))) as otherwise:
            call(2)
            otherwise()
            call(1)


class StoredSplitMatmul(StoredMatmul, SplitMatmul):
    """The same with weights in a storage format: a part is decoded first."""

    @property
    def turn_lines(self) -> int:
        return -(-self.place.block * tiles.DEPTH // BLOCK // tiles.BYTES)

    def _place(self, panel: Value, k: Value) -> Value:
        return self._codes(panel, self.e.b.udiv(k, i64(BLOCK)))

    def _split_part(self, panel: Value, at: Value, depth: Value) -> None:
        b = self.e.b
        self._unpack(panel, b.udiv(at, i64(BLOCK)), self._count(depth, BLOCK))
        self._split(self.dense, depth, 0)
