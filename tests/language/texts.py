"""Random texts of the language, straight from its grammar: for tests of the parser and of the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from moec.diagnostics import CompileError
from moec.language.parse import parse
from moec.source import Source

NAMES = ["a", "b", "x", "top", "W", "longer_name", "an_even_longer_name_of_something", "T", "e"]
NUMBERS = ["0", "1", "2.5", "1.", "1e-20", "0.044715", "3.e2"]
TENSORS = ['"gate.weight"', '"experts.{e}.w1"', '"a#b"', 'split "q" as [ E , H ]', '"w" [ : , : : 2 ] .T']
SPACES = [
    "",
    "",
    "",
    "",
    "\n",
    "\n\n\n",
    "# note\n",
    "  # a remark\n",
    "\n# own line\n",
    "\t",
    "#\n",
    "\r\n",
    "\n#x # y \r\n",
]


class Writer:
    """Writes tokens with a space between, choosing as Hypothesis says. Smaller choices come first, for shrinking."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def below(self, count: int) -> int:
        return self._draw(st.integers(0, count - 1))

    def pick(self, options: list[str]) -> str:
        return options[self.below(len(options))]

    def several(self, part: Callable[[], str], least: int = 0, most: int = 2) -> list[str]:
        return [part() for _ in range(least + self.below(most - least + 1))]

    def listed(self, part: Callable[[], str], least: int = 0, most: int = 3, last: bool = True) -> str:
        parts = self.several(part, least, most)
        return " , ".join(parts) + (" ," if parts and last and self.below(2) else "")

    def name(self) -> str:
        return self.pick(NAMES)

    def leaf(self) -> str:
        return self.pick([*NAMES, *NUMBERS])

    def expr(self, depth: int = 4) -> str:
        """Any expression. Operands stand in parentheses or not: the parser reads one tree or another out of it."""
        if not depth:
            return self.leaf()

        def inner() -> str:
            return self.expr(depth - 1)

        def simple() -> str:
            kind = self.below(7)
            if kind < 3:
                return self.leaf()
            if kind == 3:
                return f"( {inner()} )"
            if kind == 4:
                return f"{self.pick(['sum', *NAMES])} ( {self.listed(argument)} )"
            if kind == 5:
                return f"{self.name()} [ {self.listed(item, 1, last=False)} ]"
            return f"{self.leaf()} .T"

        def argument() -> str:
            return [inner, lambda: f"{self.name()} = {inner()}", lambda: "sum"][self.below(3)]()

        def item() -> str:
            def end() -> str:
                return inner() if self.below(2) else ""

            return [inner, lambda: f"{end()} : {end()}", lambda: f"{end()} : {end()} : {end()}"][self.below(3)]()

        def arm() -> str:
            pattern = [simple, lambda: f"{simple()} .. {simple()}", lambda: f"{simple()} ..", lambda: f".. {simple()}"]
            return f"{pattern[self.below(4)]()} : {inner()}"

        def chain() -> str:
            operator = ["+", "-", "*", "/", "%", "@", "**", "and", "or", "+", "*"]
            parts = self.several(lambda: f"{simple()} {self.pick(operator)}", 1, 4)
            return f"{' '.join(parts)} {inner() if self.below(2) else simple()}"

        kinds: list[Callable[[], str]] = [
            simple,
            chain,
            chain,
            lambda: f"{simple()} {self.pick(['<', '<=', '==', '!=', '>=', '>', 'in'])} {simple()}",
            lambda: f"{simple()} .. {simple()}",
            lambda: f"{self.pick(['-', '+', 'not'])} {simple()}",
            lambda: f"{self.pick(['sum', 'each'])} {self.name()} in {simple()} : {inner()}",
            lambda: f"if {simple()} then {inner()} else {inner()}",
            lambda: f"match {simple()} {{ {self.listed(arm, 1)} }}",
            lambda: f"split {simple()} as [ {self.listed(inner, 1, last=False)} ]",
            lambda: f"{{ {self.listed(inner, 1)} }}",
        ]
        return kinds[self.below(len(kinds))]()

    def type(self) -> str:
        shape = f"[ {self.listed(lambda: self.expr(1), last=False)} ]"
        return [lambda: self.pick(["f32", "i64"]), lambda: shape, lambda: f"real {shape}"][self.below(3)]()

    def default(self) -> str:
        return f"{self.name()} = {self.expr(2)}" if self.below(2) else self.name()

    def output(self) -> str:
        return f"{self.name()} : {self.type()}" if self.below(2) else self.type()

    def statement(self) -> str:
        kinds: list[Callable[[], str]] = [
            lambda: f"{self.listed(self.name, 1, 2, last=False)} = {self.expr()}",
            lambda: f"param {self.listed(self.name, 1, last=False)} : {self.type()}",
            lambda: f"aux {self.name()} = {self.expr()}",
            lambda: f"return {self.listed(self.expr, 1, 2, last=False)}",
            self.function,
        ]
        return kinds[self.below(len(kinds))]()

    def body(self) -> str:
        return f"{{ {' '.join(self.several(self.statement, 0, 3))} }}"

    def function(self) -> str:
        body = f"= {self.expr()}" if self.below(2) else self.body()
        return f"fn {self.name()} ( {self.listed(self.default)} ) {body}"

    def layer(self) -> str:
        dimensions = f"[ {self.listed(self.default)} ]" if self.below(2) else ""
        inputs = self.listed(lambda: f"{self.name()} : {self.type()}")
        outputs = f"( {self.listed(self.output, 1)} )" if self.below(2) else self.output()
        return f"moe {self.name()} {dimensions} ( {inputs} ) -> {outputs} {self.body()}"

    def bind(self) -> str:
        entries = self.several(lambda: f"{self.name()} = {self.pick(TENSORS)} {self.pick(['', 'as mxfp4'])}", 0, 3)
        return f"bind {self.name()} {{ {' '.join(entries)} }}"

    def file(self) -> str:
        items = [self.layer, self.function, self.bind]
        return " ".join(self.several(lambda: items[self.below(3)](), 1, 3))


def _parses(text: str) -> bool:
    try:
        parse(Source("<test>", text))
    except CompileError:  # the grammar has levels, and not every operand fits on each
        return False
    return True


@st.composite
def files(draw: Any) -> str:
    """Texts of whole files."""
    return Writer(draw).file()


FILES = files().filter(_parses)
