"""Products of a matrix that is no panel with a vector: a weight that was computed, or two vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from moec.codegen.llvm import Value, i64
from moec.codegen.rows.reductions import across, start
from moec.codegen.rows.row import Row, Rules
from moec.codegen.views import View, walk, zero
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
    elif len(weight.shape) == 2 and weight.strides[0] == 1 < weight.strides[1]:
        _columns(row, weight, v, result)
    else:
        e.loop(0, weight.shape[0], lambda i: _dots(row, weight.part(e, i), v, result.part(e, i)))


def _columns(row: Row, weight: View, v: View, result: View) -> None:
    """The product of a matrix whose columns lie together, as that of a transposed one does: column onto column."""
    e = row.e
    zero(e, result)

    def turn(k: Value) -> None:
        factor = row.as_f32(v.load(e, k), v.dtype)

        def step(parts: Sequence[View], at: Value | int, width: int) -> None:
            column, total = row.as_f32(parts[0].load(e, at, width), weight.dtype), parts[1].load(e, at, width)
            parts[1].store(e, e.overloaded("llvm.fmuladd", column, e.splat(factor, width), total), at)

        walk(e, [weight.transposed().part(e, k), result], step)

    e.loop(0, weight.shape[1], turn)


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
