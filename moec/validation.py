"""Arguments that callers of Python give, checked where they come in: integers, dimensions, names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import index
from typing import Final, SupportsIndex, cast

from moec.diagnostics import fail, nearest

#: Beyond every dimension: what machines count with.
_BEYOND: Final = 1 << 63


def as_integer(value: object) -> int | None:
    """An integer of Python, NumPy or torch as Python's; None where a value is none."""
    try:
        return None if isinstance(value, bool) else index(cast(SupportsIndex, value))
    except TypeError:
        return None


def by_name(given: object) -> Mapping[str, object] | None:
    """What a caller gives by name; None where it is no such thing."""
    if not isinstance(given, Mapping):
        return None
    found = cast("Mapping[object, object]", given)
    return cast("Mapping[str, object]", found) if all(isinstance(name, str) for name in found) else None


def sizes(dims: object) -> dict[str, int]:
    """Dimensions by name, as a caller gives them; None gives none.

    Raises `CompileError`: E0305 where they are not sizes by name, E0206 where one is no positive integer.
    """
    found = by_name({} if dims is None else dims)
    if found is None:
        raise fail("E0305", f"{dims!r} is not sizes by name", help='dimensions are given as `{"H": 2048}`')
    return {name: _size(name, value) for name, value in found.items()}


def _size(name: str, value: object) -> int:
    size = as_integer(value)
    if size is not None and abs(size) >= _BEYOND:
        raise fail("E0206", f"dimension `{name}` has more digits than any can have")
    if size is None or size < 1:
        raise fail("E0206", f"dimension `{name}` is {value!r}, not a positive integer")
    return size


def names_of(given: object) -> tuple[str, ...]:
    """Names that a caller gives, one or several: each once, sorted. Raises `CompileError` (E0305) where they are no
    names."""
    several = [given] if isinstance(given, str) else given
    found = [*cast("Iterable[object]", several)] if isinstance(several, Iterable) else [None]
    if not all(isinstance(name, str) for name in found):
        raise fail("E0305", f"{given!r} is neither a name nor several", help='names are given as `["a", "b"]`')
    return tuple(sorted({*cast("list[str]", found)}))


def aux_of(given: object, known: Collection[str], layer: str) -> tuple[str, ...]:
    """The auxiliary outputs that a caller asks a layer for, of those that it knows: True is all, None and False are
    none. Raises `CompileError` (E0305) where the layer has not got one."""
    names = tuple(sorted(known)) if given is True else names_of(given or ())
    for name in names:
        if name not in known:
            raise fail("E0305", f"`{layer}` has no aux `{name}`", help=nearest(name, [*known]))
    return names
