"""Dimensions out of the shapes of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moec.binding.bind import bind_weights
from moec.binding.entries import bound_by
from moec.binding.fit import fit_dimensions
from moec.binding.steps import Index, Slice, Split, Step, Transpose
from moec.binding.tensors import EXPERT
from moec.diagnostics import CompileError
from moec.language import syntax
from moec.language.parse import parse
from moec.source import Source
from tests.examples import EXAMPLES, SMALL, dimensions, load


def fitted(
    entry: str,
    shapes: dict[str, tuple[int, ...]],
    param: str = "[E, I, H]",
    dims: str = "H, I, E",
    given: dict[str, int] | None = None,
) -> Any:
    text = f"moe m[{dims}](x: [H]) -> [H] {{ param w: {param} return x }} bind b {{ {entry} }}"
    tensors = {name: np.broadcast_to(np.float32(0), each) for name, each in shapes.items()}
    return fit_dimensions(parse(Source("m.moe", text)), "b", tensors, given or {})


@pytest.mark.parametrize(
    ("entry", "shapes"),
    [
        ('w = "t"', {"t": (2, 3, 4)}),
        ('w = "t".T', {"t": (2, 4, 3)}),
        ('w = "t"[:, :, 1::2].T', {"t": (2, 4, 6)}),
        ('w = "t"[1, :-2]', {"t": (9, 4, 3, 4)}),
        ('w = "t"[:, I:, :]', {"t": (2, 6, 4)}),
        ('w = "e.{e}"', {"e.0": (3, 4), "e.1": (3, 4)}),
        ('w = concat("a", "b", axis=1)', {"a": (2, 1, 4), "b": (2, 2, 4)}),
        ('w = concat("a", "b")', {"a": (1, 3, 4), "b": (1, 3, 4)}),
        ('w = split "t" as [2, 3, 4]', {"t": (6, 4)}),
        ('w = split "t" as [2, _, 4]', {"t": (6, 4)}),
        ('w = ("t")', {"t": (2, 3, 4)}),
    ],
)
def test_shapes_tell_dimensions(entry: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert fitted(entry, shapes) == {"H": 4, "I": 3, "E": 2}


@pytest.mark.parametrize("name", [name for name in SMALL if load(name).binds])
def test_every_example_tells_what_its_tensors_tell(name: str) -> None:
    """Tensors of the shapes that `transformers` has; all dimensions but those that only choose come back."""
    file, known = load(name), dimensions(load(name), SMALL[name])
    tensors = invented(file, known)
    bind_weights(file, "transformers", tensors, known)
    found = fit_dimensions(file, "transformers", tensors, {})
    silent = {"K", "G", "KG", "C"} - ({"K"} if name == "deepseek_v4" else set())
    assert {key: value for key, value in found.items() if key not in silent} == {
        key: value for key, value in known.items() if key not in silent
    }


def invented(file: syntax.File, dims: dict[str, int]) -> dict[str, Any]:
    """Tensors of the shapes that make every entry fit."""
    tensors: dict[str, Any] = {}
    for bound in bound_by(file, "transformers"):
        (tensor,) = bound.view.tensors
        shape = tuple(length.integer(dims) for length in bound.shape)
        for step in reversed(bound.view.steps):
            shape = before(step, shape)
        stack = np.broadcast_to(np.int64(0) if bound.dtype == "i64" else np.float32(0), shape)
        if EXPERT in tensor.name:
            tensors |= {tensor.name.replace(EXPERT, str(e)): part for e, part in enumerate(stack)}
        else:
            tensors[tensor.name] = stack
    return tensors


def before(step: Step, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of which a step makes this one: what a slice takes an end of has twice its length."""
    match step:
        case Transpose():
            return (*shape[:-2], shape[-1], shape[-2])
        case Index():
            sliced = (isinstance(item, Slice) and (item.low or item.high) for item in step.items)
            taken = (2 * length if part else length for part, length in zip(sliced, shape, strict=False))
            return (*taken, *shape[len(step.items) :])
        case Split():
            return (shape[0] * shape[1], *shape[2:]) if len(shape) > 1 else (1, *shape)


def test_what_nothing_tells_is_listed() -> None:
    with pytest.raises(CompileError) as error:
        fitted('w = "t"', {"t": (2, 3, 4)}, dims="H, I, E, K, G")
    assert [mistake.code for mistake in error.value.diagnostics] == ["E0301", "E0301"]
    assert fitted('w = "t"', {"t": (2, 3, 4)}, dims="H, I, E, K=E / 2") == {"H": 4, "I": 3, "E": 2}  # K has a default


@pytest.mark.parametrize(
    "entry",
    [
        'w = "v".T',
        'w = "t"[::0]',
        'w = "t"[:: 1 / 2]',
        'w = "t"[1 / 0 :]',
        'w = split "t" as [0, _]',
        'w = split "t" as [_, 6 % 0]',
        'w = split "t" as [_, if H > 1 then 2 else 3, 4]',
        'w = concat("t", "t", axis=5)',
    ],
)
def test_what_cannot_be_is_left_to_binding(entry: str) -> None:
    shapes = {"v": (4,), "t": (2, 3, 4), "told": (2, 3, 4)}
    told = {"H": 4, "I": 3, "E": 2}
    assert fitted(f'{entry} v = "told"', shapes, param="[E, I, H] param v: [E, I, H]") == told


def test_given_dimensions_may_stand_anywhere() -> None:
    shapes = {"t": (2, 6, 4), "told": (2, 6, 4)}
    for entry in ('w = "t"[:, ::G]', 'w = concat("t"[:, :1], "t"[:, :2], axis=G - 1)', 'w = "t"[:, : 11 % (2 * G)]'):
        assert fitted(entry, shapes, dims="H, I, E, G=2", given={"G": 2}) == {"H": 4, "I": 3, "E": 2, "G": 2}
        told = fitted(f'{entry} v = "told"', shapes, "[E, I, H] param v: [E, 2 * I, H]", "H, I, E, G=2")
        assert told == {"H": 4, "I": 3, "E": 2}


def test_given_dimensions_stay(tmp_path: Any) -> None:
    file = parse(Source("m.moe", (EXAMPLES / "olmoe.moe").read_text()))
    shapes = {"gate.weight": (6, 8), "experts.gate_up_proj": (6, 8, 8), "experts.down_proj": (6, 8, 4)}
    tensors = {name: np.broadcast_to(np.float32(0), each) for name, each in shapes.items()}
    assert fit_dimensions(file, "transformers", tensors, {"K": 3, "E": 7}) == {"H": 8, "I": 4, "E": 7, "K": 3}


def test_what_is_no_number_is_left_to_the_layer() -> None:
    odd: Any = {"E": [2]}
    assert fitted('w = "t"', {"t": (2, 3, 4)}, given=odd) == {"H": 4, "I": 3, **odd}
