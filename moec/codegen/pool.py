"""The thread pool: workers that wait inside native code, and `parallel`, which cuts a stage among them.

`moec_work` is a worker's life, `moec_parallel` what a kernel calls. `busy` of the units are work, the others are those
of matrices that no row chose: chunks are small enough for the work to be shared out evenly, however it is spread, but
have at least `least` units.

One job is open at a time. Whoever is awake takes chunks of it until none is left; the caller takes part, and at the end
waits only for those who have joined. So a worker that sleeps, or that the machine runs late, delays nobody. If another
thread of the program has a job open, the caller runs its own alone. Workers look for work for a while and let others
have the processor who want it (sched_yield), then sleep in the kernel (futex), and cost nothing. Linux may wake one on
the processor of the caller, beside others that idle, and leave both there; so a worker that finds itself there moves.

Pools of all sizes share one crew of workers. A job has the size of its pool, in the word by which workers join it: only
the first of the crew do, each with its own part of the scratch, and the others do not even wake up.

The crew's memory is an array of 64-byte lines, one a field, so that no two fields share a line.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Generic

from llvmlite import ir

from moec.codegen.function import A, Address, Arguments, Integer
from moec.codegen.llvm import I1, I8, I32, I64, PTR, VOID, Emitter, Value, i64
from moec.codegen.stages import StageArguments
from moec.runtime.pool import Field, Line
from moec.target import LINE, Target

#: Picoseconds of work below which a stage runs on the thread that calls.
WORTH_SHARING: Final = 20_000_000
#: Chunks of work for each thread: enough to even out experts of different sizes. At most so many there are in all, for
#: each thread: to take one costs the time of a line's way from one core to another.
_CHUNKS, _MOST = 8, 64
#: Looks after which a worker reads the clock: a pause takes 10 to 45 ns.
_LOOKS: Final = 64
#: Nanoseconds for which a worker looks before it sleeps: longer than Python takes between two calls, and than a virtual
#: machine takes to wake somebody. (With 15 us two threads were no faster than one on a layer of 100 to 300 us, now they
#: are 1.4 to 2 times as fast.) After the first of them it lets others have the processor in between.
_PATIENCE, _ALONE = 200_000, 20_000
#: Who looks for work in another library and lets nobody have the processor (libgomp, OpenBLAS) loses it to who wakes
#: up, not to who waits for it. So a worker that misses a job while it looks sleeps early, as often as this at most.
_MOST_WARY: Final = 256
#: The number of `futex` and its operations on a word of one process (Linux, include/uapi/linux/futex.h).
_FUTEX: Final = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_WAIT_BITS, _WAKE_BITS, _EVERYBODY = 128 + 9, 128 + 10, (1 << 31) - 1
#: Those who sleep are told apart by this many bits; the last workers share one.
_BITS: Final = 32
#: Where the state of a crew has the size of the job.
_SIZE: Final = 32
#: Of `clock_gettime`: a clock that never goes back.
_MONOTONIC: Final = 1
#: Processors in a set of the C library's (`cpu_set_t`), and what gets and sets that of a thread.
_PROCESSORS: Final = 1024
_AFFINITY: Final = ir.FunctionType(I32, [I32, I64, PTR])


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


@dataclass(frozen=True)
class _WorkArguments(Arguments):
    """What a worker takes: its crew, and its number there."""

    crew: Address
    worker: Integer


@dataclass(frozen=True)
class ParallelArguments(Arguments):
    """What `parallel` takes: a stage, its frame, its units, and the scratch memory of the threads, which begins so many
    bytes behind that of the thread before."""

    pool: Address
    stage: Address
    frame: Address
    units: Integer
    busy: Integer
    least: Integer
    scratch: Address
    stride: Integer


class _Function(Generic[A]):
    """A function of the pool: its emitter and its fields, those of the crew at an address."""

    crew: Value

    def __init__(self, module: Any, target: Target, name: str, arguments: type[A]) -> None:
        self.function, self.given = arguments.declare(module, name)
        self.function.attributes.add("nounwind")
        self.e = Emitter(ir.IRBuilder(self.function.append_basic_block("entry")), target)
        self.b = self.e.b

    def line(self, field: Field) -> Value:
        """The address of a field; llvmlite's atomics want pointers that know what they point to."""
        address = self.b.gep(self.crew, [i64(int(field) * LINE)], source_etype=I8)
        address.type = (I32 if field is Field.TICKET else I64).as_pointer()
        return address

    def read(self, field: Field, ordering: str = "acquire") -> Value:
        return self.b.load_atomic(self.line(field), ordering, 8, typ=I64)

    def write(self, field: Field, value: Value, ordering: str = "release") -> None:
        self.b.store_atomic(value, self.line(field), ordering, 8)

    def add(self, field: Field, value: int | Value) -> Value:
        """Adds to a field; what it was before."""
        value = i64(value) if isinstance(value, int) else value
        return self.b.atomic_rmw("add", self.line(field), value, "seq_cst")

    def pause(self) -> None:
        if self.e.target.architecture == "x86_64":
            self.e.call("llvm.x86.sse2.pause", VOID)

    def futex(self, operation: int, value: Value, bits: Value) -> None:
        """Sleeps while the ticket is `value`, or wakes as many as `value` of those with one of the same bits."""
        number = _FUTEX[self.e.target.architecture]
        null = ir.Constant(PTR, None)
        arguments = [i64(number), self.line(Field.TICKET), i64(operation), value, null, null, bits]
        self.b.call(self._system("syscall", ir.FunctionType(I64, [I64], var_arg=True)), arguments)

    def now(self, place: Value) -> Value:
        """Nanoseconds, by way of a `timespec` at a place."""
        b = self.b
        b.call(self._system("clock_gettime", ir.FunctionType(I32, [I32, PTR])), [I32(_MONOTONIC), place])
        seconds, rest = (b.load(self.e.at(place, i, 8), typ=I64, align=8) for i in (0, 1))
        return b.add(b.mul(seconds, i64(1_000_000_000)), rest)

    def processor(self) -> Value:
        """The number of the processor that this thread is on."""
        return self.b.sext(self.b.call(self._system("sched_getcpu", ir.FunctionType(I32, [])), []), I64)

    def leave_callers_processor(self, mask: Value) -> None:
        """Moves this thread if it is where the caller is: by a set of processors without that one, then the set as it
        was. `mask` is room for a set. Nothing happens where there is no other."""
        b, e, size = self.b, self.e, i64(_PROCESSORS // 8)
        get, set = (self._system(f"sched_{verb}affinity", _AFFINITY) for verb in ("get", "set"))
        here = self.processor()
        with e.when(b.icmp_signed("==", here, self.read(Field.CALLER))):
            found = b.call(get, [I32(0), size, mask])
            with e.when(b.and_(b.icmp_signed("==", found, I32(0)), b.icmp_unsigned("<", here, i64(_PROCESSORS)))):
                place = e.at(mask, b.udiv(here, i64(8)), 1)
                before = b.load(place, typ=I8, align=1)
                bit = b.shl(I8(1), b.trunc(b.urem(here, i64(8)), I8))
                b.store(b.and_(before, b.not_(bit)), place, align=1)
                b.call(set, [I32(0), size, mask])
                b.store(before, place, align=1)
                b.call(set, [I32(0), size, mask])

    def give_way(self) -> None:
        """Lets whoever else wants this processor have it."""
        self.b.call(self._system("sched_yield", ir.FunctionType(I32, [])), [])

    def _system(self, name: str, type: Any) -> Any:
        """A function of the C library."""
        module = self.b.module
        return module.globals[name] if name in module.globals else ir.Function(module, type, name)

    def block(self, name: str) -> Any:
        return self.b.append_basic_block(name)


class _Chunks(_Function[_WorkArguments]):
    """Takes chunks of the open job until none is left."""

    def __init__(self, module: Any, target: Target) -> None:
        super().__init__(module, target, "moec_chunks", _WorkArguments)
        self.crew = self.given.crew

    def emit(self) -> Any:
        b, e = self.b, self.e
        self.function.linkage = "internal"
        pointers = (Field.STAGE, Field.FRAME, Field.SCRATCH)
        stage, frame, scratch = (b.inttoptr(self.read(field), PTR) for field in pointers)
        units, chunk = self.read(Field.UNITS), self.read(Field.CHUNK)
        own = e.at(scratch, b.mul(self.given.worker, self.read(Field.STRIDE)), 1)
        take, run, done = self.block("take"), self.block("run"), self.block("done")
        b.branch(take)
        b.position_at_end(take)
        first = self.add(Field.NEXT, chunk)
        b.cbranch(b.icmp_signed("<", first, units), run, done)
        b.position_at_end(run)
        stop = e.least(b.add(first, chunk), units)
        call(b, stage, StageArguments(frame=frame, begin=first, end=stop, scratch=own))
        b.branch(take)
        b.position_at_end(done)
        b.ret_void()
        return self.function


@dataclass(frozen=True)
class _Idle:
    """What a worker knows while it looks for work: the ticket that it has `seen`, the time `since` when it looks, the
    `looks` since it read the clock, whether it has `slept` meanwhile, how often it sleeps early (`wary`), and how often
    the next time (`doubt`)."""

    seen: Value
    since: Value
    looks: Value
    slept: Value
    wary: Value
    doubt: Value

    def values(self) -> list[Value]:
        return [getattr(self, field.name) for field in fields(self)]


class _Work(_Function[_WorkArguments]):
    def __init__(self, module: Any, target: Target, chunks: Any) -> None:
        super().__init__(module, target, "moec_work", _WorkArguments)
        self.crew, self.chunks = self.given.crew, chunks
        self.time, self.mask = (self.b.alloca(I64, size=size) for size in (2, _PROCESSORS // 64))
        self.time.type = self.mask.type = PTR

    def emit(self) -> None:
        """Looks for another ticket than was seen; there is no end."""
        b = self.b
        begin = _Idle(self._ticket(), self.now(self.time), i64(0), i64(0), i64(0), i64(1))
        self.look, idle, join, start = self.block("look"), self.block("idle"), self.block("join"), b.block
        b.branch(self.look)
        b.position_at_end(self.look)
        self.phis = [b.phi(value.type) for value in begin.values()]
        for phi, value in zip(self.phis, begin.values(), strict=True):
            phi.add_incoming(value, start)
        state = _Idle(*self.phis)
        ticket = self._ticket()
        b.cbranch(b.icmp_unsigned("!=", ticket, state.seen), join, idle)
        b.position_at_end(idle)
        self._wait(state)
        b.position_at_end(join)
        self._join(state, ticket)

    def _go_on(self, state: _Idle) -> None:
        """Looks again."""
        for phi, value in zip(self.phis, state.values(), strict=True):
            phi.add_incoming(value, self.b.block)
        self.b.branch(self.look)

    def _wait(self, state: _Idle) -> None:
        """There is no other ticket yet: a pause, now and then a look at the clock, and at last sleep."""
        b = self.b
        again, check, late, sleep = map(self.block, ("again", "check", "late", "sleep"))
        self.pause()
        looks = b.add(state.looks, i64(1))
        b.cbranch(b.icmp_signed("<", looks, i64(_LOOKS)), again, check)
        b.position_at_end(again)
        self._go_on(replace(state, looks=looks))
        b.position_at_end(check)
        waited = b.sub(self.now(self.time), state.since)
        patience = b.select(b.icmp_signed(">", state.wary, i64(0)), i64(_ALONE), i64(_PATIENCE))
        b.cbranch(b.icmp_signed(">", waited, patience), sleep, late)
        b.position_at_end(late)
        with self.e.when(b.icmp_signed(">", waited, i64(_ALONE))):
            self.give_way()
            self.leave_callers_processor(self.mask)
        self._go_on(replace(state, looks=i64(0)))
        b.position_at_end(sleep)
        self.add(Field.SLEEPERS, 1)
        bit = self.e.least(b.sub(self.given.worker, i64(1)), i64(_BITS - 1))
        self.futex(_WAIT_BITS, b.zext(state.seen, I64), b.shl(i64(1), bit))
        self.add(Field.SLEEPERS, -1)
        self._go_on(replace(state, since=self.now(self.time), looks=i64(0), slept=i64(1)))

    def _join(self, state: _Idle, ticket: Value) -> None:
        """There is another ticket: a job, unless it is for fewer threads, or the others were faster."""
        b = self.b
        ours, others, attempt, joined, done = map(self.block, ("ours", "others", "attempt", "joined", "done"))
        job = b.block
        self.leave_callers_processor(self.mask)
        open = self.read(Field.STATE)
        b.cbranch(b.icmp_unsigned("<", self.given.worker, b.lshr(open, i64(_SIZE))), ours, others)
        b.position_at_end(others)
        self._go_on(replace(state, seen=ticket))  # no less sleepy
        b.position_at_end(ours)
        closed = b.trunc(open, I1)
        wary, doubt = self._learn(state, b.or_(closed, b.icmp_signed(">", b.sub(ticket, state.seen), I32(1))))
        b.cbranch(closed, done, attempt)
        b.position_at_end(attempt)
        pair = b.cmpxchg(self.line(Field.STATE), open, b.add(open, i64(2)), "seq_cst", "acquire")
        b.cbranch(b.extract_value(pair, 1), joined, job)
        b.position_at_end(joined)
        b.call(self.chunks, self.given)
        self.add(Field.STATE, -2)
        b.branch(done)
        b.position_at_end(done)
        self._go_on(_Idle(ticket, self.now(self.time), i64(0), i64(0), wary, doubt))

    def _learn(self, state: _Idle, late: Value) -> tuple[Value, Value]:
        """How often to sleep early from now on, and the next time: more often if somebody who was awake and patient is
        `late` for a job, which is to say that it had no processor; as at first, if patience was worth it."""
        b = self.b
        patient = b.icmp_signed("==", b.or_(state.slept, state.wary), i64(0))
        robbed = b.and_(patient, late)
        long = b.icmp_signed(">", b.sub(self.now(self.time), state.since), i64(_ALONE))
        twice = self.e.least(b.mul(state.doubt, i64(2)), i64(_MOST_WARY))
        wary = b.select(robbed, state.doubt, self._less(state.wary))
        return wary, b.select(robbed, twice, b.select(b.and_(patient, long), i64(1), state.doubt))

    def _less(self, count: Value) -> Value:
        """One less, but not below 0."""
        return self.b.select(self.b.icmp_signed(">", count, i64(0)), self.b.sub(count, i64(1)), i64(0))

    def _ticket(self) -> Value:
        return self.b.load_atomic(self.line(Field.TICKET), "acquire", 4, typ=I32)


class _Parallel(_Function[ParallelArguments]):
    def __init__(self, module: Any, target: Target, chunks: Any) -> None:
        super().__init__(module, target, "moec_parallel", ParallelArguments)
        self.chunks = chunks
        self.crew = self.b.load(self.e.at(self.given.pool, Line.CREW * LINE, 1), typ=PTR, align=8)

    def emit(self) -> None:
        b, given = self.b, self.given
        size = b.load(self.e.at(given.pool, Line.SIZE * LINE, 1), typ=I64, align=8)
        alone, shared = self.block("alone"), self.block("shared")
        pair = b.cmpxchg(self.line(Field.BUSY), i64(0), i64(1), "seq_cst", "monotonic")
        b.cbranch(b.extract_value(pair, 1), shared, alone)
        b.position_at_end(alone)
        whole = StageArguments(frame=given.frame, begin=i64(0), end=given.units, scratch=given.scratch)
        call(b, given.stage, whole)
        b.ret_void()
        b.position_at_end(shared)
        chunk = given.least
        for all_of_them, chunks in ((given.busy, _CHUNKS), (given.units, _MOST)):
            share = b.udiv(all_of_them, b.mul(size, i64(chunks)))
            chunk = b.select(b.icmp_unsigned("<", chunk, share), share, chunk)
        values = {
            Field.STAGE: b.ptrtoint(given.stage, I64),
            Field.FRAME: b.ptrtoint(given.frame, I64),
            Field.UNITS: given.units,
            Field.SCRATCH: b.ptrtoint(given.scratch, I64),
            Field.STRIDE: given.stride,
            Field.CHUNK: chunk,
            Field.NEXT: i64(0),
            Field.CALLER: self.processor(),
        }
        for field, value in values.items():
            self.write(field, value)
        state = b.shl(size, i64(_SIZE))
        self._open(state, size)
        b.call(self.chunks, _WorkArguments(crew=self.crew, worker=i64(0)))
        self._close(state)
        self.write(Field.BUSY, i64(0))
        b.ret_void()

    def _open(self, state: Value, size: Value) -> None:
        """Lets workers join, and wakes those of them who sleep."""
        b = self.b
        self.write(Field.STATE, state, "seq_cst")
        b.atomic_rmw("add", self.line(Field.TICKET), ir.Constant(I32, 1), "seq_cst")
        with self.e.when(b.icmp_signed(">", self.read(Field.SLEEPERS, "seq_cst"), i64(0))):
            bits = b.sub(b.shl(i64(1), self.e.least(b.sub(size, i64(1)), i64(_BITS))), i64(1))
            self.futex(_WAKE_BITS, i64(_EVERYBODY), bits)

    def _close(self, state: Value) -> None:
        """Lets nobody join any more, and waits for those who have."""
        b = self.b
        b.atomic_rmw("or", self.line(Field.STATE), i64(1), "seq_cst")
        wait, done = self.block("wait"), self.block("done")
        b.branch(wait)
        b.position_at_end(wait)
        self.pause()
        b.cbranch(b.icmp_unsigned("==", self.read(Field.STATE), b.or_(state, i64(1))), done, wait)
        b.position_at_end(done)


def call(b: Any, address: Value, arguments: Arguments) -> Value:
    """A call through an address: llvmlite wants a pointer that knows its function's type."""
    typed = b.inttoptr(b.ptrtoint(address, I64), arguments.type().as_pointer())
    return b.call(typed, arguments)
