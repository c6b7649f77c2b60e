"""What other languages write, and what this one does: by the word or the sign, the help of the error."""

from __future__ import annotations

import re
from typing import Final

FOREIGN_SIGNS: Final = {
    "&&": "write `and`",
    "&": "write `and`",
    "||": "write `or`",
    "|": "write `or`",
    "!": "write `not`",
    "~": "write `not`",
    "^": "write `**` for a power",
    ";": "remove it: statements need nothing between them",
    "?": "write `if c then a else b`",
    "\\": "remove it: an expression may go on in the next line",
    "×": "write `*`",
    "·": "write `*`",
    "÷": "write `/`",
    "−": "write `-`",
    "–": "write `-`",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "∈": "write `in`",
    "∑": "write `sum e in s: …`",
    "→": "write `->`",
    "∞": "write `inf`",
    "“": 'write `"`',
    "”": 'write `"`',
    "…": "write `..` for a range",
    "\u00a0": "write a plain space",
}
#: Words that begin a statement or a definition.
FOREIGN_WORDS: Final = {
    "let": "a name needs no keyword: write `x = …`",
    "var": "a name needs no keyword: write `x = …`",
    "const": "a name needs no keyword: write `x = …`",
    "val": "a name needs no keyword: write `x = …`",
    "def": "write `fn`",
    "func": "write `fn`",
    "function": "write `fn`",
    "fun": "write `fn`",
    "lambda": "write `fn`",
    "layer": "write `moe`",
    "module": "write `moe`",
    "model": "write `moe`",
    "class": "write `moe`",
    "for": "there are no loops: write `sum e in s: …` or `each e in s: …`",
    "while": "there are no loops: write `sum e in s: …` or `each e in s: …`",
    "weight": "write `param`",
    "parameter": "write `param`",
    "output": "write `return` or `aux`",
    "elif": "write `else if`",
}
#: Names of values and of functions.
FOREIGN_NAMES: Final = {
    **dict.fromkeys(("True", "true"), "there are no truth literals: write `0 < 1`"),
    **dict.fromkeys(("False", "false"), "there are no truth literals: write `0 > 1`"),
    "None": "`each i in 0..n: v` has an axis of `n` in front",
    **dict.fromkeys(("Inf", "INF", "Infinity", "infinity"), "write `inf`"),
    **dict.fromkeys(("nan", "NaN", "NAN"), "write `inf - inf`"),
    **dict.fromkeys(("range", "arange"), "write `0..n`; `each i in 0..n: i` is the vector"),
    "len": "write `size(v)`",
    **dict.fromkeys(
        ("sort", "argsort", "sorted"), "`topk(v, n)` selects the n largest in order, `top(v, n)` is their values"
    ),
    **{
        name: f"a number stands beside arrays of every shape; `each i in 0..n: {number}` is a vector"
        for name, number in (("zeros", "0"), ("zeros_like", "0"), ("ones", "1"), ("ones_like", "1"))
    },
    "float": "write `f32(v)`",
    "int": "no number becomes an integer; `f32(n)` is the integer `n` as a number",
    "einsum": "write `W @ v` for the last axis of `W` against `v`",
    **dict.fromkeys(("matmul", "dot"), "write `W @ v`"),
    "pow": "write `v ** p`",
    **dict.fromkeys(("cat", "stack"), "`concat(a, b)` joins along an axis, `each e in s: …` makes one"),
    **dict.fromkeys(("one_hot", "scatter"), "write `each e in 0..n: if e in s then 1 else 0`"),
}
#: Functions that are methods elsewhere.
_METHODS: Final = "abs argmax clamp exp flatten log max mean min norm sigmoid size softmax sqrt sum topk"
FOREIGN_FIELDS: Final = {
    **{name: f"write `{name}(…)`" for name in _METHODS.split()},
    **dict.fromkeys(("t", "mT", "transpose"), "write `.T`"),
    **dict.fromkeys(("reshape", "view"), "write `split v as [A, B]`"),
    "shape": "write `size(v, axis)`",
}
#: What begins a comment elsewhere, and is something else to some.
FOREIGN_COMMENTS: Final = {
    "//": "a comment begins with `#`; of indices `/` rounds down",
    "/*": "a comment begins with `#`",
}

#: What is meant where selections are joined as sets are.
JOINED: Final = "selections are not joined: add a sum over each"


def unquoted(text: str) -> str | None:
    """The help for a string that stands where none may: without its quotes it may be a name or a number."""
    return f"write `{text}`, without quotes" if re.fullmatch(r"-?[A-Za-z_0-9.]+", text) else None
