"""Names that are given twice, and names that are not what they are used as."""

from __future__ import annotations

import pytest

from moec.diagnostics import CompileError
from moec.elaborate import elaborate
from moec.language.parse import parse
from moec.source import Source

HEAD = "moe m[H=4](x: [H]) -> [H] {\n    param w: [H]\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("moe m[H=4](x: [H]) -> (y: [H], y: [H]) {\n    return x, x\n}\n", "E0102"),
        ("moe m[H=4]() -> [H] {\n    param w: [H]\n    return w\n}\n", "E0105"),
        (HEAD + "    fn f(v, v) = v\n    return f(x, w)\n}\n", "E0102"),
        (HEAD + '    return x * w\n}\nbind a {\n    w = "p"\n}\nbind a {\n    w = "q"\n}\n', "E0102"),
        (HEAD + '    return x * w\n}\nbind a {\n    w = "p"\n    w = "q"\n}\n', "E0102"),
        (HEAD + '    return x * w\n}\nbind a {\n    v = "p"\n}\n', "E0405"),
        (HEAD + "    param f: bool[H]\n    return if f then x else w\n}\n", "E0107"),
        (HEAD + "    return limit_groups(x, 2, 1, 1, 0) * w\n}\n", "E0204"),
        (HEAD + "    return x * size(w, x)\n}\n", "E0204"),
        (HEAD + "    return x * sum(w, axis=0, axis=-1)\n}\n", "E0104"),
        (HEAD + "    return x * sum(w, 0, axis=0)\n}\n", "E0104"),
        (HEAD + "    return max(w, x, axis=0)\n}\n", "E0104"),
        (HEAD + "    return x * size(axis=0)\n}\n", "E0104"),
        (HEAD + "    return concat(w[:1], x[1:], axis=0, axis=0)\n}\n", "E0104"),
        (HEAD + "    param a: [H, H]\n    return a[x > 0]\n}\n", "E0204"),
        (HEAD + "    param a: [H, H]\n    return a[:, x > 0]\n}\n", "E0204"),
        (HEAD + "    param a: [H, H, H]\n    return a[0, :, w]\n}\n", "E0204"),
        (HEAD + "    param a: [H, H, H]\n    return a[:, :, w]\n}\n", "E0204"),
    ],
)
def test_is_an_error(text: str, code: str) -> None:
    with pytest.raises(CompileError) as error:
        elaborate(parse(Source("layer.moe", text)))
    assert error.value.diagnostics[0].code == code
