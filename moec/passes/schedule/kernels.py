"""Which microkernel a contraction gets, and with which others it can share panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from moec.dialects import moe
from moec.dialects.types import element_name, shape_of
from moec.formats import FORMATS
from moec.passes.views import WeightView, weight_view
from moec.shapes import Form, KernelShape
from moec.target import Target


def code_form(contract: moe.ContractOp, target: Target) -> Form | None:
    """How the codes of a stored weight are multiplied in registers; None where they are decoded first, or dense.

    Beside rows of bf16 that takes codes of so few bits that they can be looked up, on machines that multiply pairs."""
    view = weight_view(contract.weight)
    if view is None or not view.storage:
        return None
    return "int8" if contract.activations is not None else _real_form(view, target)


def _real_form(view: WeightView, target: Target) -> Form | None:
    """`code_form` beside rows that are not quantised."""
    if not view.storage:
        return None
    layout = FORMATS[view.storage].layout
    return "codes" if layout.looked_up and view.dtype == "bf16" and target.kernel("bf16").form == "dot" else None


def common_shapes(layer: moe.LayerOp, target: Target) -> dict[str, KernelShape]:
    """For each element type of weights the one shape that does best for all products together.

    One shape is one family of microkernels, and each of those costs LLVM some ten milliseconds. Whether vectors are
    quantised makes no difference: the panels of what is dense are then the same, and so one file serves both.
    """
    contracts = [op for op in layer.walk() if isinstance(op, moe.ContractOp)]
    views = [(op, view) for op in contracts if (view := weight_view(op.weight)) is not None]
    products = [(op, view) for op, view in views if _real_form(view, target) is None]
    useful: dict[KernelShape, float] = {}
    for contract, view in products:
        sharing = sum(other.parent is contract.parent and alike(contract, other) for other, _ in products)
        work = view.columns * view.depth
        for shape in target.choices(view.panels(target), streamed=not view.storage):
            rate = target.rate(shape, view.columns, sharing) or target.rate(shape, view.columns) / 2
            useful[shape] = useful.get(shape, 0.0) + work * rate
    best: dict[str, KernelShape] = {}
    for shape in sorted(useful, key=lambda shape: useful[shape]):
        best[shape.dtype] = shape
    return best


def choose_shape(
    contract: moe.ContractOp, view: WeightView, interleaved: int, target: Target, shapes: Mapping[str, KernelShape]
) -> KernelShape:
    """The microkernel for so many matrices: one of the program's common `shapes`, if they can share its panels."""
    form = code_form(contract, target)
    if form is not None:
        return target.code_shape(form, element_name(contract.vector.type), view.columns, interleaved)
    dtype = view.panels(target)
    common = replace(shapes[dtype], streams=1) if view.storage else shapes[dtype]
    usable = target.rate(common, view.columns, interleaved) > 0
    return common if usable else target.kernel(dtype, view.columns, interleaved, streamed=not view.storage)


def interleaves(group: Sequence[moe.ContractOp], target: Target) -> bool:
    """Whether there is a microkernel whose panels hold the columns of all, side by side."""
    view = weight_view(group[0].weight)
    assert view is not None
    form = code_form(group[0], target)
    if form is not None:
        return target.code_shape(form, "f32", view.columns, len(group)).columns % len(group) == 0
    vectors = [shape.vectors for shape in target.choices(view.panels(target))]
    return any(count % len(group) == 0 for count in vectors)


def alike(left: moe.ContractOp, right: moe.ContractOp) -> bool:
    """Whether two contractions can share every panel."""
    a, b = weight_view(left.weight), weight_view(right.weight)
    assert a is not None and b is not None
    same = (a.indices, a.lead, a.columns, a.depth) == (b.indices, b.lead, b.columns, b.depth)
    same = same and (a.dtype, a.storage, left.activations) == (b.dtype, b.storage, right.activations)
    return same and left.vector is right.vector and shape_of(left.result.type) == shape_of(right.result.type)
