"""Printing for the command line: tables, JSON, one-line errors.

For a person at a terminal: a row's texts, one line that moves while they wait, and their keys.
Texts come from models. No escape sequence, hidden character or markup in them has an effect.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from szpo import memory
from szpo.errors import SzpoError
from szpo.keyed_requests import blame_proxies, hide_keys
from szpo.visible_text import visible

if TYPE_CHECKING:
    from szpo.types import Answer, Assignment, Comparison, Progress

console = Console(highlight=False, soft_wrap=True, emoji=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

AS_JSON = typer.Option(False, "--json", help="Print one JSON document instead of a table.")

ANEW: Final = ("baseline", "improve")
"""Commands that keep nothing of what they had done when they were stopped."""
RESUMED: Final = ["baseline", "self-rewarding"]
"""The baseline that goes on after its last complete model."""
_ways_on: list[tuple[str | None, Path | None]] = []
CHILD: Final = "SZPO_CHILD"
"""Set in the environment of a process that szpo itself starts and ends."""
FIRST_S: Final = 1.5
"""Longest silence on a terminal, in seconds."""
SILENT_S: Final = 5.0
"""Longest silence on a terminal where no line may move."""
LOG_S: Final = 60.0
"""Longest silence in a log."""
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_NUMBERS: Final = re.compile(r"[\d:,.]+")
_pulses: list[Pulse] = []
BESIDE: Final = 100
"""Fewest columns of a terminal in which two answers stand side by side."""
ARROWS: Final = {"A": "up", "B": "down", "C": "right", "D": "left"}
"""Keys by the last letter of the sequence that a terminal sends."""
ESCAPE_S: Final = 0.05
"""Seconds within which the rest of such a sequence follows."""
LEAVE: Final = "q"
_PLACES: Final = str.maketrans(
    dict(
        pair
        for letters, places in (
            ("йцукенгшщзфывапролдячсмитьіў", "qwertyuiopasdfghjklzxcvbnmso"),
            ("ςερτυθιοπασδφγηξκλζχψωβνμ", "wertyuiopasdfghjklzxcvbnm"),
            ("קראטוןםפשדגכעיחלךזסבהנמצ", "ertyuiopasdfghjklzxcvbnm"),
            ("ضصثقفغعهخحشسيبلاتنمئءؤرىة", "qwertyuiopasdfghjklzxcvnm"),
        )
        for pair in zip(letters, places, strict=True)
    )
)
"""Letters of Cyrillic, Greek, Hebrew and Arabic keyboards, as the Latin letter of the same key."""


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(hide_keys(super().format(record)))


if logging.lastResort is not None:  # warnings quote files and servers, which may send escapes
    logging.lastResort.setFormatter(_Visible())


def set_resumable(command: str | None, once: Path | None = None) -> None:
    """Set the command that continues after an interrupt, for `report_stop`; None: none.

    With ``once``, it holds from when that file exists; until then the one before does.
    """
    if once is None:
        _ways_on.clear()
    _ways_on.append((command, once))


def report_stop(how: str) -> None:
    """Print that a signal ended the command, and how to go on; a parent says it for its child."""
    if how == "SIGTERM" and CHILD in os.environ:
        return
    ways = [command for command, once in _ways_on if once is None or once.exists()]
    way = ways[-1] if ways else None
    words = way.split()[1:] if way else [""]
    verb = "Begin again" if words[0] in ANEW and words[:2] != RESUMED else "Continue"
    complain(
        f"stopped by {how}" + (f"; nothing counted is lost. {verb} with: {way}" if way else "")
    )


class Pulse:
    """Says what is being done where a command would be silent, and for how long.

    On a terminal a line below the last output, which moves each second and goes with the next
    output; beside a parent's lines a line each five seconds, in a log a line a minute. Nothing
    comes while a line is unfinished, as at a question.
    """

    def __init__(self, to: TextIO, clock: Callable[[], float] = time.monotonic):
        """``to`` is where the lines go, and ``clock`` gives seconds."""
        self._to, self._clock = to, clock
        self._live: Final = (
            to.isatty() and os.environ.get("TERM") != "dumb" and CHILD not in os.environ
        )
        self._most: Final = FIRST_S if self._live else SILENT_S if to.isatty() else LOG_S
        self._lock: Final = threading.RLock()
        self._doing, self._since, self._heard = "", 0.0, clock()
        self._shown = self._open = False

    def note(self, doing: str) -> None:
        """Note the work that begins now; "" is none that somebody waits for.

        Where only its numbers are others, it is the same work, whose seconds go on.
        """
        with self._lock:
            if _NUMBERS.sub("", doing) != _NUMBERS.sub("", self._doing):
                self._since = self._clock()
            self._doing = doing

    def wrap(self, stream: TextIO) -> TextIO:
        """The stream, whose output this hears."""
        return cast(TextIO, _Heard(stream, self))

    def write(self, stream: TextIO, text: str) -> int:
        """Write a command's output."""
        with self._lock:
            if self._shown:
                self._to.write("\r\x1b[K")
                self._to.flush()
            written, self._shown, self._heard = stream.write(text), False, self._clock()
            if bare := _ESCAPES.sub("", text):
                self._open = not bare.endswith("\n")
            return written

    def flush(self, stream: TextIO) -> None:
        """Flush a command's output; nothing is drawn over a pager that makes it wait."""
        with self._lock:
            stream.flush()

    def beat(self) -> None:
        """Say what is being done if nothing was said for long."""
        with self._lock:
            now = self._clock()
            if not self._doing or self._open or now - self._heard < self._most:
                return
            load, cores = machine_load()
            busy = f"; the machine is busy: load {load:.1f}" * (load > cores)
            line = f"{self._doing} ({now - self._since:.0f} s{busy})"
            width = shutil.get_terminal_size().columns - 1
            self._to.write(f"\r{line[:width]}\x1b[K" if self._live else f"{line}\n")
            self._to.flush()
            self._shown = self._live
            if not self._live:
                self._heard = now


class _Heard:
    def __init__(self, stream: TextIO, pulse: Pulse):
        self._stream, self._pulse = stream, pulse

    def write(self, text: str) -> int:
        return self._pulse.write(self._stream, text)

    def flush(self) -> None:
        self._pulse.flush(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def draws() -> bool:
    """Whether a line of this process may move: on a terminal that no parent writes to as well."""
    return errors.is_terminal and CHILD not in os.environ


def machine_load() -> tuple[float, int]:
    """The load of the last minute (NaN where the system has none), and the number of cores."""
    return memory.load_average(), os.cpu_count() or 1


def doing(what: str) -> None:
    """Note the work that begins now, for the progress line that is shown while nothing else is."""
    for pulse in _pulses:
        pulse.note(visible(what))


@contextlib.contextmanager
def never_silent(what: str) -> Iterator[None]:
    """Let no part of the block be silent for long; see `Pulse`."""
    pulse, before, over = Pulse(sys.stderr), (sys.stdout, sys.stderr), threading.Event()
    pulse.note(what)

    def keep() -> None:
        while not over.wait(0.5):
            pulse.beat()

    thread = threading.Thread(target=keep, name="szpo-pulse", daemon=True)
    _pulses.append(pulse)
    sys.stdout, sys.stderr = map(pulse.wrap, before)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        pulse.write(before[1], "")
        sys.stdout, sys.stderr = before
        _pulses.remove(pulse)


class Terminated(BaseException):
    """A signal ended it; as with KeyboardInterrupt, ``except Exception`` does not catch it."""

    def __init__(self, number: int):
        self.number = number


def say(text: str = "") -> None:
    """Print a text; brackets are not read as markup, and escape sequences have no effect."""
    console.print(visible(hide_keys(text)), markup=False)


def complain(text: str) -> None:
    """Print one line on stderr."""
    errors.print(visible(hide_keys(" ".join(text.split()))), markup=False)


def tell(line: str) -> None:
    """Print one line on stderr, or show it on the progress line if it passes."""
    from szpo.types import Passing

    if draws() and isinstance(line, Passing):
        doing(line)
    else:
        complain(line)


def warn(text: str) -> None:
    """Print a warning as one line on stderr."""
    complain(f"warning: {text}")


def emit(document: Any) -> None:
    """Print a JSON document on stdout; numbers that are not finite become null."""
    from szpo.voting.applied_step import plain

    text = json.dumps(plain(document), ensure_ascii=False, indent=2)
    typer.echo(re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def answer(as_json: bool, document: Any, *lines: str) -> None:
    """Print a command's result: one JSON document, or lines for people."""
    if as_json:
        emit(document)
    else:
        say("\n".join(lines))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: numbers right-aligned, None as a dash; lines break only between words.

    Names are never cut or broken, so that they can be copied.
    """
    made = Table(box=None, pad_edge=False)
    content = [[_cell(value) for value in row] for row in rows]
    for i, column in enumerate(columns):
        right = bool(content) and all(_numeric(row[i]) for row in content)
        made.add_column(
            Text(visible(column)),
            justify="right" if right else "left",
            overflow="fold",
            min_width=max(
                cell_len(word) for row in [columns, *content] for word in row[i].split() or [""]
            ),
        )
    for row in content:
        made.add_row(*map(Text, row))
    console.print(made)


def count(number: int, thing: str) -> str:
    """A number of things, such as "1 vote" and "2,000 votes"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def pairs(values: Mapping[str, object], *, to: Console = console) -> None:
    """Print names and values, one pair per line, aligned."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        to.print(f"{visible(name).ljust(width)}  {_cell(value)}", markup=False)


def fail(error: BaseException) -> int:
    """Print an error as one line and return its exit code."""
    if isinstance(error, SzpoError):
        complain(f"error: {error}")
        return error.exit_code
    # By attribute, not by class: typer has its own copy of click.
    described = getattr(error, "format_message", None)
    if callable(described):
        context = getattr(error, "ctx", None)
        hint = f" (see: {context.command_path} --help)" if context else ""
        complain(f"error: {described() or 'no command given'}{hint}")
        return 2
    if isinstance(error, MemoryError):
        complain("error: out of memory; lower optimizer.D, or set model.quantization to nf4")
        return 6
    if isinstance(error, RecursionError) and "JSON" in str(error):
        complain(
            "error: JSON is nested too deep, and not written by szpo; restore a copy of the file"
        )
        return 5
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        complain(f"error: {place}{error.strerror or error}")
        return 4
    if isinstance(error, sqlite3.DatabaseError):
        complain(
            f"error: the ledger could not be read or written ({error}); check the disk and try "
            "again"
        )
        return 4
    if why := blame_proxies(error):
        complain(f"error: {why}")
        return 2
    complain(
        f"error: unexpected {type(error).__name__}: {error}; this is a fault of szpo: "
        "run again with --debug and report what it prints"
    )
    return 1


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(str(value))


def _numeric(text: str) -> bool:
    return text == "–" or text.replace(",", "").lstrip("+-−").replace(".", "", 1).isdigit()


def counting(things: str, of: int, done: int = 0) -> Callable[[int, str], None]:
    """What tells on the progress line how many of the things are done, and a note.

    From the pace since ``done`` it says how long the rest may take.
    """
    from szpo.runs.setup_progress import Countdown, Stage

    countdown = Countdown(time.monotonic)
    countdown.describe(Stage(things, done, of))

    def tell(now: int, note: str) -> None:
        text = countdown.describe(Stage(things, now, of))
        doing(f"{text}, {note}" if note else text)

    return tell


def stages(of: str, *, as_json: bool) -> Progress:
    """What tells the stage of a long work on the progress line: its name, parts done, all parts.

    Where no line may move it is told in lines; with ``as_json`` only where nothing else is said.
    """
    from szpo.runs import setup_progress

    tell = setup_progress.telling(complain, of=of)

    def show(stage: str, done: int, parts: int) -> None:
        doing(f"{of}: {setup_progress.Stage(stage, done, parts)}")
        if not draws() and not as_json:
            tell(stage, done, parts)

    return show


def show(comparison: Comparison, seat: Assignment, to: Console) -> None:
    """Print the prompts and answers of a comparison as this panelist sees them."""
    from szpo.config.sentences import ENGLISH

    for row in (comparison.rows[i] for i in seat.prompt_order):
        if row.identical:
            continue
        for role, text in row.prompt.turns[:-1]:
            name = ENGLISH.page["roles"].get(role, role)
            to.print(Text(visible(f"{name}: {text}"), "dim"), soft_wrap=False)
        to.print(Text(visible(row.prompt.text), "bold"), soft_wrap=False)
        boxes: list[RenderableType] = [
            Panel(_text(answer), title=letter, title_align="left")
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


def _text(answer: Answer) -> RenderableType:
    from szpo.config.sentences import ENGLISH
    from szpo.models.answer_shares import is_cut

    cut, signs = is_cut(answer), ENGLISH.signs
    written = Text(visible(answer.text.rstrip("\ufffd") if cut else answer.text))
    if cut or not answer.text.strip():
        written.append(f" … ({signs['cut']})" if cut else f"({signs['empty']})", "dim")
    return written


def at_place(key: str) -> str:
    """A key of another script as the Latin letter in its place; any other key as it is.

    >>> at_place("ф"), at_place("σ"), at_place("left")
    ('a', 's', 'left')
    """
    return key.translate(_PLACES) if len(key) == 1 else key


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
        """The next key in lower case: a letter, or an arrow's name; "" for Enter.

        A letter of another script is the Latin one in its place on the keyboard.
        """
        if not self._single:
            line = sys.stdin.readline()
            return at_place(line.strip().lower()) if line else LEAVE
        return at_place((_key(None) or "").lower())

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
        return at_place((_key(seconds) or "").lower()) == LEAVE


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
        if key and not key.isascii():
            return _letter(key)
        return {None: None, "": LEAVE, "\n": ""}.get(key, key)

    def _arrow() -> str:
        """Read the rest of an escape sequence, whole, so that none of its letters is a key."""
        sequence = ""
        while (letter := _byte(ESCAPE_S)) is not None:
            sequence += letter
            if not letter or (len(sequence) > 1 and "@" <= letter <= "~"):
                break
        return ARROWS.get(sequence[1:], "?key") if sequence[:1] in ("[", "O") else "?key"

    def _letter(part: str | None) -> str:
        """A letter of several bytes, of which this is the first."""
        decoder, found = codecs.getincrementaldecoder("utf-8")("replace"), ""
        while part and not (found := decoder.decode(part.encode("latin-1"))):
            part = _byte(ESCAPE_S)
        return found or "?key"

    def _byte(seconds: float | None) -> str | None:
        """The next byte as a character, "" at the end of input, None if none came in time."""
        number = sys.stdin.fileno()
        if not select.select([number], [], [], seconds)[0]:
            return None
        return os.read(number, 1).decode("latin-1")
