"""The MoE blocks of `transformers`, each small and random: the other side of a comparison with `examples/`.

A row says which configuration and module hold a block, and which formula over the dimensions of the `.moe` file each
of its sizes is. Only the functions import torch and transformers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np

from tests.examples import Array, deviation, distinct

if TYPE_CHECKING:
    import torch

Dims = Mapping[str, int]
Inputs = Mapping[str, "torch.Tensor"]

#: State that the models keep in f32 whatever their dtype.
KEPT_IN_F32: Final = ("e_score_correction_bias", "classifier.weight")


def _call(module: Any, inputs: Inputs) -> torch.Tensor:
    """A block that reads [batch, tokens, H], and returns the like or a tuple that begins with it."""
    y = module(inputs["x"][None])
    return (y[0] if isinstance(y, tuple) else y).reshape(inputs["x"].shape)


def _call_with_id(module: Any, inputs: Inputs) -> torch.Tensor:
    return module(inputs["x"][None], inputs["id"][None])[0]


def _call_each(module: Any, inputs: Inputs) -> torch.Tensor:
    """Token by token, for a block that mixes the scores of the tokens of one call."""
    import torch

    return torch.cat([_call(module, {"x": x[None]}) for x in inputs["x"]])


def _drop_attention(layer: Any) -> None:
    """Leaves of a decoder layer its feed-forward half: attention adds zero to the residual stream."""
    import torch

    class Nothing(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
            return torch.zeros_like(hidden_states), None

    layer.self_attn = Nothing()
    layer.layer_scalar.fill_(1)


def _make_rivals(module: Any) -> None:
    """Brings the scores of the experts so near to each other that some share a weight, and some do not."""
    weight = module.router.weight
    weight.copy_(weight[:1] * 4 + weight * 0.05)


@dataclass(frozen=True)
class Block:
    """Where a block lives, how it is made and how it is called. `package` is the row's name unless it is given."""

    config: str
    module: str
    sizes: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    arguments: tuple[Any, ...] = ()
    configure: Callable[..., Any] = lambda config, **settings: config(**settings)
    prepare: Callable[[Any], None] = lambda module: None
    call: Callable[[Any, Inputs], Any] = _call
    package: str = ""
    kept_in_f32: tuple[str, ...] = KEPT_IN_F32


_SIZES: Final = {"hidden_size": "H", "num_experts_per_tok": "K"}
_LOCAL: Final = _SIZES | {"intermediate_size": "I", "num_local_experts": "E"}
_QWEN: Final = _SIZES | {"moe_intermediate_size": "I", "num_experts": "E"}
_DEEPSEEK: Final = _SIZES | {"moe_intermediate_size": "I", "n_routed_experts": "E"}
_GROUPED: Final = _DEEPSEEK | {"n_group": "G", "topk_group": "KG"}

#: The block of each architecture that has an example, by the example's name, which is the name of its package, too.
BLOCKS: Final[dict[str, Block]] = {
    "mixtral": Block("MixtralConfig", "MixtralSparseMoeBlock", _LOCAL),
    "olmoe": Block("OlmoeConfig", "OlmoeSparseMoeBlock", _SIZES | {"intermediate_size": "I", "num_experts": "E"}),
    "qwen3_moe": Block("Qwen3MoeConfig", "Qwen3MoeSparseMoeBlock", _QWEN, {"norm_topk_prob": True}),
    "qwen2_moe": Block("Qwen2MoeConfig", "Qwen2MoeSparseMoeBlock", _QWEN | {"shared_expert_intermediate_size": "S"}),
    "deepseek_v2": Block(
        "DeepseekV2Config",
        "DeepseekV2Moe",
        _GROUPED | {"n_shared_experts": "S // I"},
        {"topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0, "num_attention_heads": 1},
    ),
    "deepseek_v3": Block("DeepseekV3Config", "DeepseekV3MoE", _GROUPED),
    "gpt_oss": Block("GptOssConfig", "GptOssMLP", _LOCAL),
    "llama4": Block("Llama4TextConfig", "Llama4TextMoe", _LOCAL),
    "dbrx": Block(
        "DbrxConfig",
        "DbrxFFN",
        {"hidden_size": "H", "ffn_hidden_size": "I", "moe_num_experts": "E", "moe_top_k": "K"},
        configure=lambda config, hidden_size, **ffn: config(d_model=hidden_size, ffn_config=ffn),
    ),
    "phimoe": Block(
        "PhimoeConfig", "PhimoeSparseMoeBlock", _LOCAL | {"num_experts_per_tok": "2"}, prepare=_make_rivals
    ),
    "longcat_flash": Block(
        "LongcatFlashConfig",
        "LongcatFlashMoE",
        {
            "hidden_size": "H",
            "expert_ffn_hidden_size": "I",
            "n_routed_experts": "E",
            "zero_expert_num": "Z",
            "moe_topk": "K",
        },
    ),
    "nemotron_h": Block(
        "NemotronHConfig",
        "NemotronHMoE",
        _DEEPSEEK | {"moe_shared_expert_intermediate_size": "S"},
        {"routed_scaling_factor": 2.5},
    ),
    "deepseek_v4": Block(
        "DeepseekV4Config",
        "DeepseekV4SparseMoeBlock",
        _DEEPSEEK | {"vocab_size": "V"},
        arguments=(0,),
        call=_call_with_id,
    ),
    "gemma4": Block(
        "Gemma4TextConfig",
        "Gemma4TextDecoderLayer",
        {
            "hidden_size": "H",
            "intermediate_size": "S",
            "moe_intermediate_size": "I",
            "num_experts": "E",
            "top_k_experts": "K",
        },
        {"enable_moe_block": True, "hidden_size_per_layer_input": 0},
        arguments=(0,),
        prepare=_drop_attention,
    ),
    "doge": Block(
        "DogeConfig",
        "DogeCDMoE",
        {"hidden_size": "H", "intermediate_size": "I", "num_experts": "M * M", "num_experts_per_tok": "K"},
        call=_call_each,
    ),
    "switch_transformers": Block(
        "SwitchTransformersConfig",
        "SwitchTransformersSparseMLP",
        {"d_model": "H", "d_ff": "I", "num_experts": "E", "expert_capacity": "C"},
        {"dropout_rate": 0.0},
    ),
}


def _import(part: str, name: str, block: Block) -> Any:
    package = block.package or name
    return importlib.import_module(f"transformers.models.{package}.{part}_{package}")


def configure(name: str, dims: Dims, blocks: Mapping[str, Block] = BLOCKS) -> Any:
    """The configuration of a block."""
    block = blocks[name]
    sizes = {key: eval(formula, {}, dict(dims)) for key, formula in block.sizes.items()}
    config = block.configure(getattr(_import("configuration", name, block), block.config), **sizes, **block.settings)
    config._experts_implementation = "eager"
    config._attn_implementation = "eager"
    return config


def build(name: str, dims: Dims, seed: int = 0, real: str = "f32", blocks: Mapping[str, Block] = BLOCKS) -> Any:
    """A block with random weights, ready for inference. `real` is the model's precision."""
    import torch

    block = blocks[name]
    module, settings = getattr(_import("modeling", name, block), block.module), configure(name, dims, blocks)
    rng = np.random.default_rng(seed)
    with torch.inference_mode():
        result = module(settings, *block.arguments).eval()
        for tensor in result.state_dict().values():
            extents = tuple(tensor.shape)
            integral = not tensor.is_floating_point()
            numbers = (
                distinct(extents, dims["E"], rng) if integral else rng.standard_normal(extents) * deviation(extents)
            )
            tensor.copy_(torch.from_numpy(numbers))
        block.prepare(result)
        if real != "f32":
            for key, tensor in [*result.named_parameters(), *result.named_buffers()]:
                if tensor.is_floating_point() and not key.endswith(block.kept_in_f32):
                    tensor.data = tensor.data.to(getattr(torch, {"bf16": "bfloat16", "f16": "float16"}[real]))
    return result


def run(name: str, module: Any, inputs: Mapping[str, Array], blocks: Mapping[str, Block] = BLOCKS) -> Array:
    """What the block makes of a batch: [T, H] in its own precision."""
    import torch

    with torch.inference_mode():
        return array(blocks[name].call(module, {key: tensor(value) for key, value in inputs.items()}))


def state(module: Any) -> dict[str, Array]:
    """A block's weights by name, as a checkpoint holds them."""
    return {key: array(value) for key, value in module.state_dict().items()}


def array(value: torch.Tensor) -> Array:
    """The same numbers for NumPy."""
    import torch

    value = value.detach().contiguous()
    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if value.dtype == torch.bfloat16 else value.numpy()


def tensor(value: Array) -> torch.Tensor:
    """The same numbers for torch."""
    import torch

    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)
