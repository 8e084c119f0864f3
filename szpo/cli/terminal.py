"""A person at a terminal: a row's texts, one line that moves while they wait, and their keys.

Texts come from models. No escape sequence, hidden character or markup in them has an effect.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from szpo.cli.console import SILENT_S
from szpo.models.answer_shares import is_cut
from szpo.types import Answer, Assignment, Comparison
from szpo.visible_text import visible

BESIDE: Final = 100
"""Fewest columns of a terminal in which two answers stand side by side."""
BAR: Final = 24
"""Columns of a bar."""
ARROWS: Final = {"A": "up", "B": "down", "C": "right", "D": "left"}
"""Keys by the last letter of the sequence that a terminal sends."""
ESCAPE_S: Final = 0.05
"""Seconds within which the rest of such a sequence follows."""
LEAVE: Final = "q"


class _Now(ProgressColumn):
    def __init__(self, to: Console):
        super().__init__()
        self._to = to

    def render(self, task: Task) -> Text:
        """The time so far, which goes on when all votes are in; what the rest may take; a note."""
        spent, end = task.elapsed or 0.0, task.fields.get("end", 0.0)
        measuring = end - spent if end > spent else None
        left = measuring if task.finished else task.time_remaining
        text = str(timedelta(seconds=int(spent)))
        if left is not None:
            text += f" left {timedelta(seconds=int(left))}"
        shown = Text(f"{text} {task.fields['note']}")
        room = self._to.width - BAR - len(f"votes {task.total}/{task.total}  ")
        shown.truncate(max(1, room), overflow="ellipsis")
        return shown


def votes_bar(to: Console, *, live: bool) -> Progress:
    """A bar of a run's votes; its task has the field ``note``, what was or is being done."""
    return Progress(
        TextColumn("votes {task.completed:.0f}/{task.total:.0f}"), BarColumn(BAR), _Now(to),
        console=to, disable=not live, transient=True,
    )  # fmt: skip


def expect_end(bar: Progress, task: TaskID, share: float) -> None:
    """Show what measuring may still take: this share of the time so far."""
    bar.update(task, end=(1 + share) * (bar.tasks[task].elapsed or 0.0))


@contextlib.contextmanager
def stages(to: Console, *, live: bool, of: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows the stage of a long work in a bar: its name, parts done, parts in all."""
    bar = Progress(
        TextColumn(f"{of}{{task.description}}"), BarColumn(BAR), TimeElapsedColumn(),
        console=to, disable=not live, transient=True,
    )  # fmt: skip
    task = bar.add_task("", total=None)
    with bar:
        yield lambda stage, done, parts: bar.update(
            task, description=stage, completed=done, total=parts or None
        )


@contextlib.contextmanager
def waiting(to: Console) -> Iterator[Callable[[str], None]]:
    """Yield a function that says what is waited for: in one line that moves, else in lines."""
    began, told = time.monotonic(), -SILENT_S
    with to.status("") if to.is_terminal else contextlib.nullcontext() as line:

        def tell(what: str) -> None:
            nonlocal told
            now = time.monotonic()
            text = Text(visible(f"{what}, {now - began:.0f} s"))
            if line is not None:
                line.update(text)
            elif now >= told + SILENT_S:
                told = now
                to.print(text)

        yield tell


def show(
    comparison: Comparison, seat: Assignment, sentences: Mapping[str, Any], to: Console
) -> None:
    """Print the prompts and answers of a comparison as this panelist sees them."""
    for row in (comparison.rows[i] for i in seat.prompt_order):
        if row.identical:
            continue
        for role, text in row.prompt.turns[:-1]:
            name = sentences["page"]["roles"].get(role, role)
            to.print(Text(visible(f"{name}: {text}"), "dim"), soft_wrap=False)
        to.print(Text(visible(row.prompt.text), "bold"), soft_wrap=False)
        boxes: list[RenderableType] = [
            Panel(_text(answer, sentences["signs"]), title=letter, title_align="left")
            for letter, answer in zip("AB", seat.sides(row), strict=True)
        ]
        if to.width >= BESIDE:
            beside = Table.grid(expand=True)
            beside.add_column(ratio=1)
            beside.add_column(ratio=1)
            beside.add_row(*boxes)
            boxes = [beside]
        for box in boxes:
            to.print(box, soft_wrap=False)


def _text(answer: Answer, signs: Mapping[str, str]) -> RenderableType:
    cut = is_cut(answer)
    written = Text(visible(answer.text.rstrip("\ufffd") if cut else answer.text))
    if cut or not answer.text.strip():
        written.append(f" … ({signs['cut']})" if cut else f"({signs['empty']})", "dim")
    return written


class Keys:
    """Reads one key at a time; whole lines where stdin is no terminal. A context manager."""

    def __init__(self) -> None:
        self._single: Final = sys.stdin.isatty()
        self._modes: Final = contextlib.ExitStack()

    def __enter__(self) -> Keys:
        if self._single:
            self._modes.enter_context(_single_keys())
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    def read(self) -> str:
        """The next key in lower case: a letter, or an arrow's name; "" for Enter."""
        if not self._single:
            line = sys.stdin.readline()
            return line.strip().lower() if line else LEAVE
        return (_key(None) or "").lower()

    def line(self) -> str:
        """A line of text, which the terminal shows while it is typed."""
        self._modes.close()
        try:
            return sys.stdin.readline()
        finally:
            self.__enter__()

    def pause(self, seconds: float) -> bool:
        """Wait; True if the person pressed `LEAVE` meanwhile. Other keys have no effect."""
        if not self._single:
            time.sleep(seconds)
            return False
        return (_key(seconds) or "").lower() == LEAVE


if sys.platform == "win32":
    import msvcrt

    @contextlib.contextmanager
    def _single_keys() -> Iterator[None]:
        yield

    def _key(seconds: float | None) -> str | None:
        end = time.monotonic() + (seconds or 0)
        while not msvcrt.kbhit():
            if seconds is not None and time.monotonic() >= end:
                return None
            time.sleep(ESCAPE_S)
        key = msvcrt.getwch()
        if key == "\x03":
            raise KeyboardInterrupt
        if key in ("\x00", "\xe0"):
            return {"H": "up", "P": "down", "M": "right", "K": "left"}.get(msvcrt.getwch(), "?key")
        return "" if key == "\r" else key

else:
    import os
    import select
    import termios
    import tty

    @contextlib.contextmanager
    def _single_keys() -> Iterator[None]:
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
        tty.setcbreak(number)  # Ctrl-C stays a signal
        try:
            yield
        finally:
            with contextlib.suppress(termios.error):  # the terminal may be gone
                termios.tcsetattr(number, termios.TCSANOW, before)

    def _key(seconds: float | None) -> str | None:
        key = _byte(seconds)
        if key == "\x1b":
            return _arrow()
        return {None: None, "": LEAVE, "\n": ""}.get(key, key)

    def _arrow() -> str:
        """Read the rest of an escape sequence, whole, so that none of its letters is a key."""
        sequence = ""
        while (letter := _byte(ESCAPE_S)) is not None:
            sequence += letter
            if not letter or (len(sequence) > 1 and "@" <= letter <= "~"):
                break
        return ARROWS.get(sequence[1:], "?key") if sequence[:1] in ("[", "O") else "?key"

    def _byte(seconds: float | None) -> str | None:
        """The next byte as a character, "" at the end of input, None if none came in time."""
        number = sys.stdin.fileno()
        if not select.select([number], [], [], seconds)[0]:
            return None
        return os.read(number, 1).decode("latin-1")
