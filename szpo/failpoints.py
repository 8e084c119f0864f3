"""Failpoints: places where a test may kill the process, to show that nothing is lost or repeated.

Each failpoint has a name. It does nothing unless it is armed, by ``SZPO_FAILPOINT="cp10:kill@3"``
in the environment (name, action, number of the hit) or by `arm` in a test. Without armed
failpoints, passing one costs a lookup in an empty dictionary.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

from szpo.errors import UsageError

POINTS: Final = {
    "cp1": "the lease is taken, the step is not planned",
    "cp2": "the plan is committed",
    "cp3": "the perturbed weights have answered, nothing is stored",
    "cp4": "the first of the step's comparisons is stored, not committed",
    "cp5": "all answers are stored, the step is not open",
    "cp6": "a vote is stored, its receipt is not sent",
    "cp7": "the rule of closing is met, the step is not closed",
    "cp8": "the close is committed",
    "cp9": "the update is computed, not written",
    "cp10": "the update is inserted, not committed",
    "cp11": "the update is committed, the policy has the old weights",
    "cp12": "the policy has the new weights, they are not compared with the ledger's",
    "cp13": "half of an export is written",
    "cp14": "an export is written whole, it does not have its name",
    "cp15": "something is committed, the witness beside the file does not have it",
    "cp16": "improved weights are inserted, the event that adopts them is not",
}
"""All failpoints, with what has been done there and what has not."""

ENVIRONMENT: Final = "SZPO_FAILPOINT"
Action = Literal["kill", "raise", "enospc", "stop"]
_FORM = re.compile(r"(\w+):(\w+)(?:@(\d+))?")

_armed: dict[str, Armed] = {}


class InjectedError(RuntimeError):
    """Raised by a failpoint that is armed with the action ``raise``."""


@dataclass
class Armed:
    """The action of an armed failpoint, and how often it was passed."""

    name: str
    action: Action
    at: int
    hits: int = 0


def failpoint(name: str) -> None:
    """Pass a failpoint; if it is armed and this is the armed hit, its action happens.

    Raises:
        InjectedError: the action is ``raise``.
        OSError: the action is ``enospc`` (no space left on the disk).
    """
    armed = _armed.get(name)
    if armed is None:
        return
    armed.hits += 1
    if armed.hits != armed.at:
        return
    if armed.action == "raise":
        raise InjectedError(f"{name}: {POINTS[name]}")
    if armed.action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)


def parse(text: str) -> Armed:
    """Parse ``name:action@hit``; without ``@hit``, the first hit.

    >>> parse("cp10:kill@3")
    Armed(name='cp10', action='kill', at=3, hits=0)

    Raises:
        UsageError: the form, the name or the action is unknown.
    """
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in POINTS or match[2] not in get_args(Action):
        raise UsageError(
            f"{ENVIRONMENT}={text!r}: give name:action@hit, with a name of {', '.join(POINTS)} "
            f"and an action of {', '.join(get_args(Action))}"
        )
    action: Action = match[2]  # type: ignore[assignment]
    return Armed(match[1], action, int(match[3] or 1))


@contextlib.contextmanager
def arm(text: str) -> Iterator[Armed]:
    """Arm one failpoint while the block runs; yields an `Armed` that counts its hits."""
    armed = parse(text)
    _armed[armed.name] = armed
    try:
        yield armed
    finally:
        _armed.pop(armed.name, None)


if given := os.environ.get(ENVIRONMENT):
    _armed[parse(given).name] = parse(given)
