"""Random weights and inputs for a layer: what `moec run` and the benchmarks feed it.

Floats are normal, scaled by the square root of the last axis, so that outputs stay about one. Integers are indices:
they lie below the axis or domain that the layer uses them for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from moec.arrays import NUMPY
from moec.dialects import moe
from moec.dialects.types import integer, static_shape
from moec.runtime.interface import Array, Interface

Arrays = dict[str, NDArray[Any]]


def random_weights(interface: Interface, module: ModuleOp, seed: int = 0) -> Arrays:
    """An array for every parameter. `module` is the layer as `moe-opt`."""
    limits = index_limits(module)
    return {
        param.name: _draw(param, param.shape, limits, seed + i, scaled=True) for i, param in enumerate(interface.params)
    }


def random_inputs(interface: Interface, module: ModuleOp, tokens: int, seed: int = 0) -> list[NDArray[Any]]:
    """An array [tokens, …] for every input."""
    limits = index_limits(module)
    shapes = [(tokens, *given.shape) for given in interface.inputs]
    pairs = zip(interface.inputs, shapes, strict=True)
    return [_draw(given, shape, limits, seed + 1000 + i, scaled=False) for i, (given, shape) in enumerate(pairs)]


def _draw(array: Array, shape: tuple[int, ...], limits: dict[str, int], seed: int, scaled: bool) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    if array.dtype == "i64":
        return random.integers(0, limits.get(array.name, 1), shape)
    if array.dtype == "bool":
        return random.random(shape) < 0.5
    values = random.standard_normal(shape, dtype=np.float32)
    if scaled and array.shape:
        values *= array.shape[-1] ** -0.5
    return values.astype(NUMPY[array.dtype], copy=False)


def index_limits(module: ModuleOp) -> dict[str, int]:
    """For each integer argument of a layer the smallest axis or domain that it indexes."""
    (layer,) = (op for op in module.body.block.ops if isinstance(op, moe.LayerOp))
    names = [name.data for name in (*layer.inputs, *layer.params)]
    found = {name: _limit(value) for name, value in zip(names, layer.body.block.args, strict=True)}
    return {name: limit for name, limit in found.items() if limit is not None}


def _limit(value: SSAValue) -> int | None:
    """Follows an integer, or an array of integers, to what it indexes."""
    limits: list[int | None] = []
    for use in value.uses:
        match use.operation:
            case moe.ExtractOp() as op if op.index is value:
                limits.append(static_shape(op.operand.type)[0])
            case moe.GivenOp() as op:
                limits.append(integer(op.domain))
            case moe.ExtractOp() | moe.SliceOp() | moe.ReshapeOp() | moe.GatherOp() as op:
                limits.append(_limit(op.results[0]))
            case _:
                pass
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)
