"""Every layer that `replace` knows, in the place of the block that it describes."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from torch import nn

from moec.integrations.transformers import replace
from moec.integrations.transformers.blocks import rows
from tests.examples import dimensions, random_inputs
from tests.parity.blocks import build, configure, run
from tests.parity.test_layers import ROWS, TOLERANCE, load

FILES: Final = sorted({row.file for found in rows().values() for row in found})

#: What a file describes, and a block does otherwise.
LEFT: Final = {"doge": "returns more"}


class Holder(nn.Module):
    """A model of one block."""

    def __init__(self, block: Any, config: Any) -> None:
        super().__init__()
        self.block = block
        self.config = config


@pytest.mark.parametrize("name", FILES)
def test_a_block_is_replaced_by_its_file(name: str) -> None:
    torch.set_num_threads(1)
    row, (file, _) = ROWS[name], load(name, "f32")
    dims = dimensions(file, row.dims)
    block = build(name, dims, blocks=row.blocks)
    inputs = random_inputs(file, dims, 33, 1, "f32", row.below)
    theirs = run(name, block, inputs, row.blocks)
    (outcome,) = replace(Holder(block, configure(name, dims, row.blocks))).outcomes
    if name in LEFT:
        assert outcome.reason is not None and LEFT[name] in outcome.reason
        return
    assert outcome.file == name, outcome
    errors = abs(run(name, block, inputs, row.blocks) - theirs).max(-1) / abs(theirs).max()
    assert (errors <= TOLERANCE["f32"]).mean() >= 0.9  # all but near ties
