"""Packing whole layers: views of parameters against NumPy, one expert at a time."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import moec
from moec.arrays import NUMPY
from moec.diagnostics import CompileError
from moec.runtime.interface import Packed
from moec.runtime.memory import aligned_empty
from moec.runtime.weights import matrices
from moec.stack import Stack

BF16 = ml_dtypes.bfloat16

#: Steps of a view of [6, 8, 10], and the same in NumPy.
VIEWS: Any = {
    "as it is": ((), lambda a: a, 6),
    "rows": (("slice 1 2 7 2",), lambda a: a[:, 2:7:2], 6),
    "transposed": (("transpose",), lambda a: a.swapaxes(1, 2), 6),
    "experts": (("slice 0 1 6 2",), lambda a: a[1::2], 3),
    "split": (("reshape 6 4 2 10", "slice 2 1 2 1", "reshape 6 4 10"), lambda a: a[:, 1::2], 6),
    "groups": (("reshape 2 3 8 10", "slice 2 0 4 1"), lambda a: a[:, :4], 6),
    "mixed": (("slice 1 0 4 1", "reshape 3 8 10"), lambda a: a[:, :4].reshape(3, 8, 10), 3),
    "one": (("reshape 48 10",), lambda a: a.reshape(1, 48, 10), 1),
    "rounded twice": (("cast bf16", "transpose", "cast f32"), lambda a: a.swapaxes(1, 2).astype(BF16), 6),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_what_its_steps_say(name: str, lazy: bool) -> None:
    steps, wanted, keys = VIEWS[name]
    array = np.random.default_rng(0).standard_normal((6, 8, 10), dtype=np.float32)
    expected = np.asarray(wanted(array), np.float32)
    packed = Packed(("w",), (steps,), keys, *expected.shape[1:], "1 f32 kstep 1 depth 1")
    found = [*matrices(Stack.of(array) if lazy else array, "f32", steps, packed)]
    assert np.array_equal(np.stack(found).astype(np.float32), expected)


def test_a_stack_is_read_one_expert_at_a_time() -> None:
    array = np.arange(480, dtype=np.float32).reshape(6, 8, 10)
    reads: list[int] = []

    def read(index: int) -> Any:
        reads.append(index)
        return array[index]

    steps = ("reshape 6 4 2 10", "slice 2 1 2 1", "transpose")
    packed = Packed(("w",), (steps,), 6, 4, 10, "1 f32 kstep 1 depth 1")
    for key, _ in enumerate(matrices(Stack(array.shape, array.dtype, read), "f32", steps, packed)):
        assert reads[-1] == key
    assert reads.count(3) == 1


LAYER = """
moe layer[H=24, I=20, E=4, K=2](x: [H]) -> [H] {
    param router: [E, H]
    param both:   [E, 2 * I, H]
    param down:   [E, I, H]
    param probe:  [3, H]
    top = topk(router @ x, K)
    aux probed = probe @ x
    return sum e in top: down[e].T @ (both[e, 0:2 * I:2] @ x * (both[e, 1:2 * I:2] @ x))
}
"""


def given(dtype: Any = np.float32) -> dict[str, Any]:
    random = np.random.default_rng(3)
    shapes = {"router": (4, 24), "both": (4, 40, 24), "down": (4, 20, 24), "probe": (3, 24)}
    return {name: (random.standard_normal(shape) / 5).astype(dtype) for name, shape in shapes.items()}


def test_stacks_arrays_and_any_layout_pack_alike() -> None:
    kernel = moec.compile(LAYER, threads=1)
    x = np.random.default_rng(4).standard_normal((9, 24), dtype=np.float32)
    wanted = kernel(x, kernel.pack(given()))
    stacks = {name: Stack.of(array) for name, array in given().items()}
    fortran = {name: np.asfortranarray(array) for name, array in given().items()}
    for other in (stacks, fortran):
        assert np.array_equal(kernel(x, kernel.pack(other)), wanted)


def test_floats_are_converted_and_integers_are_not() -> None:
    wide, narrow = (moec.compile(LAYER, dtype=dtype, threads=1) for dtype in ("f32", "bf16"))
    x = np.random.default_rng(4).standard_normal((9, 24), dtype=np.float32)
    halves = given(BF16)
    same = {name: array.astype(np.float32) for name, array in halves.items()}
    assert np.array_equal(wide(x, wide.pack(halves)), wide(x, wide.pack(same)))
    y = [narrow(x.astype(BF16), narrow.pack(arrays)) for arrays in (halves, given(np.float64))]
    assert np.array_equal(*(answer.view(np.int16) for answer in y))
    with pytest.raises(CompileError) as error:
        wide.pack({**given(), "router": np.zeros((4, 24), np.int64)})
    assert [mistake.code for mistake in error.value.diagnostics] == ["E0404"]


def test_what_only_an_aux_reads_is_packed_when_it_is_asked_for() -> None:
    kernel = moec.compile(LAYER, threads=1)
    x, arrays = np.ones((2, 24), np.float32), given()
    weights = kernel.pack(arrays)
    before = weights.nbytes
    _, aux = kernel(x, weights, aux=["probed"])
    assert np.allclose(aux["probed"], x @ arrays["probe"].T, atol=1e-5)
    assert weights.nbytes > before
    assert kernel(x, weights, aux=["probed"])[1]["probed"].tobytes() == aux["probed"].tobytes()


def test_weights_keep_no_program_alive() -> None:
    first = moec.compile(LAYER, threads=1)
    weights, x = first.pack(given()), np.ones((2, 24), np.float32)
    wanted = first(x, weights, aux=["probed"])
    codes = [weakref.ref(runner._code) for runner in first._runners.values()]
    assert len(codes) == 2
    del first
    gc.collect()
    assert [code() for code in codes] == [None, None]
    for _ in range(3):
        y, aux = moec.compile(LAYER, threads=1)(x, weights, aux=["probed"])
        assert np.array_equal(y, wanted[0]) and np.array_equal(aux["probed"], wanted[1]["probed"])
    assert len(weights.addresses) == 1


def test_weights_are_a_copy_wherever_the_array_lay() -> None:
    kernel = moec.compile("moe biased[H=16](x: [H]) -> [H] { param b: [H] return x + b }", threads=1)
    memory, x = aligned_empty(256).view(np.float32), np.zeros((1, 16), np.float32)
    for place in range(32):
        bias = memory[place : place + 16]
        bias[:] = place
        weights = kernel.pack({"b": bias})
        bias[:] = -1
        assert (kernel(x, weights) == place).all()


MEMORY = """
import resource, sys, numpy as np, moec
kernel = moec.compile(open(sys.argv[1]).read(), dims={"H": 1024, "I": 1024, "E": 48}, dtype=sys.argv[2], threads=1)
arrays = {p.name: np.ones(p.shape, np.float32) for p in kernel.interface.params}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights = kernel.pack(arrays)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / weights.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss counts kilobytes on Linux")
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_packing_takes_the_weights_and_a_twentieth(tmp_path: Any, dtype: str) -> None:
    (tmp_path / "layer.moe").write_text(LAYER)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "layer.moe"), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.05


SCALED = "moe scaled[H=8](x: [H]) -> [H] { param s: [H] return x * s }"
CHOSEN = "moe chosen[H=4, V=3](x: [H], i: i64) -> [H] { param table: [V, H] return x + table[i] }"


@pytest.mark.parametrize(
    ("text", "small", "large"),
    [
        (SCALED, {"dims": {"H": 8}}, {"dims": {"H": 4096}}),
        (SCALED, {}, {"dtype": "bf16"}),
        (CHOSEN, {}, {"dims": {"V": 99}}),
    ],
)
def test_weights_of_other_dimensions_or_another_precision_are_refused(text: str, small: Any, large: Any) -> None:
    """They are read where they lie: a kernel of larger ones would read what lies behind."""
    packed = moec.compile(text, threads=1, **small)
    weights = packed.pack({array.name: np.ones(array.shape, np.float32) for array in packed.interface.params})
    other = moec.compile(text, threads=1, **large)
    inputs = [np.zeros((2, *array.shape), NUMPY[array.dtype]) for array in other.interface.inputs]
    with pytest.raises(CompileError, match=r"E0402.*differ"):
        other(*inputs, weights)


def test_weights_that_only_an_aux_reads_are_of_the_kernel_too() -> None:
    text = "moe seen[H=8](x: [H]) -> [H] { param s: [H] aux more = x * s return x }"
    packed, other = (moec.compile(text, dims={"H": size}, threads=1) for size in (8, 4096))
    weights = packed.pack({"s": np.ones(8, np.float32)})
    with pytest.raises(CompileError, match=r"E0402.*differ"):
        other(np.ones((2, 4096), np.float32), weights, aux=True)
