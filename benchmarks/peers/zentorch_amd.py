"""AMD's zentorch, an extension of PyTorch for EPYC processors.

`fused`: `zentorch_fused_moe`, the whole of the experts in one call, which packs weights when it first sees them; it does
experts of three matrices. `linear`: one product for each matrix of each expert, with weights packed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import zentorch
from peer import Layer, Program, Run, serve
from pytorch import Linear, loop, route, unwrap, wrap
from pytorch import versions as torch_versions

_OPS = torch.ops.zentorch
#: What the fused operation calls an activation of the gate; its gelu is the one with erf.
_GATES = {"silu": "silu", "gelu": "gelu"}


def fused(layer: Layer, weights: Mapping[str, Any]) -> Run:
    first = torch.cat([weights["gate"], weights["up"]], dim=1)
    second, router, act = weights["down"], weights["router"], _GATES[layer.activation]
    _OPS.zentorch_flush_moe_weight_cache()  # weights are known by their address, which may have been others'
    _OPS.zentorch_clear_weight_cache()

    @torch.inference_mode()
    def run(x: Any) -> Any:
        chosen, w = route(layer, router, x)
        y = torch.empty_like(x)
        _OPS.zentorch_fused_moe(y, x, first, second, None, None, w, chosen.to(torch.int32), False, act)
        return y

    return run


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


def versions() -> dict[str, str]:
    return {**torch_versions(), "zentorch": zentorch.__version__}


if __name__ == "__main__":
    serve(Program(forms, wrap, unwrap, versions))
