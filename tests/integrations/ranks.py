"""What every rank of `test_distributed.py` runs: under torchrun, or as children of `python ranks.py N HOW:PORT…`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import moec
from moec import CompileError, Kernel
from moec.integrations.distributed import ExpertParallel, share
from moec.target import Target

H, E, K = 64, 10, 3
EXPERTS = """
moe experts[H=64, I=40, E=10, K=3](x: [H], ids: i64[K], w: f32[K]) -> f32[H] {
    param gate, up: [E, I, H]
    param down:     [E, H, I]
    top = given(ids, E)
    return sum e in top: w[slot(e)] * swiglu(gate[e], up[e], down[e], x)
}
"""
ROUTER = """
moe router[H=64, E=10, K=3](x: [H]) -> (ids: i64[K], w: f32[K]) {
    param router: [E, H]
    p   = softmax(router @ x)
    top = topk(p, K)
    return ids(top), p[top] / sum(p[top])
}
"""
WHOLE = """
moe whole[H=64, I=40, E=10, K=3](x: [H]) -> [H] {
    param router:   [E, H]
    param gate, up: [E, I, H]
    param down:     [E, H, I]
    p   = softmax(router @ x)
    top = topk(p, K)
    w   = p[top] / sum(p[top])
    return sum e in top: w[e] * swiglu(gate[e], up[e], down[e], x)
}
"""
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
#: A rank without tokens is always among them.
TOKENS = (9, 0, 33, 1)


def stacks() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"gate": (E, 40, H), "up": (E, 40, H), "down": (E, H, 40)}
    return {name: torch.randn(shape, generator=random) / 7 for name, shape in shapes.items()}


def tokens(real: str) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's own, some of whose slots are skipped."""
    rank = dist.get_rank()
    random, count = torch.Generator().manual_seed(rank), TOKENS[rank]
    x = torch.randn(count, H, generator=random).to(DTYPES[real])
    ids = torch.rand(count, E, generator=random).argsort(1)[:, :K].clone()
    ids[::4, 1] = E
    ids[5::8] = -1
    return x, ids, torch.rand(count, K, generator=random)


def some(experts: int, real: str, slots: int) -> Kernel:
    """Without tiles of f32, whose bits say how many rows an expert has."""
    target = Target.host().without("amx-bf16") if real == "f32" else None
    return moec.compile(EXPERTS, dims={"E": experts, "K": slots}, dtype=real, threads=1, target=target)


def spread(mesh: DeviceMesh, real: str, slots: int) -> ExpertParallel:
    mine = share(E, mesh)
    kernel = some(mine.stop - mine.start, real, slots)
    return ExpertParallel(kernel, kernel.pack({name: stack[mine] for name, stack in stacks().items()}), mesh)


def alone(real: str) -> tuple[Kernel, Any]:
    """All experts in this process."""
    kernel = some(E, real, K)
    return kernel, kernel.pack(stacks())


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


# cases: all ranks run each together


def bits_are_those_of_one_process(mesh: DeviceMesh) -> None:
    for real in DTYPES:
        kernel, weights = alone(real)
        layer = spread(mesh, real, 1)
        x, ids, w = tokens(real)
        truth = kernel(x, ids, w, weights).to(x.dtype)
        assert len(x) < 9 or truth.abs().max() > 0.1
        assert same(layer(x, ids, w), truth)
        assert same(layer(x, ids, w), truth)


def sums_of_ranks_are_added_in_their_order(mesh: DeviceMesh) -> None:
    kernel, weights = alone("bf16")
    x, ids, w = tokens("bf16")
    truth = torch.zeros(len(x), H)
    for rank in range(mesh.size()):
        start, end = share_of(rank, mesh.size()), share_of(rank + 1, mesh.size())
        truth += kernel(x, torch.where((start <= ids) & (ids < end), ids, E), w, weights)
    assert same(spread(mesh, "bf16", K)(x, ids, w), truth.bfloat16())


def nothing_and_all_to_one(mesh: DeviceMesh) -> None:
    layer, (kernel, weights) = spread(mesh, "f32", 1), alone("f32")
    assert layer(torch.zeros(0, H), torch.zeros(0, K).long(), torch.zeros(0, K)).shape == (0, H)
    x, _, w = tokens("f32")
    last = torch.full((len(x), K), E - 1)
    assert same(layer(x, last, w), kernel(x, last, w, weights))
    assert same(layer(x, last + 1, w), torch.zeros(len(x), H))


def what_travels_is_what_the_page_counts(mesh: DeviceMesh) -> None:
    """docs/scale.md: bytes out and back, of the tokens of one rank."""
    x, ids, w = tokens("bf16")
    size, starts = mesh.size(), [share_of(rank, mesh.size()) for rank in range(mesh.size() + 1)]
    reached = sum(int(((starts[r] <= ids) & (ids < starts[r + 1])).any(1).sum()) for r in range(size))
    filled = int(((ids >= 0) & (ids < E)).sum())
    for slots, answers in ((1, filled), (K, reached)):
        layer = spread(mesh, "bf16", slots)
        exchange, sent, came = layer._exchange, list[int](), list[int]()

        def note(rows: Tensor, *counts: Tensor, exchange: Any = exchange, sent: Any = sent, came: Any = came) -> Tensor:
            out = exchange(rows, *counts)
            sent.append(rows.nbytes)
            came.append(out.nbytes)
            return out

        layer._exchange = note
        layer(x, ids, w)
        assert sent[:2] == [8 * size, reached * (H * 2 + 8 * K)]
        assert came[2] == answers * H * 4


def share_of(rank: int, size: int) -> int:
    """Where a rank's experts begin."""
    return rank * (E // size) + min(rank, E % size)


def a_router_of_its_own_makes_the_whole_layer(mesh: DeviceMesh) -> None:
    router = torch.randn(E, H, generator=torch.Generator().manual_seed(1))
    choose, whole = (moec.compile(text, dtype="bf16", threads=1) for text in (ROUTER, WHOLE))
    x = torch.randn(10, H).bfloat16()
    ids, w = choose(x, choose.pack({"router": router}))
    truth = whole(x, whole.pack({"router": router, **stacks()}))
    y = spread(mesh, "bf16", 1)(*(value.view(2, 5, -1) for value in (x, ids, w)))
    assert same(y, truth.view(2, 5, H))


def ranks_that_differ_are_told_apart(mesh: DeviceMesh) -> None:
    told = refusal(lambda: spread(mesh, "bf16", K if dist.get_rank() == 1 else 1))
    assert told.startswith("E0502: rank 1 has another form than rank 0: (bf16[64], i64[3], f32[3]) -> f32[64], not")


def mistakes_are_found_before_anything_is_sent(mesh: DeviceMesh) -> None:
    layer = spread(mesh, "f32", 1)
    x, ids, w = tokens("f32")
    assert "`w` has the shape" in refusal(lambda: layer(x, ids, w[:, :2]))
    assert "holds torch.float64, not f32" in refusal(lambda: layer(x.double(), ids, w))
    assert "brings 2 slots" in refusal(lambda: spread(mesh, "bf16", K)(x.bfloat16(), ids[:, :2], w[:, :2]))
    y = layer(x.requires_grad_(), ids, w)
    try:
        y.sum().backward()
    except NotImplementedError as error:
        assert "backward" in str(error)
    else:
        raise AssertionError("there is a backward pass")


def refusal(call: Callable[[], object]) -> str:
    """The code and the message of what a call is refused with."""
    try:
        call()
    except CompileError as error:
        (diagnostic,) = error.diagnostics
        return f"{diagnostic.code}: {diagnostic.message}"
    raise AssertionError("nothing is wrong")


CASES = (
    bits_are_those_of_one_process,
    sums_of_ranks_are_added_in_their_order,
    nothing_and_all_to_one,
    what_travels_is_what_the_page_counts,
    a_router_of_its_own_makes_the_whole_layer,
    ranks_that_differ_are_told_apart,
    mistakes_are_found_before_anything_is_sent,
)


def warm(sizes: set[int], *forms: tuple[str, int]) -> None:
    """Leaves in the cache what all ranks would else compile at the same time."""
    for size in sizes:
        for real, slots in forms:
            some(size, real, slots)


def tell(*words: object) -> None:
    """A line in one piece."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def begin() -> None:
    """What torchrun has started becomes a group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))


def run_cases() -> None:
    rank, count = dist.get_rank(), dist.get_world_size()
    if rank == 0:
        warm({E // count, -(-E // count)}, ("f32", 1), ("bf16", 1), ("bf16", K))
        warm({E}, ("f32", K), ("bf16", K))
        for text in (ROUTER, WHOLE):
            moec.compile(text, dtype="bf16", threads=1)
    dist.barrier()
    for case in CASES:
        case(init_device_mesh("cpu", (count,), mesh_dim_names=("experts",)))
        tell(f"rank {rank}: {case.__name__}")


def lose_a_rank(how: str) -> None:
    """The last rank ends, or says nothing more, between two calls; the others tell what befell them."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=2))
    layer = spread(init_device_mesh("cpu", (dist.get_world_size(),)), "f32", 1)
    layer(*tokens("f32"))
    if dist.get_rank() == dist.get_world_size() - 1:
        if how == "silent":
            time.sleep(60)
        os._exit(0)
    start = time.monotonic()
    told = refusal(lambda: layer(*tokens("f32")))
    tell(f"{how} {dist.get_rank()} {time.monotonic() - start:.1f} {told}")


def fork(count: int, how: str) -> None:
    """Ranks without torchrun, which would end the others itself."""
    how, _, port = how.partition(":")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(count))
    warm({E // count, -(-E // count)}, ("f32", 1))
    children = list[int]()
    for rank in range(count):
        if not (child := os.fork()):
            os.environ["RANK"] = str(rank)
            lose_a_rank(how)
            os._exit(0)
        children.append(child)
    *others, lost = children
    for child in others:
        os.waitpid(child, 0)
    os.kill(lost, signal.SIGKILL)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        for how in sys.argv[2:]:
            fork(int(sys.argv[1]), how)
    else:
        begin()
        run_cases()
        dist.barrier()  # a rank that leaves while another is still at work may abort
        dist.destroy_process_group()
        sys.stdout.flush()
        os._exit(0)  # threads that gloo leaves behind now and then abort an interpreter that ends
