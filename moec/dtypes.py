"""The element types of the language: names, sizes, and where each is stored; and what a caller may choose of them.

Standard library only; every other module may import this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    `name` is its spelling in the language and in MLIR, `size` its bytes in memory, `numpy` the name
    of the NumPy dtype that carries it, and of torch's (for NumPy `bfloat16` comes from the package `ml_dtypes`).
    """

    name: str
    size: int
    numpy: str

    @property
    def floating(self) -> bool:
        return self.name in ("f32", "bf16", "f16")

    def __str__(self) -> str:
        return self.name


F32: Final = DType("f32", 4, "float32")
BF16: Final = DType("bf16", 2, "bfloat16")
F16: Final = DType("f16", 2, "float16")
I64: Final = DType("i64", 8, "int64")
BOOL: Final = DType("bool", 1, "bool")

#: Every element type that a kernel stores, by name.
DTYPES: Final = {dtype.name: dtype for dtype in (F32, BF16, F16, I64, BOOL)}

#: The working precisions that `real` may stand for.
REALS: Final = ("f32", "bf16", "f16")

#: The name of the working precision inside a `.moe` file, before a compile chooses it.
REAL: Final = "real"

#: How the vectors beside stored weights enter their products: as they are, or as integers with a scale for each block.
ACTIVATIONS: Final = ("real", "int8")

#: What stands for all stacks of experts where storage formats are given by parameters' names.
EXPERTS: Final = "experts"

#: Storage formats as a caller may give them: by parameters' names, or one alone, that of all stacks of experts.
StorageLike: TypeAlias = Mapping[str, str] | str | None

#: The same as programs are told apart by it: pairs of a name and a format, sorted. `moec.formats.storage_of` makes it.
Storage: TypeAlias = tuple[tuple[str, str], ...]
