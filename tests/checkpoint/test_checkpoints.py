"""Checkpoints that the public packages wrote, end to end: packed, saved, mapped, run, against the dense result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from gguf.constants import TENSOR_NAMES
from safetensors.numpy import save_file

import moec
from moec.binding.choose import needed
from moec.checkpoint import open_checkpoint
from moec.diagnostics import CompileError
from moec.formats import FORMATS
from moec.formats.blocks import Blocks
from moec.language.parse import parse
from moec.language.read import read
from moec.runtime import stored
from moec.runtime import weights as packing
from moec.target import Target
from tests.checkpoint.models import DIMS, narrow, on_disk, weights, write_gguf, write_sharded
from tests.examples import EXAMPLES

OLMOE = EXAMPLES / "olmoe.moe"
LAYERS = [weights(0), weights(1)]


def tokens(count: int = 7) -> Any:
    return np.random.default_rng(9).standard_normal((count, DIMS["H"]), dtype=np.float32)


def dense(arrays: dict[str, Any], dtype: str = "f32") -> Any:
    """What the layer gives of plain arrays."""
    kernel = moec.compile(OLMOE, dims=DIMS, dtype=dtype, threads=1)
    x = tokens() if dtype == "f32" else tokens().astype(ml_dtypes.bfloat16)
    return kernel(x, kernel.pack(arrays))


@pytest.mark.parametrize("block", [0, 1])
def test_a_sharded_checkpoint_end_to_end(tmp_path: Path, block: int) -> None:
    write_sharded(tmp_path, [narrow(layer) for layer in LAYERS])
    prefix = f"model.layers.{block}.mlp"
    kernel, loaded = moec.load(OLMOE, tmp_path, prefix, dtype="bf16", threads=1)
    assert kernel.dims == {**DIMS, "K": 8}
    kernel.save(loaded, tmp_path / "layer.moepack")
    again, mapped = moec.load(OLMOE, tmp_path / "layer.moepack", threads=1)
    x, expected = tokens().astype(ml_dtypes.bfloat16), dense(LAYERS[block], "bf16").view(np.int16)
    np.testing.assert_array_equal(kernel(x, loaded).view(np.int16), expected)
    np.testing.assert_array_equal(again(x, mapped).view(np.int16), expected)


@pytest.mark.parametrize("types", [{}, {"gate": "Q8_0", "up": "Q4_0", "down": "Q5_1"}, {"gate": "F16", "up": "BF16"}])
def test_a_gguf_file_end_to_end(tmp_path: Path, types: dict[str, str]) -> None:
    write_gguf(tmp_path / "model.gguf", LAYERS, types)
    kernel, loaded = moec.load(OLMOE, tmp_path / "model.gguf", "blk.1", threads=1)
    formats = {name: kind for name, kind in types.items() if kind.lower() in FORMATS}
    assert dict(loaded.storage) == {name: kind.lower() for name, kind in formats.items()}
    kernel.save(loaded, tmp_path / "layer.moepack")
    plain = dict(LAYERS[1])
    for name, kind in types.items():
        known = GGMLQuantizationType[kind]
        plain[name] = quants.dequantize(quants.quantize(plain[name], known), known).reshape(plain[name].shape)
    wanted = dense(plain)
    for found in (loaded, kernel.load(tmp_path / "layer.moepack")):
        np.testing.assert_allclose(kernel(tokens(), found), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_what_compile_and_load_take_passes_through(tmp_path: Path) -> None:
    """One call of `moec.load` is a call of `moec.compile` and one of `Kernel.load`."""
    path, told = tmp_path / "m.gguf", list[tuple[int, int]]()
    write_gguf(path, LAYERS, dict.fromkeys(("gate", "up", "down"), "Q8_0"))
    text = OLMOE.read_text().replace("    return", "    aux probs = p\n    return", 1)
    asked: Any = {"threads": 1, "target": Target.host().without("f16c"), "aux": ("probs",), "activations": "int8"}
    kernel, loaded = moec.load(text, path, "blk.1", progress=lambda *so_far: told.append(so_far), **asked)
    assert len(told) > 1 and told[-1] == (loaded.nbytes, loaded.nbytes)
    assert [array.name for array in kernel.interface.aux] == ["probs"]
    apart = moec.compile(text, DIMS, **asked)
    real = moec.compile(OLMOE, DIMS, threads=1)
    found = kernel(tokens(), loaded)
    np.testing.assert_array_equal(found, apart(tokens(), apart.load(path, "blk.1")))
    assert (found != real(tokens(), real.load(path, "blk.1"))).any()
    with pytest.raises(CompileError, match="E0303"):
        moec.load(OLMOE, path, "blk.1", target="nowhere")


@pytest.mark.parametrize("format", [row.name for row in FORMATS.values() if row.split])
def test_blocks_come_as_they_lie(tmp_path: Path, format: str) -> None:
    """What a GGUF file holds is what is packed, bit for bit."""
    wide, row = weights(H=256, I=256, E=2), FORMATS[format]
    assert row.split is not None and row.join is not None
    kind = GGMLQuantizationType[format.upper()]
    stored = {}
    for name in ("gate", "up", "down"):
        blocks = np.stack([row.join(row.encode(matrix)) for matrix in wide[name]])
        stored[name] = blocks.reshape(*blocks.shape[:2], -1)
    writer = GGUFWriter(tmp_path / "m.gguf", "olmoe")
    writer.add_tensor("blk.0.ffn_gate_inp.weight", wide["router"])
    for name, data in stored.items():
        writer.add_tensor(f"blk.0.ffn_{name}_exps.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = open_checkpoint(tmp_path / "m.gguf").below("blk.0.")
    for name, data in stored.items():
        found = tensors[f"ffn_{name}_exps.weight"]
        assert isinstance(found, Blocks) and found.format == format and found.shape == wide[name].shape
        for expert in range(2):
            coded = found.read(expert)
            assert row.join(coded).tobytes() == data[expert].tobytes()
            np.testing.assert_array_equal(coded.decode(), quants.dequantize(data[expert], kind))


def test_a_format_that_is_asked_for_replaces_the_file_s(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", LAYERS, {"gate": "Q8_0", "up": "Q8_0"})
    kernel = moec.compile(OLMOE, dims=DIMS, threads=1)
    found = kernel.load(tmp_path / "m.gguf", "blk.0", storage="q4_0")
    assert found.formats == dict.fromkeys(("gate", "up", "down"), "q4_0")


def test_what_the_layer_turns_around_is_decoded(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", LAYERS, dict.fromkeys(("gate", "up", "down"), "Q8_0"))
    kernel, loaded = moec.load(EXAMPLES / "dbrx.moe", tmp_path / "m.gguf", "blk.0", threads=1)
    assert kernel.dims["I"] == DIMS["I"] and loaded.formats == {"gate": "q8_0", "up": "q8_0"}


def test_merged_tensors_fit_another_bind(tmp_path: Path) -> None:
    layer = LAYERS[0]
    both = np.concatenate([layer["gate"], layer["up"]], 1)
    tensors = {"mlp.gate.weight": layer["router"], "mlp.experts.gate_up_proj": both}
    save_file({**tensors, "mlp.experts.down_proj": layer["down"]}, tmp_path / "model.safetensors")
    kernel, loaded = moec.load(OLMOE, tmp_path, "mlp", threads=1)
    np.testing.assert_array_equal(kernel(tokens(), loaded), dense(layer))


def test_parts_of_a_gguf_file_are_one_checkpoint(tmp_path: Path) -> None:
    write_gguf(tmp_path / "all.gguf", LAYERS[:1], {})
    whole = dict(open_checkpoint(tmp_path / "all.gguf"))
    for part, names in enumerate((list(whole)[:2], list(whole)[2:]), 1):
        writer = GGUFWriter(tmp_path / f"m-0000{part}-of-00002.gguf", "olmoe")
        for name in names:
            writer.add_tensor(name, np.array(whole[name]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    kernel, loaded = moec.load(OLMOE, tmp_path / "m-00002-of-00002.gguf", "blk.0.", threads=1)
    np.testing.assert_array_equal(kernel(tokens(), loaded), dense(LAYERS[0]))


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be packed."""

    def refuse(nbytes: int) -> Any:
        raise AssertionError(f"{nbytes} bytes were taken")

    for module in (stored, packing):
        monkeypatch.setattr(module, "aligned_empty", refuse)


def refused(*arguments: Any, spec: Path = OLMOE) -> str:
    with pytest.raises(CompileError) as error:
        moec.load(spec, *arguments, threads=1)
    return str(error.value)


def test_a_text_has_a_layer_before_its_weights_are_looked_for(tmp_path: Path) -> None:
    save_file(on_disk(0, LAYERS[0]), tmp_path / "m.safetensors")
    for text in ("fn f(a) = a", 2 * "moe m[H=4](x: [H]) -> [H] { return x }\n"):
        with pytest.raises(CompileError, match="E0105"):
            moec.load(text, tmp_path / "m.safetensors")


def test_what_does_not_fit_names_tensor_and_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", LAYERS, {})
    write_sharded(tmp_path, LAYERS)
    text = refused(tmp_path / "m.gguf", "blk.7")
    assert "no tensor below `blk.7.`" in text and "is below `blk.0`" in text
    text = refused(tmp_path / "m.gguf")
    assert "m.gguf" in text and "`ffn_gate_inp.weight` is below `blk.0`" in text
    text = refused(tmp_path, "model.layers.0")
    assert "below `model.layers.0.`" in text and "`gate.weight` is below `model.layers.0.mlp` (`prefix=`" in text
    text = refused(tmp_path, "model.layer.0.mlp")
    assert "no tensor below `model.layer.0.mlp.`" in text and "is below `model.layers." in text
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "E0001" in (text := refused(tmp_path, "model.layers.0.mlp")) and "model-00002" in text


def test_shapes_and_types_that_do_not_fit_name_tensor_and_file(tmp_path: Path, no_memory: None) -> None:
    path, kernel = tmp_path / "m.safetensors", moec.compile(OLMOE, dims=DIMS, threads=1)
    whole, below = on_disk(0, LAYERS[0]), "model.layers.0.mlp"
    for name, change, words in (
        ("gate.weight", lambda data: data[:, :5], ("gate.weight", "is [10, 5]")),
        ("gate.weight", lambda data: data.astype(np.int32), ("gate.weight", "holds int32")),
        (
            "experts.8.down_proj.weight",
            lambda data: data[:3],
            ("`experts.8.down_proj.weight`", "is [3, 96], the first"),
        ),
        ("experts.9.up_proj.weight", lambda data: data.astype(np.int32), ("`experts.9.up_proj.weight`", "holds int32")),
    ):
        spoilt = np.ascontiguousarray(change(whole[f"{below}.{name}"]))
        save_file({**whole, f"{below}.{name}": spoilt}, path)
        with pytest.raises(CompileError) as error:
            kernel.load(path, below)
        assert str(path) in str(error.value) and all(word in str(error.value) for word in words), str(error.value)


def test_several_binds_that_fit_have_to_be_named(tmp_path: Path) -> None:
    text = OLMOE.read_text()
    (tmp_path / "twice.moe").write_text(text + text[text.index("bind gguf") :].replace("bind gguf", "bind other"))
    write_gguf(tmp_path / "m.gguf", LAYERS, {})
    (tmp_path / "third.moe").write_text((tmp_path / "twice.moe").read_text().replace("bind gguf", "bind third"))
    moec.load(tmp_path / "twice.moe", tmp_path / "m.gguf", "blk.0", threads=1)  # one is called as the file's kind
    assert "`third`, `other`" in refused(tmp_path / "m.gguf", "blk.0", spec=tmp_path / "third.moe")
    moec.load(tmp_path / "third.moe", tmp_path / "m.gguf", "blk.0", "other", threads=1)


def test_a_default_may_be_any_number_of_the_language(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", LAYERS, {})
    text = OLMOE.read_text().replace("K=8]", "K = if E > 2 then E - 1 else E]")
    kernel, _ = moec.load(text, tmp_path / "m.gguf", "blk.0", threads=1)
    assert kernel.dims["K"] == kernel.dims["E"] - 1


def test_a_dimension_that_nothing_tells_is_missed(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", LAYERS, {})
    (tmp_path / "open.moe").write_text(OLMOE.read_text().replace("K=8]", "K]"))
    assert "E0301" in (text := refused(tmp_path / "m.gguf", "blk.0", spec=tmp_path / "open.moe"))
    assert "`K`" in text and "`H`" not in text


def spoil(path: Path, name: str, back: int, number: bytes) -> None:
    """Writes into the last bytes of a tensor."""
    tensor = open_checkpoint(path)._homes[name].tensors[name]
    data = bytearray(path.read_bytes())
    place = tensor.offset + tensor.nbytes - back
    data[place : place + len(number)] = number
    path.write_bytes(data)


@pytest.mark.parametrize(("kind", "back"), [("Q8_0", 34), ("Q5_1", 24), ("MXFP4", 17)])
@pytest.mark.parametrize("spec", ["olmoe", "dbrx"])
def test_a_scale_that_is_no_number_names_its_tensor(
    tmp_path: Path, no_memory: None, kind: str, back: int, spec: str
) -> None:
    """The last one of the last matrix, before memory is taken; `dbrx` transposes `down`, so there it is decoded."""
    write_gguf(tmp_path / "m.gguf", LAYERS[:1], {"down": kind})
    spoil(tmp_path / "m.gguf", "blk.0.ffn_down_exps.weight", back, b"\xff\xff")
    text = refused(tmp_path / "m.gguf", "blk.0", spec=EXAMPLES / f"{spec}.moe")
    assert "E0407" in text and "`blk.0.ffn_down_exps.weight`" in text and "m.gguf" in text and "matrix 9" in text


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_weight_that_cannot_be_quantised_names_its_tensor(tmp_path: Path, no_memory: None, kind: Any) -> None:
    layer = {name: array.astype(kind) for name, array in LAYERS[0].items()}
    layer["down"][7, -1, -1] = np.nan
    save_file(on_disk(0, layer), tmp_path / "m.safetensors")
    kernel = moec.compile(OLMOE, dims=DIMS, threads=1)
    with pytest.raises(CompileError, match="E0407") as error:
        kernel.load(tmp_path / "m.safetensors", "model.layers.0.mlp", storage="q8_0")
    assert "`experts.7.down_proj.weight` in" in str(error.value) and "m.safetensors" in str(error.value)
    with pytest.raises(CompileError, match=r"E0407.*`down`"):
        kernel.pack(layer, storage="q8_0")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.moe")), ids=lambda path: path.stem)
def test_names_of_gguf_are_llama_cpp_s(path: Path) -> None:
    known = {name.removeprefix("blk.{bid}.") for name in TENSOR_NAMES.values()}
    for block in parse(read(path)).binds:
        if block.name.id == "gguf":
            assert {name.rpartition(".")[0] for name in needed(parse(read(path)), "gguf")} <= known
