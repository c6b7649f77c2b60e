"""Experts on several ranks: torchrun and gloo on one machine. The cases themselves are in `ranks.py`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import moec
from moec import CompileError
from moec.integrations.distributed import ExpertParallel, share
from tests.integrations import ranks

ROOT = Path(__file__).parents[2]
RANKS = Path(__file__).with_name("ranks.py")


def run(*command: str | Path, seconds: float = 90) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=seconds, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def torchrun(count: int, *command: str | Path) -> list[str]:
    """What ranks on this machine print, sorted."""
    return sorted(
        run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), *command).splitlines()
    )


def told_by(count: int) -> list[str]:
    """What so many ranks print that have run all cases."""
    return [f"rank {rank}: {case.__name__}" for rank in range(count) for case in ranks.CASES]


def test_four_ranks_under_torchrun() -> None:
    assert torchrun(4, RANKS) == sorted(told_by(4))


def test_two_ranks_and_a_model_of_transformers_that_splits_its_experts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        initializer_range=0.2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    told = torchrun(2, RANKS.with_name("ranks_of_a_model.py"), str(tmp_path))
    models = [f"rank {rank}: {how}" for rank in (0, 1) for how in ("all_reduce", "all_to_all")]
    assert told == sorted([*told_by(2), *models])


def test_a_lost_rank_ends_the_others_within_the_timeout() -> None:
    ports = free_ports(2)
    lost = run(RANKS, "3", f"dead:{ports[0]}", f"silent:{ports[1]}")
    told = sorted(line.split(maxsplit=3) for line in lost.splitlines())
    assert [(how, rank) for how, rank, *_ in told] == [(how, rank) for how in ("dead", "silent") for rank in "01"]
    for _, rank, seconds, message in told:
        assert message.startswith(f"E0503: rank {rank} waits in vain for another: ")
        assert float(seconds) < 10  # 2 s is the timeout, and 30 min that of a group that does not say


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def test_shares_are_runs_as_even_as_can_be() -> None:
    for experts, size in ((64, 4), (10, 4), (3, 3)):
        meshes: list[Any] = [
            SimpleNamespace(size=lambda n=size: n, get_local_rank=lambda r=rank: r) for rank in range(size)
        ]
        shares = [share(experts, mesh) for mesh in meshes]
        counts = [each.stop - each.start for each in shares]
        assert [each.start for each in shares] == [sum(counts[:rank]) for rank in range(size)]
        assert sum(counts) == experts and max(counts) - min(counts) <= 1


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_mesh_of_one_and_what_is_no_layer_of_experts(alone: None) -> None:
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "experts"))
    kernel, weights = ranks.alone("f32")
    x, ids, w = ranks.tokens("f32")
    layer = ExpertParallel(kernel, weights, mesh["experts"])
    assert ranks.same(layer(x, ids, w), kernel(x, ids, w, weights))
    shape = layer(x.view(3, 3, -1), ids.view(3, 3, -1), w.view(3, 3, -1)).shape
    assert shape == (3, 3, ranks.H)
    assert "experts 0 to 9 of 10" in repr(layer)
    with pytest.raises(CompileError, match=r"one dimension of a mesh, and this one has 2") as error:
        ExpertParallel(kernel, weights, mesh)
    assert error.value.diagnostics[0].help == '`mesh["experts"]`'
    with pytest.raises(CompileError, match="no dimension `N`"):
        ExpertParallel(kernel, weights, mesh["experts"], experts="N")
    whole = moec.compile(ranks.WHOLE, threads=1)
    given = {"router": torch.zeros(ranks.E, ranks.H), **ranks.stacks()}
    with pytest.raises(CompileError, match="no layer of experts"):
        ExpertParallel(whole, whole.pack(given), mesh["experts"])
