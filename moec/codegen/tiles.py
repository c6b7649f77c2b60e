"""AMX's instructions: what LLVM calls each, and what it takes.

Eight tiles of at most 16 rows of at most 64 bytes: a kernel has one configuration, of the depth and the height of its
products, and no number of rows asks for another. What the rows that a block does not have hold comes to nothing, since
each row of a product depends on its own row of the left tile only.

`tdpbf16ps` adds two chains to each sum, one of even k and one of odd, added to each other first. It takes subnormal
factors, sums and results for zero, rounds to nearest even, and never raises anything. `tests/codegen/emulation.py` says
in NumPy what each instruction does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

from llvmlite import ir

from moec.codegen.llvm import I8, I64, PTR, VOID, Value

#: Rows of a tile, and bytes of each.
ROWS, BYTES = 16, 64
#: k that one product of bf16 takes in.
DEPTH: Final = 32
#: What `ldtilecfg` reads: palette 1, then the bytes of a row and the rows of each tile.
CONFIGURATION: Final = "<BB14x8H16x8B8x"


@dataclass(frozen=True)
class Instruction:
    """An instruction: LLVM's intrinsic and its arguments (I8: the number of a tile)."""

    name: str
    arguments: tuple[Any, ...]

    def emit(self, b: Any, *arguments: Value | int) -> None:
        """Calls the intrinsic, declared on first use; integers are numbers of tiles."""
        if self.name not in b.module.globals:
            ir.Function(b.module, ir.FunctionType(VOID, self.arguments), self.name)
        values = [ir.Constant(I8, value) if isinstance(value, int) else value for value in arguments]
        b.call(b.module.globals[self.name], values)


CONFIGURE: Final = Instruction("llvm.x86.ldtilecfg", (PTR,))
RELEASE: Final = Instruction("llvm.x86.tilerelease", ())
ZERO: Final = Instruction("llvm.x86.tilezero", (I8,))
LOAD: Final = Instruction("llvm.x86.tileloadd64", (I8, PTR, I64))
STORE: Final = Instruction("llvm.x86.tilestored64", (I8, PTR, I64))
DOT_BF16: Final = Instruction("llvm.x86.tdpbf16ps", (I8, I8, I8))
DOT_INT8: Final = Instruction("llvm.x86.tdpbssd", (I8, I8, I8))


def configure(b: Any) -> None:
    """From here to `RELEASE`, all tiles are whole."""
    CONFIGURE.emit(b, configuration(b, BYTES, ROWS))


def configuration(b: Any, depth: int, rows: int) -> Any:
    """The address of a configuration: tiles 4 and 5 have `depth` bytes of k in each of `rows` rows, 6 and 7 as many in
    16 columns of 32 bits; the others have as many rows, and whole ones."""
    module, name = b.module, f"moec_tiles_{depth}_{rows}"
    if name not in module.globals:
        data = bytearray(
            struct.pack(CONFIGURATION, 1, 0, *_shape(BYTES, depth, BYTES), *_shape(rows, rows, depth // 4))
        )
        constant = ir.GlobalVariable(module, ir.ArrayType(I8, len(data)), name)
        constant.linkage, constant.global_constant, constant.align = "internal", True, 64
        constant.initializer = ir.Constant(constant.value_type, data)
    return b.bitcast(module.globals[name], PTR)


def _shape(sums: int, left: int, right: int) -> list[int]:
    """A number for each tile."""
    return [sums] * 4 + [left] * 2 + [right] * 2
