"""The dimensions of a layer, told by the shapes of a checkpoint's tensors.

A parameter is `[E, I, H]`, and what it is bound to has a shape that follows from its tensors: so every axis is an
equation between formulas over dimensions. Those with one unknown, in which it is linear, are solved until none is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from moec.diagnostics import CompileError, Diagnostic
from moec.dims import Dim, ceiling, product
from moec.language import syntax
from moec.runtime.bind import Binding, Dims, Tensors, blank, entries_of, formula, parameters, whole

#: The length of each axis; None where no formula says it.
Shape = list[Dim | None]


def fit_dimensions(file: syntax.File, name: str | None, tensors: Tensors, given: Dims) -> dict[str, int]:
    """The value of every dimension: as `given`, else as the tensors bound by `name` say, else its default.

    Raises `CompileError`: E0301 with every dimension that none of these tells, E0405 where a tensor is missing.
    """
    layer, entries = file.layers[0], entries_of(file, name)
    known, mistakes, equations = dict(given), list[Diagnostic](), list[Dim]()
    names = [node.name for node in layer.dimensions]
    for param, type in parameters(file).items():
        walk = _Walk(Binding(param, tensors, {}))
        try:
            equations += walk.equations(type, entries.get(param))
        except CompileError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise CompileError(*dict.fromkeys(mistakes))
    _solve(equations, known, names)
    values: dict[str, int] = {}
    for node in layer.dimensions:
        if node.name in known:
            values[node.name] = known[node.name]
        elif node.default is not None and all(symbol in values for symbol in formula(node.default, {}).symbols):
            values[node.name] = whole(node.default, values)
        else:
            text = f"the dimension `{node.name}` has no value, and no tensor tells it"
            mistakes.append(Diagnostic("E0301", text, node.span, help=f"give it one: `{node.name}=…`"))
    if mistakes:
        raise CompileError(*mistakes)
    return values


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
        wanted = [formula(length, {}) for length in type.shape or ()]
        if len(shape) == len(wanted):
            self.found += [a - b for a, b in zip(shape, wanted, strict=True) if a is not None]
        return self.found

    def _tensor(self, name: str, storage: str | None, node: syntax.Node | None) -> Shape:
        return [Dim.of(length) for length in self.binding.tensor(name, storage, node).shape]

    def _shape(self, node: syntax.Expr, storage: str | None) -> Shape:
        match node:
            case syntax.String():
                return self._tensor(node.value, storage, node)
            case syntax.Group():
                return self._shape(node.inner, storage)
            case syntax.Transpose():
                *lead, a, b = self._shape(node.operand, storage)
                return [*lead, b, a]
            case syntax.Index():
                shape = self._shape(node.operand, storage)
                axes = [
                    (_part(item, length),) if isinstance(item, syntax.Slice) else ()
                    for item, length in zip(node.items, shape, strict=False)
                ]
                return [length for axis in axes for length in axis] + shape[len(node.items) :]
            case syntax.Split():
                return self._split(self._shape(node.operand, storage), node)
            case syntax.Call():
                return self._concat(node, storage)
            case _:
                return []  # binding says what is wrong

    def _split(self, shape: Shape, node: syntax.Split) -> Shape:
        lengths = [None if blank(length) else formula(length, {}) for length in node.shape]
        known = [length for length in shape if length is not None]
        parts = product(length for length in lengths if length is not None)
        if len(known) < len(shape):
            return [*lengths]
        if None not in lengths:
            self.found.append(product(known) - parts)
        return [product(known) / parts if length is None else length for length in lengths]

    def _concat(self, node: syntax.Call, storage: str | None) -> Shape:
        parts, axis = [self._shape(a.value, storage) for a in node.arguments if a.name is None], 0
        for argument in node.arguments:
            if argument.name == "axis":
                axis = whole(argument.value, {})
        first = parts[0] if parts else []
        if any(len(part) != len(first) for part in parts) or not -len(first) <= axis < len(first):
            return []
        joined = [part[axis] for part in parts]
        known = [length for length in joined if length is not None]
        first[axis] = sum(known[1:], known[0]) if len(known) == len(joined) else None
        return first


def _part(item: syntax.Slice, length: Dim | None) -> Dim | None:
    """The length of a slice of an axis."""
    step = 1 if item.step is None else whole(item.step, {})
    low, high = (None if end is None else _end(formula(end, {}), length) for end in (item.low, item.high))
    low, high = (Dim.of(0) if item.low is None else low), (length if item.high is None else high)
    return None if low is None or high is None else ceiling(high - low, step)


def _end(end: Dim, length: Dim | None) -> Dim | None:
    """An end of a slice; a negative one, all of whose terms are, counts from the axis' end."""
    negative = bool(end.terms) and all(coefficient < 0 for _, coefficient in end.terms)
    if not negative:
        return end
    return None if length is None else length + end
