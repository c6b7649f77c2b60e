"""`moec opt`: xDSL's own driver with moec's dialects and passes registered."""

from __future__ import annotations

import sys

import click


@click.command("opt", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Run passes over MLIR: `moec opt FILE.mlir -p "infer-shapes,fuse-maps"`. Options are xdsl-opt's."""
    from moec.opt import main

    sys.exit(main(list(arguments)))
