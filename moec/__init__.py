"""moec: the mathematics of one Mixture-of-Experts layer, compiled to native code.

    kernel = moec.compile("examples/mixtral.moe", dims={"H": 2048}, dtype="bf16")
    weights = kernel.pack({"router": …, "gate": …, "up": …, "down": …})
    y = kernel(x, weights)

What every call needs is imported here: NumPy, and LLVM's loader. The compiler itself is imported when a layer is
compiled that the cache does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from moec.diagnostics import CompileError
from moec.dtypes import StorageLike
from moec.fitting import fit
from moec.kernels import compile_layer, open_layer
from moec.language.read import find_source
from moec.options import Options
from moec.runtime.kernel import Kernel
from moec.runtime.weights import Weights
from moec.source import Source
from moec.target import Target

if TYPE_CHECKING:
    from pathlib import Path

    from moec.oracle import reference

__all__ = ["CompileError", "Kernel", "Source", "Target", "Weights", "__version__", "compile", "load", "reference"]

__version__ = "0.1.0"


def compile(
    source: Source | Path | str,
    dims: Mapping[str, int] | None = None,
    dtype: str = "f32",
    threads: int | None = None,
    target: Target | str | None = None,
    aux: Sequence[str] = (),
    storage: StorageLike = None,
    activations: str = "real",
) -> Kernel:
    """A layer as native code for this machine.

    `source` is a path, a `Source`, or the text itself; `dims` overrides dimensions, `dtype` is what `real` stands for
    (f32, bf16, f16), `threads` how many share a call (None: `MOEC_NUM_THREADS`, `OMP_NUM_THREADS`, or as many as there
    are processors), `target` a machine whose code this one can run. `aux` names extra outputs to compile in now rather
    than when a call first asks for them. `storage` gives parameters a format to be kept in, `{"gate": "q4_K"}`; one
    name alone is the format of all stacks of experts; `activations="int8"` quantises the vectors that are multiplied
    with them (docs/formats.md). Raises `CompileError` where the input is
    wrong.
    """
    options = Options.of(dims, dtype, threads, target=target, aux=aux, storage=storage, activations=activations)
    return compile_layer(find_source(source), options)


def load(
    source: Source | Path | str,
    path: Path | str,
    prefix: str = "",
    bind: str | None = None,
    dims: Mapping[str, int] | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    storage: StorageLike = None,
    packed: Path | str | None = None,
    verify: bool = False,
    target: Target | str | None = None,
    aux: Sequence[str] = (),
    activations: str = "real",
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Kernel, Weights]:
    """A layer compiled for the weights in a file as they are stored, and these weights: `kernel(x, weights)`.

    `path` is a checkpoint (safetensors, GGUF, a directory with one) or what `Kernel.save` wrote; dimensions that `dims`
    leaves out are those of the tensors. `dtype` is f32 where neither the caller nor packed weights say otherwise.
    `threads`, `target`, `aux` and `activations` are as for `compile`; `prefix`, `bind`, `storage`, `packed`, `verify`
    and `progress` (told how many bytes have been packed, of how many) as for `Kernel.load`; and so are the errors. One
    program is compiled: `kernel.storage`, `kernel.activations` and what else the kernel says of itself is said of it.
    """
    text = find_source(source)
    found, real = fit(text, path, prefix, bind, dims)
    options = Options.of(
        found,
        dtype or real or "f32",
        threads,
        target=target,
        aux=aux,
        storage=storage,
        activations=activations,
    )
    kernel = open_layer(text, options)
    weights = kernel.load(path, prefix, bind, storage, packed, verify, progress)
    return kernel.of(weights), weights


def __getattr__(name: str) -> Any:
    if name != "reference":
        raise AttributeError(f"module `moec` has no attribute `{name}`")
    return import_module("moec.oracle").reference
