"""A model's tokens per second before and after moec: `python examples/before_and_after.py [CHECKPOINT]`.

Without a checkpoint it is two layers of OLMoE's size with random weights, in bf16.
"""

import sys
import time

import torch
from transformers import AutoModelForCausalLM, OlmoeConfig

import moec.integrations.transformers  # noqa: F401  (which registers the backend)

if len(sys.argv) > 1:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
else:
    config = OlmoeConfig(num_hidden_layers=2, intermediate_size=1024, vocab_size=4096, eos_token_id=1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
prompt = torch.randint(2, 4000, (1, 128))

for implementation in ("eager", "grouped_mm", "moec"):
    model.set_experts_implementation(implementation)
    model.generate(prompt, max_new_tokens=2, do_sample=False)  # moec compiles and packs when it is first called
    begin = time.perf_counter()
    model.generate(prompt, max_new_tokens=32, min_new_tokens=32, do_sample=False)
    print(f"{implementation}: {32 / (time.perf_counter() - begin):.1f} tokens per second")
