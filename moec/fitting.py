"""What a file of weights tells about the layer that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moec.source import Source


def fit(
    source: Source, path: Path | str, prefix: str = "", bind: str | None = None, dims: Mapping[str, int] | None = None
) -> tuple[dict[str, int], str | None]:
    """The dimensions of a layer whose weights are in a file: as given, else as the file's tensors tell; what neither
    tells is left to its default. For packed weights also the working precision that they were packed for.

    Raises `CompileError`: E0105 (the text), E0206, E0305 (`dims`), E0301 with the dimensions that nothing tells, E0001,
    E0408, E0409 (the file), E0405 (what is in it).
    """
    from moec.binding.choose import asked_for, choose_bind
    from moec.binding.fit import fit_dimensions
    from moec.checkpoint.moepack import Moepack, is_moepack
    from moec.checkpoint.prefix import open_below
    from moec.language.parse import only_layer, parse
    from moec.runtime import saved
    from moec.validation import sizes

    file, given = parse(source), sizes(dims)
    layer = only_layer(file).name.id
    if is_moepack(path):
        found, real = saved.packed_for(Moepack(path), layer)
        return {**found, **given}, real
    tensors = open_below(path, prefix, lambda: asked_for(file, bind))
    return fit_dimensions(file, bind or choose_bind(file, tensors, tensors.kind), tensors, given), None
