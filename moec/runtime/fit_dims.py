"""The dimensions of a layer, told by the shapes of a checkpoint's tensors.

A parameter is `[E, I, H]`, and what it is bound to has a shape that follows from its tensors: so every axis is an
equation between formulas over dimensions. Those with one unknown, in which it is linear, are solved until none is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from moec.diagnostics import CompileError, Diagnostic
from moec.dims import ZERO, Dim, ceiling, product
from moec.language import syntax
from moec.runtime.bind import Binding, Dims, Tensors, blank, entries_of, formula, parameters

#: The length of each axis; None where no formula says it.
Shape = list[Dim | None]


def fit_dimensions(file: syntax.File, name: str | None, tensors: Tensors, given: Dims) -> dict[str, int]:
    """The dimensions as `given`, else as the tensors bound by `name` say. What neither tells is left to its default.

    Raises `CompileError`: E0301 with every dimension that then has no value, E0405 where a tensor is missing.
    """
    layer, entries = file.layers[0], entries_of(file, name)
    known = {name: size for name, size in given.items() if hasattr(size, "__index__")}
    mistakes, equations = list[Diagnostic](), list[Dim]()
    names = [node.name for node in layer.dimensions]
    for param, type in parameters(file).items():
        walk = _Walk(Binding(param, tensors, known))
        try:
            equations += walk.equations(type, entries.get(param))
        except CompileError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise CompileError(*dict.fromkeys(mistakes))
    _solve(equations, known, names)
    dims = {**known, **given}  # what is no number is for the layer to refuse
    for node in layer.dimensions:
        if node.name not in dims and node.default is None:
            text = f"the dimension `{node.name}` has no value, and no tensor tells it"
            mistakes.append(Diagnostic("E0301", text, node.span, help=f"give it one: `{node.name}=…`"))
    if mistakes:
        raise CompileError(*mistakes)
    return dims


def _solve(equations: list[Dim], known: dict[str, int], names: list[str]) -> None:
    """Adds to `known` what follows from formulas that are 0."""
    open = list(equations)
    while True:
        rest: list[Dim] = []
        for equation in open:
            unknown = equation.symbols - known.keys()
            if len(unknown) > 1:
                rest.append(equation)
            elif unknown and (value := _root(equation, symbol := next(iter(unknown)), known)) and symbol in names:
                known[symbol] = value
        if len(rest) == len(open):
            return
        open = rest


def _root(equation: Dim, symbol: str, known: Mapping[str, int]) -> int | None:
    """Where a formula that is linear in one symbol is 0, if that is a positive integer."""
    try:
        a, b, c = (equation.evaluate({**known, symbol: at}) for at in (1, 2, 3))
    except ZeroDivisionError:
        return None
    if any(isinstance(value, float) for value in (a, b, c)) or b - a != c - b or a == b:
        return None
    root = Fraction(1) - Fraction(a) / (Fraction(b) - Fraction(a))
    return int(root) if root.denominator == 1 and root > 0 else None


class _Walk:
    """The shape of what a parameter is bound to, and the equations on the way."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.found: list[Dim] = []

    def equations(self, type: syntax.Type, entry: syntax.Entry | None) -> list[Dim]:
        if entry is None:
            shape = self._tensor(self.binding.param, None, None)
        else:
            shape = self._shape(entry.value, entry.storage)
        wanted = [self._formula(length) for length in type.shape or ()]
        if len(shape) == len(wanted):
            axes = zip(shape, wanted, strict=True)
            self.found += [a - b for a, b in axes if a is not None and b is not None]
        return self.found

    def _formula(self, node: syntax.Expr) -> Dim | None:
        """A length over the dimensions that are not given; None where binding says what it is, or what is wrong."""
        try:
            return formula(node, self.binding.dims)
        except (ArithmeticError, CompileError, ValueError):
            return None

    def _number(self, node: syntax.Expr | None, default: int) -> int | None:
        """An integer, where the given dimensions tell it."""
        if node is None:
            return default
        dim = self._formula(node)
        value = None if dim is None else dim.constant
        return int(value) if value is not None and value.denominator == 1 else None

    def _tensor(self, name: str, storage: str | None, node: syntax.Node | None) -> Shape:
        return [Dim.of(length) for length in self.binding.tensor(name, storage, node).shape]

    def _shape(self, node: syntax.Expr, storage: str | None) -> Shape:
        match node:
            case syntax.String():
                return self._tensor(node.value, storage, node)
            case syntax.Group():
                return self._shape(node.inner, storage)
            case syntax.Transpose():
                shape = self._shape(node.operand, storage)
                return [*shape[:-2], *reversed(shape[-2:])]
            case syntax.Index():
                shape = self._shape(node.operand, storage)
                axes = [
                    (self._part(item, length),) if isinstance(item, syntax.Slice) else ()
                    for item, length in zip(node.items, shape, strict=False)
                ]
                return [length for axis in axes for length in axis] + shape[len(node.items) :]
            case syntax.Split():
                return self._split(self._shape(node.operand, storage), node)
            case syntax.Call():
                return self._concat(node, storage)
            case _:
                return []  # binding says what is wrong

    def _part(self, item: syntax.Slice, length: Dim | None) -> Dim | None:
        """The length of a slice of an axis."""
        low = ZERO if item.low is None else self._end(item.low, length)
        high = length if item.high is None else self._end(item.high, length)
        step = self._number(item.step, 1)
        return None if low is None or high is None or step is None or step < 1 else ceiling(high - low, step)

    def _end(self, node: syntax.Expr, length: Dim | None) -> Dim | None:
        """An end of a slice; a negative one, all of whose terms are, counts from the axis' end."""
        end = self._formula(node)
        if end is None or not end.terms or any(coefficient >= 0 for _, coefficient in end.terms):
            return end
        return None if length is None else length + end

    def _split(self, shape: Shape, node: syntax.Split) -> Shape:
        lengths = [None if blank(length) else self._formula(length) for length in node.shape]
        known, told = ([length for length in each if length is not None] for each in (shape, lengths))
        parts, blanks = product(told), sum(map(blank, node.shape))
        if len(known) < len(shape) or len(told) + blanks < len(lengths) or parts == ZERO:
            return lengths
        if not blanks:
            self.found.append(product(known) - parts)
        return [product(known) / parts if length is None else length for length in lengths]

    def _concat(self, node: syntax.Call, storage: str | None) -> Shape:
        parts = [self._shape(a.value, storage) for a in node.arguments if a.name is None]
        axis = self._number(next((a.value for a in node.arguments if a.name == "axis"), None), 0)
        first = parts[0] if parts else []
        if axis is None or any(len(part) != len(first) for part in parts) or not -len(first) <= axis < len(first):
            return []
        joined = [part[axis] for part in parts]
        known = [length for length in joined if length is not None]
        first[axis] = sum(known[1:], known[0]) if len(known) == len(joined) else None
        return first
