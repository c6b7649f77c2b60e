"""`moec pack`: a layer's weights out of a checkpoint, packed, in a file that maps into memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moec.cli.shared import (
    Dims,
    bind_option,
    dims_option,
    dtype_option,
    epilog,
    error_format_option,
    prefix_option,
    storage_option,
)
from moec.dtypes import StorageLike

if TYPE_CHECKING:
    from moec.cli.report import Report
    from moec.runtime.kernel import Kernel
    from moec.runtime.weights import Weights

_EXAMPLES = (
    "moec pack olmoe/ --spec examples/olmoe.moe --prefix model.layers.3.mlp --dtype bf16",
    "moec pack model.gguf --spec examples/olmoe.moe --prefix blk.3 -o layer3.moepack",
    "moec pack layer3.moepack --verify",
)


@click.command("pack", epilog=epilog(*_EXAMPLES))
@click.argument("path", type=click.Path())
@click.option("--spec", metavar="FILE", type=click.Path(), help="The layer's .moe file.")
@click.option("-o", "--output", metavar="FILE", help="Where to.  [default: LAYER.moepack]")
@prefix_option
@bind_option
@dims_option
@dtype_option
@storage_option
@click.option("--verify", is_flag=True, help="Of packed weights: read all of them and compare their checksums.")
@error_format_option
def command(
    path: str,
    spec: str | None,
    output: str | None,
    prefix: str,
    bind: str | None,
    dims: Dims,
    dtype: str,
    storage: StorageLike,
    verify: bool,
) -> None:
    """Pack a layer's weights out of the checkpoint PATH: a .safetensors or .gguf file, an index, or a directory.

    Dimensions are those of the tensors, unless --dims says otherwise. Quantised tensors stay as they are stored, unless
    --storage does. One expert after the other is read, so the packed weights and one expert have to fit into memory.

    Of a file that this command wrote, PATH says what is in it.
    """
    from moec.checkpoint.files import MappedFile
    from moec.checkpoint.moepack import is_moepack
    from moec.cli import report
    from moec.files import require_place
    from moec.fitting import fit
    from moec.kernels import open_layer
    from moec.language.read import read
    from moec.options import Options

    screen = report.Report()
    if is_moepack(path):
        _describe(Path(path), verify, screen)
        return
    if spec is None:
        if not Path(path).is_dir():
            MappedFile(Path(path))  # says why where it cannot be read
        raise click.UsageError("--spec is missing: which layer's weights are they?")
    source = read(spec)
    found, _ = fit(source, path, prefix, bind, dims)
    kernel = open_layer(source, Options.of(found, dtype, threads=1))
    target = Path(output or f"{kernel.name}.moepack")
    require_place(target)
    start = time.perf_counter()
    weights = _load(kernel, screen, path, prefix, bind, storage)
    took = report.duration(time.perf_counter() - start)
    kernel = kernel.of(weights)
    screen.say("layer", report.layer(kernel.interface), report.signature(kernel.interface))
    screen.say("weights", f"packed in {took} to {report.amount(weights.nbytes, 'B')}", *_formats(kernel))
    with screen.progress("writing") as progress:
        kernel.save(weights, target, progress)
    screen.say("written", str(target))


def _load(kernel: Kernel, screen: Report, path: str, prefix: str, bind: str | None, storage: StorageLike) -> Weights:
    with screen.progress("packing") as progress:
        return kernel.load(path, prefix, bind, storage, progress=progress)


def _formats(kernel: Kernel) -> list[str]:
    """What each parameter is kept as."""
    kept = {param.name: kernel.storage.get(param.name, param.dtype) for param in kernel.interface.params}
    groups = {format: [name for name, other in kept.items() if other == format] for format in kept.values()}
    return [f"{format}: {', '.join(names)}" for format, names in groups.items()]


def _describe(path: Path, verify: bool, screen: Report) -> None:
    """What a file of packed weights has."""
    from moec.checkpoint.moepack import Moepack
    from moec.cli.report import amount, duration
    from moec.runtime import saved

    start = time.perf_counter()
    pack = Moepack(path, verify)
    contents = saved.describe(pack)
    screen.say("layer", contents.pop("layer"))
    for label, text in contents.items():
        screen.say(label, text)
    how = "all checksums compared" if verify else "its header checked"
    screen.say("file", f"{amount(path.stat().st_size, 'B')}, {how} in {duration(time.perf_counter() - start)}")
