"""CSV tables for spreadsheet programs, in which no cell is run as a formula.

A text that a spreadsheet might run is written with an apostrophe before it. `unguard` takes
exactly that apostrophe off again, so that a table that comes back has the texts that went out.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Final

_SIGNS: Final = frozenset("=+-@\N{MINUS SIGN}")
"""What begins a formula, in this form or in any that Unicode calls compatible with it."""
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0")
"""Letters of Hangul that are never seen."""
_ORDINARY: Final = re.compile("[A-Za-z0-9]")


def _is_risky(text: str) -> bool:
    """A spreadsheet program might run it, or the guard could not be undone.

    That is a control character at its beginning (programs drop some, and run what is left), an
    apostrophe, or, after characters that are not seen, a sign that begins a formula.
    """
    if not text or _ORDINARY.match(text):
        return False
    if text[0] == "'" or unicodedata.category(text[0]) == "Cc":
        return True
    first = next((char for char in text if not _is_unseen(char)), "")
    return unicodedata.normalize("NFKC", first) in _SIGNS


def _is_unseen(char: str) -> bool:
    """Spaces, format characters, marks that need a letter before them, and the like."""
    return char in _FILLERS or unicodedata.category(char)[0] in "ZCM"


def guard(text: str) -> str:
    """Make a cell of a text: with an apostrophe before it where a spreadsheet might run it.

    >>> guard("=1+1"), guard("Tea.")
    ("'=1+1", 'Tea.')
    """
    return f"'{text}" if _is_risky(text) else text


def unguard(cell: str) -> str:
    """Return the text that `guard` made this cell of."""
    return cell[1:] if cell.startswith("'") and _is_risky(cell[1:]) else cell


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
