"""`plan.matmul` over weights in a storage format.

A part of a panel is decoded into scratch memory that stays in cache, then blocks of rows pass over it with the dense
microkernels. So weights in memory are never wider than they are stored, and one decoding serves up to `CUT_ROWS` rows.
With a few rows codes are decoded in registers (`moec.codegen.decoded`), or, beside tiles, looked up and scaled after
they are multiplied (`moec.codegen.code_tiles`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from moec.codegen import tiles
from moec.codegen.amx import Tiled
from moec.codegen.code_tiles import SLACK, PairTileProducts, TileCell, TileProductArguments
from moec.codegen.decoded import DecodedProducts
from moec.codegen.gathered import GatheredRow
from moec.codegen.integer import ProductArguments, Products, emit_products
from moec.codegen.llvm import SIZES, Value, i64
from moec.codegen.matmul import Block, Matmul, Prefetch, Rows
from moec.codegen.quantize import QuantizeArguments, Record, emit_quantize
from moec.codegen.stages import Stages
from moec.codegen.unpack import UnpackArguments, emit_unpack
from moec.dialects import plan
from moec.dialects.types import element_name
from moec.dtypes import DTYPES
from moec.formats import FORMATS
from moec.formats.layout import BLOCK, GROUP
from moec.formats.panels import PanelLayout
from moec.shapes import KernelShape

#: Up to so many rows codes are decoded in registers. At six rows a microkernel is a twentieth faster, and so are tiles.
_FEW: Final = 4
#: And where some more rows do better with codes that are looked up.
_FEWEST: Final = 2
#: How many those are, by the k that share a scale. More are better decoded first: with 32 an Emerald Rapids with 16
#: threads takes 1.2 to 1.3 times as long in q6_K, whose tiles are half full.
_SOME: Final = {GROUP: 16, GROUP // 2: 8}
#: The part of the first cache that a decoded part of a panel takes: rows, sums, and the codes that are decoded next
#: want to be there too. Against all of it, OLMoE's layer in q4_0 up to 16 tokens: in f32 a third is 1.6 to 1.75 times
#: as fast on a Granite Rapids, 1.5 to 2 on an Emerald Rapids; in bf16, through tiles, 1.4 times on the former (a half:
#: 1.1), 0.95 on one thread and 0.8 on 16 of the latter (a half: 0.9), which is not understood.
_SHARE: Final = 3


@dataclass(frozen=True)
class _Way:
    """A way to multiply a few rows, up to `most` of them, with codes that are not decoded into memory: what makes the
    rows' records, and what multiplies. `scratch` is what that takes beside; `slack` the records behind the last that
    are read. In a stage `records` is where the records lie, and `own` that scratch memory."""

    most: int
    record: Record
    ready: Any
    products: Any
    slack: int = 0
    scratch: int = 0
    records: Value = None
    own: Value = None


class StoredMatmul(Matmul):
    """Decodes a part of each panel, then multiplies with it."""

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        assert op.storage is not None
        self.format = format = FORMATS[op.storage.data]
        self.place = PanelLayout(format.layout, shape.columns, self.n, self.k, self.parts)
        self.panel_bytes, self.expert_bytes = self.place.panel, self.place.nbytes
        width = shape.columns * DTYPES[shape.dtype].size
        fitting = max(1, stages.target.l1 // (_SHARE * width * BLOCK))
        self.cut = min(fitting, -(-self.k // BLOCK)) * BLOCK
        self.block = self.CUT_ROWS
        self.part_bytes = self.cut * width
        assert isinstance(op.vector.type, plan.RowsType)
        self.dtype, self.blocks = element_name(op.vector.type.row), -(-self.k // BLOCK)
        #: While microkernels multiply what is decoded they all prefetch what is not.
        self.prefetch_from = 1

    def emit_kernels(self) -> None:
        super().emit_kernels()
        module, target = self.stages.module, self.stages.target
        self.unpack = emit_unpack(module, target, self.shape, self.place, self.format.name)
        self.ways = self._ways()

    def _ways(self) -> list[_Way]:
        """How few rows are multiplied, the fewest first."""
        return [self._way(_FEW, DecodedProducts)]

    def _way(self, most: int, products: type[Products], slack: int = 0) -> _Way:
        module, target = self.stages.module, self.stages.target
        record = Record(self.format.layout, products.elements(target))
        ready = emit_quantize(module, target, record, self.dtype, self.k)
        multiply = emit_products(module, target, self.place, record, self.format.name, products)
        return _Way(most, record, ready, multiply, slack)

    def take_scratch(self) -> None:
        e, take = self.e, self.scratch.take
        self.dense = take(e, self.part_bytes)
        self.ways = [
            replace(
                way,
                records=take(e, (way.most * self.blocks + way.slack) * way.record.nbytes),
                own=take(e, way.scratch) if way.scratch else None,
            )
            for way in self.ways
        ]
        super().take_scratch()

    def _ready(self, rows: Rows) -> None:
        super()._ready(rows)
        self._record(rows)

    def _record(self, rows: Rows) -> None:
        """The records of the rows of a key, if they are few, side by side: [blocks of k][rows]."""
        e, first, stop = self.e, rows.first, rows.stop
        count = e.b.sub(stop, first)

        def few(way: _Way) -> None:
            nbytes = i64(way.record.nbytes)

            def turn(place: Value) -> None:
                to = e.at(way.records, e.b.mul(e.b.sub(place, first), nbytes), 1)
                row, apart = self._elements(place, rows)
                stride = e.b.mul(count, nbytes)
                e.b.call(way.ready, QuantizeArguments(row=row, apart=apart, records=to, stride=stride))

            e.loop(first, stop, turn)

        self._choose(count, few, lambda: None)

    def _choose(
        self,
        count: Value,
        few: Callable[[_Way], None],
        many: Callable[[], None],
        ways: Sequence[_Way] | None = None,
    ) -> None:
        """What is done for so many rows, by the way that they are multiplied."""
        ways = self.ways if ways is None else ways
        if not ways:
            many()
            return
        with self.e.either(self.e.b.icmp_signed("<=", count, i64(ways[0].most))) as otherwise:
            few(ways[0])
            otherwise()
            self._choose(count, few, many, ways[1:])

    def _elements(self, place: Value, rows: Rows) -> tuple[Value, Value]:
        """Where the vector of one of a key's rows begins, and the bytes from one 32 k of it to the next."""
        return self._vector(place), i64(GROUP * SIZES[self.dtype])

    def _products(self, panel: Value, block: Block, at: Value, blocks: Value) -> None:
        count = self.e.b.sub(block.high, block.low)
        few: Callable[[_Way], None] = lambda way: self._multiply(way, panel, count, block.sums)  # noqa: E731
        self._choose(count, few, lambda: self._parts(panel, block, count))

    def _multiply(self, way: _Way, panel: Value, count: Value, sums: Value) -> None:
        """The products of a few rows with a panel."""
        e = self.e
        e.fill(sums, e.b.mul(count, i64(4 * self.shape.columns)))
        arguments = ProductArguments(panel=panel, rows=way.records, sums=sums, count=count, blocks=i64(self.blocks))
        if way.scratch:
            arguments = TileProductArguments(*arguments, scratch=way.own)
        e.b.call(way.products, arguments)

    def _parts(self, panel: Value, block: Block, count: Value) -> None:
        """Part after part of a panel is decoded, and all rows pass over it."""
        e = self.e
        turns = self._count(count, self.shape.rows)

        def part(at: Value) -> None:
            depth = e.least(e.b.sub(i64(self.k), at), i64(self.cut))
            first, blocks = e.b.udiv(at, i64(BLOCK)), e.b.udiv(e.b.add(depth, i64(BLOCK - 1)), i64(BLOCK))
            self._unpack(panel, first, blocks)
            self._rows_over(at, depth, block, count, turns, self._codes(panel, e.b.add(first, blocks)))

        e.loop(0, self.k, part, step=self.cut)

    def _unpack(self, panel: Value, first: Value, count: Value) -> None:
        """Decodes some blocks of a panel."""
        self.e.b.call(self.unpack, UnpackArguments(panel=panel, out=self.dense, first=first, count=count))

    def _codes(self, panel: Value, block: Value) -> Value:
        """Where a block of a panel begins."""
        e, b, place = self.e, self.e.b, self.place
        chunk, inside = b.udiv(block, i64(place.blocks)), b.urem(block, i64(place.blocks))
        start = e.at(panel, b.add(b.mul(chunk, i64(place.chunk)), i64(place.head + place.lead)), 1)
        return e.at(start, b.mul(inside, i64(place.block)), 1)

    def _rows_over(self, at: Value, depth: Value, block: Block, count: Value, turns: Value, following: Value) -> None:
        """Tiles of rows pass over the decoded part; each prefetches its share of the codes that follow."""
        e, step = self.e, self.shape.kstep * self.place.block // BLOCK
        size = self.cut // self.shape.kstep * step

        def turn(i: Value) -> None:
            a, b = self._block(block.low, count, turns, i)
            sums = self._sums(block, a)
            ahead = e.at(following, e.b.mul(i, e.b.udiv(i64(size), turns)), 1)
            self._call(a, b, self.dense, depth, at, sums, Prefetch(ahead, e.b.udiv(i64(step), turns)))

        e.loop(0, turns, turn)


class StoredTiledMatmul(StoredMatmul, Tiled):
    """Decodes a part of each panel, then multiplies with it in tiles."""

    def _ways(self) -> list[_Way]:
        layout = self.format.layout
        if not layout.looked_up:
            return super()._ways()
        some = self._way(_SOME[min(layout.stretch, GROUP)], PairTileProducts, SLACK)
        scratch = TileCell(some.record, self.shape.columns).scratch(self.stages.target.l1)
        return [self._way(_FEWEST, DecodedProducts), replace(some, scratch=scratch)]

    def _elements(self, place: Value, rows: Rows) -> tuple[Value, Value]:
        row = GatheredRow.at(self.e, self.rows_at, self.row_bytes, place, rows.first, rows.stop)
        return row.start, row.step

    def _multiply(self, way: _Way, panel: Value, count: Value, sums: Value) -> None:
        super()._multiply(way, panel, count, sums)
        if way.scratch:
            tiles.configure(self.e.b)  # which it did for itself
