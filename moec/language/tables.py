"""The parser's tables: what the grammar becomes before a text is read.

lark turns moe.lark into LALR tables, which takes a tenth of a second and the import of lark. They depend on nothing but
the grammar, so a wheel holds them as JSON, and a checkout keeps them in the user's cache; lark is needed only when the
grammar is new.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import lark

#: The layout of `Tables`. Part of the key: change it whenever `build` would make something else of the same grammar.
VERSION = 3

END = "end of file"


@dataclass(frozen=True, slots=True)
class Rule:
    """One production. `children` says what its node holds: the value of a symbol, by position; `~position` for all the
    values of a helper rule's list; None for an optional part that is absent."""

    name: str
    origin: str  # in angle brackets: a rule and a keyword may share a name
    size: int
    children: tuple[int | None, ...]
    single: bool  # a lone child stands for the node
    helper: bool  # lark's own rule for a repetition: its node is a list


@dataclass(frozen=True, slots=True)
class Tables:
    """The automaton. A kind of token is named by its spelling (`->`, `then`), or if it has many by its terminal."""

    pattern: str  # one regular expression; a group `k3` for `kinds[3]`
    kinds: tuple[str, ...]
    words: frozenset[str]  # the keywords: each is a kind
    ignored: frozenset[str]
    rules: tuple[Rule, ...]
    states: tuple[dict[str, int], ...]  # kind or origin → the next state, or `~rule` to reduce by
    start: int
    end: int


@cache
def tables() -> Tables:
    """The tables of the grammar: from the package, from the cache, or built anew."""
    from moec.files import cache_directory  # here, since grammar/build.py runs this file by itself

    text = grammar()
    name = file_name(text)
    kept = cache_directory() / name
    found = _load(Path(__file__).with_name(name)) or _load(kept)
    if found is None:
        found = build(text)
        save(found, kept)
    return found


def file_name(text: str) -> str:
    """What a file with the tables of a grammar is called: other grammars and layouts have other names."""
    return f"grammar-{_digest(str(VERSION), text)[:16]}.json"


@cache
def grammar() -> str:
    """The text of moe.lark: inside an installed package, or at the top of a checkout."""
    packaged = Path(__file__).with_name("moe.lark")
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "grammar" / "moe.lark").read_text(encoding="utf-8")


def build(text: str) -> Tables:
    """The tables of a grammar."""
    import lark

    made = lark.Lark(text, parser="lalr", lexer="basic", start="file", maybe_placeholders=True)
    names = {terminal.name: _kind(terminal) for terminal in made.terminals} | {"$END": END}
    rules = {rule: index for index, rule in enumerate(made.rules)}
    table: Any = cast("Any", made.parser).parser._parse_table
    order = _numbered(table, table.start_states["file"])
    words = {names[terminal.name] for terminal in made.terminals if re.fullmatch(r"[a-z]+", names[terminal.name])}
    lexed = sorted((t for t in made.terminals if names[t.name] not in words), key=_precedence)
    states: list[dict[str, int]] = []
    for state in order:
        states.append({})
        for symbol, (action, target) in sorted(table.states[state].items(), key=lambda item: item[0]):
            reduces = action.name == "Reduce"
            if reduces and target not in rules:
                continue  # lark's own start rule, which nothing reduces by
            states[-1][names.get(symbol) or f"<{symbol}>"] = ~rules[target] if reduces else order[target]
    return Tables(
        "|".join(f"(?P<k{index}>{terminal.pattern.to_regexp()})" for index, terminal in enumerate(lexed)),
        tuple(names[terminal.name] for terminal in lexed),
        frozenset(words),
        frozenset(names[name] for name in made.ignore_tokens),
        tuple(map(_rule, made.rules)),
        tuple(states),
        order[table.start_states["file"]],
        order[table.end_states["file"]],
    )


def _numbered(table: Any, start: int) -> dict[int, int]:
    """The states in the order in which they are met from the first one: lark's own order differs between processes."""
    order, waiting = {start: 0}, [start]
    for state in waiting:
        for _, (action, target) in sorted(table.states[state].items(), key=lambda item: item[0]):
            if action.name == "Shift" and target not in order:
                order[target] = len(order)
                waiting.append(target)
    return order


def _kind(terminal: lark.lexer.TerminalDef) -> str:
    return terminal.pattern.value if terminal.pattern.type == "str" else terminal.name


def _precedence(terminal: lark.lexer.TerminalDef) -> tuple[int, int, int, str]:
    pattern = terminal.pattern
    return -terminal.priority, -pattern.max_width, -len(pattern.value), terminal.name


def _rule(rule: Any) -> Rule:
    """lark's way of making a node out of a production, as data (lark/parse_tree_builder.py)."""
    absent = "".join("1" if empty else "0" for empty in rule.options.empty_indices) or "0" * len(rule.expansion)
    children: list[int | None] = []
    for position, gaps in enumerate(absent.split("0")):
        if position:
            symbol = rule.expansion[position - 1]
            if not (symbol.is_term and symbol.filter_out):
                spliced = not symbol.is_term and symbol.name.startswith("_")
                children.append(~(position - 1) if spliced else position - 1)
        children += [None] * len(gaps)
    helper = rule.origin.name.startswith("_")
    single = bool(rule.options.expand1 and not rule.alias)
    origin = rule.origin.name
    return Rule(rule.alias or origin, f"<{origin}>", len(rule.expansion), tuple(children), single, helper)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _load(path: Path) -> Tables | None:
    """The tables in a file, or None where it is absent or not what `written` says."""
    try:
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if digest != _digest(text):
        return None
    pattern, kinds, words, ignored, rules, states, start, end = json.loads(text)
    made = tuple(
        Rule(name, origin, size, tuple(children), single, helper)
        for name, origin, size, children, single, helper in rules
    )
    return Tables(pattern, tuple(kinds), frozenset(words), frozenset(ignored), made, tuple(states), start, end)


def written(made: Tables) -> str:
    """What a file of tables holds."""
    rules = [[r.name, r.origin, r.size, r.children, r.single, r.helper] for r in made.rules]
    words, ignored = sorted(made.words), sorted(made.ignored)
    parts = [made.pattern, made.kinds, words, ignored, rules, made.states, made.start, made.end]
    text = json.dumps(parts, separators=(",", ":"))
    return f"{_digest(text)}\n{text}"


def save(made: Tables, path: Path) -> None:
    """Writes the tables for others to find. A cache that cannot be written is no error."""
    from moec.files import write_aside

    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, lambda file: file.write(written(made).encode()))
