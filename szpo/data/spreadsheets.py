"""CSV tables for spreadsheet programs, in which no cell is run as a formula.

A text that a spreadsheet might run is written with an apostrophe before it. `unguard` takes
exactly that apostrophe off again, so that a table that comes back has the texts that went out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Final

_RISKY: Final = re.compile(
    r"['\x00-\x1f\x7f-\x9f]|[\s\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*[=+\-@＝＋－＠]"
)
"""Beginnings of texts that are guarded: a control character (programs drop some, and run what is
left), an apostrophe (so that the guard can be undone), or, after invisible characters, one that
begins a formula, its wide form too."""


def guard(text: str) -> str:
    """Make a cell of a text: with an apostrophe before it where a spreadsheet might run it.

    >>> guard("=1+1"), guard("Tea.")
    ("'=1+1", 'Tea.')
    """
    return f"'{text}" if _RISKY.match(text) else text


def unguard(cell: str) -> str:
    """Return the text that `guard` made this cell of."""
    return cell[1:] if cell.startswith("'") and _RISKY.match(cell[1:]) else cell


def writer(file: IO[str], names: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    """Write a header as CSV; returns the function that writes a row, every text guarded.

    ``file`` is opened with ``newline=""``. Lines end in CR LF: only then the module of Python 3.11
    quotes cells that hold a lone CR.
    """
    table = csv.DictWriter(file, names, lineterminator="\r\n")
    table.writeheader()
    return lambda row: table.writerow({name: _cell(row[name]) for name in names})


def write(file: IO[str], names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a header and the rows as CSV, every text guarded; returns the number of rows.

    ``file`` is opened with ``newline=""``.
    """
    row_of, count = writer(file, names), 0
    for row in rows:
        row_of(row)
        count += 1
    return count


def _cell(value: Any) -> Any:
    return guard(value) if isinstance(value, str) else value
