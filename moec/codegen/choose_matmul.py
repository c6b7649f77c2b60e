"""What emits a matrix product, by how weights come and how rows come to them.

    weights   rows: where they lie   gathered for tiles   in pieces for tiles, where many   as records
    dense     Matmul                 TiledMatmul          SplitMatmul
    decoded   StoredMatmul           StoredTiledMatmul    StoredSplitMatmul
    as codes                                                                                CodeMatmul

Who derives from whom:

    Matmul                              panel after panel, blocks of rows, microkernels
    ├─ Tiled                            gathered rows and the kernels of tiles
    ├─ Stretched                        block after block of rows, which stay in the second cache
    │  ├─ TiledMatmul (and Tiled)
    │  └─ SplitMatmul                   many rows in pieces; with a few it is a Matmul
    ├─ StoredMatmul                     decodes a part of a panel, then multiplies as its other base does
    │  ├─ StoredTiledMatmul (and Tiled)
    │  └─ StoredSplitMatmul (and SplitMatmul)
    └─ CodeMatmul                       blocks of rows become records
       ├─ PairMatmul                    of bf16
       └─ QuantizedMatmul               of integers
          └─ QuantizedBlockMatmul       many rows beside codes that are made ready
             └─ QuantizedTiledMatmul    and through tiles
"""

from __future__ import annotations

from moec.codegen.amx import TiledMatmul
from moec.codegen.matmul import Matmul, is_narrow
from moec.codegen.quantized import PairMatmul, QuantizedBlockMatmul, QuantizedMatmul, QuantizedTiledMatmul
from moec.codegen.split import SplitMatmul, StoredSplitMatmul
from moec.codegen.stages import Stages
from moec.codegen.stored import StoredMatmul, StoredTiledMatmul
from moec.dialects import plan
from moec.formats import FORMATS
from moec.shapes import KernelShape


def choose_matmul(stages: Stages, op: plan.MatmulOp, name: str) -> Matmul:
    """The emitter of a product of the plan."""
    shape = KernelShape.parse(op.tile.data, op.dtype.data)
    match shape.form, op.storage is not None:
        case "codes", _:
            kind = PairMatmul
        case "int8", _ if _through_tiles(stages, op):
            kind = QuantizedTiledMatmul
        case "int8", _:
            kind = QuantizedBlockMatmul if stages.target.byte_blocks else QuantizedMatmul
        case "amx", stored:
            kind = StoredTiledMatmul if stored else TiledMatmul
        case _, stored if _split(stages, op, shape):
            kind = StoredSplitMatmul if stored else SplitMatmul
        case _, stored:
            kind = StoredMatmul if stored else Matmul
    return kind(stages, op, shape, name)


def _through_tiles(stages: Stages, op: plan.MatmulOp) -> bool:
    """Whether many quantised rows meet weights of this format in tiles."""
    assert op.storage is not None
    return stages.target.tiled_from(FORMATS[op.storage.data].layout.stretch) is not None


def _split(stages: Stages, op: plan.MatmulOp, shape: KernelShape) -> bool:
    """Whether many rows are split for tiles of bf16. Not where all rows share a narrow matrix: that may be a router,
    whose choices then do not depend on how many tokens are called together."""
    return stages.target.split_from(shape) is not None and not is_narrow(op, shape)
