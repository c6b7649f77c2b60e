"""Arrays from outside, as NumPy sees them: torch's tensors, whatever has `__dlpack__`, `__array__` or a buffer.

Memory that can be seen is not copied, and torch is never imported: who gives a tensor has imported it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final, TypeAlias, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from moec.diagnostics import fail
from moec.dtypes import DTYPES

Data: TypeAlias = NDArray[Any]

#: How NumPy holds each element type.
NUMPY: Final[dict[str, np.dtype[Any]]] = {
    name: np.dtype(getattr(ml_dtypes, dtype.numpy, dtype.numpy)) for name, dtype in DTYPES.items()
}
_NAMES: Final = {dtype: name for name, dtype in NUMPY.items()}


def as_numpy(value: Any, name: str, wanted: str = "f32") -> Data:
    """Any array as NumPy sees it, of the element type `wanted` where it is to be made. Raises `CompileError` (E0404)
    where it is none that can be read."""
    if isinstance(value, np.ndarray):
        return value  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, np.generic):  # an element of an array
        return np.asarray(cast(Any, value))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(value, name, torch)
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value, name)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    kind = type(cast("object", value)).__name__
    try:
        return np.asarray(memoryview(value))
    except (TypeError, ValueError):
        plain = isinstance(value, list | tuple | int | float)
        help = f"`np.asarray({name}, {spelling(wanted)})` makes one" if plain else None
        raise fail("E0404", f"`{name}` is a `{kind}`, not an array", help=help) from None


def _names_data() -> bool:
    """Whether an array is its header and then the address of its data, as NumPy's C API has it
    (`PyArrayObject_fields`), and `id` says where it lies: so in CPython."""
    probe = np.zeros(1)
    return sys.implementation.name == "cpython" and _word_at(id(probe) + _HEADER).value == probe.ctypes.data


_word_at: Final = ctypes.c_void_p.from_address
_HEADER: Final = object.__basicsize__
_NAMES_DATA: Final = _names_data()


def address(data: Data) -> int:
    """Where an array begins: `data.ctypes.data`, for less. That one goes through objects that Python has to bring from
    memory, when weights have pushed them out of the caches: a call with one token took 7 to 15 us more."""
    return _word_at(id(data) + _HEADER).value or 0 if _NAMES_DATA else data.ctypes.data


def element(dtype: np.dtype[Any]) -> str:
    """The name of an element type: the language's, or NumPy's where the language has none."""
    return _NAMES.get(dtype, str(dtype))


def suits(dtype: np.dtype[Any], wanted: str) -> bool:
    """Whether numbers of a type may be given for those of another: floats for floats, integers for integers."""
    is_float = dtype.kind == "f" or element(dtype) == "bf16"
    return is_float if wanted in ("f32", "bf16", "f16") else dtype.kind in "iu"


def spelling(name: str) -> str:
    """An element type as it is written in Python."""
    return "ml_dtypes.bfloat16" if name == "bf16" else f"np.{NUMPY[name].name}"


# ── torch ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_torch(value: Any) -> bool:
    """Whether an array is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_torch(tensor: Any, name: str, torch: Any) -> Data:
    if not tensor.is_cpu:
        help = f"`{name}.cpu()` copies it"
        raise fail("E0404", f"`{name}` lies on {tensor.device}, not in main memory", help=help)
    if tensor.requires_grad:
        tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:  # NumPy itself has no bf16
            return tensor.view(torch.int16).numpy().view(NUMPY["bf16"])
        return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()
    except (RuntimeError, TypeError) as error:  # sparse ones, and elements of eight bits
        raise fail("E0404", f"`{name}` is a tensor that NumPy cannot read: {error}") from None


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
    try:
        capsule = value.__dlpack__()
    except BufferError as error:
        raise fail("E0404", f"`{name}` lends nobody its memory: {error}") from None
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
