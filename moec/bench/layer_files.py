"""The layers that moec itself measures and shows: examples, in a checkout beside moec, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]


def layer_path(name: str) -> Path:
    """The file of an example, by its name without `.moe`."""
    checkout = _ROOT.parent / "examples"
    return (checkout if checkout.is_dir() else _ROOT / "integrations" / "transformers" / "examples") / f"{name}.moe"
