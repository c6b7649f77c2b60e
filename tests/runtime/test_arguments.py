"""Arrays from outside: read where they lie if they can be, converted without loss if not, else named."""

from __future__ import annotations

import array
import gc
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from moec.arrays import NUMPY, address, as_numpy
from moec.diagnostics import CompileError
from moec.runtime.arguments import Argument, fit
from moec.runtime.interface import Array

X = Array("x", "f32", (4,))
BF16 = ml_dtypes.bfloat16


class Exported:
    """An array that can only be had through DLPack."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __dlpack__(self, **_: Any) -> Any:
        return self.data.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()


def rejected(value: Any, wanted: Array = X, tokens: int | None = None) -> tuple[str, str]:
    with pytest.raises(CompileError) as error:
        fit(value, wanted, tokens)
    (mistake,) = error.value.diagnostics
    assert f"`{wanted.name}`" in mistake.message
    return mistake.code, f"{mistake.message} {mistake.help}"


@pytest.mark.parametrize("dtype", NUMPY)
def test_what_fits_is_not_copied(dtype: str) -> None:
    x = np.zeros((3, 4), NUMPY[dtype])
    assert fit(x, Array("x", dtype, (4,)), None) is x
    assert address(x) == x.ctypes.data


def test_an_address_is_where_the_data_begins(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    frozen = x.copy()
    frozen.flags.writeable = False
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(4, 6))
    for data in (x, x[1:], x[::-1], x.T, x[:0], frozen, mapped, np.float32(3)[...], x.astype(BF16)):
        assert address(data) == data.ctypes.data


def test_the_buffer_protocol_is_not_copied() -> None:
    words = array.array("f", range(8))
    view = memoryview(words).cast("B").cast("f", (2, 4))
    found = fit(view, X, None)
    words[5] = 50
    assert found[1, 1] == 50


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
def test_dlpack_is_not_copied(dtype: str) -> None:
    data = np.arange(24).reshape(4, 6).astype(dtype)
    found = as_numpy(Exported(data[::2, 1:]), "x")
    data[2, 2] = 99
    assert found.dtype == data.dtype
    assert np.array_equal(found, data[::2, 1:])


def test_dlpack_lends_until_the_last_view_dies() -> None:
    data = np.arange(8, dtype=np.float32).reshape(2, 4)
    alive = weakref.ref(data)
    found = as_numpy(Exported(data), "x")[1]
    del data
    gc.collect()
    assert alive() is not None
    assert found.tolist() == [4, 5, 6, 7]
    del found
    gc.collect()
    assert alive() is None


def test_dlpack_brings_no_tokens_too() -> None:
    assert fit(Exported(np.zeros((0, 4), np.float32)), X, None).shape == (0, 4)


def test_another_type_is_converted_as_its_kind_of_array_is() -> None:
    torch = pytest.importorskip("torch")
    code, text = rejected(torch.zeros((2, 4), dtype=torch.float64))
    assert code == "E0404" and "`x.to(torch.float32)` converts it" in text
    assert "`x.to(torch.int64)` converts it" in rejected(torch.zeros(2, 4), Array("x", "i64", (4,)))[1]
    assert "`x.astype(np.float32)` converts it" in rejected(np.zeros((2, 4)))[1]


def test_torch_is_not_copied() -> None:
    torch = pytest.importorskip("torch")
    for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16"), (torch.int64, "i64"), (torch.bool, "bool")):
        tensor = torch.zeros((2, 4), dtype=dtype)
        for given in (tensor, Exported(tensor)):
            found = fit(given, Array("x", name, (4,)), None)
            assert address(found) == tensor.data_ptr()
            assert found.dtype == NUMPY[name]
    learned = torch.zeros((2, 4), requires_grad=True)
    assert address(fit(learned, X, None)) == learned.data_ptr()
    strided = torch.arange(16.0).reshape(4, 4).bfloat16().T
    found = fit(strided, Array("x", "bf16", (4,)), None)
    assert np.array_equal(found.astype(np.float32), strided.float().numpy())


def test_a_tensor_is_placed_as_it_is_fitted() -> None:
    torch = pytest.importorskip("torch")
    right, odd = torch.arange(8.0).reshape(2, 4), torch.frombuffer(bytearray(33), dtype=torch.float32, offset=1)
    assert Argument(X).place(right, None) == (right, right.data_ptr(), 2)
    assert Argument(X).place(right[:0], 0)[2] == 0
    for tensor in (right.T.contiguous().T, right.bfloat16(), -right, torch._neg_view(right), odd.view(2, 4)):
        kept, begin, tokens = Argument(X).place(tensor, 2)
        assert (address(kept), tokens) == (begin, 2) if isinstance(kept, np.ndarray) else begin == tensor.data_ptr()
        assert np.array_equal(np.asarray(kept), tensor.float().resolve_neg().numpy())
    for wrong, tokens in ((right, 0), (right, 3), (right[0], None), (right.view(4, 2), None), (right.double(), None)):
        with pytest.raises(CompileError):
            Argument(X).place(wrong, tokens)


def test_a_tensor_elsewhere_is_refused() -> None:
    torch = pytest.importorskip("torch")
    code, text = rejected(torch.zeros((2, 4), device="meta"))
    assert code == "E0404"
    assert "x.cpu()" in text


def test_what_numpy_cannot_read_is_refused() -> None:
    torch = pytest.importorskip("torch")
    dense = torch.ones((2, 4))
    for tensor in (dense.to(torch.float8_e4m3fn), dense.to_sparse(), dense.bfloat16().to_sparse()):
        assert rejected(tensor)[0] == "E0404"
    assert "its memory" in rejected(Exported(torch.ones((2, 4), requires_grad=True)))[1]


def test_only_what_loses_nothing_is_converted() -> None:
    small = np.arange(8).reshape(2, 4)
    for dtype in (np.float16, BF16):
        assert np.array_equal(fit(small.astype(dtype), X, None), small.astype(np.float32))
    for dtype in (np.int32, np.uint8):
        assert np.array_equal(fit(small.astype(dtype), Array("x", "i64", (4,)), None), small)
    for dtype in (np.float64, np.int64, np.bool_):
        assert rejected(small.astype(dtype))[0] == "E0404"
    for wanted, dtype in (
        ("bf16", np.float32),
        ("f16", BF16),
        ("i64", np.uint64),
        ("i64", np.bool_),
        ("bool", np.uint8),
    ):
        assert rejected(small.astype(dtype), Array("x", wanted, (4,)))[0] == "E0404"


def test_the_help_says_how_to_convert() -> None:
    assert "x.astype(np.float32)" in rejected(np.zeros((2, 4)))[1]
    assert "x.astype(ml_dtypes.bfloat16)" in rejected(np.zeros((2, 4)), Array("x", "bf16", (4,)))[1]
    assert "x[None]" in rejected(np.zeros(4, np.float32))[1]
    assert "np.asarray(x, np.float32)" in rejected([[0.0] * 4])[1]
    assert "np.full(T, id, np.int64)" in rejected(3, Array("id", "i64", ()))[1]
    assert "np.full(T, flag, np.bool)" in rejected(True, Array("flag", "bool", ()))[1]


def test_the_help_for_a_scalar_works() -> None:
    scalar = Array("id", "i64", ())
    assert "`np.full(5, id, np.int64)` is the same for 5 tokens" in rejected(3, scalar, tokens=5)[1]
    assert fit(np.full(5, 3, np.int64), scalar, 5).shape == (5,)
    assert "`np.broadcast_to(id, (5,))` is the same for all" in rejected(np.asarray(3), scalar, tokens=5)[1]
    assert fit(np.broadcast_to(np.asarray(3), (5,)), scalar, 5).tolist() == [3] * 5
    assert "`np.broadcast_to(x, (5, 4))`" in rejected(np.zeros(4, np.float32), tokens=5)[1]
    assert fit(np.broadcast_to(np.zeros(4, np.float32), (5, 4)), X, 5).shape == (5, 4)
    assert "[T, 4], and the first axis counts tokens" in rejected(3.0)[1]


def test_a_shape_is_told_by_its_axis() -> None:
    assert "axis 1 is 5, not 4" in rejected(np.zeros((2, 5), np.float32))[1]
    assert "axis 0 is 3, not 2" in rejected(np.zeros((3, 4), np.float32), tokens=2)[1]
    assert rejected(np.zeros((2, 2, 4), np.float32))[0] == "E0403"
    assert rejected(np.float32(1))[0] == "E0403"
    assert fit(np.zeros(3, np.int64), Array("id", "i64", ()), 3).shape == (3,)


def test_unaligned_words_are_copied() -> None:
    raw = np.zeros(2 * 4 * 4 + 1, np.uint8)
    x = raw[1:].view(np.float32).reshape(2, 4)
    found = fit(x, X, None)
    assert found.ctypes.data % 4 == 0
    assert np.array_equal(found, x)
