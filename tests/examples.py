"""Every example with dimensions small enough for a test, and random weights and inputs for any layer.

It needs the syntax tree only: shapes are read from the declarations, so a layer that no part of the compiler
understands yet can already be fed. Every test module may import it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from moec.language import syntax
from moec.language.parse import parse
from moec.language.read import read

_OPERATORS: Final = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow}

EXAMPLES: Final = Path(__file__).parents[1] / "examples"

Array = np.ndarray[Any, np.dtype[Any]]

#: Dimensions for a test. No two of a layer are equal, few are a multiple of a vector.
SMALL: Final[dict[str, dict[str, int]]] = {
    "seed": {"H": 33, "I": 29, "E": 5, "K": 2},
    "mixtral": {"H": 48, "I": 40, "E": 8, "K": 2},
    "olmoe": {"H": 52, "I": 20, "E": 11, "K": 3},
    "qwen3_moe": {"H": 40, "I": 24, "E": 13, "K": 4},
    "qwen2_moe": {"H": 48, "I": 20, "S": 72, "E": 10, "K": 4},
    "deepseek_v2": {"H": 56, "I": 24, "S": 48, "E": 12, "K": 5, "G": 4, "KG": 2},
    "deepseek_v3": {"H": 56, "I": 24, "E": 20, "K": 6, "G": 5, "KG": 3},
    "gpt_oss": {"H": 45, "I": 35, "E": 7, "K": 4},
    "llama4": {"H": 40, "I": 56, "E": 6, "K": 1},
    "dbrx": {"H": 48, "I": 28, "E": 9, "K": 4},
    "phimoe": {"H": 48, "I": 36, "E": 7},
    "longcat_flash": {"H": 44, "I": 24, "E": 8, "Z": 5, "K": 6},
    "nemotron_h": {"H": 48, "I": 29, "S": 58, "E": 11, "K": 3},
    "deepseek_v4": {"H": 40, "I": 32, "E": 9, "K": 4, "V": 37},
    "gemma4": {"H": 48, "I": 20, "S": 60, "E": 12, "K": 4},
    "doge": {"H": 48, "I": 40, "M": 7, "K": 5},
    "peer": {"H": 48, "D": 12, "M": 9, "A": 3, "K": 4},
    "moe_plus_plus": {"H": 40, "I": 28, "E": 5, "C": 2, "K": 3},
    "switch_transformers": {"H": 52, "I": 36, "E": 6, "C": 3},
    "expert_choice": {"H": 44, "I": 28, "E": 9, "K": 2},
    "hierarchical": {"H": 36, "I": 20, "G": 4, "E": 6, "K": 2},
}

#: What the integers of a layer count: they lie below this dimension.
BELOW: Final[dict[str, dict[str, str]]] = {"deepseek_v4": {"table": "E", "id": "V"}}


@cache
def load(name: str) -> syntax.File:
    """The syntax of `examples/<name>.moe`."""
    return parse(read(EXAMPLES / f"{name}.moe"))


def value(expr: syntax.Expr, dims: Mapping[str, int]) -> Fraction:
    """A formula over dimensions, such as stands in a shape."""
    match expr:
        case syntax.Number():
            return expr.value
        case syntax.Name():
            return Fraction(dims[expr.id])
        case syntax.Group():
            return value(expr.inner, dims)
        case syntax.Unary(op="-"):
            return -value(expr.operand, dims)
        case syntax.Binary():
            return _OPERATORS[expr.op](value(expr.left, dims), value(expr.right, dims))
        case _:
            raise TypeError(f"not a formula over dimensions: {expr}")


def dimensions(file: syntax.File, given: Mapping[str, int]) -> dict[str, int]:
    """All dimensions of a layer: the given ones, and the defaults of the others."""
    dims: dict[str, int] = {}
    for dimension in file.layers[0].dimensions:
        if dimension.name in given:
            dims[dimension.name] = given[dimension.name]
        else:
            assert dimension.default is not None, f"`{dimension.name}` has no default"
            dims[dimension.name] = int(value(dimension.default, dims))
    return dims


def params(file: syntax.File) -> Iterator[tuple[str, syntax.Type]]:
    """The declared weights of a layer, in order."""
    for statement in file.layers[0].body:
        if isinstance(statement, syntax.Param):
            for name in statement.names:
                yield name.id, statement.type


def shape(type_: syntax.Type, dims: Mapping[str, int]) -> tuple[int, ...]:
    """A declared shape in numbers; `()` for a scalar."""
    return tuple(int(value(axis, dims)) for axis in type_.shape or ())


def random_weights(
    file: syntax.File,
    given: Mapping[str, int],
    seed: int = 0,
    real: str = "f32",
    below: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """Weights of every declared shape and type. A matrix is scaled by its last axis, so that its products are O(1)."""
    dims = dimensions(file, given)
    below = BELOW.get(file.layers[0].name.id, {}) if below is None else below
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for name, type_ in params(file):
        extents = shape(type_, dims)
        if type_.dtype == "i64":
            weights[name] = distinct(extents, dims[below[name]], rng)
        else:
            weights[name] = _cast(rng.standard_normal(extents) * deviation(extents), type_, real)
    return weights


def random_inputs(
    file: syntax.File,
    given: Mapping[str, int],
    tokens: int,
    seed: int = 1,
    real: str = "f32",
    below: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """What `tokens` tokens bring, with the axis of tokens in front."""
    dims = dimensions(file, given)
    below = BELOW.get(file.layers[0].name.id, {}) if below is None else below
    rng = np.random.default_rng(seed)
    inputs: dict[str, Array] = {}
    for item in file.layers[0].inputs:
        extents = (tokens, *shape(item.type, dims))
        if item.type.dtype == "i64":
            inputs[item.name] = rng.integers(0, dims[below[item.name]], extents)
        elif item.type.dtype == "bool":
            inputs[item.name] = rng.random(extents) < 0.5
        else:
            inputs[item.name] = _cast(rng.standard_normal(extents), item.type, real)
    return inputs


def deviation(extents: tuple[int, ...]) -> float:
    """How far a random weight strays: a vector as a bias or a factor does, a matrix so that its products are O(1)."""
    return float(extents[-1]) ** -0.5 if len(extents) > 1 else 0.5


def distinct(extents: tuple[int, ...], below: int, rng: np.random.Generator) -> Array:
    """Integers below a bound, of which no row that is short enough holds one twice."""
    if extents[-1] > below:
        return rng.integers(0, below, extents)
    numbers = np.broadcast_to(np.arange(below), (*extents[:-1], below))
    return rng.permuted(numbers, axis=-1)[..., : extents[-1]].copy()


def _cast(numbers: Array, type_: syntax.Type, real: str) -> Array:
    dtype = real if type_.dtype in (None, "real") else type_.dtype
    return numbers.astype({"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[str(dtype)])
