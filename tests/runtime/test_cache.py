"""The object cache: entries are data, checked, and whatever is wrong with one is a miss."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

import moec
from moec import pipeline
from moec.keys import cache_key, xdsl_version
from moec.options import Options
from moec.runtime.cache import Cache, Program, decode, encode
from moec.source import Source

SOURCE = Source("tiny.moe", "moe tiny[H=8](x: [H]) -> [H] {\n    return x * 2\n}\n")


@pytest.fixture(scope="module")
def program() -> Program:
    return pipeline.compile_source(SOURCE, Options.of(threads=1)).program


def test_what_is_stored_comes_back(tmp_path: Path, program: Program) -> None:
    cache = Cache(tmp_path / "objects")
    assert cache.load("key") is None
    cache.store("key", program)
    assert cache.load("key") == program
    assert stat.S_IMODE(os.stat(cache.directory).st_mode) == 0o700
    assert [path.suffix for path in cache.directory.iterdir()] == [".moeo"]


def test_a_damaged_entry_is_a_miss(program: Program) -> None:
    data = encode(program)
    assert decode(data) == program
    for place in range(0, len(data), max(1, len(data) // 97)):
        assert decode(data[:place]) is None
        assert decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None
    assert decode(b"") is None
    assert decode(b"not ours") is None


def test_a_directory_of_others_is_not_trusted(tmp_path: Path, program: Program) -> None:
    cache = Cache(tmp_path / "objects")
    cache.store("key", program)
    os.chmod(cache.directory, 0o777)
    assert cache.load("key") is None
    os.chmod(cache.directory, 0o700)
    assert cache.load("key") == program


def test_the_oldest_entries_go_first(tmp_path: Path, program: Program) -> None:
    size = len(encode(program))
    cache = Cache(tmp_path / "objects", limit=3 * size)
    for number in range(5):
        cache.store(str(number), program)
        os.utime(cache.directory / f"{number}.moeo", ns=(number * 10**9, number * 10**9))
    assert [cache.load(str(number)) is not None for number in range(5)] == [False, False, True, True, True]


def test_a_cache_that_cannot_be_written_is_empty(tmp_path: Path, program: Program) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "objects")
    cache.store("key", program)
    assert cache.load("key") is None
    assert pipeline.build(SOURCE, Options.of(threads=1), cache) == program


def test_the_key_knows_everything_that_matters() -> None:
    assert xdsl_version() == version("xdsl")
    options = Options.of(threads=1)
    others = [
        Options.of({"H": 9}, threads=1),
        Options.of(dtype="bf16", threads=1),
        replace(options, target=moec.Target.of("aarch64-linux-gnu")),
        replace(options, level=1),
    ]
    keys = {cache_key(SOURCE, each) for each in [options, *others]}
    keys.add(cache_key(Source("tiny.moe", SOURCE.text + "# more\n"), options))
    assert len(keys) == 6
    assert cache_key(SOURCE, options) == cache_key(SOURCE, replace(options, threads=2))


def test_the_key_does_not_know_where_moec_lies(tmp_path: Path) -> None:
    digests: set[str] = set()
    for name in ("here", "there"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(moec.__file__).parent, tmp_path / name / "moec", ignore=ignored)
        script = "from moec import keys; print(keys._compiler())"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / name)}
        ran = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True
        )
        digests.add(ran.stdout.decode())
    assert len(digests) == 1


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    call = "k(np.ones((1, 8), np.float32), k.pack({}))"
    script = f"import numpy as np, sys, moec; k = moec.compile({SOURCE.text!r}, threads=2); {call}\n"
    script += "print(*sorted({'xdsl', 'lark', 'moec.elaborate', 'moec.codegen'} & set(sys.modules)))"
    environment = {**os.environ, "MOEC_CACHE_DIR": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert outputs[0].split() != []
    assert outputs[1].split() == []
