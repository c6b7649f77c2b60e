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
    "int": "`floor(v)` rounds down, and stays a number; `f32(n)` is the integer `n` as a number",
    "einsum": "write `W @ v` for the last axis of `W` against `v`",
    **dict.fromkeys(("matmul", "dot"), "write `W @ v`"),
    **dict.fromkeys(("pow", "power"), "write `v ** p`"),
    "square": "write `v * v`",
    "exp2": "write `2 ** v`",
    "log2": "write `log(v) / log(2)`",
    "log10": "write `log(v) / log(10)`",
    "log1p": "write `log(1 + v)`",
    "expm1": "write `exp(v) - 1`",
    **dict.fromkeys(("mod", "fmod", "remainder"), "of integers, write `a % b`; of others, `a - b * floor(a / b)`"),
    "tan": "write `sin(v) / cos(v)`",
    "sinh": "write `(exp(v) - exp(-v)) / 2`",
    "cosh": "write `(exp(v) + exp(-v)) / 2`",
    "ceil": "write `-floor(-v)`",
    **dict.fromkeys(("round", "rint"), "write `floor(v + 0.5)`, which rounds halves up"),
    **dict.fromkeys(("trunc", "fix"), "write `if v < 0 then -floor(-v) else floor(v)`"),
    "frac": "write `v - floor(v)`",
    "sign": "write `if v > 0 then 1 else if v < 0 then -1 else 0`",
    "argmin": "write `argmax(-v)`",
    **dict.fromkeys(("minimum", "reduce_min"), "write `min(a, b)`, or `min(v)` along an axis"),
    **dict.fromkeys(("maximum", "reduce_max"), "write `max(a, b)`, or `max(v)` along an axis"),
    "prod": "the language has no product along an axis; of positive numbers it is `exp(sum(log(v)))`",
    "cumprod": "the language has none; of positive numbers it is `exp` of a cumulative sum of `log(v)`",
    **dict.fromkeys(("roll", "rotate"), "write `each i in 0..n: v[(i + k) % n]`"),
    "shift": "write `concat(0, v[:-1])`",
    **dict.fromkeys(("flip", "reverse", "reversed"), "write `each i in 0..n: v[n - 1 - i]`"),
    "diff": "write `v[1:] - v[:-1]`",
    "var": "write `mean((v - mean(v)) ** 2)`",
    "std": "write `mean((v - mean(v)) ** 2) ** 0.5`",
    "any": "write `max(f32(c)) > 0`",
    "all": "write `min(f32(c)) > 0`",
    "outer": "write `each i in 0..n: a[i] * b`",
    **dict.fromkeys(("gather", "take", "index_select"), "write `v[s]`, of a selection or an index"),
    **dict.fromkeys(("tile", "repeat", "expand", "unsqueeze"), "`each i in 0..n: v` has an axis of `n` in front"),
    **dict.fromkeys(("reshape", "view"), "write `split v as [A, B]`"),
    **dict.fromkeys(("transpose", "permute"), "write `.T`"),
    "log_softmax": "write `v - logsumexp(v)`",
    "swish": "write `silu(v)`",
    "leaky_relu": "write `if v > 0 then v else a * v`",
    "elu": "write `if v > 0 then v else exp(v) - 1`",
    "mish": "write `v * tanh(softplus(v))`",
    **dict.fromkeys(("cat", "stack"), "`concat(a, b)` joins along an axis, `each e in s: …` makes one"),
    **dict.fromkeys(("one_hot", "scatter"), "write `each e in 0..n: if e in s then 1 else 0`"),
}
#: Functions that are methods elsewhere.
_METHODS: Final = "abs argmax clamp cos exp flatten floor log max mean min norm sigmoid sin size softmax sqrt sum topk"
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


#: The functions that are of a vector, whole.
OF_VECTORS: Final = ("softmax", "logsumexp", "rmsnorm", "layernorm", "argmax")


def without_axis(name: str) -> str:
    """The help for a function of a vector that is given an axis."""
    return f"leave it out: `{name}` is of a vector; `each i in 0..n: {name}(m[i])` is of every row"


def unquoted(text: str, called: str = "") -> str | None:
    """The help for a string that stands where none may, as an argument of `called` if that is a name: without its
    quotes it may be a name or a number."""
    if called in OF_VECTORS:
        return without_axis(called)
    return f"write `{text}`, without quotes" if re.fullmatch(r"-?[A-Za-z_0-9.]+", text) else FOREIGN_NAMES.get(called)
