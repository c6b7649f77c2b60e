"""More MoE blocks of `transformers`, of architectures that no example describes: the second half of the alphabet.

A row of `BLOCKS` is as in `tests.parity.blocks`, `DIMS` holds the dimensions of its test. Names from `laguna` on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tests.parity.blocks import KEPT_IN_F32, Block, Inputs

if TYPE_CHECKING:
    import torch


def _call_pictures(module: Any, inputs: Inputs) -> torch.Tensor:
    """A batch of pictures of one token each: the kind of a picture chooses the expert."""
    return module(inputs["x"][:, None], inputs["id"])[:, 0]


def _call_with_thought(module: Any, inputs: Inputs) -> torch.Tensor:
    """A block that also reads what the router of the layer before was thinking."""
    return module(inputs["x"][None], inputs["before"][None])[0][0]


def _call_all_experts(module: Any, inputs: Inputs) -> torch.Tensor:
    """The block's router and experts, without its dispatch: in 5.23 that takes the mask of the best for two indices."""
    import torch

    weights = module.router(inputs["x"])[1]
    experts = [module.experts[f"expert_{e}"] for e in range(module.num_experts)]
    outputs = torch.stack([expert(inputs["x"]) for expert in experts], 1)
    return (outputs * weights[..., None]).sum(1) * (1 - module.experts.moe_token_dropout)


_KEPT: Final = (*KEPT_IN_F32, "gate.weight")
_SIZES: Final = {"hidden_size": "H", "num_experts_per_tok": "K"}
_LOCAL: Final = _SIZES | {"intermediate_size": "I", "num_local_experts": "E"}
_NARROW: Final = _SIZES | {"moe_intermediate_size": "I", "num_local_experts": "E"}
_QWEN: Final = _SIZES | {"moe_intermediate_size": "I", "num_experts": "E"}
_SHARED: Final = _QWEN | {"shared_expert_intermediate_size": "S"}
_DEEPSEEK: Final = _SIZES | {"moe_intermediate_size": "I", "n_routed_experts": "E", "n_shared_experts": "S // I"}
_GROUPED: Final = _DEEPSEEK | {"n_group": "G", "topk_group": "KG"}

BLOCKS: Final[dict[str, Block]] = {
    "laguna": Block(
        "LagunaConfig",
        "LagunaSparseMoeBlock",
        _SHARED,
        {"moe_router_logit_softcapping": 30.0, "moe_routed_scaling_factor": 2.5},
    ),
    "lfm2_moe": Block("Lfm2MoeConfig", "Lfm2MoeSparseMoeBlock", _QWEN, kept_in_f32=("expert_bias",)),
    "mellum": Block("MellumConfig", "MellumSparseMoeBlock", _QWEN),
    "mimo_v2_flash": Block(
        "MiMoV2FlashConfig",
        "MiMoV2FlashMoE",
        {key: size for key, size in _GROUPED.items() if key != "n_shared_experts"},
    ),
    "minimax": Block("MiniMaxConfig", "MiniMaxSparseMoeBlock", _LOCAL),
    "minimax_m2": Block("MiniMaxM2Config", "MiniMaxM2SparseMoeBlock", _LOCAL),
    "minimax_m3_vl": Block(
        "MiniMaxM3VLTextConfig", "MiniMaxM3VLSparseMoeBlock", _LOCAL | {"shared_intermediate_size": "S"}
    ),
    "mistral4": Block("Mistral4Config", "Mistral4MoE", _GROUPED),
    "mistral_large4": Block("MistralLarge4TextConfig", "MistralLarge4TextMoE", _GROUPED, kept_in_f32=_KEPT),
    "muse_spark": Block(
        "MuseSparkTextConfig",
        "MuseSparkMoE",
        _NARROW | {"moe_hidden_size": "D"},
        {"routed_scaling_factor": 2.0, "num_attention_heads": 1},
        kept_in_f32=_KEPT,
    ),
    "openai_privacy_filter": Block("OpenAIPrivacyFilterConfig", "OpenAIPrivacyFilterMLP", _LOCAL),
    "qwen3_5_moe": Block("Qwen3_5MoeTextConfig", "Qwen3_5MoeSparseMoeBlock", _SHARED),
    "qwen3_next": Block("Qwen3NextConfig", "Qwen3NextSparseMoeBlock", _SHARED),
    "qwen3_omni_moe": Block("Qwen3OmniMoeTextConfig", "Qwen3OmniMoeThinkerTextSparseMoeBlock", _QWEN),
    "qwen3_omni_moe_talker": Block(
        "Qwen3OmniMoeTalkerTextConfig", "Qwen3OmniMoeTalkerTextSparseMoeBlock", _SHARED, package="qwen3_omni_moe"
    ),
    "qwen3_vl_moe": Block("Qwen3VLMoeTextConfig", "Qwen3VLMoeTextSparseMoeBlock", _QWEN),
    "qwen4_exp": Block("Qwen4ExpTextConfig", "Qwen4ExpTextSparseMoeBlock", _SHARED),
    "solar_open": Block("SolarOpenConfig", "SolarOpenMoE", _GROUPED, {"routed_scaling_factor": 2.5}),
    "step3p7": Block(
        "Step3p7TextConfig",
        "Step3p7SparseMoeBlock",
        _SIZES | {"moe_intermediate_size": "I", "n_routed_experts": "E", "share_expert_dim": "S"},
        {"moe_router_scaling_factor": 3.0, "swiglu_limits": [7.0] * 45, "swiglu_limits_shared": [16.0] * 45},
        arguments=(0,),
    ),
    "unlimited_ocr": Block("UnlimitedOcrTextConfig", "UnlimitedOcrTextMoe", _DEEPSEEK),
    "unlimited_ocr_groups": Block(
        "UnlimitedOcrTextConfig",
        "UnlimitedOcrTextMoe",
        _GROUPED,
        {"topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5},
        package="unlimited_ocr",
    ),
    "vitpose_backbone": Block(
        "VitPoseBackboneConfig",
        "VitPoseBackboneMoeMLP",
        {"hidden_size": "H", "mlp_ratio": "I // H", "num_experts": "E", "part_features": "P"},
        call=_call_pictures,
    ),
    "zaya": Block(
        "ZayaConfig",
        "ZayaSparseMoeBlock",
        {"hidden_size": "H", "moe_intermediate_size": "I", "num_experts": "E", "router_hidden_size": "R"},
        arguments=(1,),
        call=_call_with_thought,
        kept_in_f32=("balancing_biases",),
    ),
}

#: Odd, and no two of a layer alike.
DIMS: Final[dict[str, Mapping[str, int]]] = {
    "laguna": {"H": 45, "I": 21, "S": 35, "E": 11, "K": 3},
    "lfm2_moe": {"H": 41, "I": 27, "E": 9, "K": 4},
    "mellum": {"H": 35, "I": 19, "E": 13, "K": 5},
    "mimo_v2_flash": {"H": 51, "I": 23, "E": 15, "K": 4, "G": 5, "KG": 3},
    "minimax": {"H": 37, "I": 45, "E": 7, "K": 2},
    "minimax_m2": {"H": 43, "I": 25, "E": 17, "K": 6},
    "minimax_m3_vl": {"H": 39, "I": 29, "S": 33, "E": 9, "K": 4},
    "mistral4": {"H": 47, "I": 17, "S": 34, "E": 14, "K": 3, "G": 7, "KG": 2},
    "mistral_large4": {"H": 55, "I": 31, "S": 62, "E": 12, "K": 5, "G": 4, "KG": 3},
    "muse_spark": {"H": 53, "D": 29, "I": 21, "E": 10, "K": 3},
    "openai_privacy_filter": {"H": 33, "I": 23, "E": 13, "K": 4},
    "qwen3_5_moe": {"H": 46, "I": 22, "S": 30, "E": 12, "K": 5},
    "qwen3_next": {"H": 42, "I": 18, "S": 26, "E": 21, "K": 7},
    "qwen3_omni_moe": {"H": 38, "I": 20, "E": 15, "K": 6},
    "qwen3_omni_moe_talker": {"H": 50, "I": 14, "S": 28, "E": 11, "K": 4},
    "qwen3_vl_moe": {"H": 44, "I": 26, "E": 10, "K": 3},
    "qwen4_exp": {"H": 36, "I": 24, "S": 31, "E": 19, "K": 8},
    "solar_open": {"H": 49, "I": 15, "S": 30, "E": 18, "K": 5, "G": 6, "KG": 4},
    "step3p7": {"H": 57, "I": 25, "S": 37, "E": 16, "K": 6},
    "unlimited_ocr": {"H": 40, "I": 19, "S": 38, "E": 13, "K": 6},
    "unlimited_ocr_groups": {"H": 40, "I": 19, "S": 38, "E": 18, "K": 4, "G": 6, "KG": 3},
    "vitpose_backbone": {"H": 30, "I": 90, "P": 13, "E": 7},
    "zaya": {"H": 52, "I": 23, "R": 17, "E": 6},
}

#: What the integers of a layer count.
BELOW: Final[dict[str, Mapping[str, str]]] = {"vitpose_backbone": {"id": "E"}}
