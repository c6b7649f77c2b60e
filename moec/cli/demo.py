"""`moec demo`: what moec is about, in two minutes."""

from __future__ import annotations

from pathlib import Path

import click

from moec.cli.shared import epilog, error_format_option

_DIMS = {"H": 1024, "I": 2048}
_TOKENS = (1, 16, 128)


@click.command("demo", epilog=epilog("moec demo", "moec demo --plot pictures"))
@click.option("--plot", metavar="DIR", default="moec-demo", show_default=True, help="Where the pictures go.")
@error_format_option
def command(plot: str) -> None:
    """Compile Mixtral's layer (H 1024, I 2048), check it, and time it beside NumPy and PyTorch.

    Peers that are not installed are left out, pictures too where matplotlib is missing.
    """
    from importlib.util import find_spec

    from rich.console import Console

    from moec import __version__
    from moec.bench.layer_files import layer_path
    from moec.bench.peers import all_peers
    from moec.bench.results import Results, show
    from moec.language.read import read
    from moec.options import Options

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    path = layer_path("mixtral")
    source = read(path)
    click.echo(source.text.partition("\nbind")[0].rstrip() + "\n")
    peers = [each for name in ("numpy", "numpy-naive", "torch") if (each := all_peers()[name]).python]
    results = Results(console, __version__)
    for kind in ("f32", "bf16"):
        results.add(path.stem, source, Options.of(_DIMS, kind, 1), peers, _TOKENS, 0.3)
    found = results.finish()
    show(found["rows"])
    if find_spec("matplotlib") is None:
        click.echo("no pictures: pip install 'moec[plot]'")
        return
    from moec.bench.plots import draw

    click.echo(f"{len(draw(found, Path(plot)))} pictures in {plot}")
