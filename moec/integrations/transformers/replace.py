"""Whole blocks of a model (router, experts, shared experts), each computed by moec from the `.moe` file of its class.

A block whose configuration says other things than the file stays as it is, and the report says why. Before a block is
replaced both compute the same random tokens; where they differ it stays, too.
"""

from __future__ import annotations

import inspect
import itertools
import re
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from moec.diagnostics import CompileError
from moec.dtypes import StorageLike
from moec.integrations.torch import DTYPES
from moec.integrations.transformers.backend import compiled
from moec.integrations.transformers.blocks import Row, Unfit, find_dimensions, load, look_up, rows, tensors_of
from moec.integrations.transformers.experts import is_experts
from moec.integrations.transformers.packed import Packed
from moec.integrations.transformers.trace import REALS
from moec.measure.compare import judge
from moec.runtime.kernel import Kernel

#: How far a block's output may be from moec's, relative to a token's largest magnitude, and how many tokens are tried.
#: (In bf16 one in twelve has a tie, which torch breaks as it likes.)
TOLERANCE: Final = {"f32": 1e-4, "bf16": 3e-2, "f16": 1e-2}
TOKENS: Final = 32


#: The attribute of a block that holds its `Replacement`.
_KEY: Final = "_moec"
_numbers: Final = itertools.count()
_replacements: Final = weakref.WeakValueDictionary[int, "Replacement"]()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one block: replaced by a file, or left for a reason."""

    path: str
    block: str
    file: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of every block of a model."""

    outcomes: tuple[Outcome, ...]

    @property
    def replaced(self) -> tuple[Outcome, ...]:
        """The blocks that moec computes now."""
        return tuple(outcome for outcome in self.outcomes if outcome.file is not None)

    @property
    def left(self) -> tuple[Outcome, ...]:
        """The blocks that are as they were."""
        return tuple(outcome for outcome in self.outcomes if outcome.file is None)

    def __str__(self) -> str:
        return "\n".join(
            f"{each.path}: {each.block} {f'by {each.file}.moe' if each.file else f'left: {each.reason}'}"
            for each in self.outcomes
        )


def replace(model: nn.Module, storage: StorageLike = None, release_weights: bool = False) -> Report:
    """Gives every block of a model that a `.moe` file describes to moec, in place, and says what became of each.

    `storage` is the format of the experts, as for `moec.compile`; with `release_weights` the stacks of experts are let
    go once they are packed. The block's class, its modules and its names in a state dict stay; a module that reads what
    the block reads and has hooks, such as a router whose logits are collected, is still called for their sake.
    """
    outcomes: list[Outcome] = []
    for path, block, config in list(_blocks(model)):
        file, reason = None, "no .moe file describes this class; `experts_implementation` may still be moec"
        for row in rows().get(type(block).__name__, ()):
            try:
                _give(block, row, config, storage, release_weights)
                file, reason = row.file, None
                break
            except Unfit as unfit:
                reason = f"{row.file}.moe does not fit: {unfit}"
            except CompileError as error:
                reason = f"{row.file}.moe: {error.diagnostics[0].message}"
        outcomes.append(Outcome(path, type(block).__name__, file, reason))
    return Report(tuple(outcomes))


def _blocks(module: nn.Module, path: str = "", config: Any = None) -> Iterator[tuple[str, nn.Module, Any]]:
    """Every block, with the configuration of the model that it is in: a class of the table, one that holds experts, or
    one that is called after them."""
    config = getattr(module, "config", config)
    name = type(module).__name__
    if name in rows() or _CALLED.search(name) or any(is_experts(child) for child in module.children()):
        yield path or "the model", module, config
        return
    for name, child in module.named_children():
        yield from _blocks(child, f"{path}.{name}" if path else name, config)


_CALLED: Final = re.compile("(Sparse|Moe)MLP$|Mo[eE]Block$|Mo[eEA]$|Experts$")


# ── fitting ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _give(block: nn.Module, row: Row, config: Any, storage: StorageLike, release: bool) -> None:
    for path, wanted in row.when.items():
        if (found := look_up(path, block, config)) != wanted:
            raise Unfit(f"`{path.lstrip('.')}` is {found!r}, the file says {wanted!r}")
    source, file = load(row.file)
    given = {name: look_up(at, block, config) for name, at in row.dims.items()}
    dtypes = {tensor.dtype for tensor in block.parameters() if tensor.dim() > 2} or {next(block.parameters()).dtype}
    if len(dtypes) > 1 or not dtypes <= REALS.keys():
        raise Unfit(f"its weights hold {', '.join(sorted(map(str, dtypes)))}")
    dims = find_dimensions(file, tensors_of(block), given)
    kernel = compiled(source, dims, REALS[dtypes.pop()])
    names = list(inspect.signature(type(block).forward).parameters)[1:]
    restore(block)
    replacement = Replacement(block, kernel, row.inputs or (names[0],), names)
    replacement.compare()
    replacement.configure(storage, release)
    setattr(block, _KEY, replacement)
    block.forward = MethodType(_forward, block)


def restore(block: nn.Module) -> None:
    """Gives a block back to its own code."""
    for name in ("forward", _KEY):
        block.__dict__.pop(name, None)


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What stands in the place of a block's own `forward`."""
    replacement: Replacement = getattr(self, _KEY)
    return replacement.call(self, *args, **kwargs)


# ── the replacement ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Reader:
    """A module within a block that reads what the block reads, [T, H] where `flat`, else as the block was given it."""

    name: str
    flat: bool


class Replacement(Packed):
    """A block's kernel and weights, and how its arguments and results are laid out.

    `names` are the arguments of the block, `inputs` those that the layer takes. `readers` are the modules to be called
    where they have hooks. A block that returns a tuple returns after its output what one of the readers returned:
    `extras` says which reader, and which of its results (None: all of it).
    """

    def __init__(self, block: nn.Module, kernel: Kernel, inputs: Sequence[str], names: Sequence[str]) -> None:
        super().__init__(block)
        self.kernel = kernel
        self.inputs = [(names.index(name), name) for name in inputs]
        self.readers: list[Reader] = []
        self.extras: list[tuple[str, int | None]] | None = None
        self.flat = False
        self._enter()

    def _enter(self) -> None:
        self.number = next(_numbers)
        _replacements[self.number] = self

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Replacement:
        """For the copy of the block, whose weights may come to differ: they are packed on their own."""
        other = Replacement.__new__(Replacement)
        Packed.__init__(other, cast(nn.Module, memo[id(self.module)]), self.storage, self.release)
        for name in ("kernel", "inputs", "readers", "extras", "flat"):
            setattr(other, name, getattr(self, name))
        other._enter()
        return other

    def compute(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The layer's outputs, on as many threads as torch may use."""
        outputs = self.kernel(
            *inputs, weights=self.weights(self.kernel, "transformers"), threads=torch.get_num_threads()
        )
        return list(cast("tuple[Tensor, ...]", outputs)) if isinstance(outputs, tuple) else [outputs]

    def arrays(self) -> Mapping[str, Tensor]:
        return tensors_of(self.module)

    def sources(self) -> list[str]:
        return [name for name, tensor in self.module.named_parameters() if tensor.dim() > 2]

    def call(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What the block gives for its arguments."""
        given = [kwargs[name] if name in kwargs else args[at] for at, name in self.inputs]
        x = given[0]
        rows = [x.reshape(-1, x.shape[-1]), *(other.reshape(-1) for other in given[1:])]
        y = self._run(rows, x)
        y = y if self.flat else y.view(x.shape)
        wanted = {name for name, _ in self.extras or ()}
        results: dict[str, Any] = {}
        for reader in self.readers:
            child = block.get_submodule(reader.name)
            if reader.name in wanted or _has_hooks(child):
                results[reader.name] = child(rows[0] if reader.flat else x)
        if self.extras is None:
            return y
        return (y, *(results[name] if at is None else results[name][at] for name, at in self.extras))

    def _run(self, rows: Sequence[Tensor], x: Tensor) -> Tensor:
        """The layer's output for rows of its inputs, those of `x` first; one that looks along the batch is called for
        every sequence of x."""
        if not self.kernel.interface.batch or x.dim() < 3:
            return cast("list[Tensor]", run(rows, self.number))[0]
        sequences = zip(*(torch.split(part, max(x.shape[-2], 1)) for part in rows), strict=True)
        return torch.cat([cast("list[Tensor]", run(list(parts), self.number))[0] for parts in sequences])

    def compare(self) -> None:
        """Learns how the block lays out what it reads and returns, and that moec computes the same.

        Raises `Unfit` where it does not.
        """
        block, arrays = self.module, self.kernel.interface.inputs
        generator = torch.Generator().manual_seed(0)
        shape = (1, TOKENS, *arrays[0].shape)
        for loudness in (1.0, 8.0):
            x = (torch.randn(shape, generator=generator) * loudness).to(DTYPES[arrays[0].dtype])
            others = [torch.randint(0, 2, (1, TOKENS), generator=generator) for _ in arrays[1:]]
            arguments = {name: value for (_, name), value in zip(self.inputs, (x, *others), strict=True)}
            with torch.no_grad(), _training(block, False):
                theirs = self._learn(block, arguments)
                ours = self.call(block, **arguments)
            ours = ours if self.extras is None else ours[0]
            rows = [y.float().flatten(0, -2).numpy() for y in (ours, theirs)]
            found = judge(rows[:1], rows[1:], None, TOLERANCE[REALS[x.dtype]])
            if not found.telling:
                raise Unfit(f"of {TOKENS} random tokens every output is 0, or no number: nothing can be compared")
            if not found.right:
                raise Unfit(f"of {TOKENS} random tokens only {found.agreeing} come out as the block's own")

    def _learn(self, block: nn.Module, arguments: Mapping[str, Tensor]) -> Any:
        """Calls the block, and looks at what its modules read and return."""
        x = next(iter(arguments.values()))
        seen: dict[str, tuple[bool, Any]] = {}
        handles = [
            child.register_forward_hook(
                lambda _, args, result, name=name: (
                    seen.update({name: (args[0].dim() == 2, result)})
                    if len(args) == 1 and isinstance(args[0], Tensor) and args[0].data_ptr() == x.data_ptr()
                    else None
                )
            )
            for name, child in block.named_children()
        ]
        try:
            result = block(**arguments)
        finally:
            for handle in handles:
                handle.remove()
        self.readers = [Reader(name, flat) for name, (flat, _) in seen.items()]
        parts = cast("tuple[Any, ...]", result if isinstance(result, tuple) else (result,))
        self.extras = [_origin(value, seen) for value in parts[1:]] if isinstance(result, tuple) else None
        self.flat = parts[0].dim() == 2
        return parts[0]


@torch.library.custom_op("moec::block", mutates_args=(), device_types="cpu")
def run(inputs: Sequence[Tensor], block: int) -> list[Tensor]:
    """The outputs of a replaced block for rows of its inputs, [T, *shape] each."""
    found = _replacements[block]
    kept = zip(inputs, found.kernel.interface.inputs, strict=True)
    return found.compute([x.to(DTYPES[array.dtype]) for x, array in kept])


@cast(Any, run).register_fake
def _(inputs: Sequence[Tensor], block: int) -> list[Tensor]:
    outputs = _replacements[block].kernel.interface.outputs
    return [inputs[0].new_empty((inputs[0].shape[0], *array.shape), dtype=DTYPES[array.dtype]) for array in outputs]


def _origin(value: Any, seen: Mapping[str, tuple[bool, Any]]) -> tuple[str, int | None]:
    """Which module returned a value, and as which of its results."""
    for name, (_, result) in seen.items():
        if result is value:
            return name, None
        for at, part in enumerate(cast("tuple[Any, ...]", result) if isinstance(result, tuple) else ()):
            if part is value:
                return name, at
    raise Unfit("it returns more than the file says")


def _has_hooks(module: nn.Module) -> bool:
    modules = cast("Iterator[Any]", module.modules())
    return any(each._forward_hooks or each._forward_pre_hooks for each in modules)


@contextmanager
def _training(module: nn.Module, mode: bool) -> Generator[None]:
    before = [(each, each.training) for each in module.modules()]
    module.train(mode)
    try:
        yield
    finally:
        for each, training in before:
            each.training = training
