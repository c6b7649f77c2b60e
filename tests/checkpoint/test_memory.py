"""Loading holds the packed weights and one expert: measured in a process of its own, mapped pages included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.checkpoint.models import narrow, on_disk, weights, write_gguf
from tests.examples import EXAMPLES

SIZES = {"H": 1024, "I": 1024, "E": 24}
EXPERT = 3 * 1024 * 1024 * 4

SCRIPT = """
import sys, moec
def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
spec, path, prefix, dtype = sys.argv[1:]
kernel = moec.compile(spec, dims={"H": 1024, "I": 1024, "E": 24}, dtype=dtype, threads=1)
if path.endswith(".gguf"):
    kernel.load(path, prefix)  # the kernel for stored weights is compiled now
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here on
weights = kernel.load(path, prefix)
print(memory("VmHWM") - before - weights.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux'")
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_the_peak_is_the_packed_weights_and_an_expert(tmp_path: Path, kind: str) -> None:
    layer = weights(**SIZES)
    if kind == "gguf":
        path, prefix, dtype = tmp_path / "m.gguf", "blk.0", "f32"
        write_gguf(path, [layer], dict.fromkeys(("gate", "up", "down"), "Q8_0"))
    else:
        path, prefix, dtype = tmp_path / "m.safetensors", "model.layers.0.mlp", "bf16"
        save_file(on_disk(0, narrow(layer)), path)
    command = [sys.executable, "-c", SCRIPT, str(EXAMPLES / "olmoe.moe"), str(path), prefix, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # The reader lets go of a file's pages after each 16 MiB; the rest is one expert on its way.
    assert int(done.stdout) < (16 << 20) + 1.5 * EXPERT
