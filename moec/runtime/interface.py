"""What a compiled layer tells its caller: arrays, how weights become panels, the size of the workspace.

The compiler writes it, the runtime reads it, and it lies beside the object in the cache; so it is plain data that goes
to JSON and back. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the call: one row of `shape` for each token, or a parameter."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """Weights that a program reads as panels: the parameters, how each becomes a stack of matrices, and the panels.

    `views` has for each parameter the steps (`moec.steps`), as they print, that turn it into [*lead, columns, depth];
    `keys` matrices of [`n`, `k`] come of it. `panel` prints a `PanelShape`, `storage` is the format of the panels,
    empty where they are dense. Nothing here says what is computed, so programs that differ in that alone read the same
    weights.
    """

    params: tuple[str, ...]
    views: tuple[tuple[str, ...], ...]
    keys: int
    n: int
    k: int
    panel: str
    storage: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """What a caller has to know: the arrays in the order of the arguments, and the workspace.

    `raw` are the parameters that are read as they are, `packed` those that are read as panels; one parameter may be
    both. `dims` has the dimensions' values, `real` is the working precision, `spec` a digest of the layer's text
    without its comments and binds, `binds` one of these. `extras` names every auxiliary output that the layer could
    give, `aux` has those that this program does. The workspace of a call is `bytes_per_token` for each token,
    `fixed_bytes`, and `scratch_bytes` for each thread after the first. `quantized` are the parameters whose products
    take quantised vectors, with the elements of a block of these. Where `batch` is set the outputs of a token depend on
    the other tokens of its call.
    """

    name: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    aux: tuple[Array, ...]
    params: tuple[Array, ...]
    raw: tuple[str, ...]
    packed: tuple[Packed, ...]
    bytes_per_token: int
    fixed_bytes: int
    scratch_bytes: int
    quantized: Mapping[str, int] = field(default_factory=dict[str, int])
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    extras: tuple[str, ...] = ()
    real: str = ""
    spec: str = ""
    binds: str = ""
    batch: bool = False

    def workspace(self, tokens: int, threads: int) -> int:
        """The bytes of a call's workspace."""
        return self.bytes_per_token * tokens + self.fixed_bytes + self.scratch_bytes * (threads - 1)

    @property
    def storage(self) -> dict[str, str]:
        """The storage format of every parameter that has one."""
        return {name: packed.storage for packed in self.packed if packed.storage for name in packed.params}

    @property
    def reads(self) -> str:
        """All that is read of the weights, in order, as text: programs that read the same find it in the same place."""
        params = {param.name: param for param in self.params}
        return repr((self.name, [params[name] for name in self.raw], self.packed))

    def to_json(self) -> dict[str, Any]:
        """The interface as plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Interface:
        """The inverse of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` on other data."""
        return Interface(
            name=str(data["name"]),
            inputs=_arrays(data["inputs"]),
            outputs=_arrays(data["outputs"]),
            aux=_arrays(data["aux"]),
            params=_arrays(data["params"]),
            raw=tuple(map(str, data["raw"])),
            packed=tuple(read_packed(item) for item in data["packed"]),
            bytes_per_token=int(data["bytes_per_token"]),
            fixed_bytes=int(data["fixed_bytes"]),
            scratch_bytes=int(data["scratch_bytes"]),
            quantized={str(name): int(length) for name, length in data["quantized"].items()},
            dims={str(name): int(value) for name, value in data["dims"].items()},
            extras=tuple(map(str, data["extras"])),
            real=str(data["real"]),
            spec=str(data["spec"]),
            binds=str(data["binds"]),
            batch=bool(data["batch"]),
        )


def _arrays(items: list[Mapping[str, Any]]) -> tuple[Array, ...]:
    return tuple(Array(str(item["name"]), str(item["dtype"]), tuple(map(int, item["shape"]))) for item in items)


def read_packed(item: Mapping[str, Any]) -> Packed:
    """The inverse of `asdict`. Raises `KeyError`, `TypeError` or `ValueError` on other data."""
    views = tuple(tuple(map(str, steps)) for steps in item["views"])
    keys, n, k = (int(item[name]) for name in ("keys", "n", "k"))
    panel, storage = (str(item[name]) for name in ("panel", "storage"))
    return Packed(tuple(map(str, item["params"])), views, keys, n, k, panel, storage)
