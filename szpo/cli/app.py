"""The ``szpo`` command, and the table of commands, each loaded when called.

The help is printed from the table alone.

Other packages register commands at the entry point ``szpo.commands`` (a function or a typer
application), and benchmarks at ``szpo.benches``.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from szpo import __version__, plugins
from szpo.cli import console
from szpo.keyed_requests import hide_keys

PASS_ON: Final = {
    "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": [],
}  # fmt: skip
"""Settings of click for commands that parse their own options."""
OTHERS: Final = "Of other packages"

GROUPS: Final = {
    "Begin": (
        ("demo", "", "Tune SmolLM2-135M from simulated votes; measure before and after."),
        ("init", "machine", "Write a settings file that explains what matters; --all: every key."),
        ("fetch", "machine", "Prepare a model before the first run."),
        ("doctor", "machine", "Check this machine, and a run if one is named."),
    ),
    "Run": (
        ("run", "run", "Tune a model from votes; --plan estimates the cost first."),
        ("improve", "improve", "Improve a model on what votes liked, by its own answers alone."),
        ("serve", "", "Let people vote in browsers: voting page, operator's page, model."),
        ("vote", "vote", "Vote in this terminal: begin a run for one person, or join one."),
        ("invite", "", "Make, list and revoke panelists' and operators' links and codes."),
        ("simulate", "", "Let a simulated panel vote in a run."),
        ("judge", "judge", "Let a language model vote in a run."),
    ),
    "Look": (
        ("show", "inspect", "Show a run's totals and last steps; --all: every run of a folder."),
        ("sample", "inspect", "Let the base and the tuned policy answer the same prompts."),
        (
            "answer",
            "adapters",
            "Answer prompts with adapters mixed as you say, or best of several.",
        ),
        ("report", "inspect", "Write one HTML page: curves, samples, votes, verification."),
        ("compare", "", "Compare runs by their files, or methods by what they cost."),
        ("taste", "taste", "Show what a run's votes like; save it as a file that scores texts."),
        ("score", "taste", "Score answers by what the votes of a run like."),
        ("visualize", "", "Draw on a page what the votes say about two weights."),
    ),
    "Record": (
        ("verify", "record", "Check every hash, the votes behind each update, the weights."),
        ("backup", "record", "Copy a live run, verified."),
        ("export", "record", "Write the adapter (PEFT), the merged model or the votes."),
    ),
    "Data and gradient methods": (
        ("pairs", "data", "Read a run's votes or a preference file; write TRL's pairs."),
        ("rank", "data", "Write Label Studio tasks for ranking several answers."),
        ("select", "data", "Choose the pairs of a pool on which votes teach most."),
        ("adapters", "adapters", "Make adapters for features or rewards: szpo adapters make."),
        ("baseline", "baseline", "Train by a gradient method on the same votes."),
        ("scorer", "judge", "Train a small pair scorer from votes or pairs."),
        ("bench", "machine", "Run a benchmark that is installed, or list them."),
    ),
}
INTERRUPTED = 130
STOPS: Final = (KeyboardInterrupt, typer.Abort, console.Terminated)
AGAIN = ("demo", "run", "serve", "compare", "simulate", "judge", "adapters", *console.ANEW)
"""Commands that, given again after an interrupt, lose nothing that was counted."""
WAITING = ("serve", "vote", "simulate", "visualize")
"""Commands that wait for people or another process, and may be silent meanwhile."""
TWICE_S = 5.0
"""A second interrupt within this time (seconds) of the last one is ignored."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the help: a command's group, its module, and what it does."""

    group: str
    module: str
    """The module in `szpo.cli`; "" for an entry point of `szpo.commands`."""
    help: str


COMMANDS: Final = {
    name: Entry(group, module, text)
    for group, lines in GROUPS.items()
    for name, module, text in lines
}
"""All commands of this project; those of other packages are found by their entry points."""


class Commands(TyperGroup):
    """The group of all commands; it loads only the command that is called."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        for name, entry in {**COMMANDS, **_of_others()}.items():
            self.commands[name] = TyperCommand(
                name, help=entry.help, rich_help_panel=entry.group, rich_markup_mode="rich"
            )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name, and load it."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, None if name is None or found is None else load_command(name), rest


@cache
def load_command(name: str) -> Any:
    """Load a command as a click command.

    szpo's own command is the function or group of that name in its module. An entry point of
    ``szpo.commands`` is a typer application, or a function that takes the arguments after the
    command's name, returns an exit code and prints its own help.

    Raises:
        UsageError: something that the command needs is not installed.
    """
    ours = name in COMMANDS and COMMANDS[name].module
    if ours:
        target = getattr(import_module(f"szpo.cli.{ours}"), name.replace("-", "_"))
    else:
        target = plugins.load("szpo.commands", name, "command")
    made = target if isinstance(target, typer.Typer) else typer.Typer(add_completion=False)
    if ours and made is not target:
        made.command(context_settings=PASS_ON if name == "bench" else None)(target)
    elif made is not target:
        made.command(context_settings=PASS_ON)(_make_runner(name, target))
    found = get_command(made)
    found.name = name
    for each in (found, *getattr(found, "commands", {}).values()):  # rich keeps its line breaks
        each.help = re.sub(r"(?<!\n)\n(?!\n)", " ", each.help or "")
    return found


def _of_others() -> dict[str, Entry]:
    """The commands of other packages."""
    return {
        name: Entry(OTHERS, "", f"Command of {entry.value.split(':')[0]}.")
        for name, entry in plugins.names("szpo.commands").items()
        if name not in COMMANDS
    }


def _make_runner(name: str, target: Callable[[list[str]], Any]) -> Callable[[typer.Context], int]:
    def run(context: typer.Context) -> int:
        return int(target(list(context.args)) or 0)

    run.__doc__ = f"Command {name} of another package."
    return run


app = typer.Typer(
    name="szpo",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    """Tune a language model by votes on which of two of its answers is better.

    A small linear model learns from the votes what is liked; with rule known or sign none does.
    What is tuned is a LoRA adapter.
    """
    del debug  # read in call(), so it may stand before or after the command's name
    if version:
        typer.echo(f"szpo {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code; an error is one line on stderr.

    Exit codes: 0 done, 1 the run failed its own check, 2 usage, 3 lease, 4 storage, 5 integrity,
    6 resources, 129, 130 and 143 on a closed terminal, an interrupt or a termination signal.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Windows pipes have few letters; none is worth
            stream.reconfigure(errors="replace")  # a crash
    signal.signal(signal.SIGTERM, _raise_terminated)
    # Not on Windows, and ignored under nohup.
    if (hangup := getattr(signal, "SIGHUP", None)) and signal.getsignal(hangup) == signal.SIG_DFL:
        signal.signal(hangup, _raise_terminated)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a script's background
        signal.signal(signal.SIGINT, _Interrupts())
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in given if not word.startswith("-")), "help")
    heard = contextlib.ExitStack()
    if name not in WAITING:
        heard.enter_context(console.never_silent(f"szpo {name} is at work"))
    try:
        code = call(given)
    except Exception:  # under --debug
        sys.stderr.write(hide_keys(traceback.format_exc()))
        code = 1
    # The exit code is known, so Python's own shutdown must not be interrupted. Of a signal that
    # comes just before it is ignored Python would print a traceback: they are blocked first, and
    # one that another thread took is not reported.
    sys.unraisablehook = _report_unless_signal
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    heard.close()
    sys.exit(code)


def call(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; raises only under ``--debug``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or bool(os.environ.get("SZPO_DEBUG"))
    try:
        words = [_at_home(a) for a in given if a != "--debug"] or ["--help"]
        console.set_resumable(shlex.join(["szpo", *words]) if words[0] in AGAIN else None)
        result: Any = app(args=words, prog_name="szpo", standalone_mode=False)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except SystemExit as stop:  # from argparse, in a benchmark or another package's command
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, STOPS):
            cause = cause.__cause__  # Python 3.11 wraps what comes amid the making of a class
        if isinstance(cause, console.Terminated):
            with contextlib.suppress(OSError):  # the terminal may be gone
                console.report_stop(signal.Signals(cause.number).name)
            return 128 + cause.number
        if cause is not None:
            console.report_stop("an interrupt")
            return INTERRUPTED
        if debug:
            raise
        return console.fail(error)
    if result == INTERRUPTED:  # what typer returns after a KeyboardInterrupt
        console.report_stop("an interrupt")
    return result if isinstance(result, int) else 0


def _at_home(word: str) -> str:
    """A word of the command line whose path begins at home, which shells leave after ``=``."""
    return re.sub(r"\A(--[\w-]+=)?~(?=/)", lambda m: (m[1] or "") + os.path.expanduser("~"), word)


def _report_unless_signal(found: sys.UnraisableHookArgs) -> None:
    if not str(found.exc_value).endswith("ignored due to race condition"):
        sys.__unraisablehook__(found)


class _Interrupts:
    """The handler of interrupts; it ignores a second one while the first is being handled.

    A later one counts again, so a command that does not end can be interrupted again.
    """

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, _signal: int, _frame: object) -> None:
        """Raise KeyboardInterrupt, unless an interrupt came within the last `TWICE_S`."""
        before, self.last = self.last, time.monotonic()
        if self.last - before > TWICE_S:
            raise KeyboardInterrupt


def _raise_terminated(number: int, _frame: object) -> NoReturn:
    raise console.Terminated(number)
