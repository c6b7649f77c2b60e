"""The experts of `transformers`, computed by moec: the function behind `experts_implementation="moec"`.

A module is put into words (`experts`), compiled and packed when it is first called, and packed anew when its parameters
have changed. Kernels are shared: modules of the same text, dimensions and precision have one.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor, nn

from moec import pipeline
from moec.diagnostics import fail
from moec.integrations.torch import DTYPES
from moec.integrations.transformers.experts import Layer, describe
from moec.runtime.kernel import Kernel
from moec.runtime.weights import Weights
from moec.source import Source

Storage: TypeAlias = Mapping[str, str] | str | None

_lock: Final = threading.RLock()
_numbers: Final = itertools.count()
_by_module: Final = weakref.WeakKeyDictionary[nn.Module, "Experts"]()
_by_number: Final = weakref.WeakValueDictionary[int, "Experts"]()
_kernels: Final = dict[tuple[object, ...], Kernel]()


class Experts:
    """What moec keeps of one module: the layer, its packed weights, and which parameters these were packed from.

    `storage` is the format of the weights, as for `moec.compile`; with `release` the module's own are let go once they
    are packed: what stands in their place has their shapes, and no numbers.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self.number = next(_numbers)
        self.storage: Storage = None
        self.release = False
        self._layer: Layer | None = None
        self._weights: Weights | None = None
        self._described: object = None
        self._packed_from: object = None
        self._lock = threading.Lock()

    @property
    def layer(self) -> Layer:
        """The module's experts in the language. Raises `CompileError` (E0902)."""
        if self._layer is None or self._described != self._types():
            self._layer, self._described = describe(self._living), self._types()
        return self._layer

    @property
    def _living(self) -> nn.Module:
        module = self._module()
        assert module is not None, "a module that is gone is not called"
        return module

    def configure(self, storage: Storage, release: bool) -> None:
        """Sets both options; weights that are stored otherwise are packed again when they are next needed."""
        if self.storage != storage:
            self._packed_from = None
        self.storage, self.release = storage, release

    def __call__(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """[T, H], [T, K], [T, K] to [T, H], on as many threads as torch may use."""
        kernel = self.kernel(ids.shape[1])
        if self._packed_from != self._state():
            with self._lock:
                if self._packed_from != self._state():
                    self._pack(kernel)
        return kernel(hidden, ids, weights, weights=self._weights, threads=torch.get_num_threads())

    def kernel(self, chosen: int) -> Kernel:
        """The compiled layer for tokens of so many experts."""
        layer = self.layer
        dims = {**layer.dims, "K": chosen}
        key = (layer.text, tuple(dims.items()), layer.dtype)
        with _lock:
            if key not in _kernels:
                options = pipeline.Options.of(dims, layer.dtype)
                _kernels[key] = pipeline.load(Source("<experts>", layer.text), options)
            return _kernels[key]

    def _pack(self, kernel: Kernel) -> None:
        module, layer = self._living, self.layer
        arrays = {name: view.of(module) for name, view in layer.views.items()}
        self._weights = kernel.pack(arrays, storage=self.storage)
        if self.release:
            for name in layer.sources:
                _let_go(module, name)
        self._packed_from = self._state()

    def _types(self) -> object:
        """What the text depends on besides the module's code and attributes, which are taken not to change."""
        return tuple((tensor.dtype, tensor.shape) for tensor in self._living.parameters())

    def _state(self) -> object:
        """Which numbers the module's parameters are, as far as torch can tell."""
        return tuple((tensor.data_ptr(), _version(tensor)) for tensor in self._living.parameters())


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


def experts_of(module: nn.Module) -> Experts:
    """What moec keeps of a module of experts; begun here."""
    with _lock:
        if (found := _by_module.get(module)) is None:
            found = _by_module[module] = Experts(module)
            _by_number[found.number] = found
        return found


@cast(Any, torch.compiler).assume_constant_result
def _number(module: nn.Module) -> int:
    return experts_of(module).number


@torch.library.custom_op("moec::experts", mutates_args=(), device_types="cpu")
def run(hidden: Tensor, ids: Tensor, weights: Tensor, experts: int) -> Tensor:
    """The experts of a module for tokens, [T, H], that go to `ids` with `weights`, [T, K] both."""
    found = _by_number[experts]
    wanted = DTYPES[found.layer.dtype]
    return found(hidden.to(wanted), ids.long(), weights.float()).to(hidden.dtype)


@cast(Any, run).register_fake
def _(hidden: Tensor, ids: Tensor, weights: Tensor, experts: int) -> Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


def forward(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What `transformers` calls: [T, H], and the experts that every token chose, [T, K], with their weights.

    An id of the number of experts, or above, leaves its slot out, as under expert parallelism.
    """
    return cast(Tensor, run(hidden_states, top_k_index, top_k_weights, _number(self)))
