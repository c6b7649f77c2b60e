"""Readers on headers that are not what they should be: one `CompileError`, or the right tensors, and nothing else."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from moec.checkpoint import open_checkpoint
from moec.diagnostics import CompileError
from moec.formats.blocks import Blocks
from tests.checkpoint.models import on_disk, weights, write_gguf, write_sharded

SMALL = weights(H=32, I=32, E=2)


def contents(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint, dense."""
    found = open_checkpoint(path)
    return {name: found[name].decode() if isinstance(found[name], Blocks) else np.array(found[name]) for name in found}


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether every tensor that was found is one that was written: a name may have changed, no value."""
    values = {array.tobytes() for array in wanted.values()}
    return all(array.tobytes() in values for array in found.values())


def write_safetensors(path: Path) -> int:
    save_file(on_disk(0, SMALL), path, metadata={"format": "np"})
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def write_small_gguf(path: Path) -> int:
    write_gguf(path, [SMALL], {"gate": "Q8_0", "up": "Q5_1"})
    return path.read_bytes().index(b"ffn_down_exps.weight") + 60


WRITERS: dict[str, Callable[[Path], int]] = {"m.safetensors": write_safetensors, "m.gguf": write_small_gguf}


@pytest.fixture(scope="module", params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("readers") / request.param
    return path, WRITERS[request.param](path), contents(path), path.read_bytes()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_byte_of_the_header(written: Any, data: st.DataObject) -> None:
    path, size, wanted, whole = written
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, size - 1))] ^= data.draw(st.integers(1, 255))
    other = path.with_name(f"changed{path.suffix}")
    other.write_bytes(changed)
    try:
        found = contents(other)
    except CompileError as error:
        assert len(error.diagnostics) == 1 and str(other) in str(error)
    else:
        assert same(found, wanted)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_that_ends_too_early(written: Any, data: st.DataObject) -> None:
    path, _, _, whole = written
    other = path.with_name(f"short{path.suffix}")
    other.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 65))])
    with pytest.raises(CompileError) as error:
        contents(other)
    assert len(error.value.diagnostics) == 1 and str(other) in str(error.value)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("head", [b"", b"GGUF\x03\0\0\0", b"\x20\0\0\0\0\0\0\0{"])
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, head: bytes, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(head + data)
    try:
        contents(path)
    except CompileError as error:
        assert len(error.diagnostics) == 1


def header(entry: dict[str, Any], nbytes: int = 8) -> bytes:
    text = json.dumps({"w": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(nbytes)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("<Q", 1 << 62) + b"{}", "4,611,686,018,427,387,904 bytes"),
        (header({**ENTRY, "data_offsets": [0, 1 << 60], "shape": [1 << 58]}), "tensor `w` ends at byte"),
        (header({**ENTRY, "shape": [1 << 40]}), "tensor `w` lies in 8 bytes"),
        (header({**ENTRY, "shape": [-2]}), "tensor `w`"),
        (header({**ENTRY, "dtype": []}), "tensor `w`"),
        (header({**ENTRY, "dtype": "F4", "data_offsets": [8, 0]}), "tensor `w` lies in -8 bytes"),
        (header({**ENTRY, "dtype": "F4", "data_offsets": [0, 4]}), "its tensors end at byte"),
        (header({**ENTRY, "data_offsets": [8, 16]}, 16), "tensor `w` begins at byte"),
        (header(ENTRY, 12), "its tensors end at byte"),
        (header({"dtype": "F32"}), "tensor `w` has no type, shape and offsets"),
        (struct.pack("<Q", 100000) + b"[" * 100000, "is not JSON"),
        (struct.pack("<Q", 4) + b"[1] ", "not a table"),
        (b"moe layer[H=4](x: [H])", "it is neither safetensors nor GGUF"),
        (b"\n\n# Mixtral of Experts", "it is neither safetensors nor GGUF"),
    ],
)
def test_absurd_headers_of_safetensors(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(CompileError, match="E0408") as error:
        open_checkpoint(tmp_path / "w.safetensors")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in str(error.value) and "w.safetensors" in str(error.value) and peak < 8 << 20


KEY = struct.pack("<Q", 1) + b"k"


def gguf(tensors: int = 1, pairs: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + body


def entry(shape: list[int], kind: int, offset: int = 0, name: bytes = b"w") -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name + axes + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gguf(1 << 60), "its header goes on after the end"),
        (gguf(0, 1 << 60), "its header goes on after the end"),
        (gguf(body=struct.pack("<Q", 1 << 61)), "its header goes on after the end"),
        (gguf(body=entry([1 << 40], 0)), "tensor `w` ends at byte"),
        (gguf(body=entry([1 << 62, 1 << 62], 0)), "tensor `w` has a shape that no array can have"),
        (gguf(body=entry([4], 0, 64) + bytes(999)), "tensor `w` begins at byte 64"),
        (gguf(body=entry([4], 99) + bytes(999)), "tensor `w` is of the type 99"),
        (gguf(body=entry([33], 8) + bytes(999)), "tensor `w` has rows of 33"),
        (gguf(body=entry([1] * 9, 0) + bytes(999)), "tensor `w` has 9 axes"),
        (gguf(2, body=entry([4], 0) + entry([4], 0, 32) + bytes(999)), "tensor `w` stands there twice"),
        (gguf(0, 1, KEY + struct.pack("<I", 77)), "a value of the type 77"),
        (
            gguf(0, 1, struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20),
            "a value of the type",
        ),
    ],
)
def test_absurd_headers_of_gguf(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "w.gguf").write_bytes(data)
    with pytest.raises(CompileError, match="E0408") as error:
        open_checkpoint(tmp_path / "w.gguf")
    assert words in str(error.value) and "w.gguf" in str(error.value)


def test_types_and_versions_that_moec_lacks_are_said(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(header({**ENTRY, "dtype": "F4"}))
    with pytest.raises(CompileError, match=r"E0901.*F4"):
        open_checkpoint(tmp_path / "w.safetensors")["w"]
    (tmp_path / "w.gguf").write_bytes(gguf(body=entry([256], 21) + bytes(999)))
    with pytest.raises(CompileError, match=r"E0901.*iq3_s"):
        open_checkpoint(tmp_path / "w.gguf")["w"]
    (tmp_path / "w.gguf").write_bytes(b"GGUF\0\0\0\x03" + bytes(99))
    with pytest.raises(CompileError, match=r"E0901.*little-endian"):
        open_checkpoint(tmp_path / "w.gguf")


def test_safetensors_are_those_of_the_package(tmp_path: Path) -> None:
    kinds = [np.float64, np.float32, np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_]
    arrays = {np.dtype(kind).name: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    arrays["none"], arrays["scalar"] = np.zeros((0, 3), np.float32), np.array(2.5, np.float32)
    save_file(arrays, tmp_path / "w.safetensors")
    found = contents(tmp_path / "w.safetensors")
    for name, array in load_file(tmp_path / "w.safetensors").items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "weight_map"),
        ("[]", "weight_map"),
        ('{"weight_map": {"w": "../m.safetensors"}}', "not a file beside it"),
        ('{"weight_map": {"w": 3}}', "not a file beside it"),
        ('{"weight_map": {"w": "model-00001-of-00003.safetensors"}}', "tensor `w` is in it, which it is not"),
    ],
)
def test_a_wrong_index(tmp_path: Path, index: str, words: str) -> None:
    write_sharded(tmp_path, [SMALL])
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CompileError, match="E0408") as error:
        contents(tmp_path)
    assert words in str(error.value)


def test_which_file_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="has no checkpoint"):
        open_checkpoint(tmp_path)
    write_safetensors(tmp_path / "a.safetensors")
    assert open_checkpoint(tmp_path).kind == "safetensors"
    write_safetensors(tmp_path / "b.safetensors")
    with pytest.raises(CompileError, match=r"a\.safetensors, b\.safetensors"):
        open_checkpoint(tmp_path)
    write_safetensors(tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).path.name == "model.safetensors"
    for bad in (tmp_path / "nowhere", tmp_path / "a\0b"):
        with pytest.raises(CompileError, match="E0001"):
            open_checkpoint(bad)
