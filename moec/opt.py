"""`moec opt`: xDSL's own driver, which also knows our dialects, our passes and `.moe` files.

`UNIVERSE` is an entry point of xDSL, so `xdsl-opt` knows the same dialects and passes wherever moec is installed.

    moec opt mixtral.moe -p 'specialize{dims="H=64","I=128","E=8","K=2" real=bf16},infer-shapes,cse'
    moec opt layer.mlir --print-between-passes -p 'hoist-invariants,fuse-maps,schedule{target="x86_64:znver4:"}'
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from typing import IO, ClassVar, Final

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe
from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, ParseError, UnregisteredConstructException
from xdsl.xdsl_opt_main import xDSLOptMain

from moec.diagnostics import CompileError
from moec.dims import Unbound
from moec.source import Source

#: Every pass of moec. `fuse-maps` is the class `FuseMaps` in `moec/passes/fuse_maps.py`.
PASSES: Final = (
    "choose-storage",
    "distribute-products",
    "fold-gathers",
    "fuse-maps",
    "gather-constants",
    "hoist-invariants",
    "infer-shapes",
    "keep-aux",
    "merge-equal",
    "quantize-activations",
    "round-outputs",
    "schedule",
    "specialize",
    "split-match",
    "widen-activations",
)


def load_pass(name: str) -> type[ModulePass]:
    """The pass of moec that is called `name`; its module is imported only now."""
    module = import_module(f"moec.passes.{name.replace('-', '_')}")
    return getattr(module, name.title().replace("-", ""))


def _moe() -> Dialect:
    from moec.dialects.moe import Moe

    return Moe


def _plan() -> Dialect:
    from moec.dialects.plan import Plan

    return Plan


UNIVERSE: Final = Universe(
    all_dialects={"moe": _moe, "plan": _plan},
    all_passes={name: lambda name=name: load_pass(name) for name in PASSES},
)

#: What the driver raises where its input is wrong: the text, a pass's name or options, or what a pass was given.
_WRONG_INPUT: Final = (
    ArgSpecParseError,
    CompileError,
    DiagnosticException,
    OSError,
    ParseError,
    Unbound,
    UnregisteredConstructException,
    ValueError,
    ZeroDivisionError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the driver; 0 is success, 1 a wrong input. Wrong usage exits with 2."""
    try:
        _Driver(description="Runs passes over the moe and plan dialects.", args=arguments).run()
    except _WRONG_INPUT as error:
        print(error if isinstance(error, CompileError) else f"error: {_message(error)}", file=sys.stderr)
        return 1
    return 0


def _message(error: BaseException) -> str:
    if isinstance(error, Unbound):
        return f"dimension `{error.name}` has no value"
    return "a formula divides by zero" if isinstance(error, ZeroDivisionError) else str(error).strip()


class _Driver(xDSLOptMain):
    version_format: ClassVar[str] = "moec opt, on xdsl {xdsl_version}"

    def register_all_dialects(self) -> None:
        super().register_all_dialects()
        for name, dialect in UNIVERSE.all_dialects.items():
            if name not in self.ctx.registered_dialect_names:  # they are there where moec is installed
                self.ctx.register_dialect(name, dialect)

    def register_all_passes(self) -> None:
        super().register_all_passes()
        for name, found in UNIVERSE.all_passes.items():
            self.register_pass(name, found)

    def register_all_frontends(self) -> None:
        super().register_all_frontends()
        self.available_frontends["moe"] = self._elaborated

    def register_all_arguments(self, arg_parser: ArgumentParser) -> None:
        super().register_all_arguments(arg_parser)
        arg_parser.prog = "moec opt"

    def _elaborated(self, text: IO[bytes]) -> ModuleOp:
        from moec.elaborate import elaborate
        from moec.language.parse import parse

        return elaborate(parse(Source(self.get_input_name(), text.read().decode()))).module


if __name__ == "__main__":
    sys.exit(main())
