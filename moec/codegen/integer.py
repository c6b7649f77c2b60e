"""Products of stored weights with quantised rows: dot products of bytes, a scale for each stretch of k.

The function adds to `sums`, f32[count][columns], zeros before, the products of a panel (`moec.formats.panels`) of
`blocks` blocks of k with `count` rows. `rows` has a record (`moec.codegen.quantize`) for each block, or for several,
and each row: [records][count]. For a row r and a column c

    sums[r][c] += scale[r, record] × Σ over stretches (scale[c, stretch] × Σ q (u - center) + offset[c, stretch] × Σ q)

with integers in the inner sums, f32 around them, in this order; a scale that a whole row of weights shares multiplies
the sums at the end. The bytes u of a block for as many columns as a vector has lanes stay in registers while all rows
pass over them: one function serves every number of rows, and a row's result does not depend on the others. Where a
record meets several blocks, the rows' integers wait in memory from one to the next: behind the sums is as much room
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from llvmlite import ir

from moec.codegen.code_bytes import WORD, Bytes
from moec.codegen.function import Alone, Arguments, Integer, emit_function
from moec.codegen.llvm import F32, I8, I16, I32, Emitter, Value, i64
from moec.codegen.quantize import Elements, Record
from moec.codegen.unpack import Factors
from moec.formats.layout import BLOCK, GROUP
from moec.formats.panels import PanelLayout
from moec.target import LINE, Target

#: Sums of a row that run beside each other where a block is one stretch: one chain of sixteen would be waited for.
_CHAINS: Final = 4
#: Lines that a row's turn prefetches, until there is no more. A burst of them holds up the loads behind it, since each
#: waits for memory in one of the few buffers of the first cache (on a Granite Rapids eight rows are 1.14 times as fast
#: in q8_0 and 1.07 in q4_0 without bursts).
_LINES_A_ROW: Final = 2
#: The least bytes ahead of the codes that are multiplied that memory is read.
_NEAREST: Final = 1024
#: And the most, of codes that go into the first cache.
_FARTHEST: Final = 4096


@dataclass(frozen=True)
class ProductArguments(Arguments):
    """What the function takes."""

    panel: Alone
    rows: Alone
    sums: Alone
    count: Integer
    blocks: Integer


def emit_products(
    module: Any, target: Target, place: PanelLayout, record: Record, name: str, kind: type[Products]
) -> ir.Function:
    """The function for panels of `place`, added to `module` (once; a second call finds it)."""
    name = f"moec_{kind.unit or record.kind}_{name}_{place.columns}_{place.tile}"
    return emit_function(module, target, name, kind.arguments, lambda e, given: kind(e, place, record, given).emit())


def multiply_add(e: Emitter, sums: Value, codes: Value, q: Value) -> Value:
    """Products of the integers in 32-bit lanes of two vectors, added up in each lane: of unsigned with signed bytes,
    of pairs of 16 bits, or of whole lanes, as `Target.byte_dots` says."""
    b, lanes = e.b, e.lanes
    match e.target.byte_dots:
        case "bytes":
            type, name = ir.VectorType(I8, 4 * lanes), f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
            return e.call(name, sums.type, sums, b.bitcast(codes, type), b.bitcast(q, type))
        case "pairs":
            type = ir.VectorType(I16, 2 * lanes)
            name = {512: "avx512.pmaddw.d.512", 256: "avx2.pmadd.wd", 128: "sse2.pmadd.wd"}[32 * lanes]
            pairs = e.call(f"llvm.x86.{name}", sums.type, b.bitcast(codes, type), b.bitcast(q, type))
            return b.add(sums, pairs)
        case _:
            return b.add(sums, b.mul(codes, q))


def add_stretch(
    e: Emitter, total: Value | None, integers: Value, scale: Value | None, offset: Value | None, whole: Value | None
) -> Value:
    """A block's total after the integers of one more stretch, the first where `total` is None: times the stretch's
    scale, if it has one, and with its offset times the sum of the row's integers, `whole`."""
    value = e.b.sitofp(integers, ir.VectorType(F32, integers.type.count))
    if scale is not None:
        value = e.b.fmul(value, scale) if total is None else e.overloaded("llvm.fmuladd", value, scale, total)
    return value if offset is None else e.overloaded("llvm.fmuladd", whole, offset, value)


@dataclass(frozen=True)
class RecordPlace:
    """Where a record of k is: it meets `parts` blocks of a panel, from number `block` of the chunk at `chunk` on; the
    rows' records begin at `rows`."""

    chunk: Value
    block: Value
    parts: Value
    rows: Value


class Products:
    """The loops over blocks, columns and rows, and what integers do inside."""

    #: What the function takes.
    arguments: ClassVar[type[ProductArguments]] = ProductArguments
    #: What multiplies, where the kind of the record does not say it.
    unit: ClassVar[str] = ""

    @classmethod
    def elements(cls, target: Target) -> Elements:
        """What it takes in the records of rows."""
        return "pairs" if target.byte_dots == "pairs" else "bytes"

    def __init__(self, e: Emitter, place: PanelLayout, record: Record, given: ProductArguments) -> None:
        self.e, self.place, self.record = e, place, record
        self.panel, self.rows, self.sums = given.panel, given.rows, given.sums
        self.count, self.blocks = given.count, given.blocks
        self.lanes = e.lanes
        self.floats, self.words = ir.VectorType(F32, self.lanes), ir.VectorType(I32, self.lanes)
        self.codes = Bytes(e, place, self.lanes)
        self.factors = Factors(e, place, self.lanes, given.panel)
        self.layout = place.layout

    def emit(self) -> None:
        self.all_blocks()
        if not self.layout.span:
            self._scale_rows()

    def all_blocks(self) -> None:
        """Record after record of k."""
        e, b, parts = self.e, self.e.b, self.record.parts

        def turn(i: Value) -> None:
            place = self._from(i)
            e.loop(0, place.parts, lambda part: self._prefetch_fields(b.add(b.mul(i, i64(parts)), part)))
            self.block(place)

        e.loop(0, b.udiv(b.add(self.blocks, i64(parts - 1)), i64(parts)), turn)

    def _from(self, i: Value) -> RecordPlace:
        """Where a record is, by its number."""
        e, b, most = self.e, self.e.b, self.record.parts
        first = i if most == 1 else b.mul(i, i64(most))
        parts = i64(1) if most == 1 else e.least(b.sub(self.blocks, first), i64(most))
        chunk, block = self._find(first)
        rows = e.at(self.rows, b.mul(i, b.mul(self.count, i64(self.record.nbytes))), 1)
        return RecordPlace(chunk, block, parts, rows)

    def _find(self, block: Value) -> tuple[Value, Value]:
        """Where the chunk of a block begins, and the number of the block in it."""
        e, place = self.e, self.place
        chunk, inside = (block, i64(0)) if place.blocks == 1 else divided(e, block, place.blocks)
        return e.at(self.panel, e.b.add(e.b.mul(chunk, i64(place.chunk)), i64(place.head)), 1), inside

    def block(self, place: RecordPlace) -> None:
        """A record of k of all columns."""
        if self.record.parts > 1:
            self._several(place)
        else:
            self._all_columns(lambda column: self._columns(place, column))

    def _all_columns(self, turn: Callable[[Value], None]) -> None:
        self.e.loop(0, self.place.columns, turn, self.lanes)

    def _columns(self, place: RecordPlace, column: Value) -> None:
        """A block of k of a vector of columns, with all rows."""
        record = self.record
        factors = [self._factors(place, column, at) for at in range(0, BLOCK, record.stretch)]

        def turn(row: Value, words: list[Value]) -> None:
            source = self._record(place, row)
            self._add(source, row, column, self._row(source, words, factors))

        self._pass_over(self.codes.start(place.chunk, place.block, column), turn)

    def _several(self, place: RecordPlace) -> None:
        """Some blocks of k, with all rows: integers are added up before they are scaled."""
        e, b, record = self.e, self.e.b, self.record
        wait = self._place(self.sums, self.count, i64(0))

        def begin(row: Value) -> None:
            start = self._start(self._record(place, row), 0)
            self._all_columns(lambda column: b.store(start, self._place(wait, row, column), align=4))

        def multiply(part: Value, column: Value) -> None:
            first = b.mul(part, i64(BLOCK * record.size))
            codes = e.at(self.codes.start(place.chunk, place.block, column), b.mul(part, i64(self.place.block)), 1)

            def turn(row: Value, words: list[Value]) -> None:
                to, source = self._place(wait, row, column), e.at(self._record(place, row), first, 1)
                integers = b.load(to, typ=self.words, align=4)
                b.store(self._multiply(integers, words, source, range(len(words)), _CHAINS), to, align=4)

            self._pass_over(codes, turn)

        def finish(column: Value) -> None:
            factors = self._factors(place, column, 0)

            def turn(row: Value) -> None:
                integers = b.load(self._place(wait, row, column), typ=self.words, align=4)
                source = self._record(place, row)
                self._add(source, row, column, self._scaled(source, 0, integers, factors, None))

            e.loop(0, self.count, turn)

        e.loop(0, self.count, begin)
        e.loop(0, place.parts, lambda part: self._all_columns(lambda column: multiply(part, column)))
        self._all_columns(finish)

    def _pass_over(self, codes: Value, turn: Callable[[Value, list[Value]], None]) -> None:
        """`turn` for each row and the words of the codes of a block, and memory read ahead."""
        e = self.e
        ahead, lines = self._ahead(codes)
        paced = e.least(self.count, e.b.udiv(lines, i64(_LINES_A_ROW)))
        e.loop(e.b.mul(paced, i64(_LINES_A_ROW)), lines, lambda line: self._prefetch(ahead, line))
        words = self.codes.words(codes)

        def prefetching(row: Value) -> None:
            first = e.b.mul(row, i64(_LINES_A_ROW))
            for line in range(_LINES_A_ROW):
                self._prefetch(ahead, e.b.add(first, i64(line)))
            turn(row, words)

        e.loop(0, paced, prefetching)
        e.loop(paced, self.count, lambda row: turn(row, words))

    def _record(self, place: RecordPlace, row: Value) -> Value:
        """The record of a row."""
        return self.e.at(place.rows, self.e.b.mul(row, i64(self.record.nbytes)), 1)

    def _place(self, start: Value, row: Value, column: Value) -> Value:
        """Where a row and a column stand in 32-bit numbers [count][columns]."""
        e = self.e
        return e.at(start, e.b.add(e.b.mul(row, i64(4 * self.place.columns)), e.b.mul(column, i64(4))), 1)

    def _add(self, source: Value, row: Value, column: Value, total: Value) -> None:
        """Adds a record's total to the sums of a row and a vector of columns."""
        e, place = self.e, self._place(self.sums, row, column)
        scale = self._splat(e.load(e.at(source, self.record.scale, 1), "f32"))
        before = e.b.load(place, typ=self.floats, align=4)
        e.b.store(e.overloaded("llvm.fmuladd", total, scale, before), place, align=4)

    def _ahead(self, codes: Value) -> tuple[Value, Value]:
        """What to prefetch while a vector of columns is multiplied: where it begins, and how many lines, as many as it
        reads; none where rows are so few that the hardware runs ahead."""
        e, place, (many, _) = self.e, self.place, self.e.target.prefetch[0]
        share = place.chunk * BLOCK // self.layout.chunk * self.lanes // place.columns
        lines = e.b.select(e.b.icmp_signed(">=", self.count, i64(many)), i64(-(-share // LINE)), i64(0))
        farthest = _FARTHEST if self.near == 1 else None
        return e.at(codes, e.ahead(self.count, _NEAREST, farthest), 1), lines

    @property
    def near(self) -> int:
        """The cache that codes are wanted in: the first where they are shifted and masked before."""
        return 1 if self.layout.bits < 8 else 2

    def _prefetch(self, ahead: Value, line: Value) -> None:
        self.e.prefetch(self.e.at(ahead, self.e.b.mul(line, i64(LINE)), 1), self.near)

    def _prefetch_fields(self, block: Value) -> None:
        """A block's share of the fields of the next chunk, where a chunk has several."""
        e, place = self.e, self.place
        if place.blocks == 1:
            return
        chunk, inside = self._find(block)
        share = -(-place.lead // (LINE * place.blocks)) * LINE
        start = e.at(e.at(chunk, place.chunk, 1), e.b.mul(inside, i64(share)), 1)
        for offset in range(0, share, LINE):
            e.prefetch(e.at(start, offset, 1), 1)

    # weights

    def _factors(self, place: RecordPlace, column: Value, at: int) -> tuple[Value | None, Value | None]:
        """Scale and offset of the stretch that begins at element `at`; no scale where a row has one."""
        if not self.layout.span:
            return None, None
        group = self.e.b.add(self.e.b.mul(place.block, i64(BLOCK // GROUP)), i64(at // GROUP))
        return self.factors.load(place.chunk, group, column, at % GROUP // 16)

    # rows

    def _row(self, source: Value, words: list[Value], factors: list[tuple[Value | None, Value | None]]) -> Value:
        """Σ over stretches of a block, for one row, before the row's scale."""
        total: Value = None
        count, chains = self.record.stretch // WORD, _CHAINS if self.record.stretches == 1 else 1
        for stretch, of_stretch in enumerate(factors):
            mine = range(stretch * count, (stretch + 1) * count)
            integers = self._multiply(self._start(source, stretch), words, source, mine, chains)
            total = self._scaled(source, stretch, integers, of_stretch, total)
        return total

    def _start(self, source: Value, stretch: int) -> Value:
        """What the integers of a stretch begin with."""
        if not self.record.center:
            return ir.Constant(self.words, None)
        return self._splat(self.e.b.load(self.e.at(source, self.record.start(stretch), 1), typ=I32, align=4))

    def _multiply(self, start: Value, words: list[Value], source: Value, mine: range, chains: int) -> Value:
        """Integers after some of the words, in as many chains."""
        sums = [start, *[ir.Constant(self.words, None)] * (chains - 1)]
        for i in mine:
            sums[i % chains] = self._multiply_add(sums[i % chains], words[i], source, i)
        while len(sums) > 1:
            sums = [self.e.b.add(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
        return sums[0]

    def _scaled(
        self,
        source: Value,
        stretch: int,
        integers: Value,
        factors: tuple[Value | None, Value | None],
        total: Value | None,
    ) -> Value:
        """A record's total after the integers of one more stretch."""
        scale, offset = factors
        at = self.record.total(stretch)
        whole = None if offset is None else self._splat(self.e.load(self.e.at(source, at, 1), "f32"))
        return add_stretch(self.e, total, integers, scale, offset, whole)

    def _multiply_add(self, sums: Value, word: Value, source: Value, i: int) -> Value:
        """The products of four k added up, in every lane."""
        e, b = self.e, self.e.b
        match e.target.byte_dots:
            case "bytes":
                q = self._splat(b.load(e.at(source, WORD * i, 1), typ=I32, align=4))
                return multiply_add(e, sums, word, q)
            case "pairs":
                for half, shift in enumerate((0, 8)):
                    codes = b.and_(self.codes.shifted(word, shift), self.codes.word(0x00FF00FF))
                    q = self._splat(b.load(e.at(source, 2 * WORD * i + 4 * half, 1), typ=I32, align=4))
                    sums = multiply_add(e, sums, codes, q)
                return sums
            case _:
                for byte in range(WORD):
                    code = b.and_(self.codes.shifted(word, 8 * byte), self.codes.word(0xFF))
                    q = b.sext(b.load(e.at(source, WORD * i + byte, 1), typ=I8, align=1), I32)
                    sums = multiply_add(e, sums, code, self._splat(q))
                return sums

    def _total(self, rows: Value, group: Value, at: int) -> Value | None:
        """Where the sum of the elements of a stretch of real rows stands in the first of a block's records, if it
        begins at element `at` of a group of 32 k and there are offsets."""
        e, record = self.e, self.record
        if not self.layout.offset or at % record.stretch:
            return None
        first = e.at(rows, record.total(at // record.stretch), 1)
        return e.at(first, e.b.mul(group, i64(4 * GROUP // record.stretch)), 1)

    def _splat(self, scalar: Value) -> Value:
        return self.e.splat(scalar, self.lanes)

    def _scale_rows(self) -> None:
        """Scales that a whole row of weights shares come in at the end."""
        e, columns = self.e, self.place.columns

        def column_turn(column: Value) -> None:
            scale, _ = self.factors.load(self.panel, i64(0), column)

            def row_turn(row: Value) -> None:
                place = e.at(self.sums, e.b.mul(e.b.add(e.b.mul(row, i64(columns)), column), i64(4)), 1)
                e.b.store(e.b.fmul(e.b.load(place, typ=self.floats, align=4), scale), place, align=4)

            e.loop(0, self.count, row_turn)

        e.loop(0, columns, column_turn, self.lanes)


def divided(e: Emitter, value: Value, by: int) -> tuple[Value, Value]:
    return e.b.udiv(value, i64(by)), e.b.urem(value, i64(by))
