"""The ``szpo`` command: `szpo.cli.commands` lists its commands, each loaded when called.

Other packages register commands at the entry point ``szpo.commands`` (a function or a typer
application), and benchmarks at ``szpo.benches``.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shlex
import signal
import sys
import time
import traceback
from typing import Any, NoReturn

import typer

from szpo import __version__
from szpo.cli import commands, console
from szpo.outgoing import hide_keys

INTERRUPTED = 130
AGAIN = ("demo", "run", "serve", "compare", "simulate", "judge", *console.ANEW)
"""Commands that, given again after an interrupt, lose nothing that was counted."""
WAITING = ("serve", "vote", "simulate", "judge", "visualize")
"""Commands that wait for people or another process, and may be silent meanwhile."""
TWICE_S = 5.0
"""A second interrupt within this time (seconds) of the last one is ignored."""

app = typer.Typer(
    name="szpo",
    cls=commands.Commands,
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
    """Tune a language model's LoRA adapter from pairwise votes, without a neural reward model."""
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
    # The exit code is known, so Python's own shutdown must not be interrupted. Signals are blocked
    # first: one that arrives just before it is ignored would print a traceback.
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
        words = [a for a in given if a != "--debug"] or ["--help"]
        console.set_resumable(shlex.join(["szpo", *words]) if words[0] in AGAIN else None)
        result: Any = app(args=words, prog_name="szpo", standalone_mode=False)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        console.report_stop("an interrupt")
        return INTERRUPTED
    except console.Terminated as stop:
        with contextlib.suppress(OSError):  # the terminal may be gone
            console.report_stop(signal.Signals(stop.number).name)
        return 128 + stop.number
    except SystemExit as stop:  # from argparse, in a benchmark or another package's command
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        if debug:
            raise
        return console.fail(error)
    if result == INTERRUPTED:  # what typer returns after a KeyboardInterrupt
        console.report_stop("an interrupt")
    return result if isinstance(result, int) else 0


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
