"""Products of bytes with many quantised rows: a few rows and two vectors of columns at a time.

The function computes what that of `moec.codegen.integer` does, bit for bit: the sums of a stretch are integers and
exact, and what follows them in f32 has the same order. There a block's codes stay in registers while rows pass over
them, so every `vpdpbusd` loads four bytes of a row; two of those loads a cycle is what a core does at best, and half of
the machine's limit is what comes of it. Here codes become bytes in scratch memory, cells, once for all rows, and the
integers of up to `_MOST` rows and 32 columns stay in registers, or 64 where a record meets several blocks: a load of a
row serves two products, or four, one of codes `_MOST`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from llvmlite import ir

from moec.codegen.cells import WIDTH, Cell, CellProducts
from moec.codegen.code_bytes import WORD
from moec.codegen.function import Address, Alone, Arguments, Integer, emit_function
from moec.codegen.integer import ProductArguments, RecordPlace, add_stretch, multiply_add
from moec.codegen.llvm import F32, I32, Emitter, Value, constant, i64
from moec.codegen.quantize import LIFT_BITS, Record
from moec.formats.layout import BLOCK, GROUP
from moec.formats.panels import PanelLayout
from moec.target import LINE, Target

#: Rows that pass over cells together: their integers, and the sums of the stretch before if there is one, fill 24 of 32
#: registers.
_MOST: Final = 6
#: From so many rows on cells are worth filling. As few tiles as hold all rows get as many each, but for one.
_LEAST: Final = _MOST
#: How many blocks ahead memory is read: with one, rows wait for lines that are on their way (OLMoE at 64 and 512
#: tokens, q8_0: 0.93 and 0.85 of three).
_AHEAD: Final = 3


def _vectors(record: Record) -> int:
    """The vectors of columns that share what is broadcast of a row: four where nothing else wants the registers for
    long (OLMoE at 512 tokens, int8: 1.07 of two with records of 128 k, 0.97 with records of 64)."""
    return 2 if record.parts == 1 else 4


@dataclass(frozen=True)
class CellArguments(ProductArguments):
    """What the function takes: besides, memory for the cells of a block."""

    cells: Alone


class ByteBlockProducts(CellProducts):
    """Fills the cells of a block, and lets the rows pass over them, where they are many."""

    unit: ClassVar[str] = "blocks"
    arguments: ClassVar[type[ProductArguments]] = CellArguments

    def __init__(self, e: Emitter, place: PanelLayout, record: Record, given: CellArguments) -> None:
        super().__init__(e, place, record, given)
        self.cell, self.cells = Cell(record, place.columns), given.cells
        #: Whether codes are bytes where they lie.
        self.direct = place.layout.bits == 8 and place.layout.values == "integer" and place.tile == WIDTH
        whole = BLOCK // GROUP * place.group, place.block
        strides = whole if self.direct else (self.cell.nbytes, self.cell.part_bytes)
        heights = range(_LEAST // 2, _MOST + 1)
        self._divide({rows: emit_tile(e.b.module, e.target, self.cell, rows, strides, self.near) for rows in heights})
        #: How far tiles go on in what they prefetch with every four k: all of them as far as a record.
        steps = -(-place.columns // (_vectors(record) * WIDTH)) * (record.length // WORD)
        self.pace = e.b.udiv(i64(record.parts * place.block + steps - 1), e.b.mul(self.turns, i64(steps)))
        self.tile_pace = e.b.mul(self.pace, i64(steps))

    def _divide(self, tiles: Mapping[int, ir.Function]) -> None:
        """How many tiles hold the rows, `rows_each` in each and one more in the first `taller`; the functions for both
        heights."""
        b = self.e.b
        turns = b.udiv(b.add(self.count, i64(_MOST - 1)), i64(_MOST))
        self.turns = b.select(b.icmp_signed(">", turns, i64(1)), turns, i64(1))
        self.rows_each, self.taller = b.udiv(self.count, self.turns), b.urem(self.count, self.turns)
        self.tile, self.tall_tile = tiles[_MOST], tiles[_MOST]
        for rows in range(_LEAST // 2, _MOST):
            same = b.icmp_signed("==", self.rows_each, i64(rows))
            self.tile = b.select(same, tiles[rows], self.tile)
            self.tall_tile = b.select(same, tiles[rows + 1], self.tall_tile)

    def block(self, place: RecordPlace) -> None:
        with self.e.either(self.e.b.icmp_signed(">=", self.count, i64(_LEAST))) as otherwise:
            self._turns(place)
            otherwise()
            super().block(place)

    def _turns(self, place: RecordPlace) -> None:
        """All rows pass over a record of k, made ready before."""
        e, b = self.e, self.e.b

        def fill(column: Value) -> None:
            to = e.at(self.cells, b.mul(b.udiv(column, i64(WIDTH)), i64(self.cell.nbytes)), 1)
            self._fill(self.cell, place, column, to)

        e.loop(0, self.place.columns, fill, WIDTH)
        codes = self.codes.start(place.chunk, place.block, i64(0))
        source, ahead = codes if self.direct else self.cells, e.at(codes, _AHEAD * self.place.block, 1)

        def turn(i: Value) -> None:
            tall = b.icmp_signed("<", i, self.taller)
            before = b.add(b.mul(i, self.rows_each), e.least(i, self.taller))
            records = e.at(place.rows, b.mul(before, i64(self.record.nbytes)), 1)
            sums = e.at(self.sums, b.mul(before, i64(4 * self.place.columns)), 1)
            tile = b.select(tall, self.tall_tile, self.tile)
            arguments = _TileArguments(
                rows=records,
                codes=source,
                cells=self.cells,
                sums=sums,
                parts=place.parts,
                ahead=e.at(ahead, b.mul(i, self.tile_pace), 1),
                pace=self.pace,
            )
            b.call(tile, arguments)

        e.loop(0, self.turns, turn)

    def _lines(self, codes: Value) -> Iterable[Value]:
        return [] if self.direct else self.codes.words(codes)


@dataclass(frozen=True)
class _TileArguments(Arguments):
    rows: Alone
    codes: Address
    cells: Address
    sums: Alone
    parts: Integer
    ahead: Address
    pace: Integer


def emit_tile(module: Any, target: Target, cell: Cell, rows: int, strides: tuple[int, int], near: int) -> ir.Function:
    """The function in which `rows` rows pass over a record of k, added to `module` (once; a second call finds it).

    It meets `parts` blocks of a panel. The strides are the bytes from the codes of 16 columns to those of the next, and
    from one block to the next. With every four k it prefetches two lines at `ahead`, which moves by `pace`, into the
    first cache (`near` 1) or the second (2).
    """

    def emit(e: Emitter, given: _TileArguments) -> None:
        _Tile(e, cell, rows, strides, near, given).emit()

    name = f"moec_byte_block_{cell.name}_{strides[0]}_{near}_{rows}"
    return emit_function(module, target, name, _TileArguments, emit)


class _Tile:
    """Rows beside some vectors of columns, fewer where there are no more."""

    def __init__(
        self, e: Emitter, cell: Cell, rows: int, strides: tuple[int, int], near: int, given: _TileArguments
    ) -> None:
        self.e, self.cell, self.record, self.given = e, cell, cell.record, given
        (self.apart, self.step), self.near = strides, near
        self.floats, self.words = ir.VectorType(F32, WIDTH), ir.VectorType(I32, WIDTH)
        self.rows = [e.at(given.rows, row * self.record.nbytes, 1) for row in range(rows)]

    def emit(self) -> None:
        e, b, vectors = self.e, self.e.b, _vectors(self.record)
        whole, rest = divmod(self.cell.columns // WIDTH, vectors)
        e.loop(0, whole, lambda i: self._columns(b.mul(i, i64(vectors)), vectors))
        if rest:
            self._columns(i64(whole * vectors), rest)

    def _columns(self, first: Value, vectors: int) -> None:
        """The k of some vectors of columns, from vector `first` on."""
        e, b, given = self.e, self.e.b, self.given
        cells = [e.at(given.cells, b.mul(b.add(first, i64(j)), i64(self.cell.nbytes)), 1) for j in range(vectors)]
        codes = [e.at(given.codes, b.mul(b.add(first, i64(j)), i64(self.apart)), 1) for j in range(vectors)]
        step = b.mul(b.udiv(first, i64(_vectors(self.record))), i64(self.record.length // WORD))
        ahead = e.at(given.ahead, b.mul(step, given.pace), 1)
        totals: list[list[Value]] = [[None] * vectors for _ in self.rows]
        for stretch in range(self.cell.stretches):
            integers = self._integers(codes, stretch, ahead)
            for row, of_row in enumerate(integers):
                for j, value in enumerate(of_row):
                    totals[row][j] = self._scaled(row, cells[j], stretch, value, totals[row][j])
        for row, of_row in enumerate(totals):
            scale = self._splat(row, self.record.scale, F32)
            for j, total in enumerate(of_row):
                at = e.at(given.sums, row * 4 * self.cell.columns, 1)
                place = e.at(at, b.mul(b.add(first, i64(j)), i64(LINE)), 1)
                before = b.load(place, typ=self.floats, align=4)
                b.store(e.overloaded("llvm.fmuladd", total, scale, before), place, align=4)

    def _integers(self, starts: list[Value], stretch: int, ahead: Value) -> list[list[Value]]:
        """The sums of a stretch, of every row and vector of columns."""
        e, b, record, vectors = self.e, self.e.b, self.record, len(starts)
        sums = [first for first in self._starts(stretch) for _ in starts]
        count = record.stretch // record.parts // WORD
        words = range(stretch * count, (stretch + 1) * count)

        def turn(part: Value, sums: Sequence[Value]) -> Sequence[Value]:
            codes = [e.at(start, b.mul(part, i64(self.step)), 1) for start in starts]
            there = e.at(ahead, b.mul(b.mul(part, i64(BLOCK // WORD)), self.given.pace), 1)
            return self._words(words, codes, b.mul(part, i64(BLOCK)), there, list(sums))

        if record.parts > 1:
            sums = e.fold(0, self.given.parts, sums, turn)
        else:  # a loop of one turn, which LLVM takes away, leaves its order behind: q4_0 and q8_0 are 0.9 times as fast
            sums = self._words(words, starts, i64(0), ahead, sums)
        return [list(sums[at : at + vectors]) for at in range(0, len(sums), vectors)]

    def _starts(self, stretch: int) -> list[Value]:
        """What the integers of each row begin with."""
        lifted = self.cell.lifts and stretch == 0
        if not self.record.center:
            return [constant(self.words, LIFT_BITS if lifted else 0)] * len(self.rows)
        at = self.record.lifted if lifted else self.record.start(stretch)
        return [self._splat(row, at, I32) for row in range(len(self.rows))]

    def _words(
        self, words: Iterable[int], starts: Sequence[Value], first: Value, ahead: Value, sums: list[Value]
    ) -> list[Value]:
        """The sums, row after row, after some words of a block of a panel that begins at element `first`."""
        e, b = self.e, self.e.b
        rows = [e.at(row, first, 1) for row in self.rows]
        for word in words:
            there = e.at(ahead, b.mul(self.given.pace, i64(word)), 1)
            for line in range(2):
                e.prefetch(e.at(there, line * LINE, 1), self.near)
            codes = [b.load(e.at(start, word * LINE, 1), typ=self.words, align=4) for start in starts]
            for i, row in enumerate(rows):
                q = e.splat(b.load(e.at(row, WORD * word, 1), typ=I32, align=4), WIDTH)
                for j, code in enumerate(codes, i * len(codes)):
                    sums[j] = multiply_add(e, sums[j], code, q)
        return sums

    def _scaled(self, row: int, cell: Value, stretch: int, integers: Value, total: Value) -> Value:
        """A row's total after one more stretch."""
        e = self.e
        scale, offset = self.cell.factors(e, cell, stretch)
        whole = None if offset is None else self._splat(row, self.record.total(stretch), F32)
        if not (self.cell.lifts and stretch == 0):
            return add_stretch(e, total, integers, scale, offset, whole)
        lift = e.b.load(e.at(cell, self.cell.lift, 1), typ=self.floats, align=LINE)
        total = e.overloaded("llvm.fmuladd", e.b.bitcast(integers, self.floats), scale, lift)
        return total if offset is None else e.overloaded("llvm.fmuladd", whole, offset, total)

    def _splat(self, row: int, at: int, type: Any) -> Value:
        """What stands in a row's record, in every lane."""
        e = self.e
        return e.splat(e.b.load(e.at(self.rows[row], at, 1), typ=type, align=4), WIDTH)
