"""What every peer shares: the layer as it is told of it, and the conversation with whoever measures it.

A peer is a program. It reads a JSON object a line and answers each with one:

    {"do": "load", "layer": {…}, "weights": {name: .npy}, "copies": 2}   → {"forms": […], "versions": {…}}
    {"do": "prepare", "form": "grouped"}                                 → {}
    {"do": "run", "x": .npy, "y": .npy}                                  → {}; y is written, f32
    {"do": "time", "x": .npy, "rows": 4, "first": 3, "calls": 5, "warm": false} → {"times": [seconds, …]}

An answer may be {"error": text} instead. bf16 arrays are stored as their bits, u16. A call reads the next `rows` rows
of `x` and the next copy of the weights, so that what it reads is not in a cache from the call before. Before its first
timed call with so many rows every copy has been called once.

Standard library and NumPy only: the environments of some peers hold little else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: A layer, ready to be called: x [T, H] in the kind of array that the peer asked for, to y [T, H].
Run = Callable[[Any], Any]


@dataclass(frozen=True)
class Layer:
    """Experts of two or three matrices behind a softmax router.

    p = softmax(router x); the K largest are chosen; w = p of these, over their sum where `normalised`;
    y = sum of w (down act(gate x) (up x)) where `gated`, else of w (down act(up x + up_bias) + down_bias).
    """

    H: int
    I: int  # noqa: E741  (the papers' name)
    E: int
    K: int
    dtype: str  # f32 or bf16
    activation: str  # silu, gelu, gelu_tanh, relu
    gated: bool
    normalised: bool
    threads: int = 1
    bits: int = 0  # what the experts are quantised to, 8 or 4; 0: not at all


#: The forms that a peer has for a layer, each made ready by a function of the layer and its weights.
Forms = Callable[[Layer], Mapping[str, Callable[[Layer, Mapping[str, Any]], Run]]]


@dataclass(frozen=True)
class Program:
    """A peer: its forms, each prepared by a function of the layer and its weights (arrays of `wrap`'s kind); `wrap` and
    `unwrap` turn NumPy's arrays (bf16 as u16) into the peer's and back to f32. `stored` are the forms that quantise the
    experts, to `layer.bits`; each is called what it stores."""

    forms: Forms
    wrap: Callable[[np.ndarray, str], Any]
    unwrap: Callable[[Any], np.ndarray]
    versions: Callable[[], dict[str, str]]
    stored: Forms = lambda layer: {}


def widened(bits: np.ndarray) -> np.ndarray:
    """bf16 as f32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(values: np.ndarray) -> np.ndarray:
    """f32 rounded to bf16, to nearest even, as f32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).view(np.float32)


def quantised(matrix: np.ndarray, bits: int, group: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Round to nearest, symmetric: codes i8 [..., N, K] in ±(2^(bits-1) - 1) and scales f32 [..., N, K / group], or
    [..., N] where a row is one group."""
    most = (1 << (bits - 1)) - 1
    parts = matrix.reshape(*matrix.shape[:-1], -1, group or matrix.shape[-1])
    scales = np.maximum(np.abs(parts).max(axis=-1), 1e-12) / np.float32(most)
    codes = np.rint(parts / scales[..., None]).astype(np.int8).reshape(matrix.shape)
    return codes, scales if group else scales[..., 0]


class _Session:
    def __init__(self, program: Program) -> None:
        self.program, self.inputs, self.copies = program, dict[str, Any](), list[Run]()
        self.primed = set[int]()

    def load(self, layer: dict[str, Any], weights: dict[str, str], copies: int) -> dict[str, Any]:
        self.layer, self.weights, self.count = Layer(**layer), weights, copies
        self.forms = (self.program.stored if self.layer.bits else self.program.forms)(self.layer)
        if not self.forms:
            raise NotImplementedError(f"no experts of {self.layer.bits} bits" if self.layer.bits else "no such layer")
        return {"forms": list(self.forms), "versions": self.program.versions()}

    def prepare(self, form: str) -> dict[str, Any]:
        self.copies.clear()  # of the form before, which is as large
        self.primed.clear()
        for _ in range(self.count):
            arrays = {name: np.load(path, mmap_mode="r") for name, path in self.weights.items()}
            wrapped = {name: self.program.wrap(np.array(array), self.layer.dtype) for name, array in arrays.items()}
            self.copies.append(self.forms[form](self.layer, wrapped))
        return {}

    def run(self, x: str, y: str) -> dict[str, Any]:
        np.save(y, self.program.unwrap(self.copies[0](self.program.wrap(np.load(x), self.layer.dtype))))
        return {}

    def time(self, x: str, rows: int, first: int, calls: int, warm: bool) -> dict[str, Any]:
        if x not in self.inputs:
            self.inputs[x] = np.load(x)
        pool, times = self.inputs[x], []
        batches = len(pool) // rows
        if rows not in self.primed:  # some pack their weights, or compile, when they are first called
            for each in self.copies:
                each(self.program.wrap(pool[:rows], self.layer.dtype))
            self.primed.add(rows)
        for call in range(first - warm, first + calls):
            at = call % batches * rows
            batch = self.program.wrap(pool[at : at + rows], self.layer.dtype)
            run = self.copies[call % self.count]
            start = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - start)
        return {"times": times[warm:]}


def serve(program: Program) -> None:
    """Answers until standard input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session = _Session(program)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(session, request.pop("do"))(**request)
        except Exception as error:  # told to whoever asked, who leaves this form out
            answer = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)
