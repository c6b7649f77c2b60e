"""Matrix products: loops around microkernels, and what follows their sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from moec.codegen.frame import Region, Word, ascend, row_bytes
from moec.codegen.llvm import SIZES, Emitter, Value, i64
from moec.codegen.microkernel import MicrokernelArguments, emit_family
from moec.codegen.rows import RULES
from moec.codegen.rows.pointwise import map_into
from moec.codegen.rows.row import Row, Scratch
from moec.codegen.rows.surroundings import Surroundings
from moec.codegen.stages import BYTE_COST, Stage, Stages, write
from moec.codegen.views import View, put
from moec.dialects import moe, plan
from moec.dialects.types import element_name, integer
from moec.runtime.pack import panel_bytes
from moec.shapes import KernelShape
from moec.target import LINE

#: Picoseconds, roughly, for a multiply-add.
_PRODUCT_COST: Final = 20
#: A matrix of fewer panels is narrow.
_NARROW: Final = 32


def is_narrow(op: plan.MatmulOp, shape: KernelShape) -> bool:
    """Whether all rows share a matrix of few panels."""
    columns = integer(op.n) * len(op.weights)
    return op.grouping.data == "none" and shape.panels(columns) < _NARROW


@dataclass(frozen=True)
class Prefetch:
    """What a microkernel prefetches: from where on, and how far it goes on with each step."""

    start: Value
    pace: Value


@dataclass(frozen=True)
class Panels:
    """The panels `low` to `high` of a key; where its rows are cut into shares, `share` is the one that passes by."""

    key: Value
    low: Value
    high: Value
    share: Value = None


@dataclass(frozen=True)
class Rows:
    """The rows at the places `first` to `stop` of the grouping."""

    first: Value
    stop: Value


@dataclass(frozen=True)
class Block:
    """Rows that pass over a panel together: those at the places `low` to `high`, some of those that were made `ready`
    at once. Their sums wait at `sums`."""

    low: Value
    high: Value
    ready: Rows
    sums: Value


class Matmul:
    """Loops around the microkernels of one `plan.matmul`.

    For each key with rows, for each panel: blocks of rows pass over the panel while it is in cache. A panel that is too
    large for that is cut along k, unless one block is all there is; then the sums of up to `CUT_ROWS` rows wait in
    scratch memory.

    Once constructed, an emitter knows the sizes of everything and has emitted nothing. `emit_all` emits: first the
    functions that the stages call, then the stages. `e`, `frame` and what lies in scratch memory are of the stage that
    is being emitted.
    """

    CUT_ROWS = 256
    #: Up to so many rows pass over short parts of a panel: what they need of their vectors stays in cache beside one.
    FEW_ROWS = 64
    #: A narrow matrix is cut by rows too: into at most `SHARES` shares, of `SHARE_ROWS` rows where there are enough. A
    #: router would else keep one or two threads busy, and the others idle.
    SHARES, SHARE_ROWS = 16, 64

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        self.stages = stages
        self.op = op
        self.shape = shape
        self.name = name
        self.domain = stages.domains[op.domain]
        self.n, self.k, self.keys = (integer(item) for item in (op.n, op.k, op.keys))
        if op.grouping.data == "index":
            self.keys = min(self.keys, self.domain.indices)
        self.parts = len(op.weights)
        self.columns = shape.columns // self.parts
        self.panels = -(-self.n // self.columns)
        self.shares = self.SHARES if is_narrow(op, shape) and not op.storage else 1
        self.panel_bytes = shape.steps(self.k) * shape.step_bytes
        #: Bytes from one stream of a panel to the next.
        self.apart = self.panel_bytes // shape.streams
        self.expert_bytes = panel_bytes(shape.panel, self.n, self.k, self.parts)
        #: k of the parts that a panel is cut into: for few rows, and for many.
        self.cut, self.long_cut = (self._fitting(nbytes) for nbytes in stages.target.part_bytes)
        self.block = shape.rows if self.cut >= self.k else self.CUT_ROWS
        assert isinstance(op.value.type, plan.RowsType)
        self.result_dtype, self.result_bytes = element_name(op.value.type.row), row_bytes(op.value.type.row)
        #: What blocks of rows are multiples of, but for the last.
        self.grain = 1
        #: From so many rows on a microkernel prefetches. A few are always the only block; they leave the weights to the
        #: hardware, where it keeps up with them.
        self.prefetch_from, _ = stages.target.prefetch[0]

    def _fitting(self, nbytes: int) -> int:
        """How many k a panel is cut into so that a part has about so many bytes."""
        shape = self.shape
        cuts = -(-self.panel_bytes // max(shape.step_bytes * 64, nbytes))
        return -(-shape.steps(self.k) // cuts) * shape.kstep

    def regions(self) -> list[Region]:
        """The workspace that the stages need besides their result: where each row's vector is."""
        return [self.domain.region(Word("pointers", self.op.value), 8)]

    def emit_all(self) -> list[Stage]:
        """The stages of the product, in order; before them what they call."""
        self.emit_kernels()
        return [*self.emit_before(), self.emit()]

    def emit_kernels(self) -> None:
        """The microkernels: one for each number of rows that a tile may have."""
        self.kernels = emit_family(self.stages.module, self.stages.target, self.shape, self.prefetch_from)

    def emit_before(self) -> list[Stage]:
        """The stages that make something ready for that of the product: none."""
        return []

    def emit(self) -> Stage:
        """The stage of the product."""
        self.e, self.frame, given = self.stages.begin(self.name)
        self.scratch = Scratch(given.scratch)
        self.sums = self.scratch.take(self.e, self.sums_bytes)
        self.take_scratch()
        self.find_operands()
        self._keys(given.begin, given.end)
        self.stages.finish(self.e, self._whole_lines(self.columns))
        products = self.n * self.k * self.parts
        return Stage(
            self.name,
            self.domain,
            self.keys * self.panels * self.shares,
            self.scratch.size,
            _PRODUCT_COST * products,
            BYTE_COST * self.expert_bytes,
            self.keys,
            *self.least_units,
        )

    @property
    def least_units(self) -> tuple[int, int]:
        """How many panels rows are made ready for at least, and from how many rows on that matters."""
        return 1, 0

    @property
    def sums_bytes(self) -> int:
        """The bytes of the sums of a block of rows."""
        return 4 * self.block * self.shape.columns

    def take_scratch(self) -> None:
        """Scratch memory for more than those: nothing."""

    def find_operands(self) -> None:
        """Where the weights lie."""
        self.weights = self.frame.pointer_of(Word("panels", self.op.value))

    # rows

    def _rows(self, key: Value, share: Value) -> Rows:
        """The rows of a key; of all rows, where they share a matrix, those of one share."""
        e, frame = self.e, self.frame
        match self.op.grouping.data:
            case "none":
                return self._share(frame.number_of(self.domain.word("count")), share)
            case "index":
                offsets = frame.pointer_of(self.domain.word("offsets"))
            case _:
                offsets = frame.pointer_of(Word("offsets", self.op.group))
        first = e.load(e.at(offsets, key, 8), "i64")
        return Rows(first, e.load(e.at(offsets, e.b.add(key, i64(1)), 8), "i64"))

    def _share(self, rows: Value, share: Value) -> Rows:
        """The rows of one share of them all."""
        if self.shares == 1:
            return Rows(i64(0), rows)
        b = self.e.b
        count = self._count(b.add(rows, i64(1)), self.SHARE_ROWS)  # not 0 where there is no row
        count = self.e.least(count, i64(self.shares))
        low, high = self._block(i64(0), rows, count, share)
        return Rows(low, b.select(b.icmp_signed("<", share, count), high, low))

    def _row(self, place: Value) -> Value:
        """The row at a place of the grouping."""
        if self.op.grouping.data != "key":
            return place
        return self.e.load(self.e.at(self.frame.pointer_of(Word("order", self.op.group)), place, 8), "i64")

    def _keys(self, begin: Value, end: Value) -> None:
        """The units `begin` to `end`: share after share, panel after panel, key after key."""
        e, panels = self.e, self.e.size(self.panels)
        if self.keys == 1 and self.shares == 1:
            self._key(Panels(i64(0), begin, end))
            return
        if self.keys == 1:

            def unit(at: Value) -> None:
                panel, share = e.b.udiv(at, i64(self.shares)), e.b.urem(at, i64(self.shares))
                self._key(Panels(i64(0), panel, e.b.add(panel, i64(1)), share))

            e.loop(begin, end, unit)
            return

        def turn(key: Value) -> None:
            base = e.b.mul(key, panels)
            low, high = e.b.sub(begin, base), e.b.sub(end, base)
            low = e.b.select(e.b.icmp_signed(">", low, i64(0)), low, i64(0))
            self._key(Panels(key, low, e.least(high, panels)))

        last = e.b.udiv(e.b.add(end, i64(self.panels - 1)), panels)
        e.loop(e.b.udiv(begin, panels), last, turn)

    def _key(self, panels: Panels) -> None:
        """Some panels of a key, if it has rows."""
        e, rows = self.e, self._rows(panels.key, panels.share)
        with e.when(e.b.icmp_signed("<", rows.first, rows.stop)):
            self._ready(rows)
            weights = e.at(self.weights, e.b.mul(panels.key, e.size(self.expert_bytes)), 1)
            e.loop(panels.low, panels.high, lambda panel: self._panel(panel, weights, rows))

    def _ready(self, rows: Rows) -> None:
        """Makes the rows of a key ready for the microkernels."""
        self._locate(rows)

    def _locate(self, rows: Rows) -> None:
        """Writes down where the vectors of rows are."""
        self.e.loop(rows.first, rows.stop, self._point)

    def _point(self, place: Value) -> None:
        """Writes the address of the vector of a row."""
        self.e.b.store(self._vector(place), self._pointer(place), align=8)

    def _vector(self, place: Value) -> Value:
        """The address of the vector of a row."""
        e, source = self.e, self.op.vector
        assert isinstance(source.type, plan.RowsType)
        size = i64(row_bytes(source.type.row))
        return e.at(self.frame.pointer_of(Word("rows", source)), e.b.mul(self._source_row(place), size), 1)

    def _source_row(self, place: Value) -> Value:
        """The row of the vector's domain that a row was expanded from."""
        target = self.stages.domains[plan.domain_of(self.op.vector)]
        return ascend(self.e, self.frame, self.domain, target, self._row(place))

    def _pointer(self, place: Value) -> Value:
        """Where the address of a row's vector is kept; threads that share a key write the same there."""
        return self.e.at(self.frame.pointer_of(Word("pointers", self.op.value)), place, 8)

    # blocks of rows

    def _count(self, rows: Value, size: int) -> Value:
        """How many blocks of at most `size` rows there are."""
        return self.e.b.udiv(self.e.b.add(rows, i64(size - 1)), i64(size))

    def _block(self, first: Value, rows: Value, blocks: Value, at: Value, grain: int = 0) -> tuple[Value, Value]:
        """The first row of a block and the one after its last: blocks are alike up to whole grains, so that none
        is left with few rows."""
        b, grain = self.e.b, grain or self.grain
        if grain == 1:
            low, high = (b.add(first, b.udiv(b.mul(rows, i), blocks)) for i in (at, b.add(at, i64(1))))
            return low, high
        grains = self._count(rows, grain)
        low, high = (b.mul(b.udiv(b.mul(grains, i), blocks), i64(grain)) for i in (at, b.add(at, i64(1))))
        return b.add(first, low), b.add(first, self.e.least(high, rows))

    # panels

    def _panel(self, panel: Value, weights: Value, ready: Rows) -> None:
        e = self.e
        start = e.at(weights, e.b.mul(panel, e.size(self.panel_bytes)), 1)
        column = e.b.mul(panel, i64(self.columns))
        rows = e.b.sub(ready.stop, ready.first)
        blocks = self._count(rows, self.block)

        def turn(at: Value) -> None:
            block = Block(*self._block(ready.first, rows, blocks, at), ready, self.sums)
            self._products(start, block, at, blocks)
            self._finish(panel, column, block)

        e.loop(0, blocks, turn)

    def _products(self, panel: Value, block: Block, at: Value, blocks: Value) -> None:
        """The sums of a block of rows, the one at place `at` of `blocks`."""
        e, low, high = self.e, block.low, block.high
        if self.block == self.shape.rows:
            ahead = self._ahead(panel, i64(0), e.size(self.k), e.b.sub(high, low), at, blocks)
            self._call(low, high, panel, self.e.size(self.k), i64(0), block.sums, ahead)
            return
        count = e.b.sub(high, low)
        turns = self._count(count, self.shape.rows)
        few, alone = (e.b.icmp_signed("<=", count, i64(rows)) for rows in (self.FEW_ROWS, self.shape.rows))
        cut = e.b.select(alone, i64(self.k), e.b.select(few, i64(self.cut), i64(self.long_cut)))

        def part(at: Value) -> None:
            self._part(panel, at, e.least(e.b.add(at, cut), i64(self.k)), block, count, turns)

        e.loop(0, self.k, part, step=cut)

    def _part(self, panel: Value, start: Value, stop: Value, block: Block, count: Value, turns: Value) -> None:
        """The products with the elements `start` to `stop` of k of a panel."""
        e, part, depth = self.e, self._place(panel, start), self.e.b.sub(stop, start)

        def turn(i: Value) -> None:
            a, b = self._block(block.low, count, turns, i)
            sums = self._sums(block, a)
            ahead = self._ahead(panel, start, stop, e.b.sub(b, a), i, turns)
            self._call(a, b, part, depth, start, sums, ahead)

        e.loop(0, turns, turn)

    def _sums(self, block: Block, place: Value) -> Value:
        """Where the sums of a row of a block are, and those of the rows behind it."""
        e = self.e
        return e.at(block.sums, e.b.mul(e.b.sub(place, block.low), i64(self.shape.columns * 4)), 1)

    def _ahead(self, panel: Value, start: Value, stop: Value, rows: Value, block: Value, blocks: Value) -> Prefetch:
        """What to prefetch while a block of `rows` passes over the elements `start` to `stop` of k of a panel.

        If it is the only block, what it is about to read; else its share of the part that follows.
        """
        e, b, shape = self.e, self.e.b, self.shape
        alone = b.icmp_signed("==", blocks, i64(1))
        near = e.ahead(rows) if shape.streams == 1 else i64(self.stages.target.streams.ahead)
        nbytes = b.mul(self._count(b.sub(stop, start), shape.kstep), i64(shape.stream_bytes))
        last = b.icmp_signed("==", stop, e.size(self.k))
        following = b.select(last, e.at(panel, self.panel_bytes, 1), self._place(panel, stop))
        share = e.at(following, b.mul(block, b.udiv(nbytes, blocks)), 1)
        reading = e.at(self._place(panel, start), near, 1)
        return Prefetch(b.select(alone, reading, share), b.udiv(i64(shape.stream_bytes), blocks))

    def _place(self, panel: Value, k: Value) -> Value:
        """Where an element of k stands in a panel's first stream, a multiple of kstep."""
        e, shape = self.e, self.shape
        return e.at(panel, e.b.mul(e.b.udiv(k, i64(shape.kstep)), i64(shape.stream_bytes)), 1)

    def _call(
        self, low: Value, high: Value, panel: Value, depth: Value, at: Value, sums: Value, ahead: Prefetch
    ) -> None:
        """The microkernel for so many rows."""
        e = self.e
        count, apart = e.b.sub(high, low), e.size(self.apart)
        arguments = MicrokernelArguments(
            rows=self._pointer(low),
            panel=panel,
            c=sums,
            ldc=i64(self.shape.columns),
            k=depth,
            first=at,
            accumulate=at,
            ahead=ahead.start,
            pace=ahead.pace,
            apart=apart,
        )
        done = e.b.append_basic_block("multiplied")
        switch = e.b.switch(count, done)
        for rows, kernel in enumerate(self.kernels, 1):
            case = e.b.append_basic_block(f"rows{rows}")
            switch.add_case(i64(rows), case)
            e.b.position_at_end(case)
            e.b.call(kernel, arguments)
            e.b.branch(done)
        e.b.position_at_end(done)

    # what follows the sums

    def _finish(self, panel: Value, column: Value, block: Block) -> None:
        e = self.e
        rest = self.n % self.columns
        if not rest or self.panels == 1:
            self._epilogue(column, block, rest or self.columns)
            return
        whole = e.b.icmp_signed("!=", panel, i64(self.panels - 1))
        with e.either(whole) as otherwise:
            self._epilogue(column, block, self.columns)
            otherwise()
            self._epilogue(column, block, rest)

    def _epilogue(self, column: Value, block: Block, width: int) -> None:
        """The region on `width` columns of the rows of a block, from their sums."""
        e = self.e

        def rows(passing: bool) -> None:
            def turn(place: Value) -> None:
                sums, to = self._sums(block, place), self._result(place, column, width, block.ready)
                self._row_epilogue(place, sums, column, replace(to, passing=passing))

            e.loop(block.low, block.high, turn)

        if self._whole_lines(width):
            write(e, self.frame.number_of(self.domain.word("count")), self.result_bytes, rows)
        else:
            rows(False)

    def _whole_lines(self, width: int) -> bool:
        """Whether what is written of a row is whole lines, in the workspace."""
        size, ours = SIZES[self.result_dtype], self.op.gathered is None and self.op.value not in self.stages.outputs
        sizes = (width * size, self.columns * size, self.result_bytes)
        return ours and not any(nbytes % LINE for nbytes in sizes)

    def _result(self, place: Value, column: Value, width: int, ready: Rows) -> View:
        """Where `width` columns of the result of a row go, one of those made `ready` at once."""
        e = self.e
        results = self.frame.pointer_of(Word("rows", self.op.value))
        start = e.at(results, e.b.mul(self._row(place), i64(self.result_bytes)), 1)
        return View.dense(e.at(start, column, SIZES[self.result_dtype]), self.result_dtype, (width,))

    def _row_epilogue(self, place: Value, sums: Value, column: Value, to: View) -> None:
        """The region on some columns of one row."""
        e, block, (width,) = self.e, self.op.body.block, to.shape
        around = Surroundings(self.stages.domains, self.frame, e, self.domain, block.args[0])
        row = Row(e, around, self.scratch, RULES)
        row.values[block.args[0]] = self._row(place)
        for part, argument in enumerate(block.args[1:]):
            row.values[argument] = View.dense(e.at(sums, part * self.columns * 4, 1), "f32", (width,))
        made = set(block.args[1:])
        last = block.last_op
        assert last is not None
        value = last.operands[0]
        for operation in block.ops:
            if operation is last or operation is value.owner:
                break
            row.emit(operation)
        if isinstance(value.owner, moe.MapOp):
            views = [_window(e, row[array], None if array in made else column, width) for array in value.owner.arrays]
            map_into(row, value.owner, views, to)
        else:
            put(e, row[value], to)


def _window(e: Emitter, view: View, column: Value | None, width: int) -> View:
    """`width` elements of a contiguous view from a column on; sums stand there already."""
    if column is None:
        return view
    return View.dense(view.moved(e, column), view.dtype, (width,))
