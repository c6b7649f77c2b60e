"""The command `moec`. One file a subcommand; each imports what it needs when it runs."""

from __future__ import annotations

import importlib
from typing import Any

import click

_COMMANDS = {
    "run": "compile a layer, run it on random weights, check it, time it",
    "compile": "print or write any stage of a compilation",
    "check": "errors and warnings only",
    "fmt": "the one layout of a file",
    "explain": "what runs: FLOPs, bytes, tiles and limits of each stage",
    "opt": "xDSL's driver with moec's dialects and passes",
}

_EPILOG = """\b
Examples:
  moec run examples/mixtral.moe --dims H=1024,I=2048
  moec compile examples/mixtral.moe --emit plan
  moec compile examples/mixtral.moe --emit asm --target aarch64-linux-gnu -o -
  moec check layer.moe && moec fmt layer.moe

\b
Environment:
  MOEC_CACHE_DIR     where compiled layers are kept
  MOEC_NUM_THREADS   how many threads a call may use (then OMP_NUM_THREADS)
  MOEC_DUMP          stages to write while compiling: MOEC_DUMP=plan,asm
  MOEC_DUMP_DIR      where they go (the current directory)
  MOEC_DEBUG         1: a traceback where moec itself fails
  NO_COLOR           no colours
"""


class _Commands(click.Group):
    """Imports a command's file when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return importlib.import_module(f"moec.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], [*_COMMANDS], n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"`{args[0]}` is not a command of moec.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="moec", prog_name="moec", message="%(prog)s %(version)s")
def main() -> None:
    """A compiler for Mixture-of-Experts layers: the mathematics of one layer, in a .moe file, becomes native code."""
