"""AMD's zentorch, an extension of PyTorch for EPYC processors.

`fused`: `zentorch_fused_moe`, all experts of three matrices in one call, which packs weights when it first sees them.
`linear`: one product for each matrix of each expert, with weights packed once.

Quantised, both with activations in 8 bits: `int8-row-fused`, the same call (bf16 only), and `int8-row-dynamic`, one
product for each matrix. `int4-32`: weights of 4 bits beside activations in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import zentorch
from peer import Layer, Program, Run, quantised, serve
from pytorch import Linear, layered, loop, plus, route, unwrap, wrap
from pytorch import versions as torch_versions

_OPS = torch.ops.zentorch
#: What the fused operation calls an activation of the gate; its gelu is the one with erf.
_GATES = {"silu": "silu", "gelu": "gelu"}


def fused(layer: Layer, weights: Mapping[str, Any]) -> Run:
    first = torch.cat([weights["gate"], weights["up"]], dim=1)
    return fused_call(layer, weights["router"], first, weights["down"])


def fused_call(layer: Layer, router: Any, first: Any, second: Any, *scales: Any) -> Run:
    act = _GATES[layer.activation]
    _OPS.zentorch_flush_moe_weight_cache()  # weights are known by their address, which may have been others'
    _OPS.zentorch_clear_weight_cache()

    @torch.inference_mode()
    def run(x: Any) -> Any:
        chosen, w = route(layer, router, x)
        y = torch.empty_like(x)
        _OPS.zentorch_fused_moe(y, x, first, second, None, None, w, chosen.to(torch.int32), False, act, *scales)
        return y

    return run


def fused_int8(layer: Layer, weights: Mapping[str, Any]) -> Run:
    first = torch.cat([weights["gate"], weights["up"]], dim=1)
    (a, first_scales), (b, second_scales) = (quantised(each.float().numpy(), 8) for each in (first, weights["down"]))
    return fused_call(layer, weights["router"], *map(torch.from_numpy, (a, b, first_scales, second_scales)))


def dynamic_int8(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def product(matrix: Any, bias: Any) -> Callable[[Any], Any]:
        codes, scales = map(torch.from_numpy, quantised(matrix.numpy(), 8))
        packed = _OPS.zentorch_weight_prepack_for_dynamic_qlinear(codes)
        return lambda x: plus(_OPS.zentorch_dynamic_qlinear(x, packed, scales, None, is_weight_prepacked=True), bias)

    return layered(layer, weights, product)


def int4_32(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def product(matrix: Any, bias: Any) -> Callable[[Any], Any]:
        codes, scales = map(torch.from_numpy, quantised(matrix.numpy(), 4, 32))
        packed, turned = _OPS.zentorch_woq_repack_weight(codes).t(), scales.T.contiguous()
        return lambda x: plus(_OPS.zentorch_woq_linear(x, packed, turned, None), bias)

    return layered(layer, weights, product)


def linear(layer: Layer, weights: Mapping[str, Any]) -> Run:
    def product(name: str) -> Linear:
        packed = [_OPS.zentorch_weight_prepack_for_linear(matrix) for matrix in weights[name]]
        biases = weights.get(f"{name}_bias")
        return lambda x, e: _OPS.zentorch_linear_unary(
            x, packed[e], None if biases is None else biases[e], is_weight_prepacked=True
        )

    return loop(layer, weights["router"], product("up"), product("gate") if layer.gated else None, product("down"))


def forms(layer: Layer) -> Mapping[str, Any]:
    torch.set_num_threads(layer.threads)
    found = {"fused": fused} if layer.gated and layer.activation in _GATES else {}
    return {**found, "linear": linear}


def stored(layer: Layer) -> Mapping[str, Any]:
    torch.set_num_threads(layer.threads)
    if layer.bits == 4:
        return {"int4-32": int4_32} if layer.dtype == "bf16" else {}
    whole = layer.gated and layer.activation in _GATES and layer.dtype == "bf16"
    return {**({"int8-row-fused": fused_int8} if whole else {}), "int8-row-dynamic": dynamic_int8}


def versions() -> dict[str, str]:
    return {**torch_versions(), "zentorch": zentorch.__version__}


if __name__ == "__main__":
    serve(Program(forms, wrap, unwrap, versions, stored))
