"""What a plan costs: bytes of the parts of parameters that are read, arms of a `match`, what follows a product."""

from __future__ import annotations

import pytest

from moec.language.read import find_source
from moec.measure.cost import Analysis, StageCost, analyse, distinct
from moec.options import Options
from moec.pipeline import Compilation
from moec.target import Target

ZEN4 = Target.of("x86_64-unknown-linux-gnu", "znver4")


def cost(text: str, tokens: int) -> Analysis:
    return analyse(Compilation(find_source(text), Options.of(target=ZEN4)).schedule(), tokens)


def rows(body: str, tokens: int) -> StageCost:
    """The one stage of a layer that looks something up."""
    parameters = "param emb: [V, H]; param v: [H]; param cube: [V, 4, H]; param wide: [H, V]".replace("; ", "\n    ")
    text = f"moe m[V=100000, H=64](x: [H], id: i64, j: i64) -> [H] {{\n    {parameters}\n    return {body}\n}}\n"
    (stage,) = cost(text, tokens).stages
    return stage


@pytest.mark.parametrize(
    ("body", "tokens", "nbytes"),
    [
        ("x + emb[id]", 4, 4 * 64 * 4),
        ("x + sum(emb[:, 0:32][id])", 4, 4 * 32 * 4),
        ("x + sum(emb[id, 0:32])", 4, 4 * 32 * 4),
        ("x + wide.T[id]", 4, 4 * 64 * 4),
        ("x + cube[id][j]", 4, 4 * 64 * 4),
        ("x + cube[id, 2]", 4, 4 * 64 * 4),
        ("x + emb[id, 5]", 4, 4 * 4),
        ("x + emb[3]", 4, 64 * 4),
        ("x + v[3]", 4, 4),
        ("x * sum(abs(x - v)) + v", 4, 64 * 4),
        ("x + sum(v[topk(x, 8)])", 4, 64 * 4 * (1 - (1 - 8 / 64) ** 4)),
        ("x + emb[id]", 0, 0),
    ],
)
def test_parts_of_parameters_that_are_read(body: str, tokens: int, nbytes: float) -> None:
    assert rows(body, tokens).weights == pytest.approx(nbytes, rel=1e-3)


def test_rows_that_are_met_again_come_from_a_cache() -> None:
    assert rows("x + emb[id]", 1 << 20).weights == pytest.approx(distinct(100000, 1e-5, 1 << 20) * 256)


def test_one_arm_of_a_match_is_taken() -> None:
    whole = rows("match j % 3 { 0: x + emb[id], 1: x * v[0], 2: exp(x) * v * v }", 4)
    assert whole.weights == pytest.approx(4 * 64 * 4, rel=1e-3)
    assert whole.flops == rows("exp(x) * v * v", 4).flops


def test_what_follows_a_product_is_read_too() -> None:
    text = "moe m[H=64](x: [H]) -> [H] { param w: [H, H] param bias: [H] return (w @ x + bias) * x }"
    (product,) = cost(text, 8).stages
    assert product.weights == 4 * (64 * 64 + 64)
    assert product.moved == 8 * 4 * (64 + 64 + 64)
    assert product.flops == 8 * 2 * 64 * 64
