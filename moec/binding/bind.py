"""The parameters of a layer, taken from a checkpoint as a `bind` block says."""

from __future__ import annotations

from moec.arrays import element, suits
from moec.binding.choose import needed
from moec.binding.entries import Bound, bound_by
from moec.binding.formulas import Dims
from moec.binding.tensors import Tensors
from moec.checkpoint.prefix import Below, nothing_below, where
from moec.diagnostics import CompileError, Diagnostic, fail
from moec.formats.blocks import Blocks, Source
from moec.language import syntax


def bind_weights(file: syntax.File, name: str | None, tensors: Tensors, dims: Dims) -> dict[str, Source]:
    """Every parameter of the file's layer, from the tensors of a checkpoint. `name` is the `bind` block (None: every
    parameter is the tensor of its name), `dims` has the value of every dimension.

    Raises `CompileError`: what `bound_by` raises; E0202, E0206, E0404, E0405 where tensors do not fit, with every
    mistake there is.
    """
    params = bound_by(file, name)
    if isinstance(tensors, Below) and not len(tensors):
        raise nothing_below("the checkpoint", tensors.prefix, tensors.whole, needed(file, name))
    found, mistakes = dict[str, Source](), list[Diagnostic]()
    for bound in params:
        try:
            found[bound.param] = _weight(bound, tensors, dims)
        except CompileError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise CompileError(*dict.fromkeys(mistakes))
    return found


def _weight(bound: Bound, tensors: Tensors, dims: Dims) -> Source:
    """A parameter. Raises `CompileError` where its view is not what the layer declares: E0405, E0404."""
    shape = tuple(length.integer(dims) for length in bound.shape)
    value, source = bound.view.read(tensors, dims), f"{bound.place} in {where(tensors)}"
    if value.shape != shape:
        text = f"`{bound.param}` is {list(shape)}, but {source} is {list(value.shape)}"
        raise fail("E0405", text, bound.span)
    dtype = "f32" if bound.dtype == "real" else bound.dtype
    if not isinstance(value, Blocks) and not suits(value.dtype, dtype):
        text = f"`{bound.param}` is {bound.dtype}, but {source} holds {element(value.dtype)}"
        raise fail("E0404", text, bound.span)
    return value
