"""Weights that are computed of parameters: products go into them, so that panels are packed and no matrix is made anew
for every token."""

from __future__ import annotations

from typing import Final

import pytest

from moec.dialects import moe, plan
from moec.options import Options
from moec.pipeline import Compilation
from moec.source import Source
from tests.programs.test_programs import agree_compiled

#: Weights of `[N, H]`, each of which a vector of H meets.
WEIGHTS: Final = {
    "sum": "base + w[e]",
    "difference": "w[e] - 2 * base / s[e]",
    "scaled": "w[e] * s[e]",
    "chosen by a truth value": "if s[e] > 0 then w[e] else -w[e]",
    "mixed": "sum j in 0..E: p[j] * w[j]",
    "mixed of the chosen": "sum j in top: p[j] * (w[j] + base)",
    "mixed of some": "sum j in few: p[j] * w[j]",
    "rows scaled": "each i in 0..N: w[e, i] * r[e, i]",
    "rows scaled and numbered": "each i in 0..N: w[e, i] * f32(r[e, i] + slot(i) + p[e]) - base[i]",
    "columns scaled": "each i in 0..N: w[e, i] * x",
    "columns divided": "each i in 0..N: 2 * w[e, i] / (1.5 + tanh(c[e]))",
    "rows and columns scaled": "each i in 0..N: c[e] * (w[e, i] * r[e, i]) + base[i] * c[0]",
    "rows by their norm": "each i in 1..N + 1: t[e, i] / (1 + norm(t[e, i]))",
    "joined rows": "concat(half[e], other)",
    "joined columns": "concat(left, right[e], axis=1)",
    "joined, then added": "concat(half[e], other) + base",
    "an arm": "match e { 0..2: w[e], 2..: w[e] + base }",
    "an inner axis": "u[:, e]",
    "an inner axis, transposed": "v[:, e].T",
    "a part of an inner axis": "each i in 2..N + 2: q[i, e]",
    "two inner axes": "z[:, e, :, e % 2]",
    "rounded": "real(w[e]) + base",
}
TEXT: Final = """\
moe m[H=24, N=20, E=5, D=7](x: [H]) -> [N] {{
    param router:     [E, H]
    param w:          [E, N, H]
    param t:          [E, N + 2, H]
    param base:       [N, H]
    param s:          [E]
    param r:          [E, N]
    param c:          [E, H]
    param half:       [E, N - 3, H]
    param other:      [3, H]
    param left:       [N, D]
    param right:      [E, N, H - D]
    param u:          [N, E, H]
    param v:          [H, E, N]
    param q:          [N + 2, E, H]
    param z:          [N, E, H, 2]
    p   = softmax(router @ x)
    top = topk(p, 3)
    few = where(p > 0.25)
    return sum e in topk(p, 2): p[e] * ({weight}) @ {vector}
}}
"""
DIMS: Final = {"H": 24, "N": 20, "E": 5, "D": 7}


def computed(text: str, real: str) -> list[moe.ContractOp]:
    """The products with matrices that the plan leaves to its rows."""
    program = Compilation(Source("m", text), Options.of({}, real, 1)).schedule()
    inside = [op for stage in program.walk() if isinstance(stage, plan.RowsOp) for op in stage.walk()]
    return [op for op in inside if isinstance(op, moe.ContractOp)]


@pytest.mark.parametrize("real", ["f32", "bf16"])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=list(WEIGHTS))
def test_products_go_into_weights(weight: str, real: str) -> None:
    """With a vector that is as it came, and with one that was computed in f32."""
    for vector in ("x", "(x * 1.5 + s[0])"):
        text = TEXT.format(weight=weight, vector=vector)
        assert not computed(text, real)
        agree_compiled(text, DIMS, real)


#: Rows of parameters that a selection takes together, as NumPy's users write it.
GATHERED: Final = """\
moe m[H=24, N=20, E=9, K=3](x: [H], id: i64) -> [N] {
    param router:   [E, H]
    param gate, up: [E, N, H]
    param down:     [E, N, N]
    param key:      [E, H]
    param value:    [E, N]
    p   = softmax(router @ x)
    top = topk(p, K)
    few = where(p > 0.1)
    h   = silu(gate[top] @ x) * (up[top] @ x)
    y   = value[top].T @ (p[top] * (key[top] @ x)) + sum(key[few] @ x)
    return y + (sum e in top: p[e] * (down[e] @ h[slot(e)])) + sum(up[few] @ x, axis=0)
}
"""


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_gathered_weights_are_not_copied(real: str) -> None:
    dims = {"H": 24, "N": 20, "E": 9, "K": 3}
    module = Compilation(Source("m", GATHERED), Options.of({}, real, 1)).simplify()
    assert not [op for op in module.walk() if isinstance(op, moe.GatherOp) and len(op.result.type.get_shape()) > 1]
    products = [op for op in computed(GATHERED, real) if len(op.weight.type.get_shape()) > 1]
    assert not products
    agree_compiled(GATHERED, dims, real, below={"id": "E"})


#: What a product does not distribute over stays as it is, and what is no matrix of parameters.
KEPT: Final = {
    "a square": "w * w",
    "rounded": "real(w * 3)",
    "an activation": "silu(w)",
    "rows of the token": "each i in 0..N: x * i",
    "columns by rows": "each i in 0..N: w[i] * exp(w[i])",
    "divided by its columns": "each i in 0..N: (1 + x * x) / (2 + w[i])",
    "a constant": "w + 1",
}


@pytest.mark.parametrize("weight", KEPT.values(), ids=list(KEPT))
def test_other_weights_stay(weight: str) -> None:
    text = f"moe m[H=24, N=20](x: [H]) -> [N] {{ param w: [N, H] return ({weight}) @ x }}"
    assert len(computed(text, "bf16")) == 1
    agree_compiled(text, {"H": 24, "N": 20}, "bf16", 1)


#: Products that are written row by row, as routers that divide by norms are.
ROWS: Final = """\
moe m[H=24, N=20, E=9, K=3](x: [H]) -> [H] {
    param router: [E, H]
    param up:     [E, N, H]
    param down:   [E, H, N]
    param s:      [E]
    z   = x / (1 + norm(x))
    c   = each e in 0..E: sum(router[e] * z) / (1 + norm(router[e])) + s[e] * (router[e] @ x)
    p   = softmax(c)
    top = topk(p, K)
    fn expert(e) {
        h = each i in 0..N: up[e, i] @ x
        g = each i in 0..N: relu(sum(x * up[e, i]) + h[slot(i)])
        return each i in 0..H: down[e, i] @ g
    }
    return (sum e in top: p[e] * expert(e)) + each i in 0..H: x[slot(i)] * (x @ (up[0, 0] * 2))
}
"""


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_rows_are_multiplied_together(real: str) -> None:
    dims = {"H": 24, "N": 20, "E": 9, "K": 3}
    program = Compilation(Source("m", ROWS), Options.of({}, real, 1)).schedule()
    products = [len(stage.weights) for stage in program.walk() if isinstance(stage, plan.MatmulOp)]
    assert sum(products) >= 4  # the router with what is rounded to its type and with what is not, `up`, `down`
    agree_compiled(ROWS, dims, real)


#: Products that are written as sums.
SUMS: Final = {
    "rows": "sum j in 0..H: x[j] * t[e, j]",
    "some rows": "sum j in 2..H: t[e, j] * z[j] * s[e]",
    "rows, scaled twice": "sum j in 0..H: x[j] * (s[e] * t[e, j])",
    "rows along an axis": "sum((each j in 0..H: t[e, j] * z[j]), axis=0)",
    "elements": "each i in 0..N: sum j in 0..H: w[e, i, j] * x[j]",
    "elements of columns": "each i in 0..N: sum j in 0..H: z[j] * t[e, j, i] * p[e]",
    "elements along an axis": "each i in 0..N: sum(each j in 0..H: w[e, i, j] * z[j])",
}
SUM: Final = """\
moe m[H=24, N=20, E=5](x: [H]) -> [N] {{
    param router: [E, H]
    param w:      [E, N, H]
    param t:      [E, H, N]
    param s:      [E]
    p = softmax(router @ x)
    z = x / (1 + norm(x))
    return sum e in topk(p, 2): p[e] * ({sum})
}}
"""


@pytest.mark.parametrize("real", ["f32", "bf16"])
@pytest.mark.parametrize("total", SUMS.values(), ids=list(SUMS))
def test_sums_are_products(total: str, real: str) -> None:
    text, dims = SUM.format(sum=total), {"H": 24, "N": 20, "E": 5}
    (program,) = Compilation(Source("m", text), Options.of({}, real, 1)).schedule().body.block.ops
    assert isinstance(program, plan.ProgramOp)
    _, _, _, w, t, _ = program.body.block.args
    readers = [use.operation for use in (*w.uses, *t.uses)]
    assert readers and all(isinstance(reader, plan.MatmulOp) for reader in readers)
    agree_compiled(text, dims, real)


#: Sums that are none.
NO_PRODUCTS: Final = {
    "all with one factor": "sum j in 0..H: t[j] * s",
    "of parameters": "s * (sum j in 0..H: b[j] * t[j])",
    "of the token": "sum j in 0..H: x[j] * (each i in 0..N: x[j] * i)",
    "of functions of rows": "sum j in 0..H: x[j] * tanh(t[j])",
    "of chosen rows": "sum j in where(x > 0): x[j] * t[j]",
    "squares": "each i in 0..N: sum j in 0..H: t[j, i] * t[j, i]",
}


@pytest.mark.parametrize("total", NO_PRODUCTS.values(), ids=list(NO_PRODUCTS))
def test_other_sums_stay(total: str) -> None:
    text = f"moe m[H=24, N=20](x: [H], s: f32) -> [N] {{ param t: [H, N] param b: [H] return {total} }}"
    module = Compilation(Source("m", text), Options.of({}, "f32", 1)).simplify()
    weights = [op for op in module.walk() if isinstance(op, moe.ContractOp) and len(op.weight.type.get_shape()) > 1]
    assert not weights
    agree_compiled(text, {"H": 24, "N": 20}, "f32", 1)


#: Outer products, that are added up along the tokens, of what each token has.
OUTER: Final = {
    "of the token": "each e in 0..E: p[e] * x",
    "of some": "each e in 1..E: x * p[e]",
    "scaled twice": "each e in 0..E: p[e] * (s[e] * z)",
    "by what a slot has": "each e in 0..E: (if e in top then p[e] else 0) * z",
    "of a vector that is scaled": "each e in 0..E: p[e] * (x * x[1])",
}


@pytest.mark.parametrize("real", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("product", OUTER.values(), ids=list(OUTER))
def test_outer_products_are_not_made(product: str, real: str) -> None:
    text = f"""
    moe m[H=37, E=7](x: [H]) -> [H] {{
        param router: [E, H]
        param s:      [E]
        p   = softmax(router @ x)
        top = topk(p, 2)
        z   = x / (1 + norm(x))
        m   = sum({product}, axis=batch)
        return x + sum(m, axis=0)
    }}
    """
    program = Compilation(Source("m", text), Options.of({}, real, 1)).schedule()
    (work,) = [stage for stage in program.walk() if isinstance(stage, plan.BatchOp)]
    assert work.factors is not None
    agree_compiled(text, {"H": 37, "E": 7}, real)


#: What has to be made before it is added up.
NO_OUTER: Final = {
    "with one factor": "sum((each e in 0..E: x[0] * x), axis=batch)",
    "largest": "max((each e in 0..E: x[e] * x), axis=batch)",
    "of a vector of its own": "sum((each e in 0..E: x[e] * (x + e)), axis=batch)",
    "of the chosen": "sum((each e in 0..E: if x[e] > 0 then x[e] * x else 0), axis=batch)",
}


@pytest.mark.parametrize("work", NO_OUTER.values(), ids=list(NO_OUTER))
def test_other_sums_along_the_tokens_stay(work: str) -> None:
    text = f"moe m[H=19, E=5](x: [H]) -> [H] {{ return max({work}, axis=0) }}"
    program = Compilation(Source("m", text), Options.of({}, "f32", 1)).schedule()
    assert all(stage.factors is None for stage in program.walk() if isinstance(stage, plan.BatchOp))
    agree_compiled(text, {"H": 19, "E": 5}, "f32")


#: A matrix of the token, and its transpose.
COLUMNS: Final = """\
moe m[A=5, D=21](x: [A, D], v: [A], w: [D]) -> (y: [D], z: [A]) {
    m = x * 2
    return m.T @ v, m @ w
}
"""


@pytest.mark.parametrize("real", ["f32", "bf16"])
def test_columns_that_lie_together(real: str) -> None:
    agree_compiled(COLUMNS, {"A": 5, "D": 21}, real)
