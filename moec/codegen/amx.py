"""Products through AMX's tiles: 32 rows by 32 columns of bf16, 32 k at once.

Rows come gathered (`moec.codegen.gathered`), so that a tile is one piece of memory and a row is copied once, not once a
panel: by `plan.gather`, or by the product that they are the results of, if nobody else reads them. A panel is tiles,
too: [k / 32][2][16][16][2], two of 32 k by 16 columns each, with zeros up to a multiple of 32 k.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Final

from moec.codegen import tiles
from moec.codegen.frame import Region, Word
from moec.codegen.gathered import DEPTH, STEP_BYTES, GatheredRow
from moec.codegen.llvm import I64, SIZES, Value, i64
from moec.codegen.matmul import Block, Matmul, Panels, Prefetch, Rows
from moec.codegen.stages import Stages
from moec.codegen.tile_kernel import TileArguments, TileShape, emit_kernel
from moec.codegen.views import View
from moec.dialects import plan
from moec.shapes import KernelShape
from moec.target import LINE

#: How far ahead a panel is prefetched by a block of rows that has it for itself, in bytes (1024: 0.8 to 0.95 of that).
_AHEAD: Final = 4096
#: k of a part of a panel that stays in the first cache while many blocks of rows pass over it: of 48 KiB it takes
#: 16, as much as a block, and the sums of a block 4.
_PART: Final = 256
#: Up to so many blocks of rows it is not cut: all find it in the second cache, since those of the panel before have
#: prefetched it, an equal share each, while they computed. That wants room for both panels: without it 64 rows of 4096
#: and 14336 k are 0.92 times as fast on 16 threads of an Emerald Rapids.
_FEW: Final = 6
#: The fewest rows of a block that are worth passing over whole vectors: with fewer, k is cut.
_FEWEST: Final = 192


class Tiled(Matmul):
    """What is different where rows come gathered: blocks of whole tiles, and how the kernels are called."""

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        self.block, self.grain = self.CUT_ROWS, shape.rows
        self.row_bytes = shape.steps(self.k) * shape.kstep * 2

    def emit_kernels(self) -> None:
        module, target = self.stages.module, self.stages.target
        columns = self.shape.columns
        self.single, self.double = (
            emit_kernel(module, target, TileShape(height, columns // tiles.ROWS, columns)) for height in (1, 2)
        )

    def regions(self) -> list[Region]:
        """None: rows lie where they were gathered."""
        return []

    def find_operands(self) -> None:
        super().find_operands()
        self.rows_at = self.frame.pointer_of(Word("rows", self.op.vector))

    def _keys(self, begin: Value, end: Value) -> None:
        tiles.configure(self.e.b)
        super()._keys(begin, end)
        tiles.RELEASE.emit(self.e.b)

    def _locate(self, rows: Rows) -> None:
        """Nothing: they lie in order."""

    # results that the next product finds gathered

    def _result(self, place: Value, column: Value, width: int, ready: Rows) -> View:
        if self.op.gathered is None:
            return super()._result(place, column, width, ready)
        return View.dense(self._gathered(place, ready).element(self.e, column), self.result_dtype, (width,))

    def _gathered(self, place: Value, ready: Rows) -> GatheredRow:
        results = self.frame.pointer_of(Word("rows", self.op.value))
        return GatheredRow.at(self.e, results, self.result_bytes, place, ready.first, ready.stop)

    def _finish(self, panel: Value, column: Value, block: Block) -> None:
        super()._finish(panel, column, block)
        if self.op.gathered is not None and self.n % DEPTH:
            with self.e.when(self.e.b.icmp_signed("==", panel, i64(self.panels - 1))):
                self.e.loop(block.low, block.high, lambda place: self._fill_up(place, block.ready))

    def _fill_up(self, place: Value, ready: Rows) -> None:
        """Zeros where the columns of a row have run out."""
        e, size = self.e, SIZES[self.result_dtype]
        e.fill(self._gathered(place, ready).element(e, i64(self.n)), -self.n % DEPTH * size)

    def _call(
        self, low: Value, high: Value, panel: Value, depth: Value, at: Value, sums: Value, ahead: Prefetch
    ) -> None:
        e, b, whole = self.e, self.e.b, i64(tiles.ROWS)
        count = b.sub(high, low)
        upper, below = e.least(count, whole), b.sub(count, whole)
        turns = b.udiv(b.add(depth, i64(tiles.DEPTH - 1)), i64(tiles.DEPTH))
        accumulate, turn = b.icmp_signed(">", at, i64(0)), b.udiv(at, i64(tiles.DEPTH))
        bytes_ahead = b.mul(ahead.pace, i64(tiles.DEPTH // self.shape.kstep))
        lines = b.and_(b.add(b.udiv(bytes_ahead, i64(LINE)), i64(3)), i64(-4))

        def tile(row: Value, rows: Value) -> tuple[Value, Value]:
            step = b.mul(rows, i64(STEP_BYTES))
            start = e.at(self.rows_at, b.mul(row, i64(self.row_bytes)), 1)
            return e.at(start, b.mul(turn, step), 1), step

        apart, behind = b.mul(lines, i64(LINE // 2)), b.mul(lines, i64(LINE))
        arguments = partial(
            TileArguments,
            panel=panel,
            c=sums,
            turns=turns,
            accumulate=b.zext(accumulate, I64),
            ahead=ahead.start,
            apart=apart,
            pace=behind,
            lines=lines,
        )

        def multiply(kernel: Value, first: tuple[Value, Value], second: tuple[Value, Value]) -> None:
            (upper, upper_step), (lower, lower_step) = first, second
            b.call(kernel, arguments(upper=upper, upper_step=upper_step, lower=lower, lower_step=lower_step))

        first = tile(low, upper)
        with e.either(b.icmp_signed(">", below, i64(0))) as otherwise:
            multiply(self.double, first, tile(b.add(low, whole), below))
            otherwise()
            multiply(self.single, first, first)


@dataclass(frozen=True)
class Stretches:
    """How blocks of rows are cut: one has at most `tall` rows, its `depth` k (of a panel `k_bytes` each) at most `cuts`
    stretches, of multiples of `unit`. Up to `uncut` rows pass over whole vectors: all of a block, if that is never
    cut."""

    tall: int
    cuts: int
    uncut: int
    depth: int
    unit: int
    k_bytes: int

    @property
    def most_turns(self) -> int:
        """The most turns of 32 k that rows have in one stretch, all rows together. A stretch is longer than its share
        of a whole vector by less than a unit."""
        longest = (self.tall, -(-self.depth // self.cuts) + self.unit), (self.uncut, self.depth)
        return max(rows * -(-k // tiles.DEPTH) for rows, k in longest)


@dataclass(frozen=True)
class Stretch:
    """`size` k, from `first` on. Where rows are made ready for a stretch, `rows_bytes` are from one group of 16 to the
    next."""

    first: Value
    size: Value
    rows_bytes: Value = None


class Stretched(Matmul, ABC):
    """How blocks of rows in tiles pass over panels.

    A block of rows stays in the second cache while panels pass over it. If its vectors are too long for that, k is cut
    into stretches, and the sums of a group of panels wait in scratch memory, so that rows are read again only once a
    group. Those who derive from it say how a stretch of a panel is multiplied.
    """

    #: Panels of a group, where k is cut.
    GROUP = 16

    stretches: Stretches

    def choose_stretches(self, depth: int, row_bytes: int, unit: int = tiles.DEPTH) -> Stretches:
        """How blocks of rows are cut where `depth` k of panels are multiplied with rows of `row_bytes` a k, into
        stretches of multiples of `unit`."""
        l2, rows = self.stages.target.l2, 2 * tiles.ROWS
        fitting = l2 * 2 // 3 // (row_bytes * depth + 4 * self.shape.columns) // rows * rows
        tall, limit = self.CUT_ROWS, max(_PART, l2 // 2 // (row_bytes * self.CUT_ROWS))
        if fitting >= _FEWEST:
            tall, limit = fitting, depth
        cuts = -(-depth // limit)
        uncut = tall if cuts == 1 else max(rows, min(fitting, tall))
        return Stretches(tall, cuts, uncut, depth, unit, self.shape.step_bytes // self.shape.kstep)

    def _stretch_of(self, rows: Value) -> Value:
        """How many k are multiplied at once with a block of so many rows: the fewer they are, the more."""
        b, cut = self.e.b, self.stretches
        depth = i64(cut.depth)
        rows = b.mul(self._count(rows, tiles.ROWS), i64(tiles.ROWS))
        few = b.icmp_signed("<=", rows, i64(cut.uncut))
        stretches = b.select(few, i64(1), self._count(b.mul(rows, i64(cut.cuts)), cut.tall))
        each = b.udiv(b.add(depth, b.sub(stretches, i64(1))), stretches)
        return b.select(few, depth, b.mul(self._count(each, cut.unit), i64(cut.unit)))

    def take_scratch(self) -> None:
        """The sums of a group."""
        super().take_scratch()
        waiting = 1 if self.stretches.uncut == self.stretches.tall else self.GROUP
        self.all_sums = self.scratch.take(self.e, waiting * self.stretches.tall * self.shape.columns * 4)

    def _pass(self, panels: Panels, ready: Rows) -> None:
        """Some panels of a key with its rows, block after block."""
        e = self.e
        weights = e.at(self.weights, e.b.mul(panels.key, i64(self.expert_bytes)), 1)
        rows = e.b.sub(ready.stop, ready.first)
        blocks = self._count(rows, self.stretches.tall)

        def turn(at: Value) -> None:
            block = Rows(*self._block(ready.first, rows, blocks, at, 2 * tiles.ROWS))
            depth = self._stretch_of(e.b.sub(block.stop, block.first))
            uncut = e.b.icmp_signed("==", depth, i64(self.stretches.depth))
            group = e.b.select(uncut, i64(self.panels), i64(self.GROUP))

            def some(panel: Value) -> None:
                group_end = e.least(e.b.add(panel, group), panels.high)
                self._group(Panels(panels.key, panel, group_end), weights, block, ready, depth)

            e.loop(panels.low, panels.high, some, step=group)

        e.loop(0, blocks, turn)

    def _group(self, panels: Panels, weights: Value, rows: Rows, ready: Rows, depth: Value) -> None:
        """All products of a block of rows with some panels, `depth` k after `depth` k."""
        e, b, (first, stop) = self.e, self.e.b, (rows.first, rows.stop)
        uncut = b.icmp_signed("==", depth, i64(self.stretches.depth))
        sum_bytes = b.mul(self._count(b.sub(stop, first), tiles.ROWS), i64(4 * tiles.ROWS * self.shape.columns))

        def multiply(at: Value) -> None:
            size = e.least(b.sub(i64(self.stretches.depth), at), depth)
            stretch = self._prepare(rows, at, size)

            def turn(panel: Value) -> None:
                waiting = b.select(uncut, i64(0), b.sub(panel, panels.low))
                block = Block(first, stop, ready, e.at(self.all_sums, b.mul(waiting, sum_bytes), 1))
                place = e.at(weights, b.mul(panel, i64(self.panel_bytes)), 1)
                self._stretch(place, block, stretch)
                with e.when(b.icmp_signed("==", b.add(at, size), i64(self.stretches.depth))):
                    self._finish(panel, b.mul(panel, i64(self.columns)), block)

            e.loop(panels.low, panels.high, turn)

        e.loop(0, self.stretches.depth, multiply, step=depth)

    def _prepare(self, rows: Rows, first: Value, size: Value) -> Stretch:
        """A stretch of `size` k, from `first` on, and what is done with it of a block's rows before a group of panels
        passes by."""
        return Stretch(first, size)

    @abstractmethod
    def _stretch(self, panel: Value, block: Block, stretch: Stretch) -> None:
        """The products of a block of rows with a stretch of a panel."""


class TiledMatmul(Tiled, Stretched):
    """Products with dense weights. Few blocks of rows pass over whole panels in the second cache; of a panel that many
    pass over a part stays in the first."""

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        self.stretches = self.choose_stretches(shape.steps(self.k) * shape.kstep, 2)

    @property
    def sums_bytes(self) -> int:
        """None but those of a group."""
        return 0

    def _key(self, panels: Panels) -> None:
        e, rows = self.e, self._rows(panels.key, panels.share)
        with e.when(e.b.icmp_signed("<", rows.first, rows.stop)):
            self._ready(rows)
            self._pass(panels, rows)

    def _few(self, count: Value, size: Value) -> Value:
        """Whether `count` rows are so few that a panel is not cut: `size` k of them, and of the next panel beside this
        one, have to fit into the second cache."""
        b = self.e.b
        taken = b.mul(b.mul(size, b.add(count, i64(2 * self.shape.columns))), i64(SIZES["bf16"]))
        fits = b.icmp_signed("<=", taken, i64(self.stages.target.l2 * 3 // 4))
        return b.and_(b.icmp_signed("<=", count, i64(_FEW * self.shape.rows)), fits)

    def _stretch(self, panel: Value, block: Block, stretch: Stretch) -> None:
        """Part after part."""
        e, b, k_bytes = self.e, self.e.b, i64(self.stretches.k_bytes)
        first, size = stretch.first, stretch.size
        panel = e.at(panel, b.mul(first, k_bytes), 1)
        count = b.sub(block.high, block.low)
        turns = self._count(count, self.shape.rows)
        alone = b.icmp_signed("==", turns, i64(1))
        cut = b.select(b.or_(alone, self._few(count, size)), size, i64(_PART))

        def part(at: Value) -> None:
            left = b.sub(size, at)
            depth = e.least(left, cut)
            start, nbytes = e.at(panel, b.mul(at, k_bytes), 1), b.mul(depth, k_bytes)
            last = b.icmp_signed("==", left, depth)
            following = b.select(last, e.at(panel, self.panel_bytes, 1), e.at(start, nbytes, 1))
            share, pace = b.udiv(nbytes, turns), b.udiv(b.add(i64(self.shape.step_bytes - 1), turns), turns)

            def turn(i: Value) -> None:
                top, bottom = self._block(block.low, count, turns, i)
                sums = e.at(block.sums, b.mul(i, i64(self.shape.rows * self.shape.columns * 4)), 1)
                ahead = b.select(alone, e.at(start, _AHEAD, 1), e.at(following, b.mul(i, share), 1))
                self._call(top, bottom, start, depth, b.add(first, at), sums, Prefetch(ahead, pace))

            e.loop(0, turns, turn)

        e.loop(0, size, part, step=cut)
