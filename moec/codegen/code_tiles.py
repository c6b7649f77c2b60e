"""Products of stored weights through AMX's tiles: of bytes with quantised rows, or of looked-up bf16 with rows of bf16.

The function computes what that of `moec.codegen.integer` does. With quantised rows bit for bit: the sums of a stretch
are integers and exact, and what follows them in f32 has the same order. Tiles of rows are computed whole, and written
to `sums`; up to `SLACK` records behind the last are read.

A part of the panel, the k of a few records, is made ready in scratch memory that stays in the first cache: for each,
and 16 columns, a *cell*, what its codes stand for in tiles, one a stretch or several, then its scales and offsets in
f32. All rows pass over it, step by step (`emit_steps`).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

from llvmlite import ir

from moec.codegen import tiles
from moec.codegen.cells import Cell, CellProducts
from moec.codegen.code_bytes import WORD
from moec.codegen.function import Address, Alone, Arguments, Integer, emit_function
from moec.codegen.integer import ProductArguments, add_stretch, divided
from moec.codegen.llvm import F32, I8, I32, Emitter, Value, constant, i64
from moec.codegen.pairs import PairProducts
from moec.codegen.quantize import Record
from moec.formats.layout import BLOCK, GROUP
from moec.formats.panels import PanelLayout
from moec.target import LINE, Target

#: Steps that tiles are multiplied ahead of the step that is scaled. A power of two.
_AHEAD: Final = 2
#: Records behind the last that are read, and not used.
SLACK: Final = 2 * tiles.ROWS


@dataclass(frozen=True)
class TileCell(Cell):
    """A cell whose stretches are tiles, or several tiles each. Scratch memory is the ring of products, then cells
    [columns / 16 / groups][records][groups]."""

    @property
    def groups(self) -> int:
        """The groups of 16 columns of a step: two where a stretch has several tiles and the columns divide so, since
        each tile of rows is loaded once for both. With four the entries of the ring are 4 KiB, and loads wait for
        stores that look alike to them (OLMoE in int8 on 16 threads: 0.8 to 0.96 of one, two are 1.02 to 1.12)."""
        return 2 if self.record.parts > 1 and self.columns // tiles.ROWS % 2 == 0 else 1

    @property
    def sums(self) -> int:
        """The tiles that the products of a step are in: of its stretches, or of its groups of columns."""
        return self.stretches * self.groups

    @property
    def lifts(self) -> bool:
        return False

    @property
    def step(self) -> int:
        """The bytes of the products of a step."""
        return self.sums * tiles.ROWS * tiles.BYTES

    @property
    def ring(self) -> int:
        """The bytes of the products that are not yet scaled."""
        return _AHEAD * self.step

    def records(self, l1: int) -> int:
        """How many records a part meets: with the ring and the rows of a step, half of the first cache; sums and the
        panel want the rest."""
        each = self.columns // tiles.ROWS * self.nbytes + tiles.ROWS * self.record.nbytes
        return max(1, (l1 // 2 - self.ring) // each)

    def scratch(self, l1: int) -> int:
        """The bytes of scratch memory."""
        return self.ring + self.columns // tiles.ROWS * self.records(l1) * self.nbytes


@dataclass(frozen=True)
class TileProductArguments(ProductArguments):
    """What the function takes: besides, scratch memory as `TileCell` has it."""

    scratch: Alone


class TileProducts(CellProducts, ABC):
    """Makes parts of a panel ready, and lets the rows pass over each."""

    arguments: ClassVar[type[ProductArguments]] = TileProductArguments
    #: Rows of the tiles: the fewest that hold all rows are taken, else the most.
    heights: ClassVar[tuple[int, ...]] = (tiles.ROWS,)
    #: How far behind the next part memory is read ahead, in bytes.
    ahead: ClassVar[int] = 0

    def __init__(self, e: Emitter, place: PanelLayout, record: Record, given: TileProductArguments) -> None:
        super().__init__(e, place, record, given)
        self.cell = TileCell(record, place.columns)
        self.ring, self.cells = given.scratch, e.at(given.scratch, self.cell.ring, 1)
        module = e.b.module
        self.height = self._by_rows([i64(height) for height in self.heights])
        depth = record.stretch_bytes // record.parts
        self.shape = self._by_rows([tiles.configuration(e.b, depth, height) for height in self.heights])
        self.steps = self._by_rows([emit_steps(module, e.target, self.cell, height) for height in self.heights])

    def _by_rows(self, choices: list[Value]) -> Value:
        """What belongs to the tiles of the fewest rows that hold all rows, or of the most."""
        *few, chosen = choices
        for height, choice in reversed(list(zip(self.heights, few, strict=False))):
            chosen = self.e.b.select(self.e.b.icmp_signed("<=", self.count, i64(height)), choice, chosen)
        return chosen

    def emit(self) -> None:
        e, b, size = self.e, self.e.b, self.cell.records(self.e.target.l1)
        nbytes = self.place.chunk * self.record.length // self.layout.chunk
        records = b.udiv(b.add(self.blocks, i64(self.record.parts - 1)), i64(self.record.parts))
        width = self.place.columns // tiles.ROWS // self.cell.groups
        around = b.mul(_tiles_of(b, self.count, self.height), i64(width))
        lines = b.udiv(b.add(i64(nbytes // LINE), around), around)
        tiles.CONFIGURE.emit(b, self.shape)

        def part(first: Value) -> None:
            count = e.least(b.sub(records, first), i64(size))
            e.loop(0, count, lambda i: self._make_ready(b.add(first, i), i, count))
            rows = e.at(self.rows, b.mul(first, b.mul(self.count, i64(self.record.nbytes))), 1)
            following = b.mul(b.add(first, count), i64(nbytes))
            arguments = _StepArguments(
                rows=rows,
                cells=self.cells,
                sums=self.sums,
                ring=self.ring,
                count=self.count,
                records=count,
                ahead=e.at(self.panel, b.add(following, i64(self.place.head + self.ahead)), 1),
                lines=lines,
            )
            b.call(self.steps, arguments)

        e.loop(0, records, part, step=size)
        tiles.RELEASE.emit(b)
        if not self.layout.span:
            self._scale_rows()

    def _make_ready(self, record: Value, at: Value, count: Value) -> None:
        """The cells of the k of a record, the one at place `at` of `count`."""
        e, b = self.e, self.e.b
        place = self._from(record)

        def turn(column: Value) -> None:
            step, group = divided(e, b.udiv(column, i64(tiles.ROWS)), self.cell.groups)
            index = b.add(b.mul(b.add(b.mul(step, count), at), i64(self.cell.groups)), group)
            self._fill(self.cell, place, column, e.at(self.cells, b.mul(index, i64(self.cell.nbytes)), 1))

        e.loop(0, self.place.columns, turn, step=tiles.ROWS)


class ByteTileProducts(TileProducts):
    """Products of signed bytes."""

    unit: ClassVar[str] = "tiles"

    def _lines(self, codes: Value) -> Iterator[Value]:
        b, type = self.e.b, ir.VectorType(I8, 4 * self.lanes)
        center = constant(type, self.layout.center or 0)
        for word in self.codes.words(codes):
            yield b.sub(b.bitcast(word, type), center) if self.layout.center else word


class PairTileProducts(TileProducts, PairProducts):
    """Products of pairs of bf16, which narrow codes are looked up as."""

    unit: ClassVar[str] = "pair_tiles"
    heights: ClassVar[tuple[int, ...]] = (8, tiles.ROWS)
    ahead: ClassVar[int] = 4096

    def _lines(self, codes: Value) -> Iterator[Value]:
        for group in range(BLOCK // GROUP):
            planes = self.codes.load(self.e.at(codes, group * self.place.group, 1))
            for word in range(GROUP // WORD):
                yield from self._pairs(planes, word)


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _StepArguments(Arguments):
    rows: Address
    cells: Address
    sums: Address
    ring: Address
    count: Integer
    records: Integer
    ahead: Address
    lines: Integer


def emit_steps(module: Any, target: Target, cell: TileCell, height: int) -> ir.Function:
    """The function in which rows pass over a part, added to `module` (once; a second call finds it).

    A step is the product of `height` rows and 16 columns, or some such groups, over the k of a record. Tiles are
    multiplied `_AHEAD` steps before vectors convert, scale and add what came out, so that the two units, and the memory
    between them, need not wait for each other. The sums of the rows and one group stay in registers for the part. Each
    step prefetches `lines` lines from `ahead` on.
    """
    name = f"moec_steps_{cell.name}_{height}"
    return emit_function(module, target, name, _StepArguments, lambda e, given: _Steps(e, cell, height, given).emit())


class _Steps:
    """Tiles 0 to 3 are the sums of a step; 4 and 5 rows, 6 and 7 codes, in turns."""

    def __init__(self, e: Emitter, cell: TileCell, height: int, given: _StepArguments) -> None:
        self.e, self.cell, self.record, self.height, self.given = e, cell, cell.record, height, given
        self.floats, self.words = ir.VectorType(F32, tiles.ROWS), ir.VectorType(I32, tiles.ROWS)
        self.stride = e.b.mul(given.count, i64(self.record.nbytes))
        self.tall = i64(height * self.record.nbytes)
        #: From the cells of a step to those of the next.
        self.step = self.cell.groups * self.cell.nbytes
        #: The steps of the rows of a tile, but for records.
        self.width = self.cell.columns // tiles.ROWS // self.cell.groups
        #: Behind all cells.
        self.behind = e.at(given.cells, e.b.mul(e.b.mul(given.records, i64(self.width)), i64(self.step)), 1)

    def emit(self) -> None:
        """Step after step: record after record, column after column, row after row. The places of the step that tiles
        multiply are carried along beside."""
        e, b, given = self.e, self.e.b, self.given
        lead = [given.rows, given.cells, i64(0), given.rows]
        for i in range(_AHEAD):
            for emit in (self._stores(i64((i - 1) * self.cell.step)) if i else []) + self._products(lead):
                emit()
            lead = self._advance(lead)

        def row_turn(row: Value, carried: Sequence[Value]) -> Sequence[Value]:
            rows = e.at(given.rows, b.mul(row, self.tall), 1)
            to = e.at(given.sums, b.mul(row, i64(self.height * 4 * self.cell.columns)), 1)

            def column_turn(column: Value, carried: Sequence[Value]) -> Sequence[Value]:
                cells = e.at(given.cells, b.mul(b.mul(column, given.records), i64(self.step)), 1)
                first = e.at(to, b.mul(column, i64(self.cell.groups * tiles.BYTES)), 1)
                return self._columns(rows, cells, first, carried)

            return e.fold(0, self.width, carried, column_turn)

        e.fold(0, _tiles_of(b, given.count, i64(self.height)), [i64(0), given.ahead, *lead], row_turn)

    def _columns(self, rows: Value, cells: Value, to: Value, carried: Sequence[Value]) -> Sequence[Value]:
        """The steps of the rows of a tile and their columns, and the sums."""
        e, b = self.e, self.e.b

        def turn(i: Value, carried: Sequence[Value]) -> Sequence[Value]:
            at, ahead, *carried = carried
            lead, sums = carried[:4], carried[4:]
            ahead = self._prefetch(ahead)
            record = e.at(rows, b.mul(i, self.stride), 1)
            cell = e.at(cells, b.mul(i, i64(self.step)), 1)
            sums = self._step(at, lead, record, cell, sums, to)
            at = b.and_(b.add(at, i64(self.cell.step)), i64(self.cell.ring - 1))
            return [at, ahead, *self._advance(lead), *sums]

        stay = self.cell.groups == 1
        sums = [value for row in range(self.height) for value in self._read(to, row)] if stay else []
        results = e.fold(0, self.given.records, [*carried, *sums], turn)
        for row, value in enumerate(results[len(carried) :]):
            self._write(to, row, [value])
        return results[: len(carried)]

    def _step(
        self, at: Value, lead: Sequence[Value], record: Value, cell: Value, sums: Sequence[Value], to: Value
    ) -> Sequence[Value]:
        """Between rows that are scaled, the step before the lead leaves its products, then the lead is multiplied: so
        no unit waits long for another, nor does the core's other thread. The sums of the rows, if they are not in
        memory, at `to`."""
        e, b, rows = self.e, self.e.b, self.height
        last = b.and_(b.add(at, i64((_AHEAD - 1) * self.cell.step)), i64(self.cell.ring - 1))
        work = self._stores(last) + self._products(lead)
        cells = [e.at(cell, group * self.cell.nbytes, 1) for group in range(self.cell.groups)]
        factors = [[self.cell.factors(e, each, i) for i in range(self.cell.stretches)] for each in cells]
        results: list[Value] = []
        for i, emit in enumerate(work):
            emit()
            for row in range(i * rows // len(work), (i + 1) * rows // len(work)):
                before = [sums[row]] if sums else self._read(to, row)
                after = self._scale(e.at(self.given.ring, at, 1), record, factors, row, before)
                if sums:
                    results += after
                else:
                    self._write(to, row, after)
                e.b.fence("seq_cst", "singlethread")  # or LLVM reads all rows' integers first, and sums are spilled
        return results

    def _read(self, to: Value, row: int) -> list[Value]:
        """The sums of a row and the columns of a step, from memory."""
        place = self.e.at(to, row * 4 * self.cell.columns, 1)
        groups = range(self.cell.groups)
        return [self.e.b.load(self.e.at(place, i * tiles.BYTES, 1), typ=self.floats, align=4) for i in groups]

    def _write(self, to: Value, row: int, sums: Sequence[Value]) -> None:
        place = self.e.at(to, row * 4 * self.cell.columns, 1)
        for i, value in enumerate(sums):
            self.e.b.store(value, self.e.at(place, i * tiles.BYTES, 1), align=4)

    # tiles

    def _products(self, lead: Sequence[Value]) -> list[Callable[[], None]]:
        """What multiplies the tiles of a step, from where its rows and its cells lie."""
        depth = range(self.cell.stretches * self.record.parts)
        return [partial(self._multiply, lead, i, group) for i in depth for group in range(self.cell.groups)]

    def _multiply(self, lead: Sequence[Value], i: int, group: int) -> None:
        """Tile i of the rows, a stretch or a part of the only one, and that of a group of columns."""
        e, (rows, cell, *_) = self.e, lead
        stretch, part = (0, i) if self.record.parts > 1 else (i, 0)
        sums, left, right = stretch + group, 4 + i % 2, 6 + (i * self.cell.groups + group) % 2
        depth = self.record.stretch_bytes // self.record.parts
        if part == 0:
            tiles.ZERO.emit(e.b, sums)
        if group == 0:
            tiles.LOAD.emit(e.b, left, e.at(rows, i * depth, 1), i64(self.record.nbytes))
        codes = e.at(cell, group * self.cell.nbytes + i * depth * tiles.ROWS, 1)
        tiles.LOAD.emit(e.b, right, codes, i64(tiles.BYTES))
        dot = tiles.DOT_BF16 if self.record.real else tiles.DOT_INT8
        dot.emit(e.b, sums, left, right)

    def _stores(self, at: Value) -> list[Callable[[], None]]:
        """What stores the products of the step that was multiplied last, into the entry of the ring at `at`."""
        return [partial(self._store, at, i) for i in range(self.cell.sums)]

    def _store(self, at: Value, i: int) -> None:
        to = self.e.at(self.e.at(self.given.ring, at, 1), i * tiles.ROWS * tiles.BYTES, 1)
        tiles.STORE.emit(self.e.b, i, to, i64(tiles.BYTES))

    def _advance(self, lead: Sequence[Value]) -> list[Value]:
        """The places of the next step: its rows and cell, the number of its record, its rows in the first one."""
        e, b, given = self.e, self.e.b, self.given
        rows, cell, i, first = lead
        following, cell = b.add(i, i64(1)), e.at(cell, self.step, 1)
        around = b.icmp_unsigned("==", cell, self.behind)
        first = b.select(around, e.at(first, self.tall, 1), first)
        cell = b.select(around, given.cells, cell)
        whole = b.icmp_signed("==", following, given.records)
        rows = b.select(whole, first, e.at(rows, self.stride, 1))
        return [rows, cell, b.select(whole, i64(0), following), first]

    def _prefetch(self, ahead: Value) -> Value:
        e, lines = self.e, self.given.lines
        e.loop(0, lines, lambda i: e.prefetch(e.at(ahead, e.b.mul(i, i64(LINE)), 1)))
        return e.at(ahead, e.b.mul(lines, i64(LINE)), 1)

    # vectors

    def _scale(
        self, products: Value, record: Value, factors: Any, row: int, before: Sequence[Value]
    ) -> Sequence[Value]:
        """The sums of a row after a step."""
        e, source = self.e, self.e.at(record, row * self.record.nbytes, 1)
        places = [e.at(products, (i * tiles.ROWS + row) * tiles.BYTES, 1) for i in range(self.cell.sums)]
        scale, each = self._reals if self.record.real else self._integers, self.cell.stretches
        return [
            scale(places[group * each : (group + 1) * each], source, factors[group], sums)
            for group, sums in enumerate(before)
        ]

    def _integers(self, places: Sequence[Value], source: Value, factors: Any, before: Value) -> Value:
        """As `Products` scales and adds the integers of a block."""
        e, total = self.e, None
        for stretch, (place, (scale, offset)) in enumerate(zip(places, factors, strict=True)):
            integers = e.b.load(place, typ=self.words, align=tiles.BYTES)
            whole = None if offset is None else self._splat(source, self.record.total(stretch))
            total = add_stretch(e, total, integers, scale, offset, whole)
        return _fma(e, total, self._splat(source, self.record.scale), before)

    def _reals(self, places: Sequence[Value], source: Value, factors: Any, before: Value) -> Value:
        """Stretch after stretch."""
        e, after = self.e, before
        for stretch, (place, (scale, offset)) in enumerate(zip(places, factors, strict=True)):
            value = e.b.load(place, typ=self.floats, align=tiles.BYTES)
            after = e.b.fadd(value, after) if scale is None else _fma(e, value, scale, after)
            if offset is not None:
                after = _fma(e, self._splat(source, self.record.total(stretch)), offset, after)
        return after

    def _splat(self, source: Value, at: int) -> Value:
        return self.e.splat(self.e.load(self.e.at(source, at, 1), "f32"), tiles.ROWS)


def _fma(e: Emitter, a: Value, b: Value, c: Value) -> Value:
    return e.overloaded("llvm.fmuladd", a, b, c)


def _tiles_of(b: Any, count: Value, height: Value) -> Value:
    """The tiles that so many rows take."""
    return b.udiv(b.add(count, b.sub(height, i64(1))), height)
