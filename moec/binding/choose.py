"""Which `bind` block of a file a checkpoint fits, and which tensors it has to have."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from moec.binding.entries import bound_by
from moec.checkpoint.prefix import elsewhere, where
from moec.diagnostics import fail, quoted
from moec.language import syntax


def choose_bind(file: syntax.File, tensors: Collection[str], kind: str) -> str | None:
    """The `bind` block for a checkpoint: of those whose tensors it has all, the only one, or the one that is called
    `kind`. None stands for the parameters' own names.

    Raises `CompileError` (E0405) where several would do, or none does; what `bound_by` raises.
    """
    names = _names(file)
    lacking = {name: [tensor for tensor in needed(file, name) if tensor not in tensors] for name in names}
    fitting = [name for name in names if not lacking[name]]
    if len(fitting) == 1 or (kind in fitting):
        return fitting[0] if len(fitting) == 1 else kind
    apart = elsewhere((missing[0] for missing in lacking.values() if missing), tensors)
    if len(names) == 1 and not (fitting or apart):
        return names[0]  # binding says all that is missing, and where it stands
    if fitting:
        text = f"{where(tensors)} fits several binds: {quoted(name for name in fitting if name)}"
        raise fail("E0405", text, help="name one (`bind=`, `--bind`)")
    lost = ", ".join(f"`{name}` needs `{missing[0]}`" for name, missing in lacking.items())
    raise fail("E0405", f"{where(tensors)} fits no bind: {lost}", help=apart)


def _names(file: syntax.File) -> list[str | None]:
    """The blocks of a file; None, which is none, where it has none."""
    return [block.name.id for block in file.binds] or [None]


def needed(file: syntax.File, name: str | None) -> Iterator[str]:
    """The tensors that a `bind` block cannot do without; of one per expert the first."""
    for bound in bound_by(file, name):
        for tensor in bound.view.tensors:
            yield from tensor.needed


def asked_for(file: syntax.File, name: str | None) -> list[str]:
    """The tensors that a `bind` block cannot do without; those of all blocks where none is named."""
    return [tensor for block in ([name] if name else _names(file)) for tensor in needed(file, block)]


def called(file: syntax.File, name: str | None, tensors: Collection[str]) -> dict[str, str]:
    """What errors call the parameters that a `bind` block takes from a checkpoint: the tensors, and the file."""
    home = where(tensors)
    return {
        bound.param: f"{quoted(tensor.name for tensor in bound.view.tensors)} in {home}"
        for bound in bound_by(file, name)
    }
