"""The MoE blocks of `transformers` that files of `moec/integrations/transformers/layers` describe, not examples.

A row of `BLOCKS` is as in `tests.parity.blocks`, `DIMS` holds the dimensions of its test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tests.parity.blocks import KEPT_IN_F32, Block, Inputs

if TYPE_CHECKING:
    import torch


def _drop_attention(layer: Any) -> None:
    """Leaves of a decoder layer its feed-forward half: attention adds zero to the residual stream."""
    import torch

    class Nothing(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
            return torch.zeros_like(hidden_states), None

    layer.self_attn = Nothing()


def _call_queries(module: Any, inputs: Inputs) -> torch.Tensor:
    """The queries of a mixture of attention heads: [T, K, D]."""
    return module.map(inputs["x"][None])[0][0]


def _call_heads(module: Any, inputs: Inputs) -> torch.Tensor:
    """What a mixture of attention heads makes of its heads, where another call has chosen them."""
    import torch

    heads, chosen, gates = inputs["heads"], inputs["chosen"].flatten(), inputs["gates"].flatten()
    order = chosen.sort(stable=True).indices
    rows = order // module.top_k
    counts = torch.bincount(chosen, minlength=module.num_experts).tolist()
    return module.reduce(heads[None], (order, rows, gates[order], counts))[0]


def _expand_layers(config: Callable[..., Any], **settings: Any) -> Any:
    """An encoder whose one layer is sparse."""
    return config(num_hidden_layers=1, mlp_layer_types=["sparse"], num_attention_heads=1, adapter_in_dim=44, **settings)


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
_EXPERTS: Final = _SIZES | {"moe_intermediate_size": "I", "num_experts": "E"}
_ROUTED: Final = _SIZES | {"moe_intermediate_size": "I", "n_routed_experts": "E"}
_GROUPS: Final = {"n_group": "G", "topk_group": "KG"}
_GATED: Final = _EXPERTS | {"shared_expert_intermediate_size": "S"}
_NARROW: Final = _SIZES | {"moe_intermediate_size": "I", "num_local_experts": "E"}
_SHARED: Final = {"n_shared_experts": "S // I"}
_GRANITE: Final = _LOCAL | {"shared_intermediate_size": "S"}
_HEADS: Final = {"hidden_size": "H", "kv_channels": "D", "num_local_experts": "E", "num_experts_per_tok": "K"}

BLOCKS: Final[dict[str, Block]] = {
    "afmoe": Block(
        "AfmoeConfig",
        "AfmoeSparseMoeBlock",
        _EXPERTS | {"num_shared_experts": "S // I"},
        {"route_scale": 2.826},
        kept_in_f32=("expert_bias",),
    ),
    "aria": Block(
        "AriaTextConfig",
        "AriaTextMoELayer",
        {
            "hidden_size": "H",
            "intermediate_size": "I",
            "moe_num_experts": "E",
            "moe_topk": "K",
            "moe_num_shared_experts": "S // I",
        },
        {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8},
    ),
    "axk1": Block("AXK1Config", "AXK1MoE", _ROUTED | _GROUPS),
    "axk2": Block("AXK2Config", "AXK2MoE", _ROUTED | _GROUPS),
    "bailing_hybrid": Block(
        "BailingHybridConfig",
        "BailingHybridMoE",
        _NARROW | _GROUPS,
    ),
    "beam": Block("BeamConfig", "BeamMoE", _EXPERTS | _GROUPS, kept_in_f32=_KEPT),
    "cohere2_moe": Block(
        "Cohere2MoeConfig",
        "Cohere2MoeSparseMoeBlock",
        _SIZES | {"intermediate_size": "I", "num_experts": "E", "num_shared_experts": "S // I"},
    ),
    "cohere2_moe_sigmoid": Block(
        "Cohere2MoeConfig",
        "Cohere2MoeSparseMoeBlock",
        _SIZES | {"intermediate_size": "I", "num_experts": "E"},
        {"expert_selection_fn": "sigmoid"},
        package="cohere2_moe",
    ),
    "diffusion_gemma": Block(
        "DiffusionGemmaTextConfig",
        "DiffusionGemmaDecoderTextLayer",
        {
            "hidden_size": "H",
            "intermediate_size": "S",
            "moe_intermediate_size": "I",
            "num_experts": "E",
            "top_k_experts": "K",
        },
        arguments=(0,),
        prepare=_drop_attention,
    ),
    "dots1": Block(
        "Dots1Config", "Dots1MoE", _ROUTED | _SHARED, {"norm_topk_prob": True, "routed_scaling_factor": 2.5}
    ),
    "dots3_note": Block("Dots3NoteTextConfig", "Dots3NoteTextMoE", _ROUTED | {"shared_experts_intermediate_size": "S"}),
    "dots3_note_vision": Block(
        "Dots3NoteVisionConfig",
        "Dots3NoteVisionMoE",
        _NARROW,
        arguments=(0,),
        configure=_expand_layers,
        package="dots3_note",
    ),
    "ernie4_5_moe": Block(
        "Ernie4_5_MoeConfig",
        "Ernie4_5_MoeSparseMoeBlock",
        {
            "hidden_size": "H",
            "moe_intermediate_size": "I",
            "moe_num_experts": "E",
            "moe_k": "K",
            "moe_num_shared_experts": "S // I",
        },
        kept_in_f32=_KEPT,
    ),
    "exaone_moe": Block("ExaoneMoeConfig", "ExaoneMoeSparseMoEBlock", _EXPERTS),
    "flex_olmo": Block(
        "FlexOlmoConfig", "FlexOlmoSparseMoeBlock", _SIZES | {"intermediate_size": "I", "num_experts": "E"}
    ),
    "flint": Block("FlintConfig", "FlintSparseMoeBlock", _GATED, kept_in_f32=_KEPT),
    "glm4_moe": Block("Glm4MoeConfig", "Glm4MoeMoE", _ROUTED),
    "glm5_next": Block("Glm5NextTextConfig", "Glm5NextTextMoE", _ROUTED),
    "glm_moe_dsa": Block("GlmMoeDsaConfig", "GlmMoeDsaMoE", _ROUTED),
    "granitemoe": Block("GraniteMoeConfig", "GraniteMoeMoE", _LOCAL),
    "granitemoe_swa": Block(
        "GraniteMoeSWAConfig",
        "GraniteMoeSWADecoderLayer",
        _GRANITE,
        {"residual_multiplier": 0.22},
        arguments=(0,),
        prepare=_drop_attention,
    ),
    "granitemoeshared": Block(
        "GraniteMoeSharedConfig",
        "GraniteMoeSharedDecoderLayer",
        _GRANITE,
        {"residual_multiplier": 0.22},
        arguments=(0,),
        prepare=_drop_attention,
    ),
    "hunyuan_v1_moe": Block(
        "HunYuanMoEV1Config",
        "HunYuanMoEV1Moe",
        {"hidden_size": "H", "intermediate_size": "I", "num_experts": "E", "moe_topk": "K"},
        arguments=(0,),
        kept_in_f32=("wg.weight",),
    ),
    "hy_v3": Block("HYV3Config", "HYV3MoE", _EXPERTS),
    "hy_v4": Block("HYV4Config", "HYV4MoE", _ROUTED),
    "inkling": Block(
        "InklingTextConfig",
        "InklingMoE",
        _ROUTED | {"n_shared_experts": "N"},
        kept_in_f32=(*KEPT_IN_F32, "global_scale"),
    ),
    "inkling2": Block("Inkling2TextConfig", "Inkling2SparseMoeBlock", _ROUTED, kept_in_f32=_KEPT),
    "jamba": Block("JambaConfig", "JambaSparseMoeBlock", _SIZES | {"intermediate_size": "I", "num_experts": "E"}),
    "jetmoe": Block("JetMoeConfig", "JetMoeMoE", _LOCAL),
    "jetmoe_queries": Block(
        "JetMoeConfig", "JetMoeMoA", _HEADS, {"num_key_value_heads": 1}, call=_call_queries, package="jetmoe"
    ),
    "jetmoe_heads": Block(
        "JetMoeConfig", "JetMoeMoA", _HEADS, {"num_key_value_heads": 1}, call=_call_heads, package="jetmoe"
    ),
    "kimi_linear": Block("KimiLinearConfig", "KimiLinearMoE", _NARROW),
    "kolibri1": Block("Kolibri1Config", "Kolibri1SparseMoeBlock", _GATED),
    "laguna": Block(
        "LagunaConfig",
        "LagunaSparseMoeBlock",
        _GATED,
        {"moe_router_logit_softcapping": 30.0, "moe_routed_scaling_factor": 2.5},
    ),
    "lfm2_moe": Block("Lfm2MoeConfig", "Lfm2MoeSparseMoeBlock", _EXPERTS, kept_in_f32=("expert_bias",)),
    "mellum": Block("MellumConfig", "MellumSparseMoeBlock", _EXPERTS),
    "mimo_v2_flash": Block(
        "MiMoV2FlashConfig",
        "MiMoV2FlashMoE",
        _ROUTED | _GROUPS,
    ),
    "minimax": Block("MiniMaxConfig", "MiniMaxSparseMoeBlock", _LOCAL),
    "minimax_m2": Block("MiniMaxM2Config", "MiniMaxM2SparseMoeBlock", _LOCAL),
    "minimax_m3_vl": Block(
        "MiniMaxM3VLTextConfig", "MiniMaxM3VLSparseMoeBlock", _LOCAL | {"shared_intermediate_size": "S"}
    ),
    "mistral4": Block("Mistral4Config", "Mistral4MoE", _ROUTED | _SHARED | _GROUPS),
    "mistral_large4": Block(
        "MistralLarge4TextConfig", "MistralLarge4TextMoE", _ROUTED | _SHARED | _GROUPS, kept_in_f32=_KEPT
    ),
    "muse_spark": Block(
        "MuseSparkTextConfig",
        "MuseSparkMoE",
        _NARROW | {"moe_hidden_size": "D"},
        {"routed_scaling_factor": 2.0, "num_attention_heads": 1},
        kept_in_f32=_KEPT,
    ),
    "openai_privacy_filter": Block("OpenAIPrivacyFilterConfig", "OpenAIPrivacyFilterMLP", _LOCAL),
    "qwen3_5_moe": Block("Qwen3_5MoeTextConfig", "Qwen3_5MoeSparseMoeBlock", _GATED),
    "qwen3_next": Block("Qwen3NextConfig", "Qwen3NextSparseMoeBlock", _GATED),
    "qwen3_omni_moe": Block("Qwen3OmniMoeTextConfig", "Qwen3OmniMoeThinkerTextSparseMoeBlock", _EXPERTS),
    "qwen3_omni_moe_talker": Block(
        "Qwen3OmniMoeTalkerTextConfig", "Qwen3OmniMoeTalkerTextSparseMoeBlock", _GATED, package="qwen3_omni_moe"
    ),
    "qwen3_vl_moe": Block("Qwen3VLMoeTextConfig", "Qwen3VLMoeTextSparseMoeBlock", _EXPERTS),
    "qwen4_exp": Block("Qwen4ExpTextConfig", "Qwen4ExpTextSparseMoeBlock", _GATED),
    "solar_open": Block("SolarOpenConfig", "SolarOpenMoE", _ROUTED | _SHARED | _GROUPS, {"routed_scaling_factor": 2.5}),
    "step3p7": Block(
        "Step3p7TextConfig",
        "Step3p7SparseMoeBlock",
        _SIZES | {"moe_intermediate_size": "I", "n_routed_experts": "E", "share_expert_dim": "S"},
        {"moe_router_scaling_factor": 3.0, "swiglu_limits": [7.0] * 45, "swiglu_limits_shared": [16.0] * 45},
        arguments=(0,),
    ),
    "unlimited_ocr": Block("UnlimitedOcrTextConfig", "UnlimitedOcrTextMoe", _ROUTED | _SHARED),
    "unlimited_ocr_groups": Block(
        "UnlimitedOcrTextConfig",
        "UnlimitedOcrTextMoe",
        _ROUTED | _SHARED | _GROUPS,
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
    "afmoe": {"H": 45, "I": 19, "S": 38, "E": 11, "K": 3},
    "aria": {"H": 37, "I": 21, "S": 42, "E": 7, "K": 2},
    "axk1": {"H": 43, "I": 17, "E": 15, "K": 4, "G": 5, "KG": 3},
    "axk2": {"H": 41, "I": 23, "S": 23, "E": 18, "K": 3, "G": 6, "KG": 4},
    "bailing_hybrid": {"H": 51, "I": 29, "S": 29, "E": 21, "K": 5, "G": 7, "KG": 4},
    "beam": {"H": 39, "I": 27, "E": 12, "K": 5, "G": 3, "KG": 2},
    "cohere2_moe": {"H": 47, "I": 13, "S": 39, "E": 9, "K": 2},
    "cohere2_moe_sigmoid": {"H": 35, "I": 25, "E": 9, "K": 4},
    "diffusion_gemma": {"H": 46, "I": 15, "S": 53, "E": 13, "K": 3},
    "dots1": {"H": 33, "I": 31, "S": 62, "E": 14, "K": 6},
    "dots3_note": {"H": 49, "I": 18, "S": 37, "E": 17, "K": 5},
    "dots3_note_vision": {"H": 44, "I": 27, "E": 9, "K": 2},
    "ernie4_5_moe": {"H": 55, "I": 11, "S": 33, "E": 10, "K": 6},
    "exaone_moe": {"H": 34, "I": 21, "S": 21, "E": 16, "K": 7},
    "flex_olmo": {"H": 59, "I": 26, "E": 7, "K": 5},
    "flint": {"H": 42, "I": 17, "S": 35, "E": 19, "K": 6},
    "glm4_moe": {"H": 57, "I": 23, "S": 23, "E": 13, "K": 8},
    "glm5_next": {"H": 38, "I": 33, "S": 33, "E": 12, "K": 5},
    "glm_moe_dsa": {"H": 61, "I": 14, "S": 14, "E": 20, "K": 8},
    "granitemoe": {"H": 53, "I": 29, "E": 8, "K": 3},
    "granitemoe_swa": {"H": 48, "I": 19, "S": 31, "E": 11, "K": 4},
    "granitemoeshared": {"H": 40, "I": 22, "S": 27, "E": 9, "K": 2},
    "hunyuan_v1_moe": {"H": 45, "I": 26, "E": 12, "K": 1},
    "hy_v3": {"H": 50, "I": 15, "S": 15, "E": 22, "K": 8},
    "hy_v4": {"H": 63, "I": 25, "S": 25, "E": 15, "K": 4},
    "inkling": {"H": 47, "I": 20, "E": 13, "N": 3, "K": 5},
    "inkling2": {"H": 36, "I": 28, "E": 18, "K": 7},
    "jamba": {"H": 41, "I": 35, "E": 6, "K": 2},
    "jetmoe": {"H": 44, "I": 37, "E": 5, "K": 3},
    "jetmoe_queries": {"H": 45, "D": 26, "E": 7, "K": 3},
    "jetmoe_heads": {"H": 45, "D": 26, "E": 7, "K": 3},
    "kimi_linear": {"H": 52, "I": 21, "S": 21, "E": 16, "K": 6},
    "kolibri1": {"H": 58, "I": 16, "S": 25, "E": 23, "K": 6},
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

#: What the integers of a layer count, as in `tests.examples`.
BELOW: Final[dict[str, Mapping[str, str]]] = {"jetmoe_heads": {"chosen": "E"}, "vitpose_backbone": {"id": "E"}}
