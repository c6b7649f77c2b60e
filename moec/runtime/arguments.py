"""The arguments of a call: the array that an input is read from, and an array of the same kind to answer with.

An array of the right type that lies contiguous in memory is read where it is; one that only has to be laid out anew, or
to be widened without loss, is copied; anything else is an error that names it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from moec.arrays import NUMPY, Data, address, as_numpy, element, is_torch, spelling
from moec.diagnostics import CompileError, fail
from moec.dtypes import DTYPES
from moec.runtime.interface import Array


def widens(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether every value of one type is a value of the other: bf16 and f16 in f32, integers in i64."""
    if wanted == NUMPY["f32"]:
        return given in (NUMPY["bf16"], NUMPY["f16"])
    return wanted == NUMPY["i64"] and given.kind in "iu" and given != np.dtype(np.uint64)


def fit(value: Any, array: Array, tokens: int | None) -> Data:
    """An input, contiguous and of its type, `[tokens, *shape]`; `tokens` is None while no other input has said it.

    Raises `CompileError` (E0403, E0404).
    """
    if isinstance(value, int | float) and not isinstance(value, np.generic):
        raise no_array(value, array, tokens)
    data = as_numpy(value, array.name, array.dtype)
    wanted = NUMPY[array.dtype]
    check_shape(data.shape, array, tokens)
    if data.dtype == wanted and data.flags.c_contiguous and data.flags.aligned:
        return data
    if data.dtype != wanted and not widens(data.dtype, wanted):
        raise wrong_type(data.dtype, array, is_torch(value))
    return np.require(data, wanted, ["C", "A"])


class Argument:
    """An array of the call, and what its memory must be like.

    Most calls give arrays that can be read where they lie, and then little is done here: at one token the weights of
    the call before have pushed Python out of the caches, and whatever it touches has to come from memory.
    """

    __slots__ = ("array", "dtype", "shape")

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.dtype = array, array.shape, NUMPY[array.dtype]

    def place(self, value: Any, tokens: int | None) -> tuple[Any, int, int]:
        """An input as `fit` makes it: what keeps its memory, where that begins, how many tokens there are; `tokens` is
        None while no other input has said it.

        Raises `CompileError` (E0403, E0404).
        """
        if type(value) is np.ndarray:
            shape = value.shape
            right = value.dtype is self.dtype and shape[1:] == self.shape and value.flags.carray
            if right and shape and (tokens is None or tokens == shape[0]):
                return value, address(value), shape[0]
        elif is_torch(value) and _lies_right(value, self.array):
            count, *rest = value.shape
            found = value.data_ptr()
            if found % value.itemsize == 0 and tuple(rest) == self.shape and tokens in (None, count):
                return value, found, count
        data = fit(value, self.array, tokens)
        return data, address(data), data.shape[0]

    def fresh(self, like: Any, tokens: int) -> tuple[Any, int]:
        """A new array [tokens, *shape] of the kind that `like` is, and where it begins."""
        if type(like) is not np.ndarray and is_torch(like):
            tensor = torch_empty(self.array, tokens)
            return tensor, tensor.data_ptr()
        data = np.empty((tokens, *self.shape), self.dtype)
        return data, address(data)


def check_shape(shape: tuple[int, ...], array: Array, tokens: int | None) -> None:
    """Raises `CompileError` (E0403) unless `shape` is `[tokens, *array.shape]`."""
    wanted = (*(("T",) if tokens is None else (tokens,)), *array.shape)
    if len(shape) == len(wanted) and shape[1:] == array.shape and tokens in (None, shape[0]):
        return
    message = f"`{array.name}` has the shape {_show(shape)}, not {_show(wanted)}"
    if shape == array.shape:
        raise fail("E0403", message, help=f"the first axis counts tokens: {_for_tokens(array, tokens)}")
    if len(shape) == len(wanted):
        axis = next(i for i, (a, b) in enumerate(zip(shape, wanted, strict=True)) if b not in ("T", a))
        message += f": axis {axis} is {shape[axis]}, not {wanted[axis]}"
    raise fail("E0403", message)


def _for_tokens(array: Array, tokens: int | None) -> str:
    """What makes the input of one token that of so many."""
    if tokens in (None, 1):
        return f"`{array.name}[None]` is one token"
    shape = _show((tokens or 0, *array.shape)).replace("[", "(").replace("]", ")" if array.shape else ",)")
    return f"`np.broadcast_to({array.name}, {shape})` is the same for all"


def no_array(value: float, array: Array, tokens: int | None) -> CompileError:
    """The error for a number of Python's in place of an array."""
    text = f"`{array.name}` is `{value}`, not an array"
    if array.shape:
        return fail("E0404", text, help=f"it is {_show(('T', *array.shape))}, and the first axis counts tokens")
    count = "T" if tokens is None else tokens
    help = f"`np.full({count}, {array.name}, {spelling(array.dtype)})` is the same for {count} tokens"
    return fail("E0404", text, help=help if count != 1 else help.removesuffix("s"))


def wrong_type(given: np.dtype[Any], array: Array, torch: bool) -> CompileError:
    """The error for an input of the wrong element type, of `torch` or of NumPy."""
    known = given.kind in "fiub" or element(given) in NUMPY
    how = f"to(torch.{DTYPES[array.dtype].numpy})" if torch else f"astype({spelling(array.dtype)})"
    help = f"`{array.name}.{how}` converts it" if known else None
    return fail("E0404", f"`{array.name}` holds {element(given)}, not {array.dtype}", help=help)


def _show(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def torch_empty(array: Array, tokens: int) -> Any:
    """A new tensor `[tokens, *shape]`."""
    torch: Any = sys.modules["torch"]
    return torch.empty((tokens, *array.shape), dtype=getattr(torch, DTYPES[array.dtype].numpy))


def _lies_right(tensor: Any, array: Array) -> bool:
    """Whether a tensor holds elements of an input, in order, in main memory, for an axis of tokens and the input's."""
    torch: Any = sys.modules["torch"]
    return (
        type(tensor) is torch.Tensor
        and tensor.is_cpu
        and tensor.dtype == getattr(torch, DTYPES[array.dtype].numpy)
        and tensor.layout == torch.strided
        and tensor.dim() == len(array.shape) + 1
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )
