"""`bind` blocks: the weights of a layer out of a checkpoint's tensors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from moec.binding.bind import bind_weights
from moec.diagnostics import CompileError
from moec.formats.blocks import Blocks
from moec.language.parse import parse
from moec.source import Source
from moec.stack import Stack

DIMS = {"H": 4, "I": 3, "E": 2}


def bound(entry: str, tensors: dict, shape: str = "[E, I, H]"):
    """The parameter `w` of a shape, bound by an entry."""
    text = f"moe m[H, I, E](x: [H]) -> [H] {{ param w: {shape} return x }} bind b {{ {entry} }}"
    return bind_weights(parse(Source("m.moe", text)), "b", tensors, DIMS)["w"]


def counted(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def code(entry: str, tensors: dict, **more) -> tuple[str, str]:
    with pytest.raises(CompileError) as caught:
        bound(entry, tensors, **more)
    return caught.value.diagnostics[0].code, str(caught.value)


def test_a_parameter_without_an_entry_is_bound_to_its_own_name():
    w = counted(2, 3, 4)
    assert bound("", {"w": w}) is w


def test_slices_are_views():
    both = counted(2, 6, 4)
    gate, up = bound('w = "gu"[:, :I, :]', {"gu": both}), bound('w = "gu"[:, I:, :]', {"gu": both})
    np.testing.assert_array_equal(np.concatenate([gate, up], 1), both)
    assert np.shares_memory(gate, both)


def test_interleaved_and_transposed():
    both = counted(2, 4, 6)
    np.testing.assert_array_equal(bound('w = "gu"[:, :, 1::2].T', {"gu": both}), both[:, :, 1::2].swapaxes(1, 2))
    np.testing.assert_array_equal(bound('w = "gu"[:, :, -I:].T', {"gu": both}), both[:, :, 3:].swapaxes(1, 2))


def test_split_and_an_index():
    flat = counted(6, 4)
    np.testing.assert_array_equal(bound('w = split "w1" as [E, _, H]', {"w1": flat}), flat.reshape(2, 3, 4))
    np.testing.assert_array_equal(bound('w = "all"[1]', {"all": counted(3, 2, 3, 4)}), counted(3, 2, 3, 4)[1])


def test_an_index_into_a_vector_is_an_array():
    one = np.array([2.5], ml_dtypes.bfloat16)
    value = bound('w = "scale"[0]', {"scale": one}, shape="real")
    assert isinstance(value, np.ndarray)
    assert value.shape == () and value.dtype == one.dtype and value == 2.5


def test_concat_along_an_axis():
    a, b = counted(2, 1, 4), -counted(2, 2, 4)
    np.testing.assert_array_equal(bound('w = concat("a", "b", axis=1)', {"a": a, "b": b}), np.concatenate([a, b], 1))


def test_one_tensor_per_expert_is_read_when_asked_for():
    read = []

    class Checkpoint(dict):
        def __getitem__(self, name: str):
            read.append(name)
            return super().__getitem__(name)

    tensors = Checkpoint({f"e.{e}.w": counted(6, 4) + e for e in range(2)})
    w = bound('w = "e.{e}.w"[:, I:, :]', tensors)
    assert isinstance(w, Stack) and w.shape == (2, 3, 4) and w.dtype == np.float32
    assert "e.1.w" not in read
    np.testing.assert_array_equal(w[1], counted(6, 4)[3:] + 1)
    np.testing.assert_array_equal(np.asarray(w), np.stack([counted(6, 4)[3:], counted(6, 4)[3:] + 1]))
    assert len(list(w)) == 2


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ('w = "e.{e}".T', lambda s: s.swapaxes(1, 2)),
        ('w = split "e.{e}" as [E, I, H]', lambda s: s.reshape(2, 3, 4)),
        ('w = split "e.{e}" as [E, _, 4]', lambda s: s.reshape(2, 3, 4)),
        ('w = concat("e.{e}"[:, :1], "e.{e}"[:, 1:], axis=1).T', lambda s: s.swapaxes(1, 2)),
        ('w = concat("e.{e}", "e.{e}")[1:3].T', lambda s: np.concatenate([s, s])[1:3].swapaxes(1, 2)),
        ('w = split "e.{e}"[0] as [1, I, H]', lambda s: s[:1].reshape(1, 3, 4)),
    ],
)
def test_a_stack_is_an_array(entry: str, expected):
    tensors = {f"e.{e}": counted(4, 3) * (e + 1) for e in range(2)}
    want = expected(np.stack(list(tensors.values())))
    shape = f"[{', '.join(map(str, want.shape))}]"
    np.testing.assert_array_equal(np.asarray(bound(entry, tensors, shape)), want)


def test_a_storage_format_comes_before_everything_else():
    codes = np.arange(2 * 6 * 4, dtype=np.int8).reshape(2, 6, 4)
    tensors = {"q": codes, "q_scale": counted(2, 6, 1)}
    dense = codes * counted(2, 6, 1)
    w = bound('w = "q"[:, 1::2] as int8', tensors)
    assert isinstance(w, Blocks) and w.format == "int8"
    np.testing.assert_array_equal(w.decode(), dense[:, 1::2])
    turned = bound('w = "q"[:, :, :3].T as int8', tensors, "[E, 3, 2 * I]")
    assert isinstance(turned, Stack)
    np.testing.assert_array_equal(np.asarray(turned), dense[:, :, :3].swapaxes(1, 2))


@pytest.mark.parametrize(
    ("entry", "shape", "names"),
    [
        ('w = "there"', (2, 3, 5), ["`w`", '"there"', "[2, 3, 4]", "[2, 3, 5]"]),
        ('w = "their"', (2, 3, 4), ["`w`", "`their`", "did you mean `there`?"]),
        ('w = "e.{e}"', (2, 3, 4), ["`w`", "`e.0`"]),
        ('w = "there"[:, :7]', (2, 3, 4), ["`w`", ":7", "length 3"]),
        ('w = "there"[2]', (2, 3, 4), ["`w`", "index 2"]),
        ('w = split "there" as [5, _]', (2, 3, 4), ["`w`", "does not split"]),
        ('w = concat("there", "there", axis=3)', (2, 3, 4), ["`w`", "axis 3"]),
        ('v = "there"', (2, 3, 4), ["`v` is not a weight"]),
        ('w = "there" + 1', (2, 3, 4), ["`w`", "takes tensors"]),
    ],
)
def test_what_does_not_fit_is_named(entry: str, shape: tuple[int, ...], names: list[str]):
    found, text = code(entry, {"there": np.zeros(shape, np.float32)})
    assert found == "E0405"
    for name in names:
        assert name in text


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ('w = "there"[: 2 ** 10000000000]', "E0206"),
        ('w = "there"[: (1e400) ** 0.5]', "E0206"),
        ('w = "there"[: (0 - H) ** 0.5]', "E0202"),
        ('w = "there"[: 0 ** -1]', "E0202"),
        ('w = split "there" as [-2, -3, 4]', "E0405"),
        ('w = split "there" as [-1, 3, 4]', "E0405"),
    ],
)
def test_a_formula_without_a_value_is_an_error(entry: str, wanted: str):
    assert code(entry, {"there": counted(2, 3, 4)})[0] == wanted


@pytest.mark.parametrize(("entry", "size"), [('"there"[:, I:]', 3), ('"e.{e}"[2:].T', 2), ('"q"[1:1].T', 2)])
def test_a_slice_of_nothing_is_an_error(entry: str, size: int):
    experts = {f"e.{e}": counted(3, 4) for e in range(2)}
    q = Blocks((2, 3, 64), "q8_0", lambda _: None)
    found, text = code(f"w = {entry}", {"there": counted(2, 3, 4), "q": q, **experts})
    assert found == "E0405" and f"takes nothing of an axis of length {size}" in text


def test_experts_that_differ_or_are_missing():
    found, text = code('w = "e.{e}"', {"e.0": counted(3, 4), "e.01": counted(3, 4)})
    assert found == "E0405" and "[1, 3, 4]" in text
    w = bound('w = "e.{e}"', {"e.0": counted(3, 4), "e.1": counted(4, 3)})
    with pytest.raises(CompileError, match=r"`e\.1` in the checkpoint is \[4, 3\]"):
        np.asarray(w)


@pytest.mark.parametrize("there", [[0, 2], [0, 10], [1, 2]])
def test_an_expert_that_is_missing_among_others_is_named(there: list[int]):
    lost = 0 if 0 not in there else 1
    found, text = code('w = "e.{e}.w2"', {f"e.{e}.w2": counted(3, 4) for e in there} | {"e.x": 0, f"e.{'9' * 5000}": 0})
    assert found == "E0405" and f"`w`: `e.{lost}.w2` is missing from the checkpoint, which has `e." in text
    codes = {f"e.{e}_packed": counted(3, 4) for e in there}
    assert f"`e.{lost}_packed` is missing" in code('w = "e.{e}" as packed', codes)[1]


def test_experts_that_are_stored_otherwise_are_named():
    q4, q8 = (Blocks((3, 4), name, lambda _: None) for name in ("q4_0", "q8_0"))
    for later in (q8, counted(3, 4)):
        found, text = code('w = "e.{e}"', {"e.0": q4, "e.1": later})
        assert found == "E0405" and "`e.1` in the checkpoint is not stored as q4_0" in text


def test_unknown_names():
    found, text = code('w = "q" as mxfp9', {})
    assert found == "E0306" and "did you mean `mxfp4`" in text
    file = parse(Source("m.moe", "moe m[H](x: [H]) -> [H] { return x } bind transformers { }"))
    with pytest.raises(CompileError, match="did you mean `transformers`"):
        bind_weights(file, "transformer", {}, {"H": 4})
