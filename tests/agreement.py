"""What calls of a compiled layer gave, beside the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moec.measure.compare import judge
from moec.oracle import Result


def require_right(calls: Sequence[tuple[Any, Result]], tolerance: float) -> None:
    """Fails unless the outputs of all calls together are right: each is what a kernel returned, and the truth."""
    found = [outputs if isinstance(outputs, tuple) else (outputs,) for outputs, _ in calls]
    wanted = [truth.outputs for _, truth in calls]
    ours, theirs = ([np.concatenate(parts) for parts in zip(*rows, strict=True)] for rows in (found, wanted))
    judged = judge(ours, theirs, np.concatenate([truth.stable for _, truth in calls]), tolerance)
    assert judged.right, judged.fault
