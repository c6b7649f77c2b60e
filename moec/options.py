"""What a program depends on besides the text, as a caller asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moec.diagnostics import fail
from moec.dtypes import ACTIVATIONS, REALS, Storage, StorageLike
from moec.target import Target
from moec.validation import as_integer, names_of, sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything besides the text that a program depends on.

    `dims` overrides dimensions, `dtype` is what `real` stands for, `aux` names the extra outputs to compute, `level` is
    LLVM's (0 to 3). `storage` gives parameters their formats; `experts` stands for all stacks of experts. `activations`
    says how the vectors beside stored weights enter their products: as they are, or quantised. Without `verify` the IR
    is not checked between passes.

    Two are for measuring. `without` leaves parts of the compiler out, to find what each is worth: `specialize` (the
    program reads its dimensions from memory) and `pack` (weights are read where they lie, for one row after the other).
    A `timed` program leaves a clock's readings around its stages, for `moec.bench.stages`; x86 only.
    """

    target: Target
    dims: tuple[tuple[str, int], ...] = ()
    dtype: str = "f32"
    threads: int | None = None
    aux: tuple[str, ...] = ()
    level: int = 2
    verify: bool = True
    storage: Storage = ()
    activations: str = "real"
    without: tuple[str, ...] = ()
    timed: bool = False

    @staticmethod
    def of(
        dims: Mapping[str, int] | None = None,
        dtype: str = "f32",
        threads: int | None = None,
        *,
        target: Target | str | None = None,
        aux: Sequence[str] = (),
        level: int = 2,
        storage: StorageLike = None,
        activations: str = "real",
    ) -> Options:
        """The options that a caller asks for. Raises `CompileError` (E0206, E0303 to E0306) where there is no such
        thing."""
        from moec.formats import storage_of

        if dtype not in REALS:
            raise fail("E0304", f"`{dtype}` is not a working precision", help=f"choose one of {', '.join(REALS)}")
        if level not in range(4):
            raise fail("E0305", f"{level} is not a level of optimisation", help="LLVM's levels are 0 to 3")
        if activations not in ACTIVATIONS:
            text = f"`{activations}` is not a kind of activations"
            raise fail("E0305", text, help=f"choose one of {', '.join(ACTIVATIONS)}")
        return Options(
            target=find_target(target),
            dims=tuple(sorted(sizes(dims).items())),
            dtype=dtype,
            threads=None if threads is None else thread_count(threads),
            aux=names_of(aux),
            level=level,
            storage=storage_of(storage),
            activations=activations,
        )


def thread_count(threads: int) -> int:
    """A number of threads that was asked for. Raises `CompileError` (E0305) where so many cannot run anything."""
    count = as_integer(threads)
    if count is None:
        raise fail("E0305", f"{threads!r} is not a number of threads")
    if count < 1:
        raise fail("E0305", f"{count} threads cannot run anything")
    return count


def find_target(target: Target | str | None) -> Target:
    """The machine that a name stands for: None and `native` for this one, a triple, or a target as it prints.

    Raises `CompileError` (E0303) where it is none of these.
    """
    if target is None or target == "native":
        return Target.host()
    if isinstance(target, Target):
        return target
    text = str(target)
    try:
        return Target.parse(text) if ":" in text else Target.of(text)
    except ValueError as error:
        raise fail("E0303", f"`{target}` is not a target: {error}") from None


def machine(triple: str | None, cpu: str | None) -> Target:
    """The target of a triple and a cpu's name; this machine where neither is given.

    Raises `CompileError` (E0303) where there is no such machine.
    """
    if triple is None and cpu in (None, "native"):
        return Target.host()
    try:
        return Target.of(triple or Target.host().triple, cpu or "generic")
    except ValueError as error:
        raise fail("E0303", str(error)) from None
