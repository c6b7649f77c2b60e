"""From a checkpoint's files to the parameters of a layer: which tensors, in which storage formats.

Nothing is read here but headers; packing then reads one expert after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from moec.checkpoint import Checkpoint, locate
from moec.checkpoint.prefix import open_below
from moec.dtypes import EXPERTS, Storage
from moec.formats.blocks import Blocks, Source, dense
from moec.stack import Stack


class Text(Protocol):
    """What a kernel asks of its layer's text."""

    @property
    def name(self) -> str:
        """The layer's name."""
        ...

    @property
    def dims(self) -> Mapping[str, int]:
        """The value of every dimension."""
        ...

    def bind(self, name: str | None, tensors: Mapping[str, Any], dims: Mapping[str, int]) -> Mapping[str, Source]:
        """The parameters, by a `bind` block; `dims` has the value of every dimension."""
        ...

    def binds(self) -> Sequence[str]:
        """The names of its `bind` blocks."""
        ...

    def called(self, name: str | None, tensors: Collection[str]) -> Mapping[str, str]:
        """What errors call the parameters then."""
        ...

    def choose_bind(self, tensors: Collection[str], kind: str) -> str | None:
        """The `bind` block that fits a checkpoint."""
        ...

    def needed(self, bind: str | None) -> Collection[str]:
        """The tensors that it asks a checkpoint for, by a `bind` block or, without a name, by any."""
        ...

    def storable(self) -> frozenset[str]:
        """The parameters that may be kept in a storage format."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be loaded: a checkpoint, the part below `prefix`, by the block `bind`, in the formats `storage`; None
    leaves the last two to what is there."""

    path: Path
    prefix: str
    bind: str | None
    storage: Storage | None

    def source(self, files: list[list[Any]], binds: str) -> dict[str, Any]:
        """The request as plain data, with what tells the files, and the text's binds, from others.

        Raises `CompileError` (E0001) where the checkpoint is gone.
        """
        storage = None if self.storage is None else [list(pair) for pair in self.storage]
        asked = {"checkpoint": locate(self.path).name, "prefix": self.prefix, "bind": self.bind, "storage": storage}
        return {**asked, "binds": binds, "files": files}

    def made(self, source: object, binds: str) -> bool:
        """Whether `source` tells of this request, and the files are still those. Raises `CompileError` (E0001)."""
        files = cast("dict[str, Any]", source).get("files") if isinstance(source, dict) else None
        if not files or source != self.source(files, binds):
            return False
        directory = self.path if self.path.is_dir() else self.path.parent
        try:
            stats = [((directory / name).stat(), size, changed) for name, size, changed in files]
        except (OSError, TypeError, ValueError):
            return False
        return all((stat.st_size, stat.st_mtime_ns) == (size, changed) for stat, size, changed in stats)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The parameters as they lie in a checkpoint, and the formats that packing is to keep them in."""

    arrays: Mapping[str, Source]
    storage: Storage
    checkpoint: Checkpoint


def load_checkpoint(text: Text, request: Request, dims: Mapping[str, int]) -> Loaded:
    """The parameters of a layer of these dimensions in a checkpoint.

    Raises `CompileError`: E0001, E0408, E0405, E0306, E0901.
    """
    checkpoint = open_below(request.path, request.prefix, lambda: text.needed(request.bind))
    bind = request.bind or text.choose_bind(checkpoint, checkpoint.kind)
    arrays = dict(text.bind(bind, checkpoint, dims))
    storage = _formats(text, arrays, dict(request.storage or ()))
    called = text.called(bind, checkpoint)
    found = {name: _paced(checkpoint, value, called[name]) for name, value in arrays.items()}
    return Loaded(found, storage, checkpoint)


def _formats(text: Text, arrays: dict[str, Source], chosen: dict[str, str]) -> Storage:
    """The format of every parameter that has one: as asked, else as it comes where the layer can read it so. A
    parameter that comes in another format than is asked for is decoded."""
    storable: frozenset[str] | None = None
    for name, value in arrays.items():
        if not isinstance(value, Blocks):
            continue
        asked = chosen.get(name) or (chosen.get(EXPERTS) if len(value.shape) >= 3 else None)
        if asked is None:
            storable = text.storable() if storable is None else storable
            if name in storable:
                chosen[name] = value.format
        elif asked != value.format:
            arrays[name] = dense(value, name)
    return tuple(sorted(chosen.items()))


def _paced(checkpoint: Checkpoint, value: Source, called: str) -> Source:
    """A parameter that lets go of the file's pages while it is read."""
    match value:
        case Blocks():
            return replace(value, read=checkpoint.paced(value.read), scan=value.scan and checkpoint.pacing(value.scan))
        case Stack():
            scan = value.scan and checkpoint.pacing(value.scan)
            return replace(value, read=checkpoint.paced(value.read), called=called, scan=scan)
        case _ if value.ndim > 1:
            return Stack(value.shape, value.dtype, checkpoint.paced(value.__getitem__), called)
        case _:
            return np.array(value)  # short, and nothing of the file stays in use
