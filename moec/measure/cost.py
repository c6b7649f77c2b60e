"""What a plan costs: rows, FLOPs and bytes of each stage, for a number of tokens.

Where a selection decides which matrices are touched, the number is what is expected when every token's K of E are as
likely as any other: R rows touch E (1 - (1 - K/E)^R). A selection that may have empty slots counts as full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from xdsl.dialects import arith
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from moec.dialects import moe, plan
from moec.dialects.inference import InferredOp
from moec.dialects.types import SelectionType, element_name, integer, static_shape
from moec.dtypes import DTYPES
from moec.runtime import pack
from moec.runtime.interface import Interface
from moec.shapes import KernelShape


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage. `kind` is its operation's in the plan, `name` the weights it multiplies or what it does to a row.

    `weights` are the bytes of weights that it reads, `moved` those of rows that it reads and writes. Of a product,
    `touched` of `keys` matrices [`n`, `k`] are read, with `tile`; `grouping` says how a row finds its matrix; its FLOPs
    are those of the product alone.
    """

    kind: str
    name: str
    rows: float
    flops: float
    weights: float
    moved: float
    keys: int = 0
    n: int = 0
    k: int = 0
    touched: float = 0.0
    tile: str = ""
    grouping: str = ""

    @property
    def nbytes(self) -> float:
        """All bytes that are read or written."""
        return self.weights + self.moved


@dataclass(frozen=True, slots=True)
class Analysis:
    """All stages of a program, in order. Where slots may be empty, their costs are the most that it can take."""

    stages: Sequence[StageCost]
    partial: bool = False

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    @property
    def weights(self) -> float:
        """Bytes of weights: what has to come from memory, while rows stay in caches."""
        return sum(stage.weights for stage in self.stages)

    @property
    def moved(self) -> float:
        return sum(stage.moved for stage in self.stages)


def analyse(module: ModuleOp, tokens: int) -> Analysis:
    """The cost of a module that holds a plan."""
    (program,) = (op for op in module.body.block.ops if isinstance(op, plan.ProgramOp))
    block = program.body.block
    counter = _Counter(block, tokens)
    return Analysis([cost for op in block.ops for cost in counter.stage(op)], any(map(_partial, program.walk())))


def param_count(interface: Interface) -> int:
    """How many numbers a layer's parameters are."""
    return sum(prod(param.shape) for param in interface.params)


def param_bytes(interface: Interface) -> int:
    """The bytes of a layer's parameters as they are declared."""
    return sum(prod(param.shape) * DTYPES[param.dtype].size for param in interface.params)


def packed_bytes(interface: Interface) -> int:
    """The bytes of the panels that a program reads."""
    return sum(map(pack.all_bytes, interface.packed))


@dataclass(frozen=True, slots=True)
class _Domain:
    """How many rows a domain has; each of `outer` rows chose `chosen` of `among`."""

    rows: float
    outer: float = 0.0
    chosen: int = 1
    among: int = 1


class _Counter:
    """Follows how many rows each domain of a program has."""

    def __init__(self, block: Block, tokens: int) -> None:
        self.domains: dict[SSAValue, _Domain] = {block.args[0]: _Domain(float(tokens))}
        self.params = [value for value in block.args[1:] if not isinstance(value.type, plan.RowsType)]

    def stage(self, op: Operation) -> Iterator[StageCost]:
        match op:
            case plan.SingleOp():
                self.domains[op.domain] = _Domain(1.0)
            case plan.ExpandOp():
                yield self._expand(op)
            case plan.GroupOp():
                rows = self.domains[op.domain].rows
                yield StageCost("group", f"sort by {op.key.name_hint or 'key'}", rows, 0.0, 0.0, 16 * rows)
            case plan.GatherOp():
                rows = self.domains[op.domain].rows
                moved = _bytes(_row(op.vector)) + _bytes(_row(op.value))
                yield StageCost("gather", f"gather {op.vector.name_hint or 'rows'}", rows, 0.0, 0.0, rows * moved)
            case plan.BatchOp():
                rows, row = self.domains[op.domain].rows, _bytes(_row(op.source))
                passes = rows if op.kind.data == "rank" else 1
                work = rows * passes * prod(static_shape(_row(op.source)))
                moved = rows * row * passes + self.domains[op.into].rows * _bytes(_row(op.value))
                name = f"{op.kind.data} {op.source.name_hint or 'rows'}"
                if op.factors is not None:
                    work *= 2 * prod(static_shape(_row(op.factors)))
                    moved += rows * _bytes(_row(op.factors))
                    name = f"{op.kind.data} {op.factors.name_hint or 'factors'} x {op.source.name_hint or 'rows'}"
                yield StageCost("batch", name, rows, work, 0.0, moved)
            case plan.MatmulOp():
                yield self._matmul(op)
            case plan.RowsOp():
                yield self._rows(op)
            case _:
                pass

    def _expand(self, op: plan.ExpandOp) -> StageCost:
        type, outer = _row(op.slots), self.domains[op.domain].rows
        chosen, among = integer(type.size), integer(type.domain)
        rows = outer * chosen
        self.domains[op.rows] = _Domain(rows, outer, chosen, among)
        return StageCost("expand", f"sort {op.slots.name_hint or 'slots'}", rows, 0.0, 0.0, 24 * rows)

    def _matmul(self, op: plan.MatmulOp) -> StageCost:
        n, k, keys, domain = integer(op.n), integer(op.k), integer(op.keys), self.domains[op.domain]
        shape = KernelShape.parse(op.tile.data, op.dtype.data)
        touched = self._touched(op, keys, domain)
        storage = op.storage.data if op.storage else ""
        epilogue = self._work(op.body.block, domain.rows)
        weights = touched * pack.packed_bytes(shape.panel, n, k, len(op.weights), storage) + epilogue.weights
        moved = domain.rows * (_bytes(_row(op.vector)) + _bytes(_row(op.value))) + epilogue.moved
        flops = 2.0 * domain.rows * n * k * len(op.weights)
        name = " ".join(value.name_hint or "?" for value in op.weights)
        grouping = op.grouping.data
        return StageCost(
            "matmul", name, domain.rows, flops, weights, moved, keys, n, k, touched, op.tile.data, grouping
        )

    @staticmethod
    def _touched(op: plan.MatmulOp, keys: int, domain: _Domain) -> float:
        """How many of the matrices are read."""
        match op.grouping.data:
            case "none":
                return min(1.0, domain.rows)
            case "index" if domain.among == keys:
                return distinct(keys, domain.chosen / keys, domain.outer)
            case _:
                return distinct(keys, 1 / keys, domain.rows)

    def _rows(self, op: plan.RowsOp) -> StageCost:
        count = self.domains[op.domain].rows
        work = self._work(op.body.block, count)
        moved = work.moved + sum(_bytes(_row(value)) for value in op.values) * count
        return StageCost("rows", _verbs(op), count, work.flops, work.weights, moved)

    def _work(self, block: Block, times: float) -> _Work:
        """What a block does that runs so often. A map counts as one operation, a `match` as the most of its arms."""
        work = _Work()
        for op in block.ops:
            work.add(_Work(_flops(op) * times, self._moved(op, times), self._read(op, times)))
            if isinstance(op, moe.MapOp):
                continue
            inner = [self._work(region.block, times * _turns(op)) for region in op.regions]
            for each in [_most(inner)] if isinstance(op, moe.MatchOp) else inner:
                work.add(each)
        return work

    def _moved(self, op: Operation, times: float) -> float:
        """Bytes of other stages' rows that an operation reads."""
        if not isinstance(op, plan.ReadOp):
            return 0.0
        return _bytes(op.result.type) * min(times, self.domains[plan.domain_of(op.source)].rows)

    def _read(self, op: Operation, times: float) -> dict[SSAValue, float]:
        """Bytes of parameters that an operation reads, by the part that they are. A view reads nothing yet."""
        match op:
            case moe.GatherOp() if (part := self._part(op.operand)) is not None:
                rows, picked = static_shape(op.operand.type)[0], static_shape(op.result.type)[0]
                return {op.result: _Part(part.nbytes / rows, part.among * rows).read(times, picked)}
            case moe.ExtractOp() if not static_shape(op.result.type):
                values: Sequence[SSAValue] = op.results
            case _:
                values = [] if isinstance(op, _VIEWS) else op.operands
        return {value: part.read(times) for value in values if (part := self._part(value)) is not None}

    def _part(self, value: SSAValue) -> _Part | None:
        """The part of a parameter that a value is a view of."""
        if value in self.params:
            return _Part(_bytes(value.type))
        op = value.owner
        if not isinstance(op, _VIEWS) or (whole := self._part(op.operands[0])) is None:
            return None
        chosen = isinstance(op, moe.ExtractOp) and not isinstance(op.index.owner, arith.ConstantOp)
        among = static_shape(op.operands[0].type)[0] if chosen else 1
        return _Part(min(whole.nbytes, _bytes(value.type)), whole.among * among)


#: Operations that only say where something lies.
_VIEWS = (moe.SliceOp, moe.ReshapeOp, moe.TransposeOp, moe.BroadcastOp, moe.ExtractOp)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a parameter: the `nbytes` of one of `among` that indices choose from."""

    nbytes: float
    among: int = 1

    def read(self, times: float, picked: int = 1) -> float:
        """The bytes that are expected to be read when so many of them are picked, so often."""
        return distinct(self.among, picked / self.among, times) * self.nbytes


@dataclass(slots=True)
class _Work:
    """FLOPs, bytes of other stages' rows, and bytes of parameters by the view that is read: who reads one again finds
    it in a cache."""

    flops: float = 0.0
    moved: float = 0.0
    read: dict[SSAValue, float] = field(default_factory=dict[SSAValue, float])

    @property
    def weights(self) -> float:
        return sum(self.read.values())

    def add(self, other: _Work) -> None:
        self.flops += other.flops
        self.moved += other.moved
        for value, nbytes in other.read.items():
            self.read[value] = max(nbytes, self.read.get(value, 0.0))


def _most(arms: Sequence[_Work]) -> _Work:
    """As much of each as any of the arms does."""
    largest = max(arms, key=lambda arm: arm.weights)
    return _Work(max(arm.flops for arm in arms), max(arm.moved for arm in arms), largest.read)


def distinct(among: int, share: float, draws: float) -> float:
    """How many of `among` are expected to be met when each draw meets a `share` of them."""
    return among * (1 - (1 - min(share, 1.0)) ** draws)


def _turns(op: Operation) -> int:
    """How often an operation runs its region."""
    slots = op.slots.type if isinstance(op, moe.SumOp | moe.EachOp) else None
    return integer(slots.size) if isinstance(slots, SelectionType) else 1


#: What does not say what a stage does.
_SILENT = frozenset({"extract", "at", "reshape", "slice", "yield", "broadcast"})


def _verbs(op: plan.RowsOp) -> str:
    """What a stage does to a row, in the names of its operations."""
    names = [inner.name.partition(".")[2] for inner in op.walk() if isinstance(inner, InferredOp)]
    return " ".join(name for name in dict.fromkeys(names) if name not in _SILENT) or "copy"


def _partial(op: Operation) -> bool:
    """Whether an operation works for slots of which some may be empty."""
    if not isinstance(op, plan.ExpandOp | moe.SumOp | moe.EachOp):
        return False
    type = _row(op.slots) if isinstance(op, plan.ExpandOp) else op.slots.type
    return isinstance(type, SelectionType) and type.partial


def _flops(op: Operation) -> float:
    if isinstance(op, moe.MapOp):
        return prod(static_shape(op.result.type)) * (len(list(op.body.block.ops)) - 1)
    if isinstance(op, moe.ContractOp):
        return 2.0 * prod(static_shape(op.weight.type))
    return float(prod(static_shape(op.operand.type))) if isinstance(op, moe.ReduceOp) else 0.0


def _row(value: SSAValue) -> Any:
    assert isinstance(value.type, plan.RowsType)
    return value.type.row


def _bytes(type: Any) -> float:
    if isinstance(type, SelectionType):
        return 8.0 * integer(type.size)
    return float(prod(static_shape(type)) * DTYPES[element_name(type)].size)
