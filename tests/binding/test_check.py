"""What is said of `bind` blocks before there is a checkpoint, and in the same words when there is one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moec.binding.bind import bind_weights
from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.language import syntax
from moec.language.parse import parse
from moec.source import Source

LAYER = "moe m[H=4, I=3, E%s](x: [H]) -> [H] {\n    param w: [E, I, H]\n    return x\n}\nbind b {\n    w = %s\n}\n"

#: The entry, the part of it that is marked, the code, the message and the help.
MISTAKES: list[tuple[str, str, str, str, str | None]] = [
    (
        'flatten("w1")',
        'flatten("w1")',
        "E0405",
        "`w`: a `bind` takes tensors, slices, `.T`, `split` and `concat`",
        'write `split "…" as [_]`',
    ),
    (
        "w1[0]",
        "w1",
        "E0405",
        "`w`: a `bind` takes tensors, slices, `.T`, `split` and `concat`",
        'write `"w1"`: a tensor\'s name stands in quotes',
    ),
    ('"gu"[:, :J]', "J", "E0405", "`J` is not a dimension", "the dimensions are `H`, `I`, `E`"),
    ('"gu"[:, 2 * i:]', "i", "E0405", "`i` is not a dimension", "did you mean `I`?"),
    ('split "gu" as [E, _, K]', "K", "E0405", "`K` is not a dimension", "the dimensions are `H`, `I`, `E`"),
    ('concat("g", "u", axis=A)', "A", "E0405", "`A` is not a dimension", "the dimensions are `H`, `I`, `E`"),
    ('concat("g", "u"[:"I"])', '"I"', "E0405", "a `bind` knows the dimensions and numbers only", None),
    ('("gu".T)[:I / 2]', "I / 2", "E0202", "`I / 2` is 3/2, not an integer", None),
    ('"w1"[::-1]', "::-1", "E0405", "`w`: the step of `::-1` is -1, not at least 1", None),
]


@pytest.mark.parametrize("dims", ["=2", ""], ids=["known", "formulas"])
@pytest.mark.parametrize(("entry", "part", "code", "message", "help"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_mistakes(entry: str, part: str, code: str, message: str, help: str | None, dims: str) -> None:
    file = parse(Source("m.moe", LAYER % (dims, entry)))
    with pytest.raises(CompileError) as error:
        elaborate(file)
    (found,) = error.value.diagnostics
    assert found.span is not None
    assert (found.code, found.message, found.span.text, found.help) == (code, message, part, help)


@pytest.mark.parametrize(("entry", "part", "code", "message", "help"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_packing_says_the_same(entry: str, part: str, code: str, message: str, help: str | None) -> None:
    import numpy as np

    tensors = {name: np.zeros((2, 3, 4), np.float32) for name in ("w1", "gu", "g", "u")}
    with pytest.raises(CompileError) as error:
        bind_weights(parse(Source("m.moe", LAYER % ("", entry))), "b", tensors, {"H": 4, "I": 3, "E": 2})
    (found,) = error.value.diagnostics
    assert found.span is not None
    assert (found.code, found.message, found.span.text, found.help) == (code, message, part, help)


@pytest.mark.parametrize("read", [elaborate, lambda file: bind_weights(file, "b", {}, {})], ids=["check", "bind"])
def test_a_way_to_store_tensors_is_one_of_those_there_are(read: Callable[[syntax.File], object]) -> None:
    with pytest.raises(CompileError) as error:
        read(parse(Source("m.moe", LAYER % ("", '"w1" as int3'))))
    (found,) = error.value.diagnostics
    assert found.span is not None
    assert (found.code, found.message) == ("E0306", "`int3` is not a way to store tensors")
    assert (found.span.text, found.help) == ("int3", "did you mean `int8`?")


@pytest.mark.parametrize("entry", ['"{e}.w"[:E, -I:, 1::2 * I].T as mxfp4', 'split ("a") as [E, _, 4]', '"w"[E - 1]'])
def test_what_a_checkpoint_may_hold(entry: str) -> None:
    elaborate(parse(Source("m.moe", LAYER % ("", entry))))
