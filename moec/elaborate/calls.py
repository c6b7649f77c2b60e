"""Calls: of the language's own functions by their row, of others by putting their body where they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from moec.diagnostics import CompileError, Diagnostic, Label, fail, nearest, once, plural, quoted
from moec.elaborate.evaluator import Evaluator
from moec.elaborate.functions import FUNCTIONS, Called, Operand
from moec.elaborate.values import (
    Array,
    Function,
    Scope,
    Selection,
    Value,
    by_rows,
    definitions,
    kind_of,
    shape_origin,
)
from moec.language import syntax
from moec.language.foreign import FOREIGN_NAMES, OF_VECTORS, unquoted, without_axis
from moec.language.parse import prelude, takes_number
from moec.source import Span

#: How deep functions may call each other before one is said to need itself.
_MAX_CALLS: Final = 64

#: What a function with so many arguments is elsewhere.
_ELSEWHERE: Final = {("where", 3): "write `if c then a else b`"}

#: What is called as if it gave several values.
_BESIDE: Final = {
    "topk": "`topk` gives a selection; the values at `top = topk(p, K)` are `p[top]`",
    "max": "`max` gives the value; `argmax` is its index",
}

#: The way out where a name is used above its definition.
_MOVE_UP: Final = "a name is visible below its definition: move it up"

#: Names for the results of a function, in a help.
_SPARE: Final = ("a", "b", "c", "d")

#: The norms that have weights elsewhere.
_NORMS: Final = ("rmsnorm", "layernorm")

#: What an axis is called, here or elsewhere, and what else is said of one there.
_AXIS: Final = ("axis", "dim")
_KEEPING: Final = ("keepdims", "keepdim")

#: The arguments of a call, each with its name where it was given one.
Operands: TypeAlias = Sequence[tuple[syntax.Name | None, Operand]]


def call(builder: Evaluator, node: syntax.Call, scope: Scope) -> Value:
    """The one result of a call."""
    results = _results(builder, node, scope)
    if len(results) != 1:
        found = plural(len(results), "value")
        names = ", ".join(_SPARE[: len(results)] if len(results) <= len(_SPARE) else (*_SPARE[:2], "…"))
        help = f"name them first: `{names} = {node.function.id}(…)`"
        raise fail("E0106", f"`{node.function.id}` returns {found}, one is needed", node.span, help=help)
    return results[0]


def _results(builder: Evaluator, node: syntax.Call, scope: Scope) -> Sequence[Value]:
    """The results of a call: of a value that is a function, of the file, of the prelude, of the language."""
    name = node.function.id
    found = scope.find(name)
    callee = found if isinstance(found, Function) else builder.functions.find(name)
    if isinstance(callee, Function) and callee.node is not None:
        names = [parameter.name for parameter in callee.node.parameters]
        operands = _operands(builder, name, names, node, scope)
        if callee.node.span.source is prelude().span.source:
            _whole_vector(name, operands)
        return _inline(builder, callee, operands, node)
    row_name = callee.name if isinstance(callee, Function) else name
    if row_name not in FUNCTIONS:
        if found is not None:
            raise fail("E0204", f"`{name}` is {kind_of(found)}, not a function", node.function.span)
        raise unknown(builder, node.function, scope, [*builder.functions.names(), *FUNCTIONS])
    return [_builtin(builder, row_name, _operands(builder, row_name, FUNCTIONS[row_name].named, node, scope), node)]


def _operands(builder: Evaluator, name: str, names: Sequence[str], node: syntax.Call, scope: Scope) -> Operands:
    """The arguments' values, after a look at the names that they are given. Raises `CompileError` (E0104)."""
    operands: list[tuple[syntax.Name | None, Operand]] = []
    labels = [_label(argument) for argument in node.arguments]
    for label in labels:
        if label is not None and label.id not in names:
            text = f"`{name}` has no parameter `{label.id}`"
            raise fail("E0104", text, label.span, help=_other_name(name, names, label.id))
    for label, argument in zip(labels, node.arguments, strict=True):
        if isinstance(argument.value, syntax.String):
            raise no_string(argument.value, name)
        if name == "sum":
            _no_binder(argument.value, scope)
        operands.append((label, Operand(builder.evaluate(argument.value, scope), argument.value.span)))
    return operands


def _whole_vector(name: str, operands: Operands) -> None:
    """Raises `CompileError` (E0201) where a function of the prelude that is of a vector gets more axes."""
    value = operands[0][1].value if operands else None
    if name not in OF_VECTORS or not isinstance(value, Array) or len(value.shape) < 2:
        return
    place = operands[0][1].span
    matrix = place.text if place.text.isidentifier() else "m"
    help = f"`{by_rows(value, f'{name}({matrix}[i])')}` is of every row"
    text = f"`{name}` is of a vector, not of {kind_of(value)}"
    raise fail("E0201", text, place, causes=[shape_origin(value)], help=help)


def _no_binder(node: syntax.Expr, scope: Scope) -> None:
    """Raises `CompileError` (E0101) for the argument of `sum(e in s) * …`, whose `e` is yet to be bound."""
    match node:
        case syntax.Binary(op="in", left=syntax.Name(id=name) as left) if scope.find(name) is None:
            help = f"write `sum {node.span.text}: …`, without parentheses"
            raise fail("E0101", f"`{name}` is not defined", left.span, help=help)
        case _:
            pass


def no_string(node: syntax.String, called: str = "") -> CompileError:
    """The error of a string in an expression, an argument of `called` if that is a name."""
    return fail("E0204", "a string stands only in a `bind`", node.span, help=unquoted(node.value, called))


def _label(argument: syntax.Argument) -> syntax.Name | None:
    """The name that an argument is given, where it stands."""
    if argument.name is None:
        return None
    start = argument.span.start
    return syntax.Name(Span(argument.span.source, start, start + len(argument.name)), argument.name)


def _other_name(name: str, names: Sequence[str], label: str) -> str | None:
    """The help for an argument's name that a function does not have."""
    if label in _AXIS and "axis" in names:
        return "write `axis=…`"
    if label in _KEEPING and "axis" in names:
        return "leave it out: the axis goes, and a scalar fits every shape"
    if label in _AXIS and name in OF_VECTORS:
        return without_axis(name)
    if name in FUNCTIONS:
        others = f", but for {quoted(names)}" if names else ""
        return f"its arguments stand in order, without names{others}"
    return nearest(label, names) or f"its parameters are {quoted(names)}"


def unknown(builder: Evaluator, node: syntax.Name, scope: Scope, names: Sequence[str]) -> CompileError:
    """The error of a name that stands for nothing: where it is defined below or bound, or what this language has
    instead, or the nearest of the names that stand for something."""
    if place := scope.below(node):
        cause = Label(place, "defined here, below")
        return fail("E0101", f"`{node.id}` is not defined yet", node.span, causes=[cause], help=_MOVE_UP)
    if node.id in FOREIGN_NAMES:
        return fail("E0101", f"`{node.id}` is not in the language", node.span, help=FOREIGN_NAMES[node.id])
    binders = (binder for binder in builder.binders() if binder.name.id == node.id)
    causes = [Label(binder.name.span, f"bound only inside this `{binder.kind}`") for binder in binders][:1]
    help = None if causes else nearest(node.id, names)
    return fail("E0101", f"`{node.id}` is not defined", node.span, causes=causes, help=help)


def _builtin(builder: Evaluator, name: str, operands: Operands, node: syntax.Call) -> Value:
    row = FUNCTIONS[name]
    positional = [operand for label, operand in operands if label is None]
    named = {label.id: operand for label, operand in operands if label is not None}
    if len(positional) + len(named) < len(operands):
        raise fail("E0104", f"an argument of `{name}` is given twice", node.span)
    most = row.most - len(named)
    if not row.least <= len(positional) <= most:
        wanted = str(row.least) if row.least == most else f"{row.least} to {most}"
        beside = "".join(f" beside `{label}`" for label in named)
        what = f"`{name}` takes {wanted} {'argument' if wanted == '1' else 'arguments'}{beside}, not {len(positional)}"
        raise fail("E0104", what, node.span, help=_ELSEWHERE.get((name, len(operands))))
    return row.run(Called(name, builder, positional, named, node.span))


def _inline(builder: Evaluator, callee: Function, operands: Operands, node: syntax.Call) -> Sequence[Value]:
    """The results of a function's body, run where it is called."""
    function = callee.node
    assert function is not None
    if len(builder.calls) >= _MAX_CALLS:
        places = dict.fromkeys(builder.calls[:3])
        chain = [Label(place, "called here") for place in places if place != node.span]
        raise fail("E0103", f"`{callee.name}` needs itself", node.span, causes=chain, help="functions do not recurse")
    scope = Scope(callee.scope)
    given = _by_name(function, operands, node)
    for parameter in function.parameters:
        once(parameter.name, parameter.span, scope.places)
        if parameter.name in given:
            if takes_number(function, parameter):
                _check_number(function.name.id, parameter.name, operands[0][1], given[parameter.name])
            scope.values[parameter.name] = given[parameter.name].value
        elif parameter.default is not None:
            scope.values[parameter.name] = builder.evaluate(parameter.default, scope)
    scope.defined = definitions(function.body)
    builder.calls.append(node.span)
    try:
        return _run(builder, function.body, scope)
    except CompileError as error:
        raise _seen_from(error, node.span) from None
    finally:
        builder.calls.pop()


def _check_number(function: str, parameter: str, first: Operand, given: Operand) -> None:
    """Raises `CompileError` (E0204) where a setting of the prelude's functions has axes: it was meant as a weight."""
    if isinstance(given.value, Array) and given.value.shape:
        what = f"`{parameter}` of `{function}` is one number, not {kind_of(given.value)}"
        help = f"it has no weights: write `{function}({first.span.text}) * {given.span.text}`"
        raise fail("E0204", what, given.span, help=help if function in _NORMS else None)


def _by_name(function: syntax.Function, operands: Operands, node: syntax.Call) -> dict[str, Operand]:
    """The arguments by the names of the parameters. Raises `CompileError` (E0104) where they do not fit."""
    name, names = function.name.id, [parameter.name for parameter in function.parameters]
    declared = [Label(function.name.span, "declared here")]
    positional = [operand for label, operand in operands if label is None]
    if len(positional) > len(names):
        what = f"`{name}` takes {plural(len(names), 'argument')}, not {len(positional)}"
        help = without_axis(name) if name in OF_VECTORS else None
        raise fail("E0104", what, node.span, causes=declared, help=help)
    given = dict(zip(names, positional, strict=False))
    for label, operand in operands:
        if label is None:
            continue
        if label.id in given:
            raise fail("E0104", f"`{label.id}` of `{name}` is given twice", label.span)
        given[label.id] = operand
    for parameter in function.parameters:
        if parameter.name not in given and parameter.default is None:
            raise fail("E0104", f"`{name}` needs an argument for `{parameter.name}`", node.span, causes=declared)
    return given


def _run(builder: Evaluator, body: Sequence[syntax.Statement], scope: Scope) -> Sequence[Value]:
    """Runs a function's statements; its results."""
    for statement in body:
        match statement:
            case syntax.Return():
                return [builder.evaluate(value, scope) for value in statement.values]
            case syntax.Assign() | syntax.Function():
                define(builder, statement, scope)
            case _:
                raise fail("E0106", "a function holds definitions and one `return`", statement.span)
    raise fail("E0106", "this function returns nothing", body[-1].span if body else builder.span)


def define(builder: Evaluator, statement: syntax.Assign | syntax.Function, scope: Scope) -> None:
    """Gives names their values."""
    if isinstance(statement, syntax.Function):
        give_name(statement.name, Function(statement.name.id, statement, scope), scope)
        return
    names = statement.names
    if len(names) == 1:
        values: Sequence[Value] = [builder.evaluate(statement.value, scope)]
    elif isinstance(statement.value, syntax.Call):
        values = _results(builder, statement.value, scope)
    else:
        raise fail("E0106", "only a call gives several values", statement.value.span)
    if len(values) != len(names):
        called = statement.value.function.id if isinstance(statement.value, syntax.Call) else ""
        text = f"{plural(len(names), 'name')} for {plural(len(values), 'value')}"
        raise fail("E0106", text, statement.span, help=_BESIDE.get(called))
    for name, value in zip(names, values, strict=True):
        give_name(name, value, scope)


def give_name(name: syntax.Name, value: Value, scope: Scope) -> None:
    """Defines a name. Raises `CompileError` (E0102) where the scope has it."""
    once(name.id, name.span, scope.places)
    scope.values[name.id] = value
    if isinstance(value, Array | Selection) and value.ssa.name_hint is None:
        value.ssa.name_hint = name.id


def _seen_from(error: CompileError, call: Span) -> CompileError:
    """An error inside a function, told from the place in the user's file that called it."""
    return CompileError(*(_retold(diagnostic, call) for diagnostic in error.diagnostics))


def _retold(diagnostic: Diagnostic, call: Span) -> Diagnostic:
    span = diagnostic.span
    if span is None or span.source is call.source or len(diagnostic.causes) > 4:
        return diagnostic
    inside = Label(span, diagnostic.label or "inside this function")
    return Diagnostic(diagnostic.code, diagnostic.message, call, "", (inside, *diagnostic.causes), diagnostic.help)
