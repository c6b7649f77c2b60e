"""What the commands share: options, help texts, how errors are told, exit codes.

0 is success, 1 a wrong input, 2 wrong usage (click's own), 70 a fault of moec itself, 130 an interrupt.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeAlias

import click

from moec.diagnostics import CompileError
from moec.dtypes import EXPERTS, StorageLike

#: `--dims` as a command gets it.
Dims: TypeAlias = dict[str, int]

WRONG: Final = 1
FAULT: Final = 70  # sysexits' EX_SOFTWARE
INTERRUPTED: Final = 130  # as a shell says it of SIGINT

#: The most digits of a dimension.
_DIGITS: Final = 18

#: Where a command's context keeps how errors are printed.
_FORMAT: Final = "moec.error_format"

ENVIRONMENT: Final = """\b
Environment:
  MOEC_CACHE_DIR     where compiled layers are kept
  MOEC_NUM_THREADS   how many threads a call may use (then OMP_NUM_THREADS)
  MOEC_DUMP          stages to write while compiling: MOEC_DUMP=plan,asm
  MOEC_DUMP_DIR      where they go (the current directory)
  MOEC_DEBUG         1: a traceback where moec itself fails
  NO_COLOR           no colours
"""


def epilog(*examples: str, more: str = "") -> str:
    """What stands below a command's options: examples, what else there is to know, the environment."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples) + f"\n\n{more}\n\n{ENVIRONMENT}"


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_dims(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Dims:
    """`H=2048,E=8`, as often as it is given; of a dimension that is given twice the last value holds."""
    dims: Dims = {}
    for item in filter(None, (part.strip() for value in values for part in value.split(","))):
        name, equals, number = (part.strip() for part in item.partition("="))
        if not equals or not name.isidentifier() or not (number.isascii() and number.isdigit()):
            raise click.BadParameter(f"`{item}` is not NAME=NUMBER, as in H=2048,E=8", ctx, param)
        if len(number) > _DIGITS:
            raise click.BadParameter(f"`{name}` is larger than any dimension can be", ctx, param)
        dims[name] = int(number)
    return dims


def _read_storage(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> StorageLike:
    """`q4_0`, `q4_0,down=q6_K`: a format without a name in front is that of all experts; None where none is given."""
    chosen: dict[str, str] = {}
    for item in filter(None, (part.strip() for value in values for part in value.split(","))):
        name, equals, format = (part.strip() for part in item.partition("="))
        if equals and not (name.isidentifier() and format):
            raise click.BadParameter(f"`{item}` is not NAME=FORMAT, as in gate=q4_K,down=q6_K", ctx, param)
        chosen[name if equals else EXPERTS] = format or name
    return chosen or None


def _remember(ctx: click.Context, param: click.Parameter, value: str) -> None:
    ctx.meta[_FORMAT] = value


file_argument = click.argument("file", type=click.Path())
dims_option = click.option(
    "--dims", metavar="NAME=N,…", multiple=True, callback=_read_dims, help="Values of dimensions; may be repeated."
)
dtype_option = click.option("--dtype", default="f32", show_default=True, help="What `real` stands for: f32, bf16, f16.")
storage_option = click.option(
    "--storage",
    metavar="[NAME=]FORMAT,…",
    multiple=True,
    callback=_read_storage,
    help="Storage formats of weights; without a name, of all stacks of experts.",
)
activations_option = click.option(
    "--activations",
    default="real",
    show_default=True,
    help="How vectors are multiplied with stored weights: real, or quantised to int8.",
)
prefix_option = click.option(
    "--prefix", default="", metavar="NAME", help="What stands before the block's tensors: model.layers.3.mlp, blk.3."
)
bind_option = click.option(
    "--bind", metavar="NAME", help="The bind block to use.  [default: the one whose tensors are there]"
)
threads_option = click.option("--threads", type=click.IntRange(1), help="Threads of a call.  [default: all processors]")
aux_option = click.option(
    "--aux", multiple=True, metavar="NAME", help="An auxiliary output to compute; may be repeated."
)
error_format_option = click.option(
    "--error-format",
    type=click.Choice(["human", "json"]),
    default="human",
    is_eager=True,
    expose_value=False,
    callback=_remember,
    help="How errors are printed; json: an object a line.",
)

# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def errors_told() -> Generator[None]:
    """Tells what goes wrong inside to the user and exits; nobody sees a traceback for a wrong input."""
    try:
        yield
    except CompileError as error:
        tell(error)
        sys.exit(WRONG)
    except KeyboardInterrupt:
        click.echo(err=True)
        sys.exit(INTERRUPTED)
    except MemoryError as error:
        complain(f"not enough memory: {error}" if str(error) else "not enough memory")
    except OSError as error:
        if error.errno == errno.EPIPE:  # click leaves quietly
            raise
        if error.errno is None:
            _blame(error)
        tell_of_file(error)
        sys.exit(WRONG)
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except Exception as error:
        _blame(error)


def tell(error: CompileError) -> None:
    """Prints every diagnostic of an error on standard error."""
    for diagnostic in error.diagnostics:
        if _is_json():
            click.echo(json.dumps(diagnostic.to_json(), ensure_ascii=False), err=True)
        else:
            click.echo(diagnostic.render(color=_is_coloured()) + "\n", err=True)


def complain(message: str) -> NoReturn:
    """Ends the command for a reason outside the language: no memory, a package that is missing."""
    _tell(message)
    sys.exit(WRONG)


def tell_of_file(error: OSError) -> None:
    """Prints what the system says of a file, or of a disk that is full."""
    reason = (error.strerror or str(error)).lower()
    _tell(reason if error.filename is None else f"`{error.filename}`: {reason}")


def _tell(message: str) -> None:
    """Prints an error that has no code."""
    if _is_json():
        fields: dict[str, Any] = {
            "code": None,
            "severity": "error",
            "message": message,
            "span": None,
            "causes": [],
            "help": None,
        }
        click.echo(json.dumps(fields, ensure_ascii=False), err=True)
    else:
        from moec.excerpt import paint

        click.echo(f"{paint('error', 'error', _is_coloured())}: {message}", err=True)


def _blame(error: Exception) -> NoReturn:
    """moec itself has failed."""
    if os.environ.get("MOEC_DEBUG", "0") != "0":
        raise error
    click.echo(
        f"moec failed, and this is its own fault: {type(error).__name__}: {error}\n"
        "Please report it with the file, the command and `moec --version`. MOEC_DEBUG=1 shows where it happened.",
        err=True,
    )
    sys.exit(FAULT)


def _is_json() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(_FORMAT) == "json"


def _is_coloured() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
