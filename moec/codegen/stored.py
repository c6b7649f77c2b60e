"""`plan.matmul` over weights in a storage format.

A part of a panel is decoded into scratch memory that stays in cache, then blocks of rows pass over it with the dense
microkernels. So weights in memory are never wider than they are stored, one decoding serves up to `CUT_ROWS` rows, and
a row's bits do not depend on which rows stand beside it.
"""

from __future__ import annotations

from typing import Final

from moec.codegen.amx import Tiled
from moec.codegen.llvm import Value, i64
from moec.codegen.matmul import Matmul
from moec.codegen.microkernel import emit_family
from moec.codegen.stages import Stages
from moec.codegen.unpack import emit_unpack
from moec.dialects import plan
from moec.dtypes import DTYPES
from moec.formats import FORMATS
from moec.formats.layout import BLOCK
from moec.formats.panels import PanelLayout
from moec.target import KernelShape

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

    def emit_kernels(self) -> None:
        """The microkernels: while they multiply what is decoded they all prefetch what is not."""
        self.kernels = emit_family(self.stages.module, self.stages.target, self.shape, self.shape.rows)

    def take_scratch(self) -> None:
        super().take_scratch()
        self.dense = self.scratch.take(self.e, self.part_bytes)

    def _products(self, panel: Value, low: Value, high: Value, block: Value, blocks: Value) -> None:
        e = self.e
        count = e.b.sub(high, low)
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
            a, b = self._block(low, count, self.shape.rows, turns, i)
            sums = e.at(self.sums, e.b.mul(e.b.sub(a, low), i64(self.shape.columns * 4)), 1)
            ahead = e.at(following, e.b.mul(i, e.b.udiv(i64(size), turns)), 1)
            self._call(a, b, self.dense, depth, at, sums, ahead, e.b.udiv(i64(step), turns))

        e.loop(0, turns, turn)


class StoredTiledMatmul(Tiled, StoredMatmul):
    """Decodes a part of each panel, then multiplies with it in tiles."""
