"""The `genai` command: registers the commands, and turns every failure into one line and an exit code.

    0    done
    1    a bug in this program, or an error of the operating system that nobody foresaw
    2    a wrong option, a bad input, a model that cannot be had or run: one line on standard error says what
    130  interrupted with Ctrl-C

`GENAI_DEBUG=1` shows tracebacks. Other distributions add commands through the entry-point group `genai.commands`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, TextIO

import typer

from genai.cli.bench import bench
from genai.cli.build import build
from genai.cli.chat import chat
from genai.cli.conformance import conformance
from genai.cli.convert import convert
from genai.cli.embed import embed
from genai.cli.export import export
from genai.cli.generate_file import generate_file
from genai.cli.inspect import inspect
from genai.cli.models import models
from genai.cli.pull import pull
from genai.cli.run import run
from genai.cli.score import score
from genai.config import is_debugging
from genai.errors import GenAIError
from genai.extras import extra_of, how_to_install

_DISTRIBUTION = "onnx-kv-runtime"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_COMMANDS: tuple[Callable[..., None], ...] = (
    run,
    chat,
    generate_file,
    embed,
    score,
    pull,
    build,
    convert,
    export,
    models,
    inspect,
    conformance,
    bench,
)
# A usage error's class has no public name; it is what a bad parameter is a kind of.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def application() -> typer.Typer:
    """The command line with all its commands."""
    app = typer.Typer(
        name="genai",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_top)
    known = {command.__name__.replace("_", "-"): command for command in _COMMANDS}
    for name, command in known.items():
        app.command(name)(command)
    for entry in importlib.metadata.entry_points(group="genai.commands"):
        if entry.name not in known:
            app.command(entry.name)(_plugin(entry))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    code = exit_code(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    sys.exit(code)


def exit_code(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code. Every failure has been printed."""
    try:
        result = application()(list(arguments), prog_name="genai", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        return 128 + 13
    except SystemExit as leaving:  # how typer ends on a closed pipe
        return leaving.code if isinstance(leaving.code, int) else 1
    except GenAIError as error:
        return _failed(2, str(error))
    except _UsageError as error:
        return _failed(2, _usage_message(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return _failed(2, f"cannot write {error.filename or 'the output'}: {error.strerror}")
        hint = "" if is_debugging() else " (GENAI_DEBUG=1 shows where)"
        return _failed(1, f"unexpected {type(error).__name__}: {error}{hint}")


def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Run language models on ONNX Runtime.

    Try: genai run smollm2-135m-instruct "Name three colours."
    """
    if version:
        typer.echo(f"genai {_version()}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _version() -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _plugin(entry: importlib.metadata.EntryPoint) -> Callable[..., None]:
    """A plugin's command; one that cannot be imported becomes a command that says so."""
    try:
        command: Callable[..., None] = entry.load()
        return command
    except Exception as error:
        extra = extra_of(error.name) if isinstance(error, ModuleNotFoundError) else None
        hint = f" ({how_to_install(extra)})" if extra else ""
        reason = f"`genai {entry.name}` cannot be loaded: {error}{hint}"

    def unavailable() -> None:
        raise GenAIError(reason)

    unavailable.__doc__ = "(cannot be loaded)"
    return unavailable


def _failed(code: int, message: str) -> int:
    if is_debugging():
        traceback.print_exc()
    with contextlib.suppress(OSError):
        print(f"genai: {_on_one_line(message)}", file=sys.stderr)
    return code


def _on_one_line(message: str) -> str:
    """A message that steers no terminal: names in it come out of files that somebody else made."""
    line = " ".join(message.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def _usage_message(error: Exception) -> str:
    """A usage error as one line that says where help is."""
    text = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
    context = getattr(error, "ctx", None)
    text = text.replace("Value error, ", "").rstrip(".")
    return f"{text}; see {context.command_path if context else 'genai'} --help"


def _open_closed_streams() -> None:
    """Give what was started without one of its streams (`2>&-`) one that says nothing.

    Otherwise the next file that is opened would take its number, and what libraries print would go there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the process ends)


def _let_go(stream: TextIO) -> None:
    """Drop what a stream cannot take, its reader gone or its disk full: the interpreter would complain of it."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
