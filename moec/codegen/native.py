"""LLVM IR to machine code, for any target that LLVM knows.

The IR arrives vectorised and unrolled, so LLVM is asked to clean up and to choose instructions, not to find loops to
transform. Nothing here needs the host to be the target.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any, Final, TypeAlias

import llvmlite.binding as llvm

from moec.diagnostics import fail, nearest
from moec.target import Target

Module: TypeAlias = Any


def parse(text: str) -> Module:
    """LLVM's module of a text in its assembly language."""
    module = llvm.parse_assembly(text)
    module.verify()
    return module


def optimise(module: Module, target: Target, level: int = 2) -> Module:
    """Runs the middle end over `module` and returns it.

    Level 0 leaves it alone. Levels 1 and 2 run the few passes that find something to do, in a fifth of the time of
    level 3, which is LLVM's own pipeline without vectorising and unrolling.
    """
    if not level:
        return module
    tuning = llvm.create_pipeline_tuning_options(speed_level=level)
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine(target, level), tuning)
    manager = builder.getModulePassManager() if level > 2 else _short(llvm.create_new_module_pass_manager())
    manager.run(module, builder)
    return module


def _short(manager: Any) -> Any:
    manager.add_simplify_cfg_pass()
    manager.add_instruction_combine_pass()
    manager.add_new_gvn_pass()
    manager.add_instruction_combine_pass()
    manager.add_simplify_cfg_pass()
    return manager


def assembly(module: Module, target: Target, level: int = 2) -> str:
    """The target's assembly. Lowers `module` in place, as `object_code` does: give each a clone."""
    return machine(target, level).emit_assembly(module)


def object_code(module: Module, target: Target, level: int = 2) -> bytes:
    """A relocatable object file."""
    return machine(target, level).emit_object(module)


def machine(target: Target, level: int = 2) -> Any:
    """LLVM's view of `target`. Raises `CompileError` (E0303) where LLVM knows no such triple."""
    _initialise()
    try:
        description = llvm.Target.from_triple(target.triple)
    except RuntimeError:
        raise fail("E0303", f"`{target.triple}` is not a target that LLVM can compile for") from None
    features = ",".join(feature for feature in target.features if feature != "-vectors")
    return description.create_target_machine(target.cpu, features, level, reloc="pic", codemodel="small")


def check(target: Target) -> None:
    """Raises `CompileError` (E0303) where LLVM knows no such triple or cpu: it would only warn, and go on without."""
    machine(Target(target.triple, ""))
    if target.cpu not in _cpus(target.triple):
        help = nearest(target.cpu, sorted(_cpus(target.triple)))
        raise fail("E0303", f"`{target.cpu}` is not a cpu of `{target.triple}`", help=help)


@cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


_LIST_CPUS: Final = """
import sys, llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
llvm.Target.from_triple(sys.argv[1]).create_target_machine("help")
"""


@cache
def _cpus(triple: str) -> frozenset[str]:
    """The cpus of a triple. LLVM tells them to nobody but standard error, hence another process."""
    done = subprocess.run([sys.executable, "-c", _LIST_CPUS, triple], stderr=subprocess.PIPE, text=True, check=False)
    head, _, _ = done.stderr.partition("Available features")
    return frozenset(line.split(" - ")[0].strip() for line in head.splitlines() if " - " in line)
