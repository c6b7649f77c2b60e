"""Microkernels: a tile of C = rows x panel, held in registers while k runs, one LLVM function for each row count.

* `rows` points to MR pointers, each to one activation row in `shape.activation`, at any alignment. The kernel reads
  elements first .. first + k of each row and nothing beyond.
* `panel` is [ceil(k / kstep)][columns][kstep] weights in `shape.dtype`, 64-byte aligned; its missing columns are zero,
  and so is what an odd k leaves of the last step. A shape of several streams has as many of those, each with its share
  of the columns, `apart` bytes from one to the next; memory serves two streams of reads faster than one.
* `c` is MR x columns of f32, rows `ldc` elements apart, 4-byte aligned: added to where `accumulate` is not 0, else
  only written.
* While step s runs, `shape.stream_bytes` at ahead + s * pace are prefetched into the second cache, and `apart` bytes on
  for the next stream; nothing is read there, so any address does. Panels read once want (panel + `Target.prefetch`,
  stream_bytes). Where B row blocks pass over one panel, block i wants the next panel's share (next + i * bytes / B,
  stream_bytes / B, with the bytes of a stream): memory then works while the arithmetic does. (Prefetching into the
  first cache would hold the loads up: a third slower on a Zen 4.)

Every output is one chain of multiply-adds in the order of k. So a row's result is the same, bit for bit, whatever rows
stand beside it, and into how many calls k is cut at multiples of kstep. One chain for each vector still outruns memory
at MR = 1: each of them takes in 64 bytes every four cycles. `vdpbf16ps` takes subnormals for zero; the other forms keep
them. Written for `moec.codegen`; knows no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from llvmlite import ir

from moec.codegen.floats import bf16_pairs, widen
from moec.codegen.function import Address, Alone, Arguments, Integer, emit_function
from moec.codegen.llvm import F16, F32, I8, I16, I32, PTR, Emitter, Value, constant, i64
from moec.shapes import KernelShape
from moec.target import LINE, Target

#: One k of a step: the factor of a row, given its pointer, and the factors of the columns, a vector each.
_Product: TypeAlias = tuple[Callable[[Value], Value], list[Value]]

#: Multiply-adds in one turn of the loop, at most: amortises the loop where few rows share a step.
_TURN: Final = 16


@dataclass(frozen=True)
class MicrokernelArguments(Arguments):
    """What a microkernel takes."""

    rows: Alone
    panel: Alone
    c: Alone
    ldc: Integer
    k: Integer
    first: Integer
    accumulate: Integer
    ahead: Address
    pace: Integer
    apart: Integer


def emit_family(
    module: ir.Module, target: Target, shape: KernelShape, prefetch_from: int = 1
) -> tuple[ir.Function, ...]:
    """Kernels for 1, 2, … `shape.rows` rows: the one for n rows stands at n - 1. Those for `prefetch_from` rows and
    more prefetch, and those for half of all and more."""
    return tuple(
        emit_microkernel(module, target, shape, rows, rows >= prefetch_from or 2 * rows >= shape.rows)
        for rows in range(1, shape.rows + 1)
    )


def emit_microkernel(
    module: ir.Module, target: Target, shape: KernelShape, rows: int, prefetches: bool = True
) -> ir.Function:
    """The kernel for exactly `rows` rows of `shape`, added to `module` (once; a second call finds it).

    Unless it `prefetches` it ignores `ahead` and `pace`: a stream from the last cache is then a fifth faster (Zen 4).
    """
    name = f"moec_{replace(shape, rows=rows)}{'' if prefetches else '_still'}"

    def emit(e: Emitter, given: MicrokernelArguments) -> None:
        _over_k(_Tile(e, shape, rows, prefetches, given))

    return emit_function(module, target, name, MicrokernelArguments, emit)


def _over_k(tile: _Tile) -> None:
    """Step after step, several in a turn of the loop."""
    e, b, shape, k = tile.e, tile.b, tile.shape, tile.given.k
    unroll = 1 << max(0, (_TURN // (len(tile.rows) * shape.vectors * shape.kstep)).bit_length() - 1)

    def steps(count: int) -> Callable[[Value, Sequence[Value]], list[Value]]:
        def body(at: Value, sums: Sequence[Value]) -> list[Value]:
            for i in range(count):
                sums = tile.step(b.add(at, i64(i * shape.kstep)) if i else at, sums)
            return list(sums)

        return body

    sums = tile.init()
    whole = b.and_(k, i64(-shape.kstep))
    turns = b.and_(k, i64(-shape.kstep * unroll)) if unroll > 1 else whole
    sums = e.fold(i64(0), turns, sums, steps(unroll), shape.kstep * unroll)
    if unroll > 1:
        sums = e.fold(turns, whole, sums, steps(1), shape.kstep)
    if shape.kstep == 2:
        sums = e.fold(whole, k, sums, lambda at, sums: tile.step(at, sums, odd=True), 2)
    tile.store(sums)


class _Tile:
    """The accumulators of one tile behind init / step / store: hides dtype, lanes, the odd k and the form.

    `sums` is a list of rows x vectors accumulators, row by row.
    """

    def __init__(
        self, e: Emitter, shape: KernelShape, rows: int, prefetches: bool, given: MicrokernelArguments
    ) -> None:
        self.e, self.b, self.shape, self.prefetches, self.given = e, e.b, shape, prefetches, given
        self.rows = _rows(e.b, given.rows, rows, given.first, _element(shape.activation))
        #: Where each stream begins, beside the first.
        self.streams = [e.b.mul(given.apart, i64(i)) for i in range(shape.streams)]
        self.vector = ir.VectorType(F32, shape.lanes)
        self.words = ir.VectorType(I32, shape.lanes)

    def init(self) -> list[Value]:
        """The accumulators at the start: C's where `accumulate` is not 0, else zeros."""
        b, count = self.b, len(self.rows) * self.shape.vectors
        start, load, ready = b.block, b.append_basic_block("accumulate"), b.append_basic_block("ready")
        b.cbranch(b.icmp_signed("!=", self.given.accumulate, i64(0)), load, ready)
        b.position_at_end(load)
        loaded = [b.load(place, typ=self.vector, align=4) for place in self._places()]
        b.branch(ready)
        b.position_at_end(ready)
        zero = ir.Constant(self.vector, None)
        sums = [b.phi(self.vector) for _ in range(count)]
        for phi, value in zip(sums, loaded, strict=True):
            phi.add_incoming(zero, start)
            phi.add_incoming(value, load)
        return sums

    def step(self, at: Value, sums: Sequence[Value], odd: bool = False) -> list[Value]:
        """The accumulators after `kstep` more k, from element `at` of every row; only one k if `odd`."""
        b, shape = self.b, self.shape
        sums = list(sums)
        step = b.lshr(at, i64(shape.kstep.bit_length() - 1))
        start = b.gep(self.given.panel, [b.mul(step, i64(shape.stream_bytes))], source_etype=I8)
        if self.prefetches:
            self._prefetch(b.gep(self.given.ahead, [b.mul(step, self.given.pace)], source_etype=I8))
        for x_of, weights in self._products(start, at, odd):
            for row, pointer in enumerate(self.rows):
                x = x_of(pointer)
                for j, weight in enumerate(weights):
                    i = row * shape.vectors + j
                    sums[i] = self._multiply_add(x, weight, sums[i])
        return sums

    def store(self, sums: Sequence[Value]) -> None:
        """Writes the accumulators to C."""
        for place, value in zip(self._places(), sums, strict=True):
            self.b.store(value, place, align=4)

    def _prefetch(self, start: Value) -> None:
        for stream in self.streams:
            for offset in range(0, self.shape.stream_bytes, LINE):
                self.e.prefetch(self._in_stream(start, stream, offset))

    def _in_stream(self, start: Value, stream: Value, offset: int) -> Value:
        """So many bytes behind where a step begins in a stream."""
        return self.e.at(start if self.shape.streams == 1 else self.e.at(start, stream, 1), offset, 1)

    def _places(self) -> list[Value]:
        b, lanes, given = self.b, self.shape.lanes, self.given
        lines = [b.gep(given.c, [b.mul(given.ldc, i64(row))], source_etype=F32) for row in range(len(self.rows))]
        return [b.gep(p, [i64(j * lanes)], source_etype=F32) for p in lines for j in range(self.shape.vectors)]

    def _products(self, start: Value, at: Value, odd: bool) -> list[_Product]:
        """What one step multiplies: for each k (or pair of them), a row's factor and the columns' factors."""
        match self.shape.form, self.shape.dtype:
            case "fma", _:
                return [(lambda row: self._splat(row, at), self._weights(start, self.vector))]
            case "widen", "f16":
                return [
                    (lambda row: self._splat(row, at), [widen(self.e, half, "f16") for half in self._halves(start)])
                ]
            case "widen", _:
                pairs = self._weights(start, self.words)
                low = [self._as_f32(self.b.shl(pair, self._word(16))) for pair in pairs]
                even: _Product = (lambda row: self._splat(row, at), low)
                if odd:
                    return [even]
                high = [self._as_f32(self.b.and_(pair, self._word(0xFFFF0000))) for pair in pairs]
                after = self.b.add(at, i64(1))
                return [even, (lambda row: self._splat(row, after), high)]
            case _:
                return [(lambda row: self._splat_pair(row, at, odd), self._weights(start, self.words))]

    def _weights(self, start: Value, vector: ir.VectorType, size: int = 4) -> list[Value]:
        b, nbytes, each = self.b, self.shape.lanes * size, self.shape.vectors // self.shape.streams
        places = [self._in_stream(start, stream, j * nbytes) for stream in self.streams for j in range(each)]
        return [b.load(place, typ=vector, align=min(64, nbytes)) for place in places]

    def _halves(self, start: Value) -> list[Value]:
        return self._weights(start, ir.VectorType(self.e.register("f16"), self.shape.lanes), size=2)

    def _splat(self, row: Value, at: Value) -> Value:
        b = self.b
        place = b.gep(row, [at], source_etype=F32)
        return self.e.splat(b.load(place, typ=F32, align=4), self.shape.lanes)

    def _splat_pair(self, row: Value, at: Value, odd: bool) -> Value:
        b = self.b
        place = b.gep(row, [at], source_etype=I16)
        if odd:
            return self.e.splat(b.zext(b.load(place, typ=I16, align=2), I32), self.shape.lanes)
        return self.e.splat(b.load(place, typ=I32, align=2), self.shape.lanes)

    def _multiply_add(self, x: Value, weight: Value, total: Value) -> Value:
        if self.shape.form == "dot":
            return self.e.call(
                "llvm.x86.avx512bf16.dpbf16ps.512", self.vector, total, self._pairs(x), self._pairs(weight)
            )
        return self.e.overloaded("llvm.fmuladd", x, weight, total)

    def _pairs(self, words: Value) -> Value:
        return bf16_pairs(self.b, words, self.shape.lanes)

    def _word(self, value: int) -> Value:
        return constant(self.words, value)

    def _as_f32(self, words: Value) -> Value:
        return self.b.bitcast(words, self.vector)


def _rows(b: ir.IRBuilder, pointers: Value, count: int, first: Value, element: ir.Type) -> list[Value]:
    """The addresses of element `first` of each row."""
    slots = [b.gep(pointers, [i64(row)], source_etype=PTR) for row in range(count)]
    return [b.gep(b.load(slot, typ=PTR), [first], source_etype=element) for slot in slots]


def _element(dtype: str) -> ir.Type:
    return {"f32": F32, "f16": F16, "bf16": I16}[dtype]
