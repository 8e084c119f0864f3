"""Run functions in new processes, forked from a server that has imported szpo already."""

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "szpo.runs.assemble",
        "szpo.runs.controller",
        "szpo.analysis.model_card",
        "szpo.replay.replay",
        "hypothesis",
    ]
)
KILLED = -signal.SIGKILL


def preload(module: str) -> None:
    """Let the server import this module, if it has not started, so that no child has to."""
    _context.set_forkserver_preload([module])


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start a module-level function in a new process."""
    child = _context.Process(target=function, args=arguments)
    child.start()
    return child


def run(function: Callable[..., Any], *arguments: Any) -> int:
    """Run a function in a new process; returns the exit code, minus the signal if killed."""
    child = start(function, *arguments)
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def stopped(child: BaseProcess) -> bool:
    """Wait until a child has stopped itself, as the kernel says; False if it ended."""
    while (stat := Path(f"/proc/{child.pid}/stat")).exists():
        state = stat.read_text().rsplit(")", 1)[1].split()[0]
        if state in "TXZ":
            return state == "T"
        time.sleep(0.01)
    return False


def pipe() -> Any:
    """(reading end, writing end) of a new pipe."""
    return _context.Pipe(duplex=False)
