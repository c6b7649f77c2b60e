"""Effects and speculation, as MLIR states them: what the passes of moec, and those of xDSL, ask of an operation."""

from __future__ import annotations

from typing import Final

import pytest
from xdsl.ir import Operation
from xdsl.traits import MemoryEffect, is_side_effect_free, is_speculatable
from xdsl.transforms.dead_code_elimination import is_trivially_dead

from moec.dialects.moe import Moe
from tests.dialects.test_invalid import parser

VALUES: Final = """
%v = "test.op"() : () -> tensor<3xf32>
%i = "test.op"() : () -> i64
%s = "moe.range"() <{low = 0 : i64, high = 3 : i64}> : () -> !moe.selection<3 : i64, 3 : i64, "full">
"""
PART: Final = '"moe.extract"(%v, %i) : (tensor<3xf32>, i64) -> f32'
CHECKED: Final = '"moe.extract"(%v, %i) <{checked}> : (tensor<3xf32>, i64) -> f32'
UNKNOWN: Final = '"test.op"() : () -> f32'


def regions(value: str) -> dict[str, str]:
    """Each operation that has regions, with one that gives a value."""
    inside = f'  %c = {value}\n  "moe.yield"(%c) : (f32) -> ()\n}})'
    over = '(!moe.selection<3 : i64, 3 : i64, "full">)'
    return {
        "map": f'"moe.map"(%v) ({{\n^bb0(%e: f32):\n{inside} : (tensor<3xf32>) -> tensor<3xf32>',
        "sum": f'"moe.sum"(%s) ({{\n^bb0(%e: i64, %slot: i64):\n{inside} : {over} -> f32',
        "each": f'"moe.each"(%s) ({{\n^bb0(%e: i64, %slot: i64):\n{inside} : {over} -> tensor<3xf32>',
        "match": f'"moe.match"(%i) <{{bounds = [3 : i64]}}> ({{\n{inside} : (i64) -> f32',
    }


def last(text: str) -> Operation:
    """The operation that a text ends with; verified."""
    module = parser(f"{VALUES}%z = {text}").parse_module()
    module.verify()
    operation = module.body.block.last_op
    assert operation is not None
    return operation


@pytest.mark.parametrize("text", [PART, *regions(PART).values()])
def test_what_cannot_fail_is_pure(text: str) -> None:
    operation = last(text)
    assert is_side_effect_free(operation) and is_speculatable(operation)


@pytest.mark.parametrize("text", [CHECKED, *regions(CHECKED).values()])
def test_what_may_fail_is_dropped_but_not_speculated(text: str) -> None:
    operation = last(text)
    assert is_side_effect_free(operation) and not is_speculatable(operation)
    assert is_trivially_dead(operation)


@pytest.mark.parametrize("text", [UNKNOWN, *regions(UNKNOWN).values()])
def test_what_holds_something_unknown_is_neither(text: str) -> None:
    operation = last(text)
    assert not is_side_effect_free(operation) and not is_speculatable(operation)
    assert not is_trivially_dead(operation)


def test_every_operation_but_a_layer_says_what_effects_it_has() -> None:
    silent = [op.name for op in Moe.operations if not any(isinstance(trait, MemoryEffect) for trait in op.traits)]
    assert silent == ["moe.layer", "moe.return"]
