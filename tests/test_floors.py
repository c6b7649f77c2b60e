"""An import may only point down: the floors of moec, walked in the source, imports inside functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1] / "moec"

NOUNS: Final = (
    *("dims", "target", "machines", "processors", "shapes", "host"),
    *("dtypes", "diagnostics", "excerpt", "codes", "source", "validation"),
)

#: From the top down. A part imports those of the lines below it, and its own.
FLOORS: Final = (
    ("__main__",),
    ("cli",),
    ("opt",),
    ("",),  # moec/__init__.py
    ("integrations", "bench"),
    ("kernels",),
    ("pipeline", "pool_image", "fitting"),
    ("keys",),
    ("options",),
    ("measure",),
    ("codegen",),
    ("passes",),
    ("elaborate",),
    ("dialects",),
    ("runtime", "oracle"),
    ("binding",),
    ("checkpoint",),
    ("formats",),
    ("language",),
    ("arrays", "files", "stack", "steps"),
    NOUNS,
)
HEIGHT: Final = {part: -i for i, floor in enumerate(FLOORS) for part in floor}

#: What a part leaves alone although it lies below.
APART: Final = {
    "oracle": {"runtime", "binding", "checkpoint", "formats"},
    "runtime": {"oracle", "binding", "language"},
    **{part: {"oracle"} for part in ("dialects", "elaborate", "passes", "codegen")},
}

#: Modules that take hundreds of milliseconds; none of them is needed to call a kernel that the cache holds.
HEAVY: Final = ("xdsl", "lark", "torch", "transformers", "moec.elaborate", "moec.passes", "moec.codegen")


def part_of(path: Path) -> str:
    """`moec/passes/views.py` is of `passes`, `moec/target.py` of `target`, `moec/__init__.py` of the empty name."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path, types: bool = True) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of everything that a module imports, wherever the statement stands.

    Without `types` those under `if TYPE_CHECKING` are left out.
    """
    tree = ast.parse(path.read_text())
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = set[ast.AST]() if types else {node for block in blocks for node in ast.walk(block)}
    for node in (node for node in ast.walk(tree) if node not in left_out):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT.parent).parts[: -node.level] if node.level else ()
            module = ".".join((*package, *filter(None, [node.module])))
            # `from moec import target` names a module, `from moec import compile` does not.
            names = [f"{module}.{name.name}" for name in node.names]
            inner = [name for name in names if (ROOT.parent / f"{name.replace('.', '/')}.py").exists()]
            inner += [name for name in names if (ROOT.parent / name.replace(".", "/") / "__init__.py").exists()]
            yield from ((node.lineno, name) for name in inner or [module])


def fault(path: Path, name: str) -> str | None:
    """Why a module may not import `name`."""
    part, (top, *rest) = part_of(path), name.split(".")
    if top != "moec":
        standard = top in sys.stdlib_module_names or (part, name) == ("host", "llvmlite")
        return f"`{part}` is of the standard library only" if part in NOUNS and not standard else None
    other = rest[0] if rest else ""
    if part == other:
        return None
    if other not in HEIGHT:
        return f"`{other}` has no floor"
    if part not in NOUNS and HEIGHT[other] >= HEIGHT[part]:
        return f"`{other}` is not below `{part}`"
    if part in NOUNS and other not in NOUNS:
        return f"`{other}` is above `{part}`"
    if part == "binding" and other == "language" and name != "moec.language.syntax":
        return "`binding` knows the tree, not the parser"
    return f"`{part}` stays apart from `{other}`" if other in APART.get(part, ()) else None


MODULES: Final = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_points_up_a_floor(path: Path) -> None:
    assert part_of(path) in HEIGHT, "a new part needs a floor"
    faults = [f"{path.name}:{line}: {name}: {why}" for line, name in imports(path) if (why := fault(path, name))]
    assert not faults, "\n".join(faults)


def test_no_module_needs_itself() -> None:
    names = {path: ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in MODULES}
    known = {name.removesuffix(".__init__") for name in names.values()}
    needs = {
        name.removesuffix(".__init__"): {other for _, other in imports(path, types=False)} & known
        for path, name in names.items()
    }
    TopologicalSorter(needs).prepare()  # raises where a cycle is left


def test_the_walk_sees_what_it_should() -> None:
    names = {name for _, name in imports(ROOT / "opt.py")}
    assert {"moec.elaborate", "moec.dialects.moe", "xdsl.universe"} <= names
    assert fault(ROOT / "runtime" / "pack.py", "moec.passes.views")
    assert fault(ROOT / "runtime" / "kernel.py", "moec.language.syntax")
    assert fault(ROOT / "binding" / "entries.py", "moec.language.parse")
    assert fault(ROOT / "target.py", "numpy")
    assert fault(ROOT / "oracle" / "values.py", "moec.dialects.types")
    assert not fault(ROOT / "codegen" / "rows.py", "moec.dialects.types")


def test_importing_moec_imports_nothing_heavy() -> None:
    names = ", ".join(map(repr, HEAVY))
    script = f"import sys, moec; print(*(name for name in ({names}) if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert not done.stdout.split()
