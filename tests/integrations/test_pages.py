"""The Python of docs/integrations.md, as it is written there: on a small layer, and on a tiny model on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

import moec
from moec.integrations.transformers.experts import describe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
IDS = torch.arange(9)[None] * 5
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
EXPERTS = {"intermediate_size": 32, "num_key_value_heads": 1, "num_local_experts": 5, "initializer_range": 0.2}


def block(with_text: str) -> str:
    """The block of code of the page that has a text in it."""
    (found,) = [code for code in re.findall(r"^```\w*\n(.*?)^```", PAGE, re.S | re.M) if with_text in code]
    return found


def test_the_module_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    compile, small = moec.compile, {"H": 32, "I": 24, "E": 4, "K": 2}
    monkeypatch.setattr(moec, "compile", lambda file, **options: compile(ROOT / file, dims=small, **options))
    shapes = {"router": (4, 32), "gate": (4, 24, 32), "up": (4, 24, 32), "down": (4, 32, 24)}
    arrays = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    names: dict[str, Any] = {"arrays": arrays, "x": torch.randn(2, 5, 32).bfloat16()}
    exec(block("layer = MoE("), names)
    assert names["y"].shape == (2, 5, 32) and names["y"].dtype == torch.bfloat16
    assert torch.equal(names["y"].view(10, 32), names["layer"](names["x"].view(10, 32)))


@torch.no_grad()
def test_a_model_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(**SIZES, **EXPERTS)).save_pretrained(tmp_path)
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    logits, tokens = own(IDS).logits, own.generate(IDS, max_new_tokens=6, do_sample=False)

    def deviation(model: Any) -> float:
        return float((model(IDS).logits - logits).abs().max() / logits.abs().max())

    names: dict[str, Any] = {"path": tmp_path}
    exec(block("from_pretrained("), names)
    model = names["model"]
    assert deviation(model) <= 1e-5
    assert torch.equal(model.generate(IDS, max_new_tokens=6, do_sample=False), tokens)
    exec(block(".prepare("), names)
    assert 0 < deviation(model) <= 5e-2
    with pytest.raises(moec.CompileError, match="let go"):
        model.state_dict()

    names["model"] = AutoModelForCausalLM.from_pretrained(tmp_path)
    exec(block("report ="), names)
    assert deviation(names["model"]) <= 1e-5
    shown = re.search(r"# (model.*), …", block("report ="))
    assert shown is not None and str(names["report"]).splitlines()[0] == shown[1]


def test_the_layer_of_gpt_oss() -> None:
    model = GptOssForCausalLM(GptOssConfig(**SIZES, **EXPERTS, head_dim=16))
    assert describe(model.get_submodule("model.layers.0.mlp.experts")).text == block("fn activate(a, b) {")
