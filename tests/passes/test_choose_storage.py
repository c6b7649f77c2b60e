"""A format for all experts finds some, or says why it does not."""

from __future__ import annotations

import pytest

import moec
from moec.diagnostics import CompileError


@pytest.mark.parametrize(
    ("params", "expert", "message"),
    [
        ("param w: [E, H, H]", "w[e].T @ x", "`w` cannot be stored as q8_0: it is transposed"),
        ("param w: [H, H]", "w @ x", "the layer has no stack of experts to store as q8_0"),
    ],
)
def test_a_layer_that_would_stay_dense_is_an_error(params: str, expert: str, message: str) -> None:
    text = f"moe m[H=32, E=4](x: [H]) -> [H] {{\n    {params}\n    return sum e in topk(x[:E], 2): {expert}\n}}\n"
    with pytest.raises(CompileError) as error:
        moec.compile(text, threads=1, storage="q8_0")
    assert error.value.diagnostics[0].message == message
