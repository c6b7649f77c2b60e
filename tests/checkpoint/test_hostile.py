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
from moec.checkpoint.moepack import MAGIC, PAGE
from moec.cli import main
from moec.diagnostics import CompileError
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
    None,
    True,
    "",
    "w",
    "../w",
    [],
    {},
    [0],
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
        if suffix == ".safetensors":
            return struct.pack("<Q", len(text)) + text + data[8 + size :]
        head = MAGIC + data[8:12] + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + text
        return head + bytes(-len(head) % PAGE) + data[start + size + -(start + size) % PAGE :]

    return change


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
