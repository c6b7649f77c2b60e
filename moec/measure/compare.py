"""What is right: outputs beside the oracle's, or beside those of whoever else computes the same. `moec run`, `moec
bench`, what replaces the blocks of a model and the random programs of the tests all mean this by it.

A choice may be so near a tie that f32 and float64 rightly make it differently. The oracle knows which tokens have such
a choice; those may differ, and all others have to agree. Most tokens near a tie agree as well, so of all tokens a share
has to: a result that is wrong is called so also where no choice is clear.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[Any]

#: What the oracle says of some tokens: the outputs, and which tokens are stable.
Interpret: TypeAlias = Callable[[slice], tuple[Sequence[_Array], _Array]]

#: The largest error that is right, relative to the largest magnitude of a token's output.
TOLERANCES: Final = {"f32": 2e-5, "bf16": 2e-2, "f16": 3e-3}
#: The same where activations are quantised: an element between two integers may go to the other one than in float64.
TOLERANCES_QUANTIZED: Final = {"f32": 2e-3, "bf16": 3e-2, "f16": 1.5e-2}
#: The share of all tokens that agrees at least, and how many tokens have to be compared for it to say something.
AGREEING: Final = 0.75
LEAST: Final = 16
#: A token's magnitude counts as at least this part of a typical one: what cancels to nearly 0 is as far off as what it
#: was made of.
_FLOOR: Final = 0.25
#: How many times more tokens than the last time the oracle is asked for at most: what it spends on reading the weights
#: does not depend on the tokens.
_GROWTH: Final = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of `done` tokens. Of these `telling` have something to compare: all but those that are 0, or no number,
    on both sides. `agreeing` ones of them are within the tolerance, and `counted` ones agree or have clear choices;
    `error` is the largest of those."""

    error: float
    done: int
    telling: int
    counted: int
    agreeing: int
    tolerance: float

    @property
    def needed(self) -> int:
        """How many tokens have to agree."""
        return math.ceil(AGREEING * self.telling)

    @property
    def fault(self) -> str | None:
        """Why this is not right, or None where it is."""
        if not self.telling:
            return "nothing is compared: every output is 0, or no number"
        if not self.error <= self.tolerance:
            return f"error {self.error:.1e} of a token's largest magnitude, {self.tolerance:.0e} allowed"
        if self.agreeing < self.needed:
            return f"only {self.agreeing} of {self.telling} tokens agree, where {self.needed} have to"
        return None

    @property
    def right(self) -> bool:
        return self.fault is None


def judge(outputs: Sequence[_Array], truths: Sequence[_Array], stable: _Array | None, tolerance: float) -> Comparison:
    """Compares each output, `[T, …]`, with its truth. `stable` says which tokens have clear choices: bool `[T]`, or
    None where nobody knows."""
    each = np.max([errors(y, truth) for y, truth in zip(outputs, truths, strict=True)], axis=0)
    agree = each <= tolerance
    telling = ~agree | np.any([_sizes(truth) > 0 for truth in truths], axis=0)
    counted = telling & (agree if stable is None else agree | stable)
    return Comparison(
        error=float(each[counted].max(initial=0.0)),
        done=len(each),
        telling=int(telling.sum()),
        counted=int(counted.sum()),
        agreeing=int((telling & agree).sum()),
        tolerance=tolerance,
    )


def compare(
    outputs: Sequence[_Array], interpret: Interpret, tolerance: float, seconds: float = 2.0, together: int = 0
) -> Comparison:
    """Compares the first tokens with the oracle: `LEAST`, and as many more as it manages in about so many seconds; or
    all of them, `together` at a time, where the tokens of a call depend on each other."""
    begin = time.perf_counter()
    parts: list[tuple[Sequence[_Array], _Array]] = []
    done, part, tokens = 0, together or LEAST, len(outputs[0])
    while part and done < tokens:
        part = min(part, tokens - done)
        start = time.perf_counter()
        parts.append(interpret(slice(done, done + part)))
        took, left = time.perf_counter() - start, begin + seconds - time.perf_counter()
        done += part
        more = min(_GROWTH * part, int(part * left / took)) if left > 0 else 0
        part = together or more
    stable = np.concatenate([clear for _, clear in parts])
    truths = [np.concatenate(column) for column in zip(*(truth for truth, _ in parts), strict=True)]
    return judge([y[:done] for y in outputs], truths, stable, tolerance)


def errors(y: _Array, truth: _Array, smallest: float = 1e-30) -> NDArray[np.float64]:
    """For each token the largest difference, relative to the largest finite magnitude of its `truth`, or to a part of a
    typical one or `smallest` where those are larger; infinite where integers differ, where only one of the two is
    infinite or no number, and where the shapes differ."""
    y, truth = np.asarray(y), np.asarray(truth)
    if y.shape != truth.shape:
        return np.full(len(truth), np.inf)
    exact = truth.dtype.kind in "iub"
    y, truth = y.astype(np.float64), truth.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (y == truth) | (np.isnan(y) & np.isnan(truth))
        difference = np.where(same, 0.0, np.inf if exact else np.abs(y - truth))
        relative = _by_token(difference) / _scales(truth, smallest)
    return np.nan_to_num(relative, nan=np.inf, posinf=np.inf)


def _scales(truth: _Array, smallest: float = 1e-30) -> NDArray[np.float64]:
    """For each token the magnitude that an error is relative to: its own, so that a loud token does not hide what the
    others are off by, but not much less than a typical one."""
    sizes = _by_token(np.abs(np.where(np.isfinite(truth), truth, 0)))
    typical = float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0
    return np.maximum(sizes, max(_FLOOR * typical, smallest))


def _sizes(truth: _Array) -> NDArray[np.float64]:
    """The largest finite magnitude of each token."""
    return _by_token(np.where(np.isfinite(truth), np.abs(truth), 0.0))


def _by_token(array: _Array) -> NDArray[np.float64]:
    """The largest element of each token; 0 is the least."""
    return array.reshape(len(array), math.prod(array.shape[1:])).max(axis=1, initial=0.0)
