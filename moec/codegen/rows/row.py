"""What an operation of a row has at hand: values so far, scratch memory, and what lies around the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

from xdsl.ir import Block, Operation, SSAValue

from moec.codegen.elements import emit_scalar, is_scalar
from moec.codegen.floats import widen
from moec.codegen.llvm import SIZES, Emitter, Value
from moec.codegen.rows.surroundings import Surroundings
from moec.codegen.selections import Chosen, chosen_like
from moec.codegen.views import View, copy
from moec.dialects.types import element_name, static_shape


@dataclass
class Scratch:
    """Memory of a stage for one row at a time, handed out once at compile time. `size` is what a stage needs."""

    pointer: Value
    size: int = 0

    def take(self, e: Emitter, count: int) -> Value:
        """The address of `count` bytes of their own, aligned to 64."""
        place = self.size
        self.size += -(-count // 64) * 64
        return e.at(self.pointer, place, 1)


class Row:
    """Emits the operations of a region: those on scalars from one table, the others from `rules`.

    `values` holds what is known of each value: a scalar in a register, a `View`, or a `Chosen`; `places` where results
    shall go.
    """

    def __init__(self, e: Emitter, around: Surroundings, scratch: Scratch, rules: Rules) -> None:
        self.e = e
        self.around = around
        self.scratch = scratch
        self.rules = rules
        self.values: dict[SSAValue, Any] = {}
        self.places: dict[SSAValue, View | Chosen] = {}

    def run(self, block: Block, left: Operation | None = None) -> Operation:
        """Emits a block, but for what is `left` to the caller; its terminator."""
        for operation in block.ops:
            if operation is block.last_op:
                return operation
            if operation is not left:
                self.emit(operation)
        raise AssertionError("a block ends with a terminator")

    def emit(self, operation: Operation) -> None:
        """Emits one operation; its value is known from then on."""
        if is_scalar(operation):
            value = emit_scalar(self.e, operation, [self[operand] for operand in operation.operands])
        else:
            value = self.rules[type(operation)](self, operation)
        self.values[operation.results[0]] = value

    def __getitem__(self, value: SSAValue) -> Any:
        found = self.values.get(value)
        return self.around.param(value) if found is None else found

    def alloc(self, value: SSAValue) -> View:
        """Where an array shall be written."""
        place = self.places.get(value)
        if isinstance(place, View):
            return place
        return self.temporary(element_name(value.type), static_shape(value.type))

    def temporary(self, dtype: str, shape: Sequence[int]) -> View:
        """Scratch memory for an array."""
        return View.dense(self.scratch.take(self.e, prod(shape) * SIZES[dtype]), dtype, shape)

    def alloc_selection(self, value: SSAValue) -> Chosen:
        """Where a selection's indices shall be written."""
        place = self.places.get(value)
        if isinstance(place, Chosen):
            return place
        chosen = chosen_like(value.type)
        return replace(chosen, pointer=self.scratch.take(self.e, chosen.size * 8))

    def dense(self, view: View) -> View:
        """The view itself if its elements lie one after the other, else a copy."""
        if view.contiguous:
            return view
        fresh = self.temporary(view.dtype, view.shape)
        copy(self.e, view, fresh)
        return fresh

    def as_f32(self, value: Value, dtype: str) -> Value:
        """A value that was read as `dtype`, widened where that is a 16-bit float."""
        return value if dtype == "f32" else widen(self.e, value, dtype)


#: For each kind of operation the code that emits it and gives its value.
Rules: TypeAlias = Mapping[type[Operation], Callable[[Row, Any], Any]]
