"""Digests: under which key the cache has a program, and how a text is told from one that means something else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moec.language import syntax
    from moec.options import Options
    from moec.source import Source
    from moec.target import Target


def cache_key(source: Source, options: Options) -> str:
    """What a program depends on, as a digest: the compiler, xDSL, the text, the options, LLVM."""
    fields = asdict(options) | {"target": str(options.target), "threads": None}
    return _key("layer", xdsl_version(), json.dumps(fields, sort_keys=True), source.text)


def pool_key(target: Target) -> str:
    """The same for the pool of threads."""
    return _key("pool", str(target))


def _key(*parts: str) -> str:
    import llvmlite

    text = "\0".join((_compiler(), llvmlite.__version__, *parts))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def digest(*nodes: syntax.Node) -> str:
    """A digest of parts of a text: names and formulas count, comments and white space do not."""
    from moec.language.dump import dump

    return hashlib.sha256("".join(dump(node, places=False) for node in nodes).encode()).hexdigest()


@cache
def xdsl_version() -> str:
    """xDSL's version, some of whose passes run here too. It is read where pip writes it: `importlib.metadata` takes
    longer than all the rest of a key."""
    spec = find_spec("xdsl")
    assert spec is not None and spec.origin is not None
    found = Path(spec.origin).parents[1].glob("xdsl-*.dist-info")
    return " ".join(path.stem.removeprefix("xdsl-") for path in found)


@cache
def _compiler() -> str:
    """The digest of moec's own sources, and of the grammar, which a checkout has beside them."""
    root, found = Path(__file__).parent, hashlib.sha256()
    grammar = root.parent / "grammar" / "moe.lark"
    paths = [*_sources(root), str(grammar)] if grammar.is_file() else [*_sources(root)]
    for path in sorted(paths):
        found.update(os.path.relpath(path, root).encode() + b"\0")
        with open(path, "rb") as file:
            found.update(file.read())
    return found.hexdigest()


def _sources(directory: Path | str) -> Iterator[str]:
    with os.scandir(directory) as found:
        for entry in found:
            if entry.is_dir():
                yield from _sources(entry.path)
            elif entry.name.endswith((".py", ".moe", ".lark")):
                yield entry.path
