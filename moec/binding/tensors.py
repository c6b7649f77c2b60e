"""The tensors that an entry names, out of a checkpoint: as they lie, or with the parts of a quantised one together.

Nothing is copied, and where there is one tensor per expert (`"experts.{e}.w1"`) nothing is read before it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from moec.arrays import as_numpy, element
from moec.checkpoint import Checkpoint
from moec.checkpoint.prefix import elsewhere, where
from moec.diagnostics import CompileError, fail, nearest
from moec.formats.blocks import Blocks, Source, dense
from moec.formats.origins import Misfit, Origin
from moec.source import Span
from moec.stack import Data, Stack

#: A checkpoint: tensors by name, NumPy's, torch's or `Blocks`.
Tensors: TypeAlias = Mapping[str, Any]

#: Stands in a tensor's name for the number of an expert.
EXPERT: Final = "{e}"
#: What it stands for; more digits than these number no expert.
_NUMBER: Final = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mistake is: in the entry of which parameter, and where in the text. Without a span there is no entry, and
    the parameter is the tensor of its name."""

    param: str
    span: Span | None = None

    def __str__(self) -> str:
        return f"`{self.span.text}`" if self.span else "the tensor of that name"

    def wrong(self, message: str) -> CompileError:
        """The error (E0405) of what does not fit there, to be raised."""
        return fail("E0405", f"`{self.param}`: {message}", self.span)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a checkpoint; with `{e}` in its name one for each expert. `origin` is what stands behind `as`."""

    name: str
    origin: Origin | None
    place: Place

    @property
    def needed(self) -> list[str]:
        """The tensors that it cannot do without; of one per expert the first."""
        first, origin = self._of(0), self.origin
        if origin is None:
            return [first]
        return [tensor for part, tensor in origin.names(first).items() if part not in origin.optional]

    def read(self, tensors: Tensors) -> Source:
        """The tensor, those of all experts stacked. Raises `CompileError` (E0405) where one is missing, is not stored
        so, or is not like the first; what lies in memory is compared with the first when it is read."""
        if EXPERT not in self.name:
            return self._open(tensors, self.name)
        count = self._count(tensors)
        first = self._open(tensors, self._of(0))

        def read(expert: int) -> Data | Blocks:
            return self._like(first, tensors, self._of(expert))

        if isinstance(first, Blocks):
            return Blocks.stack([part for part in map(read, range(count)) if isinstance(part, Blocks)])  # all are
        if isinstance(tensors, Checkpoint):  # whose views are there without reading
            for expert in range(count):
                read(expert)
        param = self.place.param
        return Stack((count, *first.shape), first.dtype, lambda expert: np.asarray(dense(read(expert), param)))

    def _of(self, expert: int) -> str:
        return self.name.replace(EXPERT, str(expert))

    def _count(self, tensors: Tensors) -> int:
        """How many experts have a tensor. Raises `CompileError` (E0405) where one lacks it that others follow."""
        pattern = self.origin.names(self.name)["codes"] if self.origin else self.name
        head, count = pattern.partition(EXPERT)[0], 0
        while pattern.replace(EXPERT, str(count)) in tensors:
            count += 1
        ends = (_NUMBER.match(tensor, len(head)) for tensor in tensors if tensor.startswith(head))
        for end in filter(None, ends):
            later = pattern.replace(EXPERT, end[0])
            if int(end[0]) > count and later in tensors:
                lost = f"`{pattern.replace(EXPERT, str(count))}` is missing from {where(tensors)}"
                raise self.place.wrong(f"{lost}, which has `{later}`")
        return count

    def _like(self, first: Data | Blocks, tensors: Tensors, name: str) -> Data | Blocks:
        """An expert's tensor. Raises `CompileError` (E0405) unless it is of the first one's shape, and stored alike."""
        data, found = self._open(tensors, name), f"`{name}` in {where(tensors)}"
        if data.shape != first.shape:
            raise self.place.wrong(f"{found} is {list(data.shape)}, the first is {list(first.shape)}")
        if isinstance(first, Blocks):
            if not isinstance(data, Blocks) or data.format != first.format:
                raise self.place.wrong(f"{found} is not stored as {first.format}, as the first is")
        elif not isinstance(data, Blocks) and data.dtype != first.dtype:
            raise self.place.wrong(f"{found} holds {element(data.dtype)}, the first {element(first.dtype)}")
        return data

    def _open(self, tensors: Tensors, name: str) -> Data | Blocks:
        if self.origin is not None:
            return self._join(self.origin, tensors, name)
        value = self._find(tensors, name)
        return value if isinstance(value, Blocks) else as_numpy(value, name)

    def _join(self, origin: Origin, tensors: Tensors, name: str) -> Blocks:
        """The parts of a quantised tensor together."""
        names = origin.names(name)
        parts = {
            part: as_numpy(self._find(tensors, tensor), tensor)
            for part, tensor in names.items()
            if part not in origin.optional or tensor in tensors
        }
        stored = f"`{names['codes']}` in {where(tensors)}"
        try:
            return origin.open(parts).checked(stored)
        except Misfit as error:
            raise self.place.wrong(f"{stored} is not stored `as {origin.name}`: {error}") from None

    def _find(self, tensors: Tensors, name: str) -> Any:
        if name in tensors:
            return tensors[name]
        span = self.place.span
        help = (elsewhere([name], tensors) if span else None) or nearest(name, list(tensors))
        help = help or (None if span else "a `bind` says which tensor a weight is")
        message = f"`{self.place.param}` needs the tensor `{name}`, which {where(tensors)} lacks"
        raise fail("E0405", message, span, help=help)
