"""ONNX Runtime on the CPU, f32; it has no products of bf16 there.

`operator`: its contrib operator MoE, which holds the weights as they are. `graphs`: a graph for each expert, whose
weights the library packs once, over the tokens of that expert.

Quantised: `int8-32` and `int4-32`, its contrib operator QMoE over blocks of 32; `-int8` behind it: with activations in
8 bits (`accuracy_level` 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy_grouped import route
from onnx import TensorProto, helper
from peer import Layer, Program, Run, quantised, serve

_DOMAIN = "com.microsoft"
_OPSETS = (helper.make_opsetid("", 20), helper.make_opsetid(_DOMAIN, 1))


def session(layer: Layer, nodes: Sequence[Any], weights: Mapping[str, np.ndarray]) -> Any:
    """A graph from x [T, H] to y [T, H]. The weights are handed over beside it, since a graph holds at most 2 GiB."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", layer.H]) for name in ("x", "y"))
    graph = helper.make_graph(list(nodes), "layer", [x], [y], [_outside(name, weights[name]) for name in weights])
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = layer.threads, 1
    options.log_severity_level = 3
    options.add_external_initializers([*weights], [ort.OrtValue.ortvalue_from_numpy(each) for each in weights.values()])
    model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _outside(name: str, array: np.ndarray) -> Any:
    """The declaration of a weight that is not in the file."""
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    return tensor


def joined(layer: Layer, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the first product of the operators takes: rows of gate and up in turns."""
    if not layer.gated:
        return weights["up"]
    return np.stack([weights["gate"], weights["up"]], axis=2).reshape(layer.E, 2 * layer.I, layer.H)


def operator(layer: Layer, weights: Mapping[str, np.ndarray]) -> Run:
    router = np.ascontiguousarray(weights["router"].T)
    given = {"router": router, "first": joined(layer, weights), "second": weights["down"]}
    biases = {name: weights[name] for name in ("up_bias", "down_bias") if name in weights}
    inputs = ["x", "logits", "first", "up_bias", "second", "down_bias"]
    return routed(layer, "MoE", inputs, given | biases)


def routed(layer: Layer, kind: str, inputs: Sequence[str], weights: Mapping[str, np.ndarray], **more: Any) -> Run:
    """The router, then an operator over all experts; an input that there is no weight for is left out."""
    fusion = {"swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0} if layer.gated else {}
    moe = helper.make_node(
        kind,
        [name if name in ("x", "logits", "shares", *weights) else "" for name in inputs],
        ["y"],
        domain=_DOMAIN,
        k=layer.K,
        activation_type="swiglu" if layer.gated else layer.activation,
        normalize_routing_weights=int(layer.normalised),
        **fusion,
        **more,
    )
    logits = helper.make_node("MatMul", ["x", "router"], ["logits"])
    ready = session(layer, [logits, helper.make_node("Softmax", ["logits"], ["shares"]), moe], weights)
    return lambda x: ready.run(None, {"x": x})[0]


def blocks(accuracy: int, layer: Layer, weights: Mapping[str, np.ndarray]) -> Run:
    """QMoE: codes and scales of blocks of 32; codes stand 128 or 8 too high, two of 4 bits in a byte."""
    given = {"router": np.ascontiguousarray(weights["router"].T)}
    given |= {name: weights[name] for name in ("up_bias", "down_bias") if name in weights}
    for name, matrices in (("first", joined(layer, weights)), ("second", weights["down"])):
        codes, scales = quantised(matrices, layer.bits, 32)
        high = (codes.astype(np.int16) + (1 << (layer.bits - 1))).astype(np.uint8)
        given[name] = high if layer.bits == 8 else high[..., ::2] | high[..., 1::2] << 4
        given[f"{name}_scales"] = scales
    inputs = ["x", "logits", "first", "first_scales", "up_bias", "second", "second_scales", "down_bias"]
    inputs += [*[""] * 6, "shares"]  # without them it takes the softmax of the chosen logits
    more = {"expert_weight_bits": layer.bits, "block_size": 32, "accuracy_level": accuracy}
    return routed(layer, "QMoE", inputs, given, **more)


def graphs(layer: Layer, weights: Mapping[str, np.ndarray]) -> Run:
    router = weights["router"]
    experts = [_expert(layer, {name: weights[name][e] for name in weights if name != "router"}) for e in range(layer.E)]

    def run(x: np.ndarray) -> np.ndarray:
        chosen, w = route(layer, x @ router.T)
        y, flat = np.zeros_like(x), chosen.ravel()
        order = np.argsort(flat, kind="stable")
        ends = np.cumsum(np.bincount(flat, minlength=layer.E))
        for e in np.flatnonzero(np.diff(ends, prepend=0)):
            slots = order[ends[e - 1] if e else 0 : ends[e]]
            tokens = slots // layer.K
            y[tokens] += w.ravel()[slots, None] * experts[e].run(None, {"x": x[tokens]})[0]
        return y

    return run


def _expert(layer: Layer, weights: Mapping[str, np.ndarray]) -> Any:
    """One expert as a graph."""
    given = {name: np.ascontiguousarray(array.T) for name, array in weights.items()}
    nodes = [node for name in ("gate", "up") if name in given for node in _product("x", name, given)]
    nodes += _activation(layer.activation, "gate_out" if layer.gated else "up_out")
    hidden = "act"
    if layer.gated:
        nodes.append(helper.make_node("Mul", ["act", "up_out"], ["hidden"]))
        hidden = "hidden"
    nodes += _product(hidden, "down", given)
    nodes.append(helper.make_node("Identity", ["down_out"], ["y"]))
    return session(layer, nodes, given)


def _product(x: str, name: str, weights: Mapping[str, Any]) -> list[Any]:
    bias, out = f"{name}_bias", f"{name}_out"
    if bias not in weights:
        return [helper.make_node("MatMul", [x, name], [out])]
    return [
        helper.make_node("MatMul", [x, name], [f"{name}_raw"]),
        helper.make_node("Add", [f"{name}_raw", bias], [out]),
    ]


def _activation(name: str, x: str) -> list[Any]:
    if name == "silu":
        return [helper.make_node("Sigmoid", [x], ["sigmoid"]), helper.make_node("Mul", [x, "sigmoid"], ["act"])]
    if name == "relu":
        return [helper.make_node("Relu", [x], ["act"])]
    return [helper.make_node("Gelu", [x], ["act"], approximate="tanh" if name == "gelu_tanh" else "none")]


def known(layer: Layer) -> bool:
    """Whether the operators have the activation."""
    if layer.dtype != "f32":
        raise NotImplementedError("no products of bf16 on CPUs")
    return layer.activation == "silu" or (not layer.gated and layer.activation != "gelu_tanh")


def forms(layer: Layer) -> Mapping[str, Any]:
    return {**({"operator": operator} if known(layer) else {}), "graphs": graphs}


def stored(layer: Layer) -> Mapping[str, Any]:
    name = f"int{layer.bits}-32"
    return {name: partial(blocks, 0), f"{name}-int8": partial(blocks, 4)} if known(layer) else {}


def versions() -> dict[str, str]:
    return {"onnxruntime": ort.__version__, "onnx": onnx.__version__}


if __name__ == "__main__":
    serve(Program(forms, lambda array, dtype: array, np.asarray, versions, stored))
