"""What every emitter needs of LLVM: types, constants, loops, branches, vectors in memory.

`Emitter` wraps an `IRBuilder`. Element types of the language have one representation here: f32 is `float`, bf16 is
`i16` (its bit pattern), f16 is `half` where the target converts it and `i16` elsewhere, i64 is `i64`, bool is `i1` in
registers and a byte in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from llvmlite import ir

from moec.dtypes import DTYPES
from moec.target import LINE, Target

Value: TypeAlias = Any

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F16 = ir.FloatType(), ir.HalfType()
PTR: Final = ir.PointerType()
VOID: Final = ir.VoidType()

#: Bytes of an element in memory.
SIZES: Final = {name: dtype.size for name, dtype in DTYPES.items()}


def i64(value: int) -> Value:
    return ir.Constant(I64, value)


def vector(element: Any, width: int) -> Any:
    """A vector type, or the element itself where the width is 0."""
    return ir.VectorType(element, width) if width else element


def constant(type: Any, value: float) -> Value:
    """A constant of a type: of a vector's, in every lane."""
    return ir.Constant(type, [value] * type.count if isinstance(type, ir.VectorType) else value)


def width_of(value: Value) -> int:
    """How many lanes a value has; 0 for a scalar."""
    return value.type.count if isinstance(value.type, ir.VectorType) else 0


_OPAQUE: Final = "moec_sizes"


def read_sizes(module: Any) -> None:
    """From now on every `Emitter.size` in a module is read from memory, where LLVM cannot know what it is."""
    ir.GlobalVariable(module, I8, _OPAQUE).initializer = ir.Constant(I8, 0)


class Emitter:
    """Appends instructions to a function. `target` says what the machine has."""

    def __init__(self, builder: ir.IRBuilder, target: Target) -> None:
        self.b: Any = builder
        self.target = target
        self.lanes = target.lanes

    # types

    def register(self, dtype: str) -> Any:
        """The type of a scalar of an element type in a register."""
        if dtype == "f16":
            return F16 if self.target.converts_f16 else I16
        return {"f32": F32, "bf16": I16, "i64": I64, "bool": I1}[dtype]

    def memory(self, dtype: str) -> Any:
        return I8 if dtype == "bool" else self.register(dtype)

    # values

    def splat(self, scalar: Value, width: int) -> Value:
        """A scalar in every lane."""
        if not width or width_of(scalar):
            return scalar
        type = ir.VectorType(scalar.type, width)
        if isinstance(scalar, ir.Constant):
            return ir.Constant(type, [scalar.constant] * width)
        first = self.b.insert_element(ir.Constant(type, ir.Undefined), scalar, ir.Constant(I32, 0))
        return self.b.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, width), None))

    def size(self, value: int) -> Value:
        """A dimension, or what was computed of some: a constant, unless the module reads its sizes."""
        module = self.b.module
        if _OPAQUE not in module.globals or value < 2:
            return i64(value)
        name = f"{_OPAQUE}_{value}"
        if name not in module.globals:
            ir.GlobalVariable(module, I64, name).initializer = i64(value)
        return self.b.load(module.globals[name], typ=I64, align=8)

    def like(self, other: Value, value: float) -> Value:
        """A constant of another value's type."""
        return constant(other.type, value)

    def call(self, name: str, result: Any, *arguments: Value) -> Value:
        """A call of an intrinsic, declared on first use."""
        module = self.b.module
        if name not in module.globals:
            ir.Function(module, ir.FunctionType(result, [argument.type for argument in arguments]), name)
        return self.b.call(module.globals[name], arguments)

    def overloaded(self, name: str, *arguments: Value) -> Value:
        """A call of an intrinsic that is overloaded by the type of its arguments, which it returns."""
        type = arguments[0].type
        width, element = width_of(arguments[0]), type.element if width_of(arguments[0]) else type
        suffix = f"v{width}" if width else ""
        scalar = f"i{element.width}" if isinstance(element, ir.IntType) else element.intrinsic_name
        return self.call(f"{name}.{suffix}{scalar}", type, *arguments)

    # memory

    def at(self, pointer: Value, index: Value, size: int) -> Value:
        """The address of element `index` of elements of `size` bytes."""
        if isinstance(index, int):
            return pointer if index == 0 else self.b.gep(pointer, [i64(index * size)], source_etype=I8)
        element = {1: I8, 2: I16, 4: I32, 8: I64}[size]
        return self.b.gep(pointer, [index], source_etype=element)

    def load(self, pointer: Value, dtype: str, width: int = 0) -> Value:
        """A scalar or a vector of consecutive elements."""
        type = vector(self.memory(dtype), width)
        value = self.b.load(pointer, typ=type, align=SIZES[dtype])
        if dtype == "bool":
            return self.b.icmp_unsigned("!=", value, ir.Constant(type, None))
        return value

    def store(self, value: Value, pointer: Value, dtype: str, passing: bool = False) -> None:
        """A scalar or consecutive elements; `passing` by the caches, at an address that they, or a line, divide."""
        if dtype == "bool":
            value = self.b.zext(value, vector(I8, width_of(value)))
        aligned = min(LINE, SIZES[dtype] * max(1, width_of(value))) if passing else SIZES[dtype]
        store = self.b.store(value, pointer, align=aligned)
        if passing:
            store.set_metadata("nontemporal", self.b.module.add_metadata([ir.Constant(I32, 1)]))

    def fill(self, pointer: Value, size: Value, byte: int = 0) -> None:
        """Sets bytes of memory."""
        size = i64(size) if isinstance(size, int) else size
        self.call("llvm.memset.p0.i64", VOID, pointer, ir.Constant(I8, byte), size, ir.Constant(I1, 0))

    def copy(self, to: Value, source: Value, size: int) -> None:
        self.call("llvm.memcpy.p0.p0.i64", VOID, to, source, i64(size), ir.Constant(I1, 0))

    def prefetch(self, pointer: Value, cache: int = 2) -> None:
        """Fetches the line at an address, any address, into the second cache or the first, for reading."""
        self.call("llvm.prefetch.p0", VOID, pointer, *(ir.Constant(I32, word) for word in (0, 4 - cache, 1)))

    def least(self, x: Value, y: Value) -> Value:
        """The smaller of two signed integers."""
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def ahead(self, rows: Value, nearest: int = 0, farthest: int | None = None) -> Value:
        """How far ahead of so many rows weights want to be prefetched, in bytes, between `nearest` and
        `farthest`; 0 where they do not."""
        distance = i64(0)
        for least, nbytes in self.target.prefetch:
            bounded = i64(max(min(nbytes, farthest or nbytes), nearest))
            distance = self.b.select(self.b.icmp_signed(">=", rows, i64(least)), bounded, distance)
        return distance

    # control

    def loop(self, start: Value | int, stop: Value | int, body: Callable[[Value], None], step: Value | int = 1) -> None:
        """`body(i)` for i from `start` below `stop`."""

        def turn(index: Value, values: Sequence[Value]) -> Sequence[Value]:
            body(index)
            return values

        self.fold(start, stop, [], turn, step)

    def fold(
        self,
        start: Value | int,
        stop: Value | int,
        carried: Sequence[Value],
        body: Callable[[Value, Sequence[Value]], Sequence[Value]],
        step: Value | int = 1,
    ) -> list[Value]:
        """`carried = body(i, carried)` for i from `start` below `stop`; what is carried after the last turn."""
        b = self.b
        if isinstance(start, int) and isinstance(stop, int) and start >= stop:
            return list(carried)
        start, step = (i64(end) if isinstance(end, int) else end for end in (start, step))
        stop = self.size(stop) if isinstance(stop, int) else stop
        before = b.block
        inside, after = b.append_basic_block("loop"), b.append_basic_block("end")
        sure = isinstance(start, ir.Constant) and isinstance(stop, ir.Constant)
        if sure:
            b.branch(inside)
        else:
            b.cbranch(b.icmp_signed("<", start, stop), inside, after)
        b.position_at_end(inside)
        index = b.phi(I64, "i")
        index.add_incoming(start, before)
        values = [b.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        results = list(body(index, values))
        following = b.add(index, step, flags=["nsw"])
        index.add_incoming(following, b.block)
        for phi, value in zip(values, results, strict=True):
            phi.add_incoming(value, b.block)
        last = b.block
        b.cbranch(b.icmp_signed("<", following, stop), inside, after)
        b.position_at_end(after)
        leaving: list[Value] = []
        for first, value in zip(carried, results, strict=True):
            phi = b.phi(value.type)
            if not sure:
                phi.add_incoming(first, before)
            phi.add_incoming(value, last)
            leaving.append(phi)
        return leaving

    @contextmanager
    def when(self, condition: Value) -> Generator[None]:
        """Code that runs only where a condition holds."""
        b = self.b
        inside, after = b.append_basic_block("then"), b.append_basic_block("endif")
        b.cbranch(condition, inside, after)
        b.position_at_end(inside)
        yield
        b.branch(after)
        b.position_at_end(after)

    @contextmanager
    def either(self, condition: Value) -> Generator[Callable[[], None]]:
        """`with either(c) as otherwise: …; otherwise(); …`: two branches."""
        b = self.b
        yes, no, after = (b.append_basic_block(name) for name in ("then", "else", "endif"))
        b.cbranch(condition, yes, no)
        b.position_at_end(yes)

        def otherwise() -> None:
            b.branch(after)
            b.position_at_end(no)

        yield otherwise
        b.branch(after)
        b.position_at_end(after)
