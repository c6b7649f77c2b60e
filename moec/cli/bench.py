"""`moec bench`: moec beside other implementations of the same layers, measured in turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moec.cli.shared import (
    Dims,
    activations_option,
    complain,
    dims_option,
    epilog,
    error_format_option,
    storage_option,
)
from moec.dtypes import StorageLike

if TYPE_CHECKING:
    from rich.console import Console

    from moec.bench.peers import Peer
    from moec.bench.results import Results
    from moec.options import Options

_EXAMPLES = (
    "moec bench",
    "moec bench examples/olmoe.moe --tokens 1,16,512 --against numpy,torch",
    "moec bench examples --dims H=512,I=256 --dtype f32,bf16 --threads 1,2 --json results.json",
    "moec bench examples/olmoe.moe --dims E=16 --storage q4_0 --activations int8 --plot plots",
    "moec bench --ablate simd,specialize,arena,pack,threads",
)


def _names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    parts = _names(ctx, param, value)
    if not parts or not all(part.isascii() and part.isdigit() and 0 < int(part) < 1 << 20 for part in parts):
        raise click.BadParameter(f"`{value}` is not a list of numbers, as in 1,16,512", ctx, param)
    return [int(part) for part in parts]


@click.command("bench", epilog=epilog(*_EXAMPLES))
@click.argument("file", type=click.Path(), required=False)
@dims_option
@click.option("--tokens", default="1,4,16,64,512", show_default=True, callback=_numbers, help="Tokens of a call.")
@click.option(
    "--dtype", default="f32", show_default=True, callback=_names, help="What `real` stands for, each in turn."
)
@storage_option
@activations_option
@click.option("--threads", default="1", show_default=True, callback=_numbers, help="Threads of a call, each in turn.")
@click.option("--against", default="", callback=_names, help="Peers.  [default: all that are installed]")
@click.option(
    "--seconds", default=1.0, show_default=True, type=click.FloatRange(0), help="For each peer at each point."
)
@click.option("--json", "output", metavar="FILE|-", help="Write the results as JSON; - is standard output.")
@click.option(
    "--plot", metavar="DIR", type=click.Path(file_okay=False), help="Draw rooflines and speeds (needs matplotlib)."
)
@click.option("--ablate", metavar="NAME,…", default="", callback=_names, help="What these parts of moec are worth.")
@error_format_option
def command(
    file: str | None,
    dims: Dims,
    tokens: list[int],
    dtype: list[str],
    storage: StorageLike,
    activations: str,
    threads: list[int],
    against: list[str],
    seconds: float,
    output: str | None,
    plot: str | None,
    ablate: list[str],
) -> None:
    """Time the layer in FILE, or every layer in a directory, beside other implementations.

    Each is checked against the oracle, then all are timed in turns. `of limit` is the least time that the machine's
    arithmetic and memory allow, both measured in this process, over the median. Without FILE it is the layer that moec
    began with: ReLU, H 1024, I 4096, E 8, K 2.

    --ablate switches parts of moec off, one at a time, and measures what each is worth: simd, specialize, arena, pack,
    threads.
    """
    from rich.console import Console

    from moec import __version__
    from moec.bench.layer_files import layer_path
    from moec.bench.results import Results
    from moec.files import require_place
    from moec.options import Options

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if output and output != "-":
        require_place(Path(output))
    if ablate:
        _ablate(ablate, output, console)
        return
    peers = choose_peers(against, console)
    paths = _paths(file) if file else [layer_path("seed")]
    if plot:
        require_matplotlib()
    results = Results(console, __version__)
    options = [
        Options.of(dims, kind, count, storage=storage, activations=activations) for kind in dtype for count in threads
    ]
    _measure(results, paths, options, peers, tokens, seconds)
    _report(results.finish(), output, plot, console)


def _measure(
    results: Results, paths: list[Path], options: list[Options], peers: list[Peer], tokens: list[int], seconds: float
) -> None:
    """Times every layer with all the options."""
    from moec.language.read import read

    for path in paths:
        source = read(path)
        for each in options:
            results.add(path.stem, source, each, peers, tokens, seconds)


def _ablate(parts: list[str], output: str | None, console: Console) -> None:
    """Measures what parts of moec are worth."""
    from moec.bench.ablate import PARTS, ablate_all

    if unknown := [name for name in parts if name not in PARTS]:
        text = f"`{unknown[0]}` cannot be switched off; there are {', '.join(PARTS)}"
        raise click.BadParameter(text, param_hint="--ablate")
    _write(ablate_all(parts, console, show=output != "-"), output)


def _write(found: Any, output: str | None) -> None:
    """Writes what was measured as JSON, where that is asked for."""
    if output:
        text = json.dumps(found, indent=1) + "\n"
        click.echo(text, nl=False) if output == "-" else Path(output).write_text(text)


def _report(found: dict[str, Any], output: str | None, plot: str | None, console: Console) -> None:
    """Prints, writes and draws what was measured."""
    from moec.bench.results import show

    if output != "-":
        show(found["rows"])
    _write(found, output)
    if plot:
        from moec.bench.plots import draw

        console.print(f"{len(draw(found, Path(plot)))} pictures in {plot}")


def _paths(file: str) -> list[Path]:
    paths = sorted(Path(file).glob("*.moe")) if Path(file).is_dir() else [Path(file)]
    if not paths:
        raise click.BadParameter(f"`{file}` holds no .moe file", param_hint="FILE")
    return paths


def choose_peers(names: list[str], console: Console) -> list[Peer]:
    """The peers of these names that are installed, all that are where no name is given; says which are not."""
    from moec.bench.peers import all_peers

    known = all_peers()
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(
            f"no peer is called `{unknown[0]}`; there are {', '.join(known)}", param_hint="--against"
        )
    for name in names or known:
        if known[name].python is None:
            console.print(f"{name} is not installed and left out: moec peers --install {name}")
    return [known[name] for name in names or known if known[name].python is not None]


def require_matplotlib() -> None:
    """Ends the command where nothing can be drawn, before anything is measured."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        complain("pictures need matplotlib: pip install 'moec[plot]'")
