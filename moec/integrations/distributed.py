"""Experts spread over machines: each rank holds some, and tokens travel to them and back.

    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("experts",))
    mine = share(64, mesh)  # of 64 experts those of this rank, as a slice
    kernel = moec.compile("experts.moe", dims={"E": mine.stop - mine.start, "K": 1}, dtype="bf16")
    layer = ExpertParallel(kernel, kernel.pack({name: stack[mine] for name, stack in arrays.items()}), mesh)
    y = layer(x, ids, w)  # x: [T, H], ids: [T, K] of all experts, w: [T, K]; T is each rank's own

The kernel is a layer of experts alone, whoever chooses among them (docs/scale.md):

    moe experts[H=2048, I=1024, E=64, K=8](x: [H], ids: i64[K], w: f32[K]) -> f32[H] {
        param gate, up: [E, I, H]
        param down:     [E, H, I]
        top = given(ids, E)
        return sum e in top: w[slot(e)] * swiglu(gate[e], up[e], down[e], x)
    }

A kernel of one slot (K = 1) answers with the product of each slot; the token's own rank adds them in the order of the
slots, which are the bits of one process that holds all experts. A kernel of as many slots as a token brings answers
with a rank's sum, which are added in the order of the ranks: fewer bytes come back, and another order of addition.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Final, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from moec.diagnostics import CompileError, Diagnostic, fail, nearest
from moec.integrations.torch import DTYPES, Layer, call
from moec.runtime.interface import Array
from moec.runtime.kernel import Kernel
from moec.runtime.weights import Weights

_dist: Final[Any] = torch.distributed
_FLOATS: Final = ("f32", "bf16", "f16")


def share(experts: int, mesh: DeviceMesh) -> slice:
    """Of so many experts those of this rank: runs in the order of the ranks, as even as can be, longer ones first."""
    count, longer = divmod(experts, mesh.size())
    rank = mesh.get_local_rank()
    start = rank * count + min(rank, longer)
    return slice(start, start + count + (rank < longer))


@dataclass(frozen=True, slots=True)
class Form:
    """What a row of a layer of experts is; all ranks have the same."""

    x: Array
    slots: int
    w: str
    y: Array

    def __str__(self) -> str:
        x, y = (f"{array.dtype}{list(array.shape)}" for array in (self.x, self.y))
        return f"({x}, i64[{self.slots}], {self.w}[{self.slots}]) -> {y}"

    @staticmethod
    def of(kernel: Kernel) -> Form:
        """The form of a kernel. Raises `CompileError` (E0501) where its layer is none of experts."""
        inputs, outputs = kernel.interface.inputs, kernel.interface.outputs
        if kernel.interface.batch:
            raise fail("E0501", f"`{kernel.name}` looks along the batch, of which a rank has a part")
        match [(len(array.shape), array.dtype) for array in inputs]:
            case [_, (1, "i64"), (1, w)] if len(outputs) == 1 and inputs[1].shape == inputs[2].shape and w in _FLOATS:
                return Form(inputs[0], inputs[1].shape[0], w, outputs[0])
            case _:
                takes = ", ".join(f"{array.name}: {array.dtype}{list(array.shape)}" for array in inputs)
                text = f"`{kernel.name}` takes {takes}, which is no layer of experts"
                help = "let it take `x: [H], ids: i64[K], w: f32[K]` and return one vector"
                raise fail("E0501", text, help=help)


def starts_of(forms: Sequence[tuple[Form, int]]) -> list[int]:
    """Where each rank's experts begin, and how many there are in all, of what every rank says of its kernel.

    Raises `CompileError` (E0502) where their forms differ.
    """
    first = forms[0][0]
    mistakes = [
        Diagnostic("E0502", f"rank {rank} has another form than rank 0: {form}, not {first}")
        for rank, (form, _) in enumerate(forms)
        if form != first
    ]
    if mistakes:
        raise CompileError(*mistakes)
    starts = [0]
    for _, count in forms:
        starts.append(starts[-1] + count)
    return starts


class ExpertParallel(nn.Module):
    """Experts of which every rank of a mesh's dimension holds some. All ranks call it together, any with no tokens.

    `kernel` is a layer of this rank's experts, `weights` theirs; the ranks' experts count on from one another in the
    order of the mesh. `experts` is the kernel's dimension that counts them. A call takes `x` [..., *shape], `ids`
    [..., K] and `w` [..., K] and gives [..., *shape of the output] in the element type of `x`; what the kernel returns
    is added in f32. An id that is no expert's (negative, or the number of all experts) skips its slot: nothing is sent.

    There is no backward pass yet; asking for one is torch's own error. Raises `CompileError`: E0501 (the kernel is no
    layer of experts), E0502 (the ranks' kernels differ), E0403 (an input does not fit), E0503 (a rank has died, or did
    not call within the timeout of its process group).
    """

    def __init__(self, kernel: Kernel, weights: Weights, mesh: DeviceMesh, experts: str = "E") -> None:
        super().__init__()
        if mesh.ndim != 1:
            names = mesh.mesh_dim_names or ("experts",)
            text = f"experts are split over one dimension of a mesh, and this one has {mesh.ndim}"
            raise fail("E0502", text, help=f'`mesh["{names[-1]}"]`')
        if experts not in kernel.dims:
            help = nearest(experts, list(kernel.dims))
            raise fail("E0302", f"`{kernel.name}` has no dimension `{experts}`", help=help)
        self._layer = Layer(kernel, weights)
        self._group = mesh.get_group()
        self._rank = mesh.get_local_rank()
        self._form = Form.of(kernel)
        forms: list[Any] = [None] * mesh.size()
        with self._answered():
            _dist.all_gather_object(forms, (self._form, kernel.dims[experts]), self._group)
        self._starts = torch.tensor(starts_of(forms))

    def forward(self, x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
        """One row of the output for each row of `x`."""
        lead = ids.shape[:-1]
        shapes = (*lead, *self._form.x.shape), (*lead, ids.shape[-1] if ids.dim() else 0), ids.shape
        for name, value, shape in zip(("x", "ids", "w"), (x, ids, w), shapes, strict=True):
            if not ids.dim() or tuple(value.shape) != tuple(shape):
                raise fail("E0403", f"input `{name}` has the shape {list(value.shape)}, not {list(shape)}")
        if self._form.slots not in (1, ids.shape[-1]):
            text = f"a token brings {ids.shape[-1]} slots, `{self._layer.kernel.name}` has {self._form.slots}"
            raise fail("E0403", text, help="compile it for 1 slot, or for as many")
        if x.dtype != DTYPES[self._form.x.dtype]:
            raise fail("E0404", f"input `x` holds {x.dtype}, not {self._form.x.dtype}")
        rows = x.reshape(lead.numel(), prod(self._form.x.shape))
        y = cast(Any, _Forward).apply(self, rows, *(value.reshape(lead.numel(), ids.shape[-1]) for value in (ids, w)))
        return y.view(*lead, *self._form.y.shape)

    def extra_repr(self) -> str:
        here, end = self._starts[self._rank], self._starts[self._rank + 1]
        return f"experts {here} to {end - 1} of {self._starts[-1]}: {self._layer.kernel!r}"

    # what travels

    def run(self, x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
        """The outputs [T, O] for rows of x [T, X], ids and w [T, K]."""
        ranks, slots = len(self._starts) - 1, ids.shape[1]
        owner = torch.bucketize(ids, self._starts, right=True) - 1  # -1 and `ranks` own nothing
        asked = torch.stack([(owner == rank).any(1) for rank in range(ranks)])
        rank, token = asked.nonzero(as_tuple=True)
        filled = owner[token] == rank[:, None]  # the slots that a rank is asked for
        local = torch.where(filled, ids[token] - self._starts[rank, None], -1)

        sent = torch.bincount(rank, minlength=ranks)
        came = self._exchange(sent, *[torch.ones_like(sent)] * 2)
        parts = x[token], local.int(), w[token].to(DTYPES[self._form.w])
        message = torch.cat([_bytes(part) for part in parts], 1)
        rows = self._exchange(message, sent, came)
        answers, counts = self._answer(rows, x, slots, came)

        if self._form.slots == slots:
            to, turn, expected = token, rank, sent
        else:
            pair, turn = filled.nonzero(as_tuple=True)
            to, expected = token[pair], torch.bincount(rank[pair], minlength=ranks)
        back = self._exchange(answers, counts, expected)
        return _add_in_turn(back, to, turn, len(x)).to(x.dtype)

    def _answer(self, rows: Tensor, x: Tensor, slots: int, came: Tensor) -> tuple[Tensor, Tensor]:
        """What this rank's experts make of rows of bytes that came, and how many answers go to each rank."""
        width = x.shape[1] * x.itemsize
        given = rows[:, :width].contiguous().view(x.dtype)
        local = rows[:, width : width + 4 * slots].contiguous().view(torch.int32).long()
        w = rows[:, width + 4 * slots :].contiguous().view(DTYPES[self._form.w])
        counts = came
        if self._form.slots != slots:
            row, slot = (local >= 0).nonzero(as_tuple=True)
            origin = torch.arange(len(came)).repeat_interleave(came)
            counts = torch.bincount(origin[row], minlength=len(came))
            given, local, w = given[row], local[row, slot, None], w[row, slot, None]
        y = call(self._layer, [given.view(-1, *self._form.x.shape), local, w])[0]
        return y.view(len(given), prod(self._form.y.shape)), counts

    def _exchange(self, rows: Tensor, sent: Tensor, came: Tensor) -> Tensor:
        """The rows that came, `came[r]` from rank r, for those that went, `sent[r]` to rank r."""
        going, coming = (cast("list[int]", cast(Any, counts).tolist()) for counts in (sent, came))
        out = rows.new_empty((sum(coming), *rows.shape[1:]))
        with self._answered():
            _dist.all_to_all_single(out, rows.contiguous(), coming, going, group=self._group)
        return out

    @contextmanager
    def _answered(self) -> Generator[None]:
        try:
            yield
        except RuntimeError as error:
            text = f"rank {self._rank} waits in vain for another: {str(error).partition('. ')[0]}"
            help = "a rank has ended, or did not call the layer within its process group's timeout"
            raise fail("E0503", text, help=help) from error


class _Forward(torch.autograd.Function):
    """Without `backward`, so that torch says that there is none."""

    @staticmethod
    def forward(ctx: Any, layer: ExpertParallel, *rows: Tensor) -> Tensor:
        return layer.run(*rows)


def _bytes(rows: Tensor) -> Tensor:
    """Rows [N, M] as the bytes that they are."""
    return rows.contiguous().view(torch.uint8)


def _add_in_turn(rows: Tensor, to: Tensor, turn: Tensor, tokens: int) -> Tensor:
    """f32[tokens, O]: each row added to the token that it goes `to`, those of a lower turn first.

    A token gets one row in a turn, so the order in which rows lie changes no bit.
    """
    out = torch.zeros(tokens, rows.shape[1])
    for each in range(int(turn.max()) + 1 if len(turn) else 0):
        now = (turn == each).nonzero()[:, 0]
        out.index_add_(0, to[now], rows[now].float())
    return out
