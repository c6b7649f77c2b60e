"""A compiled layer, ready to be called. It knows the interface and the machine code, and nothing of the compiler."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from moec.checkpoint.moepack import Moepack, is_moepack
from moec.checkpoint.prefix import Below, dotted
from moec.diagnostics import CompileError, Diagnostic, fail, plural, quoted
from moec.dtypes import Storage, StorageLike
from moec.files import require_place
from moec.formats import storage_of
from moec.runtime import saved
from moec.runtime import weights as packing
from moec.runtime.arguments import Argument
from moec.runtime.cache import Program
from moec.runtime.interface import Array, Interface
from moec.runtime.jit import Code
from moec.runtime.loading import Request, Text, load_checkpoint
from moec.runtime.pool import Pool
from moec.runtime.weights import Tally, Weights
from moec.runtime.workspace import WORKSPACE
from moec.validation import aux_of


class IndexOutside(CompileError, IndexError):
    """An index that the call alone knows lies outside its table."""


class Layer(Text, Protocol):
    """What kernels ask of the compiler: a layer's text, and what it was compiled for."""

    #: The auxiliary outputs that were asked for, and the storage formats.
    aux: tuple[str, ...]
    storage: Storage

    def program(self, aux: tuple[str, ...], storage: Storage) -> Program:
        """The program with these auxiliary outputs, for weights that are stored so."""
        ...

    def show(self, stage: str, storage: Storage) -> str | bytes:
        """A stage of the program for weights that are stored so."""
        ...

    def formats(self, storage: Storage) -> Mapping[str, str]:
        """The parameters that are stored then, and how; nothing is compiled for it."""
        ...

    def pool(self, threads: int | None) -> Pool | None:
        """The threads of a call that asks for so many."""
        ...


class Kernel:
    """A layer as native code. Many threads may call one kernel at once.

    `kernel(x, weights)` computes the layer for every row of x, [T, H]; a layer of several inputs takes them in order
    before the weights. The answer is of the kind that the first input is (NumPy or torch), a tuple where the layer has
    several outputs.

    A kernel is compiled for weights that are stored in one way. Called with others it runs another program, compiled
    for these when they are packed; `of` gives the kernel that says what that is.
    """

    def __init__(self, layer: Layer, storage: Storage | None = None) -> None:
        self._layer = layer
        self._pool = layer.pool
        self._storage = layer.storage if storage is None else storage
        self._runners = dict[tuple[tuple[str, ...], Storage], _Runner]()

    @property
    def _main(self) -> _Runner:
        """What a call runs that asks for no other auxiliary outputs, with weights that are stored as this kernel's."""
        return self._runner(self._layer.aux, self._storage)

    def prepare(self) -> Kernel:
        """Compiles the program, which else is done when it is first needed. Raises `CompileError`."""
        self._runner(self._layer.aux, self._storage)
        return self

    def of(self, weights: Weights) -> Kernel:
        """The kernel whose program runs in a call with these weights: what it says of itself (`interface`, `storage`,
        `activations`, `inspect`) it says of that call. It is this one where weights are stored as this one's.

        Raises `CompileError`: E0401 where weights are not packed, E0402 where they are another layer's.
        """
        packing.require_packed(self.name, weights)
        kernel = self
        if weights.storage != self._storage:
            kernel = Kernel(self._layer, weights.storage)
            kernel._runners = self._runners
        weights.complete(kernel.interface)
        return kernel

    @property
    def interface(self) -> Interface:
        """The arrays of a call and of the weights, with their element types and shapes."""
        return self._main.interface

    @property
    def name(self) -> str:
        """The layer's name."""
        return self._known.name

    @property
    def dims(self) -> Mapping[str, int]:
        """The value of every dimension."""
        return self._known.dims

    @property
    def _known(self) -> Interface | Layer:
        """What knows the layer's name and dimensions: any program that there is, else the text."""
        programs = tuple(self._runners.values())
        return programs[0].interface if programs else self._layer

    @property
    def storage(self) -> Mapping[str, str]:
        """The storage format of every parameter that is kept in one."""
        return self.interface.storage

    @property
    def activations(self) -> str:
        """How vectors are multiplied with stored weights: `real`, or `int8` where a product quantises them."""
        return "int8" if self.interface.quantized else "real"

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(_signature, part)) for part in (self.interface.inputs, self.interface.outputs))
        return f"<moec.Kernel {self.name}({inputs}) -> {outputs}>"

    def inspect(self, stage: str) -> str | bytes:
        """A stage of the compilation as text (`obj`: bytes). Raises `CompileError` (E0305) where there is none."""
        return self._layer.show(stage, self._storage)

    def pack(
        self,
        arrays: Mapping[str, Any],
        storage: StorageLike = None,
        bind: str | None = None,
        prefix: str = "",
    ) -> Weights:
        """The weights as the kernel reads them; see `moec.runtime.weights.pack`.

        `arrays` is by parameter; with `bind` it is a checkpoint, and the layer's `bind` block of that name says what of
        it, below `prefix`, the parameters are. `storage` is as for `moec.compile`; without it weights are stored as
        this kernel's. With it a call with these weights runs a program that is compiled for them here, `of(weights)`.
        Raises `CompileError` (E0401 to E0405, E0306, E0407) with every mistake there is.
        """
        packing.require_names(self.interface, arrays)
        if bind is not None:
            tensors = Below(arrays, dotted(prefix)) if prefix else arrays
            arrays = self._layer.bind(bind, tensors, self.dims)
        elif arrays and not any(param.name in arrays for param in self.interface.params):
            self._refuse_unbound(len(arrays))
        chosen = self._storage if storage is None else storage_of(storage)
        return packing.pack(self._runner(self._layer.aux, chosen).interface, arrays, chosen)

    def _refuse_unbound(self, count: int) -> None:
        """Raises `CompileError` (E0402) for so many arrays of other names, where the text has a `bind` for such."""
        names = " or ".join(f'`bind="{name}"`' for name in self._layer.binds())
        if names:
            arrays = plural(count, "array")
            what = f"of {arrays} none is called like a weight of `{self.name}`"
            raise fail("E0402", what, help=f"{names} says which is which, below `prefix=`")

    def load(
        self,
        path: Path | str,
        prefix: str = "",
        bind: str | None = None,
        storage: StorageLike = None,
        packed: Path | str | None = None,
        verify: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Weights:
        """The weights in a file: a checkpoint (safetensors, GGUF, a directory with one), or what `save` wrote, mapped.

        Of a checkpoint, the `bind` block says which tensors below `prefix` the parameters are; without a name it is
        the block whose tensors are there. What is quantised stays as it is stored, unless `storage` says otherwise, or
        `moec.compile` did. `packed` names a file for the packed weights: they are mapped from there if they were packed
        from these files for this kernel, else packed anew and saved there. Where `path` is what `save` wrote, `prefix`,
        `bind` and `packed` say nothing, and `storage` has to be the file's. `verify` compares the checksums of a packed
        file, which reads all of it. `progress` is told how many bytes have been packed, of how many. What a call with
        these weights runs is compiled here, and nothing else: `of(weights)`.

        Raises `CompileError`: E0001, E0408 (a file), E0405, E0401 to E0404, E0407, E0306 (what is in it), E0409 (packed
        weights for another kernel); `OSError` where `packed` cannot be written.
        """
        asked = None if storage is None else storage_of(storage)
        if is_moepack(path):
            return self._restore(Moepack(path, verify), asked)
        request = Request(Path(path), dotted(prefix), bind, (self._layer.storage or None) if asked is None else asked)
        if packed is not None:
            require_place(Path(packed))
            if (kept := self._keep(request, packed, verify)) is not None:
                return kept
        loaded = load_checkpoint(self._layer, request, self.dims)
        interface = self._runner(self._layer.aux, loaded.storage).interface
        tally = packing.ignore if progress is None else Tally(progress, packing.packed_size(interface))
        weights = packing.pack(interface, loaded.arrays, loaded.storage, tally)
        weights.source.update(request.source(loaded.checkpoint.stamps, interface.binds))
        if packed is not None:
            self.save(weights, packed)
        return weights

    def save(self, weights: Weights, path: Path | str, progress: Callable[[int, int], object] | None = None) -> None:
        """Writes packed weights to a file that `load` maps: aside first, then moved into place.

        Raises `CompileError` (E0401, E0402, E0901) and `OSError`.
        """
        interface = self.of(weights).interface
        tally = None if progress is None else Tally(progress, weights.nbytes)
        saved.save(path, interface, weights, tally)

    def _restore(self, pack: Moepack, asked: Storage | None = None) -> Weights:
        storage = saved.storage_in(pack)
        try:
            interface = self._runner(self._layer.aux, storage).interface
        except CompileError as error:
            saved.compare(pack, self.interface)  # of another layer, that is what is wrong with them
            raise saved.unusable(pack, error) from None
        weights = saved.restore(pack, interface, storage)
        if asked not in (None, storage):
            saved.compare_storage(pack, interface, self._layer.formats(asked))
        return weights

    def _keep(self, request: Request, path: Path | str, verify: bool) -> Weights | None:
        """The weights that were saved for the same request, if they are still good."""
        try:
            pack = Moepack(path, verify)
            weights = self._restore(pack)
            same = request.made(pack.header.get("source"), self.of(weights).interface.binds)
            return weights if same else None
        except CompileError:
            return None

    def __call__(
        self,
        *inputs: Any,
        weights: Weights | None = None,
        aux: Sequence[str] | bool | None = None,
        threads: int | None = None,
    ) -> Any:
        """The layer's outputs; with `aux`, a pair of them and the auxiliary outputs by name.

        `aux` is a name, a list of names, or True for all; `threads` is for this call what it was when compiling. Raises
        `CompileError`: E0401 (no weights), E0305 (no such aux), E0403, E0404 (an input does not fit), E0406 (an index
        lies outside its table; also an `IndexError`).
        """
        given = inputs
        if weights is None and given:
            given, weights = given[:-1], given[-1]
        if not isinstance(weights, Weights):
            raise fail("E0401", f"`{self.name}` was called without weights", help="`kernel(x, kernel.pack(arrays))`")
        if len(given) == 1 and isinstance(given[0], tuple):
            given = cast("tuple[Any, ...]", given[0])
        if not aux:
            runner = self._runner(self._layer.aux, weights.storage)
            outputs = runner(given, weights, self._pool(threads))
            count = len(runner.interface.outputs)
            return outputs[0] if count == 1 else tuple(outputs[:count])
        return self._with_aux(given, weights, aux, threads)

    def _with_aux(self, inputs: Sequence[Any], weights: Weights, aux: Sequence[str] | bool, threads: int | None) -> Any:
        names = aux_of(aux, self.interface.extras, self.name)
        runner = self._runner(names, weights.storage)
        outputs = runner(inputs, weights, self._pool(threads))
        count = len(runner.interface.outputs)
        extra = {array.name: value for array, value in zip(runner.interface.aux, outputs[count:], strict=True)}
        return (outputs[0] if count == 1 else tuple(outputs[:count])), {name: extra[name] for name in names}

    def _runner(self, names: tuple[str, ...], storage: Storage) -> _Runner:
        """The program with these auxiliary outputs for weights stored so. No lock is held while it is compiled, which a
        process that is forked meanwhile would never get: of threads that ask at once the first to be done is heard."""
        found = self._runners.get((names, storage))
        return found or self._runners.setdefault((names, storage), _Runner(self._layer.program(names, storage)))


def _signature(array: Array) -> str:
    return f"{array.name}: {array.dtype}{list(array.shape) or ''}"


class _Runner:
    """One program and how to call it."""

    def __init__(self, program: Program) -> None:
        self.interface = interface = program.interface
        self._reads = interface.reads
        self._code = Code(program.image)
        self._inputs = tuple(map(Argument, interface.inputs))
        self._results = tuple(map(Argument, (*interface.outputs, *interface.aux)))
        arrays = len(self._inputs) + len(self._results) + len(interface.raw) + len(interface.packed)
        self._pack = struct.Struct(f"{arrays + 1}Q").pack

    def __call__(self, inputs: Sequence[Any], weights: Weights, pool: Pool | None) -> list[Any]:
        if len(inputs) != len(self._inputs):
            raise self._miscounted(len(inputs))
        kept: list[Any] = []
        results: list[Any] = []
        places: list[int] = []
        tokens: int | None = None
        for i, argument in enumerate(self._inputs):
            memory, begin, tokens = argument.place(inputs[i], tokens)
            kept.append(memory)
            places.append(begin)
        tokens = tokens or 0
        for argument in self._results:
            result, begin = argument.fresh(inputs[0], tokens)
            results.append(result)
            places.append(begin)
        interface = self.interface
        addresses = weights.addresses.get(self._reads) or weights.complete(interface)
        threads, workers = 1, None
        if pool is not None:
            threads, workers = pool.threads, pool.address
        workspace = WORKSPACE.at_least(interface.workspace(tokens, threads))
        if self._code.run(tokens, self._pack(*places, *addresses, workspace), workers):
            which = "one that came with the inputs or the parameters, or that of an empty selection"
            text = f"an index of `{interface.name}` lies outside its table: {which}"
            raise IndexOutside(Diagnostic("E0406", text))
        del kept  # which the native code has read
        return results

    def _miscounted(self, count: int) -> CompileError:
        wanted = self.interface.inputs
        names = quoted(array.name for array in wanted)
        return fail("E0403", f"`{self.interface.name}` takes {plural(len(wanted), 'input')} ({names}), not {count}")
