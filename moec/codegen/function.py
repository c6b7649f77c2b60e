"""Functions of our own: what each takes is declared once, by name, and all else comes from that.

    @dataclass(frozen=True)
    class ScaleArguments(Arguments):
        sums: Alone
        count: Integer

is the declaration of a function of an address and an integer. A call passes such an object, `ScaleArguments(sums=…,
count=…)`, and where the function begins it finds one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self, TypeAlias, TypeVar, get_type_hints

from llvmlite import ir

from moec.codegen.llvm import I64, PTR, VOID, Emitter, Value
from moec.target import Target

#: What a parameter may be: an address, one through which nothing is reached that others lead to, a 64-bit integer.
Address: TypeAlias = Annotated[Any, PTR]
Alone: TypeAlias = Annotated[Any, PTR, "noalias"]
Integer: TypeAlias = Annotated[Any, I64]


@dataclass(frozen=True)
class Arguments:
    """What a function is called with, in order. A derived class has a field for each parameter."""

    #: What the function returns.
    RESULT: ClassVar[Any] = VOID

    def __iter__(self) -> Iterator[Value]:
        return (getattr(self, field.name) for field in fields(self))

    @classmethod
    def _parameters(cls) -> list[tuple[str, Any, list[str]]]:
        """The name, the type and the attributes of each parameter."""
        hints = get_type_hints(cls, include_extras=True)
        declared = [(field.name, hints[field.name].__metadata__) for field in fields(cls)]
        return [(name, type, attributes) for name, (type, *attributes) in declared]

    @classmethod
    def type(cls) -> Any:
        """The function's type."""
        return ir.FunctionType(cls.RESULT, [type for _, type, _ in cls._parameters()])

    @classmethod
    def declare(cls, module: Any, name: str) -> tuple[ir.Function, Self]:
        """A new function of a module, without a body, and what that finds."""
        function = ir.Function(module, cls.type(), name)
        for argument, (label, _, attributes) in zip(function.args, cls._parameters(), strict=True):
            argument.name = label
            for attribute in attributes:
                argument.add_attribute(attribute)
        return function, cls(*function.args)


A = TypeVar("A", bound=Arguments)


def emit_function(
    module: Any, target: Target, name: str, arguments: type[A], emit: Callable[[Emitter, A], Value | None]
) -> ir.Function:
    """The function of that name, which is called, never inlined: added to `module` unless it is there. `emit` appends
    its instructions, and gives what it returns."""
    if name in module.globals:
        return module.globals[name]
    function, given = arguments.declare(module, name)
    for attribute in ("nounwind", "noinline"):
        function.attributes.add(attribute)
    e = Emitter(ir.IRBuilder(function.append_basic_block("entry")), target)
    result = emit(e, given)
    if arguments.RESULT == VOID:
        e.b.ret_void()
    else:
        e.b.ret(result)
    return function
