"""Checkpoints as models publish them: what `save_pretrained` writes, fp8 in blocks, mxfp4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

import moec
from moec.formats.origins import ORIGINS
from tests.examples import EXAMPLES

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
}
QWEN = {**SIZES, "num_experts": 12, "decoder_sparse_step": 1}
MODELS: dict[str, tuple[str, dict[str, Any], str, dict[str, int]]] = {
    "olmoe": ("OlmoeConfig", {**SIZES, "num_experts": 12}, "mlp", {}),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 6}, "block_sparse_moe", {}),
    "qwen2_moe": ("Qwen2MoeConfig", {**QWEN, "shared_expert_intermediate_size": 48}, "mlp", {"S": 48}),
    "qwen3_moe": ("Qwen3MoeConfig", {**QWEN, "head_dim": 16, "norm_topk_prob": True}, "mlp", {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_was_saved_is_the_model(tmp_path: Path, name: str) -> None:
    """A bind that is called `safetensors` has the names that transformers writes."""
    kind, sizes, block, dims = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**sizes)
    config.num_experts_per_tok = {"mixtral": 2, "olmoe": 8, "qwen2_moe": 4, "qwen3_moe": 8}[name]
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    kernel, weights = moec.load(EXAMPLES / f"{name}.moe", tmp_path, f"model.layers.1.{block}", threads=1)
    assert {**kernel.dims, **dims, "H": 64, "I": 96} == kernel.dims
    x = torch.randn(9, 64)
    with torch.no_grad():
        wanted = model.model.layers[1].mlp(x[None])
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    torch.testing.assert_close(kernel(x, weights), wanted[0], rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))


def random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32) / shape[-1] ** 0.5


def agrees(kernel: Any, weights: Any, dense: dict[str, Any]) -> None:
    plain = moec.compile(EXAMPLES / f"{kernel.name}.moe", dims=dict(kernel.dims), threads=1)
    x = random(5, kernel.dims["H"]) * 8
    wanted = plain(x, plain.pack(dense))
    np.testing.assert_allclose(kernel(x, weights), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_deepseek_v3_in_fp8(tmp_path: Path) -> None:
    H, I, E = 192, 160, 16  # noqa: E741
    shapes = {"gate": (E, I, H), "up": (E, I, H), "down": (E, H, I)}
    shapes |= {f"shared_{name}": shape[1:] for name, shape in shapes.items()}
    tensors = {"gate.weight": random(E, H), "gate.e_score_correction_bias": np.arange(E, dtype=np.float32) / 99}
    dense = {"router": tensors["gate.weight"], "bias": tensors["gate.e_score_correction_bias"]}
    for name, shape in shapes.items():
        parts = []
        for expert in range(shape[0] if len(shape) == 3 else 1):
            codes = (8 * random(*shape[-2:])).astype(ml_dtypes.float8_e4m3fn)
            scale = np.random.default_rng(expert).random((-(-shape[-2] // 128), -(-shape[-1] // 128)), np.float32)
            shared = name.startswith("shared")
            place = f"shared_experts.{name[7:]}" if shared else f"experts.{expert}.{name}"
            tensors |= {f"{place}_proj.weight": codes, f"{place}_proj.weight_scale_inv": scale}
            parts.append(ORIGINS["fp8_block"].open({"codes": codes, "scales": scale}).decode())
        dense[name] = np.stack(parts) if len(shape) == 3 else parts[0]
    save_file({f"model.layers.3.mlp.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "m.safetensors")
    kernel, weights = moec.load(EXAMPLES / "deepseek_v3.moe", tmp_path, "model.layers.3.mlp", threads=1)
    assert weights.formats == dict.fromkeys(shapes, "fp8_block")
    agrees(kernel, weights, dense)


def test_gpt_oss_in_mxfp4(tmp_path: Path) -> None:
    H, I, E = 64, 96, 5  # noqa: E741
    rng = np.random.default_rng(1)
    tensors = {"router.weight": random(E, H), "router.bias": random(E)}
    for name, (n, k) in {"gate_up_proj": (2 * I, H), "down_proj": (H, I)}.items():
        tensors[f"experts.{name}_blocks"] = rng.integers(0, 256, (E, n, k // 32, 16), np.uint8)
        tensors[f"experts.{name}_scales"] = rng.integers(120, 125, (E, n, k // 32), np.uint8)
        tensors[f"experts.{name}_bias"] = random(E, n)
    both, down = (
        ORIGINS["mxfp4"].open({part: tensors[f"experts.{name}_{suffix}"] for part, suffix in PARTS.items()}).decode()
        for name in ("gate_up_proj", "down_proj")
    )
    bias = tensors["experts.gate_up_proj_bias"]
    dense = {"router": tensors["router.weight"], "router_bias": tensors["router.bias"], "down": down}
    dense |= {"gate": both[:, 0::2], "up": both[:, 1::2], "gate_bias": bias[:, 0::2], "up_bias": bias[:, 1::2]}
    dense["down_bias"] = tensors["experts.down_proj_bias"]
    save_file({f"model.layers.0.mlp.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "m.safetensors")
    kernel, weights = moec.load(EXAMPLES / "gpt_oss.moe", tmp_path, "model.layers.0.mlp.", threads=1)
    assert weights.formats == dict.fromkeys(("gate", "up", "down"), "mxfp4") and kernel.dims["I"] == I
    agrees(kernel, weights, dense)


PARTS = {"codes": "blocks", "scales": "scales"}
