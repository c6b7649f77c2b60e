"""Processors by LLVM's names: which features each has, as far as the table of machines asks, and what they imply."""

from __future__ import annotations

from functools import cache
from typing import Final

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
#: The features of each processor that is known.
CPUS: Final[dict[str, tuple[str, ...]]] = {
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


def enabled(cpu: str, features: tuple[str, ...]) -> frozenset[str]:
    """The features that are on: what the cpu has, what was added, what both imply, less what was taken away and, as in
    LLVM, all that implies it."""
    off = {feature[1:] for feature in features if feature[0] == "-"}
    on = [*CPUS.get(cpu, ()), *(feature[1:] for feature in features if feature[0] == "+")]
    return frozenset(each for feature in on if not off & _closure(feature) for each in _closure(feature))


@cache
def _closure(feature: str) -> frozenset[str]:
    """A feature, and all that it implies."""
    return frozenset({feature}).union(*map(_closure, _IMPLIED.get(feature, ())))


def likely(cpu: str, features: tuple[str, ...]) -> str:
    """The name of a processor with these features: `cpu`, unless the table has one that explains more of them, at best
    of the same maker. Hypervisors invent model numbers, and keep tiles from processors that have them."""
    has = {feature[1:] for feature in features if feature[0] == "+"}
    explained = {
        name: len(has.intersection(facts))
        for name, facts in CPUS.items()
        if has.issuperset(fact for fact in facts if not fact.startswith("amx-"))
    }
    best = max(explained, key=lambda name: (explained[name], name[:3] == cpu[:3]), default=cpu)
    return best if cpu in CPUS and explained.get(cpu, 0) < explained[best] else cpu
