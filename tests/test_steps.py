"""The steps of a view as text; what they do to arrays is tested where weights are packed."""

from __future__ import annotations

import pytest

from moec.steps import Cast, Move, Reshape, Slice, Step, Transpose, parse, parse_view

#: As files of packed weights have them.
TEXTS: dict[str, Step] = {
    "slice 1 2 7 2": Slice(1, 2, 7, 2),
    "move 0 2": Move(0, 2),
    "reshape 6 4 2 10": Reshape((6, 4, 2, 10)),
    "transpose": Transpose(),
    "cast bf16": Cast("bf16"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_step_is_what_its_text_says(text: str) -> None:
    assert parse(text) == TEXTS[text]
    assert str(TEXTS[text]) == text


@pytest.mark.parametrize("text", ["", "reshape", "slice 1 2 7", "move 0 x", "transpose 0 1", "turn 1"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_casts_come_last() -> None:
    assert parse_view(["cast bf16", "transpose", "cast f32"]) == ([Transpose()], ["bf16", "f32"])
