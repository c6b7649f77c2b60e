"""Numbers as sums of bf16, in the tiles that `moec.codegen.tile_kernel` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from llvmlite import ir

from moec.codegen import tiles
from moec.codegen.floats import widen
from moec.codegen.function import Alone, Arguments, Integer, emit_function
from moec.codegen.llvm import F32, I8, I16, I32, I64, Emitter, Value, constant, i64
from moec.dtypes import DTYPES
from moec.shapes import KernelShape
from moec.target import Target

#: How many bf16 hold a number of an element type.
PIECES: Final = {"f32": 3, "f16": 2}
#: The upper half of a word; all but the sign; infinity.
_UPPER: Final = 0xFFFF0000
_MAGNITUDE: Final = 0x7FFFFFFF
_INFINITY: Final = 0x7F800000


def _words(e: Emitter, value: Value, pieces: int) -> Iterator[Value]:
    """Vectors of words whose upper halves are the pieces of numbers of f32."""
    b, words = e.b, ir.VectorType(I32, tiles.ROWS)
    for piece in range(pieces):
        word = b.bitcast(value, words)
        yield word
        if piece < pieces - 1:
            value = b.fsub(value, b.bitcast(b.and_(word, constant(words, _UPPER)), value.type))


@dataclass(frozen=True)
class SplitRowArguments(Arguments):
    """What takes apart a row; it returns whether some k are infinite or no numbers."""

    RESULT: ClassVar[Any] = I64

    row: Alone
    to: Alone
    depth: Integer


def emit_split_row(module: Any, target: Target, pieces: int, rest: int) -> ir.Function:
    """The function that leaves `depth` k of a row of f32 as pieces, one row of 16 in tiles, [k / 32][pieces][16][32],
    with zeros up to a multiple of 32 k. `depth` is a multiple of 32, or `rest` more than one. Added to `module` (once;
    a second call finds it)."""
    name = f"moec_split_row_{pieces}_{rest}"
    return emit_function(module, target, name, SplitRowArguments, lambda e, given: _split_row(e, pieces, rest, given))


def _split_row(e: Emitter, pieces: int, rest: int, given: SplitRowArguments) -> Value:
    row, to, depth = given.row, given.to, given.depth
    odd = ir.Constant(ir.VectorType(I32, tiles.DEPTH), list(range(1, 2 * tiles.DEPTH, 2)))
    halves, tile = ir.VectorType(I16, tiles.DEPTH), tiles.ROWS * tiles.BYTES
    words = ir.VectorType(I32, tiles.ROWS)

    def line(source: Value, turn: Value, largest: Value) -> Value:
        place = e.at(to, e.b.mul(turn, i64(pieces * tile)), 1)
        numbers = [e.load(e.at(source, 64 * i, 1), "f32", tiles.ROWS) for i in (0, 1)]
        low, high = (_words(e, number, pieces) for number in numbers)
        for number in numbers:
            magnitude = e.b.and_(e.b.bitcast(number, words), constant(words, _MAGNITUDE))
            largest = e.overloaded("llvm.umax", largest, magnitude)
        for piece, both in enumerate(zip(low, high, strict=True)):
            upper = e.b.shuffle_vector(*(e.b.bitcast(word, halves) for word in both), odd)
            e.b.store(upper, e.at(place, piece * tile, 1), align=tiles.BYTES)
        return largest

    last = e.b.alloca(ir.ArrayType(I8, 4 * tiles.DEPTH)) if rest else None
    if last is not None:
        last.align = tiles.BYTES
    whole = e.b.udiv(depth, i64(tiles.DEPTH))
    largest: Value = ir.Constant(words, None)

    def turn(i: Value, carried: Sequence[Value]) -> list[Value]:
        return [line(e.at(row, e.b.mul(i, i64(4 * tiles.DEPTH)), 1), i, carried[0])]

    (largest,) = e.fold(0, whole, [largest], turn)
    if last is not None:
        before, ragged = e.b.block, e.b.icmp_signed("!=", e.b.urem(depth, i64(tiles.DEPTH)), i64(0))
        with e.when(ragged):
            e.fill(last, 4 * tiles.DEPTH)
            e.copy(last, e.at(row, e.b.mul(whole, i64(4 * tiles.DEPTH)), 1), 4 * rest)
            after, inside = line(last, whole, largest), e.b.block
        phi = e.b.phi(words)
        phi.add_incoming(largest, before)
        phi.add_incoming(after, inside)
        largest = phi
    strange = e.b.icmp_unsigned(">=", largest, constant(words, _INFINITY))
    return e.b.zext(e.b.bitcast(strange, I16), I64)


@dataclass(frozen=True)
class SplitPanelArguments(Arguments):
    """What takes apart a panel."""

    panel: Alone
    to: Alone
    depth: Integer
    apart: Integer


def emit_split_panel(module: Any, target: Target, shape: KernelShape, rest: int) -> ir.Function:
    """The function that leaves `depth` k of a panel of a shape as pieces in tiles,
    [k / 32][pieces][columns / 16][16][16][2], with zeros up to a multiple of 32 k. `depth` is a multiple of 32, or
    `rest` more than one; the panel's streams are `apart` bytes apart. Added to `module` (once; a second call finds
    it)."""
    name = f"moec_split_panel_{shape.dtype}_{shape.columns}_{shape.streams}_{rest}"
    return emit_function(
        module, target, name, SplitPanelArguments, lambda e, given: _PanelSplitter(e, shape, given).emit(rest)
    )


class _PanelSplitter:
    def __init__(self, e: Emitter, shape: KernelShape, given: SplitPanelArguments) -> None:
        self.e, self.dtype, self.given = e, shape.dtype, given
        self.pieces, self.width = PIECES[shape.dtype], shape.columns // tiles.ROWS
        self.size, self.row = DTYPES[shape.dtype].size, shape.stream_bytes
        self.turn = self.pieces * shape.columns * tiles.BYTES
        #: Where each 16 columns begin.
        each = self.width // shape.streams
        self.columns = [
            e.b.add(e.b.mul(given.apart, i64(stream)), i64(j * tiles.ROWS * self.size))
            for stream in range(shape.streams)
            for j in range(each)
        ]

    def emit(self, rest: int) -> None:
        e, b, depth = self.e, self.e.b, self.given.depth
        whole = b.udiv(depth, i64(tiles.DEPTH))
        e.loop(0, whole, lambda i: e.loop(0, tiles.ROWS, lambda pair: self._pair(i, pair)))
        if rest:
            with e.when(b.icmp_signed("!=", b.urem(depth, i64(tiles.DEPTH)), i64(0))):
                e.fill(e.at(self.given.to, b.mul(whole, i64(self.turn)), 1), self.turn)
                e.loop(0, rest // 2, lambda pair: self._pair(whole, pair))
                if rest % 2:
                    self._pair(whole, i64(rest // 2), single=True)

    def _pair(self, turn: Value, pair: Value, single: bool = False) -> None:
        """Two k of all columns, or one and zeros."""
        e, b = self.e, self.e.b
        k = b.add(b.mul(turn, i64(tiles.DEPTH)), b.mul(pair, i64(2)))
        source = e.at(self.given.panel, b.mul(k, i64(self.row)), 1)
        to = e.at(self.given.to, b.add(b.mul(turn, i64(self.turn)), b.mul(pair, i64(tiles.BYTES))), 1)
        words = ir.VectorType(I32, tiles.ROWS)
        for j in range(self.width):
            first = self._load(source, j)
            second = ir.Constant(first.type, None) if single else self._load(e.at(source, self.row, 1), j)
            both = zip(_words(e, first, self.pieces), _words(e, second, self.pieces), strict=True)
            for piece, (low, high) in enumerate(both):
                low = b.lshr(low, constant(words, 16))
                high = b.and_(high, constant(words, _UPPER))
                tile = (piece * self.width + j) * tiles.ROWS * tiles.BYTES
                b.store(b.or_(low, high), e.at(to, tile, 1), align=tiles.BYTES)

    def _load(self, source: Value, j: int) -> Value:
        e = self.e
        value = e.load(e.at(source, self.columns[j], 1), self.dtype, tiles.ROWS)
        return value if value.type == ir.VectorType(F32, tiles.ROWS) else widen(e, value, self.dtype)
