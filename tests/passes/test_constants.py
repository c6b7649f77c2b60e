"""What is made of parameters alone: computed once a call, where it is worth that, and read by every token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from xdsl.ir import Operation, SSAValue

import moec
from moec.dialects import moe, plan
from moec.measure.cost import analyse
from moec.options import Options
from moec.pipeline import Compilation
from moec.source import Source
from tests.programs.generate import Program
from tests.programs.test_programs import agree

TEXT: Final = """\
moe m[H=24, N=20, E=5](x: [H]) -> [N] {{
    param router: [E, H]
    param u:      [E, N, H]
    param w:      [N, H]
    param b:      [H]
    param s:      [N]
    param t:      [E]
    p   = softmax(router @ x)
    top = topk(p, 2)
    return {value}
}}
"""
DIMS: Final = {"H": 24, "N": 20, "E": 5}

#: Vectors of N, in which what is made of `w`, `b`, `s` and `t` is the same for every token.
ONCE: Final = {
    "a function of a vector": "u[0] @ x * softmax(s)",
    "pointwise": "u[0] @ x * sigmoid(s)",
    "the vector of a product": "u[0] @ (x * rmsnorm(b))",
    "norms of rows": "each i in 0..N: sum(w[i] * x) / (1 + norm(w[i]))",
    "norms of rows, after a sum": "each i in 0..N: logsumexp(w[i]) * x[i] + x[0]",
    "a normed matrix": "(each i in 0..N: w[i] / (1 + norm(w[i]))) @ x",
    "a computed matrix": "silu(w) @ x",
    "in an epilogue of an expert": "sum e in top: p[e] * (u[e] @ x * softmax(s))",
    "in a loop of an expert": "sum e in top: p[e] * (each i in 0..N: tanh(u[e] @ x)[i] * logsumexp(w[i]))",
    "of a vector and its matrix": "u[0] @ x * (sum e in 0..E: tanh(t[e]) * (each i in 0..N: norm(w[i])))",
    "in a sum": "sum e in 0..E: p[e] * x[:N] * norm(t * e)",
    "a product of parameters": "u[0] @ x * (each i in 0..N: sum j in 0..H: b[j] * w[i, j])",
    "a part": "u[0] @ x + softmax(s)[0] * exp(s)",
    "returned": "softmax(s)",
    "but for its last step": "u[0] @ softmax(b) + sum(softmax(s), axis=batch)",
}


def plan_of(value: str, real: str) -> plan.ProgramOp:
    (program,) = Compilation(Source("m", TEXT.format(value=value)), Options.of({}, real, 1)).schedule().body.block.ops
    assert isinstance(program, plan.ProgramOp)
    return program


def stages_that_read(value: SSAValue) -> Iterator[Operation]:
    for use in value.uses:
        stage = use.operation
        while not isinstance(parent := stage.parent_op(), plan.ProgramOp):
            assert parent is not None
            stage = parent
        yield stage


def check(value: str, real: str) -> None:
    program = Program(TEXT.format(value=value), DIMS, real, (1, 19, 0), 0, 0.0, {}, frozenset())
    agree(program, lambda aux: moec.compile(program.text, program.dims, program.real, 2, aux=aux))


@pytest.mark.parametrize("real", ["f32", "bf16"])
@pytest.mark.parametrize("value", ONCE.values(), ids=list(ONCE))
def test_constants_are_computed_once(value: str, real: str) -> None:
    program = plan_of(value, real)
    assert len([op for op in program.body.block.ops if isinstance(op, plan.SingleOp)]) == 1
    for param in program.body.block.args[4:]:
        for stage in stages_that_read(param):
            if isinstance(stage, plan.RowsOp):
                assert isinstance(stage.domain.owner, plan.SingleOp), stage
    check(value, real)


#: Values that are not: they cost no more than to be read, or something else reads them row by row.
EVERY: Final = {
    "widened": "u[0] @ x + s",
    "scaled": "u[0] @ x * (2 * s + 1)",
    "of the token": "u[0] @ x * sigmoid(s + x[0])",
    "of the chosen": "sum e in top: x[0] * exp(u[e, :, 0])",
    "along the tokens": "sum(exp(s), axis=batch) + x[:N]",
    "scalars": "u[0] @ x * exp(t[0])",
}


@pytest.mark.parametrize("value", EVERY.values(), ids=list(EVERY))
def test_other_values_stay(value: str) -> None:
    assert not [op for op in plan_of(value, "bf16").body.block.ops if isinstance(op, plan.SingleOp)]
    check(value, "bf16")


def test_once_is_one_row() -> None:
    """However many tokens there are."""
    module = Compilation(Source("m", TEXT.format(value=ONCE["pointwise"])), Options.of({}, "f32", 1)).schedule()
    rows = [stage.rows for stage in analyse(module, 64).stages]
    assert rows.count(1.0) == 1 and set(rows) == {1.0, 64.0}


def test_maps_of_tokens_leave_constants_alone() -> None:
    """What is the same for every token and what is not stay two maps; what is the same becomes one."""
    text = TEXT.format(value="u[0] @ x * sigmoid(2 * s)")
    module = Compilation(Source("m", text), Options.of({}, "f32", 1)).simplify()
    (layer,) = module.body.block.ops
    assert isinstance(layer, moe.LayerOp)
    assert len([op for op in layer.body.block.ops if isinstance(op, moe.MapOp)]) == 2
