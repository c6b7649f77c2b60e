"""The operations of one row: `RULES` has the code for every operation of `moe` that may stand in a stage.

Arrays are views; what an operation makes is written to scratch memory, or straight to where a stage leaves it. Scalars
stay in registers.
"""

from __future__ import annotations

from typing import Final

from moec.codegen.rows.axes import AXES
from moec.codegen.rows.pointwise import POINTWISE
from moec.codegen.rows.products import PRODUCTS
from moec.codegen.rows.reductions import REDUCTIONS
from moec.codegen.rows.regions import REGIONS
from moec.codegen.rows.row import Rules
from moec.codegen.rows.selections import SELECTIONS
from moec.dialects import plan

RULES: Final[Rules] = {
    **POINTWISE,
    **REDUCTIONS,
    **PRODUCTS,
    **AXES,
    **SELECTIONS,
    **REGIONS,
    plan.ReadOp: lambda row, op: row.around.read(op.source, op.row, row[op.row]),
    plan.DescendOp: lambda row, op: row.around.descend(op.domain, row[op.row], row[op.slot]),
}
