"""What each of two ranks of `test_distributed.py` runs: the cases of `ranks`, then a model of transformers that splits
its experts itself."""

from __future__ import annotations

import sys
from typing import Any

import ranks
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

import moec.integrations.transformers  # noqa: F401
from moec.integrations.transformers.backend import experts_of


def load(path: str, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, experts_implementation="moec", **options).eval()


def check(path: str, how: str) -> None:
    """The logits, the tokens and one layer of experts of a model whose experts are split, against one that is whole."""
    size = dist.get_world_size()
    config = DistributedConfig(tp_size=size, ep_size=size, ep_implementation=how)
    whole, split = load(path), load(path, distributed_config=config)
    random = torch.Generator().manual_seed(1)
    asked = {"input_ids": torch.randint(3, 60, (2, 7), generator=random), "attention_mask": torch.ones(2, 7).long()}
    truth, logits = whole(**asked).logits, split(**asked).logits
    assert (logits - truth).abs().max() <= 1e-5 * truth.abs().max()
    tokens = [model.generate(**asked, max_new_tokens=6, do_sample=False) for model in (whole, split)]
    assert torch.equal(*tokens)

    all_of_them, mine = (model.model.layers[0].mlp.experts for model in (whole, split))
    count = all_of_them.num_experts // size
    packed = experts_of(mine)._weights
    assert mine.num_experts == count and packed is not None and packed.nbytes < experts_of(all_of_them)._weights.nbytes
    x, ids = torch.randn(9, 32, generator=random), torch.rand(9, 8, generator=random).argsort(1)[:, :2]
    w = torch.rand(9, 2, generator=random)
    here = [torch.where(ids // count == rank, ids, all_of_them.num_experts) for rank in range(size)]
    sums = [all_of_them(x, each, w) for each in here]  # a slot of another rank is skipped
    y = mine(x, ids, w)
    if how == "all_reduce":
        assert torch.equal(y, sum(sums[1:], sums[0]))
    assert torch.allclose(y, all_of_them(x, ids, w), rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    ranks.begin()
    ranks.run_cases()
    with torch.no_grad():
        for how in ("all_reduce", "all_to_all"):
            check(sys.argv[1], how)
            ranks.tell(f"rank {dist.get_rank()}: {how}")
    dist.destroy_process_group()
