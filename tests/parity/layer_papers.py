"""The layers of `layers/papers/`, from their papers: dense NumPy over whole batches, every expert computed.

`DIMS` holds the dimensions of a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf
from typing import Final

import numpy as np

from tests.examples import Array
from tests.parity.formulas import Arrays, gelu, largest, silu, softmax, sparse_softmax

Dims = Mapping[str, int]


def _sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def _relu(v: Array) -> Array:
    return np.maximum(v, 0)


def _norm(v: Array) -> Array:
    return np.sqrt((v * v).sum(-1))


def _layernorm(v: Array) -> Array:
    d = v - v.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + 1e-5)


def _swiglu(x: Array, w: Arrays, prefix: str = "") -> Array:
    """What each expert makes of each token: [T, E, H]."""
    gate, up, down = (w[prefix + part] for part in ("gate", "up", "down"))
    hidden = silu(np.einsum("th,eih->tei", x, gate)) * np.einsum("th,eih->tei", x, up)
    return np.einsum("tei,ehi->teh", hidden, down)


def _plain(act: Callable[[Array], Array], x: Array, w: Arrays) -> Array:
    return np.einsum("tei,ehi->teh", act(np.einsum("th,eih->tei", x, w["up"])), w["down"])


def _mix(weights: Array, experts: Array) -> Array:
    return np.einsum("te,teh->th", weights, experts)


def _top(p: Array, count: int) -> Array:
    """The `count` largest of each row, zero elsewhere."""
    return np.where(largest(p, count), p, 0)


def _share(p: Array) -> Array:
    return p / p.sum(-1, keepdims=True)


def mole(x: Array, w: Arrays, dims: Dims) -> Array:
    adapters = np.einsum("nor,nrh,th->tno", w["b"], w["a"], x)
    normal = adapters / _norm(adapters)[..., None]
    weights = softmax(normal.reshape(len(x), -1) @ w["mix"].T / w["temperature"])
    return x @ w["base"].T + np.einsum("tn,tno->to", weights, adapters)


def mixlora(x: Array, w: Arrays, dims: Dims) -> Array:
    """The adapters added to the matrices themselves."""
    gate, up, down = (w[part] + w[f"{part}_b"] @ w[f"{part}_a"] for part in ("gate", "up", "down"))
    return _mix(_share(_top(softmax(x @ w["router"].T), dims["K"])), _swiglu(x, {"gate": gate, "up": up, "down": down}))


def moefication(x: Array, w: Arrays, dims: Dims) -> Array:
    """The dense layer, the neurons of the other groups silenced."""
    cosine = x @ w["centre"].T / (_norm(w["centre"]) * _norm(x)[:, None])
    awake = np.repeat(largest(cosine, dims["K"]), dims["I"] // dims["E"], -1)
    return (_relu(x @ w["up"].T + w["up_bias"]) * awake) @ w["down"].T


def adaptive_mixtures(x: Array, w: Arrays, dims: Dims) -> Array:
    return _mix(softmax(x @ w["router"].T), _plain(np.tanh, x, w))


def sigma_moe(x: Array, w: Arrays, dims: Dims) -> Array:
    return _mix(_top(_sigmoid(x @ w["router"].T), dims["K"]), _plain(_relu, x, w))


def remoe(x: Array, w: Arrays, dims: Dims) -> Array:
    return _mix(_relu(x @ w["router"].T), _swiglu(x, w))


def top_p(x: Array, w: Arrays, dims: Dims) -> Array:
    """By sorting and summing up, as the paper does."""
    p = softmax(x @ w["router"].T)
    order = np.argsort(-p, -1)
    ranked = np.take_along_axis(p, order, -1)
    kept = np.cumsum(ranked, -1) - ranked < dims["P"] / 100
    weights = np.zeros_like(p)
    np.put_along_axis(weights, order, np.where(kept, ranked, 0), -1)
    return _mix(weights, _swiglu(x, w))


def noisy_top_k(x: Array, w: Arrays, dims: Dims, noise: Array) -> Array:
    scores = x @ w["router"].T + noise * np.log1p(np.exp(x @ w["spread"].T))
    return _mix(sparse_softmax(scores, dims["K"]), _sigmoid(_plain(_relu, x, w)))


def hash_layer(x: Array, w: Arrays, dims: Dims, id: Array) -> Array:
    experts = _plain(_relu, x, w)
    return sum(experts[np.arange(len(x)), chosen] for chosen in (w["table"][id], id % dims["E"]))


def multihash(x: Array, w: Arrays, dims: Dims, id: Array) -> Array:
    """Token by token: the matrices put together from their parts."""

    def token(v: Array, parts: Array) -> Array:
        up, down = (np.concatenate([w[name][n, e] for n, e in enumerate(parts)]) for name in ("up", "down"))
        return down @ _relu(up @ v)

    return np.stack([token(v, parts) for v, parts in zip(x, w["table"][id], strict=True)])


def base_layer(x: Array, w: Arrays, dims: Dims) -> Array:
    affinity = x @ w["centre"].T
    best = affinity.argmax(-1)
    alpha = _sigmoid(affinity.max(-1, keepdims=True))
    h = x
    for layer in range(dims["L"]):
        scale, shift, up, up_bias, down, down_bias = (
            w[name][best, layer] for name in ("scale", "shift", "up", "up_bias", "down", "down_bias")
        )
        hidden = _relu(np.einsum("tih,th->ti", up, _layernorm(h) * scale + shift) + up_bias)
        h = h + np.einsum("thi,ti->th", down, hidden) + down_bias
    return alpha * h + (1 - alpha) * x


def monarch(x: Array, w: Arrays, dims: Dims) -> Array:
    """As dense matrices: two of diagonal blocks, with the permutation between them and after them."""
    b, p = dims["B"], dims["P"]
    transpose = np.eye(b * p).reshape(b, p, b * p).swapaxes(0, 1).reshape(b * p, b * p)

    def blocks(parts: Array) -> Array:
        count, size = parts.shape[:2]
        dense = np.zeros((count, size, count, size))
        dense[np.arange(count), :, np.arange(count), :] = parts
        return dense.reshape(count * size, count * size)

    dense = [
        transpose.T @ blocks(left) @ transpose @ blocks(right)
        for left, right in zip(w["left"], w["right"], strict=True)
    ]
    return _mix(_top(softmax(x @ w["router"].T), dims["K"]), np.einsum("eoh,th->teo", np.stack(dense), x))


def kronecker(x: Array, w: Arrays, dims: Dims) -> Array:
    dense = [
        np.kron(a, b) + u @ v + np.diag(d) for a, b, u, v, d in zip(w["a"], w["b"], w["u"], w["v"], w["d"], strict=True)
    ]
    return _mix(_top(softmax(x @ w["router"].T), dims["K"]), gelu(np.einsum("eoh,th->teo", np.stack(dense), x)))


def mh_moe(x: Array, w: Arrays, dims: Dims) -> Array:
    """The heads as tokens of a batch N times as long."""
    parts = (x @ w["heads"].T).reshape(len(x) * dims["N"], -1)
    mixed = _mix(_share(_top(softmax(parts @ w["router"].T), dims["K"])), _plain(gelu, parts, w))
    return mixed.reshape(len(x), -1) @ w["merge"].T


def pr_moe(x: Array, w: Arrays, dims: Dims) -> Array:
    sparse = _mix(_top(softmax(x @ w["router"].T), 1), _plain(gelu, x, w))
    dense = gelu(x @ w["dense_up"].T) @ w["dense_down"].T
    share = softmax(x @ w["coefficient"].T + w["coefficient_bias"])
    return share[:, :1] * dense + share[:, 1:] * sparse


def fff(x: Array, w: Arrays, dims: Dims) -> Array:
    """Each leaf has the product of the answers on its path."""
    right = x @ w["node"].T + w["node_bias"] > 0
    reached = np.ones((len(x), 8), bool)
    for leaf in range(8):
        node = 0
        for level in (4, 2, 1):
            answer = bool(leaf & level)
            reached[:, leaf] &= right[:, node] == answer
            node = 2 * node + 1 + answer
    hidden = gelu(np.einsum("th,eih->tei", x, w["up"]) + w["up_bias"])
    return _mix(reached.astype(float), np.einsum("tei,ehi->teh", hidden, w["down"]) + w["down_bias"])


def pkm(x: Array, w: Arrays, dims: Dims) -> Array:
    queries = np.einsum("th,apdh->tapd", x, w["query"])
    halves = np.einsum("tapd,apmd->ptam", queries, w["keys"])
    pairs = (halves[0][..., :, None] + halves[1][..., None, :]).reshape(*halves.shape[1:3], -1)
    return np.einsum("tan,nv->tv", sparse_softmax(pairs, dims["K"]), w["values"])


def xmoe(x: Array, w: Arrays, dims: Dims) -> Array:
    query = x @ w["into"].T
    query, place = query / _norm(query)[:, None], w["place"] / _norm(w["place"])[:, None]
    return _mix(_top(softmax(query @ place.T / w["temperature"]), 1), _plain(gelu, x, w))


def gaussian(x: Array, w: Arrays, dims: Dims) -> Array:
    away = (x[:, None] - w["place"]) / (np.abs(w["width"]) + 1)
    return _mix(sparse_softmax(w["weight"] - (away**2).sum(-1) / 2, dims["K"]), _plain(_relu, x, w))


def switch(x: Array, w: Arrays, dims: Dims) -> Array:
    return _mix(_top(softmax(x @ w["router"].T), 1), _plain(_relu, x, w))


def deepseek_moe(x: Array, w: Arrays, dims: Dims) -> Array:
    routed = _top(softmax(x @ w["router"].T), dims["K"])
    return x + _mix(np.concatenate([np.ones((len(x), dims["S"])), routed], 1), _swiglu(x, w))


def hmoe(x: Array, w: Arrays, dims: Dims) -> Array:
    experts = np.concatenate([_swiglu(x, w, "big_"), _swiglu(x, w, "small_")], 1)
    return _mix(_top(softmax(x @ w["router"].T), dims["K"]), experts)


def adamoe(x: Array, w: Arrays, dims: Dims) -> Array:
    weights = _top(softmax(x @ w["router"].T), dims["K"])[:, : dims["E"]]
    return _mix(weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9), _swiglu(x, w))


def smear(x: Array, w: Arrays, dims: Dims) -> Array:
    p = softmax(_layernorm(x) @ w["router"].T)
    up, down = (np.einsum("te,eab->tab", p, w[name]) for name in ("up", "down"))
    return x + np.einsum("thi,ti->th", down, gelu(np.einsum("tih,th->ti", up, x)))


def chain(x: Array, w: Arrays, dims: Dims) -> Array:
    for router in w["router"]:
        x = x + _mix(_top(softmax(x @ router.T), dims["K"]), _swiglu(x, w))
    return x


def rmoe(x: Array, w: Arrays, dims: Dims, before: Array) -> Array:
    read = np.einsum("grs,ts->gtr", w["input"], x @ w["into"].T) + w["input_bias"][:, None]
    kept = np.einsum("grs,ts->gtr", w["hidden"], before) + w["hidden_bias"][:, None]
    reset, update = _sigmoid(read[0] + kept[0]), _sigmoid(read[1] + kept[1])
    state = (1 - update) * np.tanh(read[2] + reset * kept[2]) + update * before
    return _mix(_top(softmax(state @ w["router"].T), dims["K"]), _swiglu(x, w))


def yuan(x: Array, w: Arrays, dims: Dims) -> Array:
    query, key, value = (x @ w[name].T for name in ("query", "key", "value"))
    scores = np.einsum("tij,tj->ti", softmax(query[:, :, None] * key[:, None, :]), value)
    return _mix(sparse_softmax(scores, dims["K"]), _swiglu(x, w))


def lookup_experts(x: Array, w: Arrays, dims: Dims, id: Array) -> Array:
    dense = (silu(x @ w["gate"].T) * (x @ w["up"].T)) @ w["down"].T
    return dense + _mix(softmax(x @ w["router"].T), w["table"][id])


def softmaxes(x: Array, w: Arrays, dims: Dims) -> Array:
    latent = np.tanh(np.einsum("khg,tg->tkh", w["latent"], x) + w["latent_bias"])
    return _mix(softmax(x @ w["prior"].T), softmax(latent @ w["words"].T + w["words_bias"]))


def nllb(x: Array, w: Arrays, dims: Dims) -> Array:
    hidden = _relu(np.einsum("th,eih->tei", x, w["up"]) + w["up_bias"])
    experts = np.einsum("tei,ehi->teh", hidden, w["down"]) + w["down_bias"]
    return 0.8 * _mix(_share(_top(softmax(x @ w["router"].T), 2)), experts)


def competesmoe(x: Array, w: Arrays, dims: Dims) -> Array:
    experts = _plain(_relu, x, w)
    return _mix(sparse_softmax(_norm(experts), dims["K"]), experts)


def autonomy(x: Array, w: Arrays, dims: Dims) -> Array:
    small = np.einsum("erh,th->ter", w["first"], x)
    hidden = silu(np.einsum("eir,ter->tei", w["second"], small)) * np.einsum("eih,th->tei", w["up"], x)
    return _mix(sparse_softmax(_norm(small), dims["K"]), np.einsum("tei,ehi->teh", hidden, w["down"]))


def dynmoe(x: Array, w: Arrays, dims: Dims) -> Array:
    s = _sigmoid(x @ w["centre"].T / (_norm(w["centre"]) * _norm(x)[:, None]))
    chosen = s > _sigmoid(w["threshold"])
    chosen = np.where(chosen.any(-1, keepdims=True), chosen, largest(s, 1))
    return _mix(_share(chosen.astype(float)), _plain(gelu, x, w))


def ada_k(x: Array, w: Arrays, dims: Dims) -> Array:
    p = softmax(x @ w["router"].T)
    rank = np.argsort(np.argsort(-p, -1), -1)
    return _mix(_share(np.where(rank <= (x @ w["policy"].T).argmax(-1)[:, None], p, 0)), _swiglu(x, w))


def mmoe(x: Array, w: Arrays, dims: Dims) -> Array:
    """The first task."""
    return _sigmoid(_mix(softmax(x @ w["gates"][0].T), _plain(_relu, x, w)) @ w["tower"])


def switchhead(x: Array, w: Arrays, dims: Dims, heads: Array) -> Array:
    weights = _top(_sigmoid(np.einsum("aeh,th->tae", w["router"], x)), dims["K"])
    return np.einsum("tae,aehd,tad->th", weights, w["out"], heads)


def stick_breaking(x: Array, w: Arrays, dims: Dims) -> Array:
    s = _sigmoid(x @ w["router"].T)
    left = np.cumprod(1 - s, -1) / (1 - s)
    return _mix(s * left, _plain(_relu, x, w))


def fast_bert(x: Array, w: Arrays, dims: Dims) -> Array:
    """Token by token, down the tree."""
    y = np.zeros_like(x)
    for row, v in zip(y, x, strict=True):
        node = 0
        for _ in range(4):
            score = w["into"][node] @ v
            row += gelu(score) * w["out"][node]
            node = 2 * node + 1 + int(score > 0)
    return y


def smear_literal(x: Array, w: Arrays, dims: Dims) -> Array:
    p = softmax(x @ w["router"].T)
    up, down = (np.einsum("te,eab->tab", p, w[name]) for name in ("up", "down"))
    return np.einsum("thi,ti->th", down, _relu(np.einsum("tih,th->ti", up, x)))


def ultramem(x: Array, w: Arrays, dims: Dims) -> Array:
    row, column = (np.einsum("rmd,dh,th->trm", w["keys"][i], w["query"][i], x) for i in (0, 1))
    grid = np.einsum("tim,ij,tjn->tmn", row, w["core"], column).reshape(len(x), -1)
    return _top(grid, dims["K"]) @ w["values"]


#: The layer as its paper has it: x, weights, dimensions and further inputs to [T, H].
def _rmsnorm(v: Array) -> Array:
    return v / np.sqrt((v * v).mean(-1, keepdims=True) + 1e-6)


def hyper_connections(x: Array, w: Arrays, dims: Dims) -> Array:
    z = _rmsnorm(x.reshape(len(x), -1)) * w["norm_weight"]
    m = np.exp((z @ w["mix"].T).reshape(len(x), dims["C"], -1) + w["mix_bias"])
    for _ in range(3):
        m = m / (m.sum(1, keepdims=True) + 1e-6)
        m = m / (m.sum(2, keepdims=True) + 1e-6)
    h = np.einsum("tc,tch->th", _sigmoid(z @ w["before"].T), x)
    y = _mix(_top(softmax(h @ w["router"].T), dims["K"]), _swiglu(h, w))
    return m @ x + 2 * _sigmoid(z @ w["after"].T)[..., None] * y[:, None]


def memories(x: Array, w: Arrays, dims: Dims, state: Array) -> Array:
    p = _top(softmax(x @ w["router"].T), dims["K"])
    keys, values = (np.einsum("th,mdh->tmd", x, w[name]) for name in ("wk", "wv"))
    written = state + (p > 0)[..., None, None] * keys[..., None] * values[:, :, None]
    return np.einsum("tm,tmij,ti->tj", _share(p), written, x @ w["wq"].T)


def nexus(x: Array, w: Arrays, dims: Dims) -> Array:
    left, right = np.split(w["domain"] @ w["p1"].T, 2, axis=1)
    router = (silu(left) * right) @ w["p2"].T
    return _mix(_top(softmax(x @ router.T), dims["K"]), _swiglu(x, w))


def hyper_moe(x: Array, w: Arrays, dims: Dims) -> Array:
    p = softmax(x @ w["router"].T)
    z = _share(np.where(largest(p, dims["K"]), 0, p)) @ w["embedding"]
    a = (z @ w["make_a"].T).reshape(len(x), dims["R"], dims["H"])
    b = (z @ w["make_b"].T).reshape(len(x), dims["H"], dims["R"])
    adapter = np.einsum("thr,tr->th", b, _relu(np.einsum("trh,th->tr", a, x)))
    return _mix(_top(p, dims["K"]), _plain(_relu, x, w)) + adapter


def engram(x: Array, w: Arrays, dims: Dims, id: Array, last: Array, second: Array) -> Array:
    hashes = (id[:, None] * w["factor"] + last[:, None] * 7 + second[:, None] * w["factor"] * 131) % dims["N"]
    m = w["table"][np.arange(dims["G"]), hashes].reshape(len(x), -1)
    s = (_rmsnorm(m @ w["wk"].T) * _rmsnorm(x)).sum(-1, keepdims=True) / dims["H"] ** 0.5
    return x + _sigmoid(np.sign(s) * np.sqrt(np.maximum(np.abs(s), 1e-6))) * (m @ w["wv"].T)


def nested(x: Array, w: Arrays, dims: Dims) -> Array:
    p, total = softmax(x @ w["router"].T), np.zeros_like(x)
    for expert, part in enumerate((4, 2, 1)):
        h, i = dims["H"] // part, dims["I"] // part
        y = gelu(x[:, :h] @ w["up"][:i, :h].T) @ w["down"][:h, :i].T
        total[:, :h] += _top(p, 1)[:, expert, None] * y
    return total


def kan(x: Array, w: Arrays, dims: Dims) -> Array:
    basis = np.exp(-4 * (np.tanh(x)[..., None] - w["grid"]) ** 2).reshape(len(x), -1)
    experts = np.einsum("tg,eog->teo", basis, w["spline"]) + np.einsum("th,eoh->teo", silu(x), w["base"])
    return _mix(_top(softmax(x @ w["router"].T), dims["K"]), experts)


def fourier_kan(x: Array, w: Arrays, dims: Dims) -> Array:
    angles = (x[..., None] * np.arange(1, dims["G"] + 1)).reshape(len(x), -1)
    series = [np.einsum("tg,eog->teo", f(angles), w[name]) for f, name in ((np.cos, "cosine"), (np.sin, "sine"))]
    return _mix(_top(softmax(x @ w["router"].T), dims["K"]), series[0] + series[1] + w["bias"])


def lsh(x: Array, w: Arrays, dims: Dims) -> Array:
    bucket = np.floor(2 * x @ w["direction"].T + w["offset"]).sum(-1)
    chosen = np.int64(bucket) % dims["E"]
    return np.einsum("thi,ti->th", w["down"][chosen], _relu(np.einsum("tih,th->ti", w["up"][chosen], x)))


def sparsemax(x: Array, w: Arrays, dims: Dims) -> Array:
    z = 2 * x @ w["router"].T
    falling = -np.sort(-z, axis=-1)
    sums, count = falling.cumsum(-1), np.arange(1, dims["E"] + 1)
    last = (1 + count * falling > sums).sum(-1, keepdims=True)
    p = np.maximum(z - (np.take_along_axis(sums, last - 1, -1) - 1) / last, 0)
    return _mix(p, _plain(silu, x, w))


def attention_over_experts(x: Array, w: Arrays, dims: Dims) -> Array:
    answers = _plain(gelu, x, w)
    scores = np.einsum("teh,dh,td->te", answers, w["wk"], x @ w["wq"].T) / dims["D"] ** 0.5
    chosen = largest(x @ w["router"].T, dims["K"])
    return _mix(softmax(np.where(chosen, scores, -np.inf)), answers)


def deja_vu(x: Array, w: Arrays, dims: Dims) -> Array:
    neurons = silu(x @ w["gate"].T) * (x @ w["up"].T)
    return np.where(largest(x @ w["narrow"].T @ w["wide"].T, dims["K"]), neurons, 0) @ w["down"]


def s_lora(x: Array, w: Arrays, dims: Dims, adapters: Array, strength: Array) -> Array:
    share = np.zeros((len(x), dims["A"]))
    np.add.at(share, (np.arange(len(x))[:, None], adapters), strength)
    return x @ w["w"].T + np.einsum("ta,aor,arh,th->to", share * w["alpha"] / dims["R"], w["b"], w["a"], x)


def activations(x: Array, w: Arrays, dims: Dims) -> Array:
    functions: tuple[Callable[[Array], Array], ...] = (
        lambda v: v * np.tanh(np.logaddexp(0, v)),
        lambda v: v * np.clip(v + 3, 0, 6) / 6,
        lambda v: np.where(v > 0, v, np.expm1(v)),
        lambda v: np.where(v > 0, v, w["slope"] * v),
        lambda v: v / (1 + np.abs(v)),
        lambda v: v * _sigmoid(1.702 * v),
        lambda v: np.logaddexp(0, v),
        np.vectorize(erf),
        lambda v: v + np.sin(2 * v) ** 2 / 2,
        np.sin,
    )
    experts = [act(x @ up.T) @ down.T for act, up, down in zip(functions, w["up"], w["down"], strict=True)]
    return _mix(_top(softmax(x @ w["router"].T), dims["K"]), np.stack(experts, 1))


PAPERS: Final[dict[str, Callable[..., Array]]] = {
    paper.__name__: paper
    for paper in (
        mole,
        mixlora,
        moefication,
        adaptive_mixtures,
        sigma_moe,
        remoe,
        top_p,
        noisy_top_k,
        hash_layer,
        multihash,
        base_layer,
        monarch,
        kronecker,
        mh_moe,
        pr_moe,
        fff,
        pkm,
        xmoe,
        gaussian,
        switch,
        deepseek_moe,
        hmoe,
        adamoe,
        smear,
        chain,
        rmoe,
        yuan,
        lookup_experts,
        softmaxes,
        nllb,
        competesmoe,
        autonomy,
        dynmoe,
        ada_k,
        mmoe,
        switchhead,
        stick_breaking,
        fast_bert,
        smear_literal,
        ultramem,
        hyper_connections,
        memories,
        nexus,
        hyper_moe,
        engram,
        nested,
        kan,
        fourier_kan,
        lsh,
        sparsemax,
        attention_over_experts,
        deja_vu,
        s_lora,
        activations,
    )
}

#: No two of a layer alike, few a multiple of a vector.
DIMS: Final[dict[str, Mapping[str, int]]] = {
    "mole": {"H": 37, "O": 45, "N": 5, "R": 3},
    "mixlora": {"H": 37, "I": 29, "E": 7, "R": 3, "K": 2},
    "moefication": {"H": 35, "I": 52, "E": 13, "K": 5},
    "adaptive_mixtures": {"H": 33, "I": 21, "E": 5},
    "sigma_moe": {"H": 41, "I": 19, "E": 11, "K": 4},
    "remoe": {"H": 43, "I": 25, "E": 9},
    "top_p": {"H": 39, "I": 23, "E": 11, "P": 55},
    "noisy_top_k": {"H": 34, "I": 27, "E": 13, "K": 3},
    "hash_layer": {"H": 38, "I": 26, "E": 7, "V": 31},
    "multihash": {"H": 36, "I": 28, "N": 4, "E": 5, "V": 31},
    "base_layer": {"H": 45, "I": 22, "L": 2, "E": 6},
    "monarch": {"B": 7, "P": 5, "E": 6, "K": 2},
    "kronecker": {"A": 7, "B": 5, "R": 3, "E": 6, "K": 2},
    "mh_moe": {"H": 39, "N": 3, "I": 17, "E": 7, "K": 2},
    "pr_moe": {"H": 47, "I": 31, "E": 9},
    "fff": {"H": 29, "I": 13},
    "pkm": {"H": 33, "D": 6, "M": 9, "A": 3, "V": 25, "K": 4},
    "xmoe": {"H": 42, "D": 10, "I": 23, "E": 9},
    "gaussian": {"H": 18, "I": 21, "E": 7, "K": 3},
    "switch": {"H": 51, "I": 35, "E": 8},
    "deepseek_moe": {"H": 40, "I": 18, "S": 2, "E": 13, "K": 4},
    "hmoe": {"H": 44, "I": 37, "J": 15, "A": 3, "B": 6, "K": 4},
    "adamoe": {"H": 46, "I": 20, "E": 5, "N": 4, "K": 3},
    "smear": {"H": 35, "I": 11, "E": 5},
    "chain": {"H": 38, "I": 14, "E": 9, "K": 3},
    "rmoe": {"H": 41, "R": 17, "I": 24, "E": 7, "K": 3},
    "yuan": {"H": 43, "I": 30, "E": 9, "K": 2},
    "lookup_experts": {"H": 37, "I": 28, "E": 3, "V": 31},
    "softmaxes": {"H": 23, "V": 57, "K": 5},
    "nllb": {"H": 34, "I": 49, "E": 6},
    "competesmoe": {"H": 36, "I": 21, "E": 7, "K": 3},
    "autonomy": {"H": 39, "R": 5, "I": 22, "E": 8, "K": 3},
    "dynmoe": {"H": 33, "I": 20, "E": 3},
    "ada_k": {"H": 42, "I": 19, "E": 9, "K": 4},
    "mmoe": {"H": 31, "I": 18, "O": 5, "E": 6},
    "switchhead": {"H": 37, "D": 11, "A": 3, "E": 5, "K": 2},
    "stick_breaking": {"H": 35, "I": 23, "E": 7},
    "fast_bert": {"H": 29},
    "smear_literal": {"H": 27, "I": 11, "E": 5},
    "ultramem": {"H": 33, "D": 9, "R": 2, "M": 7, "K": 4, "V": 25},
    "hyper_connections": {"C": 4, "H": 19, "I": 11, "E": 7, "K": 3},
    "memories": {"H": 27, "D": 7, "M": 5, "K": 2},
    "nexus": {"H": 33, "I": 21, "E": 7, "D": 13, "R": 9, "K": 2},
    "hyper_moe": {"H": 31, "I": 22, "E": 7, "D": 9, "R": 5, "K": 3},
    "engram": {"H": 35, "D": 11, "N": 53, "G": 3},
    "nested": {"H": 44, "I": 36},
    "kan": {"H": 21, "O": 17, "G": 5, "E": 6, "K": 2},
    "fourier_kan": {"H": 19, "O": 18, "G": 3, "E": 7, "K": 2},
    "lsh": {"H": 32, "I": 27, "N": 3, "E": 11},
    "sparsemax": {"H": 37, "I": 23, "E": 9},
    "attention_over_experts": {"H": 33, "I": 25, "D": 9, "E": 7, "K": 3},
    "deja_vu": {"H": 29, "I": 67, "R": 5, "K": 22},
    "s_lora": {"H": 35, "O": 27, "R": 3, "A": 9, "N": 4},
    "activations": {"H": 34, "I": 23, "K": 3},
}

#: What the integers of a layer count, as in `tests.examples`.
BELOW: Final[dict[str, Mapping[str, str]]] = {
    "hash_layer": {"table": "E", "id": "V"},
    "multihash": {"table": "E", "id": "V"},
    "lookup_experts": {"id": "V"},
    "engram": {"factor": "N", "id": "N", "last": "N", "second": "N"},
    "s_lora": {"adapters": "A"},
}
