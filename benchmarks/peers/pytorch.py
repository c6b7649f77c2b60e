"""PyTorch on the CPU, in the forms that it offers for such a layer; whoever measures takes the best at each point.

`eager`: linear layers over the tokens of each expert. `prepacked`: the same through oneDNN, with weights reordered once
(`torch.ops.mkldnn._linear_pointwise`). `grouped`: `torch._grouped_mm` over tokens sorted by expert, where it has a CPU
path. `compiled`: that through `torch.compile`, compiled once for any number of tokens; it needs a C++ compiler.

Quantised: `int8-row` (`torch._weight_int8pack_mm`) and `int4-32` (`torch._weight_int4pack_mm_for_cpu`) multiply with
activations in the layer's precision, `int8-row-dynamic` (`quantized::linear_dynamic`) with activations in 8 bits.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peer import Layer, Program, Run, quantised, serve

ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
}
#: A product of some rows with the matrix of an expert.
Linear = Callable[[Any, int], Any]


def route(layer: Layer, router: Any, x: Any) -> tuple[Any, Any]:
    """The experts of each token and their weights in f32: both [T, K]."""
    p = torch.softmax(F.linear(x, router), dim=-1, dtype=torch.float32)
    w, chosen = torch.topk(p, layer.K, dim=-1, sorted=False)
    return chosen, w / w.sum(dim=-1, keepdim=True) if layer.normalised else w


def loop(layer: Layer, router: Any, up: Linear, gate: Linear | None, down: Linear) -> Run:
    """Tokens grouped by expert: one product for each matrix of each expert that was chosen."""
    act = ACTIVATIONS[layer.activation]

    @torch.inference_mode()
    def run(x: Any) -> Any:
        chosen, w = route(layer, router, x)
        flat, order = torch.sort(chosen.flatten(), stable=True)
        counts = torch.bincount(flat, minlength=layer.E).tolist()
        tokens = order // layer.K
        rows, shares = x[tokens], w.flatten()[order].unsqueeze(1)
        y, at = torch.zeros(x.shape, dtype=torch.float32), 0
        for e, count in enumerate(counts):
            if count:
                part = rows[at : at + count]
                h = act(up(part, e)) if gate is None else act(gate(part, e)) * up(part, e)
                y.index_add_(0, tokens[at : at + count], down(h, e) * shares[at : at + count])
                at += count
        return y.to(x.dtype)

    return run


def eager(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def linear(name: str) -> Linear:
        matrices, biases = weights[name], weights.get(f"{name}_bias")
        return lambda x, e: F.linear(x, matrices[e], None if biases is None else biases[e])

    return loop(layer, weights["router"], linear("up"), linear("gate") if layer.gated else None, linear("down"))


def prepacked(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def linear(name: str) -> Linear:
        # Without a number of rows oneDNN reorders for any.
        packed = [torch.ops.mkldnn._reorder_linear_weight(matrix, None) for matrix in weights[name]]
        biases = weights.get(f"{name}_bias")
        return lambda x, e: torch.ops.mkldnn._linear_pointwise(
            x, packed[e], None if biases is None else biases[e], "none", [], ""
        )

    return loop(layer, weights["router"], linear("up"), linear("gate") if layer.gated else None, linear("down"))


def grouped(layer: Layer, weights: Mapping[str, Any]) -> Run:
    act = ACTIVATIONS[layer.activation]
    names = [name for name in ("gate", "up") if name in weights]
    # One product for gate and up; matrices [E, K, N] whose last axis but one runs fastest, as the operator takes them.
    first = torch.cat([weights[name] for name in names], dim=1).transpose(1, 2)
    second, router = weights["down"].transpose(1, 2), weights["router"]
    up_bias, down_bias = weights.get("up_bias"), weights.get("down_bias")

    @torch.inference_mode()
    def run(x: Any) -> Any:
        chosen, w = route(layer, router, x)
        flat, order = torch.sort(chosen.flatten(), stable=True)
        ends = torch.bincount(flat, minlength=layer.E).cumsum(0).to(torch.int32)
        tokens = order // layer.K
        h = torch._grouped_mm(x[tokens], first, offs=ends)
        if up_bias is not None:
            h = h + up_bias[flat]
        h = act(h[:, : layer.I]) * h[:, layer.I :] if layer.gated else act(h)
        out = torch._grouped_mm(h, second, offs=ends)
        if down_bias is not None:
            out = out + down_bias[flat]
        y = torch.zeros(x.shape, dtype=torch.float32)
        return y.index_add_(0, tokens, out * w.flatten()[order].unsqueeze(1)).to(x.dtype)

    return run


def compiled(layer: Layer, weights: Mapping[str, Any]) -> Run:
    torch._dynamo.reset()
    return torch.compile(grouped(layer, weights), dynamic=True, mode="max-autotune-no-cudagraphs")


def layered(layer: Layer, weights: Mapping[str, Any], product: Callable[[Any, Any], Callable[[Any], Any]]) -> Run:
    """The layer with products of a kind: `product(matrix, bias)` is made once for each matrix."""

    def linear(name: str) -> Linear:
        biases = weights.get(f"{name}_bias", [None] * layer.E)
        made = [product(matrix.float(), bias) for matrix, bias in zip(weights[name], biases, strict=True)]
        return lambda x, e: made[e](x)

    return loop(layer, weights["router"], linear("up"), linear("gate") if layer.gated else None, linear("down"))


def plus(y: Any, bias: Any) -> Any:
    return y if bias is None else y + bias


def int8_row(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def product(matrix: Any, bias: Any) -> Callable[[Any], Any]:
        codes, scales = map(torch.from_numpy, quantised(matrix.numpy(), 8))
        scales = scales.to(weights["router"].dtype)
        return lambda x: plus(torch._weight_int8pack_mm(x, codes, scales), bias)

    return layered(layer, weights, product)


def int4_32(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def product(matrix: Any, bias: Any) -> Callable[[Any], Any]:
        codes, scales = map(torch.from_numpy, quantised(matrix.numpy(), 4, 32))
        packed = torch._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32) + 8, 1)
        pairs = torch.stack([scales.T, torch.zeros_like(scales.T)], dim=-1).contiguous().to(weights["router"].dtype)
        return lambda x: plus(torch._weight_int4pack_mm_for_cpu(x, packed, 32, pairs), bias)

    return layered(layer, weights, product)


def int8_row_dynamic(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def product(matrix: Any, bias: Any) -> Callable[[Any], Any]:
        codes, scales = map(torch.from_numpy, quantised(matrix.numpy(), 8))
        zeros = torch.zeros(len(scales), dtype=torch.long)
        coded = torch._make_per_channel_quantized_tensor(codes, scales.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(coded, None if bias is None else bias.float())
        return lambda x: torch.ops.quantized.linear_dynamic(x.float(), packed, False).to(x.dtype)

    return layered(layer, weights, product)


def stored(layer: Layer) -> Mapping[str, Callable[[Layer, Mapping[str, Any]], Run]]:
    torch.set_num_threads(layer.threads)
    return {"int4-32": int4_32} if layer.bits == 4 else {"int8-row": int8_row, "int8-row-dynamic": int8_row_dynamic}


def forms(layer: Layer) -> Mapping[str, Callable[[Layer, Mapping[str, Any]], Run]]:
    torch.set_num_threads(layer.threads)
    found = {"eager": eager}
    if torch.backends.mkldnn.is_available() and (layer.dtype == "f32" or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        found["prepacked"] = prepacked
    if hasattr(torch, "_grouped_mm"):
        found["grouped"] = grouped
        if shutil.which("g++") and layer.H * layer.I >= 1 << 16:  # compiling takes a minute
            found["compiled"] = compiled
    return found


def wrap(array: np.ndarray, dtype: str) -> Any:
    return torch.from_numpy(array).view(torch.bfloat16) if array.dtype == np.uint16 else torch.from_numpy(array)


def unwrap(y: Any) -> np.ndarray:
    return y.float().numpy()


def versions() -> dict[str, str]:
    return {"torch": torch.__version__}


if __name__ == "__main__":
    serve(Program(forms, wrap, unwrap, versions, stored))
