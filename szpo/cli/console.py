"""Printing for the command line: tables, JSON, one-line errors."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from szpo.errors import SzpoError
from szpo.outgoing import blame_proxies, hide_keys
from szpo.visible_text import visible

console = Console(highlight=False, soft_wrap=True, emoji=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

AS_JSON = typer.Option(False, "--json", help="Print one JSON document instead of a table.")


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(hide_keys(super().format(record)))


if logging.lastResort is not None:  # warnings quote files and servers, which may send escapes
    logging.lastResort.setFormatter(_Visible())


def set_resumable(command: str | None) -> None:
    """Set the command that continues the run after an interrupt, for `report_stop`; None: none."""
    _run["command"] = command


def report_stop(how: str) -> None:
    """Print that a signal ended the command, and how to continue the run."""
    command = _run.get("command")
    hint = f"; nothing counted is lost. Continue with: {command}" if command else ""
    complain(f"stopped by {how}{hint}")


_run: dict[str, str | None] = {}


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


def warn(text: str) -> None:
    """Print a warning as one line on stderr."""
    complain(f"warning: {text}")


def emit(document: Any) -> None:
    """Print a JSON document on stdout; numbers that are not finite become null."""
    from szpo.voting.step_report import plain

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
        complain(f"error: {described()}{hint}")
        return 2
    if isinstance(error, MemoryError):
        complain("error: out of memory; lower optimizer.rows, or set model.quantization to nf4")
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
