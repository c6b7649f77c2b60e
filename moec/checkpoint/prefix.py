"""The part of a checkpoint below a prefix, `model.layers.3.mlp.`, and what is said where it is not there.

A checkpoint is here any tensors by name: files, or what a program holds in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moec.checkpoint import Checkpoint, open_checkpoint
from moec.diagnostics import CompileError, fail, quoted


@dataclass(frozen=True, slots=True)
class Below(Mapping[str, Any]):
    """The tensors whose names begin with a prefix, without it, of a checkpoint that is a mapping."""

    whole: Mapping[str, Any]
    prefix: str

    def __getitem__(self, name: str) -> Any:
        return self.whole[self.prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self.whole if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.prefix + name in self.whole

    def __str__(self) -> str:
        return f"the checkpoint below `{self.prefix}`"


def elsewhere(lacking: Iterable[str], tensors: Collection[str]) -> str | None:
    """The help that tells below which prefix a tensor is, one of those that are lacking."""
    whole, above = (tensors.whole, "") if isinstance(tensors, Below) else (tensors, getattr(tensors, "prefix", ""))
    ends = tuple(f".{missing}" for missing in lacking)
    found = next((name for name in whole if name.endswith(ends)), None)
    if found is None:
        return None
    end = max((end for end in ends if found.endswith(end)), key=len)
    return f"`{end[1:]}` is below `{above}{found.removesuffix(end)}` (`prefix=`, `--prefix`)"


def where(tensors: Collection[str]) -> str:
    """What a message calls a checkpoint."""
    return str(tensors) if isinstance(tensors, Checkpoint | Below) else "the checkpoint"


def nothing_below(checkpoint: str, prefix: str, tensors: Collection[str], lacking: Iterable[str]) -> CompileError:
    """The error of a prefix that no tensor of a checkpoint has: where those are that are lacking, or what is there."""
    some = quoted(list(tensors)[:3])
    help = elsewhere(lacking, tensors) or (f"it has {some}, …" if some else None)
    return fail("E0405", f"{checkpoint} has no tensor below `{prefix}`", help=help)


def dotted(prefix: str) -> str:
    """A prefix with the dot that parts it from what follows: `model.layers.3.mlp` means `model.layers.3.mlp.`. Raises
    `CompileError` (E0405) where it is no text."""
    if not isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise fail("E0405", f"{prefix!r} is not what names begin with", help='`prefix="model.layers.3.mlp"`')
    return prefix if not prefix or prefix.endswith((".", "/")) else f"{prefix}."


def open_below(path: Path | str, prefix: str, lacking: Callable[[], Collection[str]] = tuple) -> Checkpoint:
    """The tensors of a checkpoint below a prefix. Raises `CompileError` (E0405) where there are none: with the place of
    one of those that are `lacking` then, if that is known."""
    checkpoint = open_checkpoint(path)
    found = checkpoint.below(dotted(prefix))
    if not found:
        raise nothing_below(f"`{checkpoint.path}`", dotted(prefix), checkpoint, lacking())
    return found
