"""Targets: machines to compile for, what LLVM needs of them and what the scheduler asks.

Code above never looks at a feature's name: it asks a `Target` for lanes, registers, caches and kernel shapes. The
figures come from the table of `machines`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal

from moec import host
from moec.machines import SCALAR, Machine, machine_of
from moec.processors import CPUS, enabled
from moec.shapes import Form, KernelShape, Streams

#: Bytes of a cache's line.
LINE: Final = 64


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
        listed = {feature for features in CPUS.values() for feature in features}
        known = self.cpu in (host.cpu, "", "generic") or self.cpu.startswith(("generic-", "x86-64"))
        return same and (mine <= theirs if known else self.cpu in CPUS and mine < theirs & listed)

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
        rows = min(_CODE_ROWS, self.l1 // 2 // (4 * 64))
        return KernelShape(dtype, form, rows, min(widths, key=lambda width: waste[width]), 4, lanes)

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


#: The most rows that pass over a block of codes together, where half of the first cache holds their sums beside 64
#: columns. On an Emerald Rapids 96 are 1.01 to 1.03 times as fast as 64 from 512 tokens on (OLMoE in 4 bits), and 128
#: are no faster.
_CODE_ROWS: Final = 96

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
    return enabled(target.cpu, target.features)


@cache
def _machine(target: Target) -> Machine:
    """The row of the table that a target stands in."""
    if "-vectors" in target.features:
        return SCALAR
    return machine_of(target.architecture, target.cpu, _enabled(target))


@cache
def _rated(target: Target, dtype: str) -> tuple[tuple[KernelShape, float], ...]:
    """The shapes of the form that does best on a target, with their rates, the best first."""
    kstep, lanes = 2 if dtype == "bf16" else 1, target.lanes
    tiles = _machine(target).tiles(dtype, _enabled(target))
    return tuple((KernelShape(dtype, t.form, t.rows, t.columns, kstep, lanes), t.rate) for t in tiles)


@cache
def _host() -> Target:
    default = Target("", "")
    l1, l2 = host.cache_bytes(1) or default.l1, host.cache_bytes(2) or default.l2
    return Target(host.triple(), *host.processor(), l1, l2)
