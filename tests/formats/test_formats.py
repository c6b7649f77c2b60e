"""Every format: its blocks mean what the `gguf` package says, nothing is lost, and encoding rounds to nearest."""

from __future__ import annotations

from typing import Any, Final

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moec.diagnostics import CompileError
from moec.formats import FORMATS, encode, find_format, finite
from moec.formats.layout import KINDS, TABLES, Coded
from moec.formats.panels import PanelLayout

#: Formats that the `gguf` package decodes, and those of them that it encodes.
GGUF: Final = [name for name, format in FORMATS.items() if format.split is not None]
ENCODED: Final = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4"]

#: Numbers that a scale may be: also zero, negative zero, the smallest subnormal, the largest finite.
EXTREMES: Final = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x7BFF, 0xFBFF, 0x3C00)


def package_type(name: str) -> Any:
    return gguf.GGMLQuantizationType[name.upper()]


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


@st.composite
def blocks(draw: Any, name: str) -> Any:
    """Bytes [2, 2, nbytes]: anything, or all alike (saturated codes), sometimes with extreme halves laid over."""
    format = FORMATS[name]
    shape = (2, 2, int(format.nbytes))
    data = draw(
        st.one_of(
            hnp.arrays(np.uint8, shape),
            st.sampled_from([0, 255, 15, 240]).map(lambda byte: np.full(shape, byte, np.uint8)),
        )
    ).copy()
    for at in draw(st.lists(st.integers(0, shape[2] // 2 - 1), max_size=4)):
        half = np.array([draw(st.sampled_from(EXTREMES))], np.uint16).view(np.uint8)
        data[..., 2 * at : 2 * at + 2] = half
        if shape[2] > 80:  # the scales of the larger blocks stand first or last
            data[..., -2:] = half
    return data


@pytest.mark.parametrize("name", GGUF)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_mean_what_the_package_says(name: str, data: Any) -> None:
    raw, format = data.draw(blocks(name)), FORMATS[name]
    assert format.split is not None and format.join is not None
    coded = format.split(raw)
    with np.errstate(all="ignore"):
        truth = gguf.dequantize(raw.reshape(2, -1), package_type(name))
    decoded = coded.decode()
    assert same_bits(decoded + np.float32(0), truth + np.float32(0))  # of a zero the sign may differ
    assert np.array_equal(format.join(coded), raw), "a bit was lost"


@pytest.mark.parametrize("name", ENCODED)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_encoding_gives_the_bits_of_the_package(name: str, data: Any) -> None:
    elements = st.floats(-60000, 60000, width=32)
    dense = data.draw(hnp.arrays(np.float32, (2, 64), elements=elements))
    # With smaller ones the package's inverse scales overflow, and its exponents wrap around.
    dense[np.abs(dense) < 1e-28] = 0
    format = FORMATS[name]
    assert format.join is not None
    with np.errstate(all="ignore"):
        truth = gguf.quantize(dense, package_type(name))
        mine = format.join(format.encode(dense)).reshape(2, -1)
    assert np.array_equal(mine, truth)


@pytest.mark.parametrize("name", GGUF)
def test_places_are_those_of_the_fields_that_may_be_no_number(name: str) -> None:
    format = FORMATS[name]
    assert format.split is not None
    kinds = {field.name: field.kind for field in format.layout.fields}
    assert set(format.places) == {name for name, kind in kinds.items() if kind not in ("u8", "i8")}
    for field, place in format.places.items():
        raw = np.zeros((3, 2, int(format.nbytes)), np.uint8)
        size = KINDS[kinds[field]].itemsize
        raw[2, 1, place : place + size] = 255  # a NaN in f16 and in e8m0
        assert format.split(raw).wrong() == f"a {field.replace('_', ' ')} of row 2 is not finite"


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_what_is_not_finite_is_seen_wherever_it_stands(kind: Any) -> None:
    weights = np.full((300, 301), np.finfo(np.float16).max, kind)
    weights[7, 8] = -0.0
    finite(FORMATS["q8_0"], weights.T[::-1], "w")
    for bad in (np.inf, -np.inf, np.nan):
        weights[299, 300] = bad
        with pytest.raises(CompileError, match="w holds a weight that is not finite"):
            finite(FORMATS["q8_0"], weights.T[::-1], "w")


#: Bits that a field may have: zero, negative zero, the smallest, the largest subnormal, one, the largest finite.
EDGES: Final[dict[str, tuple[int, ...]]] = {
    "f16": EXTREMES,
    "bf16": (0x0000, 0x8000, 0x0001, 0x007F, 0x3F80, 0x7F7F, 0xFF7F),
    "f32": (0x00000000, 0x80000000, 0x00000001, 0x007FFFFF, 0x3F800000, 0x7F7FFFFF, 0xFF7FFFFF),
    "e8m0": (0, 1, 2, 127, 254),
    "e4m3": (0x00, 0x80, 0x01, 0x07, 0x7E, 0xFE),
    "u8": (0, 1, 15, 63, 255),
    "i8": (0, 1, 127, 128, 255),
}


def representable(coded: Coded) -> Coded:
    """The same with scales of at most 2^60 or so: of larger ones f32 cannot hold the products."""
    fields = dict(coded.fields)
    for field in coded.layout.fields:
        numbers = fields[field.name]
        if field.kind == "e8m0":
            fields[field.name] = numbers.clip(0, 180)
        elif field.kind == "e4m3":
            fields[field.name] = np.where(numbers & 0x7F == 0x7F, np.uint8(0), numbers)
        elif field.kind in ("f32", "bf16"):
            fields[field.name] = np.where(np.abs(numbers.astype(np.float64)) > 2.0**60, numbers.dtype.type(1), numbers)
    codes = coded.codes
    if coded.layout.values == "e4m3":
        codes = np.where(codes & 0x7F == 0x7F, np.uint8(0x7E), codes)
    return Coded(coded.layout, codes, fields)


def draw_coded(data: Any, name: str, n: int, k: int) -> Coded:
    """A matrix of arbitrary finite content in a format; now and then codes are all alike, fields at their edges."""
    layout, random = FORMATS[name].layout, np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    fields: dict[str, Any] = {}
    for field in layout.fields:
        shape, kind = (n, field.entries(k)), KINDS[field.kind]
        content = random.integers(0, 256, (*shape, kind.itemsize), np.uint8).view(kind)[..., 0]
        if kind.kind not in "iu":
            content = np.where(np.isfinite(content.astype(np.float32)), content, kind.type(1))
        if data.draw(st.booleans()):
            word = np.dtype(f"u{kind.itemsize}")
            edges = np.array(EDGES[field.kind], word).view(kind)
            content = np.where(random.random(shape) < 0.3, random.choice(edges, shape), content)
        fields[field.name] = content.astype(kind)
    codes = random.integers(0, 1 << layout.bits, (n, k), np.uint8)
    alike = data.draw(st.sampled_from([None, None, 0, (1 << layout.bits) - 1]))
    return Coded(layout, codes if alike is None else np.full_like(codes, alike), fields)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_panels_lose_nothing(name: str, data: Any) -> None:
    format = FORMATS[name]
    n = data.draw(st.integers(1, 70))
    unit = format.block if format.whole else 1
    k = unit * data.draw(st.integers(1, 3 if unit > 1 else 300))
    parts = data.draw(st.sampled_from([1, 2]))
    columns = data.draw(st.sampled_from([4, 16, 48, 64]))
    matrices = [draw_coded(data, name, n, k) for _ in range(parts)]
    place = PanelLayout(format.layout, columns, n, k, parts)
    out = np.full(place.nbytes, 0xAA, np.uint8)
    place.pack(matrices, out)
    for before, after in zip(matrices, place.unpack(out), strict=True):
        assert np.array_equal(before.codes, after.codes)
        for field, numbers in before.fields.items():
            assert numbers.tobytes() == np.ascontiguousarray(after.fields[field]).tobytes(), field


@pytest.mark.parametrize("name", FORMATS)
def test_panels_take_hardly_more_than_the_format(name: str) -> None:
    format = FORMATS[name]
    place = PanelLayout(format.layout, 64, 128, 1024, 2)
    assert (
        place.nbytes * 8 / (128 * 1024 * 2) <= format.bits * 1.05 + 0.4
    )  # q2_K gives its scales of four bits a byte each


#: The largest error of a weight, relative to the largest magnitude of its row, by what codes stand for and their bits.
COARSENESS: Final = {
    ("integer", 2): 0.5,
    ("integer", 3): 0.27,
    ("integer", 4): 0.16,
    ("integer", 5): 0.08,
    ("integer", 6): 0.04,
    ("integer", 8): 0.01,
    ("e2m1", 4): 0.26,  # mxfp4 cuts off what lies beyond 6 of 8
    ("iq4", 4): 0.12,  # between 113 and 127 there is nothing
    ("e4m3", 8): 0.07,  # fp8_block: the largest of the block may stand in another row
}


@pytest.mark.parametrize("name", FORMATS)
def test_an_encoded_matrix_is_near(name: str) -> None:
    format = FORMATS[name]
    dense = np.random.default_rng(1).standard_normal((130, 512), np.float32)
    dense[3] = 0
    dense[4, 1:] = 0
    coded = encode(format, dense, "w")
    error = np.abs(coded.decode() - dense).max(1) / np.maximum(np.abs(dense).max(1), 1e-30)
    assert error.max() <= COARSENESS[format.layout.values, format.layout.bits]
    assert error[3] == 0


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_no_code_is_nearer_than_the_one_chosen(name: str, data: Any) -> None:
    """Given the scales, every weight has the nearest code, but for what formulas of the origin round otherwise."""
    format = FORMATS[name]
    scale = data.draw(st.sampled_from([1.0, 3e-2, 100.0]))
    seed = data.draw(st.integers(0, 1000))
    dense = (np.random.default_rng(seed).standard_normal((2, 256)) * scale).astype(np.float32)
    coded = encode(format, dense, "w")
    error = np.abs(coded.decode() - dense)
    nearest = np.full(error.shape, np.inf)
    for code in range(1 << format.layout.bits):
        if format.layout.values == "e4m3" and code & 0x7F == 0x7F:
            continue
        other = Coded(coded.layout, np.full_like(coded.codes, code), coded.fields).decode()
        nearest = np.minimum(nearest, np.abs(other - dense))
    slack = 4e-3 * np.abs(dense).max()  # a scale is rounded to f16 after the codes are chosen
    assert (error <= nearest + slack).all()


def test_e2m1_and_e4m3_are_those_of_ml_dtypes() -> None:
    codes = np.arange(16, dtype=np.uint8)
    truth = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert np.array_equal(TABLES["e2m1"], 2 * truth)


def test_a_format_that_is_none_is_named() -> None:
    with pytest.raises(CompileError, match="did you mean `q4_K`"):
        find_format("q4_k")


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("q4_0", np.ones((2, 33)), "multiple of 32"),
        ("q4_K", np.ones((2, 128)), "multiple of 256"),
        ("int8", np.full((2, 32), np.nan), "not finite"),
        ("q8_0", np.full((2, 32), 1e30), "a scale of row 0 is not finite"),
        ("q6_K", np.full((1, 256), 1e30), "a super of row 0 is not finite"),
    ],
)
def test_what_cannot_be_stored(name: str, weights: Any, says: str) -> None:
    with pytest.raises(CompileError, match=says):
        encode(FORMATS[name], weights.astype(np.float32), "w")
