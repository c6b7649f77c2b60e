"""Which `.moe` file is the mathematics of which block: the table `blocks.toml`, and the dimensions of one block."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from torch import Tensor, nn

from moec.binding.fit import fit_dimensions
from moec.language import syntax
from moec.language.parse import parse
from moec.language.read import read
from moec.source import Source

_HERE: Final = Path(__file__).parent
#: Where the files lie: in the wheel all below this package, in the repository the examples at its root.
_PLACES: Final = (_HERE / "examples", _HERE.parents[2] / "examples", _HERE / "layers")


class Unfit(Exception):
    """Why a file is not the mathematics of a block."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `blocks.toml`."""

    file: str
    dims: Mapping[str, str] = field(default_factory=dict[str, str])
    when: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: Sequence[str] = ()


@cache
def rows() -> Mapping[str, Sequence[Row]]:
    """The rows by class of block."""
    table = tomllib.loads((_HERE / "blocks.toml").read_text(encoding="utf-8"))
    found: dict[str, list[Row]] = {}
    for file, entry in table.items():
        for block in entry.pop("blocks"):
            found.setdefault(block, []).append(Row(file, **entry))
    return found


@cache
def load(file: str) -> tuple[Source, syntax.File]:
    """The text of a layer, and its tree."""
    path = next(path for place in _PLACES if (path := place / f"{file}.moe").exists())
    source = read(path)
    return source, parse(source)


def look_up(path: str, block: nn.Module, config: Any) -> Any:
    value: Any = block if path.startswith(".") else config
    for part in path.lstrip(".").split("."):
        missing = part not in value if isinstance(value, dict) else not hasattr(value, part)
        if missing:
            raise Unfit(f"there is no `{path.lstrip('.')}`")
        value = cast(Any, value)[part] if isinstance(value, dict) else getattr(value, part)
    return value


def tensors_of(block: nn.Module) -> dict[str, Tensor]:
    """A block's weights by name, as a checkpoint would hold them."""
    return {name: tensor.detach() for name, tensor in (*block.named_parameters(), *block.named_buffers())}


def find_dimensions(file: syntax.File, tensors: Mapping[str, Tensor], given: Mapping[str, int]) -> dict[str, int]:
    """Every dimension: as given, or as the shapes of the weights say. None is taken from its default."""
    dims = fit_dimensions(file, "transformers", tensors, given)
    if lost := [node.name for node in file.layers[0].dimensions if node.name not in dims]:
        raise Unfit(f"nothing says what `{lost[0]}` is")
    return dims
