"""What an entry makes a parameter: a tensor, or several joined, and the steps that are taken from there.

A view is read once from the text, and then asked for its tensors, for the lengths of its axes as formulas, and for what
it is in a checkpoint. That copies nothing that need not be: an array stays a view of the tensor, tensors of experts a
`Stack`, what is quantised `Blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moec.binding.equations import Equations
from moec.binding.formulas import Dims, Formula
from moec.binding.steps import Shape, Step
from moec.binding.tensors import Place, Tensor, Tensors
from moec.dims import Dim
from moec.formats.blocks import Blocks, Source, dense, join_blocks
from moec.stack import Data, Stack


@dataclass(frozen=True, slots=True)
class View:
    """`"w"[:, :I].T`: where it begins, and steps in their order."""

    start: Tensor | Concat
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> View:
        """The view that one more step makes of it."""
        return View(self.start, (*self.steps, step))

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that it is made of."""
        if isinstance(self.start, Tensor):
            return [self.start]
        return [tensor for part in self.start.parts for tensor in part.tensors]

    @property
    def formulas(self) -> list[Formula]:
        """The numbers that are written in it."""
        first = self.start.formulas if isinstance(self.start, Concat) else []
        return first + [formula for step in self.steps for formula in step.formulas]

    def lengths(self, tensors: Tensors, equations: Equations) -> Shape:
        """The length of each axis as a formula; what else follows from the tensors' shapes is added to `equations`.

        Raises `CompileError` (E0405) where a tensor is missing. What else does not fit gives lengths that no formula
        says, or none: `read` says what is wrong.
        """
        if isinstance(self.start, Tensor):
            shape: Shape = [Dim.of(length) for length in self.start.read(tensors).shape]
        else:
            shape = self.start.lengths(tensors, equations)
        for step in self.steps:
            shape = step.lengths(shape, equations)
        return shape

    def read(self, tensors: Tensors, dims: Dims) -> Source:
        """What it is in a checkpoint. Raises `CompileError` (E0202, E0206, E0405) where it does not fit the tensors."""
        value = self.start.read(tensors) if isinstance(self.start, Tensor) else self.start.read(tensors, dims)
        for step in self.steps:
            value = step.apply(value, dims)
        return value


@dataclass(frozen=True, slots=True)
class Concat:
    """Views joined along an axis, the first where none is named."""

    parts: tuple[View, ...]
    axis: Formula | None
    place: Place

    @property
    def formulas(self) -> list[Formula]:
        own = [] if self.axis is None else [self.axis]
        return [formula for part in self.parts for formula in part.formulas] + own

    def lengths(self, tensors: Tensors, equations: Equations) -> Shape:
        shapes = [part.lengths(tensors, equations) for part in self.parts]
        axis = 0 if self.axis is None else self.axis.known(equations.dims)
        first = shapes[0] if shapes else []
        if axis is None or any(len(shape) != len(first) for shape in shapes) or not -len(first) <= axis < len(first):
            return []
        joined = [shape[axis] for shape in shapes]
        known = [length for length in joined if length is not None]
        first[axis] = sum(known[1:], known[0]) if len(known) == len(joined) else None
        return first

    def read(self, tensors: Tensors, dims: Dims) -> Source:
        parts = [part.read(tensors, dims) for part in self.parts]
        axis = self._resolve([list(part.shape) for part in parts], 0 if self.axis is None else self.axis.integer(dims))
        blocks = [part for part in parts if isinstance(part, Blocks)]
        rows_stay = axis < len(parts[0].shape) - 1
        if len(blocks) == len(parts) and len({part.format for part in blocks}) == 1 and rows_stay:
            return join_blocks(blocks, axis)
        return _join([dense(part, self.place.param) for part in parts], axis)

    def _resolve(self, shapes: Sequence[list[int]], axis: int) -> int:
        """The axis, counted from the first. Raises `CompileError` (E0405) where such shapes cannot be joined there."""
        ranks, shown = {len(shape) for shape in shapes}, ", ".join(map(str, shapes))
        if len(ranks) != 1 or not -min(ranks) <= axis < min(ranks):
            raise self.place.wrong(f"cannot join {shown} along axis {axis}")
        axis %= min(ranks)
        if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
            raise self.place.wrong(f"shapes do not fit: {shown}")
        return axis


def _join(parts: Sequence[Data | Stack], axis: int) -> Data | Stack:
    """Arrays joined; of stacks along an inner axis those of each expert."""
    if not axis or not all(isinstance(part, Stack) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts], axis)
    shape, total = parts[0].shape, sum(part.shape[axis] for part in parts)
    join: Callable[[int], Data] = lambda e: np.concatenate([part[e] for part in parts], axis - 1)  # noqa: E731
    dtype = np.result_type(*(part.dtype for part in parts))
    return Stack((*shape[:axis], total, *shape[axis + 1 :]), dtype, join)
