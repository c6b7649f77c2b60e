"""One mistake for each code, and what moec says of it. docs/errors.md shows them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

import moec
from moec.binding.bind import bind_weights
from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.formats import encode, find_format
from moec.language.parse import parse
from moec.language.read import read
from moec.language.unused import unused
from moec.source import Source

LAYER: Final = "moe layer[H=8, E=4, K=2](x: [H]) -> [H] {\n    param router: [E, H]\n%s\n}\n"


def text(source: str) -> Callable[[], object]:
    """The mistake is in a text."""
    return lambda: elaborate(parse(Source("layer.moe", source)))


def body(*lines: str) -> Callable[[], object]:
    """The mistake is in the body of a layer."""
    return text(LAYER % "\n".join(f"    {line}" for line in lines))


def bytes_of(data: bytes) -> Callable[[], object]:
    """The mistake is in a file's bytes."""

    def run() -> object:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "layer.moe"
            path.write_bytes(data)
            return parse(read(path))

    return run


SMALL: Final = "moe small[H=4](x: [H]) -> [H] {\n    param w: [H]\n    return x * w\n}\n"
LOOKUP: Final = "moe lookup[H=4, N=3](x: [H], id: i64) -> [H] {\n    param table: [N, H]\n    return x + table[id]\n}\n"
EXPERTS: Final = """moe experts[H=8, E=4](x: [H], ids: i64[%s], w: f32[%s]) -> [H] {
    param up: [E, H, H]
    return sum e in given(ids, E): up[e] @ x
}
"""


def pack(**arrays: Any) -> Callable[[], object]:
    return lambda: moec.compile(SMALL, threads=1).pack(arrays)


def call(x: Any) -> Callable[[], object]:
    def run() -> object:
        kernel = moec.compile(SMALL, threads=1)
        return kernel(x, kernel.pack({"w": np.ones(4, np.float32)}))

    return run


def look_up() -> object:
    kernel = moec.compile(LOOKUP, threads=1)
    return kernel(np.zeros((1, 4), np.float32), np.array([3]), kernel.pack({"table": np.ones((3, 4), np.float32)}))


def warn() -> object:
    raise CompileError(*unused(parse(Source("layer.moe", SMALL.replace("x * w", "x")))))


def bind() -> object:
    file = parse(Source("layer.moe", SMALL + 'bind checkpoint {\n    w = "norm.weight"\n}\n'))
    return bind_weights(file, "checkpoint", {"norm.weights": np.ones(4)}, {"H": 4})


def checkpoint(write: Callable[[Path], object]) -> Callable[[], object]:
    """The mistake is in a file of weights."""

    def run() -> object:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.safetensors"
            write(path)
            return moec.compile(SMALL, threads=1).load(path)

    return run


def repacked() -> object:
    with tempfile.TemporaryDirectory() as directory:
        narrow, wide = (moec.compile(SMALL, dims={"H": size}, threads=1) for size in (4, 8))
        narrow.save(narrow.pack({"w": np.ones(4, np.float32)}), Path(directory) / "small.moepack")
        return wide.load(Path(directory) / "small.moepack")


def spread(*layers: str) -> object:
    """Ranks with such kernels."""
    from moec.integrations.distributed import Form, starts_of

    return starts_of([(Form.of(moec.compile(layer, threads=1)), 4) for layer in layers])


def trace() -> object:
    import torch

    from moec.integrations.transformers.trace import trace

    class Sorted(torch.nn.Module):
        def forward(self, gate: torch.Tensor) -> torch.Tensor:
            return gate.sort(-1).values

    return trace("activate", Sorted(), 8, torch.float32, Sorted(), "act_fn")


DOUBLED: Final = "fn f%d(v) = f%d(v) + f%d(v)\n"

CASES: Final[dict[str, Callable[[], object]]] = {
    "E0001": lambda: read("missing.moe"),
    "E0002": text("# nothing but this\n"),
    "E0003": bytes_of(b"#" * (1 << 20) + b"#"),
    "E0004": bytes_of(b"moe \xff"),
    "E0005": text("fn f(a) = " + "(" * 300 + "a" + ")" * 300),
    "E0006": text(f"fn f(a) = a * {'9' * 500}"),
    "E0007": text(
        "fn f0(v) = v * v\n" + "".join(DOUBLED % (i, i - 1, i - 1) for i in range(1, 15)) + LAYER % "    return f14(x)"
    ),
    "E0010": body("return x + + router x"),
    "E0011": body("return (x + 1"),
    "E0012": body("return x ^ 2"),
    "E0013": body("each = x", "return each"),
    "E0101": body("p = sofmax(router @ x)", "return x"),
    "E0102": body("p = router @ x", "p = softmax(p)", "return x"),
    "E0103": text("fn f(a) = f(a)\n" + LAYER % "    return f(x)"),
    "E0104": body("return clamp(x, 0)"),
    "E0105": text("fn f(a) = a\n"),
    "E0106": body("p = router @ x"),
    "E0107": text("moe layer[H=8](x: f8[H]) -> [H] {\n    return x\n}\n"),
    "E0201": body("return x + router @ x"),
    "E0202": body("g = split (router @ x) as [3, _]", "return x"),
    "E0203": body("top = topk(router @ x, 5)", "return x"),
    "E0204": body("top = topk(router @ x, K)", "return x * top"),
    "E0205": body("param up: [3, H, H]", "return sum e in topk(router @ x, K): up[e] @ x"),
    "E0206": text("moe layer[H=8, E=1 - 1](x: [H]) -> [H] {\n    return x\n}\n"),
    "E0207": body("return sum(x, axis=1) * x"),
    "E0208": body("return sum e in topk(router @ x, K): match e { 0: x, 2..E: 2 * x }"),
    "E0301": lambda: moec.compile("moe layer[H](x: [H]) -> [H] {\n    return x\n}\n"),
    "E0302": lambda: moec.compile(SMALL, dims={"HH": 8}),
    "E0303": lambda: moec.compile(SMALL, target="x86-64"),
    "E0304": lambda: moec.compile(SMALL, dtype="f64"),
    "E0305": lambda: moec.compile(SMALL, threads=1).inspect("pln"),
    "E0306": lambda: find_format("q4_k"),
    "E0401": pack(),
    "E0402": pack(w=np.ones(4, np.float32), v=np.ones(4, np.float32)),
    "E0403": pack(w=np.ones(5, np.float32)),
    "E0404": call(np.zeros((2, 4))),
    "E0405": bind,
    "E0406": look_up,
    "E0407": lambda: encode(find_format("q8_0"), np.full((2, 32), np.inf), "`down`"),
    "E0408": checkpoint(lambda path: path.write_bytes(b"\xff" * 16)),
    "E0409": repacked,
    "E0501": lambda: spread(SMALL),
    "E0502": lambda: spread(EXPERTS % ("1", "1"), EXPERTS % ("2", "2")),
    "E0902": trace,
    "W0001": warn,
}

#: Codes of what no input can show everywhere: E0901 is told where a machine lacks something, E0503 where one is lost.
WITHOUT: Final = {"E0503", "E0901"}


def told(code: str) -> str:
    """What moec says of the case of a code."""
    try:
        CASES[code]()
    except CompileError as error:
        found = [diagnostic.render() for diagnostic in error.diagnostics]
        return re.sub(rf"{tempfile.gettempdir()}/\w+/", "", "\n\n".join(found))
    raise AssertionError(f"{code}: nothing is wrong")
