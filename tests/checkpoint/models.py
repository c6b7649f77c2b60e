"""Two-layer models with random weights, written by the public packages in the forms that people ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.numpy import save_file

Arrays = dict[str, Any]

DIMS: Final = {"H": 64, "I": 96, "E": 10}


def weights(seed: int = 0, **dims: int) -> Arrays:
    """The weights of an olmoe layer."""
    H, I, E = ({**DIMS, **dims}[name] for name in "HIE")  # noqa: E741
    rng = np.random.default_rng(seed)
    shapes = {"router": (E, H), "gate": (E, I, H), "up": (E, I, H), "down": (E, H, I)}
    return {name: rng.standard_normal(shape, dtype=np.float32) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def narrow(arrays: Arrays) -> Arrays:
    return {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}


def write_gguf(path: Path, layers: list[Arrays], types: dict[str, str]) -> None:
    """A GGUF file as llama.cpp's converter names things; `types` has the type of each of gate, up, down."""
    writer = GGUFWriter(path, "olmoe")
    writer.add_block_count(len(layers))
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(300)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 300)
    for block, arrays in enumerate(layers):
        writer.add_tensor(f"blk.{block}.ffn_gate_inp.weight", arrays["router"])
        for name in ("gate", "up", "down"):
            kind = GGMLQuantizationType[types.get(name, "F32")]
            data = quants.quantize(arrays[name], kind) if arrays[name].dtype == np.float32 else arrays[name]
            writer.add_tensor(f"blk.{block}.ffn_{name}_exps.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def on_disk(block: int, arrays: Arrays) -> Arrays:
    """The tensors of a layer as they are published: one for each matrix of each expert."""
    below = f"model.layers.{block}.mlp"
    tensors = {f"{below}.gate.weight": arrays["router"]}
    for name in ("gate", "up", "down"):
        for expert, matrix in enumerate(arrays[name]):
            tensors[f"{below}.experts.{expert}.{name}_proj.weight"] = np.ascontiguousarray(matrix)
    return tensors


def write_sharded(directory: Path, layers: list[Arrays]) -> None:
    """A directory of three shards and their index."""
    tensors = {name: tensor for i, arrays in enumerate(layers) for name, tensor in on_disk(i, arrays).items()}
    homes = {name: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for home in sorted(set(homes.values())):
        save_file({name: tensors[name] for name, at in homes.items() if at == home}, directory / home)
    index = {"metadata": {}, "weight_map": homes}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
