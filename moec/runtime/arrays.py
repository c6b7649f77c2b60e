"""Arrays from outside: what they are, where they lie, and an array of the same kind to answer with.

NumPy arrays, torch tensors, whatever has `__dlpack__` or the buffer protocol. An array of the right type that lies
contiguous in memory is read where it is; one that only has to be laid out anew, or to be widened without loss, is
copied; anything else is an error that names it. torch is never imported: who gives a tensor has imported it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final, TypeAlias, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from moec.diagnostics import CompileError, fail
from moec.runtime.interface import Array

Data: TypeAlias = NDArray[Any]

#: How NumPy holds each element type.
NUMPY: Final[dict[str, np.dtype[Any]]] = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16": np.dtype(np.float16),
    "i64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}
_NAMES: Final = {dtype: name for name, dtype in NUMPY.items()}


def suits(dtype: np.dtype[Any], wanted: str) -> bool:
    """Whether numbers of a type may be given for those of another: floats for floats, integers for integers."""
    is_float = dtype.kind == "f" or element(dtype) == "bf16"
    return is_float if wanted in ("f32", "bf16", "f16") else dtype.kind in "iu"


def as_numpy(value: Any, name: str) -> Data:
    """Any array as NumPy sees it, without a copy. Raises `CompileError` (E0404) where it is none that can be read."""
    if isinstance(value, np.ndarray):
        return value  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, np.generic):  # an element of an array
        return np.asarray(cast(Any, value))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(value, name, torch)
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value, name)
    kind = type(cast("object", value)).__name__
    try:
        return np.asarray(memoryview(value))
    except (TypeError, ValueError):
        plain = isinstance(value, list | tuple | int | float)
        help = f"`np.asarray({name}, np.float32)` makes one" if plain else None
        raise fail("E0404", f"`{name}` is a `{kind}`, not an array", help=help) from None


def address(data: Data) -> int:
    """Where an array begins: `data.ctypes.data`, in a third of the time for those that may be written to."""
    if data.flags.carray and data.size:
        words: Any = data if data.dtype.isbuiltin == 1 else data.view(f"u{data.itemsize}")  # only NumPy's have buffers
        return ctypes.addressof(ctypes.c_char.from_buffer(words))
    return data.__array_interface__["data"][0]


def element(dtype: np.dtype[Any]) -> str:
    """The name of an element type: the language's, or NumPy's where the language has none."""
    return _NAMES.get(dtype, str(dtype))


def widens(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether every value of one type is a value of the other: bf16 and f16 in f32, integers in i64."""
    if wanted == NUMPY["f32"]:
        return given in (NUMPY["bf16"], NUMPY["f16"])
    return wanted == NUMPY["i64"] and given.kind in "iu" and given != np.dtype(np.uint64)


def fit(value: Any, array: Array, tokens: int | None) -> Data:
    """An input, contiguous and of its type, `[tokens, *shape]`; `tokens` is None while no other input has said it.

    Raises `CompileError` (E0403, E0404).
    """
    data = as_numpy(value, array.name)
    wanted = NUMPY[array.dtype]
    check_shape(data.shape, array, tokens)
    if data.dtype == wanted and data.flags.c_contiguous and data.flags.aligned:
        return data
    if data.dtype != wanted and not widens(data.dtype, wanted):
        raise wrong_type(data.dtype, array)
    return np.require(data, wanted, ["C", "A"])


def place(value: Any, array: Array, tokens: int | None) -> tuple[Any, int, int]:
    """An input as `fit` makes it: what keeps its memory, where that begins, how many tokens there are.

    A tensor that lies as it should is asked for its address at once, which takes a fifth of the time of a view of it.
    """
    torch = sys.modules.get("torch")
    if torch is not None and type(value) is torch.Tensor and _lies_right(value, array, torch):
        found = value.data_ptr()
        count, *shape = value.shape
        if found % value.itemsize == 0 and tuple(shape) == array.shape and tokens in (None, count):
            return value, found, count
    data = fit(value, array, tokens)
    return data, address(data), data.shape[0]


def check_shape(shape: tuple[int, ...], array: Array, tokens: int | None) -> None:
    """Raises `CompileError` (E0403) unless `shape` is `[tokens, *array.shape]`."""
    wanted = (*(("T",) if tokens is None else (tokens,)), *array.shape)
    if len(shape) == len(wanted) and shape[1:] == array.shape and tokens in (None, shape[0]):
        return
    message = f"`{array.name}` has the shape {_show(shape)}, not {_show(wanted)}"
    if shape == array.shape:
        help = f"the first axis counts tokens: `{array.name}[None]` is one token"
        raise fail("E0403", message, help=help)
    if len(shape) == len(wanted):
        axis = next(i for i, (a, b) in enumerate(zip(shape, wanted, strict=True)) if b not in ("T", a))
        message += f": axis {axis} is {shape[axis]}, not {wanted[axis]}"
    raise fail("E0403", message)


def wrong_type(given: np.dtype[Any], array: Array) -> CompileError:
    """The error for an input of the wrong element type."""
    wanted = NUMPY[array.dtype]
    spelling = "ml_dtypes.bfloat16" if array.dtype == "bf16" else f"np.{wanted.name.removesuffix('_')}"
    help = f"`{array.name}.astype({spelling})` converts it" if given.kind in "fiub" or given in _NAMES else None
    return fail("E0404", f"`{array.name}` holds {element(given)}, not {array.dtype}", help=help)


def _show(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


# ── torch ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


#: How torch calls each element type.
_TORCH: Final = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i64": "int64", "bool": "bool"}


def is_torch(value: Any) -> bool:
    """Whether an array is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def torch_empty(array: Array, tokens: int) -> Any:
    """A new tensor `[tokens, *shape]`."""
    torch: Any = sys.modules["torch"]
    return torch.empty((tokens, *array.shape), dtype=getattr(torch, _TORCH[array.dtype]))


def _lies_right(tensor: Any, array: Array, torch: Any) -> bool:
    """Whether a tensor holds elements of an input, in order, in main memory, for an axis of tokens and the input's."""
    return (
        tensor.is_cpu
        and tensor.dtype == getattr(torch, _TORCH[array.dtype])
        and tensor.layout == torch.strided
        and tensor.dim() == len(array.shape) + 1
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )


def _from_torch(tensor: Any, name: str, torch: Any) -> Data:
    if not tensor.is_cpu:
        help = f"`{name}.cpu()` copies it"
        raise fail("E0404", f"`{name}` lies on {tensor.device}, not in main memory", help=help)
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # NumPy itself has no bf16
        return tensor.view(torch.int16).numpy().view(NUMPY["bf16"])
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()


# ── DLPack ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _DLTensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


#: (type code, bits) of dlpack.h → NumPy's type.
_DLPACK: Final[dict[tuple[int, int], np.dtype[Any]]] = {
    **{(0, bits): np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{(1, bits): np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{(2, bits): np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    (4, 16): NUMPY["bf16"],
    (6, 8): np.dtype(np.bool_),
}
_MAIN_MEMORY: Final = (1, 3)  # kDLCPU, kDLCUDAHost

_pointer: Final = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Lent:
    """Memory that a capsule lends, as NumPy's array interface tells it. It goes back when the last view dies."""

    def __init__(self, capsule: Any, interface: dict[str, Any]) -> None:
        self.capsule = capsule
        self.__array_interface__ = interface


def _from_dlpack(value: Any, name: str) -> Data:
    """NumPy's own import knows no bf16, so the capsule is read here."""
    device = value.__dlpack_device__()[0]
    if device not in _MAIN_MEMORY:
        raise fail("E0404", f"`{name}` lies on a device, not in main memory", help="copy it to the host first")
    capsule = value.__dlpack__()
    tensor = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    dtype = _DLPACK.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise fail("E0404", f"`{name}` holds elements of DLPack's type {tensor.code} with {tensor.bits} bits")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim)) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    words = np.dtype(f"u{dtype.itemsize}").str
    if not all(shape):
        return np.empty(shape, dtype)
    lent = {"version": 3, "shape": shape, "strides": strides, "typestr": words, "data": (address, True)}
    return np.asarray(_Lent(capsule, lent)).view(dtype)
