"""Products of a matrix that is no panel with a vector: a weight that was computed, or two vectors."""

from __future__ import annotations

from typing import Any, Final

from moec.codegen.llvm import Value, i64
from moec.codegen.rows.reductions import across, start
from moec.codegen.rows.row import Row, Rules
from moec.codegen.views import View
from moec.dialects import moe


def _contract(row: Row, op: moe.ContractOp) -> Any:
    weight, v = row[op.weight], row.dense(row[op.vector])
    if len(weight.shape) == 1:
        return _dot(row, weight, v)
    result = row.alloc(op.result)
    _dots(row, weight, v, result)
    return result


def _dots(row: Row, weight: View, v: View, result: View) -> None:
    e = row.e
    if len(weight.shape) == 1:
        e.store(_dot(row, weight, v), result.pointer, "f32")
    else:
        e.loop(0, weight.shape[0], lambda i: _dots(row, weight.part(e, i), v, result.part(e, i)))


def _dot(row: Row, left: View, right: View) -> Value:
    """The product of two vectors, in f32."""
    e, size = row.e, left.shape[0]
    flat = left if left.strides[0] in (0, 1) else row.dense(left)

    def product(at: Value | int, width: int, total: Value) -> Value:
        a = row.as_f32(flat.load(e, at, width), left.dtype)
        b = row.as_f32(right.load(e, at, width), right.dtype)
        return e.overloaded("llvm.fmuladd", a, b, total)

    # Four sums hide the latency of the multiply-add.
    chains, lanes = 4, e.lanes
    whole = size - size % (chains * lanes)
    sums = [start("sum", "f32", lanes)] * chains
    if whole:
        step = chains * lanes
        sums = e.fold(
            0,
            whole,
            sums,
            lambda i, v: [product(e.b.add(i, i64(c * lanes)), lanes, v[c]) for c in range(chains)],
            step,
        )
    rest = size - size % lanes
    (sums[0],) = e.fold(whole, rest, [sums[0]], lambda i, v: [product(i, lanes, v[0])], lanes)
    joined = e.b.fadd(e.b.fadd(sums[0], sums[1]), e.b.fadd(sums[2], sums[3]))
    total = across(e, "sum", joined)
    (total,) = e.fold(rest, size, [total], lambda i, v: [product(i, 0, v[0])])
    return total


PRODUCTS: Final[Rules] = {moe.ContractOp: _contract}
