"""What the verifiers of the two dialects refuse: with a message, never with an exception of Python's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from xdsl.context import Context
from xdsl.dialects import test
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.parser import Parser
from xdsl.rewriter import Rewriter
from xdsl.utils.exceptions import DiagnosticException, ParseError, VerifyException

from moec.dialects.moe import Moe
from moec.dialects.plan import Plan

HERE: Final = Path(__file__).parent


def parser(text: str) -> Parser:
    """What reads a text of the two dialects, and of those that they build on."""
    context = Context()
    for dialect in (Builtin, Arith, test.Test, Moe, Plan):
        context.load_dialect(dialect)
    return Parser(context, text)


def fault(make: Callable[[], ModuleOp]) -> str:
    """Why a module is refused; empty where it is not."""
    try:
        make().verify()
    except (DiagnosticException, ParseError, VerifyException) as error:
        return str(error)
    return ""


# ── moe ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

SHARED, *_PARTS = re.split(r"^// ----- ", (HERE / "moe_invalid.mlir").read_text(), flags=re.MULTILINE)
_FOUND = (re.fullmatch(r"expected-error \{\{(.*?)\}\}\n(.*)", part, re.DOTALL) for part in _PARTS)
#: A message, and the text of which it is said.
MOE: Final = [(found[1], found[2]) for found in _FOUND if found]


def test_what_the_others_read_is_accepted() -> None:
    assert not fault(parser(SHARED).parse_module)


@pytest.mark.parametrize(("message", "text"), MOE)
def test_what_is_wrong_with_a_layer_is_said(message: str, text: str) -> None:
    assert message in fault(parser(f"{SHARED}\n{text}").parse_module)


def test_every_operation_of_a_layer_is_refused_somewhere() -> None:
    assert not [op.name for op in Moe.operations if not any(f'"{op.name}"(' in text for _, text in MOE)]


# ── plan ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

VALID: Final = (HERE / "plan_valid.mlir").read_text()

#: An operation of that text, by what it leaves or its own name; an operand, a property, a result or an argument of its
#: region; what that is instead; what is said of it.
PLAN: Final = [
    # programs
    ("plan.program", "inputs", '["x"]', "there are 4 arguments for 3 inputs and parameters"),
    ("plan.program", "outputs", '["y"]', "there are 2 returned values for 1 outputs"),
    ("plan.program", "types", '["f32"]', "there are 1 element types for 2 returned values"),
    ("plan.program", "types", '["f32", "bf16"]', 'tensor<48xf32> leaves as "bf16"'),
    ("plan.return", "#0", "%z", "what a stage leaves is returned twice"),
    ("plan.return", "#0", "%x", "what is returned is not what a stage leaves for each token"),
    ("plan.return", "#0", "%total", "what is returned is not what a stage leaves for each token"),
    ("plan.return", "#0", "%part", "what is returned is not what a stage leaves for each token"),
    ("plan.return", "#0", "%chosen", "is no array of the language"),
    ("plan.return", "#0", "%up", "should be of base attribute plan.rows"),
    # domains
    ("slots", "slots", "%id", "i64 is not a selection"),
    ("slots", "domain", "%single", "of another domain are read"),
    ("slots", "index", "!plan.rows<f32>", "Expected attribute !plan.rows<i64> but got !plan.rows<f32>"),
    ("group", "key", "%x", "Expected attribute !plan.rows<i64>"),
    ("group", "keys", "0 : i64", "there are 0 keys"),
    ("group", "domain", "%single", "!plan.rows<i64> of another domain are read"),
    # rows that are gathered
    ("x_by_key", "domain", "%single", "the group is not of these rows and keys"),
    ("x_by_key", "keys", "3 : i64", "the group is not of these rows and keys"),
    ("x_by_key", "vector", "%part", "!plan.rows<tensor<40xf32>> of another domain are read"),
    ("x_by_key", "vector", "%id", "i64 is not a vector"),
    ("x_by_key", "value", "!plan.rows<tensor<40xbf16>>", "tensor<40xbf16> is gathered as tensor<64xbf16>"),
    ("x_by_key", "grouping", "#plan<grouping index>", "there is a group exactly where rows are grouped by key"),
    ("x_by_index", "grouping", "#plan<grouping key>", "there is a group exactly where rows are grouped by key"),
    ("x_by_index", "grouping", "#plan<grouping none>", "4 keys without grouping"),
    ("x_by_index", "domain", "%tokens", "rows that no selection chose have no index"),
    ("x_by_index", "keys", "3 : i64", "indices below 4 of 3 keys"),
    ("x_by_index", "vector", "%hidden", "plan.gather reads rows that are gathered"),
    # along the tokens
    ("before", "kind", "#moe<along rank>", "`rank` leaves tensor<48xi64>, not tensor<48xf32>"),
    ("before", "kind", "#moe<along max>", "`max` leaves one row for all"),
    ("before", "kind", '"previous"', '"previous" should be of base attribute moe.along'),
    ("before", "#2", "%single", "`previous` leaves a row for each row"),
    ("before", "source", "%part", "`previous` leaves tensor<40xf32>, not tensor<48xf32>"),
    ("before", "source", "%chosen", "holds neither f32 nor i64"),
    ("before", "domain", "%slots", "no value for each row of the domain"),
    ("total", "kind", "#moe<along cumsum>", "`cumsum` leaves a row for each row"),
    # stages
    ("y", "domain", "%single", "of another domain are read"),
    ("y", "^0", "!plan.domain", "operand 'row' at position 1 does not verify"),
    ("all", "source", "%elsewhere", "!plan.rows<tensor<48xf32>> leaves no rows"),
    ("all", "result", "f32", "f32 of !plan.rows<tensor<48xf32>>"),
    ("one", "row", "%elsewhere", "plan.read at what is no row of the stage"),
    ("at", "domain", "%tokens", "the domain was not expanded from the row's"),
    ("at", "slot", "%tokens", "Expected attribute i64 but got !plan.domain"),
    ("at", "row", "%at", "plan.descend at what is no row of the stage"),
    # products
    ("shared", "grouping", "#plan<grouping index>", "rows that no selection chose have no index"),
    ("shared", "keys", "2 : i64", "2 keys without grouping"),
    ("shared", "keys", "0 : i64", "0 keys without grouping"),
    ("shared", "domain", "%single", "!plan.rows<tensor<40xbf16>> of another domain are read"),
    ("shared", "vector", "%x_by_key", "a vector of tensor<64xbf16> beside matrices of 40 k"),
    ("shared", "vector", "%id", "a vector of i64 beside matrices of 40 k"),
    ("shared", "n", "47 : i64", "tensor<4x48x40xbf16> becomes [1, 48, 40], not 1 matrices [47, 40]"),
    ("shared", "k", "20 : i64", "tensor<4x48x40xbf16> becomes [1, 48, 40], not 1 matrices [48, 20]"),
    ("shared", "views", "[[]]", "tensor<4x48x40xbf16> becomes [4, 48, 40], not 1 matrices [48, 40]"),
    ("shared", "views", "[[], []]", "there are 2 views for 1 weights"),
    ("shared", "views", '[["slice 7 0 1 1"]]', "['slice 7 0 1 1'] is no view of [4, 48, 40]"),
    ("shared", "views", '[["reshape 7 7"]]', "['reshape 7 7'] is no view of [4, 48, 40]"),
    ("shared", "views", '[["turn"]]', "`turn` is no step of a view"),
    ("shared", "views", '[["slice 0 1 2 1", "cast f8"]]', "no element type is called f8"),
    ("shared", "dtype", '"f8"', 'no element type is called "f8"'),
    ("shared", "dtype", '"f32"', "reads f32, not tensor<40xbf16>"),
    ("shared", "tile", '"dot"', '"dot" is no tile'),
    ("shared", "tile", '"dot 8x48 kstep 2 lanes 16 streams"', "is no tile"),
    ("shared", "tile", '"guess 8x48 kstep 2 lanes 16"', "is no tile"),
    ("shared", "tile", '"dot 0x48 kstep 2 lanes 16"', '"dot 0x48 kstep 2 lanes 16" for 1 weights'),
    ("shared", "tile", '"amx 32x32 kstep 2 lanes 16"', "a vector of tensor<40xbf16> beside matrices of 40 k"),
    ("shared", "tile", '"int8 8x48 kstep 2 lanes 16"', "of dense weights"),
    ("shared", "storage", '"q9"', 'no storage format is called "q9"'),
    ("shared", "gathered", "unit", "only tiles leave rows gathered"),
    ("shared", "value", "!plan.rows<f32>", "it yields something else"),
    ("shared", "^0", "i64", "i64 is no row"),
    ("shared", "^1", "tensor<48xbf16>", "tensor<48xbf16> as the sums of 48 columns"),
    ("shared", "^1", "tensor<47xf32>", "tensor<47xf32> as the sums of 48 columns"),
    ("keyed", "group", "%elsewhere", "the group is not of these rows and keys"),
    ("keyed", "vector", "%x_by_index", "!plan.rows<tensor<64xbf16>> of another domain are read"),
    ("keyed", "keys", "5 : i64", "the group is not of these rows and keys"),
    ("part", "vector", "%x_by_key", "the vectors are gathered in another order"),
    ("part", "tile", '"dot 8x48 kstep 2 lanes 16"', "a vector of tensor<64xbf16> beside matrices of 48 k"),
    ("part", "gathered", "unit", "tensor<40xf32> is gathered as tensor<64xf32>"),
    ("hidden", "value", "!plan.rows<tensor<48xbf16>>", "tensor<48xbf16> is gathered as tensor<64xbf16>"),
    ("hidden", "gathered", "none", "it yields something else"),
]  # fmt: skip


def changed(name: str, part: str, other: str) -> ModuleOp:
    """The text that is right, but for one part of one operation."""
    module = parser(VALID).parse_module()
    made = {value.name_hint: value for op in module.walk() for value in (*op.results, *_arguments(op))}
    op = next(op for op in module.walk() if name in (op.name, *(result.name_hint for result in op.results)))
    match part[0]:
        case "^":
            old = op.regions[0].block.args[int(part[1:])]
        case "#":
            old = op.operands[int(part[1:])]
        case _:
            old = getattr(op, part)
    if other.startswith("%"):
        place = int(part[1:]) if part.startswith("#") else list(op.operands).index(old)
        op.operands[place] = made.get(other[1:]) or test.TestOp(result_types=[old.type]).results[0]
    elif isinstance(old, SSAValue):
        Rewriter.replace_value_with_new_type(old, parser(other).parse_attribute())
    elif other == "none":
        del op.properties[part]
    else:
        op.properties[part] = parser(other).parse_attribute()
    return module


def _arguments(op: Operation) -> list[BlockArgument]:
    return [argument for region in op.regions for block in region.blocks for argument in block.args]


def test_a_plan_that_is_right_is_accepted() -> None:
    assert not fault(parser(VALID).parse_module)
    assert not [op.name for op in Plan.operations if f'"{op.name}"(' not in VALID]


@pytest.mark.parametrize(("name", "part", "other", "message"), PLAN)
def test_what_is_wrong_with_a_plan_is_said(name: str, part: str, other: str, message: str) -> None:
    assert message in fault(lambda: changed(name, part, other))


@pytest.mark.parametrize(
    ("part", "other", "message"),
    [
        ("(%row: index):\n    %top", "(%row: index, %more: index):\n    %top", "entry arguments do not verify"),
        ('"plan.single"() :', '"test.op"() :', "`sum` leaves one row for all"),
        ('  "plan.return"(%y', '  %t = "test.op"() : () -> i64\n  "plan.return"(%y', "test.op is no stage"),
        ('"plan.return"(', '"plan.yield"(', "'plan.yield' expects parent op to be one of 'plan.rows', 'plan.matmul'"),
        ('"plan.yield"(%mixed', '"test.termop"(%mixed', "terminates with operation test.termop instead of plan.yield"),
        ('"plan.yield"(%rounded) : (tensor<48xbf16>)', '"plan.yield"() : ()', "it yields 0 values, not one"),
        ("#plan<grouping none>", "#plan<grouping expert>", "Expected `none`, `index`, or `key`"),
    ],
)
def test_what_is_written_wrong_in_a_plan_is_said(part: str, other: str, message: str) -> None:
    assert VALID.count(part) == 1
    assert message in fault(parser(VALID.replace(part, other)).parse_module)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no domain of tokens"),
        ("^bb0(%t: i64, %x: !plan.rows<f32>, %w: f32):", "no domain of tokens"),
        ("^bb0(%t: !plan.domain, %x: f32, %w: f32):", "f32 are no rows"),
        ("^bb0(%t: !plan.domain, %x: !plan.rows<f32>, %w: !plan.rows<f32>):", "a parameter of !plan.rows<f32>"),
        ("^bb0(%t: !plan.domain, %x: !plan.rows<f32>, %w: tensor<?xf32>):", "a dimension without a value"),
    ],
)
def test_a_program_has_a_domain_inputs_and_parameters(arguments: str, message: str) -> None:
    names = 'sym_name = "p", inputs = ["x"], params = ["w"], outputs = [], aux = [], types = []'
    text = f'"plan.program"() <{{{names}}}> ({{\n{arguments}\n  "plan.return"() : () -> ()\n}}) : () -> ()'
    assert message in fault(parser(text).parse_module)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"plan.single"() : () -> !plan.domain', "'plan.single' expects parent op 'plan.program'"),
        (
            '"plan.read"(%r, %i) : (!plan.rows<f32>, index) -> f32',
            "'plan.read' expects ancestor op to be one of 'plan.rows', 'plan.matmul'",
        ),
    ],
)
def test_an_operation_stands_where_it_belongs(text: str, message: str) -> None:
    values = '%r = "test.op"() : () -> !plan.rows<f32>\n%i = "test.op"() : () -> index\n'
    assert message in fault(parser(f"{values}%z = {text}").parse_module)
