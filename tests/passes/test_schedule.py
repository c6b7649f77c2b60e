"""Stages that read what is not a row of the layer."""

from __future__ import annotations

import pytest

import moec
from tests.programs.generate import Program
from tests.programs.test_programs import agree

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
    program = Program(LAYER, dims, real, (1, 17, 0), 0, 0.0, {"j": "I", "z": "I"}, frozenset())
    agree(program, lambda aux: moec.compile(program.text, program.dims, program.real, 2, aux=aux))


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
    program = Program(STREAMS, {"C": 3, "H": 16, "D": 5}, real, (1, 17, 0), 0, 0.0, {}, frozenset())
    agree(program, lambda aux: moec.compile(program.text, program.dims, program.real, 2, aux=aux))
