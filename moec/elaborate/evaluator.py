"""What evaluates an expression: the rules for its nodes, and what they have at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moec.diagnostics import fail
from moec.elaborate.builder import Builder
from moec.elaborate.values import Scope, Value
from moec.language import syntax
from moec.source import Span


class Evaluator(Builder):
    """Evaluates expressions to values, emitting operations on the way.

    `rules` has the code for each kind of node, called with the evaluator, the node and the scope. `functions` are those
    of the file and of the prelude; `calls` lists the places of the calls in hand, outermost first.
    """

    def __init__(
        self,
        binding: Mapping[str, int],
        functions: Scope,
        rules: Mapping[type[Any], Rule],
        file: syntax.File | None = None,
    ) -> None:
        super().__init__(binding)
        self._file = file
        self.functions = functions
        self.calls: list[Span] = []
        self._rules = rules

    def binders(self) -> Iterator[syntax.Binder]:
        """Every `sum e in s` and `each e in s` of the file."""
        return (node for node in syntax.walk(self._file) if isinstance(node, syntax.Binder))

    def evaluate(self, node: syntax.Node, scope: Scope) -> Value:
        """The value of an expression. Raises `CompileError` (E01xx, E02xx, E0301)."""
        rule = self._rules.get(type(node))
        if rule is None:
            raise fail("E0204", "this cannot stand in an expression here", node.span)
        outer, self.span = self.span, node.span
        try:
            return rule(self, node, scope)
        finally:
            self.span = outer


Rule = Callable[[Evaluator, Any, Scope], Value]
