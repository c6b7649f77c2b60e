"""Products through AMX's tiles: 32 rows by 32 columns of bf16, 32 k at once.

Rows come gathered (`moec.codegen.gathered`), so that a tile is one piece of memory and a row is copied once, not once a
panel: by `plan.gather`, or by the product that they are the results of, if nobody else reads them. A panel is tiles,
too: [k / 32][2][16][16][2], two of 32 k by 16 columns each, with zeros up to a multiple of 32 k.

    void NAME(ptr upper, i64 upper_step, ptr lower, i64 lower_step, ptr panel, ptr c, i64 turns, i64 accumulate,
              ptr ahead, i64 lines)

adds to C, 16 or 32 rows of 32 f32, one after the other, the products of `turns` times 32 k; where `accumulate` is 0, C
is only written. `upper` and `lower` are the tiles of the first and the next 16 rows, `*_step` bytes from one 32 k to
the next: 64 for each row that is there. The kernel reads 1024 bytes from each step on and computes whole tiles; what
stands in the rows that are not there leaves the others alone. While a turn runs, the next `lines` lines from `ahead` on
are prefetched, a multiple of 4 of them.

A sum is a chain over the turns, each of them two chains in the order of k (`moec.codegen.tiles`). So a row's bits
depend neither on the rows beside it nor on where k is cut at multiples of 32.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir

from moec.codegen import tiles
from moec.codegen.frame import Region
from moec.codegen.gathered import DEPTH, LINE, GatheredRow
from moec.codegen.llvm import I64, PTR, SIZES, VOID, Emitter, Value, i64
from moec.codegen.matmul import Matmul
from moec.codegen.stages import Stages
from moec.codegen.views import View
from moec.dialects import plan
from moec.target import KernelShape

_PARAMETERS: Final = {
    "upper": PTR,
    "upper_step": I64,
    "lower": PTR,
    "lower_step": I64,
    **dict.fromkeys(("panel", "c"), PTR),
    **dict.fromkeys(("turns", "accumulate"), I64),
    "ahead": PTR,
    "lines": I64,
}
#: Lines of one turn of a panel: what is read, or prefetched.
_TURN_LINES: Final = 32
#: How far ahead a panel is prefetched by those who read it from memory, in bytes.
_AHEAD: Final = 1024
#: k of a part of a panel that stays in the first cache while several blocks of rows pass over it: of 48 KiB it takes
#: 16, as much as a block, and the sums of a block 4.
_PART: Final = 256
#: Up to so many blocks of rows it is not cut: the first reads all of it as fast as memory can, the others find it in
#: the second cache. (To prefetch it while others compute holds up more than it saves: 0.92 and 0.70 ms at 64 rows.)
_FEW: Final = 3
#: The fewest rows of a block that are worth passing over whole vectors: with fewer, k is cut.
_FEWEST: Final = 192


def emit_kernel(module: Any, target: Any, shape: KernelShape, rows: int) -> ir.Function:
    """The kernel for 16 or 32 rows, added to `module` (once; a second call finds it)."""
    name = f"moec_{shape.form}_{shape.dtype}_{rows}x{shape.columns}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(VOID, [*_PARAMETERS.values()]), name)
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    for argument, label in zip(function.args, _PARAMETERS, strict=True):
        argument.name = label
    e = Emitter(ir.IRBuilder(function.append_basic_block("entry")), target)
    _Kernel(e, rows // tiles.ROWS, shape, *function.args).emit()
    e.b.ret_void()
    return function


class _Kernel:
    """One kernel. Tiles 0 to 3 are C, row by row; 4 and 5 the rows, 6 and 7 the panel."""

    def __init__(
        self,
        e: Emitter,
        height: int,
        shape: KernelShape,
        upper: Value,
        upper_step: Value,
        lower: Value,
        lower_step: Value,
        panel: Value,
        c: Value,
        turns: Value,
        accumulate: Value,
        ahead: Value,
        lines: Value,
    ) -> None:
        self.e, self.shape = e, shape
        self.rows = [(upper, upper_step), (lower, lower_step)][:height]
        self.width = shape.columns // tiles.ROWS
        self.panel, self.c, self.turns, self.accumulate = panel, c, turns, accumulate
        self.ahead, self.lines = ahead, lines

    def emit(self) -> None:
        e, stride = self.e, i64(4 * self.shape.columns)
        sums = [(i * self.width + j, i, j) for i in range(len(self.rows)) for j in range(self.width)]
        places = [(n, e.at(self.c, i * tiles.ROWS * 4 * self.shape.columns + j * tiles.BYTES, 1)) for n, i, j in sums]
        with e.either(e.b.icmp_signed("!=", self.accumulate, i64(0))) as otherwise:
            for n, place in places:
                tiles.LOAD.emit(e.b, n, place, stride)
            otherwise()
            for n, _ in places:
                tiles.ZERO.emit(e.b, n)
        e.loop(0, self.turns, self._turn)
        for n, place in places:
            tiles.STORE.emit(e.b, n, place, stride)

    def _turn(self, turn: Value) -> None:
        e = self.e
        panel = e.at(self.panel, e.b.mul(turn, i64(_TURN_LINES * LINE)), 1)
        self._prefetch(turn)
        for j in range(self.width):
            tiles.LOAD.emit(e.b, 6 + j, e.at(panel, j * tiles.ROWS * LINE, 1), i64(LINE))
        for i, (start, step) in enumerate(self.rows):
            tiles.LOAD.emit(e.b, 4 + i, e.at(start, e.b.mul(turn, step), 1), i64(LINE))
            for j in range(self.width):
                tiles.DOT_BF16.emit(e.b, i * self.width + j, 4 + i, 6 + j)

    def _prefetch(self, turn: Value) -> None:
        e = self.e
        start = e.at(self.ahead, e.b.mul(turn, e.b.mul(self.lines, i64(LINE))), 1)

        def some(at: Value) -> None:
            first = e.at(start, e.b.mul(at, i64(LINE)), 1)
            for i in range(4):
                e.prefetch(e.at(first, i * LINE, 1))

        e.loop(0, self.lines, some, step=4)


class Tiled(Matmul):
    """What is different where rows come gathered: blocks of whole tiles, and how the kernels are called."""

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        self.block, self.grain = self.CUT_ROWS, shape.rows

    def emit_kernels(self) -> None:
        module, target = self.stages.module, self.stages.target
        self.single, self.double = (emit_kernel(module, target, self.shape, rows) for rows in (16, 32))

    def regions(self) -> list[Region]:
        """None: rows lie where they were gathered."""
        return []

    def _keys(self, begin: Value, end: Value) -> None:
        self.rows_at = self.frame.pointer_of(self.op.vector)
        self.row_bytes = self.shape.steps(self.k) * self.shape.kstep * 2
        tiles.configure(self.e.b)
        super()._keys(begin, end)
        tiles.RELEASE.emit(self.e.b)

    def _ready(self, first: Value, stop: Value) -> None:
        """They are ready. Where they begin and end is asked for again by gathered results."""
        self.bounds = first, stop

    # results that the next product finds gathered

    def _result(self, place: Value, column: Value, width: int) -> View:
        if self.op.gathered is None:
            return super()._result(place, column, width)
        return View.dense(self._gathered(place).element(self.e, column), self.result_dtype, (width,))

    def _gathered(self, place: Value) -> GatheredRow:
        return GatheredRow.at(self.e, self.frame.pointer_of(self.op.value), self.result_bytes, place, *self.bounds)

    def _finish(self, panel: Value, column: Value, low: Value, high: Value) -> None:
        super()._finish(panel, column, low, high)
        if self.op.gathered is not None and self.n % DEPTH:
            with self.e.when(self.e.b.icmp_signed("==", panel, i64(self.panels - 1))):
                self.e.loop(low, high, self._fill_up)

    def _fill_up(self, place: Value) -> None:
        """Zeros where the columns of a row have run out."""
        e, size = self.e, SIZES[self.result_dtype]
        e.fill(self._gathered(place).element(e, i64(self.n)), -self.n % DEPTH * size)

    def _call(
        self, low: Value, high: Value, panel: Value, depth: Value, at: Value, sums: Value, ahead: Value, pace: Value
    ) -> None:
        e, b, whole = self.e, self.e.b, i64(tiles.ROWS)
        count = b.sub(high, low)
        upper, below = e.least(count, whole), b.sub(count, whole)
        turns = b.udiv(b.add(depth, i64(tiles.DEPTH - 1)), i64(tiles.DEPTH))
        accumulate, turn = b.icmp_signed(">", at, i64(0)), b.udiv(at, i64(tiles.DEPTH))
        bytes_ahead = b.mul(pace, i64(tiles.DEPTH // self.shape.kstep))
        lines = b.and_(b.add(b.udiv(bytes_ahead, i64(LINE)), i64(3)), i64(-4))

        def tile(row: Value, rows: Value) -> tuple[Value, Value]:
            step = b.mul(rows, i64(LINE))
            start = e.at(self.rows_at, b.mul(row, i64(self.row_bytes)), 1)
            return e.at(start, b.mul(turn, step), 1), step

        rest = (panel, sums, turns, b.zext(accumulate, I64), ahead, lines)
        first = tile(low, upper)
        with e.either(b.icmp_signed(">", below, i64(0))) as otherwise:
            b.call(self.double, [*first, *tile(b.add(low, whole), below), *rest])
            otherwise()
            b.call(self.single, [*first, *first, *rest])


class TiledMatmul(Tiled):
    """Products with dense weights.

    A block of rows stays in the second cache while panels pass over it. If its vectors are too long for that, k is cut,
    and the sums of a group of panels wait in scratch memory, so that rows are read again only once a group. Of a panel,
    a part stays in the first cache while the tiles of the block pass over it.
    """

    #: Panels of a group, where k is cut.
    GROUP = 16

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        self.depth = shape.steps(self.k) * shape.kstep
        self.k_bytes = shape.step_bytes // shape.kstep
        fitting = stages.target.l2 * 2 // 3 // (2 * self.depth + 4 * shape.columns) // shape.rows * shape.rows
        if fitting >= _FEWEST:
            self.block, limit = fitting, self.depth
        else:
            limit = max(_PART, stages.target.l2 // 2 // (2 * self.block))
        self.stretch = -(-self.depth // -(-self.depth // limit) // tiles.DEPTH) * tiles.DEPTH
        self.group = 1 if self.stretch >= self.depth else self.GROUP

    def take_scratch(self) -> None:
        self.all_sums = self.scratch.take(self.e, self.group * self._sum_bytes)

    @property
    def _sum_bytes(self) -> int:
        return self.block * self.shape.columns * 4

    def _key(self, key: Value, low: Value, high: Value) -> None:
        e = self.e
        first, stop = self._rows(key)
        with e.when(e.b.icmp_signed("<", first, stop)):
            self._ready(first, stop)
            weights = e.at(self.weights, e.b.mul(key, i64(self.expert_bytes)), 1)
            rows = e.b.sub(stop, first)
            blocks = self._count(rows, self.block)

            def block(at: Value) -> None:
                begin, end = self._block(first, rows, self.block, blocks, at)
                e.loop(low, high, lambda panel: self._group(panel, high, weights, begin, end), step=self.group)

            e.loop(0, blocks, block)

    def _group(self, start: Value, high: Value, weights: Value, first: Value, stop: Value) -> None:
        """All products of a block of rows with up to `group` panels."""
        e, b = self.e, self.e.b
        after = e.least(b.add(start, i64(self.group)), high)
        few = b.icmp_signed("<=", b.sub(stop, first), i64(self.shape.rows))
        stretch = b.select(few, i64(self.depth), i64(self.stretch))

        def begin(panel: Value) -> None:
            self.sums = e.at(self.all_sums, b.mul(b.sub(panel, start), i64(self._sum_bytes)), 1)

        def multiply(at: Value) -> None:
            size = e.least(b.sub(i64(self.depth), at), stretch)

            def turn(panel: Value) -> None:
                begin(panel)
                place = e.at(weights, b.mul(panel, i64(self.panel_bytes)), 1)
                self._stretch(e.at(place, b.mul(at, i64(self.k_bytes)), 1), first, stop, at, size)
                if self.group == 1:
                    self._finish(panel, b.mul(panel, i64(self.columns)), first, stop)

            e.loop(start, after, turn)

        e.loop(0, self.depth, multiply, step=stretch)
        if self.group > 1:

            def finish(panel: Value) -> None:
                begin(panel)
                self._finish(panel, b.mul(panel, i64(self.columns)), first, stop)

            e.loop(start, after, finish)

    def _stretch(self, panel: Value, low: Value, high: Value, first: Value, size: Value) -> None:
        """The products of rows with `size` k of a panel, from `first` on, which lie at `panel`: part after part."""
        e, b = self.e, self.e.b
        count = b.sub(high, low)
        turns = self._count(count, self.shape.rows)
        few = b.icmp_signed("<=", turns, i64(_FEW))
        cut = b.select(few, size, i64(_PART))

        def part(at: Value) -> None:
            left = b.sub(size, at)
            depth = e.least(left, cut)
            start, nbytes = e.at(panel, b.mul(at, i64(self.k_bytes)), 1), b.mul(depth, i64(self.k_bytes))
            last = b.icmp_signed("==", left, depth)
            following = b.select(last, e.at(panel, self.panel_bytes, 1), e.at(start, nbytes, 1))
            share, pace = b.udiv(nbytes, turns), b.udiv(b.add(i64(self.shape.step_bytes - 1), turns), turns)

            def turn(i: Value) -> None:
                top, bottom = self._block(low, count, self.shape.rows, turns, i)
                sums = e.at(self.sums, b.mul(i, i64(self.shape.rows * self.shape.columns * 4)), 1)
                ahead = b.select(few, e.at(start, _AHEAD, 1), e.at(following, b.mul(i, share), 1))
                own = b.select(b.icmp_signed("==", i, i64(0)), i64(self.shape.step_bytes), i64(0))
                self._call(top, bottom, start, depth, b.add(first, at), sums, ahead, b.select(few, own, pace))

            e.loop(0, turns, turn)

        e.loop(0, size, part, step=cut)
