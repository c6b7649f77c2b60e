"""Files that somebody made to do harm: loading them gives weights or one error, soon, in little memory.

Headers are changed as text, byte by byte, and number by number; those of packed weights get the checksum that fits.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import moec
from moec.checkpoint import open_checkpoint
from moec.checkpoint.moepack import MAGIC, PAGE, Moepack
from moec.cli import main
from moec.diagnostics import CompileError
from moec.runtime import saved
from tests.checkpoint.models import on_disk, weights, write_gguf
from tests.examples import EXAMPLES

OLMOE = EXAMPLES / "olmoe.moe"
DIMS = {"H": 32, "I": 32, "E": 8}
PREFIX = {".safetensors": "model.layers.0.mlp", ".gguf": "blk.0", ".moepack": ""}
#: In GGUF another type of a tensor is another kernel, and compiling it takes long: what is packed is of one format.
STORAGE = {".gguf": "q8_0"}
#: So many changed files of each kind; thousands of each have been tried.
COUNT = 250
#: What a number of a header may be changed to.
NUMBERS = (0, 1, 2, 3, 7, 31, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    -1,
    -(2**63),
    10**30,
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    None,
    True,
    "",
    "w",
    "../w",
    [],
    {},
    [0],
    [5],
    [[]],
    "\0",
)
MEMORY = 64 << 20


@pytest.fixture(scope="module")
def kernel() -> Any:
    return moec.compile(OLMOE, dims=DIMS, threads=1)


@pytest.fixture(scope="module", params=PREFIX)
def good(request: pytest.FixtureRequest, kernel: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / f"good{request.param}"
    layer = weights(**DIMS)
    match request.param:
        case ".gguf":
            write_gguf(path, [layer], {"gate": "Q8_0", "up": "Q4_0", "down": "MXFP4"})
        case ".safetensors":
            save_file(on_disk(0, layer), path)
        case _:
            kernel.save(kernel.pack(layer, storage={"gate": "q8_0"}), path)
    return path


def changed(path: Path, rng: random.Random) -> bytes:
    """A file's bytes with something wrong."""
    data = bytearray(path.read_bytes())
    ways: list[Callable[[bytearray, random.Random], bytes]] = [_cut, _flip, _words]
    if path.suffix != ".gguf":
        ways += [_json(path.suffix)] * 3
    return rng.choice(ways)(data, rng)


def _cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(min(len(data), 2000))] = rng.randrange(256)
    return bytes(data)


def _words(data: bytearray, rng: random.Random) -> bytes:
    """A number that is larger, or smaller, than it should be."""
    form, mask = rng.choice((("<I", 2**32 - 1), ("<Q", 2**64 - 1)))
    struct.pack_into(form, data, rng.randrange(min(len(data) - 8, 2000)), rng.choice(NUMBERS) & mask)
    return bytes(data)


def _json(suffix: str) -> Callable[[bytearray, random.Random], bytes]:
    """A header one value of which is another one, or lost."""

    def change(data: bytearray, rng: random.Random) -> bytes:
        start, at = (8, 0) if suffix == ".safetensors" else (52, 12)
        size = int.from_bytes(data[at : at + 8], "little")
        header = json.loads(data[start : start + size])
        for _ in range(rng.choice((1, 1, 2))):
            _spoil(header, rng)
        text = json.dumps(header).encode()
        return _with_header(data, text, suffix)

    return change


def _with_header(data: bytes | bytearray, text: bytes, suffix: str) -> bytes:
    """A file's bytes with another header, and the checksum that fits."""
    if suffix == ".safetensors":
        return struct.pack("<Q", len(text)) + text + data[8 + int.from_bytes(data[:8], "little") :]
    size = 52 + int.from_bytes(data[12:20], "little")
    head = MAGIC + data[8:12] + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + text
    return head + bytes(-len(head) % PAGE) + data[size + -size % PAGE :]


def _spoil(node: Any, rng: random.Random) -> None:
    """Changes one value somewhere inside a list or a table."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.9:
            node = node[key]
        elif rng.random() < 0.2:
            del node[key]
            return
        else:
            node[key] = rng.choice(VALUES)
            return


def test_loading_what_was_changed(good: Path, kernel: Any) -> None:
    rng, path, refused = random.Random(0), good.with_name(f"bad{good.suffix}"), 0
    kernel.load(good, PREFIX[good.suffix], storage=STORAGE.get(good.suffix))
    tracemalloc.start()
    try:
        for _ in range(COUNT):
            path.write_bytes(changed(good, rng))
            tracemalloc.reset_peak()
            start, before = time.monotonic(), tracemalloc.get_traced_memory()[0]
            try:
                kernel.load(path, PREFIX[good.suffix], storage=STORAGE.get(good.suffix))
            except CompileError as error:
                refused += 1
                assert all(each.code in ("E0405", "E0408", "E0409", "E0901") for each in error.diagnostics)
            assert time.monotonic() - start < 10 and tracemalloc.get_traced_memory()[1] - before < MEMORY
    finally:
        tracemalloc.stop()
    assert refused > COUNT / 2


def test_the_command_on_what_was_changed(good: Path) -> None:
    """As a stranger meets it: exit code 0 or 1, one error, never a traceback."""
    rng, path, out = random.Random(1), good.with_name(f"bad{good.suffix}"), good.with_name("out.moepack")
    own = [] if good.suffix == ".moepack" else ["--spec", str(OLMOE), "--prefix", PREFIX[good.suffix], "-o", str(out)]
    own += ["--storage", STORAGE[good.suffix]] if own and good.suffix in STORAGE else []
    for _ in range(COUNT // 10):
        path.write_bytes(changed(good, rng))
        again = own or rng.choice(([], ["--verify"]))
        done = CliRunner().invoke(main, ["pack", str(path), *again])
        assert done.exit_code in (0, 1, 2) and "Traceback" not in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        assert done.exit_code != 2 or not path.read_bytes().startswith(MAGIC)


def told(read: Callable[[], object]) -> str:
    """The one error of a file."""
    with pytest.raises(CompileError) as caught:
        read()
    (found,) = caught.value.diagnostics
    assert found.code == "E0408"
    return found.message


@pytest.mark.parametrize(
    "shape",
    [
        [1] * 100,
        [1] * 33,
        [0, 2**62],
        [2**70, 0],
        [2**40, 2**40, 0],
        [0, *[2**31] * 3],
        [10**4299, 10**4299],
        [10**4299, 0],
    ],
)
def test_no_array_has_such_a_shape(tmp_path: Path, shape: list[int]) -> None:
    path = tmp_path / "bad.safetensors"
    end = 4 if 0 not in shape and len(shape) > 2 else 0
    text = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    message = told(lambda: open_checkpoint(path)["w"])
    assert str(path) in message and "tensor `w`" in message


def test_offsets_have_no_thousands_of_digits(tmp_path: Path) -> None:
    path, far = tmp_path / "bad.safetensors", 10**4300 - 1
    text = json.dumps({"w": {"dtype": "F32", "shape": [0], "data_offsets": [far, far]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "tensor `w`" in told(lambda: open_checkpoint(path))


@pytest.mark.parametrize("kind", [0, 8, 20])
@pytest.mark.parametrize("shape", [(0, 2**62), (2**62, 0), (0, 2**31, 2**31, 2**31)])
def test_no_array_of_gguf_has_such_a_shape(tmp_path: Path, shape: tuple[int, ...], kind: int) -> None:
    path = tmp_path / "bad.gguf"
    entry = struct.pack(f"<Q1sI{len(shape)}QIQ", 1, b"w", len(shape), *shape, kind, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry + bytes(64))
    message = told(lambda: open_checkpoint(path)["w"])
    assert str(path) in message and "tensor `w`" in message


@pytest.mark.parametrize("name", ["m-00001-of-00000", "m-00000-of-00001", "m-00002-of-00001", "m-00001-of-0000²"])
def test_a_name_that_is_no_part_of_several_is_a_file_s(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / f"{name}.gguf", [weights(**DIMS)], {})
    for path in (tmp_path, tmp_path / f"{name}.gguf"):
        assert "blk.0.ffn_gate_inp.weight" in open_checkpoint(path)


def rewritten(kernel: Any, path: Path, old: str, new: str) -> Path:
    """A file of packed weights whose header has something else in one place."""
    kernel.save(kernel.pack(weights(**DIMS)), path)
    data = path.read_bytes()
    text = data[52 : 52 + int.from_bytes(data[12:20], "little")].decode()
    assert old in text
    path.write_bytes(_with_header(data, text.replace(old, new, 1).encode(), ".moepack"))
    return path


def test_names_in_a_file_do_not_turn_the_terminal_over(kernel: Any, tmp_path: Path) -> None:
    path = rewritten(kernel, tmp_path / "odd.moepack", '"olmoe"', '"\\u001b[31molmoe"')
    done = CliRunner().invoke(main, ["pack", str(path)])
    assert done.exit_code == 0 and "␛[31molmoe: " in done.output and "\x1b" not in done.output


SOURCE = '"source":{'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"sections":[[0,', '"sections":[[Infinity,'),
        ('"sections":[[0,', '"sections":[[NaN,'),
        ('"sections":[[0,', '"sections":[[1e999,'),
        ('"sections":[[0,', '"sections":[[0.0,'),
        ('"sections":[[0,', '"sections":[["0",'),
        ('"sections":[[0,', f'"sections":[[{"9" * 4300},'),
        ('"sections":[[0,', '"sections":[[0,Infinity,""],[0,'),
        ('"keys":', '"keys":Infinity,"was":'),
        ('"keys":', '"keys":1e999,"was":'),
        ('"raw":[', '"raw":[["w","float32",[-Infinity]],'),
        ('"panel":', '"panel":"","was":'),
        ('"panel":', '"panel":"x","was":'),
        ('"panel":', '"panel":"48 f32","was":'),
        (SOURCE, SOURCE + '"files":5'),
        (SOURCE, SOURCE + '"files":[5]'),
        (SOURCE, SOURCE + '"files":[[]]'),
        (SOURCE, SOURCE + '"files":["no"]'),
    ],
)
def test_what_is_wrong_with_packed_weights(kernel: Any, tmp_path: Path, old: str, new: str) -> None:
    path = rewritten(kernel, tmp_path / "bad.moepack", old, new)
    assert str(path) in told(lambda: saved.describe(Moepack(path)))
    if old != SOURCE:  # which a kernel does not read
        assert str(path) in told(lambda: kernel.load(path))
    done = CliRunner().invoke(main, ["pack", str(path)])
    assert done.exit_code == 1 and "E0408" in done.output
