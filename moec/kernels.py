"""Kernels: a layer's text and what it is compiled for, joined to the runtime, which knows neither.

`compile_layer` gives a kernel that is compiled. What `open_layer` gives is compiled once it has weights, for the way in
which these are stored. Parser and compiler are imported when they are needed: a program may be in the cache.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moec.options import Options, thread_count
from moec.pipeline import Compilation, build
from moec.pool_image import pool_image
from moec.runtime.kernel import Kernel
from moec.runtime.pool import default_threads, shared
from moec.target import Target

if TYPE_CHECKING:
    from moec.dtypes import Storage
    from moec.runtime.cache import Program
    from moec.runtime.pool import Pool
    from moec.source import Source


def compile_layer(source: Source, options: Options) -> Kernel:
    """A layer ready to be called. Programs with other auxiliary outputs, or for weights that are stored otherwise, are
    compiled when they are asked for.

    Raises `CompileError`: E0303 where this machine cannot run code for the target.
    """
    return open_layer(source, options).prepare()


def open_layer(source: Source, options: Options) -> Kernel:
    """A layer of which nothing is compiled yet. Raises `CompileError`: E0303 where this machine cannot run code for the
    target."""
    if options.target != Target.host() and not options.target.runs_on(Target.host()):
        from moec.codegen import native
        from moec.diagnostics import fail

        native.check(options.target)
        text = f"this machine cannot run code for `{options.target.cpu}` of `{options.target.triple}`"
        raise fail("E0303", text, help="`moec compile --emit obj` writes its object file")
    return Kernel(Layer(source, options))


class Layer:
    """What a kernel asks for (`moec.runtime.kernel.Layer`). The text is parsed when it is first asked."""

    def __init__(self, source: Source, options: Options) -> None:
        self.source, self.options = source, options
        self.aux, self.storage = options.aux, options.storage
        self._threads = options.threads or default_threads()
        self._text = self._compilation(())

    def _compilation(self, storage: Storage) -> Compilation:
        """The layer with real activations: which parameters are stored does not depend on them."""
        return Compilation(self.source, replace(self.options, storage=storage, activations="real"))

    def program(self, aux: tuple[str, ...], storage: Storage) -> Program:
        return build(self.source, replace(self.options, aux=aux, storage=storage))

    def show(self, stage: str, storage: Storage) -> str | bytes:
        return Compilation(self.source, replace(self.options, storage=storage)).show(stage)

    def pool(self, threads: int | None) -> Pool | None:
        count = self._threads if threads is None else thread_count(threads)
        return shared(count, pool_image) if count > 1 else None

    def storable(self) -> frozenset[str]:
        return self._text.storable()

    def formats(self, storage: Storage) -> Mapping[str, str]:
        return self._compilation(storage).stored()

    @property
    def name(self) -> str:
        return self._text.ast.layers[0].name.id

    @property
    def dims(self) -> Mapping[str, int]:
        return self._text.binding

    def bind(self, name: str | None, tensors: Mapping[str, Any], dims: Mapping[str, int]) -> Mapping[str, Any]:
        from moec.binding.bind import bind_weights

        return bind_weights(self._text.ast, name, tensors, dims)

    def binds(self) -> Sequence[str]:
        return [block.name.id for block in self._text.ast.binds]

    def called(self, name: str | None, tensors: Collection[str]) -> Mapping[str, str]:
        from moec.binding.choose import called

        return called(self._text.ast, name, tensors)

    def choose_bind(self, tensors: Collection[str], kind: str) -> str | None:
        from moec.binding.choose import choose_bind

        return choose_bind(self._text.ast, tensors, kind)

    def needed(self, bind: str | None) -> Collection[str]:
        from moec.binding.choose import asked_for

        return asked_for(self._text.ast, bind)
