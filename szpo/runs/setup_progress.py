"""Progress of a run's set-up, in a small file beside the path of the run's own file.

A new run has no file until its set-up is done, which can take minutes. The process that sets it up
writes the stages here and holds a lock. The file is removed after the set-up; if nobody holds the
lock, it is ignored. What a run does for minutes once its votes are in is told in the same way.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from szpo.files import private, try_lock
from szpo.types import Progress, Say, unseen

SUFFIX: Final = "-setup"
IMPROVING: Final = "-improving"
"""The suffix while a run improves between its rounds (`szpo.improvement.between_rounds`)."""
MEASURING: Final = "-measuring"
"""The suffix while a run is measured on held-out prompts (`szpo.analysis.measuring`)."""
STEPS: Final = "improving"
"""The stage that counts its steps."""
MOST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the set-up."""

    name: str
    done: int
    of: int
    """0 where its parts are not counted."""

    def __str__(self) -> str:
        """Its name, and its share where it is known.

        >>> str(Stage("base answers", 24, 96)), str(Stage("the model", 0, 0))
        ('base answers, 25 %', 'the model')
        """
        return f"{self.name}, {100 * self.done // self.of} %" if self.of else self.name


class Countdown:
    """Says how many parts of a stage are done, and from their pace how long the rest may take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """``clock`` gives seconds."""
        self._clock: Final = clock
        self._first, self._last = Stage("", 0, 0), Stage("", 0, 0)
        self._began = self._ends = 0.0

    def left(self, stage: Stage) -> float | None:
        """Seconds that the rest takes at the pace since the stage was first given, or None."""
        now = self._clock()
        if stage.name != self._last.name or stage.done < self._last.done:
            self._first, self._began = stage, now
        elif stage.done > self._last.done:
            each = (now - self._began) / (stage.done - self._first.done)
            self._ends = now + each * (stage.of - stage.done)
        self._last = stage
        return self._ends - now if stage.done > self._first.done else None

    def describe(self, stage: Stage) -> str:
        """The stage in words, with the time that is `left`.

        >>> seconds = iter([0.0, 10.0, 12.0])
        >>> count = Countdown(lambda: next(seconds))
        >>> [count.describe(Stage("votes", done, 1200)) for done in (200, 400, 400)]
        ['votes 200/1,200', 'votes 400/1,200, 0:00:40 left', 'votes 400/1,200, 0:00:38 left']
        """
        left = int(self.left(stage) or 0)
        if not stage.of:
            return stage.name
        rest = f", {timedelta(seconds=left)} left" if left > 0 else ""
        return f"{stage.name} {stage.done:,}/{stage.of:,}{rest}"


def telling(say: Say, every_s: float = 30.0, *, of: str = "set-up") -> Progress:
    """A progress that says each stage, and how far it is, in a line each so many seconds.

    ``of``: what it is the progress of; each line begins with it.
    """
    told, last, countdown = -math.inf, "", Countdown()

    def report(name: str, done: int, parts: int) -> None:
        nonlocal told, last
        line, new = countdown.describe(Stage(name, done, parts)), name != last
        if new or time.monotonic() > told + every_s:
            told = time.monotonic()
            say(f"{of}: {name if new else line}")
        last = name

    return report


@contextlib.contextmanager
def writing(run: Path, suffix: str = SUFFIX, tell: Progress = unseen) -> Iterator[Progress]:
    """Yield the function that writes the stages of a set-up; ``run`` is the run's future file.

    If the small file cannot be written, the set-up goes on without it. What is written is also
    given to ``tell``.
    """
    place, stages = _file_of(run, suffix), dict[str, tuple[int, int]]()
    with contextlib.ExitStack() as stack:
        file = None
        with contextlib.suppress(OSError):
            file = stack.enter_context(open(place, "a+b", buffering=0, opener=private))
            if try_lock(file.fileno()):
                stack.callback(place.unlink, missing_ok=True)
            else:  # somebody else sets up a run of this name; one of the two will be refused
                file = None

        def report(name: str, done: int, of: int) -> None:
            stages.pop(name, None)  # the last one told is the one that goes on
            stages[name] = done, of
            if file is not None:
                text = json.dumps([[name, *parts] for name, parts in stages.items()])
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), 0)
                    file.write(text.encode())
            tell(name, done, of)

        yield report


def read(run: Path, suffix: str = SUFFIX) -> tuple[Stage, ...] | None:
    """The stages begun so far, the last one still going on; None if nobody sets this run up."""
    with contextlib.suppress(OSError), _file_of(run, suffix).open("rb") as file:
        if try_lock(file.fileno(), shared=True):  # left by a process that was killed
            return None
        with contextlib.suppress(ValueError):  # read in the middle of a write
            return tuple(Stage(*each) for each in json.loads(file.read(MOST_BYTES)))
        return ()
    return None


def read_improving(run: Path) -> tuple[Stage, str] | None:
    """The steps of a run's improvement, and what else it does now; None: none goes on."""
    stages = read(run, IMPROVING)
    steps = next((each for each in stages or () if each.name == STEPS), None)
    if not stages or steps is None:
        return None
    return steps, "" if stages[-1] == steps else stages[-1].name


def describe_end(run: Path) -> str:
    """What a run whose votes are in still does, in words; "" if it does nothing more."""
    told = ((IMPROVING, "it still improves"), (MEASURING, "it is still being measured"))
    return next((words for suffix, words in told if read(run, suffix) is not None), "")


def describe(run: Path) -> str | None:
    """A sentence that a run is being set up, and how far; None if it is not."""
    stages = read(run)
    if stages is None:
        return None
    return f"run {run.stem} is being set up" + (f" ({stages[-1]})" if stages else "")


def at_work(folder: Path) -> list[Path]:
    """The files of the runs in a folder that are being set up, by name."""
    found = (each.with_name(each.name.removesuffix(SUFFIX)) for each in folder.glob(f"*{SUFFIX}"))
    return sorted(run for run in found if read(run) is not None)


def _file_of(run: Path, suffix: str) -> Path:
    return run.with_name(f"{run.name}{suffix}")
