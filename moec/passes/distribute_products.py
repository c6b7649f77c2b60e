"""Takes products into weights that are computed: of a sum of matrices the products are added, of a scaled matrix it is
the product that is scaled.

A parameter, or a view of one, is packed, and multiplied with the vectors of many tokens at once. What is computed from
parameters would be made anew for every token: `(base + up[e]) @ x`, `(up[e] * scale[e]) @ x`, `up[top] @ x`,
`(sum e in s: p[e] * up[e]) @ x`. So what is done to matrices is done to their products with the vector; what scales the
columns of one, as in `(each i in 0..N: up[e, i] * g) @ x`, to the vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import F32, I64, element_of, static_shape
from moec.passes.hoist_invariants import hoist
from moec.passes.loops import (
    column,
    contract,
    forget,
    is_linear,
    is_widening,
    over_range,
    stack,
    varies,
    widened,
)
from moec.passes.preconditions import layers
from moec.passes.sums_of_products import gather_batch, gather_sum
from moec.passes.views import is_cast, made_in, stacks, weight_view


@dataclass(frozen=True)
class DistributeProducts(ModulePass):
    """One level of a weight after the other, until products are with views of parameters.

    Needs `specialize`. Leaves no product that could go into its weight."""

    name: ClassVar[str] = "distribute-products"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for layer in layers(op, self, "specialize"):
            _gather(layer)
            _distribute(layer)


def _gather(layer: moe.LayerOp) -> None:
    """Makes one product of many small ones."""
    for operation in reversed(list(layer.walk())):
        if isinstance(operation, moe.SumOp | moe.ReduceOp):
            gather_sum(operation)
        elif isinstance(operation, moe.BatchOp):
            gather_batch(operation)
        elif isinstance(operation, moe.EachOp) and over_range(operation):
            _gather_rows(operation)


def _distribute(layer: moe.LayerOp) -> None:
    """Takes products into their weights, until that goes no further."""
    while (product := next(filter(_is_open, layer.walk()), None)) is not None:
        assert isinstance(product, moe.ContractOp)
        weight = product.weight
        if weight_view(weight) is not None:
            _settle(product)
        else:
            Rewriter.replace_op(product, [], [_Rule(InsertPoint.before(product), product.vector).apply(weight)])
            forget(weight)


# ── products that are written row by row ──────────────────────────────────────────────────────────────────────────────


def _gather_rows(loop: moe.EachOp) -> None:
    """`each i in 0..N: w[i] @ v`, with whatever else, is `each i in 0..N: (w @ v)[i]`."""
    if not any(_row_opens(loop, row) for op in loop.body.block.ops for row, _ in _factors(op)):
        return
    hoist(loop)
    for op in list(loop.body.block.ops):
        pairs = [pair for pair in _factors(op) if _row_opens(loop, pair[0]) and not made_in(loop, pair[1])]
        if pairs:
            row, vector = pairs[0]
            rule = _Rule(InsertPoint.before(loop), vector)
            product = rule.product(stack(loop, row, rule.before))
            read, item = tuple(op.operands), moe.ExtractOp.make(product, loop.body.block.args[1])
            Rewriter.replace_op(op, item)
            for operand in read:
                forget(operand)
            if moe.yielded(loop.body) is item.result:
                Rewriter.replace_op(loop, [], [product])
                return


def _factors(op: Operation) -> list[tuple[SSAValue, SSAValue]]:
    """The row and the vector, either of which may be the one, of a product of two vectors: also of `sum(a * b)`."""
    match op:
        case moe.ContractOp() if len(static_shape(op.weight.type)) == 1:
            pair = op.weight, op.vector
        case moe.ReduceOp() if op.kind.data == "sum" and op.slots is None and isinstance(op.operand.owner, moe.MapOp):
            pair, body = op.operand.owner.arrays, op.operand.owner.body.block
            first = body.first_op
            times = isinstance(first, arith.MulfOp) and {*first.operands} == {*body.args}
            if len(static_shape(op.operand.type)) != 1 or len(pair) != 2 or not times or len(body.ops) != 2:
                return []
        case _:
            return []
    alike = element_of(pair[0].type) == element_of(pair[1].type)
    return [(pair[0], pair[1]), (pair[1], pair[0])] if alike else [(pair[0], pair[1])]


# ── products with weights that are computed ───────────────────────────────────────────────────────────────────────────


def _is_open(operation: Operation) -> bool:
    """Whether an operation is a product that is not yet with a view of a parameter, or not as it should be."""
    if not isinstance(operation, moe.ContractOp):
        return False
    if weight_view(operation.weight) is not None:
        return element_of(operation.vector.type) == F32 != element_of(operation.weight.type)
    return _opens(operation.weight)


def _settle(product: moe.ContractOp) -> None:
    """Widens a matrix whose vector was not rounded to its type."""
    wide = widened(product.weight)
    Rewriter.insert_op(wide, InsertPoint.before(product))
    product.operands[0] = wide.results[0]


# ── what a product can go into ────────────────────────────────────────────────────────────────────────────────────────


def _opens(weight: SSAValue) -> bool:
    """Whether a weight is made of views of parameters, by what a product distributes over."""
    if len(static_shape(weight.type)) < 2:
        return False
    if weight_view(weight) is not None:
        return True
    match weight.owner:
        case moe.MapOp() as op:
            return (is_linear(op) or is_widening(op)) and all(map(_opens, op.arrays))
        case moe.ConcatOp() as op:
            return all(map(_opens, op.arrays))
        case moe.SumOp() as op:
            return _opens(moe.yielded(op.body))
        case moe.EachOp() as op:
            row = moe.yielded(op.body)
            return _opens(row) or _row_opens(op, row)
        case moe.GatherOp() as op:
            return weight_view(op.operand) is not None
        case moe.TransposeOp() as op:
            return _gathered_columns(op) is not None
        case moe.MatchOp() as op:
            return all(_opens(moe.yielded(arm)) for arm in op.arms)
        case _:
            return False


def _row_opens(loop: moe.EachOp, row: SSAValue) -> bool:
    """`_opens` of the rows that a loop over a range makes of a vector inside it."""
    if static_shape(row.type) and stacks(loop, row):
        return True
    op = row.owner
    if not (over_range(loop) and isinstance(op, moe.MapOp) and op.parent is loop.body.block):
        return False
    if is_linear(op):
        return all(_row_opens(loop, array) for array in op.arrays)
    return _scaled_columns(loop, op) is not None


def _scaled_columns(loop: moe.EachOp, op: moe.MapOp) -> tuple[SSAValue, SSAValue] | None:
    """The rows that open, and the vector that is the same for all of them, of `w[i] * g` or `w[i] / g`."""
    first = op.body.block.first_op
    array_of: dict[SSAValue, SSAValue] = dict(zip(op.body.block.args, op.arrays, strict=True))
    if not isinstance(first, arith.MulfOp | arith.DivfOp) or len(op.body.block.ops) != 2:
        return None
    read = [array_of[operand] for operand in first.operands if operand in array_of]
    if len(read) != 2:
        return None
    for row, vector in (read, reversed(read)) if isinstance(first, arith.MulfOp) else (read,):
        if not varies(loop, vector) and _row_opens(loop, row):
            return row, vector
    return None


def _gathered_columns(op: moe.TransposeOp) -> moe.GatherOp | None:
    """The rows of a matrix that stand as the columns of a weight, as in `down[top].T @ v`."""
    gather = op.operand.owner
    if isinstance(gather, moe.GatherOp) and weight_view(gather.operand) is not None:
        return gather if len(static_shape(gather.operand.type)) == 2 else None
    return None


# ── what becomes of it ────────────────────────────────────────────────────────────────────────────────────────────────


class _Rule:
    """Takes a product one level into its weight."""

    def __init__(self, before: InsertPoint, vector: SSAValue) -> None:
        self.vector = vector
        self.before = before

    def apply(self, weight: SSAValue) -> SSAValue:
        """What the product with a weight that opens is instead."""
        match weight.owner:
            case moe.MapOp() as op if is_cast(op):
                return self.product(op.arrays[0])
            case moe.MapOp() as op:
                return self._map(op, list(map(self.product, op.arrays)), {})
            case moe.ConcatOp() as op:
                return self._concat(op)
            case moe.SumOp() | moe.MatchOp() as op:
                return self._inside(op)
            case moe.EachOp() as op:
                return self._inside(op) if len(static_shape(op.result.type)) > 2 else self._rows(op)
            case moe.GatherOp() as op:
                return self._gather(op)
            case moe.TransposeOp() as op:
                return self._columns(op)
            case owner:
                raise AssertionError(owner)

    def _add(self, operation: Operation) -> SSAValue:
        Rewriter.insert_op(operation, self.before)
        return operation.results[0]

    def product(self, weight: SSAValue) -> SSAValue:
        return self._add(contract(weight, self.vector))

    def _map(self, op: moe.MapOp, products: Sequence[SSAValue], columns: Mapping[SSAValue, SSAValue]) -> SSAValue:
        """The map of products instead of matrices; `columns` are the arrays of scalars that differ from row to row."""
        arrays = [*products, *columns.values()]
        block = Block(arg_types=[element_of(array.type) for array in arrays])
        made: dict[SSAValue, SSAValue] = dict(zip((*op.body.block.args, *columns), block.args, strict=True))
        block.add_ops([inner.clone(made) for inner in op.body.block.ops])
        return self._add(moe.MapOp.make(arrays, regions=[Region(block)]))

    def _concat(self, op: moe.ConcatOp) -> SSAValue:
        axis, last = op.axis.value.data, len(static_shape(op.result.type)) - 1
        if axis < last:
            return self._add(moe.ConcatOp.make(list(map(self.product, op.arrays)), axis=axis))
        total, offset = None, 0
        for array in op.arrays:
            size = static_shape(array.type)[axis]
            part = self._add(moe.SliceOp.make(self.vector, axis=0, offset=offset, size=size, step=1))
            product = self._add(contract(array, part))
            total = product if total is None else self._add(moe.map_of([total, product], arith.AddfOp))
            offset += size
        assert total is not None
        return total

    def _inside(self, op: moe.SumOp | moe.EachOp | moe.MatchOp) -> SSAValue:
        """The operation with the product at the end of its regions."""
        new = op.clone()
        for region in new.regions:
            last = region.block.last_op
            assert last is not None
            product = contract(last.operands[0], self.vector)
            Rewriter.insert_op(product, InsertPoint.before(last))
            last.operands[0] = product.result
        new.update_types()
        return self._add(new)

    def _rows(self, loop: moe.EachOp) -> SSAValue:
        """Of a loop that makes the rows of a matrix by a map."""
        hoist(loop)
        op = moe.yielded(loop.body).owner
        assert isinstance(op, moe.MapOp)
        if (columns := _scaled_columns(loop, op)) is not None:
            row, factors = columns
            times = arith.MulfOp if isinstance(op.body.block.first_op, arith.MulfOp) else arith.DivfOp
            vector = self._add(moe.map_of([self.vector, factors], times))
            return _Rule(self.before, vector).product(stack(loop, row, self.before))
        products = [self.product(stack(loop, array, self.before)) for array in op.arrays]
        read = {operand: None for inner in op.body.block.ops for operand in inner.operands}
        own = {*op.body.block.args, *(value for inner in op.body.block.ops for value in inner.results)}
        inside = [value for value in read if value not in own and made_in(loop, value)]
        columns = {value: column(loop, value, self.before) for value in inside}
        return self._map(op, products, columns)

    def _gather(self, op: moe.GatherOp) -> SSAValue:
        """`w[s] @ v` is `each e in s: w[e] @ v`."""
        body = Block(arg_types=[I64, I64])
        part = moe.ExtractOp.make(op.operand, body.args[0])
        product = contract(part.result, self.vector)
        return self._add(moe.EachOp.make(op.slots, regions=[moe.region_of([part, product], product.result, body)]))

    def _columns(self, op: moe.TransposeOp) -> SSAValue:
        """`w[s].T @ v` is `sum e in s: v[slot(e)] * w[e]`."""
        gather = _gathered_columns(op)
        assert gather is not None
        body = Block(arg_types=[I64, I64])
        vector = self.vector if element_of(self.vector.type) == F32 else self._add(widened(self.vector))
        made: list[Operation] = [moe.ExtractOp.make(gather.operand, body.args[0])]
        if element_of(gather.operand.type) != F32:
            made.append(widened(made[0].results[0]))
        row, factor = made[-1].results[0], moe.ExtractOp.make(vector, body.args[1])
        scaled = moe.map_of([row], partial(arith.MulfOp, operand2=factor.result))
        region = moe.region_of([*made, factor, scaled], scaled.result, body)
        return self._add(moe.SumOp.make(gather.slots, regions=[region]))
