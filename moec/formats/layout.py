"""What every storage format comes down to: codes of a few bits, and fields that say how to scale and shift them.

    weight = scale × value(code) + offset

Each origin keeps its own order of bits and bytes; taken apart into a `Coded` they are all alike, and nothing is lost: a
format's `join` gives the origin's bytes again. NumPy only; everything above may import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
F32: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]

#: How NumPy holds each kind of number that a field may be. `e8m0` and `e4m3` are bytes (see `number`).
KINDS: Final[dict[str, np.dtype[Any]]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "u8": np.dtype(np.uint8),
    "i8": np.dtype(np.int8),
    "e8m0": np.dtype(np.uint8),
    "e4m3": np.dtype(np.uint8),
}
#: Twice the magnitudes of e2m1 (OCP Microscaling Formats, v1.0, table 5), so that they are integers.
E2M1: Final = (0, 1, 2, 3, 4, 6, 8, 12)
#: The sixteen integers that codes of four bits stand for where they are no integers themselves. Of e2m1 they are
#: doubled, its fourth bit is the sign; those of iq4 are GGUF's (ggml-common.h, kvalues_iq4nl).
TABLES: Final[dict[str, tuple[int, ...]]] = {
    "e2m1": (*E2M1, *(-value for value in E2M1)),
    "iq4": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
}
#: The values of e4m3 by their code (OCP 8-bit Floating Point, v1.0): no infinities, two NaNs.
E4M3_VALUES: Final[F32] = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)

#: The k that codes are grouped by, in panels and in what they are padded to.
GROUP: Final = 32
#: The k of a block of a panel; panels hold whole blocks.
BLOCK: Final = 64
#: The most k that share a scale where activations are quantised.
_LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class Field:
    """A number for every `span` consecutive weights of a row, or one for the whole row where `span` is 0.

    Its name says what it is for: `scale`; `super`, which multiplies the scales of its span; `minimum`, which is added;
    `super_minimum`, which multiplies those minima, and then they are subtracted; `zero`, the code that stands for 0.
    """

    name: Literal["scale", "super", "minimum", "super_minimum", "zero"]
    kind: str
    span: int

    @property
    def home(self) -> Literal["panel", "chunk", "block"]:
        """The part of a panel that it stands at the beginning of."""
        return "panel" if not self.span else "block" if self.span <= BLOCK else "chunk"

    def entries(self, k: int) -> int:
        """How many a row of `k` weights has."""
        return -(-k // self.span) if self.span else 1


@dataclass(frozen=True)
class Layout:
    """Codes of `bits` bits, what they stand for, and the fields.

    `values`: an `integer` is the code less `bias`; `e2m1` is twice the number of that name, and like `iq4` in `TABLES`;
    `e4m3` is the float of that name.
    """

    bits: int
    values: Literal["integer", "e2m1", "iq4", "e4m3"]
    fields: tuple[Field, ...]
    bias: int = 0

    def field(self, name: str) -> Field | None:
        """The field of a name, if there is one."""
        return next((field for field in self.fields if field.name == name), None)

    @property
    def kinds(self) -> dict[str, np.dtype[Any]]:
        """How NumPy holds each field."""
        return {field.name: KINDS[field.kind] for field in self.fields}

    @property
    def span(self) -> int:
        """How many consecutive weights of a row share scale and offset; 0: all."""
        return min((field.span for field in self.fields if field.span), default=0)

    @property
    def shared(self) -> int:
        """How many k of a vector of quantised activations share a scale: as many as share one of the weights, where
        those are more than a block."""
        return max(BLOCK, min(self.span or _LONGEST, _LONGEST))

    @property
    def stretch(self) -> int:
        """How many of them meet weights of one scale and offset."""
        return min(self.span or self.shared, self.shared)

    @property
    def chunk(self) -> int:
        """The k after which fields and codes repeat: the longest span that is not a whole row, at least `BLOCK`."""
        return max([BLOCK, *(field.span for field in self.fields)])

    @property
    def offset(self) -> bool:
        """Whether something is added to scale × value."""
        return any(field.name in ("minimum", "zero") for field in self.fields)

    @property
    def narrow(self) -> bool:
        """Whether scales are of at most 17 bits, and far from the ends of f32: an f16, or one times a byte."""
        kinds = [field.kind for field in self.fields if field.name in ("scale", "super") and field.span]
        return bool(kinds) and all(kind in ("f16", "u8", "i8") for kind in kinds)

    @property
    def center(self) -> int | None:
        """The unsigned byte that stands for 0 where values are taken as such bytes; None where they are no integers."""
        if self.table is not None:
            return -min(self.table)
        return self.bias if self.values == "integer" else None

    @property
    def table(self) -> tuple[int, ...] | None:
        """What the codes stand for, if that is in a table."""
        return TABLES.get(self.values)

    @property
    def looked_up(self) -> bool:
        """Whether a code can be the index into one or two vectors of 16-bit values."""
        return self.bits <= 6

    @property
    def planes(self) -> tuple[int, ...]:
        """The widths into which codes are cut, lowest bits first, each a power of two."""
        return {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}[self.bits]


@dataclass(frozen=True)
class Coded:
    """A matrix [n, k] taken apart: `codes` u8[n, k], and each field's numbers, [n, entries] in their `KINDS`."""

    layout: Layout
    codes: Bytes
    fields: Mapping[str, Array]

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self.codes.shape
        return n, k

    def take(self, rows: Array | slice) -> Coded:
        """Some of the rows."""
        return Coded(self.layout, self.codes[rows], {name: data[rows] for name, data in self.fields.items()})

    @cached_property
    def factors(self) -> tuple[F32, F32 | None]:
        """Scales, and offsets where the layout has them, for every `span`: f32[n, entries]. Products are exact, but
        for a `super` in f32."""
        numbers = {field.name: self._spread(field) for field in self.layout.fields}
        scale, offset = numbers["scale"], numbers.get("minimum")
        with np.errstate(invalid="ignore", over="ignore"):
            if "super" in numbers:
                scale = numbers["super"] * scale
            if offset is not None and "super_minimum" in numbers:
                offset = -(numbers["super_minimum"] * offset)
            if "zero" in numbers:
                offset = -(scale * numbers["zero"])
        return scale, offset

    def _spread(self, field: Field) -> F32:
        """A field, once for every `span` of the layout."""
        data, span, k = number(self.fields[field.name], field.kind), self.layout.span, self.shape[1]
        if field.span == span:
            return data
        repeats = field.span // span if field.span else -(-k // span)
        return np.repeat(data, repeats, axis=1)[:, : -(-k // span)]

    def decode(self) -> F32:
        """The weights, f32[n, k]."""
        k, (scale, offset) = self.shape[1], self.factors
        span = self.layout.span or k
        with np.errstate(invalid="ignore", over="ignore"):
            weights = np.repeat(scale, span, axis=1)[:, :k] * values(self.codes, self.layout)
            return weights if offset is None else weights + np.repeat(offset, span, axis=1)[:, :k]

    def wrong(self) -> str | None:
        """What is no number in a matrix: a scale or a code that is infinite or NaN."""
        if wrong := wrong_scale(self.layout, self.fields):
            return wrong
        if self.layout.values == "e4m3" and (bad := no_number(self.codes, "e4m3")).any():
            return f"a weight of row {int(np.nonzero(bad)[0][0])} is NaN"
        return None


def join_rows(parts: Sequence[Coded]) -> Coded:
    """Matrices of one format below each other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    fields = {name: np.concatenate([part.fields[name] for part in parts]) for name in first.fields}
    return Coded(first.layout, np.concatenate([part.codes for part in parts]), fields)


def wrong_scale(layout: Layout, fields: Mapping[str, Array]) -> str | None:
    """Which number of a matrix's fields, or of some of them, is infinite or NaN."""
    for field in layout.fields:
        if field.name in fields and field.kind in _EXPONENT:
            bad = no_number(fields[field.name], field.kind)
            if bad.any():
                return f"a {field.name.replace('_', ' ')} of row {int(np.nonzero(bad)[0][0])} is not finite"
    return None


#: The bits of what is infinite or NaN, all of which are set.
_EXPONENT: Final[dict[str, Any]] = {
    "f32": np.uint32(0x7F800000),
    "f16": np.uint16(0x7C00),
    "bf16": np.uint16(0x7F80),
    "e8m0": np.uint8(0xFF),
    "e4m3": np.uint8(0x7F),
}


def no_number(data: Array, kind: str) -> NDArray[np.bool_]:
    """Where numbers of a kind are infinite or NaN, told by their bits."""
    mask = _EXPONENT[kind]
    return (data.view(mask.dtype) & mask) == mask


def number(data: Array, kind: str) -> F32:
    """Numbers of a field as f32. `e8m0` and `e4m3`, which stand beside the doubled values of `e2m1`, are halved."""
    if kind == "e8m0":  # 2^(code - 128); the two smallest are subnormal
        code = data.astype(np.uint32)
        return np.where(code < 2, np.uint32(0x00200000) << code, (code - 1) << np.uint32(23)).view(np.float32)
    if kind == "e4m3":
        return E4M3_VALUES[data] * np.float32(0.5)
    return data.astype(np.float32)


def values(codes: Bytes, layout: Layout) -> F32:
    """What codes stand for."""
    if layout.table is not None:
        return np.array(layout.table, np.float32)[codes]
    return codes.astype(np.float32) - np.float32(layout.bias) if layout.values == "integer" else E4M3_VALUES[codes]
