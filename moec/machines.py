"""The table of machines: their vectors, what memory wants, and the register tiles measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from moec.shapes import Form, Streams

#: The feature that a form needs; LLVM spells out the others on any machine.
_NEEDS: Final[dict[Form, str]] = {"dot": "avx512bf16", "amx": "amx-bf16"}


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of `rows` by `columns` and the share of the machine's arithmetic limit measured with it."""

    rows: int
    columns: int
    rate: float
    form: Form


def _tiles(form: Form, rates: dict[tuple[int, int], float]) -> tuple[Tile, ...]:
    return tuple(Tile(*size, rate, form) for size, rate in rates.items())


@dataclass(frozen=True, slots=True)
class Machine:
    """One row of the table of machines: its vectors, and the tiles for each dtype of weights."""

    vector_bits: int
    vector_registers: int
    f32: tuple[Tile, ...]
    bf16: tuple[Tile, ...]
    f16: tuple[Tile, ...]
    prefetch: tuple[tuple[int, int], ...] = ((1, 1024),)
    streams: Streams = field(default_factory=Streams)
    #: Which cache the multiply-adds of few rows want a panel to be in.
    near: Literal[1, 2] = 2
    #: For stretches of k of one scale: from how many rows on bytes go through tiles.
    tiled: Mapping[int, int] = field(default_factory=dict[int, int])
    #: From how many rows on an element type is split for tiles of bf16.
    split: Mapping[str, int] = field(default_factory=dict[str, int])

    def tiles(self, dtype: str, features: frozenset[str]) -> tuple[Tile, ...]:
        """The tiles for weights of `dtype`, of the form that does best with these features."""
        measured = {"f32": self.f32, "bf16": self.bf16, "f16": self.f16}[dtype]
        usable = [tile for tile in measured if _NEEDS.get(tile.form, "") in {"", *features}]
        best = max(usable, key=lambda tile: tile.rate)
        return tuple(tile for tile in usable if tile.form == best.form)


#: Zen 4: one 512-bit FMA or `vdpbf16ps` a cycle; many broadcasts (12 rows and more) starve it (f16 not measured).
_AVX512_FAST_DOT = Machine(
    512,
    32,
    f32=_tiles("fma", {(8, 48): 1.0, (6, 64): 1.0, (4, 96): 1.0, (12, 32): 0.75}),
    bf16=_tiles("dot", {(8, 48): 1.0, (6, 64): 1.0, (4, 96): 1.0, (12, 32): 0.75}),
    f16=_tiles("widen", {(8, 48): 0.85, (6, 64): 0.8, (12, 32): 0.75, (4, 96): 0.7}),
    prefetch=((7, 8192),),
)
#: Intel (vectors measured on a Granite Rapids at the frequency that the kernel itself leaves): two 512-bit FMAs a
#: cycle, `vdpbf16ps` at half their rate. Widening shares the FMAs' ports, so few columns and many rows do best; widened
#: pairs of more than three vectors spill. bf16 is in shares of what tiles reach: on one core of an Emerald Rapids 2350
#: GFLOP/s from the first cache (1550 from the second), beside 155 of f32's multiply-adds and 87 of `vdpbf16ps`. Bytes
#: on the same machine, beside blocks of rows in vectors (one thread and 16): with a scale for 64 k tiles are level at
#: 32 rows, with one for 32 k at 48, and 1.4 times as fast at 256. With one for 16 k a tile is a quarter full and has
#: four times the integers to scale: it never was as fast. f32 split for tiles is level with multiply-adds at 32 rows
#: and a quarter ahead at 48, f16 a sixth at 16 (OLMoE on a Granite Rapids). One or two rows read a fifth more with
#: prefetches 640 bytes ahead than 1024, 16 rows a twentieth more with 4096; 8 to 32 pass a tenth faster over parts of a
#: panel that the first cache holds than over longer ones in the second, 128 do not (f32 on a Granite Rapids).
_AVX512 = Machine(
    512,
    32,
    f32=_tiles("fma", {(8, 48): 0.99, (6, 64): 0.99, (4, 96): 0.95, (12, 32): 0.93}),
    bf16=(
        *_tiles("amx", {(32, 32): 1.0}),
        *_tiles("widen", {(8, 48): 0.063, (12, 32): 0.063}),
        *_tiles("dot", {(8, 48): 0.037}),
    ),
    f16=_tiles("widen", {(12, 32): 0.80, (8, 48): 0.76, (6, 64): 0.72}),
    prefetch=((1, 640), (4, 4096)),
    near=1,
    tiled={256: 32, 128: 32, 64: 32, 32: 48},
    split={"f32": 40, "f16": 16},
)
#: From Sapphire Rapids on. A Granite Rapids reads weights in two streams faster than in one, the narrower they are:
#: beside two rows of f32 in streams of 32, 48 and 64 columns 18.5, 18.0 and 15.8 GB/s, in one stream 15.8 to 17.0. The
#: gain is what layers of f32 and f16 have of it at 4 and 16 tokens. Where a hypervisor keeps tiles back bf16 is
#: widened, in streams of 16 columns (a line for two k): 1.2 to 1.5 times as fast as in one of 48 up to 16 tokens on an
#: Emerald Rapids, and as fast at 512, where 64 columns in two streams, whose pairs spill, lose a twentieth.
_RAPIDS = replace(_AVX512, streams=Streams({"f32": 32, "bf16": 16, "f16": 32}, ahead=768, gain=1.15))
#: On 16 threads f32 that is split took 1.05 to 1.4 times as long as multiply-adds; f16 is 1.1 to 1.8 times as fast.
#: Prefetches 768 bytes ahead leave OLMoE in bf16, widened, a twentieth slower than 3072; in f32 it is the same. Codes
#: that meet int8 activations come a tenth faster from 4096 bytes ahead than from 1024 (q8_0 and q4_0, 1 to 16 tokens).
_EMERALD = replace(_RAPIDS, prefetch=((1, 4096),), streams=replace(_RAPIDS.streams, ahead=3072), split={"f16": 24})
#: LLVM takes a Granite Rapids whose hypervisor hides its model for the first processor with such features.
_INTEL: Final = {"emeraldrapids": _EMERALD, **dict.fromkeys(("sapphirerapids", "graniterapids"), _RAPIDS)}
#: Measured with 256-bit code on the same machine.
_AVX2 = Machine(
    256,
    16,
    f32=_tiles("fma", {(6, 16): 0.99, (4, 24): 0.99}),
    bf16=_tiles("widen", {(6, 16): 0.92, (3, 24): 0.89}),
    f16=_tiles("widen", {(6, 16): 0.90, (3, 24): 0.79}),
)
_SSE2 = Machine(128, 16, _tiles("fma", {(4, 8): 1.0}), _tiles("widen", {(4, 8): 1.0}), _tiles("widen", {(4, 8): 1.0}))
#: Any other machine with vectors: rates not measured, only that nothing spills.
_NEON = Machine(
    128,
    32,
    f32=_tiles("fma", {(6, 16): 1.0, (8, 12): 1.0, (4, 24): 1.0}),
    bf16=_tiles("widen", {(8, 8): 1.0, (4, 16): 0.9}),
    f16=_tiles("widen", {(6, 16): 1.0, (8, 12): 1.0}),
)
#: Where there are no vectors.
SCALAR = Machine(32, 32, _tiles("fma", {(4, 4): 1.0}), _tiles("widen", {(4, 4): 1.0}), _tiles("widen", {(4, 4): 1.0}))


def machine_of(architecture: str, cpu: str, features: frozenset[str]) -> Machine:
    """The row of the table in which a processor stands that has these features."""
    match architecture:
        case "x86_64":
            if "avx512f" in features:
                if "avx512bf16" in features and cpu.startswith("znver"):
                    return _AVX512_FAST_DOT
                return _INTEL.get(cpu, _AVX512)
            return _AVX2 if {"avx2", "fma"} <= features else _SSE2
        case "riscv64":
            return _NEON if "v" in features else SCALAR
        case _:
            return _NEON
