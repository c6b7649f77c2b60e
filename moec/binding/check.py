"""What can be said of `bind` blocks without a checkpoint."""

from __future__ import annotations

from moec.binding.entries import bound_by
from moec.binding.formulas import Dims
from moec.diagnostics import once
from moec.language import syntax
from moec.source import Span


def check_binds(file: syntax.File, dims: Dims) -> None:
    """No name twice, entries of the layer's weights only, and in them nothing that no checkpoint could hold; `dims` has
    the dimensions that have values.

    Raises `CompileError` (E0102, E0202, E0206, E0306, E0405).
    """
    dimensions = [dimension.name for dimension in file.layers[0].dimensions]
    blocks: dict[str, Span] = {}
    for block in file.binds:
        once(block.name.id, block.name.span, blocks, "bind")
        entries: dict[str, Span] = {}
        for entry in block.entries:
            once(entry.param.id, entry.param.span, entries, "entry")
        for bound in bound_by(file, block.name.id):
            for formula in bound.view.formulas:
                formula.check(dimensions, dims)
