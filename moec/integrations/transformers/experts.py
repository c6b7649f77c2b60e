"""The experts of a module, as a layer in the language: written from the module itself, its flags, shapes and code.

    fn activate(a, b) = silu(a) * b

    moe experts[H, I, E, K](x: [H], ids: i64[K], w: f32[K]) -> [H] {
        param gate, up: [E, I, H]
        param down:     [E, H, I]

        top = given(ids, E)

        return sum e in top: w[slot(e)] * (down[e] @ activate(gate[e] @ x, up[e] @ x))
    }

A module is what `transformers.integrations.moe.use_experts_implementation` decorates. Routing is the model's: ids and
weights are inputs, and the id E leaves a slot out. What a projection is cut into, and what becomes of the pieces, is
traced (`trace`); so two modules that compute the same have the same text, whatever they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from moec.diagnostics import CompileError, fail
from moec.integrations.transformers.trace import REALS, Function, Piece, trace

#: What a module has to say of itself.
FLAGS: Final = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm")


@dataclass(frozen=True, slots=True)
class View:
    """A parameter of the layer within one of the module: `[:, piece]` of it, rows before columns."""

    source: str
    piece: Piece | None = None
    transposed: bool = False

    def of(self, module: nn.Module) -> Tensor:
        """The weights, as the layer declares them; no copy."""
        *parents, name = self.source.split(".")
        tensor: Tensor = getattr(module.get_submodule(".".join(parents)), name).detach()
        if self.transposed:
            tensor = tensor.transpose(1, 2)
        if self.piece is not None:
            tensor = tensor[:, self.piece.start : self.piece.stop : self.piece.step]
        return tensor.reshape(()) if tensor.numel() == 1 and tensor.dim() == 1 else tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """A module's experts: `text` in the language, its dimensions but K, `dtype` for `real`, and where weights lie."""

    text: str
    dims: Mapping[str, int]
    dtype: str
    views: Mapping[str, View]

    @property
    def sources(self) -> tuple[str, ...]:
        """The module's own parameters that the layer reads."""
        return tuple(dict.fromkeys(view.source for view in self.views.values()))


def is_experts(module: nn.Module) -> bool:
    """Whether a module's experts go through the registry of backends."""
    return all(hasattr(module, name) for name in ("_apply_gate", *FLAGS))


def describe(module: nn.Module) -> Layer:
    """The layer that a module of experts computes.

    Raises `CompileError` (E0902), with the module's class, where the language cannot say it.
    """
    if missing := [flag for flag in FLAGS if not isinstance(getattr(module, flag, None), bool)]:
        raise _refuse(module, f"it does not say `{missing[0]}`")
    return _Description(module).layer()


def _refuse(module: nn.Module, reason: str) -> CompileError:
    return fail("E0902", f"`{type(module).__name__}` cannot be put into the language: {reason}")


class _Description:
    """One module on its way into text."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.views: dict[str, View] = {}
        self.params: dict[str, str] = {}
        self.functions: list[str] = []
        self.entry = "gate_up_proj" if module.has_gate else "up_proj"
        first, down = self._stack(self.entry), self._stack("down_proj")
        if first.dtype != down.dtype or first.dtype not in REALS:
            raise _refuse(module, f"its weights hold {first.dtype} and {down.dtype}")
        self.dtype: torch.dtype = first.dtype
        self.experts, width, hidden = first.shape
        self.width = int(width)
        if down.shape[:2] != (self.experts, hidden):
            raise _refuse(module, f"`{self.entry}` is {list(first.shape)}, and `down_proj` {list(down.shape)}")
        self.dims = {"H": int(hidden), "I": int(down.shape[2]), "E": int(self.experts)}

    def _stack(self, name: str) -> Tensor:
        """A projection as [E, rows, columns]."""
        tensor = getattr(self.module, name, None)
        if not isinstance(tensor, Tensor) or tensor.dim() != 3:
            raise _refuse(self.module, f"it has no stack of matrices `{name}`")
        return tensor.transpose(1, 2) if self.module.is_transposed else tensor

    def layer(self) -> Layer:
        module = self.module
        entry = "_apply_gate" if module.has_gate else "act_fn"
        activate = self._trace("activate", getattr(module, entry), self.width, entry, "I")
        body = f"(down[e] @ activate({', '.join([*self._projections(activate), *activate.tensors])}))"
        self._declare("down", View("down_proj", None, module.is_transposed), "[E, H, I]")
        if module.has_bias:
            self._declare("down_bias", View("down_proj_bias"), "[E, H]")
            body = f"({body[1:-1]} + down_bias[e])"
        if module.has_post_expert_norm:
            norm = self._trace("normalise", module.post_expert_norm, self.dims["H"], "post_expert_norm", "H")
            if list(norm.pieces) not in ([], [Piece(0, self.dims["H"])]):
                raise _refuse(module, "`post_expert_norm` reads a part of its input")
            body = f"normalise({', '.join([body[1:-1], *norm.tensors][not norm.pieces :])})"
        return Layer(self._text(body), self.dims, REALS[self.dtype], self.views)

    def _trace(self, name: str, function: Callable[[Tensor], Tensor], width: int, what: str, axis: str) -> Function:
        traced = trace(name, function, width, self.dtype, self.module, what)
        self.functions.append(traced.text)
        for param, tensor in traced.tensors.items():
            if tensor.numel() not in (1, self.dims[axis]):
                raise _refuse(self.module, f"`{what}` reads a parameter of shape {list(tensor.shape)}")
            kind = "real" if tensor.dtype == self.dtype else REALS.get(tensor.dtype, "f32")
            source = next(name for name, own in _owned(self.module) if own is tensor)
            shape = "" if tensor.numel() == 1 else f"[{axis}]"
            self._declare(param, View(source), shape if shape and kind == "real" else f"{kind}{shape}")
        return traced

    def _projections(self, activate: Function) -> list[str]:
        """A contraction for each piece, the first in the projection's own order called `gate`."""
        pieces = sorted(activate.pieces, key=lambda piece: (piece.start, piece.step))
        names = {1: ["up"], 2: ["gate", "up"]}.get(len(pieces)) or [f"part{i}" for i in range(len(pieces))]
        called = dict(zip(pieces, names, strict=True))
        bias = f"{self.entry}_bias"
        for piece, name in called.items():
            if piece.length != self.dims["I"]:
                raise _refuse(
                    self.module, f"{piece.length} of the {self.width} rows of `{self.entry}` are read at once"
                )
            self._declare(name, View(self.entry, piece, self.module.is_transposed), "[E, I, H]")
        for piece, name in called.items():
            if self.module.has_bias:
                self._declare(f"{name}_bias", View(bias, piece), "[E, I]")
        added = {name: f" + {name}_bias[e]" if self.module.has_bias else "" for name in names}
        return [f"{called[piece]}[e] @ x{added[called[piece]]}" for piece in activate.pieces]

    def _declare(self, name: str, view: View, type: str) -> None:
        self.views[name], self.params[name] = view, type

    def _text(self, body: str) -> str:
        declared: dict[str, list[str]] = {}
        for name, type in self.params.items():
            declared.setdefault(type, []).append(name)
        params = [f"    param {', '.join(names)}: {type}" for type, names in declared.items()]
        head = "moe experts[H, I, E, K](x: [H], ids: i64[K], w: f32[K]) -> [H] {"
        steps = ["    top = given(ids, E)", "", f"    return sum e in top: w[slot(e)] * {body}", "}"]
        return "\n".join((*self.functions, head, *params, "", *steps)) + "\n"


def _owned(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
