"""What a kernel says of itself is what runs, and nothing is compiled but that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moec
from moec import CompileError, kernels
from moec.runtime.stored import decoded
from moec.runtime.unpack import unpack
from tests.checkpoint.models import DIMS, weights, write_gguf, write_sharded
from tests.examples import EXAMPLES

OLMOE = EXAMPLES / "olmoe.moe"
STACKS = ("gate", "up", "down")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The storage formats of every program that a kernel asks for."""
    asked, build = list[Any](), kernels.build

    def told(source: Any, options: Any) -> Any:
        asked.append(dict(options.storage))
        return build(source, options)

    monkeypatch.setattr(kernels, "build", told)
    yield asked


def tokens() -> Any:
    return np.random.default_rng(9).standard_normal((7, DIMS["H"]), dtype=np.float32)


def test_a_kernel_of_weights_says_what_runs_with_them(programs: list[Any]) -> None:
    kernel = moec.compile(OLMOE, DIMS, threads=1, activations="int8")
    packed, arrays = kernel.pack(weights(), storage="q8_0"), weights()
    ran = kernel.of(packed)
    assert (kernel.storage, kernel.activations) == ({}, "real")
    assert (ran.storage, ran.activations) == (dict.fromkeys(STACKS, "q8_0"), "int8")
    assert set(ran.interface.quantized) == set(STACKS)
    assert 'tile = "int8' in str(ran.inspect("plan")) and 'tile = "int8' not in str(kernel.inspect("plan"))
    wanted = decoded(ran.interface, arrays)
    for name, array in unpack(ran.interface, packed).items():
        np.testing.assert_array_equal(array, wanted[name])
    with pytest.raises(CompileError, match=r"E0402.*`router` differ"):
        unpack(kernel.interface, packed)
    assert np.array_equal(ran(tokens(), packed), kernel(tokens(), packed))
    assert np.array_equal(ran(tokens(), ran.pack(arrays)), ran(tokens(), packed))
    assert ran.of(packed) is ran and kernel.of(kernel.pack(arrays)) is kernel
    assert programs == [{}, {"experts": "q8_0"}]


def test_a_kernel_of_other_weights_is_refused() -> None:
    kernel = moec.compile(OLMOE, DIMS, threads=1)
    other = moec.compile(EXAMPLES / "mixtral.moe", DIMS, threads=1)
    larger = moec.compile(OLMOE, {**DIMS, "I": 32}, threads=1)
    wrong: list[tuple[Any, str]] = [
        (weights(), "E0401.*not packed"),
        (other.pack(weights()), "E0402.*of `mixtral`"),
        (other.pack(weights(), storage="q8_0"), "E0402.*of `mixtral`"),
        (larger.pack(weights(I=32)), "E0402.*differ"),
    ]
    for given, words in wrong:
        with pytest.raises(CompileError, match=words):
            kernel.of(given)


@pytest.mark.parametrize("types", [dict.fromkeys(STACKS, "Q8_0"), {"gate": "Q8_0", "down": "Q4_0"}])
def test_a_quantised_checkpoint_is_compiled_as_it_is(
    tmp_path: Path, programs: list[Any], types: dict[str, str]
) -> None:
    write_gguf(tmp_path / "m.gguf", [weights()], types)
    kernel, loaded = moec.load(OLMOE, tmp_path / "m.gguf", "blk.0", threads=1, activations="int8")
    formats = {name: kind.lower() for name, kind in types.items()}
    assert programs == [formats]
    assert (kernel.storage, kernel.activations) == (formats, "int8")
    apart = moec.compile(OLMOE, DIMS, threads=1, activations="int8", storage=formats)
    np.testing.assert_array_equal(kernel(tokens(), loaded), apart(tokens(), apart.load(tmp_path / "m.gguf", "blk.0")))
    assert 'tile = "int8' in str(kernel.inspect("plan"))


def test_a_checkpoint_in_a_format_that_is_asked_for_is_compiled_once(tmp_path: Path, programs: list[Any]) -> None:
    write_sharded(tmp_path, [weights()])
    kernel, loaded = moec.load(OLMOE, tmp_path, "model.layers.0.mlp", threads=1, storage="q4_0")
    kernel(tokens(), loaded)
    assert kernel.storage == loaded.formats == dict.fromkeys(STACKS, "q4_0")
    assert programs == [{"experts": "q4_0"}]
    again = kernel.load(tmp_path, "model.layers.0.mlp")
    assert again.formats == loaded.formats and programs == [{"experts": "q4_0"}]


def test_a_kernel_loads_other_layers_as_they_are_stored(tmp_path: Path) -> None:
    for name, kind in (("a", "Q8_0"), ("b", "Q4_0")):
        write_gguf(tmp_path / f"{name}.gguf", [weights()], {"gate": kind})
    kernel, loaded = moec.load(OLMOE, tmp_path / "a.gguf", "blk.0", threads=1)
    other = kernel.load(tmp_path / "b.gguf", "blk.0")
    assert (loaded.formats, other.formats) == ({"gate": "q8_0"}, {"gate": "q4_0"})
    assert (kernel.storage, kernel.of(other).storage) == (loaded.formats, other.formats)


def test_packed_weights_are_compiled_as_they_are(tmp_path: Path, programs: list[Any]) -> None:
    model, path, kept = tmp_path / "m.gguf", tmp_path / "w.moepack", tmp_path / "kept.moepack"
    write_gguf(model, [weights()], dict.fromkeys(STACKS, "Q8_0"))
    stored = dict.fromkeys(STACKS, "q8_0")
    kernel, loaded = moec.load(OLMOE, model, "blk.0", threads=1)
    kernel.save(loaded, path)
    for given in (path, model, model):  # what is kept is packed, then mapped
        prefix, packed = ("", None) if given == path else ("blk.0", kept)
        again, mapped = moec.load(OLMOE, given, prefix, threads=1, packed=packed)
        assert np.array_equal(again(tokens(), mapped), kernel(tokens(), loaded)) and again.storage == stored
    moec.load(OLMOE, path, threads=1, storage="q8_0")  # asked for as one name, and stored by each
    assert programs == [stored] * 5
    with pytest.raises(CompileError, match=r"E0409.*is q8_0, not q4_0"):
        moec.load(OLMOE, path, threads=1, storage="q4_0")
    assert programs == [stored] * 6


def test_packed_weights_of_something_else_are_still_refused(tmp_path: Path) -> None:
    kernel, path = moec.compile(OLMOE, DIMS, threads=1), tmp_path / "w.moepack"
    kernel.save(kernel.pack(weights(), storage={"gate": "q8_0"}), path)
    text = OLMOE.read_text()
    changed: list[tuple[str, Any, str]] = [
        (text, {"dtype": "bf16"}, "dtype `f32`, not `bf16`"),
        (text, {"dims": {"K": 3}}, "dims .*K 8, not .*K 3"),
        (text.replace("swiglu", "geglu"), {}, "the text of `olmoe` has changed"),
        (text.replace("gate", "door"), {}, "the text of `olmoe` has changed"),  # which has no `gate` to store
    ]
    for other, options, words in changed:
        with pytest.raises(CompileError, match=f"E0409.*{words}"):
            moec.load(other, path, threads=1, **options)
