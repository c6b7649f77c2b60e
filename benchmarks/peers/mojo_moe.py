"""Mojo: the layer of `mojo/moe.mojo`, built for its dimensions as a shared library when it is prepared.

`library`: products by the library that comes with Mojo's MAX, with matrices that it packed. `hand`: by the kernel that
stands in the file.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peer import Layer, Program, Run, serve, widened

_SOURCE = Path(__file__).parent / "mojo" / "moe.mojo"
_MODULAR = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages/modular"
_ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh")
#: Biases, and the dimension that each is as long as.
_BIASES = {"up_bias": "I", "down_bias": "H"}
#: What the shared library needs in the process: it is linked to some of them, and expects the others.
_RUNTIME = ("AsyncRTRuntimeGlobals", "MSupportGlobals", "KGENCompilerRTShared", "AsyncRTMojoBindings")


@cache
def start_runtime() -> None:
    """What `main` of a Mojo program does first: the threads that its library shares."""
    loaded = [ctypes.CDLL(str(_MODULAR / "lib" / f"lib{name}.so"), ctypes.RTLD_GLOBAL) for name in _RUNTIME]
    create = loaded[2].KGEN_CompilerRT_AsyncRT_GetOrCreateCPUDevice
    create.restype = ctypes.c_void_p
    create()


def build(layer: Layer, library: bool) -> ctypes.CDLL:
    """The layer as a shared library, kept in the environment from one run to the next."""
    defines = {
        **{name: getattr(layer, name) for name in "HIEK"},
        "BF16": layer.dtype == "bf16",
        "GATED": layer.gated,
        "NORMALISED": layer.normalised,
        "ACTIVATION": _ACTIVATIONS.index(layer.activation),
        "LIBRARY": library,
    }
    flags = [part for name, value in defines.items() for part in ("-D", f"{name}={int(value)}")]
    key = hashlib.sha256((_SOURCE.read_text() + " ".join(flags)).encode()).hexdigest()[:16]
    path = Path(sys.prefix) / "built" / f"moe-{key}.so"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.so")
        command = [str(Path(sys.prefix) / "bin" / "mojo"), "build", str(_SOURCE), "--emit", "shared-lib", *flags]
        done = subprocess.run([*command, "-o", str(aside)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                next((line for line in done.stderr.splitlines() if "error:" in line), done.stderr[-200:])
            )
        aside.replace(path)
    start_runtime()
    return ctypes.CDLL(str(path))


def aligned(count: int, dtype: Any) -> np.ndarray:
    """Room that begins at a cache line, as the library wants it; pages are touched when they are written."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(count * itemsize + 64, np.uint8)
    return raw[-raw.ctypes.data % 64 :][: count * itemsize].view(dtype)


def address(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(0 if array is None else array.ctypes.data)


def pack(code: ctypes.CDLL, matrices: np.ndarray) -> np.ndarray:
    """Matrices [E, n, k], one packed behind the other."""
    n, k = matrices.shape[1:]
    code.packed_count.restype = ctypes.c_ssize_t
    size = code.packed_count(ctypes.c_ssize_t(n), ctypes.c_ssize_t(k))
    packed = aligned(len(matrices) * size, matrices.dtype)
    for e, matrix in enumerate(matrices):
        code.pack(address(matrix), address(packed[e * size :]), ctypes.c_ssize_t(n), ctypes.c_ssize_t(k))
    return packed


def room(layer: Layer, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What lies between x and y, for so many tokens: f32, the layer's own type, and integers."""
    slots = tokens * layer.K
    floats = tokens * (layer.E + layer.H) + slots * (1 + 2 * layer.I + layer.H)
    real = np.float32 if layer.dtype == "f32" else np.uint16
    wide = aligned(floats + 64, np.float32), aligned(slots * (layer.H + layer.I) + 64, real)
    return *wide, aligned(2 * slots + 3 * layer.E + 1, np.int64)


def prepare(library: bool, layer: Layer, weights: Mapping[str, np.ndarray]) -> Run:
    code = build(layer, library)
    router = pack(code, weights["router"][None])
    names = ("gate", "up", "down") if layer.gated else ("up", "down")
    packed = {name: pack(code, weights[name]) for name in names}
    biases = {name: bias(layer, weights, name) for name in _BIASES}
    biased = any(name in weights for name in _BIASES)
    rooms: dict[int, tuple[np.ndarray, ...]] = {}
    given = [router, packed.get("gate"), packed["up"], packed["down"], biases["up_bias"], biases["down_bias"]]
    matrices = [address(array) for array in given]

    def run(x: np.ndarray) -> np.ndarray:
        tokens = len(x)
        if tokens not in rooms:
            rooms.clear()
            rooms[tokens] = room(layer, tokens)
        y = np.empty_like(x)
        sizes = [ctypes.c_ssize_t(value) for value in (tokens, biased, layer.threads)]
        places = [address(array) for array in rooms[tokens]]
        code.moe(address(x), address(y), sizes[0], *matrices, sizes[1], *places, sizes[2])
        return y

    run.weights = given  # what the addresses point to
    return run


def bias(layer: Layer, weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A bias of every expert in f32; zeros where the layer has none."""
    if name not in weights:
        return np.zeros((layer.E, getattr(layer, _BIASES[name])), np.float32)
    return widened(weights[name]) if weights[name].dtype == np.uint16 else weights[name]


def forms(layer: Layer) -> Mapping[str, Callable[[Layer, Mapping[str, Any]], Run]]:
    return {"library": partial(prepare, True), "hand": partial(prepare, False)}


def unwrap(y: np.ndarray) -> np.ndarray:
    return widened(y) if y.dtype == np.uint16 else y


def versions() -> dict[str, str]:
    return {"mojo": version("mojo"), "max": version("max-mojo-libs")}


if __name__ == "__main__":
    serve(Program(forms, lambda array, dtype: np.ascontiguousarray(array), unwrap, versions))
