"""Run the model in a child process: start it, restart it, shut it down."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from szpo.cli.console import CHILD
from szpo.errors import ResourceError, SzpoError

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before a restart, doubled after each restart of a child that ends quickly."""
SETTLED = 60.0
"""After a child that ran at least this many seconds, the wait is `FIRST_WAIT` again."""
GRACE = 15.0
"""Seconds for a child to end its transaction and exit."""

Start = Callable[[Sequence[str]], "subprocess.Popen[Any]"]
SZPO: Final = (sys.executable, "-m", "szpo")
"""The first words of szpo's own commands."""

_FOLLOW: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG outlives the exec below
os.execv(sys.argv[1], sys.argv[1:])
"""


def controller(run: Path, features: Iterable[str], *how: str) -> list[str]:
    """The command that drives a run, with the user's own features that the run may use."""
    own = [word for each in dict.fromkeys(features) for word in ("--feature", each)]
    return [*SZPO, "run", "--resume", str(run), *how, *own]


def beginner(
    file: str | None, preset: str | None, sets: Iterable[str], folder: Path, *how: str
) -> list[str]:
    """The command that sets up a new run and then drives it; its parent loads no model."""
    words = [file] if file else []
    words += ["--preset", preset] if preset else []
    words += [word for each in sets for word in ("--set", each)]
    return [*SZPO, "run", *words, "--folder", str(folder), *how]


def failed(code: int, why: str) -> SzpoError:
    """The error of a parent whose child failed, with the child's exit code."""
    error = SzpoError(why)
    error.exit_code = code if code > 0 else ResourceError.exit_code  # killed
    return error


def record_end(run: Path, code: int, again_s: float) -> None:
    """Record a controller's end for the operator's page, unless the ledger cannot be written."""
    from szpo.ledger.database import Ledger  # takes a second, and the first page must not wait

    with contextlib.suppress(SzpoError), Ledger.open(run) as ledger:
        ledger.record_event("controller ended", "serve", {"code": code, "again_in_s": again_s})


def start(command: Sequence[str], *, heard: bool = False) -> subprocess.Popen[Any]:
    """Start a child outside the terminal's process group, so that Ctrl-C reaches the parent only.

    The parent must end the child. If the parent is killed, Linux sends the child a SIGTERM.
    If it is ``heard``, what it prints comes by the pipe of its ``stdout``.
    """
    if sys.platform == "linux":
        command = [sys.executable, "-c", _FOLLOW, *command]
    out, errors = (subprocess.PIPE, subprocess.STDOUT) if heard else (None, None)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True,
        env={**os.environ, CHILD: "1"},
    )  # fmt: skip


def end(child: subprocess.Popen[Any], grace: float = GRACE) -> None:
    """End a child: SIGTERM, ``grace`` seconds for its last commit, then SIGKILL."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Keeper:
    """Keeps a child process running as long as its parent."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        say: Callable[[str], None],
        on_end: Callable[[int, float], None] = lambda code, wait: None,
        first: subprocess.Popen[Any] | None = None,
        begin: Start = start,
    ):
        """Restart the child whenever it ends with an exit code other than 0.

        ``on_end`` gets the exit code and the seconds until the restart; 0 and 0.0 at the last.
        ``first``: a child that is already running; ``command`` starts later ones.
        """
        self.name: Final = name
        self.command: Final = tuple(command)
        self.starts = 0
        self._say, self._on_end, self._begin = say, on_end, begin
        self._child = first
        self._ending = threading.Event()
        self.pause: Callable[[float], object] = self._ending.wait
        """Waits before a restart; returns early when the keeper is closed."""
        self.timer: Callable[[], float] = time.monotonic
        """The clock that measures how long a child ran, seconds."""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=f"szpo-{name}", daemon=True)

    def run(self) -> None:
        """Start the thread that keeps the child running."""
        self._thread.start()

    def close(self, grace: float = GRACE) -> None:
        """End the child as `end` does, and do not start it again."""
        self._ending.set()
        with self._lock:
            child = self._child
        if child is not None:
            end(child, grace)
        self.join()

    def join(self) -> None:
        """Wait until the child will not restart: after `close`, or once it ended with 0."""
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        wait = FIRST_WAIT
        while not self._ending.is_set():
            began = self.timer()
            with self._lock:
                if self._ending.is_set():
                    return
                if self._child is None:
                    self.starts += 1
                    try:
                        self._child = self._begin(self.command)
                    except OSError as error:  # no memory for it now
                        self._say(f"the {self.name} cannot be started ({error})")
                child = self._child
            code = 1 if child is None else child.wait()
            with self._lock:
                self._child = None
            if self._ending.is_set():
                return
            if code == 0:
                self._on_end(0, 0.0)
                return
            if self.timer() - began >= SETTLED:
                wait = FIRST_WAIT
            self._say(f"the {self.name} ended with code {code}; starting it again in {wait:.0f} s")
            self._on_end(code, wait)
            self.pause(wait)
            wait = min(2 * wait, LONGEST_WAIT)
