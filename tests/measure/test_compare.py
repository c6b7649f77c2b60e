"""What is called right, and what wrong: also where no choice is clear, where one token is loud, and where there is
nothing to compare."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from moec.measure.compare import AGREEING, LEAST, compare, errors, judge

TRUTH = np.random.default_rng(0).standard_normal((32, 16))
NONE, ALL = np.zeros(32, bool), np.ones(32, bool)


def spoilt(*tokens: int) -> np.ndarray[Any, Any]:
    """The truth, with a few tokens that are wrong."""
    y = TRUTH.copy()
    y[list(tokens)] += 10
    return y


def test_what_rounds_alike_is_right() -> None:
    found = judge([TRUTH * (1 + 1e-6)], [TRUTH], ALL, 2e-5)
    assert found.right and found.fault is None
    assert (found.done, found.telling, found.counted, found.agreeing) == (32, 32, 32, 32)
    assert 1e-7 < found.error < 2e-6


def test_every_token_whose_choices_are_clear_has_to_agree() -> None:
    found = judge([spoilt(7)], [TRUTH], ALL, 2e-2)
    assert not found.right and found.fault is not None and found.fault.startswith("error ")
    assert judge([spoilt(7)], [TRUTH], np.arange(32) != 7, 2e-2).right


@pytest.mark.parametrize("stable", [NONE, None])
def test_where_no_choice_is_clear_most_tokens_have_to_agree(stable: np.ndarray[Any, Any] | None) -> None:
    few = round((1 - AGREEING) * 32)
    found = judge([spoilt(*range(few))], [TRUTH], stable, 2e-2)
    assert found.right and (found.error, found.counted) == (0.0, 32 - few)
    found = judge([spoilt(*range(few + 1))], [TRUTH], stable, 2e-2)
    assert not found.right and found.fault == f"only {31 - few} of 32 tokens agree, where {32 - few} have to"
    assert not judge([spoilt(*range(1, 32))], [TRUTH], stable, 2e-2).right
    assert not judge([np.full_like(TRUTH, 1e6)], [TRUTH], stable, 2e-2).right


def test_a_loud_token_does_not_hide_the_others() -> None:
    truth = np.concatenate([TRUTH[:1] * 1e6, TRUTH[1:]])
    y = np.concatenate([truth[:1], -truth[1:]])
    assert not judge([y], [truth], ALL, 2e-5).right
    assert not judge([y], [truth], NONE, 2e-5).right


def test_what_cancels_is_as_exact_as_what_it_is_made_of() -> None:
    truth = TRUTH.copy()
    truth[3] *= 1e-9
    y = truth + np.random.default_rng(1).uniform(-1e-6, 1e-6, truth.shape)
    assert judge([y], [truth], ALL, 2e-5).right
    y[3] += 1e-3
    assert not judge([y], [truth], ALL, 2e-5).right


@pytest.mark.parametrize("truth", [np.zeros((32, 16)), np.full((32, 16), np.nan)])
def test_outputs_that_say_nothing_are_not_right(truth: np.ndarray[Any, Any]) -> None:
    found = judge([truth], [truth], ALL, 2e-5)
    assert not found.right and (found.telling, found.counted) == (0, 0)
    assert found.fault is not None and found.fault.startswith("nothing is compared")
    assert judge([TRUTH], [truth], ALL, 2e-5).counted == 32


def test_tokens_of_zeros_do_not_speak_for_the_others() -> None:
    truth = np.where(np.arange(32)[:, None] < 24, 0, TRUTH)
    assert judge([truth], [truth], NONE, 2e-5).telling == 8
    assert not judge([np.zeros_like(truth)], [truth], NONE, 2e-5).right


def test_every_output_counts_and_integers_are_exact() -> None:
    ids = np.arange(32)[:, None] + 100
    assert judge([TRUTH, ids], [TRUTH, ids], ALL, 2e-2).right
    assert not judge([TRUTH, ids + 1], [TRUTH, ids], ALL, 2e-2).right
    assert not judge([TRUTH, ids + 1], [TRUTH, ids], NONE, 2e-2).right
    assert not judge([TRUTH, spoilt(3)], [TRUTH, TRUTH], ALL, 2e-2).right


def test_errors_count_what_is_no_number() -> None:
    truth = np.array([[1.0, 2.0], [np.inf, 0.0], [np.nan, 1.0], [4.0, 1.0]])
    assert errors(truth, truth).tolist() == [0, 0, 0, 0]
    bad = np.array([[1.0, np.nan], [-np.inf, 0.0], [0.0, 1.0], [5.0, 1.0]])
    assert errors(bad, truth).tolist() == [np.inf, np.inf, np.inf, 0.25]
    assert errors(truth[:, :1], truth).tolist() == [np.inf] * 4
    assert errors(np.empty((0, 3)), np.empty((0, 3))).tolist() == []


def test_the_oracle_stops_in_time() -> None:
    asked: list[int] = []

    def interpret(part: slice) -> tuple[list[Any], Any]:
        asked.append(part.stop - part.start)
        time.sleep(0.01 * asked[-1])
        return [np.ones((asked[-1], 1))], np.ones(asked[-1], bool)

    found = compare([np.ones((1000, 1))], interpret, 1e-5, seconds=0.3)
    assert found.right and found.done == sum(asked) and LEAST <= found.done <= 60


def test_calls_whose_tokens_depend_on_each_other_are_interpreted_whole() -> None:
    asked: list[tuple[int, int]] = []

    def interpret(part: slice) -> tuple[list[Any], Any]:
        asked.append((part.start, part.stop))
        return [TRUTH[part]], ALL[part]

    assert compare([TRUTH[:20]], interpret, 1e-5, seconds=0.0, together=5).done == 20
    assert asked == [(0, 5), (5, 10), (10, 15), (15, 20)]
