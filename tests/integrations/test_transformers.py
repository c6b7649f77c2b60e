"""The experts backend of transformers: its texts, whole models, torch.compile, changed and released weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.activations import ACT2FN

import moec
from moec import CompileError
from moec.integrations import transformers as integration
from moec.integrations.transformers.backend import experts_of
from moec.integrations.transformers.experts import describe
from moec.integrations.transformers.trace import trace

SIZES = {"hidden_size": 32, "intermediate_size": 24, "num_local_experts": 5, "num_experts_per_tok": 2}
REST = {"num_hidden_layers": 2, "vocab_size": 50, "num_attention_heads": 2, "num_key_value_heads": 1}
IDS = torch.arange(9)[None] * 5 % 50


def model(implementation: str = "moec", **settings: Any) -> MixtralForCausalLM:
    torch.manual_seed(0)
    config = MixtralConfig(**SIZES, **REST, **settings)
    config._experts_implementation = implementation
    return MixtralForCausalLM(config).eval()


def experts(of: nn.Module) -> Any:
    return of.get_submodule("model.layers.0.mlp.experts")


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_a_module_says_its_layer() -> None:
    assert (
        describe(experts(model())).text
        == """\
fn activate(a, b) = silu(a) * b

moe experts[H, I, E, K](x: [H], ids: i64[K], w: f32[K]) -> [H] {
    param gate, up: [E, I, H]
    param down: [E, H, I]

    top = given(ids, E)

    return sum e in top: w[slot(e)] * (down[e] @ activate(gate[e] @ x, up[e] @ x))
}
"""
    )


def test_a_model_gives_the_same_numbers_and_tokens() -> None:
    theirs, ours = model("eager"), model()
    expected, given = theirs(IDS).logits, ours(IDS).logits
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(ours.generate(IDS, **settings), theirs.generate(IDS, **settings))


def test_a_model_may_change_its_backend() -> None:
    one = model("eager")
    expected = one(IDS).logits
    one.set_experts_implementation("moec")
    assert (one(IDS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_torch_compiles_a_model_that_was_never_called() -> None:
    one = model()
    given = torch.compile(one, fullgraph=True, backend="aot_eager")(IDS).logits
    assert (given - one(IDS).logits).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_skipped_slots_and_no_tokens(dtype: torch.dtype) -> None:
    module = experts(model().to(dtype))
    x, ids, w = torch.randn(4, 32, dtype=dtype), torch.tensor([[0, 5], [5, 5], [5, 1], [3, 2]]), torch.rand(4, 2)
    y = module(x, ids, w)
    assert y.dtype == dtype and not y[1].any() and y[[0, 2, 3]].any(-1).all()
    assert torch.equal(module(x[:1], ids[:1, :1], w[:1, :1]), y[:1])  # another number of chosen experts, same weights
    assert module(x[:0], ids[:0], w[:0]).shape == (0, 32)


def test_changed_weights_are_packed_anew() -> None:
    one = model()
    module, (x, ids, w) = experts(one), (torch.randn(3, 32), torch.tensor([[0, 1]] * 3), torch.rand(3, 2))
    y = module(x, ids, w)
    packed = experts_of(module)._weights
    assert torch.equal(module(x, ids, w), y) and experts_of(module)._weights is packed
    module.down_proj.mul_(2)
    assert torch.equal(module(x, ids, w), 2 * y)
    module.down_proj = nn.Parameter(module.down_proj / 4)
    assert torch.equal(module(x, ids, w), y / 2)
    other = copy.deepcopy(one)
    experts(other).down_proj.mul_(2)
    assert torch.equal(experts(other)(x, ids, w), y) and torch.equal(module(x, ids, w), y / 2)
    other.to(torch.bfloat16)
    assert (experts(other)(x.bfloat16(), ids, w) - y).abs().max() <= 2e-2 * y.abs().max()


def test_released_weights_leave_their_shapes() -> None:
    one = model()
    expected = one(IDS).logits
    assert integration.prepare(one, release_weights=True) == 2
    assert experts(one).down_proj.is_meta and torch.equal(one(IDS).logits, expected)
    one = model()
    integration.prepare(one, release_weights=True)
    assert torch.equal(one(IDS).logits, expected) and torch.equal(one(IDS).logits, expected)
    assert experts(one).gate_up_proj.shape == (5, 48, 32)
    assert all(tensor.is_meta for tensor in experts(one).parameters())
    assert torch.equal(one.generate(IDS, max_new_tokens=3), model("eager").generate(IDS, max_new_tokens=3))
    one.set_experts_implementation("eager")
    for wrong in (lambda: one(IDS), one.state_dict, lambda: one.to(torch.bfloat16), lambda: copy.deepcopy(one)):
        with pytest.raises(CompileError, match="let go"):
            wrong()


def test_weights_in_a_storage_format() -> None:
    one = model()
    expected = one(IDS).logits
    integration.prepare(one, storage="int8")
    given = one(IDS).logits
    assert 0 < (given - expected).abs().max() <= 2e-2 * expected.abs().max()


def test_gradients_are_torchs_own_error() -> None:
    with torch.enable_grad(), pytest.raises(RuntimeError, match="autograd"):
        model()(IDS).logits.sum().backward()


class Holder(nn.Module):
    def __init__(self, act_fn: Any) -> None:
        super().__init__()
        self.act_fn = act_fn


@pytest.mark.parametrize("name", ACT2FN.keys())
def test_every_activation_has_a_formula(name: str) -> None:
    compare_with_formula(ACT2FN[name])


@pytest.mark.parametrize("power", [2, 3])
def test_a_power_of_a_difference_is_that_of_the_whole(power: int) -> None:
    """Text that begins with a digit is not yet a number."""
    compare_with_formula(lambda x: (1 - x) ** power)
    compare_with_formula(lambda x: (2.5 - torch.sigmoid(x)) ** power)


def test_differences_take_a_factor_of_what_is_subtracted() -> None:
    compare_with_formula(lambda x: torch.rsub(x, torch.tanh(x), alpha=3))
    compare_with_formula(lambda x: torch.sub(x, torch.tanh(x), alpha=3))


def test_waves_and_steps_have_a_formula() -> None:
    compare_with_formula(lambda x: x + torch.sin(2 * x) ** 2 / 2)
    compare_with_formula(lambda x: torch.cos(x) * torch.floor(x + 0.3))
    compare_with_formula(lambda x: 1 - torch.ceil(-(x + 0.3)))


def compare_with_formula(act_fn: Any) -> None:
    holder = Holder(act_fn)
    function = trace("activate", holder.act_fn, 9, torch.float32, holder, "act_fn")
    params = "".join(f"    param {tensor}: f32\n" for tensor in function.tensors)
    call = ", ".join(["x", *function.tensors])
    text = f"{function.text}\nmoe one[H](x: [H]) -> [H] {{\n{params}    return activate({call})\n}}\n"
    x = torch.linspace(-12, 12, 9 * 7).view(7, 9)
    weights = {tensor: value.detach().float().reshape(()).numpy() for tensor, value in function.tensors.items()}
    y = moec.reference(text, dims={"H": 9})(x.numpy(), weights)
    assert (torch.from_numpy(y) - holder.act_fn(x)).abs().max() <= 2e-6 * holder.act_fn(x).abs().max()


class Sorted(nn.Module):
    def forward(self, gate: torch.Tensor) -> torch.Tensor:
        return gate.sort(-1).values


class Looks(nn.Module):
    def forward(self, gate: torch.Tensor) -> torch.Tensor:
        return gate if gate.sum() > 0 else -gate


@pytest.mark.parametrize(("act_fn", "operation"), [(Sorted(), "aten.sort"), (Looks(), "")])
def test_what_has_no_formula_names_the_class_and_the_operation(act_fn: nn.Module, operation: str) -> None:
    one = model()
    experts(one).act_fn = act_fn
    for call in (lambda: one(IDS), lambda: integration.prepare(one)):
        with pytest.raises(CompileError, match=rf"(?s)`_apply_gate` of `MixtralExperts`.*{operation}"):
            call()
