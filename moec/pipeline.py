"""The road of a layer, from text to machine code.

    text ─► ast ─► moe ─► moe-opt ─► plan ─► llvm ─► llvm-opt ─► asm | obj

`STAGES` names what stands on it, `passes` what happens between `moe` and `moe-opt`. A `Compilation` walks it as far
as it is asked to; `build` looks first whether the cache has what would come out. The compiler is imported where it is
first needed, so a program that the cache has starts without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moec.keys import cache_key, digest
from moec.options import Options
from moec.runtime.cache import Cache, Program
from moec.target import Target

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.passes import ModulePass

    from moec.elaborate import Elaborated
    from moec.language import syntax
    from moec.runtime.interface import Interface
    from moec.source import Source


_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Stage:
    """A place on the road: the suffix of its files, what it is, and how it is shown."""

    suffix: str
    about: str
    show: Callable[[Compilation], str | bytes]


STAGES: Final = {
    "ast": Stage("txt", "the syntax tree", lambda c: c.dump_tree()),
    "moe": Stage("mlir", "the layer in the moe dialect, dimensions still by name", lambda c: str(c.elaborate().module)),
    "passes": Stage("mlir", "the layer after each pass", lambda c: "\n".join(c.trace())),
    "moe-opt": Stage("mlir", "the layer specialised and simplified", lambda c: str(c.simplify())),
    "plan": Stage("mlir", "what runs, over which rows, with which tiles", lambda c: str(c.schedule())),
    "llvm": Stage("ll", "LLVM IR as it is emitted", lambda c: c.llvm),
    "llvm-opt": Stage("ll", "LLVM IR after LLVM's own passes", lambda c: str(c.optimised)),
    "asm": Stage("s", "the target's assembly", lambda c: c.assembly),
    "obj": Stage("o", "the object file", lambda c: c.image),
}


def passes(options: Options, binding: Mapping[str, int]) -> Iterator[ModulePass]:
    """What makes `moe-opt` of `moe`, in order. `binding` has the value of every dimension."""
    from xdsl.transforms.canonicalize import CanonicalizePass
    from xdsl.transforms.dead_code_elimination import DeadCodeElimination

    from moec.passes.choose_storage import ChooseStorage
    from moec.passes.distribute_products import DistributeProducts
    from moec.passes.fuse_maps import FuseMaps
    from moec.passes.gather_constants import GatherConstants
    from moec.passes.hoist_invariants import HoistInvariants
    from moec.passes.infer_shapes import InferShapes
    from moec.passes.keep_aux import KeepAux
    from moec.passes.merge_equal import MergeEqual
    from moec.passes.quantize_activations import QuantizeActivations
    from moec.passes.round_outputs import RoundOutputs
    from moec.passes.specialize import Specialize
    from moec.passes.split_match import SplitMatch
    from moec.passes.widen_activations import WidenActivations

    yield KeepAux(options.aux)
    yield Specialize(tuple(f"{name}={value}" for name, value in binding.items()), options.dtype)
    yield InferShapes()
    yield RoundOutputs()
    if options.storage:
        yield ChooseStorage(tuple(f"{name}={format}" for name, format in options.storage))
    if options.activations == "int8":
        yield QuantizeActivations()
    yield DistributeProducts()
    yield SplitMatch()
    yield WidenActivations(str(options.target))
    yield MergeEqual()
    yield CanonicalizePass()
    yield DeadCodeElimination()
    yield HoistInvariants()
    yield GatherConstants()
    yield FuseMaps()
    yield MergeEqual()


class Compilation:
    """One layer on its way. What is costly and does not change is made once; modules of MLIR are made anew for each
    who asks, since passes change them in place."""

    def __init__(self, source: Source, options: Options) -> None:
        self.source = source
        self.options = options

    def show(self, stage: str) -> str | bytes:
        """A stage as text (`obj`: bytes). Raises `CompileError` (E0305) where there is no such stage."""
        return find_stage(stage).show(self)

    @cached_property
    def ast(self) -> syntax.File:
        from moec.language.parse import parse

        return parse(self.source)

    def dump_tree(self) -> str:
        from moec.language.dump import dump

        return dump(self.ast)

    def elaborate(self) -> Elaborated:
        from moec.elaborate import elaborate

        return elaborate(self.ast, dict(self.options.dims))

    def simplify(self, after: Callable[[ModulePass, ModuleOp], None] | None = None) -> ModuleOp:
        """`moe-opt`; `after` is called with each pass and what it left."""
        from xdsl.context import Context
        from xdsl.dialects.arith import Arith

        module, context = self.elaborate().module, Context()
        context.load_dialect(Arith)  # which makes the constants that integer arithmetic is folded to
        self._check()
        for each in passes(self.options, self.binding):
            each.apply(context, module)
            if self.options.verify:
                module.verify()
            if after is not None:
                after(each, module)
        return module

    @cached_property
    def binding(self) -> dict[str, int]:
        """The value of every dimension that has one."""
        from moec.elaborate.layer import bind_dimensions

        return bind_dimensions(self.ast.layers[0], dict(self.options.dims))

    @property
    def extras(self) -> tuple[str, ...]:
        """The auxiliary outputs that the layer can give."""
        from moec.language.syntax import Aux

        return tuple(node.name.id for node in self.ast.layers[0].body if isinstance(node, Aux))

    def storable(self) -> frozenset[str]:
        """The parameters that may be kept in a storage format."""
        from moec.passes.choose_storage import storable_params

        return frozenset(self._after("round-outputs", storable_params))

    def stored(self) -> dict[str, str]:
        """The parameters that are kept in a storage format, and in which."""
        from moec.passes.choose_storage import stored_params

        return self._after("choose-storage", stored_params) if self.options.storage else {}

    def _after(self, name: str, read: Callable[[ModuleOp], _Read]) -> _Read:
        """What is read of the module that a pass leaves."""
        found: list[_Read] = []
        self.simplify(lambda each, module: found.append(read(module)) if each.name == name else None)
        return found[0]

    def _check(self) -> None:
        """Every dimension has a value, every aux exists."""
        from moec.diagnostics import CompileError, Diagnostic
        from moec.validation import aux_of

        layer = self.ast.layers[0]
        missing = [node for node in layer.dimensions if node.name not in self.binding]
        if missing:
            texts = [
                (node, f"dimension `{node.name}` has no value", f"give it one: `{node.name}=…`") for node in missing
            ]
            raise CompileError(*(Diagnostic("E0301", text, node.span, help=help) for node, text, help in texts))
        aux_of(self.options.aux, self.extras, layer.name.id)

    def trace(self) -> list[str]:
        """The IR as elaborated, then after each pass, each under a line that names the pass."""
        texts = [f"// ----- as elaborated\n{self.elaborate().module}"]
        self.simplify(lambda each, module: texts.append(f"// ----- after {each.name}\n{module}"))
        return texts

    def schedule(self) -> ModuleOp:
        """`plan`."""
        from xdsl.context import Context

        from moec.passes.fold_gathers import FoldGathers
        from moec.passes.schedule import Schedule

        module = self.simplify()
        Schedule(str(self.options.target), "pack" not in self.options.without).apply(Context(), module)
        FoldGathers().apply(Context(), module)
        if self.options.verify:
            module.verify()
        return module

    @cached_property
    def _emitted(self) -> tuple[str, Interface]:
        from moec.codegen.program import emit

        options = self.options
        module, interface = emit(self.schedule(), options.target, "specialize" not in options.without, options.timed)
        return str(module), replace(
            interface,
            dims=self.binding,
            extras=self.extras,
            real=self.options.dtype,
            spec=digest(*self.ast.functions, *self.ast.layers),
            binds=digest(*self.ast.binds),
        )

    @property
    def llvm(self) -> str:
        """LLVM IR as it is emitted."""
        return self._emitted[0]

    @property
    def interface(self) -> Interface:
        return self._emitted[1]

    @cached_property
    def optimised(self) -> Any:
        """LLVM's module after its passes."""
        from moec.codegen import native

        return native.optimise(native.parse(self.llvm), self.options.target, self.options.level)

    @cached_property
    def assembly(self) -> str:
        from moec.codegen import native

        return native.assembly(self.optimised.clone(), self.options.target, self.options.level)

    @cached_property
    def image(self) -> bytes:
        """The object file."""
        from moec.codegen import native

        return native.object_code(self.optimised.clone(), self.options.target, self.options.level)

    @property
    def program(self) -> Program:
        return Program(self.interface, self.image)


def compile_source(source: Source, options: Options) -> Compilation:
    """A compilation for any target; nothing happens before a stage is asked for."""
    from moec.codegen import native

    if options.target != Target.host():
        native.check(options.target)
    return Compilation(source, options)


def build(source: Source, options: Options, cache: Cache | None = None) -> Program:
    """The program of a layer, from `cache` (the user's, when None) if it is there, else compiled and left there.

    `MOEC_DUMP=plan,asm` also writes these stages into `MOEC_DUMP_DIR`, or the current directory. Raises `CompileError`,
    before anything is compiled also for a stage there that there is none of (E0305).
    """
    cache = cache or Cache.default()
    key = cache_key(source, options)
    dumped = [name for name in os.environ.get("MOEC_DUMP", "").split(",") if name]
    for name in dumped:
        find_stage(name)
    program = None if dumped else cache.load(key)
    if program is None:
        compilation = compile_source(source, options)
        program = compilation.program
        cache.store(key, program)
        write(compilation, dumped, Path(os.environ.get("MOEC_DUMP_DIR", ".")))
    return program


def write(compilation: Compilation, stages: Sequence[str], directory: Path) -> list[Path]:
    """Writes stages as `<layer>.<stage>.<suffix>`; the files, in order."""
    paths: list[Path] = []
    for name in stages:
        shown = compilation.show(name)
        paths.append(directory / f"{compilation.ast.layers[0].name.id}.{name}.{STAGES[name].suffix}")
        paths[-1].write_bytes(shown if isinstance(shown, bytes) else shown.encode())
    return paths


def find_stage(name: str) -> Stage:
    """The stage of a name. Raises `CompileError` (E0305) where there is none."""
    if name not in STAGES:
        from moec.diagnostics import fail, nearest

        help = nearest(name, [*STAGES]) or f"the stages are {', '.join(STAGES)}"
        raise fail("E0305", f"`{name}` is not a stage", help=help)
    return STAGES[name]
