"""`moec serve`: a model behind OpenAI's API, by transformers' own server, its blocks compiled by moec."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from moec.cli.shared import complain, epilog, error_format_option, storage_option, threads_option
from moec.dtypes import StorageLike
from moec.formats import storage_of

_EXAMPLES: Final = (
    "moec serve ./olmoe --storage q4_0",
    "moec serve ./qwen3-moe --port 0 --threads 8 --dtype bf16",
)
#: What the extra `serve` installs.
_NEEDED: Final = ("torch", "transformers", "accelerate", "fastapi", "openai", "uvicorn")
_DTYPES: Final = {"auto": "auto", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@click.command("serve", epilog=epilog(*_EXAMPLES))
@click.argument("model")
@storage_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice([*_DTYPES]),
    help="What the model is loaded in; auto: as it is stored.",
)
@threads_option
@error_format_option
def command(model: str, storage: StorageLike, host: str, port: int, dtype: str, threads: int | None) -> None:
    """Serve MODEL, a directory with a checkpoint or a name on the hub, with the interface of OpenAI's API.

    Needs the extra `serve`: pip install 'moec[serve]'. SIGINT (Ctrl-C) ends it.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        complain(f"`moec serve` needs {', '.join(missing)}: pip install 'moec[serve]'")
    storage_of(storage)  # whose error, as those of the next lines, should not wait for a model to be loaded
    _check_model(model)
    _check_address(host, port)
    import torch
    from safetensors import SafetensorError

    from moec.integrations.serving import Models, serve

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        models = Models(model, _DTYPES[dtype], storage)
    except (OSError, ValueError, SafetensorError) as error:
        complain(f"`{model}` cannot be loaded: {str(error).splitlines()[0]}")
    for line in models.report:
        click.echo(f"moec: {line}", err=True)
    serve(models, host, port)


def _check_model(model: str) -> None:
    """Ends the command where MODEL is the path of no directory, which is no name on the hub either."""
    path = Path(model)
    if not path.is_dir() and (
        path.exists() or path.is_absolute() or model.startswith((".", "~")) or len(path.parts) > 2
    ):
        complain(f"`{model}` is no directory")


def _check_address(host: str, port: int) -> None:
    """Ends the command where nobody may listen."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            complain(f"nothing can listen at {host}, port {port}: {(error.strerror or str(error)).lower()}")
