"""`moe` to `plan`: cuts a layer into stages.

Contractions with weights become `plan.matmul`, over all tokens or over the slots of a selection grouped by expert; the
pointwise work on their sums goes along. A sparse sum that holds such contractions becomes a domain of its own for them;
what is left of it reads their results. Everything else is computed row by row in `plan.rows`, as late as it can be.

*Levels* order it: what a stage reads is stored on an earlier level, or computed by the rows stage of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import ArrayAttr, IndexType, IntegerAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.math import Math
from xdsl.ir import Block, BlockArgument, Operation, OpResult, Region, SSAValue
from xdsl.passes import ModulePass

from moec.dialects import moe, plan
from moec.dialects.types import I64, SelectionType, element_name, element_of, shape_of
from moec.formats import FORMATS
from moec.passes.views import WeightView, is_cast, is_heavy, weight_view
from moec.target import Form, KernelShape, Target


@dataclass(frozen=True)
class Schedule(ModulePass):
    """`target` prints as `moec.target.Target` does. Without `panels` nothing is packed: products are computed row by
    row, with weights as they lie."""

    name: ClassVar[str] = "schedule"

    target: str = ""
    panels: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = Target.parse(self.target) if self.target else Target.host()
        for layer in list(op.body.block.ops):
            if isinstance(layer, moe.LayerOp):
                program = _Scheduler(layer, target, self.panels).run()
                op.body.block.insert_op_before(program, layer)
                layer.detach()
                layer.erase()


# ── kinds of operations ───────────────────────────────────────────────────────────────────────────────────────────────

_VIEWS = (moe.ExtractOp, moe.SliceOp, moe.ReshapeOp, moe.TransposeOp, moe.AtOp)
_SCALAR = (*arith.Arith.operations, *Math.operations)


def captured(operation: Operation) -> list[SSAValue]:
    """What an operation reads, its regions included, and does not make itself."""
    inside = set(operation.walk())
    values: dict[SSAValue, None] = {}
    for inner in inside:
        for operand in inner.operands:
            maker = operand.owner.parent_op() if isinstance(operand.owner, Block) else operand.owner
            if maker not in inside:
                values[operand] = None
    return list(values)


def is_free(operation: Operation) -> bool:
    """Whether an operation costs nothing worth storing: constants, views, and arithmetic on such scalars."""
    if isinstance(operation, _VIEWS):
        return True
    if isinstance(operation, moe.MapOp):
        return is_cast(operation) and weight_view(operation.results[0]) is not None
    if not isinstance(operation, _SCALAR):
        return False
    return all(isinstance(operand, BlockArgument) or is_free(operand.owner) for operand in operation.operands)  # pyright: ignore[reportArgumentType]


@dataclass(eq=False)
class _Unit:
    """A stage in the making: contractions with what follows them, or a sparse sum that holds some."""

    contracts: list[moe.ContractOp] = field(default_factory=list[moe.ContractOp])
    epilogue: moe.MapOp | None = None
    loop: moe.SumOp | moe.EachOp | None = None
    level: int = 0

    @property
    def operations(self) -> list[Operation]:
        parts: list[Operation | None] = [*self.contracts, self.epilogue, self.loop]
        return [part for part in parts if part is not None]

    @property
    def result(self) -> SSAValue:
        return self.operations[-1].results[0]

    def reads(self) -> list[SSAValue]:
        """What must be there before the stage runs."""
        made = {contract.result for contract in self.contracts}
        values = [value for operation in self.operations for value in captured(operation)]
        return [value for value in values if value not in made]


class _Scheduler:
    """Builds one program. `stored` maps a value of the layer to the rows that hold it."""

    def __init__(self, layer: moe.LayerOp, target: Target, panels: bool) -> None:
        self.layer = layer
        self.target = target
        self.panels = panels
        self.block = Block(arg_types=[plan.DomainType()])
        self.stored: dict[SSAValue, SSAValue] = {}
        self.params: dict[SSAValue, SSAValue] = {}
        self.domains: dict[Operation, SSAValue] = {}
        self.shapes = _common_shapes(layer, target)

    def run(self) -> plan.ProgramOp:
        layer, source = self.layer, self.layer.body.block
        count = len(layer.inputs)
        for argument in source.args:
            is_input = argument.index < count
            type = plan.RowsType(argument.type) if is_input else argument.type
            new = self.block.insert_arg(type, len(self.block.args))
            new.name_hint = argument.name_hint
            (self.stored if is_input else self.params)[argument] = new
        body = _Body(self, source, self.block.args[0])
        body.emit()
        last = source.last_op
        assert isinstance(last, moe.ReturnOp)
        self.add(plan.ReturnOp.build(operands=[body.leave(last.values)]))
        properties = {
            name: layer.properties[name] for name in ("sym_name", "inputs", "params", "outputs", "aux", "types")
        }
        return plan.ProgramOp.build(properties=properties, regions=[Region(self.block)])

    def shape(self, contract: moe.ContractOp, view: WeightView, interleaved: int) -> KernelShape:
        """The microkernel for so many matrices: the program's common one, if they can share its panels."""
        form = code_form(contract, self.target)
        if form is not None:
            return self.target.code_shape(form, element_name(contract.vector.type), view.columns, interleaved)
        dtype = view.panels(self.target)
        common = self.shapes[dtype]
        usable = self.target.rate(common, view.columns, interleaved) > 0
        return common if usable else self.target.kernel(dtype, view.columns, interleaved)

    def add(self, operation: Operation) -> Operation:
        self.block.add_op(operation)
        return operation


class _Body:
    """A block of the layer and the domain whose rows it describes."""

    def __init__(self, scheduler: _Scheduler, block: Block, domain: SSAValue) -> None:
        self.scheduler = scheduler
        self.block = block
        self.domain = domain
        self.operations = [op for op in block.ops if not isinstance(op, moe.YieldOp | moe.ReturnOp)]
        self.units = self._find_units()
        self.unit_of = {op: unit for unit in self.units for op in unit.operations}
        self.levels: dict[Operation, int] = {}
        self.gathered: dict[tuple[object, ...], SSAValue] = {}
        self._set_levels()

    # units

    def _find_units(self) -> list[_Unit]:
        taken: dict[Operation, _Unit] = {}
        if not self.scheduler.panels:
            return []
        for operation in self.operations:
            if isinstance(operation, moe.MapOp) and not is_free(operation):
                unit = self._fused(operation, taken)
                if unit is not None:
                    taken.update(dict.fromkeys(unit.operations, unit))
        for operation in self.operations:
            if operation in taken:
                continue
            if isinstance(operation, moe.ContractOp) and weight_view(operation.weight) is not None:
                taken[operation] = _Unit(contracts=[operation])
            elif isinstance(operation, moe.SumOp | moe.EachOp) and is_heavy(operation):
                taken[operation] = _Unit(loop=operation)
        return list(dict.fromkeys(taken[operation] for operation in self.operations if operation in taken))

    def _fused(self, consumer: moe.MapOp, taken: dict[Operation, _Unit]) -> _Unit | None:
        """The contractions that a map follows: those of one vector by one index, if nobody else reads their sums."""
        candidates: list[moe.ContractOp] = []
        for value in consumer.arrays:
            owner = value.owner
            if not isinstance(owner, moe.ContractOp) or owner.parent is not self.block or owner in taken:
                continue
            if weight_view(owner.weight) is not None and all(use.operation is consumer for use in value.uses):
                candidates.append(owner)
        others = [v for v in consumer.arrays if v.owner not in candidates]
        if not candidates or not all(map(self._flat, others)):
            return None
        last = max(candidates, key=self.operations.index)
        group = [contract for contract in candidates if _alike(contract, last)]
        if not self._interleaves(group):
            group = [last]
        return _Unit(contracts=list(dict.fromkeys(group)), epilogue=consumer)

    def _flat(self, value: SSAValue) -> bool:
        """Whether an array can be read at any column of a tile: stored, or a row of a parameter."""
        owner = value.owner
        while isinstance(owner, moe.ExtractOp):
            owner = owner.operand.owner
        return isinstance(owner, Block) or not isinstance(owner, (*_VIEWS, moe.BroadcastOp))

    def _interleaves(self, group: Sequence[moe.ContractOp]) -> bool:
        view = weight_view(group[0].weight)
        assert view is not None
        target = self.scheduler.target
        form = code_form(group[0], target)
        if form is not None:
            return target.code_shape(form, "f32", view.columns, len(group)).columns % len(group) == 0
        vectors = [shape.vectors for shape in target.choices(view.panels(target))]
        return any(count % len(group) == 0 for count in vectors)

    # levels

    def _set_levels(self) -> None:
        for operation in self.operations:
            unit = self.unit_of.get(operation)
            if unit is None:
                self.levels[operation] = max(map(self.ready, captured(operation)), default=0)
            elif operation is unit.operations[-1]:
                unit.level = max(map(self.ready, unit.reads()), default=0)
        last = self.block.last_op
        assert last is not None
        self.last_level = max(map(self.ready, last.operands), default=0)
        self._delay()

    def ready(self, value: SSAValue) -> int:
        """The level on whose rows stage a value can be read or computed."""
        owner = value.owner
        if isinstance(owner, Block) or owner.parent is not self.block:
            return 0
        if owner in self.unit_of:
            return self.unit_of[owner].level + 1
        return self.levels[owner]

    def _delay(self) -> None:
        """Moves row-by-row work to the latest level on which somebody reads it, so that less is stored."""
        for operation in reversed(self.operations):
            if operation in self.unit_of:
                continue
            readers = [self._reader(use.operation) for result in operation.results for use in result.uses]
            levels = [level for level in readers if level is not None]
            if levels:
                self.levels[operation] = min(levels)

    def _reader(self, operation: Operation) -> int | None:
        while operation.parent is not self.block:
            parent = operation.parent_op()
            assert parent is not None
            operation = parent
        if operation in self.unit_of:
            return self.unit_of[operation].level
        return self.levels.get(operation, self.last_level)

    # stages

    def emit(self) -> None:
        """Appends the stages of this block to the program, level by level."""
        requests = self._requests()
        top = max([self.last_level, *(unit.level for unit in self.units)])
        for level in range(top + 1):
            wanted = [value for value, at in requests.items() if at == level and value not in self.scheduler.stored]
            self.rows(wanted)
            for unit in self.units:
                if unit.level == level:
                    self._loop(unit.loop) if unit.loop is not None else self._matmul(unit)

    def _requests(self) -> dict[SSAValue, int]:
        """The values that have to be stored, each with the level on which it can be."""
        wanted: dict[SSAValue, int] = {}
        for unit in self.units:
            for value in self._direct(unit):
                wanted[value] = self.ready(value)
            for value in unit.reads():
                wanted.update(self._roots(value, inside=unit.loop is not None))
        for operation, level in self.levels.items():
            if not is_free(operation):
                wanted.update(self._earlier(captured(operation), level))
        last = self.block.last_op
        assert last is not None
        if isinstance(last, moe.ReturnOp):
            wanted.update(self._earlier(last.operands, self.last_level))
        return wanted

    def _direct(self, unit: _Unit) -> list[SSAValue]:
        """What a stage, or one inside it, reads as a whole from memory: vectors, keys, selections."""
        wanted: list[SSAValue] = []
        for operation in unit.operations:
            for inner in operation.walk():
                if isinstance(inner, moe.SumOp | moe.EachOp) and is_heavy(inner):
                    wanted.append(inner.slots)
                elif isinstance(inner, moe.ContractOp) and (view := weight_view(inner.weight)) is not None:
                    wanted += [inner.vector, *view.indices]
        params = self.scheduler.params  # a stage reads rows: of what is the same for all, each row is a copy
        return [value for value in wanted if self._here(value) or self._summed(value) or value in params]

    def _summed(self, value: SSAValue) -> bool:
        """Whether a value is the result of a loop of this block: its stages store the parts, not the whole."""
        unit = self.unit_of.get(value.op) if isinstance(value, OpResult) else None
        return unit is not None and unit.loop is not None

    def _here(self, value: SSAValue) -> bool:
        return isinstance(value, OpResult) and value.op.parent is self.block and value.op not in self.unit_of

    def _roots(self, value: SSAValue, inside: bool = False) -> dict[SSAValue, int]:
        """The values worth storing that a value is made of by free operations. `inside` a loop, whose rows are others,
        the result of another loop cannot be put together."""
        if inside and self._summed(value):
            return {value: self.ready(value)}
        if not self._here(value) or weight_view(value) is not None:
            return {}
        assert isinstance(value, OpResult)
        if not is_free(value.op):
            return {value: self.levels[value.op]}
        found: dict[SSAValue, int] = {}
        for operand in captured(value.op):
            found.update(self._roots(operand, inside))
        return found

    def _earlier(self, values: Iterable[SSAValue], level: int) -> dict[SSAValue, int]:
        found: dict[SSAValue, int] = {}
        for value in values:
            found.update({root: at for root, at in self._roots(value).items() if at < level})
        return found

    def rows(self, values: Sequence[SSAValue]) -> None:
        """A stage that stores values, computed row by row."""
        if not values:
            return
        block = Block(arg_types=[IndexType()])
        block.args[0].name_hint = "row"
        cloner = _Cloner(self.scheduler, self.block, block, block.args[0])
        results = [cloner(value) for value in values]
        block.add_op(plan.YieldOp.build(operands=[results]))
        types = [plan.RowsType(value.type) for value in values]
        stage = plan.RowsOp.build(operands=[self.domain], regions=[Region(block)], result_types=[types])
        self.scheduler.add(stage)
        for value, result in zip(values, stage.results, strict=True):
            result.name_hint = value.name_hint
            self.scheduler.stored[value] = result

    def leave(self, values: Sequence[SSAValue]) -> list[SSAValue]:
        """The rows that hold a layer's outputs: a stage's own results, each once; everything else is copied."""
        scheduler = self.scheduler
        direct = [scheduler.stored.get(value) for value in values]
        owners = [isinstance(rows, OpResult) and direct.count(rows) == 1 for rows in direct]
        if not all(owners):
            copied = [value for value, own in zip(values, owners, strict=True) if not own]
            kept = {
                value: scheduler.stored.pop(value)
                for value in copied
                if isinstance(scheduler.stored.get(value), OpResult)
            }
            results = self._copies(copied)
            scheduler.stored.update(kept)
            direct = [rows if own else next(results) for rows, own in zip(direct, owners, strict=True)]
        return [rows for rows in direct if rows is not None]

    def _copies(self, values: Sequence[SSAValue]) -> Iterator[SSAValue]:
        block = Block(arg_types=[IndexType()])
        cloner = _Cloner(self.scheduler, self.block, block, block.args[0])
        block.add_op(plan.YieldOp.build(operands=[[cloner(value) for value in values]]))
        types = [plan.RowsType(value.type) for value in values]
        stage = plan.RowsOp.build(operands=[self.domain], regions=[Region(block)], result_types=[types])
        self.scheduler.add(stage)
        return iter(stage.results)

    def _loop(self, loop: moe.SumOp | moe.EachOp) -> None:
        """The domain of a sparse sum and the stages that run over it."""
        scheduler, body = self.scheduler, loop.body.block
        types = [plan.DomainType(), plan.RowsType(I64), plan.RowsType(I64)]
        expand = plan.ExpandOp.build(operands=[self.domain, scheduler.stored[loop.slots]], result_types=types)
        scheduler.add(expand)
        expand.rows.name_hint, expand.index.name_hint, expand.slot.name_hint = "slots", "index", "slot"
        scheduler.stored[body.args[0]], scheduler.stored[body.args[1]] = expand.index, expand.slot
        scheduler.domains[loop] = expand.rows
        _Body(scheduler, body, expand.rows).emit()

    def _matmul(self, unit: _Unit) -> None:
        scheduler = self.scheduler
        views = [weight_view(contract.weight) for contract in unit.contracts]
        first = views[0]
        assert first is not None
        grouping, group = self._grouping(first)
        shape = scheduler.shape(unit.contracts[0], first, len(views))
        vector = scheduler.stored[unit.contracts[0].vector]
        if shape.form == "amx":
            vector = self._gather(vector, grouping, group, shape, first)
        stage = plan.MatmulOp.build(
            operands=[
                self.domain,
                vector,
                group,
                [scheduler.params[view.param] for view in views if view is not None],
            ],
            properties={
                "grouping": StringAttr(grouping),
                "views": ArrayAttr([ArrayAttr([StringAttr(step) for step in view.steps]) for view in views if view]),
                "keys": IntegerAttr(first.keys, 64),
                "n": IntegerAttr(first.columns, 64),
                "k": IntegerAttr(first.depth, 64),
                "dtype": StringAttr(shape.dtype),
                "tile": StringAttr(shape.tile),
                **({"storage": StringAttr(first.storage)} if first.storage else {}),
            },
            regions=[self._epilogue(unit)],
            result_types=[plan.RowsType(unit.result.type)],
        )
        scheduler.add(stage)
        stage.value.name_hint = unit.result.name_hint
        scheduler.stored[unit.result] = stage.value

    def _grouping(self, view: WeightView) -> tuple[str, list[SSAValue]]:
        """How the rows find their matrix."""
        if not view.indices:
            return "none", []
        scheduler = self.scheduler
        expand = self.domain.owner
        if (
            isinstance(expand, plan.ExpandOp)
            and len(view.indices) == 1
            and scheduler.stored[view.indices[0]] is expand.index
        ):
            return "index", []
        key = scheduler.stored[view.indices[0]] if len(view.indices) == 1 else self._linear(view)
        group = plan.GroupOp.build(
            operands=[self.domain, key],
            properties={"keys": IntegerAttr(view.keys, 64)},
            result_types=[plan.GroupType()],
        )
        scheduler.add(group)
        return "key", [group.result]

    def _gather(
        self, vector: SSAValue, grouping: str, group: list[SSAValue], shape: KernelShape, view: WeightView
    ) -> SSAValue:
        """A stage that copies vectors together for a product in tiles; products of the same rows share it."""
        key = (self.domain, vector, grouping, *group)
        if key not in self.gathered:
            length = shape.steps(view.depth) * shape.kstep
            assert isinstance(vector.type, plan.RowsType)
            row = TensorType(element_of(vector.type.row), [length])
            stage = plan.GatherOp.build(
                operands=[self.domain, vector, group],
                properties={"grouping": StringAttr(grouping), "keys": IntegerAttr(view.keys, 64)},
                result_types=[plan.RowsType(row)],
            )
            self.scheduler.add(stage)
            stage.value.name_hint = vector.name_hint
            self.gathered[key] = stage.value
        return self.gathered[key]

    def _linear(self, view: WeightView) -> SSAValue:
        """A stage that joins several indices into one key."""
        block = Block(arg_types=[IndexType()])
        cloner = _Cloner(self.scheduler, self.block, block, block.args[0])
        total = cloner(view.indices[0])
        for index, size in zip(view.indices[1:], view.lead[1:], strict=True):
            factor = arith.ConstantOp(IntegerAttr(size, 64))
            scaled = arith.MuliOp(total, factor.result)
            # An index beyond its axis must not pass for one of the next matrix: it becomes a key that there is not.
            inside = arith.CmpiOp(cloner(index), factor.result, "ult")
            nowhere = arith.ConstantOp(IntegerAttr(view.keys, 64))
            local = arith.SelectOp(inside.result, cloner(index), nowhere.result)
            joined = arith.AddiOp(scaled.result, local.result)
            block.add_ops([factor, scaled, inside, nowhere, local, joined])
            total = joined.result
        block.add_op(plan.YieldOp.build(operands=[[total]]))
        stage = plan.RowsOp.build(operands=[self.domain], regions=[Region(block)], result_types=[[plan.RowsType(I64)]])
        self.scheduler.add(stage)
        return stage.results[0]

    def _epilogue(self, unit: _Unit) -> Region:
        block = Block(arg_types=[IndexType(), *(contract.result.type for contract in unit.contracts)])
        cloner = _Cloner(self.scheduler, self.block, block, block.args[0])
        for contract, argument in zip(unit.contracts, block.args[1:], strict=True):
            cloner.made[contract.result] = argument
        block.add_op(plan.YieldOp.build(operands=[[cloner(unit.result)]]))
        return Region(block)


def code_form(contract: moe.ContractOp, target: Target) -> Form | None:
    """How the codes of a stored weight are multiplied in registers; None where they are decoded first, or dense.

    Beside rows of bf16 that takes codes of so few bits that they can be looked up, on machines that multiply pairs."""
    view = weight_view(contract.weight)
    if view is None or not view.storage:
        return None
    if contract.activations is not None:
        return "int8"
    layout = FORMATS[view.storage].layout
    return "codes" if layout.bits <= 6 and view.dtype == "bf16" and target.kernel("bf16").form == "dot" else None


def _common_shapes(layer: moe.LayerOp, target: Target) -> dict[str, KernelShape]:
    """For each element type of weights the one shape that does best for all products together.

    One shape is one family of microkernels, and each of those costs LLVM some ten milliseconds.
    """
    contracts = [op for op in layer.walk() if isinstance(op, moe.ContractOp) and weight_view(op.weight) is not None]
    contracts = [op for op in contracts if code_form(op, target) is None]
    useful: dict[KernelShape, float] = {}
    for contract in contracts:
        view = weight_view(contract.weight)
        assert view is not None
        alike = sum(other.parent is contract.parent and _alike(contract, other) for other in contracts)
        work = view.columns * view.depth
        for shape in target.choices(view.panels(target)):
            rate = target.rate(shape, view.columns, alike) or target.rate(shape, view.columns) / 2
            useful[shape] = useful.get(shape, 0.0) + work * rate
    best: dict[str, KernelShape] = {}
    for shape in sorted(useful, key=lambda shape: useful[shape]):
        best[shape.dtype] = shape
    return best


def _alike(left: moe.ContractOp, right: moe.ContractOp) -> bool:
    """Whether two contractions can share every panel."""
    a, b = weight_view(left.weight), weight_view(right.weight)
    assert a is not None and b is not None
    same = (a.indices, a.lead, a.columns, a.depth) == (b.indices, b.lead, b.columns, b.depth)
    same = same and (a.dtype, a.storage, left.activations) == (b.dtype, b.storage, right.activations)
    return same and left.vector is right.vector and shape_of(left.result.type) == shape_of(right.result.type)


class _Cloner:
    """Copies what a value is computed from into a stage's region, down to what is stored.

    `source` is the block of the layer that the region's row stands for. The values of the blocks around it are copied
    by `outer`, into the region around.
    """

    def __init__(
        self, scheduler: _Scheduler, source: Block, block: Block, row: SSAValue, outer: _Cloner | None = None
    ) -> None:
        self.scheduler = scheduler
        self.source = source
        self.block = block
        self.row = row
        self.outer = outer
        self.made: dict[SSAValue, SSAValue] = {}

    def __call__(self, value: SSAValue) -> SSAValue:
        if value not in self.made:
            self.made[value] = self._clone(value)
        return self.made[value]

    def _clone(self, value: SSAValue) -> SSAValue:
        scheduler, owner = self.scheduler, value.owner
        if value in scheduler.params:
            return scheduler.params[value]
        home = owner if isinstance(owner, Block) else owner.parent
        if home is not self.source and self.outer is not None:
            return self.outer(value)
        if value in scheduler.stored:
            return self._add(plan.read(scheduler.stored[value], self.row))
        assert isinstance(owner, Operation), value
        if owner in scheduler.domains:
            assert isinstance(owner, moe.SumOp | moe.EachOp)
            return self._rest(owner)
        return self._add(owner.clone({operand: self(operand) for operand in captured(owner)}))

    def _add(self, operation: Operation) -> SSAValue:
        self.block.add_op(operation)
        return operation.results[0]

    def _rest(self, loop: moe.SumOp | moe.EachOp) -> SSAValue:
        """What is left of a sparse sum whose products run as stages: it reads their results, slot by slot."""
        slots = self(loop.slots)
        body = Block(arg_types=[I64, I64])
        domain = self.scheduler.domains[loop]
        descend = plan.DescendOp.build(operands=[domain, self.row, body.args[1]], result_types=[IndexType()])
        body.add_op(descend)
        inner = _Cloner(self.scheduler, loop.body.block, body, descend.result, self)
        inner.made.update(zip(loop.body.block.args, body.args, strict=True))
        region = moe.region_of([], [inner(moe.yielded(loop.body)[0])], body)
        return self._add(type(loop).make(slots, regions=[region]))


__all__ = ["Schedule", "SelectionType"]
