"""Products that are written as sums: `sum i in 0..N: v[i] * w[i]` is `w.T @ v` where `w[i]` is a row of a parameter,
and `w @ v` where it is an element of one. `sum(each i in 0..N: v[i] * x, axis=batch)` is a product along the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from xdsl.dialects import arith
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from moec.dialects import moe
from moec.dialects.types import F32, element_of, static_shape
from moec.passes.constants import is_constant, known_around
from moec.passes.loops import (
    column,
    contract,
    forget,
    is_copy,
    is_widening,
    over_range,
    stack,
    varies,
    widened,
)
from moec.passes.views import made_in, stacks


def gather_sum(total: moe.SumOp | moe.ReduceOp) -> None:
    """Makes a product of a sum over a range, also of `sum((each i in 0..N: …), axis=0)`, whose parts are rows or
    elements of a parameter, each times a factor of its own. What is made of parameters alone stays a sum: it is
    computed once a call, and panels that nothing else needs are not packed for that."""
    loop = total if isinstance(total, moe.SumOp) else _reduced(total)
    if loop is None or not over_range(loop):
        return
    part = moe.yielded(loop.body)
    found = _scaled_row(loop, part) if static_shape(part.type) else _scaled_element(loop, part)
    if found is None or not any(varies(loop, factor) for factor in found[1]):
        return
    if is_constant(loop, known_around(loop, products=False), products=False):
        return
    row, factors = found
    before = InsertPoint.before(total)
    vector = column(loop, _product(loop, factors), before)
    weight = stack(loop, row, before) if static_shape(row.type) else column(loop, row, before)
    if static_shape(row.type):
        weight = _add(moe.TransposeOp.make(weight), before)
    if element_of(weight.type) != F32:
        weight = _add(widened(weight), before)
    Rewriter.replace_op(total, contract(weight, vector))
    if loop is not total:
        forget(loop.results[0])


def gather_batch(total: moe.BatchOp) -> None:
    """Adds up outer products along the tokens without making them: of parts that are the same vector, each times a
    factor of its own."""
    loop = total.operand.owner
    if total.kind.data != "sum" or not isinstance(loop, moe.EachOp) or not total.operand.has_one_use():
        return
    found = _scaled_vector(loop, moe.yielded(loop.body)) if over_range(loop) else None
    if found is None or not any(varies(loop, factor) for factor in found[1]):
        return
    vector, factors = found
    factor = column(loop, _product(loop, factors), InsertPoint.before(total))
    Rewriter.replace_op(total, moe.BatchOp.make(vector, factor, kind=total.kind))
    forget(loop.results[0])


def _product(loop: moe.SumOp | moe.EachOp, factors: Sequence[SSAValue]) -> SSAValue:
    """The product of scalars inside a loop."""
    last = loop.body.block.last_op
    assert last is not None
    product, *others = factors
    for other in others:
        Rewriter.insert_op(times := arith.MulfOp(product, other), InsertPoint.before(last))
        product = times.result
    return product


def _add(operation: Operation, before: InsertPoint) -> SSAValue:
    Rewriter.insert_op(operation, before)
    return operation.results[0]


def _reduced(op: moe.ReduceOp) -> moe.EachOp | None:
    """The loop whose parts alone a reduction adds up."""
    loop = op.operand.owner
    adds = op.kind.data == "sum" and op.axis.value.data == 0 and op.slots is None
    return loop if adds and isinstance(loop, moe.EachOp) and op.operand.has_one_use() else None


def _scaled_row(loop: moe.SumOp | moe.EachOp, part: SSAValue) -> tuple[SSAValue, list[SSAValue]] | None:
    """The row of a parameter that a vector inside a loop is, and the scalars that it is multiplied with."""
    return _scaled(part, lambda row: stacks(loop, row))


def _scaled_vector(loop: moe.EachOp, part: SSAValue) -> tuple[SSAValue, list[SSAValue]] | None:
    """The vector from outside that one inside a loop is, and the scalars that it is multiplied with."""
    return _scaled(part, lambda vector: not made_in(loop, vector))


def _scaled(part: SSAValue, is_it: Callable[[SSAValue], bool]) -> tuple[SSAValue, list[SSAValue]] | None:
    """The vector of a kind that another one is, but for casts and scalars that it is multiplied with, and these."""
    if len(static_shape(part.type)) != 1:
        return None
    op = part.owner
    if isinstance(op, moe.MapOp) and (is_copy(op) or is_widening(op)):
        return _scaled(op.arrays[0], is_it)
    if isinstance(op, moe.MapOp) and (factor := _factor(op)) is not None:
        found = _scaled(op.arrays[0], is_it)
        return found and (found[0], [*found[1], factor])
    return (part, []) if is_it(part) else None


def _factor(op: moe.MapOp) -> SSAValue | None:
    """What a map multiplies all elements of its array with, if that is all that it does."""
    first, own = op.body.block.first_op, op.body.block.args[0]
    if len(op.arrays) != 1 or len(op.body.block.ops) != 2 or not isinstance(first, arith.MulfOp):
        return None
    others = [operand for operand in first.operands if operand is not own]
    return others[0] if len(others) == 1 else None


def _scaled_element(loop: moe.SumOp | moe.EachOp, part: SSAValue) -> tuple[SSAValue, list[SSAValue]] | None:
    """The element of a parameter that a scalar inside a loop is, and those that it is multiplied with."""
    factors = list(_factors(loop, part)) if element_of(part.type) == F32 else []
    for at, factor in enumerate(factors):
        owner = factor.owner
        element = owner.input if isinstance(owner, arith.ExtFOp) else factor
        if stacks(loop, element):
            return element, [*factors[:at], *factors[at + 1 :]]
    return None


def _factors(loop: moe.SumOp | moe.EachOp, value: SSAValue) -> Iterator[SSAValue]:
    """What is multiplied inside a loop to make a scalar."""
    owner = value.owner
    if isinstance(owner, arith.MulfOp) and owner.parent is loop.body.block:
        yield from _factors(loop, owner.lhs)
        yield from _factors(loop, owner.rhs)
    else:
        yield value
