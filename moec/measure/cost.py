"""What a plan costs: rows, FLOPs and bytes of each stage, for a number of tokens.

Where a selection decides how many experts are touched, the number is what is expected of independent choices: of E
experts, R rows touch E (1 - (1 - 1/E)^R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from moec.dialects import moe, plan
from moec.dialects.types import SelectionType, element_name, integer, static_shape
from moec.dtypes import DTYPES
from moec.runtime.pack import panel_bytes
from moec.target import KernelShape


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage: what it is, over how many rows, FLOPs, and bytes of weights and rows that it reads or writes."""

    about: str
    rows: float
    flops: float
    nbytes: float
    weights: float


@dataclass(frozen=True, slots=True)
class Analysis:
    """All stages of a program. `products` says which tile each matrix product uses."""

    stages: Sequence[StageCost]

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    @property
    def nbytes(self) -> float:
        """Bytes of weights: what has to come from memory whatever the cache holds."""
        return sum(stage.weights for stage in self.stages)


def analyse(module: ModuleOp, tokens: int) -> Analysis:
    """The cost of a module that holds a plan."""
    (program,) = (op for op in module.body.block.ops if isinstance(op, plan.ProgramOp))
    block = program.body.block
    rows: dict[SSAValue, float] = {block.args[0]: float(tokens)}
    indices: dict[SSAValue, int] = {}
    stages: list[StageCost] = []
    for op in block.ops:
        match op:
            case plan.ExpandOp():
                type = _row(op.slots)
                assert isinstance(type, SelectionType)
                rows[op.rows] = rows[op.domain] * integer(type.size)
                indices[op.rows] = integer(type.domain)
            case plan.MatmulOp():
                stages.append(_matmul(op, rows[op.domain], indices.get(op.domain, 1)))
            case plan.RowsOp():
                stages.append(_rows(op, rows))
            case _:
                pass
    return Analysis(stages)


def _matmul(op: plan.MatmulOp, rows: float, indices: int) -> StageCost:
    n, k, keys = integer(op.n), integer(op.k), integer(op.keys)
    shape = KernelShape.parse(op.tile.data, op.dtype.data)
    touched = _touched(keys, rows) if op.grouping.data != "none" else min(1.0, rows)
    weights = touched * panel_bytes(shape, n, k, len(op.weights))
    moved = rows * (_bytes(_row(op.vector)) + _bytes(_row(op.value)))
    names = " ".join(value.name_hint or "?" for value in op.weights)
    about = f"{names} [{keys} x {n} x {k}] {shape.tile}" if keys > 1 else f"{names} [{n} x {k}] {shape.tile}"
    return StageCost(about, rows, 2.0 * rows * n * k * len(op.weights), weights + moved, weights)


def _touched(keys: int, rows: float) -> float:
    return keys * (1 - (1 - 1 / keys) ** rows)


def _rows(op: plan.RowsOp, rows: dict[SSAValue, float]) -> StageCost:
    count = rows[op.domain]
    reads = [inner for inner in op.walk() if isinstance(inner, plan.ReadOp)]
    moved = sum(_bytes(inner.result.type) * rows[plan.domain_of(inner.source)] for inner in reads)
    moved += sum(_bytes(_row(value)) for value in op.values) * count
    flops = sum(_flops(inner) for inner in op.walk()) * count
    kinds = [inner.name.partition(".")[2] for inner in op.walk() if isinstance(inner, moe.MoeOp)]
    shown = list(dict.fromkeys(kind for kind in kinds if kind not in ("extract", "at", "reshape", "slice")))
    return StageCost("row by row: " + " ".join(shown[:6]), count, flops, moved, 0.0)


def _flops(op: Operation) -> float:
    if isinstance(op, moe.MapOp):
        return prod(static_shape(op.results[0].type)) * (len(list(op.body.block.ops)) - 1)
    if isinstance(op, moe.ContractOp):
        return 2.0 * prod(static_shape(op.weight.type))
    return float(prod(static_shape(op.operand.type))) if isinstance(op, moe.ReduceOp) else 0.0


def _row(value: SSAValue) -> Any:
    assert isinstance(value.type, plan.RowsType)
    return value.type.row


def _bytes(type: Any) -> float:
    if isinstance(type, SelectionType):
        return 8.0 * integer(type.size)
    return float(prod(static_shape(type)) * DTYPES[element_name(type)].size)
