"""Loading object files, and letting them go."""

from __future__ import annotations

import gc
import struct
from typing import Any

import numpy as np
import pytest

import moec
from moec import pipeline
from moec.options import Options
from moec.runtime.jit import Code, Library
from moec.source import Source

TWICE = Source("twice.moe", "moe twice[H=8](x: [H]) -> [H] {\n    return x * 2\n}\n")


@pytest.fixture(scope="module")
def image() -> bytes:
    return pipeline.compile_source(TWICE, Options.of(threads=1)).image


def call(code: Code, x: Any) -> Any:
    y, space = np.empty_like(x), np.zeros(1 << 16, np.uint8)
    assert code.run(len(x), struct.pack("3Q", *(part.ctypes.data for part in (x, y, space))), None) == 0
    return y


def test_an_object_runs(image: bytes) -> None:
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    assert np.array_equal(call(Code(image), x), 2 * x)


def test_loads_of_one_object_are_independent(image: bytes) -> None:
    first, second = Code(image), Code(image)
    assert first.address("moec_run") != second.address("moec_run")
    del first
    gc.collect()
    x = np.ones((1, 8), np.float32)
    assert np.array_equal(call(second, x), 2 * x)


@pytest.mark.parametrize("wrong", [b"", b"\x7fELF", b"not an object"])
def test_what_is_no_object_is_refused(wrong: bytes) -> None:
    with pytest.raises(RuntimeError):
        Code(wrong)


def test_an_object_without_the_name_is_refused(image: bytes) -> None:
    with pytest.raises(RuntimeError, match="no_such_name"):
        Library(image, "no_such_name")


def test_machine_code_is_freed(image: bytes) -> None:
    def resident() -> int:
        with open("/proc/self/maps") as file:
            return sum(1 for line in file if "x" in line.split()[1])

    try:
        resident()
    except OSError:
        pytest.skip("needs /proc")
    Code(image)
    gc.collect()
    before = resident()
    for _ in range(20):
        Code(image)
    gc.collect()
    assert resident() <= before + 2


def test_a_kernel_outlives_its_name() -> None:
    run = moec.compile(TWICE, threads=1).__call__
    gc.collect()
    x = np.ones((2, 8), np.float32)
    assert np.array_equal(run(x, moec.compile(TWICE, threads=1).pack({})), 2 * x)
