"""Whole blocks of transformers' models, replaced by their files: outputs, hooks, configurations, copies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from moec import CompileError
from moec.integrations.transformers import replace
from moec.integrations.transformers.replace import restore

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
IDS = torch.arange(9)[None] * 5 % 50


def mixtral(**settings: Any) -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, intermediate_size=24, num_local_experts=5, **settings)).eval()


def qwen(**settings: Any) -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SIZES, intermediate_size=24, moe_intermediate_size=24, num_experts=5, **settings)
    return Qwen3MoeForCausalLM(config).eval()


def block(of: nn.Module) -> Any:
    return of.get_submodule("model.layers.0.mlp")


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_a_model_gives_the_same_numbers_and_tokens() -> None:
    ours, theirs = mixtral(), mixtral()
    report = replace(ours)
    assert [(each.path, each.file) for each in report.replaced] == [
        (f"model.layers.{i}.mlp", "mixtral") for i in range(2)
    ]
    assert "model.layers.1.mlp: MixtralSparseMoeBlock by mixtral.moe" in str(report)
    expected = theirs(IDS).logits
    assert (ours(IDS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(ours.generate(IDS, **settings), theirs.generate(IDS, **settings))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_what_trains_goes_on_training() -> None:
    model = mixtral().train()
    model.get_submodule("model.layers.0.mlp.experts").eval()
    before = {name: each.training for name, each in model.named_modules()}
    replace(model)
    assert {name: each.training for name, each in model.named_modules()} == before


def test_hooks_on_router_logits_fire() -> None:
    ours, theirs = mixtral(), mixtral()
    replace(ours)
    expected, given = (one(IDS, output_router_logits=True).router_logits for one in (theirs, ours))
    assert len(given) == len(expected) == 2
    assert all((a - b).abs().max() <= 1e-5 for a, b in zip(given, expected, strict=True))


def test_a_block_may_return_what_its_router_says() -> None:
    torch.manual_seed(0)
    config = Llama4TextConfig(**{**SIZES, "num_experts_per_tok": 1}, intermediate_size=24, intermediate_size_mlp=24)
    config.num_local_experts = 4
    ours = Llama4ForCausalLM(config).eval()
    expected = ours(IDS).logits
    report = replace(ours)
    assert [each.file for each in report.outcomes] == ["llama4"] * 2, str(report)
    assert (ours(IDS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("normed", "file"), [(True, "qwen3_moe"), (False, "olmoe")])
def test_the_configuration_says_which_file(normed: bool, file: str) -> None:
    one = qwen(norm_topk_prob=normed)
    expected = one(IDS).logits
    assert [each.file for each in replace(one).outcomes] == [file] * 2
    assert (one(IDS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_the_configuration_says_otherwise_is_left() -> None:
    one = mixtral(hidden_act="gelu")
    expected = one(IDS).logits
    (first, _) = replace(one).left
    assert first.reason == "mixtral.moe does not fit: `hidden_act` is 'gelu', the file says 'silu'"
    assert torch.equal(one(IDS).logits, expected)


def test_what_computes_something_else_is_left() -> None:
    one = mixtral()
    block(one).register_forward_hook(lambda module, args, output: output * 1.01)
    first, second = replace(one).outcomes
    assert first.reason is not None and "random tokens" in first.reason
    assert second.file == "mixtral"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_wrong_for_one_token_in_three_is_left(dtype: torch.dtype) -> None:
    """A token that is loud does not hide it."""
    one = mixtral().to(dtype)

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        rows = output.clone().view(-1, output.shape[-1])
        rows[::3] *= 1.1
        return rows.view(output.shape)

    block(one).experts.down_proj.data[0] *= 1e4
    block(one).register_forward_hook(spoil)
    first, second = replace(one).outcomes
    assert first.reason == "mixtral.moe does not fit: of 32 random tokens only 21 come out as the block's own"
    assert second.file == "mixtral"


def test_a_block_that_gives_nothing_is_left() -> None:
    one = mixtral()
    block(one).experts.down_proj.data.zero_()
    first, second = replace(one).outcomes
    assert first.reason is not None and first.reason.endswith("nothing can be compared")
    assert second.file == "mixtral"


def test_changed_copied_and_restored_blocks() -> None:
    one, x = mixtral(), torch.randn(1, 3, 32)
    replace(one)
    y = block(one)(x)
    other = copy.deepcopy(one)
    block(other).experts.down_proj.mul_(2)
    assert torch.equal(block(other)(x), 2 * y) and torch.equal(block(one)(x), y)
    restore(block(one))
    assert "forward" not in vars(block(one))
    assert (block(one)(x) - y).abs().max() <= 1e-6
    assert len(replace(one).replaced) == 2 == len(replace(one).replaced)


def test_a_changed_buffer_counts() -> None:
    """DeepSeek-V3's bias of selection is a buffer."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 24, "moe_intermediate_size": 24}
    ranks = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 0}
    del sizes["head_dim"]
    one = DeepseekV3ForCausalLM(DeepseekV3Config(**sizes, **ranks, **experts)).eval()
    theirs, x = copy.deepcopy(block(one)), torch.randn(1, 7, 32)
    assert len(replace(one).replaced) == 2
    before = block(one)(x)
    for each in (block(one), theirs):
        each.gate.e_score_correction_bias = torch.arange(8.0) / 4
    assert (block(one)(x) - theirs(x)).abs().max() <= 1e-5 * theirs(x).abs().max()
    assert (block(one)(x) - before).abs().max() > 1e-1 * before.abs().max()


def test_released_weights_are_those_that_were_compared() -> None:
    one = mixtral()
    expected = one(IDS).logits
    replace(one, release_weights=True)
    assert block(one).experts.down_proj.is_meta
    assert (one(IDS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_released_and_stored_weights() -> None:
    one = mixtral()
    expected = one(IDS).logits
    replace(one, storage="int8", release_weights=True)
    given = one(IDS).logits
    assert 0 < (given - expected).abs().max() <= 2e-2 * expected.abs().max()
    assert torch.equal(one(IDS).logits, given)
    assert block(one).experts.down_proj.is_meta and not block(one).gate.weight.is_meta
    restore(block(one))
    with pytest.raises(CompileError, match="let go"):
        one(IDS)


def test_torch_compiles_a_replaced_model() -> None:
    one = mixtral()
    replace(one)
    expected = one(IDS).logits
    given = torch.compile(one, fullgraph=True, backend="aot_eager")(IDS).logits
    assert (given - expected).abs().max() <= 1e-6
