"""The axis of tokens in the oracle, which knows one token at a time.

Where a token's evaluation meets work along the batch that it has no result of, it ends; when all tokens have come so
far, the result is computed from what each brought, and all begin again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moec.dtypes import F32, I64
from moec.oracle.functions import falling, numbers
from moec.oracle.values import Array, Builtin, Data, Fault, Value, array, lift


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """The value of the name `batch`: the axis of tokens, where an axis is named."""


BATCH = Axis()


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """What one token brings to work along the batch, and how far its decisions until there are from different ones."""

    kind: str
    value: Array
    margin: float


class Waiting(Exception):
    """Ends the evaluation of a token that needs what others bring."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part


class Batch:
    """What is known along the batch of `tokens` tokens. `begin` names the one that is evaluated next."""

    def __init__(self) -> None:
        self.tokens = 0
        self._token: int | None = None
        self._met = 0
        self._results: list[Sequence[tuple[Array, float]]] = []

    def begin(self, token: int | None) -> None:
        """The next token, or None for one that only shows shapes."""
        self._token, self._met = token, 0

    def exchange(self, kind: str, value: Value, margin: float) -> tuple[Array, float]:
        """The result for the token in hand, and how far the decisions that it rests on are from different ones."""
        v = lift(value)
        numbers(v)
        if kind not in KINDS:
            raise Fault("E0204", f"`{kind}` does not go along the batch")
        if any(axis is not None for axis in v.axes):
            raise Fault("E0204", "the slots of a selection hold other indices for other tokens")
        if self._token is None:
            return _settle([Part(kind, v, margin)])[0]
        if self._met == len(self._results):
            raise Waiting(Part(kind, v, margin))
        self._met += 1
        return self._results[self._met - 1][self._token]

    def settle(self, parts: Sequence[Part]) -> None:
        """Takes what all tokens, in their order, have brought to the next work along the batch."""
        with np.errstate(all="ignore"):
            self._results.append(_settle(parts))


def _settle(parts: Sequence[Part]) -> list[tuple[Array, float]]:
    """For each token its result and that result's margin. One token that may decide otherwise makes all uncertain that
    it is counted for."""
    kind, first = parts[0].kind, parts[0].value
    data = np.stack([part.value.data for part in parts])
    margins = np.array([part.margin for part in parts])
    exact = all(part.value.exact for part in parts)
    if kind in ("sum", "cumsum"):  # of integers f32 holds the sum as well, up to 2^24
        exact = exact and bool((data == np.rint(data)).all() and np.abs(data).sum(axis=0).max(initial=0) < 2**24)
    margins = _certain(kind, margins)
    if kind == "rank":
        margins = margins if exact else np.minimum(margins, _gaps(data))
    dtype = I64 if kind == "rank" or first.integer else F32
    rows = KINDS[kind](data)
    return [(array(row, dtype, exact=exact), float(margin)) for row, margin in zip(rows, margins, strict=True)]


def _certain(kind: str, margins: Data) -> Data:
    """How far the decisions that a token's result rests on are from different ones: those of the tokens in it."""
    match kind:
        case "cumsum":
            return np.minimum.accumulate(margins)
        case "previous":
            return np.append(math.inf, margins[:-1])
        case _:
            return np.full_like(margins, margins.min())


def _for_all(reduce: Callable[..., Data]) -> Callable[[Data], Data]:
    return lambda data: np.broadcast_to(reduce(data, axis=0), data.shape)


def _ranks(data: Data) -> Data:
    order = falling(np.moveaxis(data, 0, -1), np.zeros(len(data), bool))
    return np.moveaxis(np.argsort(order, axis=-1), -1, 0)


def _gaps(data: Data) -> Data:
    """For each token how near another one comes to it in any element, relative to the largest magnitude there. Finite
    numbers alone come near: between equal infinities, or NaNs, the order of the tokens decides, in any precision."""
    flat = data.reshape(len(data), -1)
    least = np.full(len(data), math.inf)
    for column in flat.T:
        finite = np.flatnonzero(np.isfinite(column))
        order = finite[np.argsort(column[finite])]
        steps = np.diff(column[order]) / (np.abs(column[order]).max(initial=0) or 1)
        near = np.minimum(np.append(steps, math.inf), np.insert(steps, 0, math.inf))
        least[order] = np.fmin(least[order], near)
    return least


def names() -> dict[str, Any]:
    """What a text sees because of the axis of tokens: its name, and the functions that go along it only."""
    return {"batch": BATCH} | {name: Builtin(name, _needing(name)) for name in ("cumsum", "previous", "rank")}


def _needing(name: str) -> Callable[..., Value]:
    def apply(v: Value, axis: Value | None = None) -> Value:
        raise Fault("E0204", f"`{name}` goes along the tokens: `{name}(v, axis=batch)`")

    return apply


KINDS: dict[str, Callable[[Data], Data]] = {
    "sum": _for_all(np.sum),
    "max": _for_all(np.max),
    "min": _for_all(np.min),
    "cumsum": lambda data: np.cumsum(data, axis=0),
    "previous": lambda data: np.concatenate([np.zeros_like(data[:1]), data[:-1]]),
    "rank": _ranks,
}
