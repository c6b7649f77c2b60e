"""A tiny random model of every architecture of transformers that has experts, from its own configuration class.

Nothing here knows an architecture: a configuration's integers are made small by what their names mean. `SETTINGS` helps
where that is not enough.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import nn

from moec.integrations.transformers.experts import is_experts

MODELS: Final = Path(transformers.__file__).parent / "models"

#: What says that a modeling file has experts: those that go through the registry of backends, and those that do not.
_MARKS: Final = ("use_experts_implementation", "Experts(nn.Module", "Experts(nn.ModuleDict", "MoE(nn.Module", "MoeMLP")

#: By the name of an integer of a configuration, whole; the first that fits. Heads of 8, hidden vectors of 32.
_SIZES: Final[tuple[tuple[str, int], ...]] = (
    (r"vocab_size|.*_vocab_size|vocab_size_.*", 96),
    (r"(pad|bos|eos)_token_id", 1),
    (r"(num_hidden_layers|num_layers|n_layers?|depth|.*(encoder|decoder)_layers|num_(encoder|decoder)_layers)", 2),
    (r"num_nextn_predict_layers|num_mtp_layers|mtp_.*layers", 0),
    (r"(first_k_dense_replace|num_dense_layers|moe_layer_start_index|num_first_dense.*)", 0),
    (
        r"(decoder_sparse_step|encoder_sparse_step|moe_layer_interval|moe_layer_freq|expert_layer_period|interleave_.*)",
        1,
    ),
    (r"expert_layer_offset", 0),
    (r"(n_group|num_expert_group)", 2),
    (r"topk_group", 1),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts)", 6),
    (r"(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k|top_k_experts|moe_top_k)", 2),
    (r"(n_shared_experts|num_shared_experts|moe_num_shared_experts)", 1),
    (r"(num_attention_heads|n_heads?|.*_attention_heads|num_heads|index_n_heads)", 4),
    (r"(num_key_value_heads|kv_n_heads|.*_key_value_heads)", 4),
    (r"(head_dim|qk_nope_head_dim|v_head_dim|.*_head_dim|kv_channels)", 8),
    (r"qk_rope_head_dim", 8),
    (r"(q_lora_rank|kv_lora_rank|.*_lora_rank|.*_rank)", 16),
    (
        r"(moe_intermediate_size|.*intermediate_size.*|.*ffn_hidden_size|.*mlp_dim|ffn_dim|.*ffn_dim|d_ff|share_expert_dim)",
        24,
    ),
    (r"(hidden_size|d_model|n_embd|dim|embed_dim|.*hidden_size|model_dim)", 32),
    (r"(max_position_embeddings|sliding_window|max_seq_len)", 128),
)

#: A size that may be None, where a layer has no experts by default.
_OF_EXPERTS: Final = re.compile("expert|moe_|top_k")

#: What an architecture's configuration needs besides, or what its own code cannot do without.
SETTINGS: Final[dict[str, Mapping[str, Any]]] = {
    "gemma4": {"enable_moe_block": True, "hidden_size_per_layer_input": 0},
    "deepseek_ocr2": {"mlp_layer_types": ["dense", "sparse"]},
    "ernie4_5_vl_moe": {"hidden_size": 512, "moe_intermediate_size": [24, 16]},
    "flint": {"mlp_only_layers": []},
    "glm5_next": {"text_config": {"qk_rope_head_dim": 0}},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mistral4": {"head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
    "glm4v_moe": {"text_config": {"head_dim": 128}},
}


def architectures() -> list[str]:
    """The packages whose models have experts."""
    names = [module.name for module in pkgutil.iter_modules([str(MODELS)]) if module.ispkg]
    return [name for name in names if any(mark in text for text in _texts(name) for mark in _MARKS)]


def _texts(name: str) -> Iterator[str]:
    for path in (MODELS / name).glob("modeling_*.py"):
        if not path.stem.startswith(("modeling_tf", "modeling_flax")):
            yield path.read_text(encoding="utf-8")


def shrink(config: Any, settings: Mapping[str, Any], ends: bool) -> Any:
    """A configuration of the same class with small sizes, and `settings`. What lists a value for each layer keeps the
    first and the last where `ends`, else it is made anew."""
    layers = getattr(config, "num_hidden_layers", None)
    small: dict[str, Any] = {}
    for key, value in vars(config).items():
        if isinstance(value, transformers.PretrainedConfig):
            small[key] = shrink(value, settings.get(key, {}), ends)
        elif isinstance(value, bool) or key.startswith("_"):
            continue
        elif isinstance(value, int) or (value is None and _OF_EXPERTS.search(key)):
            small.update((key, size) for name, size in _SIZES if re.fullmatch(name, key))
        elif isinstance(value, list) and layers and len(value) == layers:
            small[key] = [value[0], value[-1]] if ends else None
        if key in settings and not isinstance(settings[key], dict):
            small[key] = settings[key]
    return type(config)(**small, **{key: value for key, value in settings.items() if key not in small})


@torch.no_grad()
def build(name: str) -> nn.Module:
    """A tiny model of an architecture, in f32, that runs. Raises `LookupError` with every reason against."""
    modeling = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    classes = [value for key, value in vars(modeling).items() if _is_model(key, value, modeling.__name__)]
    order = ("ForCausalLM", "ForConditionalGeneration", "Model", "")
    classes.sort(key=lambda cls: next(i for i, end in enumerate(order) if cls.__name__.endswith(end)))
    reasons: list[str] = []
    for cls, ends in ((cls, ends) for cls in classes for ends in (True, False)):
        try:
            torch.manual_seed(0)
            config = shrink(cls.config_class(), SETTINGS.get(name, {}), ends)
            config._experts_implementation = "eager"
            config._attn_implementation = "eager"
            model = cls(config).eval()
            if any(is_experts(module) for module in model.modules()):
                model(input_ids=torch.tensor([[5, 7, 11]]), use_cache=False)
                return model
            reasons.append(f"{cls.__name__}: no experts in it")
        except Exception as error:
            reasons.append(f"{cls.__name__}: {type(error).__name__}: {' '.join(str(error).split())[:250]}")
    raise LookupError("; ".join(reasons))


def _is_model(key: str, value: Any, module: str) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, transformers.PreTrainedModel)
        and value.__module__ == module
        and not key.endswith("PreTrainedModel")
        and value.config_class is not None
    )
