"""What an operation reads of what lies around it."""

from __future__ import annotations

from xdsl.ir import Block, Operation, SSAValue


def captured(operation: Operation) -> list[SSAValue]:
    """What an operation reads, its regions included, and does not make itself."""
    inside = dict.fromkeys(operation.walk())  # in the order of the text: a set's would differ between processes
    values: dict[SSAValue, None] = {}
    for inner in inside:
        for operand in inner.operands:
            maker = operand.owner.parent_op() if isinstance(operand.owner, Block) else operand.owner
            if maker not in inside:
                values[operand] = None
    return list(values)
