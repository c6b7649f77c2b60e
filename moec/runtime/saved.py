"""Packed weights in a file, mapped back in as a kernel reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from moec.arrays import NUMPY, Data
from moec.checkpoint.files import damaged
from moec.checkpoint.moepack import Moepack, write_moepack
from moec.diagnostics import CompileError, fail, quoted
from moec.dtypes import Storage
from moec.formats import storage_of
from moec.formats.blocks import Blocks
from moec.runtime.interface import Interface, Packed, read_packed
from moec.runtime.pack import all_bytes
from moec.runtime.weights import Weights, converted
from moec.shapes import PanelShape

#: How panels lie in memory (`moec.runtime.pack`, `moec.formats.panels`). Whoever changes that adds one.
PANELS: Final = 4


def save(
    path: Path | str, interface: Interface, weights: Weights, progress: Callable[[int], object] | None = None
) -> None:
    """Writes weights that `interface` reads.

    Raises `CompileError` (E0901) for a quantised parameter that only an auxiliary output reads, and `OSError`.
    """
    raw = {**weights.raw, **{name: _rest(weights, interface, name) for name in weights.rest}}
    header = {
        **_identity(interface),
        "panels": PANELS,
        "storage": [list(pair) for pair in weights.storage],
        "source": weights.source,
        "raw": [[name, str(data.dtype), list(data.shape)] for name, data in raw.items()],
        "packed": [asdict(packed) for packed in weights.panels],
    }
    flat = [np.ascontiguousarray(data).reshape(-1).view(np.uint8) for data in raw.values()]
    write_moepack(path, header, [*flat, *weights.panels.values()], progress)


def _rest(weights: Weights, interface: Interface, name: str) -> Data:
    source = weights.rest[name]
    if isinstance(source, Blocks):
        text = f"saving `{name}`, which only an auxiliary output reads and which comes as {source.format},"
        raise fail("E0901", f"{text} is not supported yet", help="compile with that `aux`, or pack it dense")
    return converted(source, next(param for param in interface.params if param.name == name))


def _identity(interface: Interface) -> dict[str, Any]:
    """What has to be the same."""
    return {
        "layer": interface.name,
        "dims": dict(interface.dims),
        "dtype": interface.real,
        "spec": interface.spec,
    }


def storage_in(pack: Moepack) -> Storage:
    """The storage formats of a file's weights. Raises `CompileError` (E0408)."""
    try:
        return storage_of({str(name): str(format) for name, format in _field(pack, "storage", list)})
    except (TypeError, ValueError):
        raise damaged(pack.path, "its header has no storage formats") from None
    except CompileError as error:
        raise unusable(pack, error) from None


def unusable(pack: Moepack, error: CompileError) -> CompileError:
    """The error for a file whose storage formats cannot be had."""
    return damaged(pack.path, error.diagnostics[0].message, help="pack the weights again")


def packed_for(pack: Moepack, layer: str) -> tuple[dict[str, int], str]:
    """The dimensions and the working precision that a file's weights were packed for. Raises `CompileError` (E0409)
    where they are of another layer."""
    if (name := _field(pack, "layer", str)) != layer:
        raise _other(pack, f"layer `{name}`, not `{layer}`")
    dims = {str(name): value for name, value in _field(pack, "dims", dict).items() if type(value) is int}
    return dims, _field(pack, "dtype", str)


def describe(pack: Moepack) -> dict[str, str]:
    """What a file has, in words, by subject."""
    dims, real = packed_for(pack, _field(pack, "layer", str))
    source = _field(pack, "source", dict)
    _check_version(pack)
    _, panels = _contents(pack)
    words = {"layer": f"{pack.header['layer']}: {', '.join(f'{name} {value}' for name, value in dims.items())}"}
    formats = ", ".join(f"{name} {format}" for name, format in storage_in(pack))
    words["weights"] = real + (f"; {formats}" if formats else "")
    widths = ((packed.storage or "dense", PanelShape.parse(packed.panel).columns) for packed in panels)
    words["panels"] = ", ".join(f"{kind} {columns} wide" for kind, columns in dict.fromkeys(widths))
    if files := _files(pack, source.get("files", [])):
        words["from"] = f"{', '.join(files)}, below `{source.get('prefix')}`"
    return words


def _files(pack: Moepack, stamps: Any) -> list[str]:
    """The names of the files that weights were packed from."""
    try:
        return [str(name) for name, _, _ in stamps]
    except (TypeError, ValueError):
        raise damaged(pack.path, "its header does not list the files of its source") from None


def _contents(pack: Moepack) -> tuple[list[tuple[str, str, tuple[int, ...]]], dict[Packed, Data]]:
    """What the sections are: the name, type and shape of each raw parameter, then panels, which are as long as they
    should be."""
    try:
        raw = [(str(name), str(dtype), tuple(map(int, shape))) for name, dtype, shape in _field(pack, "raw", list)]
        packed = [read_packed(item) for item in _field(pack, "packed", list)]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise damaged(pack.path, "its header does not list weights") from None
    if len(raw) + len(packed) != len(pack):
        raise damaged(pack.path, f"it has {len(pack)} sections for {len(raw) + len(packed)} weights")
    panels = {each: pack.section(len(raw) + index) for index, each in enumerate(packed)}
    for each, data in panels.items():
        _check_size(pack, each, data)
    return raw, panels


def _check_size(pack: Moepack, packed: Packed, data: Data) -> None:
    try:
        size = all_bytes(packed)
    except (LookupError, ValueError, ZeroDivisionError):
        size = -1
    if data.nbytes != size:
        raise damaged(pack.path, f"the panels of {quoted(packed.params)} have {data.nbytes:,} bytes")


def _field(pack: Moepack, name: str, kind: type) -> Any:
    value = pack.header.get(name)
    if not isinstance(value, kind):
        raise damaged(pack.path, f"its header has no `{name}`")
    return value


def restore(pack: Moepack, interface: Interface, storage: Storage) -> Weights:
    """The weights of a file, where they lie. Raises `CompileError`: E0409 where they are for something else than
    `interface`."""
    compare(pack, interface)
    raw, panels = _contents(pack)
    arrays = {name: _raw(pack, index, name, dtype, shape, interface) for index, (name, dtype, shape) in enumerate(raw)}
    _check_panels(pack, panels, interface)
    rest = {name: data for name, data in arrays.items() if name not in interface.raw}
    own = {name: data for name, data in arrays.items() if name in interface.raw}
    if lost := [name for name in interface.raw if name not in own]:
        raise _other(pack, f"`{lost[0]}` is not in it as this kernel reads it")
    return Weights(interface.name, own, panels, rest, storage)


def _other(pack: Moepack, message: str) -> CompileError:
    return fail("E0409", f"the weights in `{pack.path}` are for another kernel: {message}", help="pack them again")


def compare(pack: Moepack, interface: Interface) -> None:
    """Raises `CompileError` (E0409) unless a file's weights are of this layer, these dimensions, this precision."""
    for name, wanted in _identity(interface).items():
        given = pack.header.get(name)
        if given != wanted:
            if name == "spec":
                raise _other(pack, f"the text of `{interface.name}` has changed since they were packed")
            raise _other(pack, f"{name} {_told(given)}, not {_told(wanted)}")
    _check_version(pack)


def compare_storage(pack: Moepack, interface: Interface, wanted: Mapping[str, str]) -> None:
    """Raises `CompileError` (E0409) unless a file's weights, which `interface` reads, are stored in the formats
    `wanted`."""
    stored = interface.storage
    for name in (param.name for param in interface.params):
        if stored.get(name) != wanted.get(name):
            raise _other(pack, f"`{name}` is {stored.get(name, 'dense')}, not {wanted.get(name, 'dense')}")


def _check_version(pack: Moepack) -> None:
    if pack.header.get("panels") != PANELS:
        raise _other(pack, "another version of moec lays panels out otherwise")


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())  # pyright: ignore
    return f"`{value}`"


def _raw(pack: Moepack, index: int, name: str, dtype: str, shape: tuple[int, ...], interface: Interface) -> Data:
    param = next((param for param in interface.params if param.name == name), None)
    if param is None or param.shape != shape or str(NUMPY[param.dtype]) != dtype:
        raise _other(pack, f"`{name}` is {dtype}{list(shape)} there")
    data = pack.section(index)
    if data.nbytes != prod(shape) * NUMPY[param.dtype].itemsize:
        raise damaged(pack.path, f"`{name}` has {data.nbytes:,} bytes")
    return data.view(NUMPY[param.dtype]).reshape(shape)


def _check_panels(pack: Moepack, found: Mapping[Packed, Data], interface: Interface) -> None:
    for packed in interface.packed:
        if packed not in found:
            same, names = [other for other in found if other.params == packed.params], quoted(packed.params)
            if same and same[0].panel != packed.panel:
                machine = "another machine's, or for other activations"
                text = f"{names} in panels of {same[0].panel} columns ({machine}), this kernel reads {packed.panel}"
                raise _other(pack, text)
            raise _other(pack, f"{names} in other panels")
