"""AMX where there is none: a program's tile instructions become calls of their meanings in NumPy.

Everything else of the program is compiled for this machine. So layers that multiply in tiles can be run, slowly, and
compared with the oracle: how rows are gathered and panels packed, which tiles are read, what is stored where.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from moec.codegen import native
from moec.codegen.llvm import I8, I64, PTR
from moec.codegen.tiles import INSTRUCTIONS, Instruction, Tiles
from moec.language.read import find_source
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.cache import Program
from moec.runtime.interface import Storage
from moec.runtime.kernel import Kernel
from moec.target import Target

LINUX: Final = "x86_64-unknown-linux-gnu"
AMX: Final = Target.of(LINUX, "emeraldrapids")

#: The tiles of this thread; programs here run on one.
tiles: Final = Tiles()
#: How often each instruction ran: a test that means to run tiles can see that it did.
counts: Final[dict[str, int]] = {}


def _callback(instruction: Instruction) -> Any:
    def run(*arguments: int) -> None:
        counts[instruction.name] = counts.get(instruction.name, 0) + 1
        instruction.meaning(tiles, *arguments)

    types = {I8: ctypes.c_int8, I64: ctypes.c_int64, PTR: ctypes.c_void_p}
    return ctypes.CFUNCTYPE(None, *(types[argument] for argument in instruction.arguments))(run)


_CALLBACKS: Final = {instruction.name: _callback(instruction) for instruction in INSTRUCTIONS}


def emulated(text: str) -> str:
    """LLVM IR whose tile instructions are calls into this process."""
    for name, callback in _CALLBACKS.items():
        own = name.replace("llvm.x86", "emulated")
        address = ctypes.cast(callback, ctypes.c_void_p).value
        declared = re.search(rf'declare void @"{re.escape(name)}"\((.*)\)', text)
        if declared is None:
            continue
        call = f"call void inttoptr (i64 {address} to ptr)({declared[1]})\n  ret void"
        text = text.replace(declared[0], f'define internal void @"{name}"({declared[1]}) noinline {{\n  {call}\n}}')
        text = text.replace(f'@"{name}"', f'@"{own}"')
    assert "llvm.x86.t" not in text and "ldtilecfg" not in text.replace("emulated.ldtilecfg", "")
    return text


def compile_emulated(
    path: Path | str,
    dims: Mapping[str, int] | None = None,
    storage: Mapping[str, str] | str | None = None,
    target: Target = AMX,
    dtype: str = "bf16",
    activations: str = "real",
) -> Kernel:
    """A layer for a machine with AMX, or any other `target` whose other instructions this one has, to be run here."""
    source = find_source(path)
    options = Options.of(dims, dtype, threads=1, target=target, storage=storage, activations=activations)

    def variant(aux: tuple[str, ...], stored: Storage) -> Program:
        changed = Options.of(
            dims, dtype, threads=1, target=target, aux=aux, storage=dict(stored), activations=activations
        )
        compilation = Compilation(source, changed)
        module = native.optimise(native.parse(emulated(compilation.llvm)), Target.host())
        return Program(compilation.interface, native.object_code(module, Target.host()))

    show: Callable[[str], str | bytes] = lambda stage: Compilation(source, options).show(stage)  # noqa: E731
    return Kernel(variant((), options.storage), variant, show, lambda threads: None, options.storage)
