"""`plan.matmul` over weights in a storage format.

A part of a panel is decoded into scratch memory that stays in cache, then blocks of rows pass over it with the dense
microkernels. So weights in memory are never wider than they are stored, and one decoding serves up to `CUT_ROWS` rows.
With a few rows codes are decoded in registers (`moec.codegen.decoded`).
"""

from __future__ import annotations

from typing import Final

from moec.codegen.amx import Tiled
from moec.codegen.decoded import DecodedProducts
from moec.codegen.gathered import GatheredRow
from moec.codegen.integer import emit_products
from moec.codegen.llvm import SIZES, Value, i64
from moec.codegen.matmul import Matmul
from moec.codegen.microkernel import emit_family
from moec.codegen.quantize import Record, emit_quantize
from moec.codegen.stages import Stages
from moec.codegen.unpack import emit_unpack
from moec.dialects import plan
from moec.dialects.types import element_name
from moec.dtypes import DTYPES
from moec.formats import FORMATS
from moec.formats.layout import BLOCK, GROUP
from moec.formats.panels import PanelLayout
from moec.target import KernelShape

#: Up to so many rows codes are decoded in registers. At six rows a microkernel is a twentieth faster, and so are tiles.
_FEW: Final = 4
#: The part of the first cache that a decoded part of a panel takes: rows, sums, and the codes that are decoded next
#: want to be there too. Against all of it, OLMoE's layer in q4_0 up to 16 tokens: in f32 a third is 1.6 to 1.75 times
#: as fast on a Granite Rapids, 1.5 to 2 on an Emerald Rapids; in bf16, through tiles, 1.4 times on the former (a half:
#: 1.1), 0.95 on one thread and 0.8 on 16 of the latter (a half: 0.9), which is not understood.
_SHARE: Final = 3


class StoredMatmul(Matmul):
    """Decodes a part of each panel, then multiplies with it."""

    def __init__(self, stages: Stages, op: plan.MatmulOp, shape: KernelShape, name: str) -> None:
        super().__init__(stages, op, shape, name)
        assert op.storage is not None
        format = FORMATS[op.storage.data]
        self.place = PanelLayout(format.layout, shape.columns, self.n, self.k, self.parts)
        self.panel_bytes, self.expert_bytes = self.place.panel, self.place.nbytes
        width = shape.columns * DTYPES[shape.dtype].size
        fitting = max(1, stages.target.l1 // (_SHARE * width * BLOCK))
        self.cut = min(fitting, -(-self.k // BLOCK)) * BLOCK
        self.block = self.CUT_ROWS
        self.unpack = emit_unpack(stages.module, stages.target, shape, self.place, format.name)
        self.part_bytes = self.cut * width
        assert isinstance(op.vector.type, plan.RowsType)
        self.dtype, self.blocks = element_name(op.vector.type.row), -(-self.k // BLOCK)
        self.record = Record(format.layout, "f32")
        self.widen = emit_quantize(stages.module, stages.target, self.record, self.dtype, self.k)
        self.products = emit_products(
            stages.module, stages.target, self.place, self.record, format.name, DecodedProducts
        )

    def emit_kernels(self) -> None:
        """The microkernels: while they multiply what is decoded they all prefetch what is not."""
        self.kernels = emit_family(self.stages.module, self.stages.target, self.shape, self.shape.rows)

    def take_scratch(self) -> None:
        super().take_scratch()
        self.dense = self.scratch.take(self.e, self.part_bytes)
        self.records = self.scratch.take(self.e, _FEW * self.blocks * self.record.nbytes)

    def _ready(self, first: Value, stop: Value) -> None:
        super()._ready(first, stop)
        self._widen(first, stop)

    def _widen(self, first: Value, stop: Value) -> None:
        """The records of the rows of a key, if they are few, side by side: [blocks of k][rows]."""
        e, count, nbytes = self.e, self.e.b.sub(stop, first), i64(self.record.nbytes)

        def turn(place: Value) -> None:
            to = e.at(self.records, e.b.mul(e.b.sub(place, first), nbytes), 1)
            e.b.call(self.widen, [*self._elements(place), to, e.b.mul(count, nbytes)])

        with e.when(e.b.icmp_signed("<=", count, i64(_FEW))):
            e.loop(first, stop, turn)

    def _elements(self, place: Value) -> tuple[Value, Value]:
        """Where the vector of a row begins, and the bytes from one 32 k of it to the next."""
        return self._vector(place), i64(GROUP * SIZES[self.dtype])

    def _products(self, panel: Value, low: Value, high: Value, block: Value, blocks: Value) -> None:
        e = self.e
        count = e.b.sub(high, low)
        with e.either(e.b.icmp_signed("<=", count, i64(_FEW))) as otherwise:
            e.fill(self.sums, e.b.mul(count, i64(4 * self.shape.columns)))
            e.b.call(self.products, [panel, self.records, self.sums, count, i64(self.blocks)])
            otherwise()
            self._parts(panel, low, count)

    def _parts(self, panel: Value, low: Value, count: Value) -> None:
        """Part after part of a panel is decoded, and all rows pass over it."""
        e = self.e
        turns = self._count(count, self.shape.rows)

        def part(at: Value) -> None:
            depth = e.least(e.b.sub(i64(self.k), at), i64(self.cut))
            first, blocks = e.b.udiv(at, i64(BLOCK)), e.b.udiv(e.b.add(depth, i64(BLOCK - 1)), i64(BLOCK))
            e.b.call(self.unpack, [panel, self.dense, first, blocks])
            self._rows_over(at, depth, low, count, turns, self._codes(panel, e.b.add(first, blocks)))

        e.loop(0, self.k, part, step=self.cut)

    def _codes(self, panel: Value, block: Value) -> Value:
        """Where a block of a panel begins."""
        e, b, place = self.e, self.e.b, self.place
        chunk, inside = b.udiv(block, i64(place.blocks)), b.urem(block, i64(place.blocks))
        start = e.at(panel, b.add(b.mul(chunk, i64(place.chunk)), i64(place.head + place.lead)), 1)
        return e.at(start, b.mul(inside, i64(place.block)), 1)

    def _rows_over(self, at: Value, depth: Value, low: Value, count: Value, turns: Value, following: Value) -> None:
        """Blocks of rows pass over the decoded part; each prefetches its share of the codes that follow."""
        e, step = self.e, self.shape.kstep * self.place.block // BLOCK
        size = self.cut // self.shape.kstep * step

        def turn(i: Value) -> None:
            a, b = self._block(low, count, turns, i)
            sums = e.at(self.sums, e.b.mul(e.b.sub(a, low), i64(self.shape.columns * 4)), 1)
            ahead = e.at(following, e.b.mul(i, e.b.udiv(i64(size), turns)), 1)
            self._call(a, b, self.dense, depth, at, sums, ahead, e.b.udiv(i64(step), turns))

        e.loop(0, turns, turn)


class StoredTiledMatmul(Tiled, StoredMatmul):
    """Decodes a part of each panel, then multiplies with it in tiles."""

    def _ready(self, first: Value, stop: Value) -> None:
        super()._ready(first, stop)
        self._widen(first, stop)

    def _elements(self, place: Value) -> tuple[Value, Value]:
        row = GatheredRow.at(self.e, self.rows_at, self.row_bytes, place, *self.bounds)
        return row.start, row.step
