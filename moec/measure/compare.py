"""A kernel's outputs beside the oracle's: the largest error, over as many tokens as there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[Any]

#: What the oracle says of some tokens: the outputs, and which tokens are stable.
Interpret: TypeAlias = Callable[[slice], tuple[Sequence[_Array], _Array]]

#: The largest error that is right, relative to the output's largest magnitude.
TOLERANCES: Final = {"f32": 2e-5, "bf16": 2e-2, "f16": 3e-3}
#: The same where activations are quantised: an element between two integers may go to the other one than in float64.
TOLERANCES_QUANTIZED: Final = {"f32": 2e-3, "bf16": 2e-2, "f16": 5e-3}
#: How many tokens the oracle is asked for first, and how many times more than the last time at most: what it spends
#: on reading the weights does not depend on the tokens.
_FIRST: Final = 4
_GROWTH: Final = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of `done` tokens. `error` is the largest of those that count: every token whose choices are clear, and
    of those so nearly tied that f32 and f64 may rightly choose differently the ones that agree nevertheless."""

    error: float
    done: int
    counted: int
    tolerance: float

    @property
    def right(self) -> bool:
        return bool(self.counted) and self.error <= self.tolerance


def compare(
    outputs: Sequence[_Array],
    interpret: Interpret,
    tokens: int,
    tolerance: float,
    seconds: float = 2.0,
    together: bool = False,
) -> Comparison:
    """Compares the first of `tokens` tokens: as many as the oracle manages in about so many seconds, or all `together`
    where they depend on each other."""
    begin = time.perf_counter()
    parts: list[tuple[Sequence[_Array], _Array]] = []
    done, part = 0, tokens if together else _FIRST
    while part and done < tokens:
        part = min(part, tokens - done)
        start = time.perf_counter()
        parts.append(interpret(slice(done, done + part)))
        took, left = time.perf_counter() - start, begin + seconds - time.perf_counter()
        done += part
        part = min(_GROWTH * part, int(part * left / took)) if left > 0 else 0
    stable = np.concatenate([clear for _, clear in parts])
    truths = [np.concatenate(column) for column in zip(*(truth for truth, _ in parts), strict=True)]
    each = np.max([errors(y[:done], truth) for y, truth in zip(outputs, truths, strict=True)], axis=0)
    counted = each[stable | (each <= tolerance)]
    return Comparison(float(counted.max(initial=0.0)), done, len(counted), tolerance)


def errors(y: _Array, truth: _Array) -> NDArray[np.float64]:
    """For each token the largest difference, relative to the largest finite magnitude of `truth`; infinite where only
    one of the two is infinite, or no number."""
    y, truth = np.asarray(y, np.float64), np.asarray(truth, np.float64)
    with np.errstate(invalid="ignore"):
        same = (y == truth) | (np.isnan(y) & np.isnan(truth))
        difference = np.where(same, 0.0, np.abs(y - truth)).reshape(len(y), -1)
    scale = np.abs(truth[np.isfinite(truth)]).max(initial=1e-30)
    return np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(axis=1, initial=0.0) / scale
