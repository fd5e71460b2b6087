"""The program `lora-lab`: its commands, and its errors: a clear line and an exit code.

This module imports nothing heavy, so that `lora-lab --help` answers at once; a command imports
what it needs when it runs.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup

from lora_lab import __version__
from lora_lab.cli import ask, check, estimate, export, lab, playground, report, setup, sweep, train
from lora_lab.cli.classroom import classroom
from lora_lab.cli.options import gathered
from lora_lab.cli.show import note
from lora_lab.places import NoRoom

UsageError = typer.BadParameter.__base__  # of click, which Typer may or may not bring along
BAD_INPUT = (
    ValueError,
    TypeError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    ImportError,
    NoRoom,
)  # exit code 2: it would work with another command line, or another set-up
FAILURES = (OSError, ArithmeticError, MemoryError)  # exit code 1: no network, divergence


class Commands(TyperGroup):
    """The commands, with errors in words. `--debug` or LORA_LAB_DEBUG=1 shows where they arose."""

    def main(self, args: Sequence[str] | None = None, **options: object) -> None:
        """Run a command and end the process: 0 done, 1 failed, 2 bad input, 130 Ctrl-C."""
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments or os.environ.get("LORA_LAB_DEBUG", "0") not in ("", "0")
        arguments = gathered([word for word in arguments if word != "--debug"])  # at any place
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without some letter shows ?
        options["standalone_mode"] = False
        shown, warnings.showwarning = warnings.showwarning, _warn
        try:
            sys.exit(super().main(arguments, **options))
        except UsageError as error:
            status = _complain(_usage_text(error), 2)
        except typer.Abort:
            status = 130
        except (*BAD_INPUT, *FAILURES) as error:
            if debug:
                raise
            status = _complain(_error_text(error), 2 if isinstance(error, BAD_INPUT) else 1)
        finally:
            warnings.showwarning = shown
        sys.exit(status)

    def invoke(self, ctx: typer.Context) -> object:
        """Run the chosen command. Ctrl-C ends it with "stopped", unless the command handles it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise typer.Exit(_complain("stopped", 130)) from stopped


def _warn(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    """Print a warning for users in one line; warnings for developers are left out."""
    if issubclass(category, UserWarning):
        note(f"lora-lab: note: {' '.join(str(message).split())}")


def _usage_text(error: typer.BadParameter) -> str:
    """What is wrong with a command line, and where to read on."""
    words = error.format_message().rstrip(".")
    if not error.ctx:
        return words
    return f"{words}{' See' if words.endswith('?') else '; see'} `{error.ctx.command_path} --help`"


def _error_text(error: BaseException) -> str:
    """The error's message, without the number that `str()` puts before an OSError's."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


def _complain(words: str, status: int) -> int:
    """Print an error in one line; returns the exit status."""
    note(f"lora-lab: {' '.join(words.split())}")
    return status


app = typer.Typer(
    name="lora-lab",
    cls=Commands,
    help="A laboratory for fine-tuning decisions.",
    epilog="Start with: lora-lab prepare, then lora-lab lab. Every command has examples: "
    "lora-lab train --help",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),  # --lora_alpha, as in Python
    },
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"lora-lab {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error arose (LORA_LAB_DEBUG=1 does too).")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("lab")(lab.lab)
app.command("prepare")(setup.prepare)
app.command("doctor", short_help="Say what this machine can do, and what mends the rest.")(
    setup.doctor
)
app.command("bases")(setup.bases)
app.command("tasks")(setup.tasks)
app.command("check", short_help="Say what is odd about data, an adapter or a recipe.")(check.check)
app.command("estimate")(estimate.estimate)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("decide", short_help="Prompt, retrieval or LoRA? Try all of them on your data.")(
    report.decide
)
app.command("runs")(train.runs)
app.command("evaluate")(ask.evaluate)
app.command("chat")(ask.chat)
app.command("report", short_help="Write the report of a run for a colleague.")(report.report)
app.command("export", short_help="Write what a run learnt, for plain PEFT and transformers.")(
    export.export
)
app.command("playground", short_help="Train pocket in one web page that needs no network.")(
    playground.playground
)
app.add_typer(
    classroom, name="class", short_help="Copy the lessons for a class, and check its work."
)
