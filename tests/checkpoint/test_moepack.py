"""Packed weights on disk: mapped as they were, refused when they are something else, packed again from their source."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import moec
from moec.checkpoint.moepack import PAGE, Moepack
from moec.diagnostics import CompileError
from moec.dtypes import ACTIVATIONS
from moec.formats import FORMATS
from moec.formats.panels import PanelLayout
from moec.language.read import read
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.pack import pack_panels
from moec.runtime.saved import PANELS
from moec.runtime.stored import decoded
from moec.runtime.unpack import unpack
from moec.shapes import PanelShape
from tests.checkpoint.models import DIMS, on_disk, weights, write_gguf
from tests.examples import EXAMPLES, SMALL, load, random_weights

OLMOE = EXAMPLES / "olmoe.moe"


@pytest.fixture(scope="module")
def kernel() -> Any:
    return moec.compile(OLMOE, dims=DIMS, threads=1)


@pytest.fixture(scope="module")
def saved(kernel: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "layer.moepack"
    kernel.save(kernel.pack(weights()), path)
    return path


def refused(kernel: Any, path: Path, **more: Any) -> tuple[str, str]:
    with pytest.raises(CompileError) as error:
        kernel.load(path, **more)
    (found,) = error.value.diagnostics
    assert found.help is None or "pack" in found.help
    return found.code, str(error.value)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v4", "dbrx", "gpt_oss", "longcat_flash", "peer"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_any_layer_comes_back_to_the_last_bit(tmp_path: Path, name: str, dtype: str) -> None:
    kernel = moec.compile(EXAMPLES / f"{name}.moe", dims=SMALL[name], dtype=dtype, threads=1)
    packed = kernel.pack(random_weights(load(name), SMALL[name], seed=3))
    kernel.save(packed, tmp_path / "w.moepack")
    mapped = kernel.load(tmp_path / "w.moepack", verify=True)
    assert {key: data.tobytes() for key, data in mapped.raw.items()} == {k: d.tobytes() for k, d in packed.raw.items()}
    assert [*mapped.panels] == [*packed.panels]
    for key, data in mapped.panels.items():
        assert data.tobytes() == packed.panels[key].tobytes()
        assert data.ctypes.data % PAGE == 0 and not data.flags.owndata and not data.flags.writeable


@pytest.mark.parametrize("name", SMALL)
def test_unpacking_is_the_inverse_of_packing(name: str) -> None:
    kernel = moec.compile(EXAMPLES / f"{name}.moe", dims=SMALL[name], threads=1)
    arrays = random_weights(load(name), SMALL[name], seed=3)
    for param, array in unpack(kernel.interface, kernel.pack(arrays)).items():
        np.testing.assert_array_equal(array, arrays[param])


@pytest.mark.parametrize("format", ["q4_K", "int8", "nvfp4"])
def test_stored_weights_unpack_to_what_they_mean(format: str) -> None:
    kernel = moec.compile(OLMOE, dims={"H": 256, "I": 256, "E": 8}, storage=format, threads=1)
    arrays = weights(H=256, I=256, E=8)
    wanted = decoded(kernel.interface, arrays)
    for param, array in unpack(kernel.interface, kernel.pack(arrays)).items():
        np.testing.assert_array_equal(array, wanted[param])


def test_a_new_file_in_its_place_leaves_mapped_weights_alone(kernel: Any, tmp_path: Path) -> None:
    kernel.save(kernel.pack(weights()), tmp_path / "w.moepack")
    mapped = kernel.load(tmp_path / "w.moepack")
    kernel.save(kernel.pack(weights(5)), tmp_path / "w.moepack")
    x = np.ones((3, DIMS["H"]), np.float32)
    np.testing.assert_array_equal(kernel(x, mapped), kernel(x, kernel.pack(weights())))


def test_storage_comes_with_the_file(kernel: Any, tmp_path: Path) -> None:
    narrow = kernel.pack(weights(), storage={"gate": "q8_0", "down": "q4_0"})
    kernel.save(narrow, tmp_path / "w.moepack")
    mapped = kernel.load(tmp_path / "w.moepack")
    x = np.ones((3, DIMS["H"]), np.float32)
    assert mapped.storage == narrow.storage
    np.testing.assert_array_equal(kernel(x, mapped), kernel(x, narrow))


def test_storage_that_is_asked_for_is_the_file_s(kernel: Any, tmp_path: Path) -> None:
    path, each = tmp_path / "w.moepack", dict.fromkeys(("gate", "up", "down"), "q8_0")
    kernel.save(kernel.pack(weights(), storage=each), path)
    assert kernel.load(path, storage=each).formats == each == kernel.load(path, storage="q8_0").formats
    other: list[Any] = [{}, "q4_0", {"gate": "q8_0"}]
    for asked in other:
        code, text = refused(kernel, path, storage=asked)
        assert code == "E0409" and "is q8_0, not" in text
    kernel.save(kernel.pack(weights()), path)
    assert "is dense, not q8_0" in refused(kernel, path, storage="q8_0")[1]
    assert not kernel.load(path, storage={}).formats


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "qwen2_moe", "deepseek_v3"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_one_file_serves_both_kinds_of_activations(tmp_path: Path, name: str, dtype: str) -> None:
    """Nothing in the key of panels tells what is computed with them; here they are of one width as well."""
    dims = {**SMALL[name], "H": 64, "I": 64}
    storage = {"experts": "q4_0"}
    target = "x86_64-unknown-linux-gnu:znver4"
    options = [Options.of(dims, dtype, target=target, storage=storage, activations=kind) for kind in ACTIVATIONS]
    real, quantized = (Compilation(read(EXAMPLES / f"{name}.moe"), each).interface for each in options)
    assert not real.quantized and quantized.quantized
    assert set(real.packed) == set(quantized.packed) and real.raw == quantized.raw


def test_weights_are_shared_by_kernels_that_differ_in_activations(tmp_path: Path) -> None:
    dims = {**DIMS, "I": 64, "E": 8}
    real, quantized = (
        moec.compile(OLMOE, dims=dims, threads=1, storage="q8_0", activations=kind) for kind in ACTIVATIONS
    )
    if set(real.interface.packed) != set(quantized.interface.packed):
        pytest.skip("panels of this machine differ")
    packed, x = real.pack(weights(**dims)), np.ones((3, DIMS["H"]), np.float32)
    real.save(packed, tmp_path / "w.moepack")
    mapped = quantized.load(tmp_path / "w.moepack")
    np.testing.assert_array_equal(quantized(x, mapped), quantized(x, quantized.pack(weights(**dims))))
    np.testing.assert_array_equal(quantized(x, packed), quantized(x, mapped))
    np.testing.assert_allclose(quantized(x, mapped), real(x, packed), rtol=0, atol=0.05)


def test_another_layer_precision_dimension_or_machine_is_refused(kernel: Any, saved: Path, tmp_path: Path) -> None:
    for other, word in (
        (moec.compile(EXAMPLES / "mixtral.moe", dims=DIMS, threads=1), "layer"),
        (moec.compile(OLMOE, dims={**DIMS, "I": 32}, threads=1), "dims"),
        (moec.compile(OLMOE, dims=DIMS, dtype="bf16", threads=1), "dtype"),
        (moec.compile(OLMOE.read_text().replace("swiglu", "geglu"), dims=DIMS, threads=1), "text"),
        (moec.compile(OLMOE, dims=DIMS, threads=1, target="x86_64-unknown-linux-gnu:x86-64"), "panels"),
    ):
        code, text = refused(other, saved)
        assert code == "E0409" and word in text and str(saved) in text
    commented = moec.compile("# another comment\n" + OLMOE.read_text(), dims=DIMS, threads=1)
    commented.load(saved)


def test_truncated_and_changed_files_are_refused(kernel: Any, saved: Path, tmp_path: Path) -> None:
    data, path = saved.read_bytes(), tmp_path / "w.moepack"
    for size in (9, 40, 300, PAGE, len(data) - PAGE, len(data) - 1):
        path.write_bytes(data[:size])
        assert refused(kernel, path)[0] == "E0408"
    changed = bytearray(data)
    changed[-PAGE] ^= 1
    path.write_bytes(changed)
    kernel.load(path)  # the weights themselves are not read
    assert refused(kernel, path, verify=True)[0] == "E0408"


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_change_of_the_head_goes_unseen(kernel: Any, saved: Path, data: st.DataObject) -> None:
    whole = saved.read_bytes()
    size = 52 + int.from_bytes(whole[12:20], "little")
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, size - 1))] ^= data.draw(st.integers(1, 255))
    path = saved.with_name("changed.moepack")
    path.write_bytes(changed)
    with pytest.raises(CompileError):
        kernel.load(path)


def test_a_file_is_replaced_whole_or_not_at_all(kernel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.moepack"
    kernel.save(kernel.pack(weights()), path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        kernel.save(kernel.pack(weights(5)), path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_weights_are_packed_again_when_their_source_or_kernel_changed(kernel: Any, tmp_path: Path) -> None:
    model, kept = tmp_path / "m.gguf", tmp_path / "w.moepack"
    write_gguf(model, [weights(0)], {"gate": "Q8_0"})
    x = np.ones((2, DIMS["H"]), np.float32)
    first = kernel.load(model, "blk.0", packed=kept)
    written = kept.stat().st_mtime_ns
    again = kernel.load(model, "blk.0", packed=kept)
    assert kept.stat().st_mtime_ns == written and not next(iter(again.panels.values())).flags.writeable
    np.testing.assert_array_equal(kernel(x, again), kernel(x, first))
    write_gguf(model, [weights(1)], {"gate": "Q8_0"})
    os.utime(model, ns=(1, 1))
    other = kernel.load(model, "blk.0", packed=kept)
    assert not np.array_equal(kernel(x, other), kernel(x, first))
    for spoil in (b"", b"not this", kept.read_bytes()[:5000]):
        kept.write_bytes(spoil)
        np.testing.assert_array_equal(kernel(x, kernel.load(model, "blk.0", packed=kept)), kernel(x, other))
    asked = kernel.load(model, "blk.0", packed=kept, storage="q4_0")
    assert asked.formats["gate"] == "q4_0"


def test_another_checkpoint_beside_it_is_not_taken_for_the_one_that_was_packed(kernel: Any, tmp_path: Path) -> None:
    one, other, kept = tmp_path / "a.gguf", tmp_path / "b.gguf", tmp_path / "w.moepack"
    write_gguf(one, [weights(0)], {})
    write_gguf(other, [weights(1)], {})
    x = np.ones((2, DIMS["H"]), np.float32)
    first = kernel(x, kernel.load(one, "blk.0", packed=kept))
    second = kernel(x, kernel.load(other, "blk.0", packed=kept))
    np.testing.assert_array_equal(second, kernel(x, kernel.load(other, "blk.0")))
    assert not np.array_equal(first, second)


def test_an_index_that_says_otherwise_packs_again(kernel: Any, tmp_path: Path) -> None:
    """Shards stay, the table of which tensor is in which changes."""
    kept, index = tmp_path / "w.moepack", tmp_path / "m.safetensors.index.json"
    for name, seed in (("one.safetensors", 0), ("two.safetensors", 1)):
        save_file(on_disk(0, weights(seed)), tmp_path / name)
    outputs: list[Any] = []
    for name in ("one.safetensors", "two.safetensors"):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(on_disk(0, weights()), name)}))
        loaded = kernel.load(tmp_path, "model.layers.0.mlp", packed=kept)
        outputs.append(kernel(np.ones((2, DIMS["H"]), np.float32), loaded))
    assert not np.array_equal(*outputs)


def test_what_only_an_aux_reads_is_kept(tmp_path: Path) -> None:
    text = "moe a[H=8](x: [H]) -> [H] { param w: [H] param probe: [3, H] aux p = probe @ x return x * w }\n"
    kernel = moec.compile(text, threads=1)
    arrays = {"w": np.ones(8, np.float32), "probe": np.arange(24, dtype=np.float32).reshape(3, 8)}
    kernel.save(kernel.pack(arrays), tmp_path / "w.moepack")
    _, aux = kernel(np.ones((1, 8), np.float32), kernel.load(tmp_path / "w.moepack"), aux=["p"])
    np.testing.assert_allclose(aux["p"][0], arrays["probe"].sum(1))


#: `PANELS`, and the digest of what panels were like then.
LAYOUT = (4, "42e0805fdb486b27")


def test_the_layout_of_panels_has_a_version() -> None:
    """If this changes, files that were written before are laid out otherwise: raise `moec.runtime.saved.PANELS`."""
    numbers = np.arange(50 * 300, dtype=np.float32).reshape(50, 300) / 64 - 100
    digest = hashlib.sha256()
    for shape in (PanelShape(48, "f32"), PanelShape(48, "bf16", 2, 2)):
        digest.update(pack_panels([numbers, numbers], shape).tobytes())
    for name in ("q8_0", "q4_K", "int4_g32_zp"):
        row = FORMATS[name]
        place = PanelLayout(row.layout, 48, 50, 256, 2)
        out = np.empty(place.nbytes, np.uint8)
        place.pack([row.encode(np.ascontiguousarray(numbers[:, :256]))] * 2, out)
        digest.update(out.tobytes())
    assert (PANELS, digest.hexdigest()[:16]) == LAYOUT


def test_opening_needs_no_more_than_the_header(saved: Path) -> None:
    pack = Moepack(saved)
    assert pack.header["layer"] == "olmoe" and len(pack) == len(pack.header["raw"]) + len(pack.header["packed"])
