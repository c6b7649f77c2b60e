"""Checkpoints: files that hold a model's tensors, and moec's own files of packed weights.

`safetensors` and `gguf` read what others write, `tensors` is what they find, `files` maps it; `moepack` is the
container of packed weights; `prefix` is the part of a checkpoint that one block of a model has. None of them knows a
layer or a kernel: `moec.binding` says which tensors a layer's parameters are, `moec.runtime` packs them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from numpy.typing import NDArray

from moec.checkpoint import gguf
from moec.checkpoint.files import MappedFile, damaged
from moec.checkpoint.gguf import read_gguf
from moec.checkpoint.safetensors import read_safetensors
from moec.checkpoint.tensors import Tensor
from moec.diagnostics import fail
from moec.formats import Coded
from moec.formats.blocks import Blocks

__all__ = ["Checkpoint", "locate", "open_checkpoint"]

_INDEX: Final = ".safetensors.index.json"
_MAX_INDEX: Final = 256 << 20

#: The bytes that are read before their pages are let go of.
_HELD: Final = 16 << 20

Read = TypeVar("Read", bound=NDArray[Any] | Coded)


class Checkpoint(Mapping[str, NDArray[Any] | Blocks]):
    """The tensors of a checkpoint by name, each a view of its file, or `Blocks` of it where it is quantised.

    `kind` is `gguf` or `safetensors`, `prefix` what stands before every name in the files. A file is opened when a
    tensor of it is asked for first.
    """

    def __init__(self, path: Path, kind: str, homes: Mapping[str, _Shard], prefix: str = "") -> None:
        self.path, self.kind, self.prefix, self._homes = path, kind, prefix, homes
        self._read = 0

    def __getitem__(self, name: str) -> NDArray[Any] | Blocks:
        return self._homes[name].tensor(self.prefix + name).open()

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    def __str__(self) -> str:
        return f"`{self.path}`" + (f" below `{self.prefix}`" if self.prefix else "")

    def below(self, prefix: str) -> Checkpoint:
        """The tensors whose names begin with a prefix, without it."""
        homes = {name[len(prefix) :]: shard for name, shard in self._homes.items() if name.startswith(prefix)}
        return Checkpoint(self.path, self.kind, homes, self.prefix + prefix)

    @property
    def shards(self) -> list[_Shard]:
        """The files that were opened."""
        return sorted({shard for shard in self._homes.values() if shard.opened}, key=lambda shard: shard.path)

    @property
    def stamps(self) -> list[list[Any]]:
        """What tells the files that were opened from others, an index among them: name, bytes, time of the last
        change."""
        index = [MappedFile(self.path)] if self.path.name.endswith(_INDEX) else []
        return [list(file.stamp) for file in (*index, *(shard.file for shard in self.shards))]

    def paced(self, read: Callable[[int], Read]) -> Callable[[int], Read]:
        """`read` of something in these files, which now and then lets go of the pages read before."""

        def reading(index: int) -> Read:
            self._release()
            found = read(index)
            self._read += found.codes.nbytes if isinstance(found, Coded) else found.nbytes
            return found

        return reading

    def pacing(self, scan: Callable[[], Iterator[int]]) -> Callable[[], Iterator[int]]:
        """The same for what goes over bytes of these files, and tells how many."""

        def scanning() -> Iterator[int]:
            for passed in scan():
                self._read += passed
                self._release()
                yield passed

        return scanning

    def _release(self) -> None:
        if self._read > _HELD:
            for shard in self.shards:
                shard.file.release()
            self._read = 0


class _Shard:
    """A file of a checkpoint, opened when it is needed."""

    def __init__(self, path: Path, read: Callable[[MappedFile], dict[str, Tensor]]) -> None:
        self.path, self._read_header = path, read
        self._tensors: dict[str, Tensor] | None = None
        self._file: MappedFile | None = None

    @property
    def opened(self) -> bool:
        return self._file is not None

    @property
    def file(self) -> MappedFile:
        if self._file is None:
            self._file = MappedFile(self.path)
        return self._file

    @property
    def tensors(self) -> dict[str, Tensor]:
        if self._tensors is None:
            self._tensors = self._read_header(self.file)
        return self._tensors

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise damaged(self.path, f"the index says that tensor `{name}` is in it, which it is not")
        return self.tensors[name]


def open_checkpoint(path: Path | str) -> Checkpoint:
    """A checkpoint: a `.safetensors` or `.gguf` file (any of several that belong together), the index of sharded ones,
    or a directory that has one of these. Raises `CompileError`: E0001 where it cannot be read, E0408 where it is not
    what its format says."""
    path = locate(path)
    if path.name.endswith(_INDEX):
        return Checkpoint(path, "safetensors", _indexed(path))
    if path.suffix == ".gguf" or _starts_with(path, gguf.MAGIC):
        return Checkpoint(path, "gguf", _joined([_Shard(part, read_gguf) for part in gguf.parts(path)]))
    return Checkpoint(path, "safetensors", _joined([_Shard(path, read_safetensors)]))


def locate(path: Path | str) -> Path:
    """The file that a path to a checkpoint means: itself, or the one of a directory. Raises `CompileError` (E0001)
    where a directory has none, or several."""
    path = Path(path)
    return _inside(path) if path.is_dir() else path


def _inside(directory: Path) -> Path:
    names = sorted(entry.name for entry in directory.iterdir())
    for suffix in (_INDEX, ".safetensors", ".gguf"):
        found = [name for name in names if name.endswith(suffix)]
        found = [name for name in found if gguf.parts(directory / name)[0].name == name]  # of several, the first
        if suffix == ".safetensors" and f"model{suffix}" in found:
            found = [f"model{suffix}"]
        if len(found) > 1:
            raise fail("E0001", f"`{directory}` has several checkpoints: {', '.join(found)}", help="name the file")
        if found:
            return directory / found[0]
    raise fail("E0001", f"`{directory}` has no checkpoint", help="moec reads .safetensors and .gguf files")


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except (OSError, ValueError):
        return False  # opening it for good says why


def _joined(shards: list[_Shard]) -> dict[str, _Shard]:
    homes: dict[str, _Shard] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in homes:
                raise damaged(shard.path, f"tensor `{name}` is in `{homes[name].path.name}` as well")
            homes[name] = shard
    return homes


def _indexed(path: Path) -> dict[str, _Shard]:
    """The file of each tensor, as an index says it; files lie beside the index."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_INDEX + 1)
        names: Any = json.loads(data)["weight_map"] if len(data) <= _MAX_INDEX else None
    except OSError as error:
        raise fail("E0001", f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, dict):
        raise damaged(path, "it has no table `weight_map` of tensors and files")
    shards: dict[str, _Shard] = {}
    for name, home in cast("dict[str, Any]", names).items():
        if not isinstance(home, str) or Path(home).name != home:
            raise damaged(path, f"tensor `{name}` is in {home!r}, which is not a file beside it")
        shards.setdefault(home, _Shard(path.with_name(home), read_safetensors))
    return {name: shards[home] for name, home in cast("dict[str, str]", names).items()}
