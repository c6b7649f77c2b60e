"""Calling kernels: arrays of every kind, weights with every mistake, many threads, forks."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import moec
from moec import CompileError
from moec.arrays import NUMPY
from moec.runtime.kernel import IndexOutside
from moec.runtime.memory import aligned_empty
from moec.runtime.weights import Weights
from moec.runtime.workspace import WORKSPACE
from moec.target import Target

H, E = 48, 6
TEXT = """
moe tiny[H=48, I=40, E=6, K=2](x: [H]) -> [H] {
    param router: [E, H]
    param up:     [E, I, H]
    param down:   [E, H, I]
    p = softmax(router @ x)
    top = topk(p, K)
    aux probabilities = p
    aux chosen = top
    return sum e in top: p[e] * (down[e] @ relu(up[e] @ x))
}
"""
LOOKUP = """
moe lookup[H=8, N=5](x: [H], id: i64) -> [H] {
    param table: [N, H]
    return x + table[id]
}
"""


def arrays(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"router": (E, H), "up": (E, 40, H), "down": (E, H, 40)}
    return {name: random.standard_normal(shape, dtype=np.float32) / 6 for name, shape in shapes.items()}


def tokens(count: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, H), dtype=np.float32)


def codes(error: pytest.ExceptionInfo[CompileError]) -> list[str]:
    return [diagnostic.code for diagnostic in error.value.diagnostics]


@pytest.fixture(scope="module")
def kernel() -> Any:
    return moec.compile(TEXT, threads=1)


@pytest.fixture(scope="module")
def weights(kernel: Any) -> Any:
    return kernel.pack(arrays())


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_any_layout_gives_the_same(kernel: Any, weights: Any) -> None:
    x = tokens(9)
    wide = np.zeros((9, 2 * H), np.float32)
    wide[:, ::2] = x
    wanted = kernel(x, weights)
    assert np.array_equal(kernel(wide[:, ::2], weights), wanted)
    assert np.array_equal(kernel(np.asfortranarray(x), weights), wanted)
    assert np.array_equal(kernel((x,), weights), wanted)
    assert np.array_equal(kernel(x, weights=weights), wanted)
    assert np.array_equal(kernel(memoryview(x), weights), wanted)


def test_torch_tensors_come_and_go(weights: Any, kernel: Any) -> None:
    torch = pytest.importorskip("torch")
    x = tokens(5)
    found = kernel(torch.from_numpy(x), weights)
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), kernel(x, weights))
    narrow = moec.compile(TEXT, dtype="bf16", threads=1)
    given = {name: torch.from_numpy(array).bfloat16() for name, array in arrays().items()}
    packed = narrow.pack(given)
    answer = narrow(torch.from_numpy(x).bfloat16(), packed)
    same = narrow(x.astype(ml_dtypes.bfloat16), narrow.pack(arrays()))
    assert answer.dtype == torch.bfloat16
    assert np.array_equal(answer.view(torch.int16).numpy(), same.view(np.int16))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (np.zeros((3, H + 1), np.float32), "E0403"),
        (np.zeros(H, np.float32), "E0403"),
        (np.zeros((3, H), np.float64), "E0404"),
        (np.zeros((3, H), np.int32), "E0404"),
        ([[0.0] * H], "E0404"),
        ("x", "E0404"),
    ],
)
def test_a_wrong_input_is_named(kernel: Any, weights: Any, wrong: Any, code: str) -> None:
    with pytest.raises(CompileError, match="`x`") as error:
        kernel(wrong, weights)
    assert codes(error) == [code]


def test_every_mistake_in_the_weights_is_told(kernel: Any) -> None:
    given = arrays()
    given["up"] = given["up"][:, :-1]
    given["down"] = given["down"].astype(np.int32)
    given["gate"] = given.pop("router")
    with pytest.raises(CompileError) as error:
        kernel.pack(given)
    assert sorted(codes(error)) == ["E0401", "E0402", "E0403", "E0404"]


@pytest.mark.parametrize("given", [None, [], np.zeros(3)])
def test_weights_that_have_no_names_are_refused(kernel: Any, given: Any) -> None:
    with pytest.raises(CompileError, match="not arrays by name") as error:
        kernel.pack(given, given)
    assert error.value.diagnostics[0].help == '`kernel.pack({"router": …, "up": …, "down": …})`'


def test_weights_that_are_not_packed_are_not_saved(kernel: Any, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="not packed") as error:
        kernel.save(arrays(), tmp_path / "w.moepack")
    assert codes(error) == ["E0401"] and "kernel.pack" in (error.value.diagnostics[0].help or "")


@pytest.mark.parametrize(
    ("use", "code"),
    [
        (lambda kernel: kernel(tokens(1), kernel.pack(arrays()), aux=3), "E0305"),
        (lambda kernel: kernel(tokens(1), kernel.pack(arrays()), aux=["chosen", 3]), "E0305"),
        (lambda kernel: kernel.pack(arrays(), storage=4), "E0306"),
        (lambda kernel: kernel.pack(arrays(), bind=3), "E0405"),
        (lambda kernel: kernel.pack(arrays(), bind="b", prefix=None), "E0405"),
        (lambda kernel: kernel.pack({**arrays(), 1: np.ones(3)}), "E0402"),
        (lambda kernel: kernel.load("w.safetensors", prefix=None), "E0405"),
    ],
)
def test_what_is_no_name_is_said(kernel: Any, use: Any, code: str) -> None:
    with pytest.raises(CompileError) as error:
        use(kernel)
    assert codes(error) == [code]


@pytest.mark.parametrize("threads", ["2", 2.0, True])
def test_threads_are_a_number(threads: Any) -> None:
    with pytest.raises(CompileError, match="is not a number of threads") as error:
        moec.compile(TEXT, threads=threads)
    assert codes(error) == ["E0305"]


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_cannot_run_a_call(kernel: Any, threads: int) -> None:
    with pytest.raises(CompileError, match="cannot run anything"):
        kernel(tokens(1), kernel.pack(arrays()), threads=threads)


def test_weights_of_another_layer_are_refused(kernel: Any) -> None:
    other = moec.compile(TEXT.replace("tiny", "other"), threads=1).pack(arrays())
    with pytest.raises(CompileError) as error:
        kernel(tokens(2), other)
    assert codes(error) == ["E0402"]


def test_an_index_outside_its_table_is_an_error() -> None:
    kernel = moec.compile(LOOKUP, threads=1)
    weights = kernel.pack({"table": np.arange(40, dtype=np.float32).reshape(5, 8)})
    x = np.zeros((3, 8), np.float32)
    assert kernel(x, np.array([0, 4, 2]), weights)[1, 0] == 32
    for wrong in (5, -1, 1 << 40):
        with pytest.raises(IndexOutside):
            kernel(x, np.array([0, wrong, 2]), weights)


@pytest.mark.parametrize("index", ["argmax(x[s])", "ids(s)[0]"])
def test_the_index_of_an_empty_selection_is_told(index: str) -> None:
    text = f"moe tiny(x: [4]) -> f32 {{ s = where(x > 7.5) return x[{index}] }}"
    kernel = moec.compile(text, threads=1)
    assert kernel(np.full((1, 4), 8, np.float32), kernel.pack({})) == 8
    with pytest.raises(IndexOutside, match=r"`tiny` lies outside its table: .*, or that of an empty selection"):
        kernel(np.zeros((1, 4), np.float32), kernel.pack({}))


def test_aux_outputs(kernel: Any, weights: Any) -> None:
    x = tokens(7)
    y, aux = kernel(x, weights, aux=True)
    assert np.array_equal(y, kernel(x, weights))
    assert set(aux) == {"probabilities", "chosen"}
    assert np.allclose(aux["probabilities"].sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(aux["chosen"][:, 0], aux["probabilities"].argmax(axis=1))
    _, one = kernel(x, weights, aux=["chosen"])
    assert set(one) == {"chosen"}
    assert (
        set(kernel(x, weights, aux="chosen")[1]) == set(moec.reference(TEXT)(x, arrays(), aux="chosen")[1]) == set(one)
    )
    assert set(moec.compile(TEXT, aux="chosen", threads=1)(x, weights, aux="chosen")[1]) == set(one)
    with pytest.raises(CompileError):
        kernel(x, weights, aux=["choosen"])


# ── threads and processes ─────────────────────────────────────────────────────────────────────────────────────────────


def test_sixteen_threads_on_one_kernel_agree_bit_for_bit() -> None:
    kernel = moec.compile(TEXT, threads=2)
    weights, x = kernel.pack(arrays()), tokens(33)
    wanted = moec.compile(TEXT, threads=1)(x, weights).tobytes()
    found: list[bool] = []

    def work() -> None:
        found.extend(kernel(x, weights).tobytes() == wanted for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 800


@pytest.mark.parametrize("count", [1, 5, 64, 257])
def test_the_number_of_threads_changes_no_bit(count: int) -> None:
    big = {"H": 512, "I": 640}
    single, several = (moec.compile(TEXT, dims=big, threads=threads) for threads in (1, 3))
    random = np.random.default_rng(2)
    given = {p.name: random.standard_normal(p.shape, dtype=np.float32) / 30 for p in single.interface.params}
    weights, x = single.pack(given), random.standard_normal((count, 512), dtype=np.float32)
    wanted = single(x, weights).tobytes()
    assert all(several(x, weights).tobytes() == wanted for _ in range(5))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_results_past_the_caches_are_the_same_bits(dtype: str) -> None:
    """Those of 6,000 rows of 2 KiB are not kept for the stage that reads them; those of ten are."""
    # The sums of f32 have another order in tiles, where many rows go.
    target = Target.host().without("amx-bf16") if dtype == "f32" else None
    kernel = moec.compile(TEXT, dims={"H": 512, "I": 64}, dtype=dtype, threads=2, target=target)
    random = np.random.default_rng(3)
    given = {p.name: random.standard_normal(p.shape, dtype=np.float32) / 30 for p in kernel.interface.params}
    weights = kernel.pack(given)
    x = random.standard_normal((3000, 512), dtype=np.float32).astype(NUMPY[dtype])
    found = kernel(x, weights)
    for at in (0, 1490, 2995):
        assert found[at : at + 5].tobytes() == kernel(x[at : at + 5], weights).tobytes()


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_the_parts_of_a_panel_change_no_bit(dtype: str) -> None:
    """One block of rows passes over whole vectors, several over parts, short ones if they are few."""
    text = "moe m[H, N, E](x: [H], e: i64) -> f32[N] { param w: [E, N, H] return w[e] @ x }"
    small = replace(Target.host().without("amx-bf16"), l1=24 << 10, l2=256 << 10)
    kernel = moec.compile(text, dims={"H": 701, "N": 100, "E": 2}, dtype=dtype, target=small, threads=1)
    random = np.random.default_rng(4)
    w, x = (random.standard_normal(shape).astype(NUMPY[dtype]) for shape in ((2, 100, 701), (300, 701)))
    packed, experts = kernel.pack({"w": w}), np.zeros(300, np.int64)
    found: Any = kernel(x, experts, packed)
    truth = x.astype(np.float64) @ w[0].astype(np.float64).T
    np.testing.assert_allclose(found, truth, atol=1e-5 * np.abs(truth).max())
    for count in (1, 6, 7, 40, 64, 65, 299):
        np.testing.assert_array_equal(kernel(x[:count], experts[:count], packed), found[:count])


def _in_child(x: Any, given: Any, answers: Any) -> None:
    kernel = moec.compile(TEXT, threads=2)
    answers.put(kernel(x, kernel.pack(given)).tobytes())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_has_its_own_threads(method: str) -> None:
    kernel = moec.compile(TEXT, threads=2)
    x = tokens(300)
    wanted = kernel(x, kernel.pack(arrays())).tobytes()
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=_in_child, args=(x, arrays(), answers))
    child.start()
    assert answers.get(timeout=60) == wanted
    child.join()


def _exit_code(work: Callable[[], object]) -> int | None:
    """Of a child process that works; None where it does not end."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    code = child.exitcode
    child.kill()
    return code


@contextmanager
def _held(work: Callable[[], object], entered: threading.Event, leave: threading.Event) -> Iterator[None]:
    """Another thread inside of its work."""
    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(30)
    try:
        yield
    finally:
        leave.set()
        thread.join()


def test_a_child_of_a_process_that_compiles_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, given, entered, leave = moec.compile(TEXT, threads=1), arrays(), threading.Event(), threading.Event()
    compiled = kernel._layer.program

    def variant(names: tuple[str, ...], storage: Any) -> Any:
        entered.set()
        leave.wait(60)
        return compiled(names, ())

    monkeypatch.setattr(kernel._layer, "program", variant)
    with _held(lambda: kernel.pack(given, "q8_0"), entered, leave):
        assert _exit_code(lambda: kernel.pack(given)) == 0


def test_a_child_of_a_process_that_packs_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, x, entered, leave = moec.compile(TEXT, threads=1), tokens(1), threading.Event(), threading.Event()
    kernel(x, kernel.pack(arrays()), aux=["chosen"])
    weights, parent, add = kernel.pack(arrays()), os.getpid(), Weights.add

    def slow(*given: Any) -> None:
        if os.getpid() == parent:
            entered.set()
            leave.wait(60)
        add(*given)

    monkeypatch.setattr(Weights, "add", slow)
    with _held(lambda: kernel(x, weights, aux=["chosen"]), entered, leave):
        assert _exit_code(lambda: kernel(x, weights, aux=["chosen"])) == 0


def test_a_variant_is_one_runner_whoever_compiles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, both = moec.compile(TEXT, threads=1), threading.Barrier(2)
    compiled = kernel._layer.program

    def variant(*asked: Any) -> Any:
        both.wait(30)
        return compiled(*asked)

    monkeypatch.setattr(kernel._layer, "program", variant)
    x, weights, found = tokens(3), kernel.pack(arrays()), list[Any]()
    thread = threading.Thread(target=lambda: found.append(kernel(x, weights, aux=["chosen"])))
    thread.start()
    y, aux = kernel(x, weights, aux=["chosen"])
    thread.join()
    ((other, others),) = found
    assert np.array_equal(y, other) and np.array_equal(aux["chosen"], others["chosen"])
    assert len(kernel._runners) == 2  # the kernel's own, and the variant


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_packing_holds_little_besides_the_weights() -> None:
    kernel = moec.compile(TEXT, dims={"H": 512, "I": 512, "E": 32}, threads=1)
    given = {p.name: np.ones(p.shape, np.float32) for p in kernel.interface.params}
    tracemalloc.start()
    weights = kernel.pack(given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Panels lie in anonymous pages, which tracemalloc does not count: what it sees is what comes on top of them.
    assert peak <= 0.05 * weights.nbytes


def test_a_call_allocates_nothing_but_its_output(kernel: Any, weights: Any) -> None:
    x = tokens(64)
    kernel(x, weights)
    tracemalloc.start()
    kernel(x, weights)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= x.nbytes + 8192


@pytest.mark.parametrize("storage", [None, "q4_0"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_call_stays_in_its_workspace(monkeypatch: pytest.MonkeyPatch, dtype: str, storage: str | None) -> None:
    """Whose threads all have their scratch, the first one's among what is fixed."""
    random, taken = np.random.default_rng(0), list[Any]()

    def fenced(nbytes: int) -> Any:
        taken.append((whole := aligned_empty(nbytes + 4096), nbytes))
        whole[nbytes:] = 0xA5
        return whole[:nbytes]

    kernel = moec.compile(TEXT, {"H": 256, "I": 512}, dtype, threads=4, storage=storage)
    shapes = {array.name: (array.shape, NUMPY[array.dtype]) for array in kernel.interface.params}
    weights = kernel.pack({name: random.standard_normal(shape).astype(kind) for name, (shape, kind) in shapes.items()})
    x = random.standard_normal((2000, 256)).astype(NUMPY[dtype])
    monkeypatch.setattr("moec.runtime.workspace.aligned_empty", fenced)
    for threads in (1, 4):
        WORKSPACE.forget()
        kernel(x, weights, threads=threads)
    assert {nbytes for _, nbytes in taken} >= {kernel.interface.workspace(2000, threads) for threads in (1, 4)}
    assert all((whole[nbytes:] == 0xA5).all() for whole, nbytes in taken)


def test_a_kernel_that_lives_until_the_end_says_nothing_at_exit() -> None:
    script = f"import moec, functools; functools.kept = moec.compile({TEXT!r}, threads=1)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_arrays_of_other_names_are_shown_the_binds() -> None:
    named = {"gate": np.zeros(4), "w1": np.zeros(4)}
    for binds, help in (
        (("transformers",), '`bind="transformers"` says which is which, below `prefix=`'),
        (("a", "b"), '`bind="a"` or `bind="b"` says which is which, below `prefix=`'),
    ):
        kernel = moec.compile(TEXT + "".join(f'bind {name} {{\n    up = "w1"\n}}\n' for name in binds), threads=1)
        with pytest.raises(CompileError) as error:
            kernel.pack(named)
        assert codes(error) == ["E0402"]
        assert error.value.diagnostics[0].message == "of 2 arrays none is called like a weight of `tiny`"
        assert error.value.diagnostics[0].help == help
        with pytest.raises(CompileError) as error:
            kernel.pack({**arrays(), **named})
        assert codes(error) == ["E0402"] * 2


def test_a_checkpoint_is_packed_by_a_bind_of_the_text(kernel: Any) -> None:
    given = arrays()
    bound = moec.compile(f'{TEXT}bind there {{ up = "ups"[:, :, 0:48] down = "{{e}}.w" }}', threads=1)
    tensors: dict[str, Any] = {"block.router": given["router"], "block.ups": given["up"], "elsewhere": None}
    tensors |= {f"block.{e}.w": given["down"][e] for e in range(E)}
    x = tokens(5)
    expected = kernel(x, kernel.pack(given))
    np.testing.assert_array_equal(bound(x, bound.pack(tensors, bind="there", prefix="block.")), expected)
    with pytest.raises(CompileError) as error:
        bound.pack(tensors, bind="there")
    assert codes(error) == ["E0405"] * 3  # each weight is missing
    assert "`router` needs the tensor `router`, which the checkpoint lacks" in str(error.value)


def test_a_prefix_that_is_wrong_is_named() -> None:
    bound = moec.compile(f'{TEXT}bind there {{ router = "gate" up = "ups" down = "{{e}}.w" }}', threads=1)
    tensors = dict.fromkeys(("a.block.gate", "a.block.ups", "a.block.0.w", "a.other"))
    with pytest.raises(CompileError) as error:
        bound.pack(tensors, bind="there", prefix="a.blokc")
    (found,) = error.value.diagnostics
    assert found.message == "the checkpoint has no tensor below `a.blokc.`"
    assert found.help == "`gate` is below `a.block` (`prefix=`, `--prefix`)"
    with pytest.raises(CompileError) as error:
        bound.pack({"b.c": None}, bind="there", prefix="a")
    assert error.value.diagnostics[0].help == "it has `b.c`, …"
    with pytest.raises(CompileError) as error:
        bound.pack(tensors, bind="there", prefix="a")
    assert codes(error) == ["E0405"] * 3
    assert "which the checkpoint below `a.` lacks" in error.value.diagnostics[0].message
    assert error.value.diagnostics[0].help == "`gate` is below `a.block` (`prefix=`, `--prefix`)"
    with pytest.raises(CompileError, match="did you mean `there`"):
        bound.pack(tensors, bind="ther", prefix="a.block")


def test_a_call_says_its_threads(kernel: Any) -> None:
    x, weights = tokens(64), kernel.pack(arrays())
    np.testing.assert_array_equal(kernel(x, weights, threads=2), kernel(x, weights))
