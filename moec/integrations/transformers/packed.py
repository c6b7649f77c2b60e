"""The weights of a module, packed for a kernel when they are first needed, and again when they have changed."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from moec.diagnostics import fail
from moec.dtypes import StorageLike
from moec.runtime.kernel import Kernel
from moec.runtime.weights import Weights


class Packed(ABC):
    """What is packed of a module, and which numbers its parameters and buffers were then.

    `storage` is the format of the weights, as for `moec.compile`. With `release` parameters are let go once they are
    packed: what stands in their place has their shapes, and no numbers.
    """

    def __init__(self, module: nn.Module, storage: StorageLike = None, release: bool = False) -> None:
        self._module = weakref.ref(module)
        self.storage: StorageLike = storage
        self.release = release
        self._weights: Weights | None = None
        self._from: object = None
        self._lock = threading.Lock()

    @property
    def module(self) -> nn.Module:
        """The module, which is alive as long as somebody calls it."""
        module = self._module()
        assert module is not None, "a module that is gone is not called"
        return module

    @abstractmethod
    def arrays(self) -> Mapping[str, Any]:
        """The weights as `Kernel.pack` takes them."""

    @abstractmethod
    def sources(self) -> Iterable[str]:
        """The module's parameters that may be let go."""

    def configure(self, storage: StorageLike, release: bool) -> None:
        """Sets both options; weights that are stored otherwise are packed again when they are next needed."""
        if self.storage != storage:
            self._weights = None
        self.storage, self.release = storage, release
        if self._weights is not None and self._from == self._state():
            self._settle()

    def weights(self, kernel: Kernel, bind: str | None = None) -> Weights:
        """The packed weights."""
        if self._weights is None or self._from != self._state():
            with self._lock:
                if self._weights is None or self._from != self._state():
                    self._weights = kernel.pack(self.arrays(), storage=self.storage, bind=bind)
                    self._settle()
        return self._weights

    def _settle(self) -> None:
        """Once the weights are packed."""
        for name in self.sources() if self.release else ():
            _let_go(self.module, name)
        self._from = self._state()

    def _state(self) -> object:
        """Which numbers the parameters and buffers are, as far as torch can tell."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tuple((tensor.data_ptr(), _version(tensor)) for tensor in tensors)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class Released(nn.Parameter):
    """What is left of a parameter that moec has packed: shape and type. Reading it raises `CompileError` (E0401)."""

    @classmethod
    def of(cls, tensor: Tensor) -> Released:
        """In the place of a tensor."""
        return torch.Tensor._make_subclass(cls, torch.empty_like(tensor, device="meta"), False)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Released({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__name__ if func.__name__ != "__get__" else f"get {func.__self__.__name__}"
        if name in _SHALLOW or (name.startswith("get ") and name not in _VIEWS):
            with cast(Any, torch)._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        help = "without `release_weights` they stay"
        raise fail("E0401", "these weights were let go when moec packed them", help=help)


#: What may be asked of a parameter without its numbers, besides its attributes, and which of those are its numbers.
_SHALLOW: Final = ("size", "dim", "numel", "element_size", "data_ptr", "is_inference", "is_floating_point")
_VIEWS: Final = ("get data", "get T", "get H", "get mT", "get mH", "get real", "get imag")


def _let_go(module: nn.Module, path: str) -> None:
    """Frees the memory of a parameter."""
    *parents, name = path.split(".")
    owner = module.get_submodule(".".join(parents))
    if isinstance(tensor := getattr(owner, name), nn.Parameter):
        owner.register_parameter(name, Released.of(tensor))
