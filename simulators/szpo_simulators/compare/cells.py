"""The cells of a comparison as files: who is at which, what is finished, how long the rest takes.

Each cell is a fresh process. A lock file says that somebody is at it; the system lets go of the
lock when both the command and its cell's process have ended, so nothing that was killed holds
others up. The same command started twice in one folder shares the cells between the two.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from szpo.errors import RunError
from szpo_simulators.study import key

CHILD: Final = (sys.executable, "-m", "szpo_simulators.compare.cell")
POLL: Final = 0.5
"""Seconds between looks at cells that other processes are at."""


@dataclass(frozen=True)
class Cell:
    """One method under one way of asking with one seed: plain JSON values."""

    asked: Mapping[str, Any]
    guess: float = 0.0
    """Seconds that it may take."""

    @property
    def name(self) -> str:
        """Readable, with a hash of everything that was asked."""
        a = self.asked
        return f"{a['method']}-{a['ask']}-{a['seed']}-{key(a)[:10]}"

    @property
    def kind(self) -> tuple[str, str]:
        """Cells of one kind take about as long as each other."""
        return self.asked["method"], self.asked["ask"]


@dataclass(frozen=True)
class Place:
    """The folder in which cells are kept."""

    folder: Path
    command: Sequence[str] = CHILD

    def record(self, cell: Cell) -> Path:
        """Where the cell's record is, or will be."""
        return self.folder / "cells" / f"{cell.name}.json"

    def found(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a finished cell.

        Raises:
            RunError: the file is there and cannot be read.
        """
        path = self.record(cell)
        try:
            body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return {"asked": body["asked"], **body["found"]}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read ({error}); delete it") from None

    @contextlib.contextmanager
    def claimed(self, cell: Cell) -> Iterator[Any]:
        """The lock of a cell, or None while another process has it."""
        path = self.folder / "locks" / f"{cell.name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield file

    def run(self, cell: Cell, lock: Any, say: Callable[[float], None]) -> str | None:
        """Do a claimed cell in a fresh process; what went wrong in one line, or None.

        The process inherits the lock, so the cell stays claimed for as long as it works.
        """
        record, log = self.record(cell), self.folder / "logs" / f"{cell.name}.log"
        for path in (record, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _text(json.dumps(dict(cell.asked))) as spec,
            log.open("w") as errors,
            subprocess.Popen(
                [*self.command, str(record)], stdin=spec, stdout=subprocess.PIPE,
                stderr=errors, text=True, pass_fds=[lock.fileno()],
            ) as child,
        ):  # fmt: skip
            try:
                for line in child.stdout or ():
                    with contextlib.suppress(ValueError):
                        say(float(line))
                code = child.wait()
            except BaseException:
                child.kill()
                raise
        if code == 0 and record.exists():
            log.unlink(missing_ok=True)
            return None
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else f'ended with code {code}'} (all of it: {log})"


@contextlib.contextmanager
def _text(content: str) -> Iterator[Any]:
    """A file without a name that stands at its beginning."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        file.write(content)
        file.seek(0)
        yield file


@dataclass(frozen=True)
class Step:
    """What `work` tells while it goes on."""

    cell: Cell
    share: float
    """Of this cell, in [0, 1]."""
    done: bool = False
    failed: str | None = None


def work(place: Place, cells: Sequence[Cell], *, tell: Callable[[Step], None]) -> list[str]:
    """Do all cells that nobody has done or is at, in order; then wait for those of others.

    A cell that fails is told and left; the others go on.

    Returns:
        One line for each cell that failed.
    """
    left, failures = list(cells), []
    while left:
        moved = False
        for cell in list(left):
            if place.record(cell).exists():
                left.remove(cell)
                tell(Step(cell, 1.0, done=True))
                moved = True
                continue
            with place.claimed(cell) as lock:
                if lock is None or place.record(cell).exists():
                    continue
                moved = True

                def on(share: float, cell: Cell = cell) -> None:
                    tell(Step(cell, share))

                problem = place.run(cell, lock, on)
                left.remove(cell)
                if problem is not None:
                    failures.append(f"{cell.name}: {problem}")
                tell(Step(cell, 1.0, done=True, failed=problem))
        if left and not moved:
            time.sleep(POLL)
    return failures


def guesses(place: Place, cells: Sequence[Cell]) -> dict[str, float]:
    """Seconds that each unfinished cell may take, by name.

    The mean of finished cells of its kind; until there is one, the preset's guess, scaled by how
    the finished ones of other kinds compare with theirs.
    """
    took: dict[tuple[str, str], list[float]] = {}
    ratios: list[float] = []
    open_cells = []
    for cell in cells:
        record = place.found(cell)
        if record is None:
            open_cells.append(cell)
        elif "elapsed" in record:
            took.setdefault(cell.kind, []).append(record["elapsed"])
            if cell.guess:
                ratios.append(record["elapsed"] / cell.guess)
    scale = sorted(ratios)[len(ratios) // 2] if ratios else 1.0
    means = {kind: sum(each) / len(each) for kind, each in took.items()}
    return {cell.name: means.get(cell.kind, scale * cell.guess) for cell in open_cells}


def clock(seconds: float) -> str:
    """A duration for people.

    >>> clock(48), clock(150), clock(7330)
    ('48 s', '2 min 30 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
