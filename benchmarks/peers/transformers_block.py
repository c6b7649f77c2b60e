"""A whole block of transformers, router and all, with the model's own code for experts; in the forms that it has.

`eager`: the loop over experts in the model's file. `grouped_mm`: one product for all experts over sorted tokens. The
library's `batched_mm` copies every chosen matrix, which takes eight times as long for one token, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from peer import Layer, Program, Run, serve
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

#: By the layer's activation, the library's name for it.
ACTIVATIONS = {"silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def block(implementation: str) -> Callable[[Layer, Mapping[str, Any]], Run]:
    """The block with an implementation of experts."""

    def prepare(layer: Layer, weights: Mapping[str, Any]) -> Run:
        config = transformers.Qwen3MoeConfig(
            hidden_size=layer.H,
            moe_intermediate_size=layer.I,
            num_experts=layer.E,
            num_experts_per_tok=layer.K,
            norm_topk_prob=layer.normalised,
            hidden_act=ACTIVATIONS[layer.activation],
        )
        config._experts_implementation = implementation
        with torch.device("meta"):
            made = Qwen3MoeSparseMoeBlock(config).eval()
        tensors = {
            "gate.weight": weights["router"],
            "experts.gate_up_proj": torch.cat([weights["gate"], weights["up"]], dim=1),
            "experts.down_proj": weights["down"],
        }
        made.load_state_dict(tensors, assign=True)

        @torch.inference_mode()
        def run(x: Any) -> Any:
            return made(x[None])[0]

        return run

    return prepare


def forms(layer: Layer) -> Mapping[str, Callable[[Layer, Mapping[str, Any]], Run]]:
    torch.set_num_threads(layer.threads)
    return {name: block(name) for name in ("eager", "grouped_mm")} if layer.gated else {}


def wrap(array: np.ndarray, dtype: str) -> Any:
    return torch.from_numpy(array).view(torch.bfloat16) if array.dtype == np.uint16 else torch.from_numpy(array)


def unwrap(y: Any) -> np.ndarray:
    return y.float().numpy()


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": transformers.__version__}


if __name__ == "__main__":
    serve(Program(forms, wrap, unwrap, versions))
