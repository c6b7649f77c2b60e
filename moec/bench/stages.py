"""How long each stage of a call takes: by a variant of the program that reads the processor's clock between them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from moec.kernels import compile_layer
from moec.measure.feed import random_inputs, random_weights
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.workspace import WORKSPACE
from moec.source import Source

_CALLS: Final = (5, 200)
_SECONDS: Final = 1.0


def time_stages(source: Source, options: Options, tokens: int, count: int) -> Sequence[float]:
    """The median seconds of each of `count` stages, in the order of the plan, on random weights and tokens.

    Raises `CompileError` (E0901) where the machine has no clock that a program may read.
    """
    if options.target.architecture != "x86_64":
        from moec.diagnostics import fail

        raise fail("E0901", f"stages cannot be timed on `{options.target.triple}` yet")
    kernel = compile_layer(source, replace(options, timed=True))
    module = Compilation(source, options).simplify()
    weights = kernel.pack(random_weights(kernel.interface, module))
    inputs = random_inputs(kernel.interface, module, tokens)
    kernel(*inputs, weights)
    least, most = _CALLS
    ticks: list[list[int]] = []
    begin = time.perf_counter()
    first = last = 0
    while len(ticks) < least or (time.perf_counter() - begin < _SECONDS and len(ticks) < most):
        kernel(*inputs, weights)
        clock = read_clock(count)
        first, last = first or clock[0], clock[-1]
        ticks.append([after - before for before, after in pairwise(clock)])
    # The clock's own rate, by the time that the calls took from the first stage on.
    rate = (last - first) / (time.perf_counter() - begin)
    return [statistics.median(column) / rate for column in zip(*ticks, strict=True)]


def read_clock(count: int) -> list[int]:
    """What a program of `count` stages that was compiled with `timed` read from the processor's clock in this thread's
    last call: before the first stage, and after each (`moec.codegen.program` leaves it where the workspace begins)."""
    return np.frombuffer(WORKSPACE.memory, np.int64, count + 1).tolist()
