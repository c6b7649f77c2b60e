"""Functions of our own: types, names and attributes come from their declarations, and calls pass what these name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from llvmlite import ir

from moec.codegen.function import Address, Alone, Arguments, Integer, emit_function
from moec.codegen.llvm import I64, Emitter, i64
from moec.target import Target

HOST = Target.host()


@dataclass(frozen=True)
class Few(Arguments):
    sums: Alone
    ahead: Address
    count: Integer


@dataclass(frozen=True)
class More(Few):
    RESULT: ClassVar[Any] = I64

    scratch: Alone


def nothing(e: Emitter, given: Few) -> None:
    pass


def test_a_declaration_has_types_names_and_attributes() -> None:
    text = str(emit_function(ir.Module(), HOST, "few", Few, nothing))
    assert 'define void @"few"(ptr noalias %"sums", ptr %"ahead", i64 %"count") noinline nounwind' in text


def test_what_is_derived_takes_more_behind() -> None:
    text = str(emit_function(ir.Module(), HOST, "more", More, lambda e, given: given.count))
    assert '(ptr noalias %"sums", ptr %"ahead", i64 %"count", ptr noalias %"scratch")' in text
    assert 'ret i64 %"count"' in text


def test_a_function_is_emitted_once() -> None:
    module, times = ir.Module(), list[Few]()
    first = emit_function(module, HOST, "few", Few, lambda e, given: times.append(given))
    assert emit_function(module, HOST, "few", Few, lambda e, given: times.append(given)) is first
    assert len(times) == 1


def test_a_call_passes_arguments_by_name() -> None:
    module = ir.Module()
    callee = emit_function(module, HOST, "few", Few, nothing)

    def turned(e: Emitter, given: Few) -> None:
        e.b.call(callee, Few(count=i64(7), ahead=given.sums, sums=given.ahead))

    assert 'call void @"few"(ptr %"ahead", ptr %"sums", i64 7)' in str(emit_function(module, HOST, "turn", Few, turned))


def test_no_argument_is_left_out() -> None:
    with pytest.raises(TypeError, match="count"):
        Few(sums=None, ahead=None)  # pyright: ignore[reportCallIssue]
