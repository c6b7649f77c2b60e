"""What the commands share: reading `--dims`, telling errors, exit codes."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from moec.diagnostics import CompileError

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Dims(click.ParamType[dict[str, int]]):
    """`H=2048,E=8`."""

    name = "NAME=N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        if isinstance(value, dict):
            return value  # pyright: ignore[reportUnknownVariableType]
        dims: dict[str, int] = {}
        for item in filter(None, value.split(",")):
            name, equals, number = (part.strip() for part in item.partition("="))
            if not equals or not name.isidentifier() or not number.isdigit():
                self.fail(f"`{item}` is not NAME=NUMBER, as in H=2048,E=8", param, ctx)
            dims[name] = int(number)
        return dims


dims_option = click.option("--dims", type=Dims(), default="", help="Values of dimensions: H=2048,E=8.")
dtype_option = click.option("--dtype", default="f32", show_default=True, help="What `real` stands for: f32, bf16, f16.")
threads_option = click.option("--threads", type=click.IntRange(1), help="Threads of a call. [default: all processors]")
file_argument = click.argument("file", type=click.Path())


def told(function: _Command) -> _Command:
    """Adds `--error-format`, and tells errors to the user: exit code 1, never a traceback for wrong input."""

    @click.option(
        "--error-format", type=click.Choice(["human", "json"]), default="human", help="How errors are printed."
    )
    @functools.wraps(function)
    def command(*args: Any, error_format: str, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except CompileError as error:
            tell(error, error_format)
            sys.exit(1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if os.environ.get("MOEC_DEBUG") or isinstance(error, click.ClickException | click.exceptions.Exit):
                raise
            what = f"{type(error).__name__}: {error}"
            click.echo(f"moec failed, and this is its own fault: {what}\nMOEC_DEBUG=1 shows where.", err=True)
            sys.exit(1)

    return command  # pyright: ignore[reportReturnType]


def tell(error: CompileError, error_format: str = "human") -> None:
    """Prints every diagnostic of an error."""
    for diagnostic in error.diagnostics:
        if error_format == "json":
            click.echo(json.dumps(diagnostic.to_json(), ensure_ascii=False), err=True)
        else:
            click.echo(diagnostic.render(color=colored()) + "\n", err=True)


def colored() -> bool:
    """Whether errors may have colours."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
