"""The module and the operator of PyTorch: kinds of tensors, opcheck, torch.compile, threads, copies, gradients."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch

import moec
from moec import CompileError
from moec.arrays import address
from moec.integrations.torch import MoE
from moec.runtime.arguments import fit
from moec.runtime.interface import Array

TEXT = """
moe tiny[H=48, I=40, E=6, K=2](x: [H]) -> (y: [H], logits: f32[E]) {
    param router: [E, H]
    param up:     [E, I, H]
    param down:   [E, H, I]
    l = router @ x
    top = topk(l, K)
    return sum e in top: l[e] * (down[e] @ relu(up[e] @ x)), l
}
"""
LOOKUP = """
moe lookup[H=8, N=5](x: [H], id: i64) -> [H] {
    param table: [N, H]
    return x + table[id]
}
"""
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"router": (6, 48), "up": (6, 40, 48), "down": (6, 48, 40)}
    return {name: (torch.randn(shape, generator=random) / 6).to(dtype) for name, shape in shapes.items()}


def layer(real: str = "f32") -> MoE:
    kernel = moec.compile(TEXT, dtype=real, threads=1)
    return MoE(kernel, kernel.pack(weights(DTYPES[real])))


def truth(x: torch.Tensor) -> torch.Tensor:
    w = {name: value.to(x.dtype).double() for name, value in weights().items()}
    x = x.double()
    logits, chosen = (x @ w["router"].T).topk(2)
    up = torch.einsum("tkih,th->tki", w["up"][chosen], x).relu()
    return torch.einsum("tkhi,tki,tk->th", w["down"][chosen], up, logits)


@pytest.mark.parametrize("real", DTYPES)
def test_the_module_computes_the_layer(real: str) -> None:
    x = torch.randn(33, 48, dtype=DTYPES[real])
    y, logits = layer(real)(x)
    assert y.dtype == x.dtype and logits.dtype == torch.float32
    scale = truth(x).abs().max()
    assert (y.double() - truth(x)).abs().max() <= {"f32": 1e-6, "bf16": 2e-2, "f16": 4e-3}[real] * scale


def test_shapes_strides_and_nothing() -> None:
    module = layer()
    x = torch.randn(6, 48)
    y = module(x)[0]
    assert torch.equal(module(x.view(2, 3, 48))[0], y.view(2, 3, 48))
    assert torch.equal(module(x.T.contiguous().T)[0], y)
    assert torch.equal(module(torch.stack([x, x], 1)[:, 0])[0], y)
    assert module(x[:0])[0].shape == (0, 48)
    assert module(x.view(2, 3, 48)[:, :0])[1].shape == (2, 0, 6)


def test_a_layer_that_looks_along_the_batch_is_called_for_each_sequence() -> None:
    kernel = moec.compile("moe running[H=8](x: [H]) -> [H] { return cumsum(x, axis=batch) }", threads=1)
    module, x = MoE(kernel, kernel.pack({})), torch.randn(3, 2, 5, 8)
    torch.testing.assert_close(module(x), x.cumsum(-2))
    torch.testing.assert_close(module(x[0, 0]), x[0, 0].cumsum(0))
    assert module(x[:0]).shape == (0, 2, 5, 8) and module(x[:, :, :0]).shape == (3, 2, 0, 8)


def test_several_inputs_share_their_leading_axes() -> None:
    kernel = moec.compile(LOOKUP, threads=1)
    table = torch.randn(5, 8)
    x, id = torch.randn(2, 3, 8), torch.randint(5, (2, 3))
    assert torch.equal(MoE(kernel, kernel.pack({"table": table}))(x, id), x + table[id])


@pytest.mark.parametrize("real", DTYPES)
def test_a_contiguous_input_is_read_where_it_lies(real: str) -> None:
    x = torch.randn(7, 48, dtype=DTYPES[real])
    assert address(fit(x, Array("x", real, (48,)), None)) == x.data_ptr()


def test_the_operator_is_what_torch_wants() -> None:
    module = layer()
    for tokens in (0, 1, 5):
        torch.library.opcheck(torch.ops.moec.layer.default, ([torch.randn(tokens, 48)], module._number))


def test_torch_compiles_through_it_without_a_break() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(48, 48), layer())
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.inference_mode():
        for shape in ((3, 48), (5, 48), (2, 4, 48)):
            x = torch.randn(shape)
            assert torch.allclose(compiled(x)[0], module(x)[0], atol=1e-6)


def test_threads_follow_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module, asked = layer(), list[Any]()
    pool = module._layer.kernel._pool
    monkeypatch.setattr(module._layer.kernel, "_pool", lambda threads: asked.append(threads) or pool(threads))
    before, x = torch.get_num_threads(), torch.randn(65, 48)
    try:
        torch.set_num_threads(1)
        alone = module(x)[0]
        torch.set_num_threads(2)
        assert torch.equal(module(x)[0], alone)
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2]


def test_mistakes_name_the_input() -> None:
    module = layer()
    with pytest.raises(CompileError, match="axis 1 is 47"):
        module(torch.randn(3, 47))
    with pytest.raises(CompileError, match="holds float64"):
        module(torch.randn(3, 48).double())
    with pytest.raises(CompileError, match="takes 1 input "):
        module(torch.randn(3, 48), torch.randn(3, 48))
    with pytest.raises(CompileError, match="one token"):
        module(torch.randn(48))


def test_there_is_no_backward_pass_and_torch_says_so() -> None:
    y = layer()(torch.randn(3, 48, requires_grad=True))[0]
    with pytest.raises(RuntimeError, match="autograd"):
        y.sum().backward()


def test_a_copy_shares_the_weights_and_a_dead_layer_is_an_error() -> None:
    module = layer()
    x, number = torch.randn(2, 48), module._number
    other = copy.deepcopy(module)
    y = module(x)[0]
    del module
    assert torch.equal(other(x)[0], y)
    del other
    gc.collect()
    with pytest.raises(CompileError, match="is gone"):
        torch.ops.moec.layer([x], number)


def test_a_module_is_made_of_a_kernel_and_packed_weights() -> None:
    kernel, wrong = moec.compile(TEXT, threads=1), "file.moe"
    with pytest.raises(CompileError, match=r"E0305.*made of a kernel"):
        MoE(wrong, kernel.pack(weights()))  # type: ignore[arg-type]  # which is the mistake
    with pytest.raises(CompileError, match=r"E0401.*not packed"):
        MoE(kernel, weights())  # type: ignore[arg-type]  # which is the mistake
