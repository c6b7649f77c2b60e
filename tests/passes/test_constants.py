"""What is the same for every token: computed once a call, where it is worth that, and read by every token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest
from xdsl.ir import Operation, SSAValue

import moec
from moec.dialects import moe, plan
from moec.measure.compare import TOLERANCES_QUANTIZED, errors
from moec.measure.cost import analyse
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.stored import decoded
from moec.source import Source
from tests.codegen import emulation
from tests.formats.test_storage import NUMPY
from tests.programs.generate import Program
from tests.programs.test_programs import agree, agree_compiled

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
    "a product": "u[0] @ softmax(b) + x[:N]",
    "products": "sum e in 0..E: p[e] * gelu(u[e] @ softmax(b))",
    "the vector of the chosen": "sum e in top: p[e] * (u[e] @ softmax(b))",
    "along the tokens": "sum(exp(s), axis=batch) + x[:N]",
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
    agree_compiled(TEXT.format(value=value), DIMS, real)


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


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_a_parameter_is_the_vector_of_the_chosen_and_of_all(real: str) -> None:
    """Both kinds of products read it as rows, of domains that have nothing in common."""
    check("(sum e in top: p[e] * (u[e] @ b)) + (sum e in 0..E: p[e] * gelu(u[e] @ b))", real)


def layer_of(text: str, value: str) -> str:
    """`TEXT`, with a mean of the tokens, and whole statements."""
    lines = ["m = mean(x, axis=batch)", *value.split("; ")]
    lines[-1] = f"return {lines[-1]}"
    return text.replace("    return {value}\n", "".join(f"    {line}\n" for line in lines)).format()


#: Vectors of N with products that are the same for every token of a call: how many; the others, one for `p` among them.
BATCH: Final = {
    "a gate": ("sigmoid(w @ m) * (u[0] @ x)", 1, 2),
    "added to a product": ("w @ m + u[0] @ x", 1, 2),
    "two": ("u[2] @ (each i in 0..H: softmax(w @ m)[0] * m[i]) * x[0]", 2, 1),
    "twice": ("(w @ m) * (w @ m) * x[:N]", 1, 1),
    "experts mixed by a token": ("sum e in 0..E: p[e] * gelu(u[e] @ m)", 1, 1),
    "experts by a key": ("sum i in 0..2 * E: p[i / 2] * (u[i / 2] @ (m * (1 + i)))", 1, 1),
    "beside experts of a token": ("sum e in 0..E: p[e] * (gelu(u[e] @ m) + u[e] @ x)", 1, 2),
    "in two loops": ("sum i in 0..3: x[i] * (sum e in 0..E: t[e] * gelu(u[e] @ (m * (i + 1))))", 1, 1),
    "in both of two loops": ("sum i in 0..3: sum e in 0..E: x[i] * p[e] * gelu(u[e] @ (m * (i + 1)))", 1, 1),
    "in a loop of the chosen": ("sum e in top: p[e] * (sum j in 0..E: t[j] * gelu(u[j] @ m))", 1, 1),
    "a choice of experts": ("q = topk(softmax(router @ m), 2); sum e in q: p[e] * (u[e] @ x)", 1, 2),
    "experts that all choose": ("q = topk(softmax(router @ m), 2); x[:N] * (sum e in q: u[e] @ m)", 2, 1),
    "an index": ("e = argmax(router @ m); u[e] @ x", 1, 1),
    "a counted index": ("e = size(x, axis=batch) % E; u[e] @ x + u[e] @ m", 1, 1),
    "on three levels": (
        "c = sum((w @ m) * (u[0] @ x), axis=batch); d = max(c[0] * x, axis=batch); (u[2] @ d) * (u[3] @ x)",
        2,
        3,
    ),
    "keys of a token": ("k = each e in 0..E: u[e] @ m; k.T @ softmax(k @ (u[0] @ x))", 1, 2),
    "a sum of rows": ("u[0] @ x + (sum i in 0..H: m[i] * w.T[i])", 1, 1),
    "what is cheap, twice": ("a = m * 2 + 1; (w @ a) * (u[0] @ (x * a))", 1, 2),
}


def is_once(domain: SSAValue) -> bool:
    """Whether a domain is that of one row, or was expanded from it."""
    owner = domain.owner
    return is_once(owner.domain) if isinstance(owner, plan.ExpandOp) else isinstance(owner, plan.SingleOp)


@pytest.mark.parametrize("real", ["f32", "bf16"])
@pytest.mark.parametrize(("value", "once", "others"), BATCH.values(), ids=list(BATCH))
def test_products_with_what_comes_from_the_batch_are_computed_once(
    value: str, once: int, others: int, real: str
) -> None:
    text = layer_of(TEXT, value)
    (program,) = Compilation(Source("m", text), Options.of({}, real, 1)).schedule().body.block.ops
    products = [op for op in program.walk() if isinstance(op, plan.MatmulOp)]
    assert [is_once(op.domain) for op in products].count(True) == once
    assert len(products) - once in (others, others - 1)  # where nobody reads `p`
    agree_compiled(text, DIMS, real)


@pytest.mark.parametrize("kind", ["sum", "max", "min", "cumsum", "previous", "rank"])
def test_work_along_the_tokens_of_what_is_the_same_for_all(kind: str) -> None:
    text = layer_of(TEXT, f"k = {kind}(max(w @ m, axis=batch), axis=batch); k + sum(router @ m, axis=batch)[0]")
    agree_compiled(text, DIMS, "f32")


def test_what_differs_by_token_is_not_computed_once() -> None:
    """Ranks, running sums, and the token before."""
    terms = "w @ cumsum(x, axis=batch) + u[0] @ rank(x, axis=batch) + w @ previous(x, axis=batch)"
    text = layer_of(TEXT, terms)
    (program,) = Compilation(Source("m", text), Options.of({}, "f32", 1)).schedule().body.block.ops
    assert not [op for op in program.walk() if isinstance(op, plan.MatmulOp) and is_once(op.domain)]


#: Soft MoE, arXiv:2308.00951, and SMEAR, arXiv:2306.03745.
LAYERS: Final = {
    "soft": """\
moe m[H=24, I=20, E=3, S=2](x: [H]) -> [H] {
    param phi:  [E * S, H]
    param up:   [E, I, H]
    param down: [E, H, I]
    l = phi @ x
    d = exp(l - max(l, axis=batch))
    z = sum(each s in 0..E * S: d[s] * x, axis=batch)
    n = sum(d, axis=batch)
    c = softmax(l)
    return sum s in 0..E * S: c[s] * (down[s / S] @ gelu(up[s / S] @ (z[s] / n[s])))
}
""",
    "smear": """\
moe m[H=24, I=20, E=3](x: [H]) -> [H] {
    param router: [E, H]
    param up:     [E, I, H]
    param down:   [E, H, I]
    param b:      [E, I]
    w = softmax(router @ mean(x, axis=batch))
    h = relu(sum e in 0..E: w[e] * (up[e] @ x + b[e]))
    return sum e in 0..E: w[e] * (down[e] @ h)
}
""",
}


def sizes(layer: str) -> dict[str, int]:
    """The dimensions of one of `LAYERS`."""
    return {"H": 24, "I": 20, "E": 3, **({"S": 2} if layer == "soft" else {})}


@pytest.mark.parametrize("real", ["f32", "bf16"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_that_mix_tokens(layer: str, real: str) -> None:
    """As the oracle has them, to the same bits on two threads."""
    text = LAYERS[layer]
    dims = sizes(layer)
    run = Program(text, dims, real, (0, 1, 7, 64), 0, 0.0, {}, frozenset())
    agree(run, lambda aux: moec.compile(text, dims, real, 1, aux=aux))
    weights = run.weights()
    one, two = (moec.compile(text, dims, real, threads) for threads in (1, 2))
    for tokens in run.tokens:
        inputs = run.inputs(tokens)
        results = [np.asarray(kernel(*inputs, weights=kernel.pack(weights))) for kernel in (one, two)]
        assert results[0].tobytes() == results[1].tobytes()


def test_the_experts_of_slots_have_as_many_rows_as_there_are_slots() -> None:
    module = Compilation(Source("m", LAYERS["soft"]), Options.of({}, "f32", 1)).schedule()
    rows = [(stage.name, stage.rows) for stage in analyse(module, 64).stages if stage.kind == "matmul"]
    assert rows == [("phi", 64.0), ("up", 6.0), ("down", 6.0)]


@pytest.mark.parametrize("activations", ["real", "int8"])
@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_stored_experts_of_slots(real: str, activations: str) -> None:
    """Soft MoE with experts in a format, beside the numbers that they are kept as."""
    dims, rng = {"H": 64, "I": 64}, np.random.default_rng(5)
    kernel = moec.compile(LAYERS["soft"], dims, real, 2, storage="q8_0", activations=activations)
    shapes = {"phi": (6, 64), "up": (3, 64, 64), "down": (3, 64, 64)}
    arrays = {name: rng.standard_normal(shape, np.float32).astype(NUMPY[real]) for name, shape in shapes.items()}
    x, quantized = rng.standard_normal((9, 64), np.float32).astype(NUMPY[real]), kernel.interface.quantized
    assert len(quantized) == (2 if activations == "int8" else 0)
    wanted = moec.reference(LAYERS["soft"], dims, real, quantized).run((x,), decoded(kernel.interface, arrays))
    assert errors(kernel(x, kernel.pack(arrays)), wanted.outputs[0]).max() <= TOLERANCES_QUANTIZED[real]


@pytest.mark.parametrize("layer", LAYERS)
def test_tiles(layer: str) -> None:
    """Rows of the domain of one row, and of those that are expanded from it, are gathered as others are."""
    dims = {name: {"H": 64, "I": 96}.get(name, size) for name, size in sizes(layer).items()}
    run = Program(LAYERS[layer], dims, "bf16", (0, 1, 19), 0, 0.0, {}, frozenset())
    options = Options.of(dims, run.real, 1, target=emulation.AMX)
    stages = Compilation(Source("m", run.text), options).schedule().walk()
    assert any(isinstance(stage, plan.GatherOp) and is_once(stage.domain) for stage in stages)
    agree(run, lambda aux: emulation.compile_emulated(run.text, dims))
