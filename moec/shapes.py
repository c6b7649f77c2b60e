"""How products are computed and how weights lie for them: forms, streams, panels, and the register tiles of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from moec.dtypes import DTYPES

#: How a weight and an activation are multiplied: `fma` f32 with f32; `widen` a 16-bit weight becomes
#: f32 in the inner loop, beside an f32 row; `dot` pairs of bf16 with pairs of bf16 (`vdpbf16ps`); `amx` tiles of 16
#: rows and 32 k with tiles of 16 columns (`tdpbf16ps`); `int8` bytes of a stored weight with bytes of a quantised row
#: (`vpdpbusd`, for many rows `tdpbssd`); `codes` as `dot`, the pairs looked up by the codes of a stored weight.
Form = Literal["fma", "widen", "dot", "amx", "int8", "codes"]
_FORMS: Final[dict[str, Form]] = {form: form for form in ("fma", "widen", "dot", "amx", "int8", "codes")}


@dataclass(frozen=True, slots=True)
class Streams:
    """How dense weights come from memory fastest: panels in parts of so many `columns`, by their dtype, read at once,
    each of them prefetched `ahead` bytes ahead where rows are few. `gain` is how many times as fast that is."""

    columns: Mapping[str, int] = field(default_factory=dict[str, int])
    ahead: int = 0
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class PanelShape:
    """How weights lie in a panel: `columns` weight rows side by side, and no more where they are stored in a format.

    Dense ones are of `dtype`, zeros up to a multiple of `depth` k: [k / depth][columns / width][depth / kstep][width]
    [kstep], where a `width` of 0 stands for all columns, a `depth` of 0 for all k. Kernels whose panels have one shape
    read each other's.
    """

    columns: int
    dtype: str = ""
    kstep: int = 1
    depth: int = 1
    width: int = 0

    def steps(self, k: int) -> int:
        """How many groups of `kstep` hold `k` elements, whole `depth`s of them."""
        depth = self.depth or self.kstep
        return -(-k // depth) * (depth // self.kstep)

    @staticmethod
    def parse(text: str) -> PanelShape:
        """The shape that prints as `text`. Raises `ValueError`."""
        columns, *words = text.split()
        if not words:
            return PanelShape(int(columns))
        dtype, _, kstep, _, depth, *width = words
        return PanelShape(int(columns), dtype, int(kstep), int(depth), int(width[1]) if width else 0)

    def __str__(self) -> str:
        dense = f" {self.dtype} kstep {self.kstep} depth {self.depth}" if self.dtype else ""
        return f"{self.columns}{dense}" + (f" width {self.width}" if self.width else "")


@dataclass(frozen=True, slots=True)
class KernelShape:
    """A register tile: up to `rows` tokens by exactly `columns` weight rows, in vectors of `lanes` f32.

    `dtype` names the weights' element type; `kstep` consecutive k stand side by side in a panel, laid out
    as [K / kstep][columns][kstep], or as `streams` parts of as many columns each, one behind the other; `activation`
    names the element type in which the rows stand in memory.
    """

    dtype: str
    form: Form
    rows: int
    columns: int
    kstep: int
    lanes: int
    streams: int = 1

    @property
    def activation(self) -> str:
        """The dtype of the rows: the weights' own, or f32 (rounded to the weights' dtype) for `widen`."""
        return "f32" if self.form == "widen" else self.dtype

    @property
    def vectors(self) -> int:
        """How many accumulator vectors one row of the tile takes."""
        return self.columns // self.lanes

    @property
    def step_bytes(self) -> int:
        """The bytes of a panel that one step reads: `kstep` k of every column."""
        return self.columns * self.kstep * DTYPES[self.dtype].size

    @property
    def stream_bytes(self) -> int:
        """The bytes of them that stand in one stream."""
        return self.step_bytes // self.streams

    def panels(self, columns: int) -> int:
        """How many panels hold `columns` weight rows."""
        return -(-columns // self.columns)

    @property
    def depth(self) -> int:
        """How many k are multiplied at once; panels have zeros up to a multiple of it."""
        return 32 if self.form == "amx" else self.kstep

    @property
    def panel(self) -> PanelShape:
        """How a panel of dense weights lies that this shape reads."""
        if self.streams > 1:
            return PanelShape(self.columns, self.dtype, self.kstep, 0, self.columns // self.streams)
        return PanelShape(self.columns, self.dtype, self.kstep, self.depth, 16 if self.form == "amx" else 0)

    def steps(self, k: int) -> int:
        """How many groups of `kstep` hold `k` elements, whole `depth`s of them."""
        return self.panel.steps(k)

    @property
    def tile(self) -> str:
        """All but the dtype, as it stands in `plan.matmul`: `dot 8x48 kstep 2 lanes 16`."""
        streams = f" streams {self.streams}" if self.streams > 1 else ""
        return f"{self.form} {self.rows}x{self.columns} kstep {self.kstep} lanes {self.lanes}{streams}"

    @staticmethod
    def parse(tile: str, dtype: str) -> KernelShape:
        """The shape for `dtype` whose `tile` is that text. Raises `ValueError`."""
        form, size, _, kstep, _, lanes, *streams = tile.split()
        rows, columns = map(int, size.split("x"))
        if form not in _FORMS:
            raise ValueError(f"no form of product is called `{form}`")
        return KernelShape(
            dtype, _FORMS[form], rows, columns, int(kstep), int(lanes), int(streams[1]) if streams else 1
        )

    def __str__(self) -> str:
        streams = f"in{self.streams}" if self.streams > 1 else ""
        return f"{self.form}_{self.dtype}_{self.rows}x{self.columns}{streams}"
