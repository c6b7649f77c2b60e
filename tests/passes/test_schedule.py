"""Stages that read what is not a row of the layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import moec
from moec.dialects import moe, plan
from moec.language.read import read
from moec.options import Options
from moec.pipeline import Compilation
from tests.examples import EXAMPLES, SMALL
from tests.programs.test_programs import agree_compiled

#: Products of parameters with parameters: whole, a part of one, one chosen by an expert or by a number.
LAYER = """\
moe m[H=32, I=12, E=6](x: [H], j: i64) -> [H] {
    param router: [E, H]
    param w: [E, H, H]
    param u: [I, H, H]
    param v: [H]
    param several: [E, H]
    param z: i64
    s = topk(router @ x, 2)
    routed = sum e in s: w[e] @ v + w[e] @ several[1] + w[e] @ several[e] + w[e] @ several[E - 1 - e]
    return routed + u[z % I] @ v + u[0] @ (v * 2) + u[2] @ v[0:H] + u[j % I] @ v + u[1] @ x
}
"""


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_parameters_are_multiplied_with_parameters(real: str) -> None:
    dims = {"H": 32, "I": 12, "E": 6}
    agree_compiled(LAYER, dims, real, tokens=(1, 17, 0), below={"j": "I", "z": "I"})


#: An input of several axes has rows to multiply with, as weights have; but they are different for every token.
STREAMS = """\
moe m[C=3, H=16, D=5](x: [C, H], s: f32[D, H, H]) -> (y: [H], z: f32[D, H]) {
    param mix: [C]
    h = x.T @ mix + x.T @ (x @ x[0])
    return h, s @ h
}
"""


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_inputs_are_multiplied_as_matrices(real: str) -> None:
    agree_compiled(STREAMS, {"C": 3, "H": 16, "D": 5}, real, tokens=(1, 17, 0))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.moe")), ids=lambda path: path.stem)
def test_no_product_adds_up_the_experts_again(path: Path) -> None:
    """What follows a product runs once for each panel; the sum over the experts of a row is too much for that."""
    program = Compilation(read(path), Options.of(SMALL[path.stem], "f32", 1)).schedule()
    for stage in program.walk():
        if isinstance(stage, plan.MatmulOp):
            assert not [inner for inner in stage.walk() if isinstance(inner, moe.SumOp | moe.EachOp)]


ARMS = """\
moe m[H=32](x: [H], k: i64, id: i64) -> [H] {
    param a, b: [H, H]
    param table: [8, H]
    return match k % 2 { 0: a @ x, 1: b @ (x * table[id]) }
}
"""
EMPTY = """\
moe m[H=32](x: [H], k: i64, id: i64) -> [H] {
    param table: [8, H]
    s = where(x > k)
    return sum e in s: x[e] * table[id]
}
"""


@pytest.mark.parametrize("text", [ARMS, EMPTY], ids=["an arm", "no slot"])
def test_what_is_not_computed_looks_nothing_up(text: str) -> None:
    """Rows whose arm is not taken, and loops without a turn, may have an index that lies outside its table."""
    rng, kernel = np.random.default_rng(0), moec.compile(text, threads=1)
    arrays = {param.name: rng.standard_normal(param.shape, np.float32) for param in kernel.interface.params}
    x, k, id = rng.standard_normal((4, 32), np.float32), np.array([0, 1000, 100, 1]), np.array([99, -1, 8, 3])
    weights = kernel.pack(arrays)
    if text is EMPTY:
        k[0] = 50
    wanted = moec.reference(text)(x, k, id, arrays)
    np.testing.assert_allclose(kernel(x, k, id, weights), wanted, rtol=0, atol=1e-5)
    with pytest.raises(IndexError, match="outside its table"):
        kernel(x, k * 0 + (1 if text is ARMS else -9), id, weights)


TWO = "moe m[H=8](x: [H], a: i64, b: i64) -> [H] { param w: [2, 4, H, H] return w[a][b] @ x }"


def test_what_can_fail_stays_in_a_loop_without_turns() -> None:
    text = "moe m[H=4](x: [H], v: [H], j: i64) -> [H] { return x + (sum i in 0..(H - %d): v[j]) }"
    x, far = np.ones((1, 4), np.float32), np.array([99])
    never, once = (moec.compile(text % turns, threads=1) for turns in (4, 3))
    assert np.array_equal(never(x, x, far, never.pack({})), x)
    with pytest.raises(IndexError, match="outside its table"):
        once(x, x, far, once.pack({}))


@pytest.mark.parametrize(("a", "b"), [(-1, 1 << 40), (1 << 62, 1), (-(1 << 62), 2), (-1, 5), (0, 4), (2, 0), (1, -1)])
def test_two_indices_are_checked_each(a: int, b: int) -> None:
    kernel = moec.compile(TWO, threads=1)
    w = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
    x, weights = np.ones((1, 8), np.float32), kernel.pack({"w": w})
    with pytest.raises(IndexError, match="outside its table"):
        kernel(x, np.array([a]), np.array([b]), weights)
    np.testing.assert_allclose(kernel(x, np.array([1]), np.array([3]), weights)[0], w[1, 3].sum(1), atol=1e-5)


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_products_of_a_vector_that_is_computed_share_their_panels(real: str) -> None:
    """Llama 4's experts read a vector that was scaled, and rounded for each of them."""
    program = Compilation(read(EXAMPLES / "llama4.moe"), Options.of(SMALL["llama4"], real, 1)).schedule()
    products = [len(stage.weights) for stage in program.walk() if isinstance(stage, plan.MatmulOp)]
    assert sorted(products) == [1, 1, 1, 2, 2]  # the router, two `down`; twice `gate` and `up`


@pytest.mark.parametrize(
    ("type", "step", "count"),
    [("f32", "{0} * (2 - {0})", 60), ("i64", "{0} + 1", 600), ("f32", "{0} + x[0] / 1024", 600)],
    ids=["twice each", "integers", "of the token"],
)
def test_long_chains_of_scalars(type: str, step: str, count: int) -> None:
    """Each step is looked at once, and none from within the one behind it."""
    steps = "".join(f"    a{i + 1} = {step.format(f'a{i}')}\n" for i in range(count))
    text = f"moe m[H=2](x: f32[H], a0: {type}) -> {type} {{\n{steps}    return a{count}\n}}\n"
    x, a = np.full((1, 2), 0.5, np.float32), np.array([1], "i8" if type == "i64" else "f4")
    kernel = moec.compile(text, threads=1)
    wanted = 1 + count if type == "i64" else moec.reference(text)(x, a, {})[0]
    np.testing.assert_allclose(kernel(x, a, kernel.pack({}))[0], wanted, rtol=1e-6)
