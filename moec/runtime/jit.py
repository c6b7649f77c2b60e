"""An object file in memory, ready to be called. It knows `llvmlite.binding`, and nothing of how the object was made."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import llvmlite.binding as llvm

#: `i64 moec_run(i64 tokens, ptr arguments, ptr pool)`; ctypes releases the GIL around it.
_RUN: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_void_p)
_names: Final = itertools.count()


class Library:
    """A loaded object and the addresses of the functions `exports`.

    The machine code lives as long as this does. Raises `RuntimeError` where `image` is no object for this machine.
    """

    def __init__(self, image: bytes, *exports: str) -> None:
        _initialise()
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
        engine: Any = llvm.create_lljit_compiler(machine, use_jit_link=True)
        # The process brings what LLVM calls on its own behalf, memcpy and memset, and the pool's system call.
        builder = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
        for name in exports:
            builder = builder.export_symbol(name)
        self._library: Any = builder.link(engine, f"moec{next(_names)}")
        # Not at exit: llvmlite may be gone by then, and the process gives its memory back itself.
        weakref.finalize(self, _unload, self._library, engine).atexit = False

    def address(self, name: str) -> int:
        return self._library[name]


def _unload(library: Any, engine: Any) -> None:
    library.close()
    engine.close()


class Code(Library):
    """A kernel. `run(tokens, pointers, pool)` takes the packed addresses as bytes and a pool's address, or None; 0 is
    success."""

    def __init__(self, image: bytes) -> None:
        super().__init__(image, "moec_run")
        self.run: Callable[[int, bytes, int | None], int] = _RUN(self.address("moec_run"))


@cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
