"""Whole random programs, as text: a Hypothesis strategy that knows the language and nothing of the compiler.

Every expression is drawn for a wanted kind and shape from what is in scope, so that a program is well-typed by
construction. Values are kept near 1: what multiplies is bounded, what divides stays away from 0, powers have small
exponents; so a compiled program that is right is also close. A program comes with its dimensions, the number of tokens
of its runs, and the seed of its weights and inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np
from hypothesis import strategies as st

from moec.language import syntax
from moec.language.parse import parse
from moec.source import Source
from tests.examples import Array, deviation, distinct, params, shape

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]

# ── programs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Program:
    """A layer's text and what it runs with. `below` says of i64 inputs and parameters what they count; `special` is
    the share of tokens that bring NaN or an infinity."""

    text: str
    dims: Mapping[str, int]
    real: str
    tokens: tuple[int, ...]
    seed: int
    special: float
    below: Mapping[str, str]
    given: frozenset[str]

    def __str__(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.dims.items())
        counts = ", ".join(f"{name} below {count}" for name, count in self.below.items())
        return (
            f"# real={self.real} tokens={self.tokens} seed={self.seed} special={self.special}\n"
            f"# dims {values}\n" + (f"# {counts}\n" if counts else "") + self.text
        )

    __repr__ = __str__

    @property
    def file(self) -> syntax.File:
        return parse(Source("<generated>", self.text))

    @property
    def coarsest(self) -> str:
        """The shortest element type that anything is rounded to."""
        words = {self.real, *(name for name in ("bf16", "f16") if name in self.text)}
        return next(name for name in ("bf16", "f16", "f32") if name in words)

    def weights(self) -> dict[str, Array]:
        """Random weights; a matrix is scaled so that its products are near 1."""
        rng = np.random.default_rng(self.seed)
        weights: dict[str, Array] = {}
        for name, type_ in params(self.file):
            extents = shape(type_, self.dims)
            if type_.dtype == "i64":
                weights[name] = self._indices(name, extents, rng)
            else:
                data = rng.standard_normal(extents).clip(-3, 3) * deviation(extents)
                weights[name] = data.astype(self._numpy(type_))
        return weights

    def inputs(self, tokens: int) -> list[Array]:
        """What so many tokens bring; some of it is not finite."""
        rng = np.random.default_rng([self.seed, tokens])
        strange = rng.random(tokens) < self.special
        inputs: list[Array] = []
        for item in self.file.layers[0].inputs:
            extents = (tokens, *shape(item.type, self.dims))
            if item.type.dtype == "i64":
                inputs.append(self._indices(item.name, extents, rng))
            elif item.type.dtype == "bool":
                inputs.append(rng.random(extents) < 0.5)
            else:
                data = rng.standard_normal(extents).clip(-3, 3) * (deviation(extents[1:]) if len(extents) > 2 else 1)
                hit = (rng.random(extents) < 1.5 / (1 + data[0].size if tokens else 1)).T & strange
                odd = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], extents)
                inputs.append(np.where(hit.T, odd, data).astype(self._numpy(item.type)))
        return inputs

    def _indices(self, name: str, extents: tuple[int, ...], rng: np.random.Generator) -> Array:
        count = self.dims[self.below[name]]
        if name in self.given:  # an id outside the domain means: skip this slot
            return rng.integers(-1, count + 2, extents)
        if len(extents) > 1 and extents[-1] <= count:
            return distinct(extents, count, rng)
        return rng.integers(0, count, extents)

    def _numpy(self, type_: syntax.Type) -> Any:
        import ml_dtypes

        name = self.real if type_.dtype in (None, "real") else type_.dtype
        return {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[str(name)]


# ── expressions ───────────────────────────────────────────────────────────────────────────────────────────────────────

#: How tightly an expression binds, loosest first.
OPEN, OR, AND, NOT, COMPARE, RANGE, ADD, MULTIPLY, PREFIX, CONTRACT, POWER, POSTFIX, ATOM = range(13)
LEVELS: Final = {
    "or": OR, "and": AND, "<": COMPARE, "<=": COMPARE, ">": COMPARE, ">=": COMPARE, "==": COMPARE, "!=": COMPARE,
    "in": COMPARE, "+": ADD, "-": ADD, "*": MULTIPLY, "/": MULTIPLY, "%": MULTIPLY, "@": CONTRACT, "**": POWER,
}  # fmt: skip

Shape = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Expr:
    """Text of a kind (`f` number, `i` index, `b` truth value) and a shape, each length a formula.

    `of` is the selection that the first axis is restricted to; an index lies below `below`, and `bound` is the
    selection whose `sum` or `each` binds it. `reaches` marks what would swallow an operator on its right.
    """

    text: str
    level: int = ATOM
    shape: Shape = ()
    kind: str = "f"
    of: Chosen | None = None
    below: str | None = None
    bound: Chosen | None = None
    reaches: bool = False

    def at(self, level: int, last: bool = False) -> str:
        """The text where something as tight as `level` is needed; `last` where nothing follows."""
        fits = self.level >= level or (self.reaches and last and self.level >= PREFIX)
        return self.text if fits and (last or not self.reaches) else f"({self.text})"


@dataclass(frozen=True, eq=False)
class Chosen:
    """A selection: how many slots, the domain, what it was chosen from, and whether slots may be empty."""

    text: str
    size: str
    domain: str
    parent: Chosen | None = None
    partial: bool = False
    plain: bool = False
    single: bool = False  # an `argmax`: an index, too

    def among(self) -> Iterator[Chosen]:
        """This one and what it was chosen from."""
        selection: Chosen | None = self
        while selection is not None:
            yield selection
            selection = selection.parent


def binary(op: str, left: Expr, right: Expr, **made: Any) -> Expr:
    level = LEVELS[op]
    tighter = PREFIX if op in ("*", "/", "%", "@") else POWER if op == "**" else level + 1
    text = f"{left.at(level + (op in ('@', '**') or level == COMPARE))} {op} {right.at(tighter, last=op != '**')}"
    shape_ = left.shape or right.shape
    of = left.of or right.of
    return Expr(text, level, **{"shape": shape_, "of": of, "reaches": right.reaches and op != "**", **made})


def call(name: str, *arguments: Expr | str, **made: Any) -> Expr:
    first = next((a for a in arguments if isinstance(a, Expr)), None)
    text = ", ".join(a.text if isinstance(a, Expr) else a for a in arguments)
    shape_, of = (first.shape, first.of) if first else ((), None)
    return Expr(f"{name}({text})", POSTFIX, **{"shape": shape_, "of": of, **made})


def item(value: Expr, *items: Expr | str, **made: Any) -> Expr:
    text = ", ".join(i.text if isinstance(i, Expr) else i for i in items)
    return Expr(f"{value.at(POSTFIX)}[{text}]", POSTFIX, **made)


def number(value: object) -> Expr:
    text = str(value)
    return Expr(text, PREFIX if text.startswith("-") else ATOM)


# ── drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ODD: Final = (1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 19, 23, 31, 32, 33, 37, 41, 47, 48, 53, 61, 64, 65, 67, 70)
ACTIVATIONS: Final = ("relu", "silu", "gelu", "gelu_tanh", "tanh", "sigmoid", "softplus", "relu2", "quick_gelu", "erf", "abs", "sin", "cos")  # fmt: skip
NORMS: Final = ("rmsnorm", "layernorm", "softmax")


@dataclass(eq=False)
class Writer:
    """Writes one program. `fuel` is how many more steps it may take; without any, leaves are drawn."""

    draw: Draw
    fuel: int = 12
    dims: dict[str, int] = field(default_factory=dict[str, int])
    defaults: dict[str, str] = field(default_factory=dict[str, str])
    declared: list[str] = field(default_factory=list[str])
    inputs: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])
    scope: list[Expr] = field(default_factory=list[Expr])
    chosen: list[Chosen] = field(default_factory=list[Chosen])
    below: dict[str, str] = field(default_factory=dict[str, str])
    given: set[str] = field(default_factory=set[str])
    count: int = 0
    short: bool = False

    # choices

    def pick(self, *options: T) -> T:
        """One of several, the first the simplest."""
        return self.draw(st.sampled_from(options))

    def chance(self, percent: int) -> bool:
        return self.draw(st.integers(0, 99)) >= 100 - percent

    def one(self, *options: Callable[[], T] | None) -> T:
        """What one of several ways gives."""
        return self.pick(*(option for option in options if option is not None))()

    def spend(self, cost: int = 1) -> bool:
        """Whether there is fuel for another step."""
        if self.fuel < cost:
            return False
        self.fuel -= cost
        return True

    # names

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def dim(self, stem: str, low: int = 1, high: int = 70) -> str:
        """A new dimension."""
        name = stem if stem not in self.dims else self.name(stem)
        values = [value for value in ODD if low <= value <= high] or [low]
        self.dims[name] = self.draw(st.one_of(st.sampled_from(values), st.integers(low, high)))
        return name

    def formula(self, stem: str, text: str, value: int) -> str:
        """A dimension whose default is a formula of those before."""
        name = self.name(stem)
        self.dims[name] = value
        self.defaults[name] = text
        return name

    def size(self, formula: str) -> int:
        return int(eval(formula.replace("/", "//"), {}, dict(self.dims)))

    def param(self, shape_: Sequence[str], stem: str = "w", dtype: str | None = None) -> Expr:
        name = self.name(stem)
        if dtype is None:
            dtype = self.pick("", "", "", "f32", "bf16", "f16") if self.short else self.pick("", "", "", "f32")
        axes = f"[{', '.join(shape_)}]" if shape_ else ""
        self.declared.append(f"param {name}: {dtype or ('' if axes else 'real')}{axes}")
        return Expr(name, shape=tuple(shape_), kind="i" if dtype == "i64" else "f")

    def let(self, value: Expr, stem: str = "v") -> Expr:
        """A name for a value."""
        name = self.name(stem)
        self.lines.append(f"{name} = {value.text}")
        named = replace(value, text=name, level=ATOM, reaches=False)
        self.scope.append(named)
        return named

    def select(self, selection: Chosen, stem: str = "s") -> Chosen:
        name = self.name(stem)
        self.lines.append(f"{name} = {selection.text}")
        named = replace(selection, text=name)
        self.chosen.append(named)
        return named

    @contextmanager
    def inside(self, *names: Expr) -> Iterator[None]:
        """More names for a while."""
        scope, chosen = len(self.scope), len(self.chosen)
        self.scope += names
        yield
        del self.scope[scope:], self.chosen[chosen:]

    def function(self, parameters: str, body: Callable[[], Expr], *names: Expr) -> tuple[str, Expr]:
        """A local function; its name and what it returns."""
        name = self.name("fn")
        outer, self.lines = self.lines, []
        with self.inside(*names):
            result = body()
        inner, self.lines = self.lines, outer
        if inner or self.chance(30):
            text = "\n".join(["{", *(f"    {line}" for line in [*inner, f"return {result.text}"]), "}"]).replace(
                "\n", "\n"
            )
        else:
            text = f"= {result.text}"
        self.lines += f"fn {name}({parameters}) {text}".split("\n")
        return name, result

    # what is in scope

    def known(self, fits: Callable[[Expr], bool]) -> list[Expr]:
        return [value for value in self.scope if fits(value)]

    def indices(self, below: str | None = None) -> list[Expr]:
        return self.known(lambda v: v.kind == "i" and not v.shape and v.below is not None and below in (None, v.below))

    # ── scalars ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def constant(self) -> Expr:
        return number(self.pick("1", "0.5", "2", "-1", "0.25", "1.5", "1e-2", "3", "pi / 4"))

    def scalar(self) -> Expr:
        """A number near 1."""
        leaves = self.known(lambda v: v.kind == "f" and not v.shape)
        vectors = self.known(lambda v: v.kind == "f" and len(v.shape) == 1)
        bound = [e for e in self.indices() if e.bound]
        found = [lambda leaf=leaf: leaf for leaf in leaves[-2:]]
        if not self.spend():
            return self.one(self.constant, *found)
        return self.one(
            self.constant,
            *found,
            (lambda: call("tanh", binary("*", self.scalar(), self.scalar()))) if self.fuel > 3 else None,
            (lambda: binary("+", self.scalar(), self.scalar())) if self.fuel > 3 else None,
            (lambda: binary("-", self.scalar(), self.scalar())) if self.fuel > 3 else None,
            (lambda: self.reduced(self.pick(*vectors))) if vectors else None,
            (lambda: self.member(self.pick(*vectors))) if vectors else None,
            (lambda: self.weighed(self.pick(*bound))) if bound else None,
            (lambda: self.conditional(self.scalar(), self.scalar())) if self.fuel > 3 else None,
            (lambda: call(self.pick("sigmoid", "tanh", "relu", "abs", "sin", "cos"), self.scalar()))
            if self.fuel > 2
            else None,
            (lambda: self.stepped(self.varying())) if self.fuel > 3 else None,
            (lambda: call(self.pick("real", "f32"), self.scalar())) if self.fuel > 2 else None,
            (lambda: Expr(f"size({vectors[-1].text}) / 70", MULTIPLY)) if vectors else None,
            (lambda: self.dot(self.pick(*vectors))) if vectors else None,
            (lambda: self.of_slots(self.pick(*self.chosen))) if self.chosen else None,
            (lambda: self.of_integers()) if self.fuel > 2 else None,
        )

    def stepped(self, v: Expr) -> Expr:
        """A number in steps. Few of its values, and no 0, are near one where a step begins."""
        scaled = binary("+", binary("*", number("2.5"), v), number("0.4"))
        return binary("/", call("floor", scaled), number("2.5"))

    def varying(self) -> Expr:
        """A scalar that is not a compile-time number: a condition of one would leave only a branch."""
        value = self.scalar()
        names = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"size\(\w+\)", "", value.text)))
        return (
            binary("+", value, Expr("x[0]"))
            if names <= {"pi", "e", *self.dims, "tanh", "sigmoid", "relu", "abs", "sin", "cos", "floor"}
            else value
        )

    def dot(self, v: Expr) -> Expr:
        """A contraction of two vectors."""
        length = v.shape[0]
        even = Expr(f"each i in 0..{length}: 1 / {length}", PREFIX, (length,), reaches=True)
        return binary("@", v, even, shape=(), of=None)

    def reduced(self, vector: Expr) -> Expr:
        """A vector as a number. A sum is scaled, and nothing comes out infinite where every slot may be empty."""
        return self.one(
            lambda: call("mean", vector, shape=(), of=None),
            lambda: call("tanh", call("max", vector), shape=(), of=None),
            lambda: call("clamp", call("min", vector), "-3", "3", shape=(), of=None),
            lambda: call("tanh", call("logsumexp", vector), shape=(), of=None),
            lambda: call("sqrt", binary("+", call("mean", call("abs", vector)), number("0.1")), shape=(), of=None),
        )

    def of_slots(self, selection: Chosen) -> Expr:
        """A selection as a number: its indices, how many hold something, what is in its slots."""
        n, v = self.size(selection.domain), self.slotted(selection)
        e = self.name("j")
        count = str(self.draw(st.integers(1, self.size(selection.size))))
        full = not any(s.partial for s in selection.among())
        ids = f"ids({selection.text})"
        texts = [
            f"f32(sum({ids})) / {n * self.size(selection.size)}.5",
            f"f32({ids}[{self.pick('0', '-1')}]) / {n}.5",
            f"f32(max({ids} % 3) - min({ids})) / {n}",
            f"f32(sum {e} in {selection.text}: {e} + 1) / {n * self.size(selection.size)}",
            f"mean(concat({v}, 1)[1:])",
            f"mean(flatten(split {v} as [_, 1]))",
            f"{v}[:{count}] @ {self.param([count], 'c').text}",
            f"tanh(sum {e} in {selection.text}: {v}[{e}])"
            if selection.text.isidentifier() and not selection.plain
            else "0.5",
            f"clamp(sum(top({v}, {count})), -2, 2)",
            f"clamp(max(where_({v})), -2, 2)".replace("where_", "tanh"),
            f"mean(mask({v}, {v} > 0, -0.5))",
            f"mean(each {e} in {selection.text}: {e} / {n}.5)",
            f"mean(f32(each {e} in 0..{n}: {e} in {selection.text}))",
            f"mean(if {v} > 0 then {v} else -0.5 * {v})",
        ]
        if full and not selection.plain:
            texts.append(f"tanh({v}[argmax({v})])")
        return Expr(self.pick(*texts), ADD)

    def slotted(self, selection: Chosen) -> str:
        """A vector with an element for each slot."""
        found = self.known(lambda v: v.kind == "f" and v.of is selection and len(v.shape) == 1)
        if found:
            return self.pick(*found).text
        e = self.name("j")
        whole = self.known(lambda v: v.kind == "f" and v.shape == (selection.domain,) and v.of is None)
        if whole and not selection.single:
            return f"{self.pick(*whole).text}[{selection.text}]"
        return f"(each {e} in {selection.text}: {e} / {self.size(selection.domain)}.5)"

    def of_integers(self) -> Expr:
        """What integers make of each other."""
        i = self.name("i")
        n = self.pick("3", "7", "17")
        table = f"(each {i} in 0..{n}: {self.pick(f'{i} * {i} % 5', f'({i} - 2) / 3', f'(2 - {i}) % 3', f'max({i}, 2) - min({i}, 1)', f'abs(1 - {i})', f'if {i} > 1 then {i} else -1', f'-{i}')})"
        indices = [e.text for e in self.indices()] or ["1"]
        e = self.pick(*indices)
        return Expr(
            self.pick(
                f"f32(sum{table}) / {n}.5",
                f"f32(max{table} - min{table}) / 9",
                f"f32(argmax{table}) / {n}",
                f"f32(sum(top({table}, 2) / 2)) / 9",
                f"f32({table}[1] + {table}[-1]) / 9",
                f"f32(sum(concat({table}, 1)[1::2])) / {n}.5",
                f"f32(sum(f32({table} >= {table}[2]))) / {n}.5",
                f"f32(sum(mask({table}, {table} > 1, {self.pick('-1', '0.5', table)}))) / {n}.5",
                f"f32({e} * 2 - 3) / 7.5",
                f"f32(-{e} / 2) / 3.5" if e != "1" else "0.25",
                f"f32(-{e} % 5) / 4" if e != "1" else "0.75",
                f"f32(max({e}, 2)) / 20.5" if e != "1" else "1.25",
                f"f32(if {e} > 2 then {e} else -{e}) / 20.5" if e != "1" else "1.25",
            ),
            MULTIPLY,
        )

    def member(self, vector: Expr) -> Expr:
        """An element of a vector."""
        length = vector.shape[0]
        if vector.of is None:
            indices = self.indices(length)
            if indices and self.chance(70):
                return item(vector, self.pick(*indices))
            if not self.size(length):
                return self.constant()
            return item(vector, self.pick("0", "-1", str(self.size(length) // 2)))
        inside = [e for e in self.indices() if e.bound and vector.of in e.bound.among()]
        if inside and self.chance(80):
            return item(vector, self.pick(*inside))
        return call("mean", vector, shape=(), of=None)

    def weighed(self, index: Expr) -> Expr:
        """Something that depends on an index."""
        assert index.bound is not None
        full = self.known(lambda v: v.kind == "f" and v.shape == (index.below,) and v.of is None)
        slots = self.known(
            lambda v: v.kind == "f" and v.of is not None and v.of in index.bound.among() and len(v.shape) == 1
        )
        plain = self.known(lambda v: v.kind == "f" and v.shape == (index.bound.size,) and v.of is None)
        return self.one(
            lambda: item(self.param([str(index.below)], "c"), index),
            (lambda: item(self.pick(*full), index)) if full else None,
            (lambda: item(self.pick(*slots), index)) if slots else None,
            (lambda: item(self.pick(*plain), call("slot", index))) if plain else None,
            lambda: binary("/", index, number(f"{self.size(str(index.below))}.5")),
            lambda: binary("/", binary("+", call("slot", index), number("0.5")), number("4")),
            lambda: self.conditional(number("1"), number("-0.5")),
            (lambda: self.matched_integer(index)) if self.fuel > 2 else None,
        )

    def matched_integer(self, index: Expr) -> Expr:
        """A `match` of integers, of which one comes of a product."""
        v = self.pick(*self.known(lambda v: v.kind == "f" and len(v.shape) == 1 and v.of is None and "" not in v.shape))
        product = f"argmax({self.weight('3', *v.shape).at(POWER)} @ {v.at(PREFIX)})"
        arms = self.pick(f"0..1: {product}, 1..: 2", f"0..1: {index.text}, 1..: {product} + 1", f"0..: {product}")
        return Expr(f"f32(match {index.text} {{ {arms} }}) / 3.5", MULTIPLY)

    # ── truth ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def truth(self) -> Expr:
        """A condition."""
        flags = self.known(lambda v: v.kind == "b" and not v.shape)
        indices = self.indices()
        leaves = [lambda flag=flag: flag for flag in flags[:2]]
        compare = lambda op, a, b: binary(op, a, b, kind="b", shape=(), of=None)
        if not self.spend():
            return self.one(lambda: compare(">", self.varying(), number("0.1")), *leaves)
        chosen = [(e, s) for e in indices for s in self.chosen if s.domain == e.below]
        return self.one(
            lambda: compare(self.pick("<", "<=", ">", ">="), self.varying(), self.scalar()),
            *leaves,
            (lambda: compare(self.pick("==", "!=", "<", ">="), self.pick(*indices), number(self.pick("0", "1", "2"))))
            if indices
            else None,
            (lambda: (lambda pair: compare("in", pair[0], Expr(pair[1].text)))(self.pick(*chosen))) if chosen else None,
            (lambda: Expr(f"not {self.truth().at(NOT, True)}", NOT, kind="b", reaches=True)) if self.fuel > 2 else None,
            (lambda: compare(self.pick("and", "or"), self.truth(), self.truth())) if self.fuel > 3 else None,
        )

    def conditional(self, then: Expr, otherwise: Expr) -> Expr:
        """`if`, by a truth value."""
        condition = self.truth()
        shape_, of = then.shape or otherwise.shape, then.of or otherwise.of
        text = f"if {condition.text} then {then.text} else {otherwise.text}"
        return Expr(text, PREFIX, shape_, of=of, reaches=True)

    # ── indices ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def index(self, below: str) -> Expr | None:
        """An index of an axis of a length, made from one in scope."""
        direct = self.indices(below)
        if not direct:
            return None
        e = self.pick(*direct)
        n = self.size(below)
        made = {"below": below, "kind": "i"}
        return self.one(
            lambda: e,
            lambda: e,
            lambda: e,
            lambda: binary("/", e, number(self.pick("2", "3", "1")), **made),
            lambda: binary("%", e, number(self.pick("2", "3", "1")), **made) if n > 2 else e,
            lambda: binary(
                "%", binary("+", e, number("1")), Expr(below) if below.isidentifier() else number(n), **made
            ),
            lambda: binary(
                "-", binary("-", Expr(below) if below.isidentifier() else number(n), number("1")), e, **made
            ),
            lambda: item(self.table(below, below), e, **made),
        )

    def table(self, length: str, below: str) -> Expr:
        """A parameter of indices."""
        table = self.param([length], "t", "i64")
        self.below[table.text] = (
            below if below in self.dims else self.formula("N", str(self.size(below)), self.size(below))
        )
        return table

    # ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def weight(self, *axes: str) -> Expr:
        """A weight of a shape: a parameter, or a part of one; by an expert's index where there is one in scope."""
        leading: list[str] = []
        items: list[str] = []
        bound = [e for e in self.indices() if e.bound]
        for e in bound[-2:]:
            if self.chance(80) and self.room(leading, axes, str(e.below)):
                index = self.index(str(e.below))
                assert index is not None
                leading.append(str(e.below))
                items.append(index.text)
        if not leading and self.chance(10):
            leading, items = ["3"], [self.pick("0", "1", "-1")]
        form = (
            self.pick(*("plain",) * 6, "first", "second", "step", "transposed", "split", "cast")
            if self.spend()
            else "plain"
        )
        axis, *rest = axes
        if form in ("first", "second") and self.room([*leading, "2"], axes):
            part = f":{axis}" if form == "first" else f"{axis}:"
            return self.part([*leading, f"2*{axis}", *rest], [*items, part], axes)
        if form == "step" and self.room([*leading, "2"], axes):
            return self.part([*leading, f"2*{axis}", *rest], [*items, self.pick("::2", "1::2")], axes)
        if form == "transposed" and len(axes) == 2:
            whole = self.part([*leading, *reversed(axes)], items, tuple(reversed(axes)))
            return Expr(f"{whole.at(POSTFIX)}.T", POSTFIX, axes)
        if form == "split" and len(axes) == 2:
            whole = self.part([*leading, f"{axes[0]}*{axes[1]}"], items, ())
            return Expr(f"split {whole.at(POSTFIX)} as [{axis}, _]", PREFIX, axes)
        whole = self.part([*leading, *axes], items, axes)
        return call("real", whole) if form == "cast" else whole

    def part(self, axes: Sequence[str], items: Sequence[str], shape_: Shape) -> Expr:
        whole = self.param(axes)
        return item(whole, *items, shape=shape_) if items else replace(whole, shape=shape_)

    def room(self, leading: Sequence[str], axes: Sequence[str], more: str = "1") -> bool:
        """Whether a weight would be of a size for a test."""
        total = self.size(more)
        for axis in (*leading, *axes):
            total *= self.size(axis)
        return total <= 60_000

    # ── vectors ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def leaf(self, length: str) -> Expr:
        found = self.known(lambda v: v.kind == "f" and v.shape == (length,) and v.of is None)
        leaves = [lambda leaf=leaf: leaf for leaf in found[-3:]]
        return self.one(*leaves) if leaves else self.weight(length)

    def vector(self, length: str) -> Expr:
        """Numbers near 1."""
        if not self.spend():
            return self.leaf(length)
        matrix = self.known(lambda v: v.kind == "f" and len(v.shape) == 1 and v.of is None)
        small = self.size(length) <= 24
        return self.one(
            lambda: self.leaf(length),
            lambda: self.matvec(length, self.pick(*matrix)) if matrix else self.leaf(length),
            lambda: self.act(self.vector(length)),
            lambda: self.bounded(length),
            lambda: binary(self.pick("+", "-"), self.vector(length), self.vector(length)),
            lambda: binary("*", self.scalar(), self.vector(length)),
            lambda: binary("*", self.bounded(length), self.vector(length)),
            lambda: binary("/", self.vector(length), binary("+", number("1"), call("abs", self.vector(length)))),
            lambda: call(self.pick("rmsnorm", "layernorm", "softmax"), self.vector(length)),
            lambda: call("norm" if self.chance(0) else "real", self.vector(length)),
            lambda: call(self.pick("min", "max"), self.vector(length), self.vector(length)),
            lambda: call("clamp", self.vector(length), "-1", "1.5"),
            lambda: self.powered(length),
            lambda: call("floor", self.weight(length)),  # of what f32 holds exactly: it has one answer
            lambda: self.conditional(self.vector(length), self.vector(length)),
            lambda: self.masked(length),
            lambda: self.chosen_by(length),
            lambda: self.joined(length),
            lambda: self.regrouped(length),
            (lambda: self.each(length)) if small else None,
            lambda: self.over(length),
            lambda: self.of_matrix(length),
            lambda: self.of_rows(length),
            lambda: self.applied(length),
            lambda: self.matched(length),
            lambda: Expr(f"-{self.vector(length).at(PREFIX, True)}", PREFIX, (length,), reaches=True),
            (lambda: call(self.pick("bf16", "f16", "f32"), self.vector(length))) if self.short else None,
        )

    def act(self, v: Expr) -> Expr:
        return call(self.pick(*ACTIVATIONS), v)

    def bounded(self, length: str) -> Expr:
        """Between -1 and 1."""
        v = self.vector(length)
        return self.one(
            lambda: call("tanh", v),
            lambda: call("sigmoid", v),
            lambda: call("exp", Expr(f"-{call('abs', v).text}", PREFIX, v.shape)),
            lambda: call("erf", v),
            lambda: call("softmax", v),
        )

    def powered(self, length: str) -> Expr:
        base = binary("+", call("abs", self.vector(length)), number("0.5"))
        return self.one(
            lambda: binary("**", base, number(self.pick("2", "0.5", "-0.5", "-1", "1.5", "3", "0.3", "(1 / 3)"))),
            lambda: call(self.pick("sqrt", "rsqrt", "log"), base),
            lambda: binary("**", base, call("tanh", self.scalar(), shape=(), of=None)),
            lambda: binary("**", call("tanh", self.vector(length)), number(self.pick("2", "3", "4"))),
        )

    def matvec(self, length: str, v: Expr) -> Expr:
        """A contraction."""
        width = v.shape[0]
        if not self.room([length], [width]):
            return self.leaf(length)
        if self.chance(12) and self.room([length, "3"], [width]):
            flat = call("sum", Expr(f"{self.weight(length, '3', width).at(POWER)} @ {v.at(PREFIX)}"), shape=(length,))
            return flat
        if self.chance(12) and self.size(length) * self.size(width) <= 600:
            return self.written_out(length, v)
        rows = self.brought(length, width) if self.chance(8) else self.weight(length, width).at(POWER)
        return Expr(f"{rows} @ {v.at(PREFIX, True)}", CONTRACT, (length,), reaches=v.reaches)

    def written_out(self, length: str, v: Expr) -> Expr:
        """A contraction as loops write it, of a weight whose columns may be scaled."""
        width, i, j = v.shape[0], self.name("i"), self.name("j")
        u, g = self.let(v).text, self.leaf(width).at(PREFIX)
        w, t = self.weight(length, width).at(POSTFIX), self.weight(width, length).at(POSTFIX)
        text = self.pick(
            f"each {i} in 0..{length}: {w}[{i}] @ {u}",
            f"each {i} in 0..{length}: sum({u} * {w}[{i}])",
            f"(each {i} in 0..{length}: {w}[{i}] * {g}) @ {u}",
            f"sum {j} in 0..{width}: {u}[{j}] * {t}[{j}]",
            f"sum((each {j} in 0..{width}: {t}[{j}] * {u}[{j}]), axis=0)",
            f"each {i} in 0..{length}: sum {j} in 0..{width}: {u}[{j}] * {w}[{i}, {j}]",
            f"each {i} in 0..{length}: sum(each {j} in 0..{width}: {t}[{j}, {i}] * {u}[{j}])",
        )
        return Expr(text, PREFIX, (length,), reaches=True)

    def brought(self, length: str, width: str) -> str:
        """A matrix that every token brings itself."""
        name = self.name("in")
        self.inputs.append(f"{name}: {self.pick('f32', '', 'real')}[{length}, {width}]")
        return name

    def of_matrix(self, length: str) -> Expr:
        """A matrix that a parameter gives, as a vector."""
        v = self.leaf(
            self.pick(
                *(
                    w.shape[0]
                    for w in self.known(
                        lambda w: w.kind == "f" and len(w.shape) == 1 and w.of is None and "" not in w.shape
                    )
                )
            )
        )
        width = v.shape[0]
        if not self.room([length, "3"], [width]):
            return self.leaf(length)
        w = self.param(["3", length, width]).text
        i = self.name("i")
        return Expr(
            self.pick(
                f"({w} @ {v.at(PREFIX)})[1]",
                f"sum({w} @ {v.at(PREFIX)}, axis=0)",
                f"max({w} @ {v.at(PREFIX)}, axis=0)",
                f"sum(({w} @ {v.at(PREFIX)}).T)",
                f"sum((each {i} in 0..3: tanh({w}[{i}] @ {v.at(PREFIX)})), axis=0)",
                f"(each {i} in 0..3: tanh({w}[{i}] @ {v.at(PREFIX)}))[2]",
                f"{w}[0, :, 0] * 2",
                f"max({w}[-1])",
                f"mean({w}[1:], -1)[1]",
                f"max(max({w}), axis=0)",
                f"sum(top({w}[2], 1))" if self.size(length) == 0 else f"top({w}[2], 1)[:, 0]",
                f"sum({w}[:2] @ {v.at(PREFIX)}, axis=-2)",
                f"flatten({w}[1:2] @ {v.at(PREFIX)})",
                f"(split {w}[0, :, 0] as [{length}, 1])[:, 0]",
                f"concat({w}[:1] @ {v.at(PREFIX)}, {w}[:1, :, 0], axis=0)[1]",
                f"(if {w}[0] > 0 then {w}[1] else -{w}[2]) @ {v.at(PREFIX)}",
            ),
            ADD,
            (length,),
        )

    def of_rows(self, length: str) -> Expr:
        """Rows chosen from a matrix, and what is made of them."""
        if not self.chosen:
            return self.leaf(length)
        selection = self.pick(*self.chosen)
        if selection.single or not self.room([selection.domain], [length]):
            return self.leaf(length)
        rows, v = f"{self.param([selection.domain, length]).text}[{selection.text}]", self.slotted(selection)
        columns = f"{self.param([length, selection.domain]).text}[:, {selection.text}]"
        e, w, full = self.name("j"), self.weight(length), not any(s.partial for s in selection.among())
        texts = [
            f"{rows}.T @ {v}",
            f"sum({rows}, axis=0)",
            f"(each {e} in {selection.text}: {w.text} / ({e} + 1)).T @ {v}",
            f"sum(tanh({rows}), axis=0)",
            f"sum {e} in {selection.text}: {rows}[{e}] * 0.5" if not selection.plain else f"sum({rows}, axis=0)",
            f"sum((each {e} in {selection.text}: softmax({w.text} + {e})), axis=0)",
            f"sum((split {rows} as [_, {length}]), axis=0)",
        ]
        if full:
            texts += [
                f"{rows}[0]",
                f"max({rows}, axis=0)",
                f"{rows}[::2][0]",
                f"{columns} @ {v}",
                f"max({columns})",
                f"tanh({columns})[:, 0]",
            ]
        else:
            texts += [f"clamp(max({rows}, axis=0), -1, 1)", f"{columns} @ {v}", f"sum({columns})"]
        return Expr(self.pick(*texts), PREFIX, (length,), reaches=True)

    def condition(self, length: str) -> Expr:
        """A truth value for each element."""
        op = self.pick(">", "<", ">=", "<=")
        return binary(op, self.vector(length), self.scalar(), kind="b", shape=(length,), of=None)

    def masked(self, length: str) -> Expr:
        chosen = [s for s in self.chosen if s.domain == length]
        keep = Expr(self.pick(*chosen).text) if chosen and self.chance(60) else self.condition(length)
        fill = self.constant() if self.chance(70) else self.vector(length)
        return call("mask", self.vector(length), keep, fill, shape=(length,))

    def chosen_by(self, length: str) -> Expr:
        text = f"if {self.condition(length).text} then {self.vector(length).text} else {self.pick('0', '-0.5')}"
        return Expr(text, PREFIX, (length,), reaches=True)

    def joined(self, length: str) -> Expr:
        """`concat`, of two parts of vectors of the length."""
        n = self.size(length)
        cut = self.draw(st.integers(0, n))
        left, right = self.let(self.vector(length)), self.vector(length)
        if not 0 < cut < n:
            return call("concat", left, shape=(length,))
        return call("concat", item(left, f":{cut}"), item(right, f"{cut}:"), shape=(length,))

    def regrouped(self, length: str) -> Expr:
        """`split`, something on the parts, `flatten`."""
        n = self.size(length)
        parts = [k for k in range(1, min(n, 9) + 1) if n % k == 0]
        groups = self.pick(*parts)
        m = self.let(Expr(f"split {self.vector(length).at(POSTFIX)} as [{groups}, _]", PREFIX, ("", "")), "m").text
        return Expr(
            self.pick(
                f"flatten({m})",
                f"flatten({m}.T)",
                f"flatten({m} * 0.5)",
                f"flatten(each g in 0..{groups}: tanh({m}[{groups - 1} - g]))",
                f"flatten(each g in 0..{groups}: {m}[g] - max({m}[g]))",
                f"flatten(mask({m}, topk(max({m}), {min(groups, 2)}), 0.5))",
                f"flatten(mask({m}, mean({m}) > 0, 0.5))",
                f"flatten({m}) + sum(mean({m}, axis=0)) / {n // groups}",
                f"flatten({m}) * tanh(sum(top({m}[0], 1)))",
            ),
            ADD,
            (length,),
        )

    def each(self, length: str) -> Expr:
        """`each`, element by element."""
        name = self.name("i")
        whole = Chosen(f"0..{length}", length, length, plain=True)
        with self.inside(Expr(name, kind="i", below=length, bound=whole)):
            body = self.local(self.scalar)
        return Expr(f"each {name} in 0..{length}: {body.text}", PREFIX, (length,), reaches=True)

    def local(self, draw: Callable[[], T]) -> T:
        """Draws an expression that stands where no names can be given: they go into a function of the index."""
        outer, self.lines = self.lines, []
        scope, chosen = len(self.scope), len(self.chosen)
        result = draw()
        del self.scope[scope:], self.chosen[chosen:]
        inner, self.lines = self.lines, outer
        if not inner or not isinstance(result, Expr):
            assert not inner
            return result
        bound = [e.text for e in self.indices() if e.bound]
        name = self.name("fn")
        lines = [*inner, f"return {result.text}"]
        self.lines += [f"fn {name}({', '.join(bound)}) {{", *(f"    {line}" for line in lines), "}"]
        return replace(result, text=f"{name}({', '.join(bound)})", level=POSTFIX, reaches=False)

    def over(self, length: str) -> Expr:
        """A sum over a selection."""
        if not self.chosen or not self.spend(2):
            return self.leaf(length)
        selection = self.pick(*self.chosen)
        return self.mixture(selection, length)

    def applied(self, length: str) -> Expr:
        """A function as an argument, a default, a named argument."""
        self.files[:] = self.files or [
            "fn twice(f, a, by=0.5) = by * f(f(a))",
            "fn part(v, scale=1, g=tanh) {\n    u = g(v)\n    return u * scale, u\n}",
        ]
        act = self.pick("tanh", "silu", "gelu", "relu", "sigmoid")
        v = self.vector(length)
        return self.one(
            lambda: call("twice", act, v, shape=(length,)),
            lambda: Expr(f"twice(by=1.5, a={v.text}, f={act})", POSTFIX, (length,)),
            lambda: self.pair(v, act),
            lambda: self.closure(v),
        )

    def pair(self, v: Expr, act: str) -> Expr:
        first, second = self.name("a"), self.name("b")
        self.lines.append(f"{first}, {second} = part({v.text}, {self.pick('2', f'g={act}', f'0.5, {act}')})")
        return Expr(f"{first} - 0.5 * {second}", ADD, v.shape)

    def closure(self, v: Expr) -> Expr:
        parameter = self.name("u")
        length = v.shape[0]
        name, _ = self.function(parameter, lambda: self.vector(length), Expr(parameter, shape=(length,)))
        return call(name, v, shape=(length,))

    def matched(self, length: str) -> Expr:
        """`match` of an index."""
        bound = [e for e in self.indices() if e.bound and self.size(str(e.below)) > 1]
        if not bound:
            return self.vector(length)
        return self.match(self.pick(*bound), lambda: self.vector(length), length)

    def match(self, e: Expr, expert: Callable[[], Expr], length: str) -> Expr:
        n = self.size(str(e.below))
        cuts = sorted(self.draw(st.sets(st.integers(1, n - 1), min_size=1, max_size=3))) if n > 1 else []
        arms: list[str] = []
        for low, high in zip([0, *cuts], [*cuts, n], strict=True):
            end = str(e.below) if high == n and str(e.below).isidentifier() else str(high)
            pattern = (
                str(low)
                if high == low + 1 and self.chance(60)
                else f"{low if low else self.pick('0', '')}..{end if high != n else self.pick(end, '')}"
            )
            if pattern == "..":
                pattern = "0.."
            body = self.pick(*("expert",) * 3, "0", "leaf", "1", "moved")
            if body == "moved":
                with self.inside():
                    arm = binary(
                        "*", item(self.param([str(high - low)], "c"), f"{e.text} - {low}"), self.leaf(length)
                    ).text
            elif body == "leaf":
                arm = self.leaf(length).text
            else:
                arm = self.local(expert).text if body == "expert" else body
            arms.append(f"{pattern}: {arm}")
        if all(arm.split(": ")[-1] in ("0", "1") for arm in arms):
            arms[-1] = f"{arms[-1].split(': ')[0]}: {self.leaf(length).text}"
        if self.chance(25):
            arms.reverse()
        return Expr(f"match {e.text} {{ {', '.join(arms)} }}", PREFIX, (length,))

    # ── experts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def expert(self, length: str, x: Expr, inner: str) -> Expr:
        """What an expert computes of a vector: one to three contractions, gated or not, or less."""
        return self.one(
            lambda: self.gated(length, x, inner),
            lambda: self.chain(length, x, inner),
            lambda: self.chain(length, self.preceded(x), inner),
            lambda: self.library(length, x, inner),
            lambda: self.rank_one(length, x),
            lambda: self.low_rank(length, x, inner),
            lambda: self.vector(length),
            lambda: self.weight(length),
        )

    def preceded(self, x: Expr) -> Expr:
        """An expert's input, scaled or normed first."""
        return self.one(
            lambda: call("rmsnorm", x),
            lambda: binary("*", self.scalar(), x),
            lambda: binary("*", self.weight(*x.shape), x),
            lambda: call("real", binary("*", self.scalar(), x)),
        )

    def into(self, weight: Expr, v: Expr) -> Expr:
        return Expr(f"{weight.at(POWER)} @ {v.at(PREFIX, True)}", CONTRACT, weight.shape[:-1], reaches=v.reaches)

    def biased(self, v: Expr) -> Expr:
        return binary("+", v, self.weight(*v.shape)) if self.chance(30) else v

    def between(self, v: Expr) -> Expr:
        """What may stand between two contractions."""
        return self.one(
            lambda: self.act(v),
            lambda: v,
            lambda: call("rmsnorm", v),
            lambda: self.act(call("layernorm", v)),
            lambda: call("real", self.act(v)),
            lambda: binary("*", self.scalar(), self.act(v)),
            lambda: call("clamp", v, "-1", "1"),
        )

    def gated(self, length: str, x: Expr, inner: str) -> Expr:
        gate, up = (self.biased(self.into(self.weight(inner, *x.shape), x)) for _ in range(2))
        if self.chance(30):
            gate = call("min", gate, "2")
        hidden = binary("*", self.act(gate), call("clamp", up, "-2", "2") if self.chance(20) else up)
        return self.biased(self.into(self.weight(length, inner), hidden))

    def chain(self, length: str, x: Expr, inner: str) -> Expr:
        v = x
        for _ in range(self.pick(1, 0, 2)):
            v = self.between(self.biased(self.into(self.weight(inner, *v.shape), v)))
        return self.biased(self.into(self.weight(length, *v.shape), v))

    def library(self, length: str, x: Expr, inner: str) -> Expr:
        gate, up, down = self.weight(inner, *x.shape), self.weight(inner, *x.shape), self.weight(length, inner)
        function = self.pick("swiglu", "geglu", "gated(relu2, ", "gated(sigmoid, ")
        head = function if function.endswith(" ") else f"{function}("
        return Expr(f"{head}{gate.text}, {up.text}, {down.text}, {x.text})", POSTFIX, (length,))

    def rank_one(self, length: str, x: Expr) -> Expr:
        down = self.into(self.weight("1" if self.chance(0) else x.shape[0]), x) if self.chance(0) else None
        dot = down or Expr(f"{self.weight(*x.shape).at(POWER)} @ {x.at(PREFIX)}", CONTRACT)
        scaled = call("gelu", binary("/", dot, number(f"{self.size(x.shape[0]) ** 0.5 + 1:.1f}")), shape=(), of=None)
        return binary("*", scaled, self.weight(length))

    def low_rank(self, length: str, x: Expr, inner: str) -> Expr:
        """A shared weight and a correction of each expert's own, as in LoRA."""
        rank = self.pick("1", "2", "4")
        shared = self.param([inner, *x.shape])
        correction = self.into(self.weight(inner, rank), self.into(self.weight(rank, *x.shape), x))
        hidden = self.between(binary("+", self.into(replace(shared), x), correction))
        return self.into(self.weight(length, inner), hidden)

    # ── mixtures ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def mixture(self, selection: Chosen, length: str, x: Expr | None = None, inner: str | None = None) -> Expr:
        """`sum e in s: …`, or `each` and then a reduction."""
        name = self.name("e")
        e = Expr(name, kind="i", below=selection.domain, bound=selection)
        with self.inside(e):
            body = self.local(lambda: self.term(e, length, x, inner))
        if self.chance(75):
            return Expr(f"sum {name} in {selection.text}: {body.text}", PREFIX, (length,), reaches=True)
        rows = f"each {name} in {selection.text}: {body.text}"
        if self.chance(30) and not selection.partial:
            return Expr(f"tanh(max(({rows}), axis=0))", POSTFIX, (length,))
        return Expr(f"sum(({rows}), axis=0)", POSTFIX, (length,))

    def term(self, e: Expr, length: str, x: Expr | None, inner: str | None) -> Expr:
        """A weighed expert."""
        if x is None or inner is None:
            found = self.known(lambda v: v.kind == "f" and len(v.shape) == 1 and v.of is None)
            x = x or (self.pick(*found[:2]) if found else self.weight(length))
            inner = inner or length
        draw = lambda: self.expert(length, x, inner)
        if self.chance(20) and self.size(str(e.below)) > 1:
            value = self.match(e, draw, length)
        elif self.chance(12) and self.spend(2):
            value = self.second_level(e, length, x, inner)
        else:
            value = draw()
        weight = self.weighed(e)
        return self.one(
            lambda: binary("*", weight, value),
            lambda: value,
            lambda: binary("*", value, weight),
            lambda: self.conditional(value, number("0")),
            lambda: self.conditional(value, binary("*", weight, self.leaf(length))),
            lambda: binary("*", binary("+", weight, number("0.5")), call("real", value)),
        )

    def second_level(self, e: Expr, length: str, x: Expr, inner: str) -> Expr:
        """A mixture inside an expert."""
        below = self.dim("F", 1, 7)
        scores = self.let(self.into(self.weight(below, *x.shape), x), "q")
        selection = self.select(self.choice(below, scores))
        return self.mixture(selection, length, x, inner)

    # ── selections ────────────────────────────────────────────────────────────────────────────────────────────────────

    def count_of(self, domain: str, most: int = 6) -> str:
        """How many to choose of a domain: a number, a dimension, or all."""
        n = self.size(domain)
        k = self.draw(st.integers(1, min(n, most)))
        return self.one(lambda: str(k), lambda: self.dim_of("K", k), lambda: domain if n <= 12 else str(k))

    def dim_of(self, stem: str, value: int) -> str:
        name = self.name(stem)
        self.dims[name] = value
        return name

    def choice(self, domain: str, scores: Expr) -> Chosen:
        """A selection of a domain by scores for it."""
        n = self.size(domain)

        def topk(v: str, of: Chosen | None = None) -> Chosen:
            k = self.count_of(of.size if of else domain)
            return Chosen(f"topk({v}, {k})", k, domain, of, bool(of and of.partial))

        s = scores.text
        return self.one(
            lambda: topk(s),
            lambda: topk(f"{s} + {self.param([domain], 'b').text}"),
            lambda: Chosen(
                f"where({s} {self.pick('>', '<', '>=')} {self.pick('0', 'mean(' + s + ')', '0.3')})",
                domain,
                domain,
                partial=True,
            ),
            lambda: self.grouped(domain, scores, topk),
            lambda: self.again(domain, scores, topk),
            lambda: Chosen(f"argmax({s})", "1", domain, single=True),
            lambda: Chosen(f"{{argmax({s}), argmax(-{scores.at(PREFIX)})}}", "2", domain),
            lambda: self.listed(domain),
            lambda: Chosen(f"0..{domain}", domain, domain, plain=True) if n <= 12 else topk(s),
            lambda: self.given_ids(domain, scores),
        )

    def listed(self, domain: str) -> Chosen:
        """Indices, spelled out. Their domain is as far as the largest."""
        n = self.size(domain)
        indices = self.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))
        return Chosen("{" + ", ".join(map(str, indices)) + "}", str(len(indices)), str(max(indices) + 1))

    def grouped(self, domain: str, scores: Expr, topk: Callable[..., Chosen]) -> Chosen:
        """Only some groups may be chosen from."""
        n = self.size(domain)
        groups = self.pick(*(k for k in range(1, n + 1) if n % k == 0))
        kept = self.draw(st.integers(1, groups))
        score = self.pick("max", "mean", "sum") if n // groups < 2 else self.pick("max", "sum_top2", "mean")
        fill = self.pick("-inf", "0", "-9")
        return topk(f"limit_groups({scores.text}, {groups}, {kept}, {score}, {fill})")

    def again(self, domain: str, scores: Expr, topk: Callable[..., Chosen]) -> Chosen:
        """Choosing among what is chosen."""
        first = self.select(topk(scores.text))
        v = f"{scores.text}[{first.text}]"
        return self.one(
            lambda: topk(f"-{v}", first),
            lambda: topk(f"softmax({v})", first),
            lambda: Chosen(f"where({v} > {self.pick('0', f'mean({v})')})", first.size, domain, first, True),
        )

    def given_ids(self, domain: str, scores: Expr) -> Chosen:
        """By an input, by a row of a table, or by those entries of one that the scores choose."""
        count = self.count_of(domain)
        below = domain if domain in self.dims else self.formula("N", str(self.size(domain)), self.size(domain))
        name = self.name("ids")
        self.given.add(name)
        self.below[name] = below
        if self.chance(50):
            self.inputs.append(f"{name}: i64[{count}]")
            return Chosen(f"given({name}, {domain})", count, domain, partial=True)
        if self.chance(30):
            self.declared.append(f"param {name}: i64[{domain}]")
            return Chosen(f"given({name}[where({scores.text} > 0)], {domain})", domain, domain, partial=True)
        rows, key = self.dim("V", 1, 20), self.name("id")
        self.inputs.append(f"{key}: i64")
        self.below[key] = rows
        self.declared.append(f"param {name}: i64[{rows}, {count}]")
        return Chosen(f"given({name}[{key}], {domain})", count, domain, partial=True)

    # ── routers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def route(self, domain: str, x: Expr) -> Chosen:
        """Scores, a selection by them, and weights of it; what is useful stays in scope."""
        logits = self.let(self.logits(domain, x), "l")
        p = self.let(
            self.one(
                lambda: call("softmax", logits),
                lambda: call("sigmoid", logits),
                lambda: call("sqrt", call("softplus", logits)),
                lambda: logits,
                lambda: call("softmax", call("real", logits)),
                lambda: call("layernorm", logits),
                lambda: binary("/", logits, binary("+", call("norm", logits), number("1e-2"), shape=(), of=None)),
            ),
            "p",
        )
        selection = self.select(self.choice(domain, p))
        if not selection.plain and not selection.single and selection.domain == domain:
            self.weigh(selection, p, logits)
        return selection

    def logits(self, domain: str, x: Expr) -> Expr:
        product = self.into(self.weight(domain, *x.shape), self.pick(x, x, call("rmsnorm", x)))
        return self.one(
            lambda: product,
            lambda: call("real", product),
            lambda: binary("+", product, self.param([domain], "b")),
            lambda: self.flows(product, domain),
            lambda: call("real", binary("*", number("2"), product)),
            lambda: self.vector(domain),
        )

    def flows(self, product: Expr, domain: str) -> Expr:
        """Scores of another layer flow in."""
        name = self.name("r")
        self.inputs.append(f"{name}: {self.pick('f32', '')}[{domain}]")
        before = Expr(name, shape=(domain,))
        self.scope.append(before)
        return binary("+", product, before)

    def weigh(self, selection: Chosen, p: Expr, logits: Expr) -> None:
        """Weights of the chosen, slot by slot."""
        of = {"shape": (selection.size,), "of": selection}
        v = item(self.pick(p, logits), selection.text, **of)
        if selection.partial and self.chance(50):
            self.let(v, "w")
            return
        for _ in range(self.pick(1, 2)):
            v = self.one(
                lambda v=v: v,
                lambda v=v: call("softmax", v, **of),
                lambda v=v: binary(
                    "/",
                    call("abs", v),
                    binary("+", call("sum", call("abs", v)), number("1e-1"), shape=(), of=None),
                    **of,
                ),
                lambda v=v: binary("*", self.constant(), v, **of),
                lambda v=v: call("sigmoid", v, **of),
                lambda v=v: binary("+", v, self.slots(selection), **of),
                lambda v=v: binary("*", v, item(self.pick(p, logits), selection.text, **of), **of),
                lambda v=v: call("real", v, **of),
                lambda v=v: self.each_slot(selection),
            )
        self.let(v, "w")

    def slots(self, selection: Chosen) -> Expr:
        """A plain vector, slot by slot."""
        return self.param([selection.size], "c")

    def each_slot(self, selection: Chosen) -> Expr:
        name = self.name("e")
        with self.inside(Expr(name, kind="i", below=selection.domain, bound=selection)):
            body = self.local(self.scalar)
        of = None if selection.plain else selection
        return Expr(f"each {name} in {selection.text}: {body.text}", PREFIX, (selection.size,), of=of, reaches=True)

    def product_keys(self, x: Expr) -> Chosen:
        """A selection of pairs, as PEER does."""
        side = self.dim("M", 1, 6)
        a, b = (self.let(self.into(self.weight(side, *x.shape), x), "q") for _ in range(2))
        ka, kb = self.count_of(side, 3), self.count_of(side, 3)
        domain = self.formula("E", f"{side} * {side}", self.dims[side] ** 2)
        pairs = f"cross(topk({a.text}, {ka}), topk({b.text}, {kb}))"
        size = f"{ka} * {kb}"
        square = f"{side} * {side}"
        if self.chance(50):
            return self.select(Chosen(pairs, size, square))
        pairs_ = Chosen(pairs, size, square)
        name = self.name("e")
        s = self.let(
            Expr(
                f"each {name} in {pairs}: {a.text}[{name} / {side}] + {b.text}[{name} % {side}]",
                shape=(size,),
                of=pairs_,
            ),
            "s",
        )
        count = self.draw(st.integers(1, self.size(size)))
        del domain
        selection = self.select(Chosen(f"topk({s.text}, {count})", str(count), square, pairs_))
        self.let(call("softmax", item(s, selection.text), shape=(str(count),), of=selection), "w")
        return selection

    # ── layers ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def layer(self) -> str:
        """The whole file."""
        length, inner = self.dim("H"), self.dim("I")
        self.inputs.append(f"x: [{length}]")
        x = Expr("x", shape=(length,))
        self.scope.append(x)
        self.more_inputs()
        if self.chance(15):
            x = self.let(self.vector(length), "x")
        if self.chance(12):
            self.along_batch()
        selection = self.product_keys(x) if self.chance(12) else self.route(self.dim("E", 1, self.pick(9, 70)), x)
        y = self.mixture(selection, length, x, inner)
        for _ in range(self.pick(0, 1)):
            y = binary("+", y, self.beside(length, x, inner))
        outputs, values = self.outputs(y, length)
        if self.chance(30):
            self.aux()
        functions = "".join(f"{text}\n" for text in self.files)
        dims = ", ".join(f"{name}={self.defaults.get(name) or value}" for name, value in self.dims.items())
        lines = [*self.declared, *self.lines, f"return {', '.join(values)}"]
        body = "\n".join("    " + line for line in lines)
        return f"{functions}moe m[{dims}]({', '.join(self.inputs)}) -> {outputs} {{\n{body}\n}}\n"

    def along_batch(self) -> None:
        """What is known of a value along the tokens: of all, of those up to this one, of the one before it, or where
        this one stands."""
        known = self.known(lambda v: v.kind == "f" and bool(v.shape) and v.of is None)
        v = self.pick(*known)
        count = f"f32(size({v.text}, axis=batch))"
        if self.chance(20):
            v, factors = (self.pick(*(each for each in known if len(each.shape) == 1)) for _ in range(2))
            n = factors.shape[0]
            i = self.name("i")
            text = f"sum((each {i} in 0..{n}: {factors.text}[{i}] * {v.text}), axis=batch) / {count}"
            self.let(Expr(text, MULTIPLY, shape=(n, *v.shape)), "c")
            return
        kind = self.pick("max", "min", "sum", "cumsum", "previous", "rank")
        along = f"{kind}({v.text}, axis=batch)"
        own = {"max": along, "min": along, "previous": along, "rank": f"f32({along}) / {count}"}
        text = own.get(kind, f"{along} / {count}")
        self.let(Expr(text, MULTIPLY, shape=v.shape), "c")

    def more_inputs(self) -> None:
        for kind in self.pick((), ("f",), ("b",), ("i",), ("f", "b"), ("v", "i")):
            name = self.name("in")
            match kind:
                case "f":
                    self.inputs.append(f"{name}: {self.pick('f32', 'real')}")
                    self.scope.append(Expr(name))
                case "b":
                    self.inputs.append(f"{name}: bool")
                    self.scope.append(Expr(name, kind="b"))
                case "v":
                    length = self.dim("R")
                    self.inputs.append(f"{name}: f32[{length}]")
                    self.scope.append(Expr(name, shape=(length,)))
                case _:
                    count = self.dim("Z", 1, 20)
                    self.inputs.append(f"{name}: i64")
                    self.below[name] = count
                    self.scope.append(Expr(f"{name}", kind="i", below=count))

    def beside(self, length: str, x: Expr, inner: str) -> Expr:
        """What is added to the mixture: a shared expert, the token itself, a second mixture."""
        return self.one(
            lambda: x,
            lambda: self.expert(length, x, inner),
            lambda: binary("*", call("sigmoid", self.scalar(), shape=(), of=None), self.expert(length, x, inner)),
            lambda: self.mixture(self.route(self.dim("E", 1, 9), x), length, x, inner),
            lambda: self.vector(length),
        )

    def outputs(self, y: Expr, length: str) -> tuple[str, list[str]]:
        """The outputs' types and values: the layer's vector, and more."""
        if not self.chance(40):
            return f"[{length}]", [y.text]
        types, values = [f"y: {self.pick('', 'f32')}[{length}]"], [y.text]
        for value in self.draw(st.lists(st.sampled_from([v for v in self.scope if v.text != "y"]), max_size=3)):
            if "" in value.shape or (value.kind == "i" and value.bound):
                continue
            dtype = {"f": self.pick("f32", "real"), "b": "bool", "i": "i64"}[value.kind]
            axes = f"[{', '.join(value.shape)}]" if value.shape else ""
            types.append(f"{dtype}{axes}")
            values.append(value.text)
        for selection in self.chosen:
            if not selection.single and self.chance(50) and selection.text.isidentifier():
                types.append(f"i64[{selection.size}]")
                values.append(self.pick(f"ids({selection.text})", selection.text))
        return f"({', '.join(types)})", values

    def aux(self) -> None:
        for value in self.draw(st.lists(st.sampled_from(self.scope), max_size=2)):
            if not value.bound:
                self.lines.append(f"aux {self.name('aux')} = {value.text}")
        for selection in self.chosen[:1]:
            self.lines.append(f"aux {self.name('aux')} = {selection.text}")


@st.composite
def programs(draw: Draw, tokens: Sequence[int] = (0, 1, 2, 3, 5, 8, 13, 17, 31, 33, 64, 70)) -> Program:
    """Whole programs. Nearly half of them round nothing to fewer bits than f32 has: there the tolerance is narrow."""
    real = draw(st.sampled_from(["f32", "f32", "f32", "bf16", "f16"]))
    short = real != "f32" or draw(st.sampled_from([False, False, False, True]))
    writer = Writer(draw, short=short, fuel=draw(st.sampled_from((4, 10, 16, 24, 36))))
    text = writer.layer()
    counts = draw(st.sampled_from([*tokens, *tokens[1:7]]))
    runs = (counts, draw(st.integers(0, 6)))
    seed = draw(st.integers(0, 2**16))
    special = draw(st.sampled_from([0.0, 0.0, 0.3]))
    return Program(text, dict(writer.dims), real, runs, seed, special, dict(writer.below), frozenset(writer.given))


__all__ = ["Program", "programs"]
