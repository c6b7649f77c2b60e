"""The parser's engine: text to tokens, tokens to nodes, by the tables. It knows nothing of what the nodes are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from moec.language.tables import END, Rule, Tables

#: The kind of a stretch that is no token.
UNKNOWN = "unknown"


class Token(NamedTuple):
    """A word of the text, with the characters `start` to `end` that it was read from."""

    kind: str
    text: str
    start: int
    end: int


class Entry(NamedTuple):
    """Something read: a token, or a node. `depth` counts nodes inside each other; `start` is None for an empty one."""

    value: Any
    start: int | None
    end: int
    depth: int


class Unexpected(Exception):
    """`tokens[index]` cannot follow. `stack` is what was read before it, `expected` the kinds that could follow."""

    def __init__(self, tokens: Sequence[Token], index: int, stack: Sequence[Entry], expected: frozenset[str]) -> None:
        super().__init__()
        self.tokens, self.index, self.stack, self.expected = tokens, index, stack, expected


def tokenize(tables: Tables, text: str) -> list[Token]:
    """The tokens of a text, without what is ignored. Never fails: what is no token becomes one of kind `UNKNOWN`."""
    find = _pattern(tables.pattern).match
    tokens: list[Token] = []
    position = 1 if text.startswith("\ufeff") else 0  # a byte order mark
    while position < len(text):
        match = find(text, position)
        kind = tables.kinds[int((match.lastgroup or "")[1:])] if match else UNKNOWN
        end = match.end() if match else position + 1
        if kind not in tables.ignored:
            word = text[position:end]
            tokens.append(Token(word if word in tables.words else kind, word, position, end))
        position = end
    last = tokens[-1].end if tokens else 0
    return [*tokens, Token(END, "", last, last)]


#: Makes a node: the rule's name, its children, where it starts and ends, and how deep it is.
Build = Callable[[str, list[Any], int, int, int], Any]


def run(tables: Tables, tokens: Sequence[Token], build: Build) -> Any:
    """The node of the whole text. Raises `Unexpected` at the first token that cannot follow."""
    states, stack = [tables.start], list[Entry]()
    for index, token in enumerate(tokens):
        while (action := tables.states[states[-1]].get(token.kind)) is None or action < 0:
            if action is None:
                raise Unexpected(tokens, index, stack, _acceptable(tables, states))
            rule = tables.rules[~action]
            cut = len(stack) - rule.size
            taken = stack[cut:]
            del stack[cut:], states[cut + 1 :]
            stack.append(_reduce(rule, taken, token.start, build))
            states.append(tables.states[states[-1]][rule.origin])
            if states[-1] == tables.end:
                return stack[0].value
        states.append(action)
        stack.append(Entry(token, token.start, token.end, 0))
    raise AssertionError("the tokens do not end")


def _reduce(rule: Rule, taken: list[Entry], here: int, build: Build) -> Entry:
    values: list[Any] = []
    for child in rule.children:
        if child is None:
            values.append(None)
        elif child < 0:  # a list that grows at its end is taken over, not copied
            values = values + taken[~child].value if values else taken[~child].value
        else:
            values.append(taken[child].value)
    seen = [entry for entry in taken if entry.start is not None]
    start, end = (seen[0].start, seen[-1].end) if seen else (None, here)
    depth = max((entry.depth for entry in taken), default=0)
    if rule.helper:
        return Entry(values, start, end, depth)
    if rule.single and len(values) == 1:
        return Entry(values[0], start, end, depth)
    value = build(rule.name, values, here if start is None else start, end, depth + 1)
    return Entry(value, start, end, depth + 1)


def _acceptable(tables: Tables, states: Sequence[int]) -> frozenset[str]:
    """The kinds that can follow: more exact than the top state's row, which the tables share between contexts."""
    kinds = {kind for kind in tables.states[states[-1]] if kind in tables.words or kind in tables.kinds or kind == END}
    return frozenset(kind for kind in kinds if _shifts(tables, list(states), kind))


def _shifts(tables: Tables, states: list[int], kind: str) -> bool:
    while (action := tables.states[states[-1]].get(kind)) is not None and action < 0:
        rule = tables.rules[~action]
        del states[len(states) - rule.size :]
        states.append(tables.states[states[-1]][rule.origin])
        if states[-1] == tables.end:
            return True
    return action is not None


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
