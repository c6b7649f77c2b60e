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


HEADS = """
moe m[H=32, A=3, E=4, K=2](x: [H]) -> [H] {
    param router: [A, E, H]
    param up: [A, E, H, H]
    fn head(h, z) = sum e in topk(softmax(router[h] @ z), K): up[h, e] @ z
    return %s
}
"""


@pytest.mark.parametrize("body", ["sum h in 0..A: head(h, x)", "head(2, head(1, head(0, x)))"])
def test_what_chooses_stays_dense_unless_it_is_named(body: str) -> None:
    """Also where experts choose after others, whose matrices are no routers."""
    text = HEADS % body
    assert moec.compile(text, threads=1, storage="q8_0").interface.storage == {"up": "q8_0"}
    named = moec.compile(text, threads=1, storage={"experts": "q8_0", "router": "int8"})
    assert named.interface.storage == {"up": "q8_0", "router": "int8"}


def test_a_layer_of_routers_alone_says_which_weights_could_be_named() -> None:
    with pytest.raises(CompileError) as error:
        moec.compile(HEADS % "x[:A] @ x[:A] * ids(topk(router[0] @ x, K))[0] * x", threads=1, storage="q8_0")
    (found,) = error.value.diagnostics
    assert found.message == "`router` cannot be stored as q8_0: selections are made from it"
    assert found.help == "name the weights: `router=q8_0`"
