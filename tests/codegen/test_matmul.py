"""What emits the products of a layer: which emitter is chosen where, and that one is whole before it emits."""

from __future__ import annotations

from typing import Any, Final

import pytest

from moec.codegen import choose_matmul, program
from moec.codegen.matmul import Matmul
from moec.language.read import read
from moec.options import Options
from moec.pipeline import Compilation
from moec.target import Target
from tests.examples import EXAMPLES

LINUX: Final = "x86_64-unknown-linux-gnu"
TILES: Final = Target.of(LINUX, "graniterapids")
PAIRS: Final = Target.of(LINUX, "znver4")
OLD: Final = Target.of(LINUX, "haswell")
DIMS: Final = {"H": 128, "I": 64, "E": 4}

#: The emitter of the experts' products: on a machine, in a precision, with a storage and activations.
CHOSEN: Final = {
    "Matmul": (PAIRS, "bf16", None, "real"),
    "TiledMatmul": (TILES, "bf16", None, "real"),
    "SplitMatmul": (TILES, "f32", None, "real"),
    "StoredMatmul": (OLD, "f32", "q4_0", "real"),
    "StoredTiledMatmul": (TILES, "bf16", "q4_0", "real"),
    "StoredSplitMatmul": (TILES, "f32", "q4_0", "real"),
    "PairMatmul": (PAIRS, "bf16", "q4_0", "real"),
    "QuantizedMatmul": (OLD, "f32", "q8_0", "int8"),
    "QuantizedBlockMatmul": (PAIRS, "f32", "q8_0", "int8"),
    "QuantizedTiledMatmul": (TILES, "f32", "q8_0", "int8"),
}


def kinds(kind: type[Matmul]) -> set[type[Matmul]]:
    """A class and all that derive from it."""
    return {kind}.union(*map(kinds, kind.__subclasses__()))


@pytest.mark.parametrize("name", CHOSEN)
def test_an_emitter_is_chosen_and_emits_nothing_before_it_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def watched(stages: Any, op: Any, label: str) -> Matmul:
        before = list(stages.module.globals)
        matmul = choose_matmul.choose_matmul(stages, op, label)
        assert list(stages.module.globals) == before
        if op.grouping.data == "index":
            found.append(type(matmul).__name__)
        return matmul

    monkeypatch.setattr(program, "choose_matmul", watched)
    target, dtype, storage, activations = CHOSEN[name]
    options = Options.of(DIMS, dtype, target=target, storage=storage, activations=activations)
    assert Compilation(read(EXAMPLES / "mixtral.moe"), options).llvm
    assert found == [name, name]


def test_every_emitter_is_drawn() -> None:
    drawn = set((choose_matmul.__doc__ or "").split())
    assert {kind.__name__ for kind in kinds(Matmul)} <= drawn


def test_every_emitter_is_chosen_somewhere() -> None:
    assert {kind.__name__ for kind in kinds(Matmul)} - {"Tiled", "Stretched", "CodeMatmul"} == CHOSEN.keys()
