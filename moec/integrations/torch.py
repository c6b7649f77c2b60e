"""A compiled layer inside PyTorch: a module, and the operator that it calls.

    layer = moec.integrations.torch.MoE(kernel, kernel.pack(arrays))
    y = layer(x)  # x: [T, H] or [batch, T, H]

The operator, `torch.ops.moec.layer`, has a schema and a kernel for fake tensors, so `torch.compile(fullgraph=True)`
goes through it without a break. A call runs on as many threads as `torch.get_num_threads()` says: torch's own sleep
meanwhile, and moec's sleep while torch works. There is no backward pass yet; asking for one is torch's own error.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from moec.diagnostics import fail
from moec.runtime.interface import Array
from moec.runtime.kernel import Kernel
from moec.runtime.weights import Weights, require_packed

#: The element types of the language in torch.
DTYPES: Final = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i64": torch.int64,
    "bool": torch.bool,
}
_numbers: Final = itertools.count()
_layers: Final = weakref.WeakValueDictionary[int, "Layer"]()


class Layer:
    """A kernel with its weights, and the number by which an operator finds them. It never changes: a copy is itself.

    Raises `CompileError`: E0305 where it is given no kernel, E0401 where weights are not packed.
    """

    def __init__(self, kernel: Kernel, weights: Weights) -> None:
        if not isinstance(kernel, Kernel):  # pyright: ignore[reportUnnecessaryIsInstance]
            what = f"a module is made of a kernel, not of `{type(kernel).__name__}`"
            raise fail("E0305", what, help="`moec.compile(…)` gives one")
        require_packed(kernel.name, weights)
        self.kernel = kernel
        self.weights = weights
        self.number = next(_numbers)
        _layers[self.number] = self

    def __deepcopy__(self, memo: object) -> Layer:
        return self


class MoE(nn.Module):
    """A layer of compiled weights, [..., H] to [..., H]: for each input whatever shape the `.moe` file gives a token,
    behind any leading axes, which all inputs share. A layer that looks along `batch` has the last of these for it: each
    sequence of [sequences, T, H] is a call of its own.

    Inputs may have any strides; contiguous ones are read where they lie. The weights belong to the kernel: they are no
    parameters, move nowhere and are in no state dict. Raises `CompileError` (E0403, E0404) where an input does not fit.
    """

    def __init__(self, kernel: Kernel, weights: Weights) -> None:
        super().__init__()
        self._layer = Layer(kernel, weights)
        self._number = self._layer.number
        self._ranks = [len(array.shape) for array in kernel.interface.inputs]

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One tensor, or a tuple where the layer has several outputs."""
        if len(inputs) != len(self._ranks) or inputs[0].dim() <= self._ranks[0]:
            return _unwrap(run(list(inputs), self._number))  # whose error says what is wrong
        lead = inputs[0].shape[: inputs[0].dim() - self._ranks[0]]
        if len(lead) == 1:
            return _unwrap(run(list(inputs), self._number))
        if self._layer.kernel.interface.batch and 0 not in lead:
            outputs = self._sequences(inputs, len(lead))
        else:
            rows = [x.flatten(0, x.dim() - rank - 1) for x, rank in zip(inputs, self._ranks, strict=True)]
            outputs = run(rows, self._number)
        return _unwrap([cast(Tensor, y.unflatten(0, lead)) for y in outputs])

    def _sequences(self, inputs: Sequence[Tensor], lead: int) -> list[Tensor]:
        """The outputs for all rows, of one call for each sequence along the last of the leading axes."""
        sequences = [torch.unbind(x.flatten(0, lead - 2)) for x in inputs]
        calls = [cast("list[Tensor]", run(list(rows), self._number)) for rows in zip(*sequences, strict=True)]
        return [torch.cat(parts) for parts in zip(*calls, strict=True)]

    def extra_repr(self) -> str:
        return repr(self._layer.kernel)


def _unwrap(outputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def find(number: int) -> Layer:
    """The layer of a number. Raises `CompileError` (E0401) where it is gone: its module has been deleted."""
    if (layer := _layers.get(number)) is None:
        raise fail("E0401", f"layer {number} is gone: the module that held it has been deleted")
    return layer


@torch.library.custom_op("moec::layer", mutates_args=(), device_types="cpu")
def run(inputs: Sequence[Tensor], layer: int) -> list[Tensor]:
    """The outputs of a layer for rows of its inputs, [T, *shape] each."""
    return call(find(layer), inputs)


def call(layer: Layer, inputs: Sequence[Tensor]) -> list[Tensor]:
    """A layer's outputs, on as many threads as torch may use."""
    outputs = layer.kernel(*inputs, weights=layer.weights, threads=torch.get_num_threads())
    return list(cast("tuple[Tensor, ...]", outputs)) if isinstance(outputs, tuple) else [outputs]


@cast(Any, run).register_fake
def _(inputs: Sequence[Tensor], layer: int) -> list[Tensor]:
    return [_empty(inputs[0], array) for array in find(layer).kernel.interface.outputs]


def _empty(first: Tensor, array: Array) -> Any:
    return first.new_empty((first.shape[0], *array.shape), dtype=DTYPES[array.dtype])
