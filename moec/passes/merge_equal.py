"""Merges operations that compute the same from the same: common subexpressions, those with regions too.

xDSL's own pass of that kind leaves operations with regions alone, because it knows nothing of what ends them; and where
it does compare regions, a cast to f16 and one to bf16 are the same to it, since it does not look at the types inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter
from xdsl.traits import IsolatedFromAbove, IsTerminator, is_side_effect_free

#: By what is quickly compared, the operations that come before.
_Known = Mapping[Any, list[Operation]]


@dataclass(frozen=True)
class MergeEqual(ModulePass):
    """What has no effects: computed once, it leaves what it would leave again; and where one fails, so do all.

    Needs nothing. Leaves no two such operations that see one another."""

    name: ClassVar[str] = "merge-equal"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        _merge(op.body.block, {})


def _merge(block: Block, outside: _Known) -> None:
    known = {key: list(operations) for key, operations in outside.items()}
    for operation in list(block.ops):
        for region in operation.regions:
            _merge(region.block, {} if operation.has_trait(IsolatedFromAbove) else known)
        if operation.has_trait(IsTerminator) or not operation.results:
            continue
        alike = known.setdefault((operation.name, *operation.operands, *operation.result_types), [])
        if (first := next((other for other in alike if _equal(operation, other)), None)) is None:
            alike.append(operation)
        elif is_side_effect_free(operation):
            Rewriter.replace_op(operation, [], first.results)


def _equal(one: Operation, other: Operation) -> bool:
    """Whether two operations are the same down to the types inside; each may stand in a block of its own."""
    assert one.parent is not None and other.parent is not None
    if not one.is_structurally_equivalent(other, {one.parent: other.parent}):
        return False
    return all(a.result_types == b.result_types for a, b in zip(one.walk(), other.walk(), strict=True))
