"""Where everything of a call lies: the frame that stages share, the workspace, the domains.

A call is one of `moec_run` (`RunArguments` in `moec.codegen.program`). `arguments` points to pointers: inputs, outputs,
auxiliary outputs, raw parameters, packed weights, the workspace; `pool` is null on one thread. The frame is an array of
64-bit words that `moec_run` fills in and every stage reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final, Literal, TypeAlias

from xdsl.ir import SSAValue

from moec.codegen.llvm import I64, PTR, SIZES, Emitter, Value, i64
from moec.codegen.selections import Chosen, chosen_like
from moec.codegen.views import View
from moec.dialects import plan
from moec.dialects.types import SelectionType, element_name, integer, static_shape

ALIGNMENT = 64

#: What a word has of a domain: the number of its rows, or the address of an array.
OfDomain: TypeAlias = Literal["count", "parent", "position", "offsets"]
#: The address of an array that a word has of another value: its rows, a parameter as it is read or as panels, the order
#: of a group and where its keys begin in it, where a product's vectors are, and their records.
OfValue: TypeAlias = Literal["rows", "param", "panels", "order", "offsets", "pointers", "records"]
#: The address of what there is once in a call.
OfCall: TypeAlias = Literal["workspace", "scratch", "flag", "clock"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the frame, by what it has, and of which value."""

    has: OfDomain | OfValue | OfCall
    value: SSAValue | None = None


WORKSPACE: Final = Word("workspace")
#: The scratch memory of a pool's threads.
SCRATCH: Final = Word("scratch")
#: What is set when an index that the call alone knows lies outside its table.
FLAG: Final = Word("flag")
#: The clock's readings of a timed program.
CLOCK: Final = Word("clock")


@dataclass
class Frame:
    """The words of the frame: declared by who has them filled in, numbered in the order in which they are first asked
    for."""

    declared: set[Word] = field(default_factory=set[Word])
    numbers: dict[Word, int] = field(default_factory=dict[Word, int])

    def declare(self, *words: Word) -> None:
        """Words that `moec_run` will fill in before a stage reads them."""
        self.declared.update(words)

    def number(self, word: Word) -> int:
        """The number of a word. Raises `LookupError` where nobody has declared it: nobody would fill it in."""
        if word not in self.declared:
            raise LookupError(f"nobody fills in {word}")
        return self.numbers.setdefault(word, len(self.numbers))


@dataclass(frozen=True)
class Region:
    """Workspace of `bytes_per_token` for each token and `fixed` bytes besides; `word` has its address."""

    word: Word
    bytes_per_token: int
    fixed: int = 0


@dataclass(frozen=True)
class Domain:
    """A set of rows: at most `per_token` for each token, and `fixed` ones, which a call has for all of them.

    `outer` is the domain that it was expanded from, by a selection of `slots` out of `indices`.
    """

    value: SSAValue
    per_token: int
    outer: Domain | None = None
    expand: plan.ExpandOp | None = None
    slots: int = 1
    indices: int = 1
    fixed: int = 0

    @property
    def single(self) -> bool:
        """Whether its one row stands for the whole call."""
        return self.outer is None and self.fixed == 1

    def word(self, has: OfDomain) -> Word:
        """A word of the frame about the domain."""
        return Word(has, self.value)

    def region(self, word: Word, nbytes: int, slack: int = 0) -> Region:
        """Workspace of so many bytes for each row, and some behind them."""
        return Region(word, nbytes * self.per_token, nbytes * self.fixed + slack)


def row_layout(type: Any) -> tuple[str, tuple[int, ...]]:
    """The element type and shape of one row's value as it lies in memory."""
    if isinstance(type, SelectionType):
        return "i64", (integer(type.size),)
    return element_name(type), static_shape(type)


def row_bytes(type: Any) -> int:
    """The bytes of one row's value."""
    dtype, shape = row_layout(type)
    return prod(shape) * SIZES[dtype]


class StageFrame:
    """The frame inside one stage: words are loaded once, where the stage begins."""

    def __init__(self, e: Emitter, frame: Frame, pointer: Value) -> None:
        self.e = e
        self.frame = frame
        self.pointer = pointer
        self._entry = e.b.block
        self._loaded: dict[tuple[Word, bool], Value] = {}

    def pointer_of(self, word: Word) -> Value:
        """The address in a word."""
        return self._load(word, PTR)

    def number_of(self, word: Word) -> Value:
        """The number in a word."""
        return self._load(word, I64)

    def _load(self, word: Word, type: Any) -> Value:
        found = (word, type is PTR)
        if found not in self._loaded:
            b, number = self.e.b, self.frame.number(word)
            with b.goto_block(self._entry):
                address = self.e.at(self.pointer, i64(number), 8)
                self._loaded[found] = b.load(address, typ=type, align=8)
        return self._loaded[found]


class RunFrame:
    """The frame inside `moec_run`, which fills it in: words are loaded where they are asked for."""

    def __init__(self, e: Emitter, frame: Frame, pointer: Value) -> None:
        self.e = e
        self.frame = frame
        self.pointer = pointer

    def pointer_of(self, word: Word) -> Value:
        """The address in a word."""
        return self.e.b.load(self._place(word), typ=PTR, align=8)

    def number_of(self, word: Word) -> Value:
        """The number in a word."""
        return self.e.b.load(self._place(word), typ=I64, align=8)

    def put(self, word: Word, value: Value) -> None:
        """Writes a word."""
        self.e.b.store(value, self._place(word), align=8)

    def _place(self, word: Word) -> Value:
        return self.e.at(self.pointer, i64(self.frame.number(word)), 8)


def ascend(e: Emitter, frame: StageFrame | RunFrame, domain: Domain, target: Domain, index: Value) -> Value:
    """The row of an outer domain that a row was expanded from, or the one that stands for all."""
    if target.single:
        return i64(0)
    while domain is not target:
        assert domain.outer is not None
        index = e.load(e.at(frame.pointer_of(domain.word("parent")), index, 8), "i64")
        domain = domain.outer
    return index


def row_value(e: Emitter, type: Any, pointer: Value, row: Value) -> Any:
    """A row's value in a buffer: a view, a selection, or the scalar itself."""
    dtype, shape = row_layout(type)
    place = e.at(pointer, e.b.mul(row, i64(row_bytes(type))), 1)
    if isinstance(type, SelectionType):
        chosen = chosen_like(type)
        return Chosen(chosen.size, chosen.domain, chosen.partial, place)
    return View.dense(place, dtype, shape)


def workspace_bytes(regions: Sequence[Region]) -> tuple[int, int]:
    """The bytes of a workspace: for each token, and fixed (with room to align each part)."""
    return sum(r.bytes_per_token for r in regions), sum(r.fixed + ALIGNMENT for r in regions)
