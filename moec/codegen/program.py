"""A whole program: its stages, the domains between them, and `moec_run`, which calls them in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llvmlite import ir
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from moec.codegen.batch import emit_batch
from moec.codegen.choose_matmul import choose_matmul
from moec.codegen.frame import (
    ALIGNMENT,
    CLOCK,
    FLAG,
    SCRATCH,
    WORKSPACE,
    Domain,
    Frame,
    Region,
    RunFrame,
    Word,
    row_bytes,
    row_layout,
    workspace_bytes,
)
from moec.codegen.function import Address, Arguments, Integer
from moec.codegen.gathered import SLACK, emit_gather
from moec.codegen.llvm import I64, PTR, Emitter, Value, i64, read_sizes
from moec.codegen.pool import WORTH_SHARING, ParallelArguments, call
from moec.codegen.sort import sort_rows, sort_slots
from moec.codegen.stages import Stage, StageArguments, Stages
from moec.dialects import plan
from moec.dialects.types import SelectionType, integer
from moec.formats import FORMATS
from moec.runtime.interface import Array, Interface, Packed
from moec.runtime.pool import Line
from moec.shapes import KernelShape, PanelShape
from moec.target import LINE, Target


def emit(module: ModuleOp, target: Target, special: bool = True, timed: bool = False) -> tuple[Any, Interface]:
    """The LLVM module of a plan, and the interface of its `moec_run`.

    Unless it is `special` the program reads its sizes from memory. A `timed` one leaves the processor's clock, before
    the first stage and after each, at the start of the workspace, i64.
    """
    (program,) = (op for op in module.body.block.ops if isinstance(op, plan.ProgramOp))
    return _Program(program, target, special, timed).emit()


@dataclass(frozen=True)
class RunArguments(Arguments):
    """What `moec_run` takes, as `moec.codegen.frame` says; it returns 0, or 1 where an index lay outside its table."""

    RESULT: ClassVar[Any] = I64

    tokens: Integer
    arguments: Address
    pool: Address


class _Program:
    def __init__(self, program: plan.ProgramOp, target: Target, special: bool, timed: bool) -> None:
        self.program = program
        self.timed = timed
        self.target = target
        self.module = ir.Module(program.sym_name.data)
        self.module.triple = target.triple
        if not special:
            read_sizes(self.module)
        self.frame = Frame()
        self.arguments: list[Word] = []
        self.regions: list[Region] = []
        self.domains: dict[SSAValue, Domain] = {}
        self.packed: list[Packed] = []
        self.block = program.body.block
        self.count = len(program.inputs)
        self._add_domain(Domain(self.block.args[0], 1))
        self.stages = Stages(self.module, target, self.frame, self.domains, program)
        self.outputs = self.stages.outputs

    def emit(self) -> tuple[Any, Interface]:
        self.arguments += [Word("rows", value) for value in (*self.block.args[1 : 1 + self.count], *self.outputs)]
        raw = self._raw_params()
        self.arguments += [Word("param", value) for value in raw]
        matmuls = [op for op in self.block.ops if isinstance(op, plan.MatmulOp)]
        self.arguments += [Word("panels", op.value) for op in matmuls]
        self.arguments.append(WORKSPACE)
        self.packed = [self._pack(op) for op in matmuls]
        self.frame.declare(*self.arguments, FLAG)
        if self.timed:
            self._reserve(Region(CLOCK, 0, 8 * (1 + len(list(self.block.ops)))))
        stages = [found for at, op in enumerate(self.block.ops) if (found := self._steps(op, at))]
        steps = [step for stage in stages for step in stage]
        scratch = max((step.scratch for step in steps if isinstance(step, Stage)), default=0)
        self.scratch = -(-scratch // ALIGNMENT) * ALIGNMENT
        self._reserve(Region(FLAG, 0, 64))
        self._reserve(Region(SCRATCH, 0, scratch))  # the last one: a pool's threads have theirs behind it
        self._run(stages)
        return self.module, self._interface(raw)

    def _raw_params(self) -> list[SSAValue]:
        """The parameters that are read as they are, not as panels."""
        params = self.block.args[1 + self.count :]
        products = {op for op in self.block.ops if isinstance(op, plan.MatmulOp)}
        return [param for param in params if any(use.operation not in products for use in param.uses)]

    def _pack(self, op: plan.MatmulOp) -> Packed:
        names = [self._param_name(value) for value in op.weights]
        views = tuple(tuple(step.data for step in steps) for steps in op.views)
        sizes = (integer(op.keys), integer(op.n), integer(op.k))
        storage = op.storage.data if op.storage else ""
        shape = _shape(op)
        panel = PanelShape(shape.columns) if storage else shape.panel
        return Packed(tuple(names), views, *sizes, str(panel), storage)

    def _quantized(self) -> dict[str, int]:
        """The parameters that are multiplied with quantised vectors, and the elements that share a scale there."""
        matmuls = [op for op in self.block.ops if isinstance(op, plan.MatmulOp) and _shape(op).form == "int8"]
        storage = [(op, op.storage.data) for op in matmuls if op.storage]
        lengths = [(value, FORMATS[name].layout.shared) for op, name in storage for value in op.weights]
        return {self._param_name(value): length for value, length in lengths}

    def _param_name(self, value: SSAValue) -> str:
        assert isinstance(value.owner, Block)
        return self.program.params.data[self.block.args.index(value) - 1 - self.count].data  # pyright: ignore

    # steps

    def _steps(self, op: Any, at: int) -> list[Any]:
        """What a call does for the operation at a place of the program, in order."""
        name = f"stage_{at}_{op.name.split('.')[1]}"
        match op:
            case plan.SingleOp():
                self._add_domain(Domain(op.domain, 0, fixed=1))
                return []
            case plan.ExpandOp():
                return [self._expand(op)]
            case plan.GroupOp():
                domain = self.domains[op.domain]
                self._reserve(domain.region(Word("order", op.result), 8))
                self._reserve(Region(Word("offsets", op.result), 0, 8 * (integer(op.keys) + 2)))
                return [op]
            case plan.RowsOp():
                for value in op.values:
                    self._buffer(value, self.domains[op.domain])
                return [self.stages.rows(op, name)]
            case plan.MatmulOp():
                domain = self.domains[op.domain]
                self._buffer(op.value, domain, SLACK if op.gathered else 0)
                matmul = choose_matmul(self.stages, op, name)
                self._reserve(*matmul.regions())
                return matmul.emit_all()
            case plan.GatherOp():
                self._buffer(op.value, self.domains[op.domain], SLACK)
                return [emit_gather(self.stages, op, name)]
            case plan.BatchOp():
                self._buffer(op.value, self.domains[op.into])
                return [emit_batch(self.stages, op, name)]
            case _:
                return []

    def _buffer(self, value: SSAValue, domain: Domain, slack: int = 0) -> None:
        if value not in self.outputs:
            assert isinstance(value.type, plan.RowsType)
            self._reserve(domain.region(Word("rows", value), row_bytes(value.type.row), slack))

    def _reserve(self, *regions: Region) -> None:
        """Regions of the workspace, behind those that there are."""
        self.frame.declare(*(region.word for region in regions))
        self.regions += regions

    def _add_domain(self, domain: Domain) -> None:
        self.frame.declare(domain.word("count"))
        self.domains[domain.value] = domain

    def _expand(self, op: plan.ExpandOp) -> plan.ExpandOp:
        outer = self.domains[op.domain]
        assert isinstance(op.slots.type, plan.RowsType) and isinstance(op.slots.type.row, SelectionType)
        type = op.slots.type.row
        slots, indices = integer(type.size), integer(type.domain)
        domain = Domain(op.rows, outer.per_token * slots, outer, op, slots, indices, outer.fixed * slots)
        self._add_domain(domain)
        for word in (Word("rows", op.index), Word("rows", op.slot), domain.word("parent"), domain.word("position")):
            self._reserve(domain.region(word, 8))
        self._reserve(Region(domain.word("offsets"), 0, 8 * (indices + 2)))
        return op

    # the call

    def _run(self, stages: list[list[Any]]) -> None:
        function, given = RunArguments.declare(self.module, "moec_run")
        e = Emitter(ir.IRBuilder(function.append_basic_block("entry")), self.target)
        for word in (*self.arguments, *(region.word for region in self.regions)):
            self.frame.number(word)
        for domain in self.domains.values():
            self.frame.number(domain.word("count"))
        words = e.b.alloca(I64, size=len(self.frame.numbers))
        words.type = PTR  # llvmlite would have it point to i64
        frame = RunFrame(e, self.frame, words)
        for position, word in enumerate(self.arguments):
            pointer = e.b.load(e.at(given.arguments, i64(position), 8), typ=PTR, align=8)
            frame.put(word, pointer)
        self._lay_out(frame, given.tokens)
        for domain in self.domains.values():
            if domain.outer is None:
                frame.put(domain.word("count"), i64(1) if domain.single else given.tokens)
        e.b.store(i64(0), frame.pointer_of(FLAG), align=8)
        self._read_clock(frame, 0)
        for position, steps in enumerate(stages, 1):
            for step in steps:
                self._call(frame, step, given.pool)
            self._read_clock(frame, position)
        e.b.ret(e.b.load(frame.pointer_of(FLAG), typ=I64, align=8))

    def _read_clock(self, frame: RunFrame, position: int) -> None:
        if self.timed:
            e = frame.e
            place = e.at(frame.pointer_of(CLOCK), position, 8)
            e.b.store(e.call("llvm.readcyclecounter", I64), place, align=8)

    def _lay_out(self, frame: RunFrame, tokens: Value) -> None:
        """Hands out the workspace: each part aligned, one after the other."""
        e, place = frame.e, frame.e.b.ptrtoint(frame.pointer_of(WORKSPACE), I64)
        for region in self.regions:
            frame.put(region.word, e.b.inttoptr(place, PTR))
            used = e.b.add(e.b.mul(tokens, i64(region.bytes_per_token)), i64(region.fixed + ALIGNMENT - 1))
            place = e.b.add(place, e.b.and_(used, i64(-ALIGNMENT)))

    def _call(self, frame: RunFrame, step: Any, pool: Value) -> None:
        match step:
            case Stage():
                self._stage(frame, step, pool)
            case plan.ExpandOp():
                sort_slots(frame, self.domains, step)
            case _:
                sort_rows(frame, self.domains, step)

    def _stage(self, frame: RunFrame, step: Stage, pool: Value) -> None:
        """Runs a stage: alone, or cut among a pool's threads where it is long enough to be worth it."""
        e, b, rows = frame.e, frame.e.b, frame.number_of(step.domain.word("count"))
        units = rows if step.units is None else i64(step.units)
        stage, scratch = self.module.globals[step.name], frame.pointer_of(SCRATCH)
        matrices = e.least(rows, i64(step.keys))
        cost = b.add(b.mul(rows, i64(step.row_cost)), b.mul(matrices, i64(step.key_cost)))
        null = ir.Constant(PTR, None)
        many = b.and_(b.icmp_unsigned("!=", pool, null), b.icmp_signed(">", cost, i64(WORTH_SHARING)))
        with e.either(many) as otherwise:
            parallel = b.load(e.at(pool, Line.PARALLEL * LINE, 1), typ=PTR, align=8)
            busy = b.mul(matrices, i64(step.units // step.keys)) if step.units and step.keys else units
            least = b.select(b.icmp_signed(">=", rows, i64(step.many)), i64(step.least_units), i64(1))
            arguments = ParallelArguments(
                pool=pool,
                stage=b.bitcast(stage, PTR),
                frame=frame.pointer,
                units=units,
                busy=busy,
                least=least,
                scratch=scratch,
                stride=i64(self.scratch),
            )
            call(b, parallel, arguments)
            otherwise()
            b.call(stage, StageArguments(frame=frame.pointer, begin=i64(0), end=units, scratch=scratch))

    def _interface(self, raw: list[SSAValue]) -> Interface:
        program, block, count = self.program, self.block, self.count
        inputs = [_array(name.data, arg.type) for name, arg in zip(program.inputs, block.args[1:], strict=False)]
        params = [
            _array(name.data, arg.type) for name, arg in zip(program.params, block.args[1 + count :], strict=True)
        ]
        names = [name.data for name in (*program.outputs, *program.aux)]
        outputs = [_array(name, value.type) for name, value in zip(names, self.outputs, strict=True)]
        per_token, fixed = workspace_bytes(self.regions)
        split = len(program.outputs)
        return Interface(
            program.sym_name.data,
            tuple(inputs),
            tuple(outputs[:split]),
            tuple(outputs[split:]),
            tuple(params),
            tuple(self._param_name(value) for value in raw),
            tuple(self.packed),
            per_token,
            fixed,
            self.scratch,
            self._quantized(),
            batch=any(isinstance(op, plan.BatchOp) for op in block.ops),
        )


def _shape(op: plan.MatmulOp) -> KernelShape:
    return KernelShape.parse(op.tile.data, op.dtype.data)


def _array(name: str, type: Any) -> Array:
    dtype, shape = row_layout(type.row if isinstance(type, plan.RowsType) else type)
    return Array(name, dtype, shape)
