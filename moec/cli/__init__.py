"""The command `moec`. One file a subcommand; each imports what it needs when it runs."""

from __future__ import annotations

import importlib
from typing import Any, Final

import click

from moec import __version__
from moec.cli.shared import epilog, errors_told

_COMMANDS: Final = {
    "run": "compile a layer, run it on random weights, check it, time it",
    "compile": "print or write any stage of a compilation",
    "check": "errors and warnings only",
    "fmt": "the one layout of a file",
    "explain": "what runs: FLOPs, bytes, tiles and limits of each stage",
    "bench": "time a layer beside other implementations of it",
    "demo": "two minutes: compile, check, compare, draw",
    "peers": "the implementations that `bench` compares with",
    "serve": "a model behind OpenAI's API, its blocks compiled",
    "pack": "a checkpoint's weights in a file that maps into memory",
    "opt": "xDSL's driver with moec's dialects and passes",
}

_EXAMPLES: Final = (
    "moec run examples/mixtral.moe --dims H=1024,I=2048",
    "moec compile examples/mixtral.moe --emit plan",
    "moec compile examples/mixtral.moe --emit asm --target aarch64-linux-gnu -o -",
    "moec check layer.moe && moec fmt layer.moe",
)

_CODES: Final = """\b
Exit codes:
  0   done
  1   the input is wrong
  2   the command line is wrong
  70  moec itself failed
  130 interrupted
"""


class _Commands(click.Group):
    """Imports a command's file when the command is used, and tells errors for all of them."""

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

    def invoke(self, ctx: click.Context) -> Any:
        with errors_told():
            return super().invoke(ctx)


@click.group(
    cls=_Commands,
    epilog=epilog(*_EXAMPLES, more=_CODES),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="moec", message="%(prog)s %(version)s")
def main() -> None:
    """A compiler for Mixture-of-Experts layers: the mathematics of one layer, in a .moe file, becomes native code."""


if __name__ == "__main__":
    main()
