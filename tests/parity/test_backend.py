"""Every architecture of transformers through the backend `moec`: blocks, in f32 and bf16, and whole models.

A tiny random model of each (`tiny`) is run with its own code; then the block around its experts computes what it was
given once more, through moec. `python -m tests.parity.test_backend` prints the table of docs/integrations.md; `--write`
puts it there.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import transformers
from torch import nn

from moec.integrations.transformers.experts import is_experts
from tests.parity.tiny import architectures, build

TOKENS: Final = (1, 7, 33)
TOLERANCE: Final = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
PAGE: Final = Path(__file__).parents[2] / "docs" / "integrations.md"

#: Those whose experts do not go through the registry of backends; and how the release's own code stands in the way.
PAST: Final = {
    "dbrx": "`replace`",
    "doge": "its block mixes the scores of tokens; left",
    "jetmoe": "`replace`; its mixture of heads is left",
    "llama4": "`replace`",
    "longcat_flash": "`replace`",
    "nllb_moe": "its dispatch reaches two experts only; left",
    "step3p7": "`replace`",
    "switch_transformers": "`replace`",
    "vitpose_backbone": "a picture, not a token, chooses its expert; left",
}
#: Those that write no tokens: encoders, and a part of a model whose configuration lacks what its `generate` asks for.
SILENT: Final = {
    "deepseek_ocr2",
    "diffusion_gemma",
    "ernie4_5_vl_moe",
    "muse_spark",
    "openai_privacy_filter",
    "qwen3_omni_moe",
}
ARCHITECTURES: Final = architectures()
BACKEND: Final = [name for name in ARCHITECTURES if name not in PAST]


@dataclass
class Result:
    """How far the block's output is off, relative to its largest magnitude, by element type; and the tokens."""

    model: str
    errors: Mapping[torch.dtype, float]
    #: Whether `generate` gives the same tokens; None where the model generates nothing.
    tokens: bool | None = None

    @property
    def passes(self) -> bool:
        return all(error <= TOLERANCE[dtype] for dtype, error in self.errors.items()) and self.tokens is not False


def spread(model: nn.Module) -> nn.Module:
    """Weights of experts that matter: the library's own are next to nothing."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 3:
            parameter.normal_(0, 0.3, generator=generator)
        elif parameter.dim() == 2:
            parameter.mul_(4)
    return model


def ids(tokens: int) -> torch.Tensor:
    return torch.randint(2, 90, (1, tokens), generator=torch.Generator().manual_seed(tokens))


def implement(model: nn.Module, name: str) -> None:
    for module in model.modules():
        if is_experts(module):
            module.config._experts_implementation = name


def compare(model: nn.Module, tokens: int) -> float:
    """The largest difference of a block around experts, relative to its largest magnitude."""
    blocks = [module for module in model.modules() if any(is_experts(child) for child in module.children())]
    calls: list[Call] = []
    with recorded(blocks, calls):
        implement(model, "eager")
        model(input_ids=ids(tokens), use_cache=False)
    implement(model, "moec")
    return max(call.deviation() for call in calls)


@dataclass
class Call:
    """What a block was given, and what it returned."""

    block: nn.Module
    args: Any
    kwargs: Any
    output: torch.Tensor | None = None

    def deviation(self) -> float:
        """How far off the block is now."""
        assert self.output is not None
        ours = first(self.block(*self.args, **self.kwargs))
        return float((ours - self.output).abs().max() / self.output.abs().max())


def first(output: Any) -> torch.Tensor:
    return (output[0] if isinstance(output, tuple) else output).float()


@contextmanager
def recorded(blocks: list[nn.Module], calls: list[Call]) -> Generator[None]:
    """Adds every call of the blocks to `calls`; arguments are copied, as a cache among them changes."""

    def begin(block: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append(Call(block, copy.deepcopy(args), copy.deepcopy(kwargs)))

    def end(block: nn.Module, args: Any, output: Any) -> None:
        next(call for call in reversed(calls) if call.block is block).output = first(output)

    handles = [block.register_forward_pre_hook(begin, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(end) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cast(model: Any, dtype: torch.dtype) -> nn.Module:
    """The model in another type, but for what the library keeps in f32 beside bf16."""
    kept: tuple[str, ...] = tuple(model._keep_in_fp32_modules_strict or ())
    model.to(dtype)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and any(part in name for part in kept):
            tensor.data = tensor.data.float()
    return model


@torch.no_grad()
def measure(name: str) -> Result:
    """An architecture through moec."""
    model = spread(build(name))
    errors: dict[torch.dtype, float] = {}
    same = None
    for dtype in TOLERANCE:
        errors[dtype] = max(compare(cast(model, dtype), tokens) for tokens in TOKENS)
        if dtype == torch.float32 and isinstance(model, transformers.GenerationMixin):
            same = generates_the_same(model)
    return Result(type(model).__name__, errors, same)


def generates_the_same(model: Any) -> bool | None:
    """Whether both implementations write the same eight tokens; None where the model's own code writes none.

    Of a model that mixes attention with other layers the tiny one may have no attention left, which the library's
    caches do not expect: such a one writes without a cache.
    """
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    for cached in (True, False):
        implement(model, "eager")
        try:
            theirs = model.generate(ids(7), use_cache=cached, **settings)
        except Exception:
            continue
        implement(model, "moec")
        return torch.equal(model.generate(ids(7), use_cache=cached, **settings), theirs)
    return None


# ── tests ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def alone() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", BACKEND)
def test_a_block_is_the_same_through_moec(name: str) -> None:
    result = measure(name)
    assert result.passes, result
    assert (result.tokens is None) == (name in SILENT), result


def test_the_page_names_every_architecture() -> None:
    written = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert [line.split("`")[1] for line in written.splitlines() if line.startswith("| `")] == ARCHITECTURES


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────

BEGIN: Final = "<!-- made by `python -m tests.parity.test_backend --write` -->\n"
END: Final = "<!-- end -->\n"


def table() -> str:
    """The table of docs/integrations.md."""
    lines = ["| architecture | f32 | bf16 | `generate` |", "|---|---|---|---|"]
    passing = 0
    for name in ARCHITECTURES:
        if name in PAST:
            lines.append(f"| `{name}` | goes past the registry: {PAST[name]} | | |")
            continue
        try:
            result = measure(name)
        except Exception as error:
            lines.append(f"| `{name}` | {type(error).__name__}: {' '.join(str(error).split())[:120]} | | |")
            continue
        passing += result.passes
        cells = [f"{error:.0e}" for error in result.errors.values()]
        told = {None: "writes none", True: "the same tokens", False: "**other tokens**"}[result.tokens]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {told} |")
    head = f"{passing} of {len(ARCHITECTURES)} pass through the backend.\n\n"
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    made = table()
    print(made)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + made + END + rest.partition(END)[2])
