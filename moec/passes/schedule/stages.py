"""The stages of a program, level by level: for each block of the layer the domain whose rows it describes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeGuard

from xdsl.dialects import arith
from xdsl.dialects.builtin import ArrayAttr, IndexType, IntegerAttr, StringAttr, TensorType
from xdsl.ir import Attribute, Block, Operation, OpResult, Region, SSAValue

from moec.dialects import moe, plan
from moec.dialects.types import I64, element_of
from moec.passes.constants import apart, computed_once
from moec.passes.schedule.cloner import Cloner, Places
from moec.passes.schedule.kernels import choose_shape, common_shapes
from moec.passes.schedule.levels import Levels
from moec.passes.schedule.units import Unit, find_units
from moec.passes.views import WeightView, weight_view
from moec.shapes import KernelShape
from moec.target import Target


class Program:
    """A program in the making: its operations so far, and where they left what the layer's values stand for."""

    def __init__(self, layer: moe.LayerOp, target: Target, panels: bool) -> None:
        self.layer = layer
        self.target = target
        self.panels = panels
        self.block = Block(arg_types=[plan.DomainType()])
        #: The domain of one row, for what all tokens have in common, if there is such.
        self.single: SSAValue | None = None
        self.places = Places()
        self.shapes = common_shapes(layer, target)

    def build(self) -> plan.ProgramOp:
        """The layer as a program."""
        layer, source, places = self.layer, self.layer.body.block, self.places
        count = len(layer.inputs)
        for argument in source.args:
            is_input = argument.index < count
            type = plan.RowsType(argument.type) if is_input else argument.type
            new = self.block.insert_arg(type, len(self.block.args))
            new.name_hint = argument.name_hint
            (places.stored if is_input else places.params)[argument] = new
        values, needed = computed_once(source, places.params)
        once = apart(source, values, needed)
        others = needed.union(once)
        tokens = _Body(self, source, self.block.args[0], [op for op in source.ops if op not in others])
        bodies = [tokens]
        if values or any(unit.batch is not None and unit.batch.same for unit in tokens.units):
            single = plan.SingleOp.build(result_types=[plan.DomainType()])
            self.add(single)
            self.single = single.domain
            bodies.insert(0, _Body(self, source, self.single, once))
        mine = {operation for body in bodies for operation in body.operations}
        units = [unit for body in bodies for unit in body.units]
        _emit(bodies, Levels(source, [op for op in source.ops if op in mine], units, places.params, once, values))
        last = source.last_op
        assert isinstance(last, moe.ReturnOp)
        self.add(plan.ReturnOp.build(operands=[tokens.leave(last.values)]))
        properties = {
            name: layer.properties[name] for name in ("sym_name", "inputs", "params", "outputs", "aux", "types")
        }
        return plan.ProgramOp.build(properties=properties, regions=[Region(self.block)])

    def add(self, operation: Operation) -> None:
        self.block.add_op(operation)


class _Rows:
    """A block of the layer and the domain whose rows it describes: stages that go row by row."""

    def __init__(self, program: Program, block: Block, domain: SSAValue) -> None:
        self.program = program
        self.places = program.places
        self.block = block
        self.domain = domain

    def store(self, values: Sequence[SSAValue]) -> None:
        """A stage that stores values, computed row by row."""
        if not values:
            return
        results = self._rows_of(values)
        for value, result in zip(values, results, strict=True):
            result.name_hint = value.name_hint
            self.places.stored[value] = result

    def _rows_of(self, values: Sequence[SSAValue]) -> Sequence[SSAValue]:
        """A stage that computes values row by row; its results."""
        block, clone = self._region()
        return self._end(block, [clone(value) for value in values], [value.type for value in values])

    def _region(self, *arguments: Attribute) -> tuple[Block, Cloner]:
        """The block of a stage, and what copies into it."""
        block = Block(arg_types=[IndexType(), *arguments])
        block.args[0].name_hint = "row"
        return block, Cloner(self.places, self.block, block, block.args[0])

    def _end(self, block: Block, values: Sequence[SSAValue], types: Sequence[Attribute]) -> Sequence[SSAValue]:
        """Makes a `plan.rows` of a block; its results."""
        block.add_op(plan.YieldOp.build(operands=[values]))
        rows = [plan.RowsType(type) for type in types]
        stage = plan.RowsOp.build(operands=[self.domain], regions=[Region(block)], result_types=[rows])
        self.program.add(stage)
        return stage.results


class _Body(_Rows):
    """The operations of a block that work on the rows of one domain, and their stages."""

    def __init__(self, program: Program, block: Block, domain: SSAValue, operations: Iterable[Operation]) -> None:
        super().__init__(program, block, domain)
        self.operations = [op for op in operations if not isinstance(op, moe.YieldOp | moe.ReturnOp)]
        self.units = find_units(self.operations, program.target, program.panels)
        self.gathered: dict[tuple[object, ...], SSAValue] = {}

    def unit(self, unit: Unit) -> None:
        """The stages of a unit."""
        if unit.loop is not None:
            self._loop(unit.loop)
        elif unit.batch is not None:
            self._batch(unit.batch)
        else:
            self._matmul(unit)

    def leave(self, values: Sequence[SSAValue]) -> list[SSAValue]:
        """The rows that hold a layer's outputs: a stage's own results, each once; everything else is copied."""
        stored = self.places.stored
        direct = [stored.get(value) for value in values]
        owners = [self._makes(rows) and direct.count(rows) == 1 for rows in direct]
        if not all(owners):
            copied = [value for value, own in zip(values, owners, strict=True) if not own]
            # What rows stages made is made again; what others left is read.
            again = [
                value
                for value in copied
                if self._makes(rows := stored.get(value)) and isinstance(rows.owner, plan.RowsOp)
            ]
            kept = {value: stored.pop(value) for value in dict.fromkeys(again)}
            results = iter(self._rows_of(copied))
            stored.update(kept)
            direct = [rows if own else next(results) for rows, own in zip(direct, owners, strict=True)]
        return [rows for rows in direct if rows is not None]

    def _makes(self, rows: SSAValue | None) -> TypeGuard[SSAValue]:
        """Whether a stage of this domain leaves rows."""
        return isinstance(rows, OpResult) and plan.domain_of(rows) is self.domain

    def _loop(self, loop: moe.SumOp | moe.EachOp) -> None:
        """The domain of a sparse sum and the stages that run over it."""
        program, places, body = self.program, self.places, loop.body.block
        types = [plan.DomainType(), plan.RowsType(I64), plan.RowsType(I64)]
        expand = plan.ExpandOp.build(operands=[self.domain, places.stored[loop.slots]], result_types=types)
        program.add(expand)
        expand.rows.name_hint, expand.index.name_hint, expand.slot.name_hint = "slots", "index", "slot"
        places.stored[body.args[0]], places.stored[body.args[1]] = expand.index, expand.slot
        places.domains[loop] = expand.rows
        inside = _Body(program, body, expand.rows, body.ops)
        _emit([inside], Levels(body, inside.operations, inside.units, places.params))

    def _batch(self, batch: moe.BatchOp) -> None:
        into, stored = self.program.single if batch.same else self.domain, self.places.stored
        factors = [] if batch.factors is None else [stored[batch.factors]]
        stage = plan.BatchOp.build(
            operands=[self.domain, stored[batch.operand], into, factors],
            properties={"kind": batch.kind},
            result_types=[plan.RowsType(batch.result.type)],
        )
        self.program.add(stage)
        stage.value.name_hint = batch.result.name_hint
        stored[batch.result] = stage.value

    def _matmul(self, unit: Unit) -> None:
        program, places = self.program, self.places
        views = [weight_view(contract.weight) for contract in unit.contracts]
        first = views[0]
        assert first is not None
        grouping, group = self._grouping(first)
        shape = choose_shape(unit.contracts[0], first, len(views), program.target, program.shapes)
        vector = places.stored[unit.contracts[0].vector]
        if shape.form == "amx":
            vector = self._gather(vector, grouping, group, shape, first)
        stage = plan.MatmulOp.build(
            operands=[
                self.domain,
                vector,
                group,
                [places.params[view.param] for view in views if view is not None],
            ],
            properties={
                "grouping": plan.GroupingAttr(grouping),
                "views": ArrayAttr([_steps(view) for view in views if view]),
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
        program.add(stage)
        stage.value.name_hint = unit.result.name_hint
        places.stored[unit.result] = stage.value

    def _grouping(self, view: WeightView) -> tuple[plan.Grouping, list[SSAValue]]:
        """How the rows find their matrix."""
        if not view.indices:
            return plan.Grouping.NONE, []
        places = self.places
        expand = self.domain.owner
        if (
            isinstance(expand, plan.ExpandOp)
            and len(view.indices) == 1
            and places.stored[view.indices[0]] is expand.index
        ):
            return plan.Grouping.INDEX, []
        key = places.stored[view.indices[0]] if len(view.indices) == 1 else self._linear(view)
        group = plan.GroupOp.build(
            operands=[self.domain, key],
            properties={"keys": IntegerAttr(view.keys, 64)},
            result_types=[plan.GroupType()],
        )
        self.program.add(group)
        return plan.Grouping.KEY, [group.result]

    def _gather(
        self, vector: SSAValue, grouping: plan.Grouping, group: list[SSAValue], shape: KernelShape, view: WeightView
    ) -> SSAValue:
        """A stage that copies vectors together for a product in tiles; products of the same rows share it."""
        key = (self.domain, vector, grouping, *group)
        if key not in self.gathered:
            length = shape.steps(view.depth) * shape.kstep
            assert isinstance(vector.type, plan.RowsType)
            row = TensorType(element_of(vector.type.row), [length])
            stage = plan.GatherOp.build(
                operands=[self.domain, vector, group],
                properties={"grouping": plan.GroupingAttr(grouping), "keys": IntegerAttr(view.keys, 64)},
                result_types=[plan.RowsType(row)],
            )
            self.program.add(stage)
            stage.value.name_hint = vector.name_hint
            self.gathered[key] = stage.value
        return self.gathered[key]

    def _linear(self, view: WeightView) -> SSAValue:
        """A stage that joins several indices into one key. Where one lies beyond its axis, which must not pass for
        another matrix, that is a key that there is not."""
        block, clone = self._region()

        def add(operation: Operation) -> SSAValue:
            block.add_op(operation)
            return operation.results[0]

        def number(value: int) -> SSAValue:
            return add(arith.ConstantOp(IntegerAttr(value, 64)))

        total = clone(view.indices[0])
        inside = add(arith.CmpiOp(total, number(view.lead[0]), "ult"))
        for index, size in zip(view.indices[1:], view.lead[1:], strict=True):
            local, factor = clone(index), number(size)
            inside = add(arith.AndIOp(inside, add(arith.CmpiOp(local, factor, "ult"))))
            total = add(arith.AddiOp(add(arith.MuliOp(total, factor)), local))
        key = add(arith.SelectOp(inside, total, number(view.keys)))
        return self._end(block, [key], [I64])[0]

    def _epilogue(self, unit: Unit) -> Region:
        block, clone = self._region(*(contract.result.type for contract in unit.contracts))
        for contract, argument in zip(unit.contracts, block.args[1:], strict=True):
            clone.made[contract.result] = argument
        block.add_op(plan.YieldOp.build(operands=[[clone(unit.result)]]))
        return Region(block)


def _emit(bodies: Sequence[_Body], levels: Levels) -> None:
    """Appends the stages of a block to the program, level by level. What the rows of a body store, the bodies behind it
    read on the same level. Parameters that stages read as rows are copied by the first one."""
    requests, stored = levels.requests(), bodies[0].places.stored
    makers: dict[Operation | Block, _Body] = {operation: body for body in bodies for operation in body.operations}
    top = max([levels.last, *(levels.of(unit) for body in bodies for unit in body.units)])
    for level in range(top + 1):
        for body in bodies:
            wanted = [value for value, at in requests.items() if at == level and value not in stored]
            body.store([value for value in wanted if makers.get(value.owner, bodies[0]) is body])
        for body in bodies:
            for unit in body.units:
                if levels.of(unit) == level:
                    body.unit(unit)


def _steps(view: WeightView) -> ArrayAttr[StringAttr]:
    """The steps of a view as they print."""
    return ArrayAttr([StringAttr(str(step)) for step in view.steps])
