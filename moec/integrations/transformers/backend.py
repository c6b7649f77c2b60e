"""The experts of `transformers`, computed by moec: the function behind `experts_implementation="moec"`.

A module is put into words (`experts`), compiled and packed when it is first called, and packed anew when its parameters
have changed. Kernels are shared: modules of the same text, dimensions and precision have one.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from moec.integrations.torch import DTYPES
from moec.integrations.transformers.experts import Layer, describe
from moec.integrations.transformers.packed import Packed
from moec.kernels import compile_layer
from moec.options import Options
from moec.runtime.kernel import Kernel
from moec.source import Source

_lock: Final = threading.RLock()
_numbers: Final = itertools.count()
_by_module: Final = weakref.WeakKeyDictionary[nn.Module, "Experts"]()
_by_number: Final = weakref.WeakValueDictionary[int, "Experts"]()
_kernels: Final = dict[tuple[object, ...], Kernel]()


class Experts(Packed):
    """What moec keeps of one module: the layer, its kernels, its packed weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.number = next(_numbers)
        self._layer: Layer | None = None
        self._types: object = None
        self._kernels = dict[int, Kernel]()

    @property
    def layer(self) -> Layer:
        """The module's experts in the language. Raises `CompileError` (E0902).

        It is written again where parameters have other types; the module's code and attributes are taken not to change.
        """
        types = tuple((tensor.dtype, tensor.shape) for tensor in self.module.parameters())
        if self._layer is None or self._types != types:
            self._layer, self._types = describe(self.module), types
            self._kernels = {}
        return self._layer

    def __call__(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """[T, H], [T, K], [T, K] to [T, H], on as many threads as torch may use."""
        kernel = self.kernel(ids.shape[1])
        given = hidden.to(DTYPES[kernel.interface.inputs[0].dtype]), ids.long(), weights.float()
        y: Tensor = kernel(*given, weights=self.weights(kernel), threads=torch.get_num_threads())
        return y.to(hidden.dtype)

    def kernel(self, chosen: int) -> Kernel:
        """The compiled layer for tokens of so many experts."""
        layer = self.layer
        if (kernel := self._kernels.get(chosen)) is None:
            source = Source("<experts>", layer.text)
            kernel = self._kernels[chosen] = compiled(source, {**layer.dims, "K": chosen}, layer.dtype)
        return kernel

    def arrays(self) -> Mapping[str, Tensor]:
        return {name: view.of(self.module) for name, view in self.layer.views.items()}

    def sources(self) -> Sequence[str]:
        return self.layer.sources


def compiled(source: Source, dims: Mapping[str, int], dtype: str) -> Kernel:
    """The kernel of a layer, one for all modules that are alike."""
    key = (source.text, tuple(dims.items()), dtype)
    with _lock:
        if key not in _kernels:
            _kernels[key] = compile_layer(source, Options.of(dims, dtype))
        return _kernels[key]


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
    return _by_number[experts](hidden, ids, weights)


@cast(Any, run).register_fake
def _(hidden: Tensor, ids: Tensor, weights: Tensor, experts: int) -> Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


def forward(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What `transformers` calls: [T, H], and the experts that every token chose, [T, K], with their weights.

    An id of the number of experts, or above, leaves its slot out, as under expert parallelism.
    """
    return cast(Tensor, run(hidden_states, top_k_index, top_k_weights, _number(self)))
