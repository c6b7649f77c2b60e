"""What emits a matrix product: its weights dense or stored, its rows as they are, quantised or split."""

from __future__ import annotations

from moec.codegen.amx import TiledMatmul
from moec.codegen.matmul import Matmul, is_narrow
from moec.codegen.quantized import PairMatmul, QuantizedBlockMatmul, QuantizedMatmul, QuantizedTiledMatmul
from moec.codegen.split import SplitMatmul, SplitStoredMatmul
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
            kind = SplitStoredMatmul if stored else SplitMatmul
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
