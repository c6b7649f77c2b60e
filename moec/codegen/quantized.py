"""`plan.matmul` of stored weights whose codes are multiplied, not decoded: with quantised rows, or rows of bf16.

Some blocks of a key's rows become records in scratch memory, which stay in the second cache; then they pass over panel
after panel, so that a panel comes from memory once, and the sums of a block stay in the first cache. Where the rows of
another domain are multiplied, each perhaps many times, a stage of its own makes their records once, and here they are
only copied together. Codes are had in registers, or made ready in scratch memory for many rows, as vectors or tiles
read them.
"""

from __future__ import annotations

from typing import ClassVar, Final

from llvmlite import ir

from moec.codegen import tiles
from moec.codegen.byte_blocks import ByteBlockProducts, CellArguments
from moec.codegen.cells import WIDTH, Cell
from moec.codegen.code_tiles import SLACK, ByteTileProducts, TileCell, TileProductArguments
from moec.codegen.frame import Region, Word, row_bytes
from moec.codegen.integer import ProductArguments, Products, emit_products
from moec.codegen.llvm import I8, SIZES, Emitter, Value, i64
from moec.codegen.matmul import Block, Matmul, Panels, Rows
from moec.codegen.pairs import PairProducts
from moec.codegen.quantize import QuantizeArguments, Record, emit_quantize
from moec.codegen.stages import Stage, Stages
from moec.dialects import plan
from moec.dialects.types import element_name
from moec.formats import FORMATS
from moec.formats.layout import BLOCK, GROUP
from moec.formats.panels import PanelLayout
from moec.shapes import KernelShape

#: The bytes that `_copy` moves at once.
_PIECE: Final = 16
#: From `_SOME` rows a key on they become records for at least `_LEAST_PANELS` panels: for each anew, products of 8
#: experts on 16 threads took 1.2 to 1.4 times as long.
_LEAST_PANELS: Final = 4
_SOME: Final = 8
#: Picoseconds for an element of a row that becomes records.
_RECORD_COST: Final = 200


class CodeMatmul(Matmul):
    """Loops around the kernels of one `plan.matmul` that multiply codes with records of rows."""

    #: What multiplies.
    PRODUCTS: ClassVar[type[Products]]
    #: Records behind a block's that kernels may read.
    SLACK = 0

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        assert op.storage is not None and isinstance(op.vector.type, plan.RowsType)
        self.format = format = FORMATS[op.storage.data]
        self.place = PanelLayout(format.layout, shape.columns, self.n, self.k, self.parts)
        self.panel_bytes, self.expert_bytes = self.place.panel, self.place.nbytes
        self.block, self.blocks = shape.rows, -(-self.k // BLOCK)
        self.record = Record(format.layout, self.PRODUCTS.elements(stages.target))
        self.row_records, self.dtype = self.record.count(self.k), element_name(op.vector.type.row)
        #: From one 32 k of a vector to the next.
        self.group_bytes = GROUP * SIZES[self.dtype]
        #: Rows that are made ready together.
        self.together = max(self.block, min(stages.target.l2 // 2 // self.row_bytes, self.CUT_ROWS))
        self.vector_bytes = row_bytes(op.vector.type.row)
        self.source = stages.domains[plan.domain_of(op.vector)]
        #: Where the records that a stage of its own makes are.
        self.made_records = Word("records", op.value)

    @property
    def once(self) -> bool:
        """Whether a stage before this one makes the rows' records."""
        return self.source is not self.domain or self.op.grouping.data == "none"

    @property
    def row_bytes(self) -> int:
        """The bytes of a row's records."""
        return self.record.nbytes * self.row_records

    @property
    def least_units(self) -> tuple[int, int]:
        return (1, 0) if self.once else (_LEAST_PANELS, _SOME * self.keys)

    def regions(self) -> list[Region]:
        """The workspace that a call needs: where rows' records are made once, those."""
        return [self.source.region(self.made_records, self.row_bytes)] if self.once else []

    def emit_kernels(self) -> None:
        module, target, record = self.stages.module, self.stages.target, self.record
        #: Writes the records of a row.
        self.record_row = emit_quantize(module, target, record, self.dtype, self.k)
        self.products = emit_products(module, target, self.place, record, self.format.name, self.PRODUCTS)

    def emit_before(self) -> list[Stage]:
        return [self._make_records()] if self.once else []

    def _make_records(self) -> Stage:
        """The stage that makes the records of every row of the vector's domain."""
        name = f"{self.name}_records"
        e, frame, given = self.stages.begin(name)
        vectors, records = frame.pointer_of(Word("rows", self.op.vector)), frame.pointer_of(self.made_records)

        def turn(row: Value) -> None:
            vector = e.at(vectors, e.b.mul(row, i64(self.vector_bytes)), 1)
            to = e.at(records, e.b.mul(row, i64(self.row_bytes)), 1)
            self._record(e, vector, to, i64(self.record.nbytes))

        e.loop(given.begin, given.end, turn)
        self.stages.finish(e)
        return Stage(name, self.source, None, 0, _RECORD_COST * self.k)

    def _record(self, e: Emitter, vector: Value, to: Value, stride: Value) -> None:
        """The records of a vector, `stride` bytes apart."""
        apart = i64(self.group_bytes)
        e.b.call(self.record_row, QuantizeArguments(row=vector, apart=apart, records=to, stride=stride))

    # blocks of rows

    @property
    def sums_bytes(self) -> int:
        return super().sums_bytes * (1 if self.record.parts == 1 else 2)

    def take_scratch(self) -> None:
        self.records = self.scratch.take(self.e, self.together * self.row_bytes + self.SLACK * self.record.nbytes)

    def _key(self, panels: Panels) -> None:
        e, of_key = self.e, self._rows(panels.key, panels.share)
        rows = e.b.sub(of_key.stop, of_key.first)
        times = self._count(rows, self.together)
        weights = e.at(self.weights, e.b.mul(panels.key, i64(self.expert_bytes)), 1)

        def turn(at: Value) -> None:
            ready = Rows(*self._block(of_key.first, rows, times, at))
            self._ready(ready)
            e.loop(panels.low, panels.high, lambda panel: self._panel(panel, weights, ready))

        e.loop(0, times, turn)

    def _ready(self, rows: Rows) -> None:
        """The records of blocks of rows, block after block, those of a block side by side: [records of a row][rows]."""
        count = self.e.b.sub(rows.stop, rows.first)
        blocks = self._count(count, self.block)
        self.e.loop(0, blocks, lambda at: self._block_ready(*self._block(rows.first, count, blocks, at), rows))

    def _block_ready(self, first: Value, stop: Value, ready: Rows) -> None:
        e = self.e
        start, stride = self._records_of(first, ready), e.b.mul(e.b.sub(stop, first), i64(self.record.nbytes))

        def turn(place: Value) -> None:
            to = e.at(start, e.b.mul(e.b.sub(place, first), i64(self.record.nbytes)), 1)
            if self.once:
                self._copy(self._source_row(place), to, stride)
            else:
                self._record(e, self._vector(place), to, stride)

        e.loop(first, stop, turn)

    def _records_of(self, first: Value, ready: Rows) -> Value:
        """Where the records of the block begin whose first row this is, one of those that are made ready together."""
        return self.e.at(self.records, self.e.b.mul(self.e.b.sub(first, ready.first), i64(self.row_bytes)), 1)

    def _copy(self, row: Value, to: Value, stride: Value) -> None:
        """The records of a row, `stride` bytes apart."""
        e, nbytes, piece = self.e, self.record.nbytes, ir.VectorType(I8, _PIECE)
        records = e.at(self.frame.pointer_of(self.made_records), e.b.mul(row, i64(self.row_bytes)), 1)

        def turn(i: Value) -> None:
            source, target = e.at(records, e.b.mul(i, i64(nbytes)), 1), e.at(to, e.b.mul(i, stride), 1)
            for offset in range(0, nbytes, _PIECE):
                part = e.b.load(e.at(source, offset, 1), typ=piece, align=_PIECE)
                e.b.store(part, e.at(target, offset, 1), align=_PIECE)

        e.loop(0, self.row_records, turn)

    def _products(self, panel: Value, block: Block, at: Value, blocks: Value) -> None:
        e, count = self.e, self.e.b.sub(block.high, block.low)
        e.fill(block.sums, e.b.mul(count, i64(4 * self.shape.columns)))
        records = self._records_of(block.low, block.ready)
        blocks = i64(self.blocks)
        self._multiply(ProductArguments(panel=panel, rows=records, sums=block.sums, count=count, blocks=blocks))

    def _multiply(self, arguments: ProductArguments) -> None:
        self.e.b.call(self.products, arguments)


class QuantizedMatmul(CodeMatmul):
    """Products with rows that are quantised."""

    PRODUCTS: ClassVar[type[Products]] = Products


class PairMatmul(CodeMatmul):
    """Products with rows of bf16."""

    PRODUCTS: ClassVar[type[Products]] = PairProducts


class QuantizedBlockMatmul(QuantizedMatmul):
    """Quantised rows where codes are made ready in scratch memory for many of them."""

    PRODUCTS: ClassVar[type[Products]] = ByteBlockProducts

    def take_scratch(self) -> None:
        super().take_scratch()
        self.cells = self.scratch.take(self.e, self._cells_bytes)

    @property
    def _cells_bytes(self) -> int:
        return self.shape.columns // WIDTH * Cell(self.record, self.shape.columns).nbytes

    def _multiply(self, arguments: ProductArguments) -> None:
        super()._multiply(CellArguments(*arguments, cells=self.cells))


class QuantizedTiledMatmul(QuantizedBlockMatmul):
    """The same where blocks of many rows go through tiles, and blocks of few do not. Blocks are larger, of whole tiles,
    since making a part of a panel ready costs as much as passing 16 rows over it."""

    SLACK = SLACK

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        target = stages.target
        least = target.tiled_from(self.record.stretch)
        assert least is not None
        self.least = least
        fitting = target.l2 // 2 // self.row_bytes // tiles.ROWS * tiles.ROWS
        self.block, self.grain = min(max(fitting, self.shape.rows), self.CUT_ROWS), tiles.ROWS
        self.together = self.block

    def emit_kernels(self) -> None:
        super().emit_kernels()
        module, target = self.stages.module, self.stages.target
        self.tiled = emit_products(module, target, self.place, self.record, self.format.name, ByteTileProducts)

    @property
    def _cells_bytes(self) -> int:
        return max(super()._cells_bytes, TileCell(self.record, self.shape.columns).scratch(self.stages.target.l1))

    def _multiply(self, arguments: ProductArguments) -> None:
        e = self.e
        with e.either(e.b.icmp_signed(">=", arguments.count, i64(self.least))) as otherwise:
            e.b.call(self.tiled, TileProductArguments(*arguments, scratch=self.cells))
            otherwise()
            super()._multiply(arguments)
