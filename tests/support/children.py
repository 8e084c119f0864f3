"""Functions in processes of their own, forked from a server that has loaded what they need."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "szpo.runs.assemble",
        "szpo.training.controller",
        "szpo.reports.model_card",
        "szpo.replay.replay",
        "hypothesis",
    ]
)
KILLED = -signal.SIGKILL


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Begin a function of a module's top level in a fresh process."""
    child = _context.Process(target=function, args=arguments)
    child.start()
    return child


def run(function: Callable[..., Any], *arguments: Any) -> int:
    """The exit code of a function run to its end there: 0, or minus the signal that ended it."""
    child = start(function, *arguments)
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def pipe() -> Any:
    """Both ends of a pipe, the reading one first."""
    return _context.Pipe(duplex=False)
