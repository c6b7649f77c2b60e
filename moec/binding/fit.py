"""The dimensions of a layer, told by the shapes of a checkpoint's tensors.

A parameter is `[E, I, H]`, and what it is bound to has a shape that follows from its tensors: so every axis is an
equation between formulas over dimensions.
"""

from __future__ import annotations

from moec.binding.entries import bound_by
from moec.binding.equations import Equations
from moec.binding.formulas import Dims
from moec.binding.tensors import Tensors
from moec.diagnostics import CompileError, Diagnostic
from moec.language import syntax


def fit_dimensions(file: syntax.File, name: str | None, tensors: Tensors, given: Dims) -> dict[str, int]:
    """The dimensions as `given`, else as the tensors bound by `name` say. What neither tells is left to its default.

    Raises `CompileError`: what `bound_by` raises; E0405 where a tensor is missing; E0301 with every dimension that has
    no value then.
    """
    dimensions, mistakes = file.layers[0].dimensions, list[Diagnostic]()
    equations = Equations({name: size for name, size in given.items() if hasattr(size, "__index__")})
    for bound in bound_by(file, name):
        try:
            shape = bound.view.lengths(tensors, equations)
        except CompileError as error:
            mistakes += error.diagnostics
            continue
        if len(shape) == len(bound.shape):
            for found, declared in zip(shape, bound.shape, strict=True):
                equations.equal(found, declared.over(equations.dims))
    if mistakes:
        raise CompileError(*dict.fromkeys(mistakes))
    equations.solve([node.name for node in dimensions])
    dims = {**equations.dims, **given}  # what is no number is for the layer to refuse
    for node in dimensions:
        if node.name not in dims and node.default is None:
            text = f"the dimension `{node.name}` has no value, and no tensor tells it"
            mistakes.append(Diagnostic("E0301", text, node.span, help=f"give it one: `{node.name}=…`"))
    if mistakes:
        raise CompileError(*mistakes)
    return dims
