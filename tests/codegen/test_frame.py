"""The words of the frame: each is filled in by somebody."""

from __future__ import annotations

import pytest

from moec.codegen.frame import FLAG, WORKSPACE, Frame, Word


def test_words_are_numbered_as_they_are_asked_for() -> None:
    frame = Frame()
    frame.declare(WORKSPACE, FLAG)
    assert [frame.number(word) for word in (FLAG, WORKSPACE, FLAG)] == [0, 1, 0]


def test_a_word_that_nobody_fills_in_is_refused() -> None:
    with pytest.raises(LookupError, match="order"):
        Frame().number(Word("order"))
