"""Quantised activations: what they are, the products with every format of integers, and the bound of their error."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import moec
from moec.diagnostics import CompileError
from moec.formats import FORMATS
from moec.formats.activations import SMALLEST
from moec.formats.blocks import Blocks
from moec.formats.layout import Coded
from moec.language.read import find_source
from moec.measure.compare import TOLERANCES_QUANTIZED, errors
from moec.oracle.functions import quantized
from moec.runtime.kernel import Kernel
from moec.runtime.stored import decoded
from tests.examples import EXAMPLES
from tests.formats.test_formats import draw_coded, representable
from tests.formats.test_storage import DIMS, NUMPY, arrays_of

INTEGERS: Final = [name for name, format in FORMATS.items() if format.layout.center is not None]
#: Every format of integers, two and four of them a layer.
TWOS: Final = [INTEGERS[i : i + 2] for i in range(0, len(INTEGERS), 2)]
FOURS: Final = [INTEGERS[i : i + 4] for i in range(0, len(INTEGERS), 4)]
K, N = 320, 70

PRODUCT: Final = """
moe product[H, N](x: [H]) -> f32[N] {
    param w: [N, H]
    return w @ x
}
"""


# ── what they are ─────────────────────────────────────────────────────────────────────────────────────────────────────

_FLOATS: Final = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1e-45, 2.0**-100, 1.0, 127.0])


def rows_quantized(x: Any, block: int) -> Any:
    """What the oracle leaves of each row."""
    return np.stack([quantized(row, block) for row in x])


def largest(x: Any, block: int) -> Any:
    """The largest magnitude of each element's block."""
    count = x.shape[1]
    blocks = np.pad(np.abs(x), ((0, 0), (0, -count % block))).reshape(len(x), -1, block)
    return np.repeat(blocks.max(-1), block, axis=1)[:, :count]


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, (2, 100), elements=_FLOATS), st.sampled_from([64, 128, 256]))
def test_an_element_is_half_a_step_away(x: Any, block: int) -> None:
    most = largest(x, block)
    bound = np.where(most < SMALLEST, most, most / 254 * (1 + 1e-4))
    assert (np.abs(rows_quantized(x, block) - x) <= bound).all()


def test_blocks_are_as_long_as_weights_share_a_scale() -> None:
    """From 64 to 256."""
    lengths = {name: FORMATS[name].layout.shared for name in INTEGERS}
    assert {name for name, length in lengths.items() if length == 256} == {"int8"}
    assert {name for name, length in lengths.items() if length == 128} == {n for n in INTEGERS if "_g128" in n}
    assert set(lengths.values()) == {64, 128, 256}


# ── products ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def product(name: str, k: int = K, cpu: str = "native", threads: int = 1, dtype: str = "f32") -> Kernel:
    host = moec.Target.host()
    machine, _, gone = cpu.partition(" -")
    target = host if machine == "native" else moec.Target.of(host.triple, machine)
    target = target.without(gone) if gone else target
    storage, dims = {"w": name}, {"H": k, "N": N}
    return moec.compile(PRODUCT, dims, dtype, threads, target, storage=storage, activations="int8")


def multiply(kernel: Kernel, name: str, x: Any, coded: Coded) -> Any:
    return kernel(x, kernel.pack({"w": Blocks(coded.shape, name, lambda _: coded)}))


def hold(y: Any, x: Any, coded: Coded) -> None:
    """Products are those of the quantised rows but for what f32 rounds, so within the bound of the exact ones."""
    block = coded.layout.shared
    rows, weights = rows_quantized(x, block), np.abs(coded.decode().astype(np.float64))
    truth = rows @ coded.decode().astype(np.float64).T
    (offsets, _), span = _parts(coded), coded.layout.span or coded.shape[1]
    terms = weights + 2 * np.repeat(offsets, span, axis=1)[:, : coded.shape[1]]
    rounding = 4e-6 * np.abs(rows) @ terms.T + 1e-30
    assert (np.abs(y - truth) <= rounding).all()
    steps = largest(x.astype(np.float64), block)
    bound = np.where(steps < SMALLEST, steps, steps / 254 * (1 + 1e-4)) @ weights.T
    assert (np.abs(y - x.astype(np.float64) @ coded.decode().astype(np.float64).T) <= bound + rounding).all()


def _parts(coded: Coded) -> tuple[Any, Any]:
    """The magnitudes of offsets and scales: sums in which they cancel are rounded as they are large."""
    scale, offset = coded.factors
    return np.abs(np.zeros_like(scale) if offset is None else offset).astype(np.float64), np.abs(scale)


@pytest.mark.parametrize("name", INTEGERS)
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_products_of_any_blocks(name: str, data: Any) -> None:
    """Codes of every kind, scales of any finite size, zeros, subnormals; rows with zeros and outliers."""
    k = 512 if FORMATS[name].block == 256 else K
    coded = representable(draw_coded(data, name, N, k))
    rows = data.draw(st.sampled_from([1, 2, 65]))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x = random.standard_normal((rows, k)).astype(np.float32)
    x *= data.draw(st.sampled_from([0.0, 1e-38, 1e-20, 1.0, 1e4]))
    x[:, :: data.draw(st.integers(1, 90))] *= data.draw(st.sampled_from([0.0, 1.0, 1000.0]))
    hold(multiply(product(name, k), name, x, coded), x, coded)


@pytest.mark.parametrize(
    "cpu", ["x86-64", "haswell", "skylake-avx512", "cascadelake", "native -vectors", "native -avx2", "native -avx512f"]
)
@pytest.mark.parametrize("name", ["int8", "int4_g128_zp", "q4_K", "q3_K", "nvfp4"])
def test_other_machines(name: str, cpu: str) -> None:
    host, machine = moec.Target.host(), cpu.partition(" ")[0]
    if machine != "native" and not (
        host.architecture == "x86_64" and moec.Target.of(host.triple, machine).runs_on(host)
    ):
        cpu = "native"
    random = np.random.default_rng(5)
    dense = random.standard_normal((N, 512), np.float32)
    coded, x = FORMATS[name].encode(dense), random.standard_normal((9, 512), np.float32)
    y = multiply(product(name, 512, cpu), name, x, coded)
    hold(y, x, coded)


@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "riscv64-linux-gnu"])
def test_machines_of_other_kinds_have_code(target: str) -> None:
    options = moec.options.Options.of({"H": 64, "N": 64}, target=target, storage={"w": "mxfp4"}, activations="int8")
    assert moec.pipeline.Compilation(find_source(PRODUCT), options).image


@pytest.mark.parametrize("k", [1, 63, 65, 130, 256, 300, 530])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_rows_that_end_inside_a_block(k: int, dtype: str) -> None:
    random = np.random.default_rng(k)
    coded = FORMATS["int8"].encode(random.standard_normal((N, k), np.float32))
    x = random.standard_normal((3, k)).astype(NUMPY[dtype])
    hold(multiply(product("int8", k, dtype=dtype), "int8", x, coded), x, coded)


def test_bits_depend_on_nothing_else() -> None:
    """Neither on the rows beside, nor on threads, nor on the run."""
    random = np.random.default_rng(0)
    x = random.standard_normal((200, DIMS["mixtral"]["H"]), np.float32)
    file, arrays = EXAMPLES / "mixtral.moe", arrays_of("mixtral")
    one, two = (moec.compile(file, DIMS["mixtral"], threads=n, storage="q4_K", activations="int8") for n in (1, 2))
    packed = one.pack(arrays)
    y = one(x, packed)
    assert np.array_equal(y, one(x, packed)) and np.array_equal(y, two(x, packed))
    assert np.array_equal(y[77:78], one(x[77:78], packed)) and np.array_equal(y[50:120], two(x[50:120], packed))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_reaches_every_sum(bad: float) -> None:
    coded = FORMATS["q4_0"].encode(np.ones((N, K), np.float32))
    x = np.ones((3, K), np.float32)
    x[1, 5] = bad
    y = multiply(product("q4_0"), "q4_0", x, coded)
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


# ── layers ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check(layer: str, dtype: str, storage: dict[str, str]) -> None:
    """The kernel gives what the oracle does that quantises as it does; and quantising costs no more than it should."""
    kernel = moec.compile(EXAMPLES / f"{layer}.moe", DIMS[layer], dtype, 1, storage=storage, activations="int8")
    assert kernel.activations == "int8" and set(kernel.interface.storage) == set(kernel.interface.quantized)
    arrays = arrays_of(layer)
    x = np.random.default_rng(3).standard_normal((9, DIMS[layer]["H"])).astype(NUMPY[dtype])
    y = kernel(x, kernel.pack(arrays))
    truth = decoded(kernel.interface, arrays)
    alike = moec.reference(EXAMPLES / f"{layer}.moe", DIMS[layer], dtype, kernel.interface.quantized)
    result = alike.run((x,), weights=truth)
    assert result.stable.any()
    assert errors(y, result.outputs[0])[result.stable].max() <= TOLERANCES_QUANTIZED[dtype]
    real = moec.reference(EXAMPLES / f"{layer}.moe", DIMS[layer], dtype).run((x,), weights=truth)
    error = errors(y, real.outputs[0])[real.stable]
    assert 1e-4 < error.max() <= 5e-2


@pytest.mark.parametrize("layer", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("names", TWOS, ids="-".join)
def test_every_format_of_integers(layer: str, names: list[str]) -> None:
    check(layer, "f32", {"experts": names[0], "down": names[-1]})


@pytest.mark.parametrize("layer", ["qwen2_moe", "deepseek_v3"])
@pytest.mark.parametrize("names", FOURS, ids="-".join)
def test_every_format_of_integers_beside_shared_experts(layer: str, names: list[str]) -> None:
    a, b, c, d = (names * 4)[:4]
    check(layer, "f32", {"experts": a, "down": b, "shared_gate": c, "shared_up": c, "shared_down": d})


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_sixteen_bits(dtype: str) -> None:
    check("deepseek_v3", dtype, {"experts": "q4_K", "shared_gate": "int8", "shared_up": "int8", "shared_down": "q8_0"})


@pytest.mark.parametrize("name", ["fp8", "fp8_block"])
def test_floats_of_eight_bits_stay_real(name: str) -> None:
    with pytest.raises(CompileError, match="are no integers") as caught:
        product(name)
    assert "activations" in (caught.value.diagnostics[0].help or "")


def test_only_stored_weights_take_quantised_vectors() -> None:
    kernel = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], threads=1, activations="int8")
    assert kernel.activations == "real"
    arrays, x = arrays_of("mixtral"), np.ones((2, 256), ml_dtypes.bfloat16).astype(np.float32)
    stored = moec.compile(EXAMPLES / "mixtral.moe", DIMS["mixtral"], threads=1, activations="int8", storage="q8_0")
    assert np.array_equal(kernel(x, kernel.pack(arrays, storage="q8_0")), stored(x, stored.pack(arrays)))
