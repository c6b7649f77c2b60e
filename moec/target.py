"""Machines to compile for: their names, their facts, and the register tiles measured on them.

Standard library only; `llvmlite.binding` is imported when the host is asked for. Code above never
looks at a feature's name: it asks a `Target` for lanes, registers, caches and kernel shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final, Literal

from moec import host
from moec.dtypes import DTYPES

#: Bytes of a cache's line.
LINE: Final = 64

#: How a weight and an activation are multiplied: `fma` f32 with f32; `widen` a 16-bit weight becomes
#: f32 in the inner loop, beside an f32 row; `dot` pairs of bf16 with pairs of bf16 (`vdpbf16ps`); `amx` tiles of 16
#: rows and 32 k with tiles of 16 columns (`tdpbf16ps`); `int8` bytes of a stored weight with bytes of a quantised row
#: (`vpdpbusd`, for many rows `tdpbssd`); `codes` as `dot`, the pairs looked up by the codes of a stored weight.
Form = Literal["fma", "widen", "dot", "amx", "int8", "codes"]
_FORMS: Final[dict[str, Form]] = {form: form for form in ("fma", "widen", "dot", "amx", "int8", "codes")}
#: The feature that a form needs; LLVM spells out the others on any machine.
_NEEDS: Final[dict[Form, str]] = {"dot": "avx512bf16", "amx": "amx-bf16"}


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


@dataclass(frozen=True, slots=True)
class Target:
    """A machine: what LLVM needs to compile for it, and what the scheduler needs to know.

    `features` are LLVM's, each with its sign; what `cpu` implies need not be repeated. `-vectors` is moec's own: code
    for one number at a time, to find what vectors are worth. `l1` and `l2` are the
    bytes of data cache that one core has to itself. Prints as `triple:cpu:features:caches` and parses
    back, so the text may stand in a cache key.
    """

    triple: str
    cpu: str
    features: tuple[str, ...] = ()
    l1: int = 32 << 10
    l2: int = 512 << 10

    @staticmethod
    def host() -> Target:
        """The machine that this process runs on."""
        return _host()

    @staticmethod
    def of(triple: str, cpu: str = "generic") -> Target:
        """A machine to compile for from here; `cpu` is LLVM's name of it, or `native` for this one.

        Raises `ValueError` when `native` is asked for a triple of another architecture.
        """
        if cpu == "native":
            host = Target.host()
            if _architecture(triple) != _architecture(host.triple):
                raise ValueError(f"`native` is {host.architecture}, which `{triple}` is not")
            return Target(triple, host.cpu, host.features, host.l1, host.l2)
        baseline = _BASELINES.get(_architecture(triple), ()) if cpu.startswith("generic") else ()
        return Target(triple, _GENERIC_CPUS.get(_architecture(triple), cpu) if cpu == "generic" else cpu, baseline)

    @staticmethod
    def parse(text: str) -> Target:
        """The target that prints as `text`; raises `ValueError` when none does."""
        fields = text.split(":")
        if len(fields) not in (2, 3, 4) or not all(fields[:2]):
            raise ValueError(f"expected `triple:cpu:features`, not `{text}`")
        features = tuple(filter(None, fields[2].split(","))) if len(fields) > 2 else ()
        if bad := [feature for feature in features if feature[0] not in "+-" or len(feature) < 2]:
            raise ValueError(f"a feature starts with `+` or `-`, unlike `{bad[0]}`")
        if len(fields) < 4:
            return Target(fields[0], fields[1], features)
        try:
            l1, l2 = (int(size) for size in fields[3].split("/"))
        except ValueError:
            raise ValueError(f"expected the bytes of two caches as `l1/l2`, not `{fields[3]}`") from None
        return Target(fields[0], fields[1], features, l1, l2)

    def without(self, *names: str) -> Target:
        """The same machine without some of LLVM's features."""
        kept = (feature for feature in self.features if feature[1:] not in names)
        return replace(self, features=(*kept, *(f"-{name}" for name in names)))

    def __str__(self) -> str:
        text = f"{self.triple}:{self.cpu}:{','.join(self.features)}"
        default = Target(self.triple, self.cpu)
        return text if (self.l1, self.l2) == (default.l1, default.l2) else f"{text}:{self.l1}/{self.l2}"

    def runs_on(self, host: Target) -> bool:
        """Whether a machine surely has every instruction that LLVM may choose for this one.

        Of two cpus that the table knows, one surely runs the other's code when it has more of what the table asks for.
        """
        same = (self.architecture, _system(self.triple)) == (host.architecture, _system(host.triple))
        mine, theirs = _enabled(self), _enabled(host)
        listed = {feature for features in _CPUS.values() for feature in features}
        known = self.cpu in (host.cpu, "", "generic") or self.cpu.startswith(("generic-", "x86-64"))
        return same and (mine <= theirs if known else self.cpu in _CPUS and mine < theirs & listed)

    @property
    def architecture(self) -> str:
        """`x86_64`, `aarch64`, `riscv64`, or the triple's own first word."""
        return _architecture(self.triple)

    @property
    def vector_bits(self) -> int:
        """The widest vector that runs at full rate; 32 where there is no vector unit at all."""
        return _machine(self).vector_bits

    @property
    def vector_registers(self) -> int:
        """How many architectural vector registers there are."""
        return _machine(self).vector_registers

    @property
    def lanes(self) -> int:
        """How many f32 one vector holds."""
        return self.vector_bits // 32

    @property
    def prefetch(self) -> tuple[tuple[int, int], ...]:
        """(rows, bytes): from so many rows on that pass over weights from memory, what lies so far ahead wants to be
        prefetched; with fewer than the first the hardware keeps up by itself, and better alone."""
        return _machine(self).prefetch

    @property
    def streams(self) -> Streams:
        """In what parts panels are read from memory."""
        return _machine(self).streams

    @property
    def part_bytes(self) -> tuple[int, int]:
        """How much of a panel stays in a cache while blocks of rows pass over it: of few rows, and of many."""
        many = self.l2 // 8
        return self.l1 * 2 // 3 if _machine(self).near == 1 else many, many

    @property
    def writes_past_caches(self) -> bool:
        """Whether whole lines can be written to memory without being fetched first (`movntps`), which other threads see
        after a fence of its own; elsewhere that is only a hint, and nothing was measured."""
        return self.architecture == "x86_64"

    @property
    def converts_f16(self) -> bool:
        """Whether vectors of f16 become f32 by an instruction rather than by a call into a library."""
        return self.architecture == "aarch64" or bool({"f16c", "zvfhmin"} & _enabled(self))

    @property
    def byte_dots(self) -> Literal["bytes", "pairs", "none"]:
        """What multiplies integers and adds their products in one instruction: four unsigned with four signed bytes
        (`vpdpbusd`), two pairs of 16 bits (`pmaddwd`), or nothing."""
        has = _enabled(self)
        if self.architecture != "x86_64" or self.vector_bits < 128:
            return "none"
        vnni = "avx512vnni" if self.vector_bits == 512 else "avxvnni"
        bytes = vnni in has and self.vector_bits >= 256
        return "bytes" if bytes else "none" if self.vector_bits == 512 and "avx512bw" not in has else "pairs"

    @property
    def byte_blocks(self) -> bool:
        """Whether dot products of bytes leave registers for the integers of several rows and two lines of columns."""
        return self.byte_dots == "bytes" and self.vector_bits == 512 and self.vector_registers == 32

    def tiled_from(self, stretch: int) -> int | None:
        """From how many rows on bytes are multiplied in tiles, where weights of one scale are `stretch` long; None
        where they never are."""
        tiles = "amx-int8" in _enabled(self) and self.byte_dots == "bytes"
        return _machine(self).tiled.get(stretch) if tiles else None

    def split_from(self, shape: KernelShape) -> int | None:
        """From how many rows on products of this shape go through tiles of bf16, each factor the sum of several; None
        where they never do."""
        tiles = shape.form in ("fma", "widen") and "amx-bf16" in _enabled(self) and shape.lanes == 16
        return _machine(self).split.get(shape.dtype) if tiles else None

    @property
    def looks_up_bytes(self) -> bool:
        """Whether every byte of a vector can be looked up in a table of sixteen (`pshufb`, `tbl`)."""
        if self.architecture == "aarch64":
            return self.vector_bits == 128
        needs = {512: "avx512bw", 256: "avx2", 128: "ssse3"}.get(self.vector_bits, "")
        return self.architecture == "x86_64" and needs in _enabled(self)

    def code_shape(self, form: Form, dtype: str, columns: int, interleaved: int = 1) -> KernelShape:
        """The shape to use where codes of stored weights are multiplied in registers, with rows that come in `dtype`:
        the widest panels of those that waste the fewest columns."""
        lanes = self.lanes
        widths = [width for width in (64, 48, 32, 16) if width % (lanes * interleaved) == 0] or [lanes * interleaved]
        waste = {width: -(columns * interleaved) % width for width in widths}
        return KernelShape(dtype, form, _CODE_ROWS, min(widths, key=lambda width: waste[width]), 4, lanes)

    def choices(self, dtype: str, streamed: bool = False) -> tuple[KernelShape, ...]:
        """The shapes that run near the machine's limit for weights of `dtype`, best first; before them, for weights
        that are `streamed` from memory as they are, those that read two parts of a panel at once."""
        shapes, wide = tuple(shape for shape, _ in _rated(self, dtype)), 2 * self.streams.columns.get(dtype, 0)
        halved = (replace(shape, streams=2) for shape in shapes if shape.columns == wide and shape.form != "amx")
        return (*halved, *shapes) if streamed else shapes

    def kernel(
        self, dtype: str, columns: int | None = None, interleaved: int = 1, streamed: bool = False
    ) -> KernelShape:
        """The shape to use for a matrix of `dtype` with `columns` weight rows: the most useful FLOPs a second.

        `interleaved` matrices of `columns` rows each share every panel in equal parts of whole vectors. `streamed` is
        as for `choices`.
        """
        return max(self.choices(dtype, streamed), key=lambda shape: self.rate(shape, columns, interleaved))

    def rate(self, shape: KernelShape, columns: int | None = None, interleaved: int = 1) -> float:
        """The share of the machine's arithmetic limit that a shape turns into useful FLOPs; more, where memory serves
        it faster.

        It is 0 where so many matrices cannot share a panel in whole vectors. `columns` and `interleaved` are as for
        `kernel`: columns that a last panel has too many are of no use.
        """
        if shape.vectors % interleaved:
            return 0.0
        rate = dict(_rated(self, shape.dtype))[replace(shape, streams=1)]
        rate *= self.streams.gain if shape.streams > 1 else 1.0
        total = None if columns is None else columns * interleaved
        return rate if total is None else rate * total / (shape.panels(total) * shape.columns)


#: The rows whose sums stay in the first cache beside 64 columns.
_CODE_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class _Tile:
    """A tile of `rows` by `columns` and the share of the machine's arithmetic limit measured with it."""

    rows: int
    columns: int
    rate: float
    form: Form


def _tiles(form: Form, rates: dict[tuple[int, int], float]) -> tuple[_Tile, ...]:
    return tuple(_Tile(*size, rate, form) for size, rate in rates.items())


@dataclass(frozen=True, slots=True)
class _Machine:
    """One row of the table of machines: its vectors, and the tiles for each dtype of weights."""

    vector_bits: int
    vector_registers: int
    f32: tuple[_Tile, ...]
    bf16: tuple[_Tile, ...]
    f16: tuple[_Tile, ...]
    prefetch: tuple[tuple[int, int], ...] = ((1, 1024),)
    streams: Streams = Streams()
    #: Which cache the multiply-adds of few rows want a panel to be in.
    near: Literal[1, 2] = 2
    #: For stretches of k of one scale: from how many rows on bytes go through tiles.
    tiled: Mapping[int, int] = field(default_factory=dict[int, int])
    #: From how many rows on an element type is split for tiles of bf16.
    split: Mapping[str, int] = field(default_factory=dict[str, int])

    def tiles(self, dtype: str) -> tuple[_Tile, ...]:
        return {"f32": self.f32, "bf16": self.bf16, "f16": self.f16}[dtype]


#: Zen 4: one 512-bit FMA or `vdpbf16ps` a cycle; many broadcasts (12 rows and more) starve it (f16 not measured).
_AVX512_FAST_DOT = _Machine(
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
_AVX512 = _Machine(
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
_AVX2 = _Machine(
    256,
    16,
    f32=_tiles("fma", {(6, 16): 0.99, (4, 24): 0.99}),
    bf16=_tiles("widen", {(6, 16): 0.92, (3, 24): 0.89}),
    f16=_tiles("widen", {(6, 16): 0.90, (3, 24): 0.79}),
)
_SSE2 = _Machine(128, 16, _tiles("fma", {(4, 8): 1.0}), _tiles("widen", {(4, 8): 1.0}), _tiles("widen", {(4, 8): 1.0}))
#: Any other machine with vectors: rates not measured, only that nothing spills.
_NEON = _Machine(
    128,
    32,
    f32=_tiles("fma", {(6, 16): 1.0, (8, 12): 1.0, (4, 24): 1.0}),
    bf16=_tiles("widen", {(8, 8): 1.0, (4, 16): 0.9}),
    f16=_tiles("widen", {(6, 16): 1.0, (8, 12): 1.0}),
)
_SCALAR = _Machine(32, 32, _tiles("fma", {(4, 4): 1.0}), _tiles("widen", {(4, 4): 1.0}), _tiles("widen", {(4, 4): 1.0}))

#: What an LLVM feature brings along, as far as the table asks.
_IMPLIED: Final = {
    "avx512bf16": ("avx512f",),
    "avx512fp16": ("avx512f",),
    "avx512bw": ("avx512f",),
    "avx512vnni": ("avx512f",),
    "avxvnni": ("avx2",),
    "avx512f": ("avx2", "fma", "f16c"),
    "amx-bf16": ("amx-tile",),
    "amx-int8": ("amx-tile",),
    "zvfh": ("zvfhmin",),
    "zvfhmin": ("v",),
}

_V3: Final = ("avx2", "fma", "f16c")
_VNNI3: Final = (*_V3, "avxvnni")
_V4: Final = (*_V3, "avx512f", "avx512bw")
_VNNI4: Final = (*_V4, "avx512vnni")
_BF16: Final = (*_VNNI4, "avx512bf16")
_FP16: Final = (*_BF16, "avx512fp16")
_AMX: Final = (*_FP16, "amx-bf16", "amx-int8")
_CPUS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("x86-64-v3", "haswell", "broadwell", "skylake"), _V3),
    **dict.fromkeys(("alderlake", "raptorlake", "meteorlake", "arrowlake", "lunarlake", "pantherlake"), _VNNI3),
    **dict.fromkeys(("sierraforest", "grandridge", "gracemont"), _VNNI3),
    **dict.fromkeys(("znver1", "znver2", "znver3"), _V3),
    **dict.fromkeys(("x86-64-v4", "skylake-avx512", "skx", "cannonlake"), _V4),
    **dict.fromkeys(("cascadelake", "icelake-client", "icelake-server", "tigerlake", "rocketlake"), _VNNI4),
    **dict.fromkeys(("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d", "diamondrapids"), _AMX),
    **dict.fromkeys(("cooperlake", "znver4", "znver5"), _BF16),
    "znver6": _FP16,
}

#: What every machine of an architecture that runs Linux has, where LLVM's generic one has less.
_BASELINES: Final = {"riscv64": ("+m", "+a", "+f", "+d", "+c")}
_GENERIC_CPUS: Final = {"riscv64": "generic-rv64", "x86_64": "x86-64"}


def _system(triple: str) -> str:
    """What decides the format of an object file and how functions are called."""
    return next((name for name in ("linux", "darwin", "macos", "windows") if name in triple), "")


def _architecture(triple: str) -> str:
    name = triple.split("-")[0]
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


@cache
def _enabled(target: Target) -> frozenset[str]:
    """The features that are on: what the cpu has, what was added, what both imply, less what was taken away and, as in
    LLVM, all that implies it."""
    off = {feature[1:] for feature in target.features if feature[0] == "-"}
    on = [*_CPUS.get(target.cpu, ()), *(feature[1:] for feature in target.features if feature[0] == "+")]
    return frozenset(each for feature in on if not off & _closure(feature) for each in _closure(feature))


@cache
def _closure(feature: str) -> frozenset[str]:
    """A feature, and all that it implies."""
    return frozenset({feature}).union(*map(_closure, _IMPLIED.get(feature, ())))


@cache
def _machine(target: Target) -> _Machine:
    """The row of the table that `target` stands in."""
    has = _enabled(target)
    if "-vectors" in target.features:
        return _SCALAR
    match target.architecture:
        case "x86_64":
            if "avx512f" in has:
                if "avx512bf16" in has and target.cpu.startswith("znver"):
                    return _AVX512_FAST_DOT
                return _INTEL.get(target.cpu, _AVX512)
            return _AVX2 if {"avx2", "fma"} <= has else _SSE2
        case "riscv64":
            return _NEON if "v" in has else _SCALAR
        case _:
            return _NEON


@cache
def _rated(target: Target, dtype: str) -> tuple[tuple[KernelShape, float], ...]:
    """The shapes of the form that does best on a target, with their rates, the best first."""
    machine, has = _machine(target), _enabled(target)
    usable = [tile for tile in machine.tiles(dtype) if _NEEDS.get(tile.form, "") in {"", *has}]
    best = max(usable, key=lambda tile: tile.rate)
    kstep, lanes = 2 if dtype == "bf16" else 1, target.lanes
    tiles = [tile for tile in usable if tile.form == best.form]
    return tuple((KernelShape(dtype, t.form, t.rows, t.columns, kstep, lanes), t.rate) for t in tiles)


def likely(cpu: str, features: tuple[str, ...]) -> str:
    """The name of a processor with these features: `cpu`, unless the table has one that explains more of them, at best
    of the same maker. Hypervisors invent model numbers, and keep tiles from processors that have them."""
    has = {feature[1:] for feature in features if feature[0] == "+"}
    explained = {
        name: len(has.intersection(facts))
        for name, facts in _CPUS.items()
        if has.issuperset(fact for fact in facts if not fact.startswith("amx-"))
    }
    best = max(explained, key=lambda name: (explained[name], name[:3] == cpu[:3]), default=cpu)
    return best if cpu in _CPUS and explained.get(cpu, 0) < explained[best] else cpu


@cache
def _host() -> Target:
    from llvmlite import binding

    default = Target("", "")
    features = host.usable(dict(binding.get_host_cpu_features()))
    return Target(
        binding.get_process_triple(),
        likely(binding.get_host_cpu_name(), features),
        features,
        host.cache_bytes(1) or default.l1,
        host.cache_bytes(2) or default.l2,
    )
