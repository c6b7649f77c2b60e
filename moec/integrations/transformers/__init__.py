"""moec inside `transformers`: the experts backend `moec`, for every model whose experts go through its registry.

    import moec.integrations.transformers
    model = AutoModelForCausalLM.from_pretrained(path, experts_implementation="moec")

Importing registers the backend.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers.integrations.moe import ExpertsInterface

from moec.dtypes import StorageLike
from moec.integrations.transformers.backend import experts_of, forward
from moec.integrations.transformers.experts import is_experts
from moec.integrations.transformers.replace import Report, replace, restore

__all__ = ["Report", "prepare", "replace", "restore"]

cast(Any, ExpertsInterface).register("moec", forward)


def prepare(model: nn.Module, storage: StorageLike = None, release_weights: bool = False) -> int:
    """Says how the experts of a model are to be kept, and checks that each can be compiled; returns how many there are.

    `storage` is their format, as for `moec.compile` (docs/formats.md). With `release_weights` a module's own parameters
    are let go as soon as they are packed, which is when it is first called; then nothing but moec can compute it.
    Raises `CompileError` (E0902) with the class of the module that has no formula.
    """
    found = [experts_of(module) for module in model.modules() if is_experts(module)]
    for experts in found:
        experts.configure(storage, release_weights)
        _ = experts.layer
    return len(found)
