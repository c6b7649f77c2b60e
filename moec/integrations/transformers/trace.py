"""A function of torch as a function of the language: run once on a small tensor, its ATen operations written down.

What may be traced is what a token's vector becomes without a look at its numbers: pointwise operations, slices,
reductions over the last axis, and parameters. Any Python that comes down to these is welcome: modules, closures,
branches on types and shapes. Nothing rounds but a cast, as everywhere in the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
from torch import Tensor, _decomp, nn
from torch.fx.experimental.proxy_tensor import make_fx

from moec.diagnostics import CompileError, fail

#: How many tokens the example has; another number where that could be taken for the length of a vector.
_TOKENS: Final = (3, 5)

#: What `real` may be, and a cast go to.
REALS: Final = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}

#: A number as `number` writes it, without a sign.
_LITERAL: Final = re.compile(r"[0-9.]+(e[+-]?[0-9]+)?")

#: Loosest first: how firmly the parts of an expression hold together.
_ANY, _SUM, _PRODUCT, _PREFIX, _ATOM = range(5)


@dataclass(frozen=True, slots=True)
class Expr:
    """An expression of the language: its text, and how firmly that holds together. `axis` is a vector's length."""

    text: str
    level: int = _ATOM
    axis: int | None = None

    def at(self, level: int) -> str:
        """The text where at least `level` is needed."""
        return self.text if self.level >= level else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Piece:
    """Every `step`-th element of the function's argument, from `start` to below `stop`: a parameter of its own."""

    start: int
    stop: int
    step: int = 1

    @property
    def length(self) -> int:
        """How many elements these are."""
        return len(range(self.start, self.stop, self.step))

    def slice(self, start: int, stop: int, step: int) -> Piece:
        """The same of a piece."""
        chosen = range(self.start, self.stop, self.step)[start:stop:step]
        return Piece(chosen.start, min(chosen.stop, self.stop), chosen.step)


@dataclass(slots=True)
class Function:
    """A traced function: `fn name(pieces…, tensors…)`. `pieces` says what of its argument each of the first is."""

    name: str
    pieces: dict[Piece, str] = field(default_factory=dict[Piece, str])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    lines: list[str] = field(default_factory=list[str])
    result: str = ""

    @property
    def text(self) -> str:
        """The definition."""
        head = f"fn {self.name}({', '.join((*self.pieces.values(), *self.tensors))})"
        if not self.lines:
            return f"{head} = {self.result}\n"
        return "\n    ".join((f"{head} {{", *self.lines, f"return {self.result}")) + "\n}\n"


def trace(
    name: str, function: Callable[[Tensor], Tensor], width: int, dtype: torch.dtype, owner: nn.Module, what: str
) -> Function:
    """`function`, which takes [T, width] in `dtype` to [T, …], as a function of the language with the name `name`.

    `owner` has the parameters that it may read; they become arguments, by their names. `what` names the function where
    it cannot be traced: `CompileError` (E0902), with the class of `owner` and the operation.
    """
    tokens = next(count for count in _TOKENS if width not in (count, 2 * count))
    example = torch.zeros(tokens, width, dtype=dtype)
    try:
        graph = _apart(lambda: _graph(function, example))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise _refuse(owner, what, reason[0] if reason else type(error).__name__) from error
    return _Writer(name, owner, what, tokens, width, dtype).write(graph)


def _graph(function: Callable[[Tensor], Tensor], example: Tensor) -> Any:
    call: Callable[[Tensor], Tensor] = lambda x: torch.func.functionalize(function)(x)  # noqa: E731
    with torch.no_grad():
        return make_fx(call, decomposition_table=_decompositions())(example).graph


def _apart(run: Callable[[], Any]) -> Any:
    """What `run` gives in a thread of its own, where torch is in none of the modes that it may be in here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _refuse(owner: nn.Module, what: str, reason: str) -> CompileError:
    return fail("E0902", f"`{what}` of `{type(owner).__name__}` cannot be put into the language: {reason}")


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """What torch itself takes apart, but for what the language says more plainly."""
    table = cast("Mapping[Any, Callable[..., Any]]", cast(Any, _decomp).decomposition_table)
    return {op: rule for op, rule in table.items() if _name(op) not in _RULES}


def _name(op: Any) -> str:
    """`aten.clamp_min.default` is `clamp_min`."""
    return getattr(op, "overloadpacket", op).__name__


@dataclass
class _Writer:
    """One graph on its way into text."""

    name: str
    owner: nn.Module
    what: str
    tokens: int
    width: int
    dtype: torch.dtype
    values: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def write(self, graph: Any) -> Function:
        self.function = Function(self.name)
        for node in graph.nodes:
            match node.op:
                case "placeholder":
                    self.values[node] = Piece(0, self.width)
                case "get_attr":
                    self.values[node] = self._constant(_attribute(graph.owning_module, node.target))
                case "call_function":
                    self.values[node] = self._keep(node, self._call(node))
                case _:  # output
                    (result,) = node.args if not isinstance(node.args[0], list | tuple) else node.args[0]
                    self.function.result = self.expression(result).text
        return self.function

    def _call(self, node: Any) -> Any:
        name = _name(node.target)
        if name == "getitem":
            return self.values[node.args[0]][node.args[1]]
        if (rule := _RULES.get(name)) is None:
            raise _refuse(self.owner, self.what, f"the language has no `{node.target}`")
        place = _Place(self, node)
        schema = [argument.name for argument in node.target._schema.arguments]
        given = {**dict(zip(schema, node.args, strict=False)), **node.kwargs}
        return rule(place, given)

    def _keep(self, node: Any, value: Any) -> Any:
        """A value that is read more than once gets a name; one of a type narrower than the model's is rounded to it."""
        dtype = getattr(node.meta["val"], "dtype", self.dtype)
        if isinstance(value, Expr) and not value.text.isidentifier() and self.dtype == torch.float32 != dtype:
            value = Expr(f"{REALS[dtype]}({value.text})", axis=value.axis) if dtype in REALS else value
        return self.named(value) if isinstance(value, Expr) and len(node.users) > 1 else value

    def named(self, value: Expr) -> Expr:
        """A value that may be written more than once."""
        if value.text.isidentifier() or _LITERAL.fullmatch(value.text):
            return value
        name = f"v{len(self.function.lines)}"
        self.function.lines.append(f"{name} = {value.text}")
        return Expr(name, axis=value.axis)

    def expression(self, argument: Any) -> Expr:
        """An argument of an operation as an expression."""
        value = self.values.get(argument, argument) if isinstance(argument, torch.fx.Node) else argument
        match value:
            case Expr():
                return value
            case Piece():
                names = self.function.pieces
                return Expr(names.setdefault(value, chr(ord("a") + len(names))), axis=value.length)
            case bool() | int() | float():
                return number(float(value))
            case _:
                raise _refuse(self.owner, self.what, f"`{value}` is no number")

    def _constant(self, tensor: Tensor) -> Expr:
        """A parameter or buffer of the owner, by its name; any other tensor has to be a number."""
        for name, owned in (*self.owner.named_parameters(), *self.owner.named_buffers()):
            if owned is tensor or (owned.numel() and owned.data_ptr() == tensor.data_ptr()):
                text = re.sub(r"\W", "_", name)
                self.function.tensors[text] = owned
                return Expr(text, axis=owned.numel() if owned.dim() else None)
        if tensor.numel() != 1:
            raise _refuse(self.owner, self.what, f"a tensor of shape {list(tensor.shape)} is none of its parameters")
        return number(float(tensor.item()))


def _attribute(module: Any, path: str) -> Tensor:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def number(value: float) -> Expr:
    """A number as the language writes it."""
    if value != value:
        return Expr("(inf - inf)")
    text = repr(abs(value)).removesuffix(".0")
    return Expr(f"-{text}", _PREFIX) if value < 0 else Expr(text)


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an operation stands: its arguments as expressions, and the axis of what it gives."""

    writer: _Writer
    node: Any

    def read(self, argument: Any) -> Expr:
        return self.writer.expression(argument)

    def refuse(self, reason: str) -> CompileError:
        return _refuse(self.writer.owner, self.writer.what, reason)

    @property
    def axis(self) -> int | None:
        """The length of the vector that a token has here; None for a scalar."""
        return self._axis(self.node.meta["val"].shape)

    def axis_of(self, argument: Any) -> int | None:
        """The same of an argument."""
        return self._axis(argument.meta["val"].shape)

    def _axis(self, shape: Sequence[int]) -> int | None:
        match list(shape):
            case [] | [1] | [1, 1]:
                return None
            case [tokens] | [tokens, 1] if tokens == self.writer.tokens:
                return None
            case [length] | [1, length]:
                return length
            case [tokens, length] if tokens == self.writer.tokens:
                return length
            case shape:
                raise self.refuse(f"`{self.node.target}` gives a token something of shape {shape}")


_Given = Mapping[str, Any]
_Rule = Callable[[_Place, _Given], Any]


def _call(text: str, *names: str) -> _Rule:
    """A function of the language, applied to these arguments."""

    def rule(place: _Place, given: _Given) -> Expr:
        arguments = ", ".join(place.read(given[name]).text for name in names or ("self",))
        return Expr(f"{text}({arguments})", axis=place.axis)

    return rule


def _binary(symbol: str, level: int, swap: bool = False) -> _Rule:
    """An operator; `alpha` multiplies the right side."""

    def rule(place: _Place, given: _Given) -> Expr:
        if given.get("rounding_mode") is not None:
            raise place.refuse(f"`{place.node.target}` that rounds")
        left, right = (place.read(given[name]) for name in (("other", "self") if swap else ("self", "other")))
        if (alpha := given.get("alpha", 1)) != 1:
            right = Expr(f"{place.read(alpha).at(_PRODUCT)} * {right.at(_PREFIX)}", _PRODUCT, right.axis)
        return Expr(f"{left.at(level)} {symbol} {right.at(level + 1)}", level, place.axis)

    return rule


def _same(place: _Place, given: _Given) -> Any:
    """What moves no number; only the axis of tokens may gain or lose axes of one."""
    source = given.get("self", given.get("input"))
    if place.axis_of(source) != place.axis:
        raise place.refuse(f"`{place.node.target}` changes the shape of what a token has")
    return place.writer.values[source]


def _cast(place: _Place, given: _Given) -> Any:
    value, dtype = place.writer.values[given["self"]], given.get("dtype")
    was = given["self"].meta["val"].dtype
    if dtype is None or dtype == was or (dtype == torch.float32 and was.is_floating_point):
        return value
    if dtype not in REALS:
        raise place.refuse(f"a cast to `{dtype}`")
    name = "real" if dtype == place.writer.dtype and dtype != torch.float32 else REALS[dtype]
    return Expr(f"{name}({place.read(given['self']).text})", axis=place.axis)


def _clamp(place: _Place, given: _Given) -> Expr:
    value, (low, high) = place.read(given["self"]), (given.get("min"), given.get("max"))
    if low is not None and high is not None:
        text = f"clamp({value.text}, {place.read(low).text}, {place.read(high).text})"
    elif low is not None:
        text = f"max({value.text}, {place.read(low).text})"
    else:
        text = f"min({value.text}, {place.read(high).text})"
    return Expr(text, axis=place.axis)


def _gelu(place: _Place, given: _Given) -> Expr:
    name = "gelu_tanh" if given.get("approximate", "none") == "tanh" else "gelu"
    return _call(name)(place, given)


def _softplus(place: _Place, given: _Given) -> Expr:
    value, beta = place.read(given["self"]), given.get("beta", 1)
    if beta == 1:
        return Expr(f"softplus({value.text})", axis=place.axis)
    scale = number(float(beta))
    return Expr(f"softplus({scale.text} * {value.at(_PREFIX)}) / {scale.at(_PREFIX)}", _PRODUCT, place.axis)


def _power(place: _Place, given: _Given) -> Expr:
    value, exponent = place.read(given["self"]), given["exponent"]
    if exponent in (2, 3):
        return Expr(" * ".join([place.writer.named(value).text] * int(exponent)), _PRODUCT, place.axis)
    return Expr(f"{value.at(_ATOM)} ** {place.read(exponent).at(_PREFIX)}", _PREFIX, place.axis)


def _where(place: _Place, given: _Given) -> Expr:
    condition, one, other = (place.read(given[name]) for name in ("condition", "self", "other"))
    return Expr(f"if {condition.text} then {one.at(_SUM)} else {other.at(_SUM)}", _ANY, place.axis)


def _compare(symbol: str) -> _Rule:
    def rule(place: _Place, given: _Given) -> Expr:
        left, right = place.read(given["self"]), place.read(given["other"])
        return Expr(f"{left.at(_SUM)} {symbol} {right.at(_SUM)}", _ANY, place.axis)

    return rule


def _split(place: _Place, given: _Given) -> list[Any]:
    """`split` and `chunk` along the last axis."""
    length, sizes = given["self"].meta["val"].shape[-1], given.get("split_size", given.get("split_sizes"))
    _last(place, given, given["self"])
    if isinstance(sizes, int):
        sizes = [min(sizes, length - at) for at in range(0, length, sizes)]
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [_part(place, given["self"], stop - size, stop, 1) for size, stop in zip(sizes, stops, strict=True)]


def _slice(place: _Place, given: _Given) -> Any:
    shape, dim = given["self"].meta["val"].shape, given.get("dim", 0)
    start, stop = given.get("start") or 0, given.get("end")
    length = shape[dim]
    start = max(0, start + length if start < 0 else min(start, length))
    stop = length if stop is None else min(stop if stop >= 0 else stop + length, length)
    if (start, stop, given.get("step", 1)) == (0, length, 1):
        return place.writer.values[given["self"]]
    _last(place, given, given["self"])
    return _part(place, given["self"], start, stop, given.get("step", 1))


def _last(place: _Place, given: _Given, source: Any) -> None:
    if given.get("dim", 0) not in (-1, source.meta["val"].dim() - 1):
        raise place.refuse(f"`{place.node.target}` along another axis than the last")


def _part(place: _Place, source: Any, start: int, stop: int, step: int) -> Any:
    value = place.writer.values[source]
    if isinstance(value, Piece):
        return value.slice(start, stop, step)
    text = f"{place.read(source).at(_ATOM)}[{start}:{stop}{f':{step}' if step != 1 else ''}]"
    return Expr(text, axis=len(range(start, stop, step)))


def _reduce(name: str) -> _Rule:
    """A reduction over the last axis."""

    def rule(place: _Place, given: _Given) -> Expr:
        source = given["self"]
        dims = given.get("dim", [])
        dims = [dims] if isinstance(dims, int) else list(dims or [])
        if [dim % source.meta["val"].dim() for dim in dims] != [source.meta["val"].dim() - 1]:
            raise place.refuse(f"`{place.node.target}` over another axis than the last")
        return Expr(f"{name}({place.read(source).text})")

    return rule


def _concat(place: _Place, given: _Given) -> Expr:
    _last(place, given, place.node)
    return Expr(f"concat({', '.join(place.read(part).text for part in given['tensors'])})", axis=place.axis)


def _prefix(symbol: str) -> _Rule:
    return lambda place, given: Expr(f"{symbol}{place.read(given['self']).at(_PREFIX)}", _PREFIX, place.axis)


def _fixed(form: str, level: int) -> _Rule:
    """A formula of one argument, which stands where `{}` is."""
    return lambda place, given: Expr(form.format(place.read(given["self"]).at(_PREFIX)), level, place.axis)


#: By the name of an operation of ATen: the arguments by name, to an expression or a piece.
_RULES: Final[dict[str, _Rule]] = {
    **{name: _call(name) for name in ("abs", "exp", "log", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos", "floor")},
    **{name: _call(name) for name in ("sigmoid", "relu", "silu")},
    **dict.fromkeys(("alias", "clone", "detach", "view", "_unsafe_view", "unsqueeze", "squeeze", "expand"), _same),
    **dict.fromkeys(("lift_fresh_copy", "contiguous", "reshape"), _same),
    "add": _binary("+", _SUM),
    "sub": _binary("-", _SUM),
    "rsub": _binary("-", _SUM, swap=True),
    "mul": _binary("*", _PRODUCT),
    "div": _binary("/", _PRODUCT),
    "neg": _prefix("-"),
    "reciprocal": _fixed("1 / {}", _PRODUCT),
    "expm1": _fixed("exp({}) - 1", _SUM),
    "log1p": _fixed("log(1 + {})", _ATOM),
    "ceil": _fixed("-floor(-{})", _PREFIX),
    "pow": _power,
    "minimum": _call("min", "self", "other"),
    "maximum": _call("max", "self", "other"),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "gelu": _gelu,
    "softplus": _softplus,
    "softmax": _reduce("softmax"),
    "_softmax": _reduce("softmax"),
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    "where": _where,
    **{name: _compare(symbol) for name, symbol in {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}.items()},
    "eq": _compare("=="),
    "ne": _compare("!="),
    "logical_and": _compare("and"),
    "bitwise_and": _compare("and"),
    "logical_or": _compare("or"),
    "bitwise_or": _compare("or"),
    "split": _split,
    "split_with_sizes": _split,
    "slice": _slice,
    "cat": _concat,
    "_to_copy": _cast,
}
