"""Layers over stored weights: each format compared with the oracle on decoded weights, on every kind of machine."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moec
from moec.diagnostics import CompileError
from moec.formats import FORMATS, encode
from moec.formats.blocks import Blocks
from moec.measure.compare import TOLERANCES, errors
from moec.runtime.kernel import Kernel
from moec.runtime.stored import decoded
from tests.examples import EXAMPLES, load, random_weights
from tests.formats.test_formats import draw_coded, representable

DIMS: Final = {
    "mixtral": {"H": 256, "I": 512, "E": 5, "K": 2},
    "qwen2_moe": {"H": 256, "I": 256, "S": 512, "E": 6, "K": 3},
    "gpt_oss": {"H": 512, "I": 256, "E": 4, "K": 2},
    "deepseek_v3": {"H": 256, "I": 256, "E": 8, "K": 3, "G": 4, "KG": 2},
}
NUMPY: Final[dict[str, Any]] = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
#: A format for each way that codes and fields are laid out.
LAYOUTS: Final = ("int8", "q8_0", "q4_1", "q5_0", "q2_K", "q3_K", "q4_K", "q6_K", "int4_g64_zp", "int4_g128_bf16")
NAMES: Final = [*FORMATS]
FLOATS: Final = ("mxfp4", "nvfp4", "fp8", "fp8_block")


def arrays_of(layer: str, seed: int = 0) -> dict[str, Any]:
    return random_weights(load(layer), DIMS[layer], seed)


def check(kernel: Kernel, layer: str, dtype: str, arrays: dict[str, Any], tokens: int = 21) -> None:
    """The kernel gives what the oracle makes of the decoded weights, for many tokens and for few; and of few the same
    bits for one alone."""
    x = np.random.default_rng(3).standard_normal((tokens, DIMS[layer]["H"])).astype(NUMPY[dtype])
    packed = kernel.pack(arrays)
    y = kernel(x, packed)
    oracle = moec.reference(EXAMPLES / f"{layer}.moe", dims=DIMS[layer], dtype=dtype)
    truth = oracle.run((x,), weights=decoded(kernel.interface, arrays))
    few = np.concatenate([kernel(x[at : at + 2], packed) for at in range(0, tokens, 2)])
    assert truth.stable.any()
    for result in (y, few):
        assert errors(result, truth.outputs[0])[truth.stable].max() <= TOLERANCES[dtype]
    assert np.array_equal(kernel(x[5:6], packed).view(np.uint8), few[5:6].view(np.uint8))


@pytest.mark.parametrize("layer", DIMS)
@pytest.mark.parametrize("name", FORMATS)
def test_stored_weights_are_what_they_decode_to(layer: str, name: str) -> None:
    kernel = moec.compile(EXAMPLES / f"{layer}.moe", DIMS[layer], threads=1, storage=name)
    assert set(kernel.interface.storage.values()) == {name} and len(kernel.interface.storage) == 3
    check(kernel, layer, "f32", arrays_of(layer))


PRODUCT: Final = """
moe product[H, N](x: [H]) -> f32[N] {
    param w: [N, H]
    return w @ x
}
"""


@pytest.mark.parametrize(
    ("name", "dtype"), [*((n, "f32") for n in FORMATS), *((n, "bf16") for n in (*LAYOUTS, *FLOATS))]
)
def test_products_of_any_blocks(name: str, dtype: str) -> None:
    """Codes of every kind, scales of any finite size, zeros, subnormals: what they decode to is what is multiplied."""
    k, n = 512 if FORMATS[name].block == 256 else 320, 70
    kernel = moec.compile(PRODUCT, {"H": k, "N": n}, dtype, threads=1, storage={"w": name})
    x = np.random.default_rng(0).standard_normal((65, k)).astype(NUMPY[dtype])

    @settings(max_examples=12, deadline=None)
    @given(st.data())
    def hold(data: Any) -> None:
        coded = representable(draw_coded(data, name, n, k))
        rows = x[: data.draw(st.sampled_from([1, 4, 65]))].astype(np.float64)
        y = kernel(x[: len(rows)], kernel.pack({"w": Blocks(coded.shape, name, lambda _: coded)}))
        _, offset = coded.factors
        span = coded.layout.span or k
        terms = np.abs(coded.decode().astype(np.float64))
        if offset is not None:
            terms += 2 * np.repeat(np.abs(offset.astype(np.float64)), span, axis=1)[:, :k]
        rounding = (4e-6 if dtype == "f32" else 2.0**-8) * np.abs(rows) @ terms.T + 1e-30
        assert (np.abs(y - rows @ coded.decode().astype(np.float64).T) <= rounding).all()

    hold()


@pytest.mark.parametrize("layer", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("names", [NAMES[i : i + 2] for i in range(0, len(NAMES), 2)], ids="-".join)
def test_bf16(names: list[str], layer: str) -> None:
    storage = {"experts": names[0], "down": names[-1]}
    check(
        moec.compile(EXAMPLES / f"{layer}.moe", DIMS[layer], "bf16", 1, storage=storage),
        layer,
        "bf16",
        arrays_of(layer),
    )


@pytest.mark.parametrize("layer", ["qwen2_moe", "deepseek_v3"])
@pytest.mark.parametrize("names", [NAMES[i : i + 4] for i in range(0, len(NAMES), 4)], ids="-".join)
def test_bf16_beside_shared_experts(names: list[str], layer: str) -> None:
    a, b, c, d = (names * 4)[:4]
    storage = {"experts": a, "down": b, "shared_gate": c, "shared_up": c, "shared_down": d}
    check(
        moec.compile(EXAMPLES / f"{layer}.moe", DIMS[layer], "bf16", 1, storage=storage),
        layer,
        "bf16",
        arrays_of(layer),
    )


@pytest.mark.parametrize("name", [*LAYOUTS, *FLOATS])
def test_f16(name: str) -> None:
    kernel = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], "f16", threads=1, storage=name)
    check(kernel, "mixtral", "f16", arrays_of("mixtral"))


@pytest.mark.parametrize("cpu", ["x86-64", "haswell", "skylake-avx512"])
@pytest.mark.parametrize("name", [*LAYOUTS, *FLOATS])
def test_other_machines(name: str, cpu: str) -> None:
    host = moec.Target.host()
    target = moec.Target.of(host.triple, cpu) if host.architecture == "x86_64" else host
    if not target.runs_on(host):
        target = host
    dtype = "f32" if cpu == "x86-64" else "bf16"
    kernel = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], dtype, threads=1, target=target, storage=name)
    check(kernel, "mixtral", dtype, arrays_of("mixtral"))


def test_parameters_may_have_formats_of_their_own() -> None:
    storage = {"gate": "q4_K", "up": "q4_K", "down": "q6_K", "shared_down": "int8", "shared_gate": "mxfp4"}
    kernel = moec.compile(EXAMPLES / "deepseek_v3.moe", DIMS["deepseek_v3"], threads=2, storage=storage)
    assert kernel.interface.storage == storage
    check(kernel, "deepseek_v3", "f32", arrays_of("deepseek_v3"))


def test_gate_and_up_in_different_formats() -> None:
    storage = {"gate": "q4_0", "up": "q8_0", "experts": "q5_1"}
    kernel = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], threads=1, storage=storage)
    assert kernel.interface.storage == {"gate": "q4_0", "up": "q8_0", "down": "q5_1"}
    check(kernel, "mixtral", "f32", arrays_of("mixtral"))


def test_packing_chooses_the_storage() -> None:
    kernel = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], threads=1)
    stored = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], threads=1, storage="q4_0")
    arrays, x = arrays_of("mixtral"), np.ones((3, 256), np.float32)
    packed = kernel.pack(arrays, storage="q4_0")
    assert packed.nbytes < 0.2 * kernel.pack(arrays).nbytes
    assert np.array_equal(kernel(x, packed), stored(x, stored.pack(arrays)))
    assert not np.array_equal(kernel(x, packed), kernel(x, kernel.pack(arrays)))


def test_blocks_are_packed_as_they_come() -> None:
    """A parameter that comes in its format is not encoded again."""
    kernel = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], threads=1, storage="q4_K")
    arrays, given = arrays_of("mixtral"), arrays_of("mixtral")
    for name in ("gate", "up", "down"):
        matrices = [encode(FORMATS["q4_K"], matrix, name) for matrix in arrays[name]]
        given[name] = Blocks(arrays[name].shape, "q4_K", matrices.__getitem__)
    x = np.ones((2, 256), np.float32)
    assert np.array_equal(kernel(x, kernel.pack(given)), kernel(x, kernel.pack(arrays)))
    with pytest.raises(CompileError, match="comes as q4_K, not as q4_0"):
        kernel.pack(given, storage="q4_0")


VIEWS: Final = """
moe fused[H=64, I=32, E=3, K=2](x: [H]) -> [H] {
    param router:  [E, H]
    param gate_up: [E, 2 * I, H]
    param down:    [E, H, I]
    top = topk(router @ x, K)
    return sum e in top: down[e] @ (silu(gate_up[e][1::2] @ x) * (gate_up[e][0::2] @ x))
}
"""


def test_views_of_rows_of_blocks() -> None:
    kernel = moec.compile(VIEWS, threads=1, storage={"gate_up": "nvfp4", "down": "q4_0"})
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {p.name: random.standard_normal(p.shape, np.float32) for p in kernel.interface.params}
    x = random.standard_normal((9, 64), np.float32)
    truth = moec.reference(VIEWS).run((x,), weights=decoded(kernel.interface, arrays))
    assert errors(kernel(x, kernel.pack(arrays)), truth.outputs[0])[truth.stable].max() <= 2e-5


#: Experts along an axis that is not the first.
INNER: Final = """
moe inner[H=64, I=96, E=4, K=2](x: [H]) -> [H] {
    param router: [E, H]
    param up:     [I, E, H]
    param down:   [H, E, I]
    return sum e in topk(router @ x, K): down[:, e] @ relu(up[:, e] @ x)
}
"""


@pytest.mark.parametrize("name", ["q8_0", "int8", "nvfp4"])
def test_experts_along_an_inner_axis(name: str) -> None:
    kernel = moec.compile(INNER, threads=1, storage=name)
    assert dict(kernel.interface.storage) == {"up": name, "down": name}
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {p.name: random.standard_normal(p.shape, np.float32) for p in kernel.interface.params}
    x = random.standard_normal((9, 64), np.float32)
    truth = moec.reference(INNER).run((x,), weights=decoded(kernel.interface, arrays))
    assert errors(kernel(x, kernel.pack(arrays)), truth.outputs[0])[truth.stable].max() <= 2e-5


LAYER: Final = """
moe layer[H=64, E=4, K=2](x: [H]) -> [H] {
    param router: [E, H]
    param w:      [E, H, H]
    param bias:   [E, H]
    return sum e in topk(router @ x, K): %s
}
"""


@pytest.mark.parametrize(
    ("body", "storage", "says"),
    [
        ("w[e].T @ x", {"w": "q8_0"}, "`w` cannot be stored as q8_0: it is transposed"),
        ("bias[e] * sum(w[:, :, e] @ x)", {"w": "q8_0"}, "`w` cannot be stored as q8_0"),
        ("bf16(w[e]) @ x", {"w": "q8_0"}, "rounded or computed with"),
        ("w[e][:, :32] @ x[:32]", {"w": "q8_0"}, "not only multiplied"),
        ("w[e] @ x + bias[e]", {"bias": "q8_0"}, "`bias` cannot be stored as q8_0"),
        ("w[e] @ x", {"w": "q4_K"}, "64 weights, not a multiple of 256"),
        ("w[e] @ x", {"v": "q4_0"}, "`v` is not a weight"),
        ("w[e] @ x", "q4", "`q4` is not a storage format"),
    ],
)
def test_what_cannot_be_stored_is_named(body: str, storage: Any, says: str) -> None:
    with pytest.raises(CompileError, match=says):
        moec.compile(LAYER % body, threads=1, storage=storage)
