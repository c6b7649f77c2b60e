"""The thread pool: workers that wait inside native code, and `parallel`, which cuts a stage among them.

    void moec_work(ptr pool, i64 worker)                                                     a worker's life
    void moec_parallel(ptr pool, ptr stage, ptr frame, i64 units, i64 busy, i64 least, ptr scratch, i64 stride)
                                                                                             what a kernel calls

`busy` of the units are work, the others are those of matrices that no row chose: chunks are small enough for the work
to be shared out evenly, however it is spread, but have at least `least` units.

One job is open at a time. Whoever is awake takes chunks of it until none is left; the caller takes part, and at the end
waits only for those who have joined. So a worker that sleeps, or that the machine runs late, delays nobody. If another
thread of the program has a job open, the caller runs its own alone. Workers look for work as long as the pool's
patience lasts, and let others have the processor who want it (sched_yield); then they sleep in the kernel (futex), and
cost nothing.

The pool's memory is an array of 64-byte lines, one a field, so that no two fields share a line.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir

from moec.codegen.llvm import I1, I8, I32, I64, PTR, VOID, Emitter, Value, i64
from moec.codegen.stages import STAGE_TYPE
from moec.runtime.pool import Line
from moec.target import LINE, Target

PARALLEL_TYPE: Final = ir.FunctionType(VOID, [PTR, PTR, PTR, I64, I64, I64, PTR, I64])

#: Picoseconds of work below which a stage runs on the thread that calls.
WORTH_SHARING: Final = 20_000_000
#: Chunks of work for each thread: enough to even out experts of different sizes. At most so many there are in all, for
#: each thread: to take one costs the time of a line's way from one core to another.
_CHUNKS, _MOST = 8, 64
#: Looks after which a worker reads the clock: a pause takes 10 to 45 ns.
_LOOKS: Final = 64
#: Nanoseconds after which it lets others have the processor in between.
_ALONE: Final = 20_000
#: The number of `futex` and its operations on a word of one process (Linux, include/uapi/linux/futex.h).
_FUTEX: Final = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_WAIT, _WAKE = 128, 129
#: Of `clock_gettime`: a clock that never goes back.
_MONOTONIC: Final = 1


def supported(target: Target) -> bool:
    """Whether the pool can sleep on a target: it needs Linux and a known number of `futex`."""
    return target.architecture in _FUTEX and "linux" in target.triple


def emit_pool(target: Target) -> Any:
    """The LLVM module of the pool."""
    module = ir.Module("moec_pool")
    module.triple = target.triple
    chunks = _Chunks(module, target).emit()
    _Work(module, target, chunks).emit()
    _Parallel(module, target, chunks).emit()
    return module


class _Function:
    """A function of the pool: its emitter and its fields."""

    name: str
    type: Any

    def __init__(self, module: Any, target: Target) -> None:
        self.function = ir.Function(module, self.type, self.name)
        self.function.attributes.add("nounwind")
        self.e = Emitter(ir.IRBuilder(self.function.append_basic_block("entry")), target)
        self.b = self.e.b
        self.pool = self.function.args[0]

    def line(self, line: Line) -> Value:
        """The address of a field; llvmlite's atomics want pointers that know what they point to."""
        address = self.b.gep(self.pool, [i64(int(line) * LINE)], source_etype=I8)
        address.type = (I32 if line is Line.TICKET else I64).as_pointer()
        return address

    def read(self, line: Line, ordering: str = "acquire") -> Value:
        return self.b.load_atomic(self.line(line), ordering, 8, typ=I64)

    def write(self, line: Line, value: Value, ordering: str = "release") -> None:
        self.b.store_atomic(value, self.line(line), ordering, 8)

    def add(self, line: Line, value: int | Value) -> Value:
        """Adds to a field; what it was before."""
        value = i64(value) if isinstance(value, int) else value
        return self.b.atomic_rmw("add", self.line(line), value, "seq_cst")

    def pause(self) -> None:
        if self.e.target.architecture == "x86_64":
            self.e.call("llvm.x86.sse2.pause", VOID)

    def futex(self, operation: int, value: Value) -> None:
        """Sleeps while the ticket is `value`, or wakes as many as `value`."""
        number = _FUTEX[self.e.target.architecture]
        null = ir.Constant(PTR, None)
        arguments = [i64(number), self.line(Line.TICKET), i64(operation), value, null, null, i64(0)]
        self.b.call(self._system("syscall", ir.FunctionType(I64, [I64], var_arg=True)), arguments)

    def now(self, place: Value) -> Value:
        """Nanoseconds, by way of a `timespec` at a place."""
        b = self.b
        b.call(self._system("clock_gettime", ir.FunctionType(I32, [I32, PTR])), [I32(_MONOTONIC), place])
        seconds, rest = (b.load(self.e.at(place, i, 8), typ=I64, align=8) for i in (0, 1))
        return b.add(b.mul(seconds, i64(1_000_000_000)), rest)

    def give_way(self) -> None:
        """Lets whoever else wants this processor have it."""
        self.b.call(self._system("sched_yield", ir.FunctionType(I32, [])), [])

    def _system(self, name: str, type: Any) -> Any:
        """A function of the C library."""
        module = self.b.module
        return module.globals[name] if name in module.globals else ir.Function(module, type, name)

    def block(self, name: str) -> Any:
        return self.b.append_basic_block(name)


class _Chunks(_Function):
    """`void chunks(ptr pool, i64 worker)`: takes chunks of the open job until none is left."""

    name = "moec_chunks"
    type = ir.FunctionType(VOID, [PTR, I64])

    def emit(self) -> Any:
        b, e = self.b, self.e
        self.function.linkage = "internal"
        stage, frame, scratch = (b.inttoptr(self.read(line), PTR) for line in (Line.STAGE, Line.FRAME, Line.SCRATCH))
        units, chunk = self.read(Line.UNITS), self.read(Line.CHUNK)
        own = e.at(scratch, b.mul(self.function.args[1], self.read(Line.STRIDE)), 1)
        take, run, done = self.block("take"), self.block("run"), self.block("done")
        b.branch(take)
        b.position_at_end(take)
        first = self.add(Line.NEXT, chunk)
        b.cbranch(b.icmp_signed("<", first, units), run, done)
        b.position_at_end(run)
        stop = e.least(b.add(first, chunk), units)
        call(b, stage, STAGE_TYPE, [frame, first, stop, own])
        b.branch(take)
        b.position_at_end(done)
        b.ret_void()
        return self.function


class _Work(_Function):
    name = "moec_work"
    type = ir.FunctionType(VOID, [PTR, I64])

    def __init__(self, module: Any, target: Target, chunks: Any) -> None:
        super().__init__(module, target)
        self.chunks = chunks

    def emit(self) -> None:
        """`look` for another ticket than was `seen`; now and then `check` the clock: `share` the processor, `sleep`."""
        b = self.b
        blocks = "look", "idle", "check", "late", "share", "sleep", "join", "attempt", "joined", "again"
        look, idle, check, late, share, sleep, join, attempt, joined, again = map(self.block, blocks)
        time = b.alloca(I64, size=2)
        time.type = PTR
        first, begin = self._ticket(), self.now(time)
        start = b.block
        b.branch(look)
        b.position_at_end(look)
        seen, since, looks = b.phi(I32), b.phi(I64), b.phi(I64)

        def go_on(block: Any, ticket: Value, moment: Value, count: Value) -> None:
            for phi, value in ((seen, ticket), (since, moment), (looks, count)):
                phi.add_incoming(value, block)

        go_on(start, first, begin, i64(0))
        ticket = self._ticket()
        b.cbranch(b.icmp_unsigned("!=", ticket, seen), join, idle)
        b.position_at_end(idle)
        self.pause()
        following = b.add(looks, i64(1))
        go_on(idle, seen, since, following)
        b.cbranch(b.icmp_signed("<", following, i64(_LOOKS)), look, check)
        b.position_at_end(check)
        waited = b.sub(self.now(time), since)
        b.cbranch(b.icmp_signed(">", waited, self.read(Line.PATIENCE, "monotonic")), sleep, late)
        b.position_at_end(late)
        go_on(late, seen, since, i64(0))
        b.cbranch(b.icmp_signed(">", waited, i64(_ALONE)), share, look)
        b.position_at_end(share)
        self.give_way()
        go_on(share, seen, since, i64(0))
        b.branch(look)
        b.position_at_end(sleep)
        self.add(Line.SLEEPERS, 1)
        self.futex(_WAIT, b.zext(seen, I64))
        self.add(Line.SLEEPERS, -1)
        go_on(sleep, seen, self.now(time), i64(0))
        b.branch(look)
        b.position_at_end(join)
        state = self.read(Line.STATE)
        b.cbranch(b.trunc(state, I1), again, attempt)  # closed: the others were faster
        b.position_at_end(attempt)
        pair = b.cmpxchg(self.line(Line.STATE), state, b.add(state, i64(2)), "seq_cst", "acquire")
        b.cbranch(b.extract_value(pair, 1), joined, join)
        b.position_at_end(joined)
        b.call(self.chunks, self.function.args)
        self.add(Line.STATE, -2)
        b.branch(again)
        b.position_at_end(again)
        go_on(again, ticket, self.now(time), i64(0))
        b.branch(look)

    def _ticket(self) -> Value:
        return self.b.load_atomic(self.line(Line.TICKET), "acquire", 4, typ=I32)


class _Parallel(_Function):
    name = "moec_parallel"
    type = PARALLEL_TYPE

    def __init__(self, module: Any, target: Target, chunks: Any) -> None:
        super().__init__(module, target)
        self.chunks = chunks

    def emit(self) -> None:
        b = self.b
        _, stage, frame, units, busy, least, scratch, stride = self.function.args
        alone, shared = self.block("alone"), self.block("shared")
        pair = b.cmpxchg(self.line(Line.BUSY), i64(0), i64(1), "seq_cst", "monotonic")
        b.cbranch(b.extract_value(pair, 1), shared, alone)
        b.position_at_end(alone)
        call(b, stage, STAGE_TYPE, [frame, i64(0), units, scratch])
        b.ret_void()
        b.position_at_end(shared)
        size, chunk = self.read(Line.SIZE), least
        for all_of_them, chunks in ((busy, _CHUNKS), (units, _MOST)):
            share = b.udiv(all_of_them, b.mul(size, i64(chunks)))
            chunk = b.select(b.icmp_unsigned("<", chunk, share), share, chunk)
        fields = {
            Line.STAGE: b.ptrtoint(stage, I64),
            Line.FRAME: b.ptrtoint(frame, I64),
            Line.UNITS: units,
            Line.SCRATCH: b.ptrtoint(scratch, I64),
            Line.STRIDE: stride,
            Line.CHUNK: chunk,
            Line.NEXT: i64(0),
        }
        for line, value in fields.items():
            self.write(line, value)
        self._open()
        b.call(self.chunks, [self.pool, i64(0)])
        self._close()
        self.write(Line.BUSY, i64(0))
        b.ret_void()

    def _open(self) -> None:
        """Lets workers join, and wakes those who sleep."""
        b = self.b
        self.write(Line.STATE, i64(0), "seq_cst")
        b.atomic_rmw("add", self.line(Line.TICKET), ir.Constant(I32, 1), "seq_cst")
        with self.e.when(b.icmp_signed(">", self.read(Line.SLEEPERS, "seq_cst"), i64(0))):
            self.futex(_WAKE, self.read(Line.SIZE))

    def _close(self) -> None:
        """Lets nobody join any more, and waits for those who have."""
        b = self.b
        b.atomic_rmw("or", self.line(Line.STATE), i64(1), "seq_cst")
        wait, done = self.block("wait"), self.block("done")
        b.branch(wait)
        b.position_at_end(wait)
        self.pause()
        b.cbranch(b.icmp_unsigned("==", self.read(Line.STATE), i64(1)), done, wait)
        b.position_at_end(done)


def call(b: Any, address: Value, type: Any, arguments: list[Value]) -> Value:
    """A call through an address: llvmlite wants a pointer that knows its function's type."""
    typed = b.inttoptr(b.ptrtoint(address, I64), type.as_pointer())
    return b.call(typed, arguments)
