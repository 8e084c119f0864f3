"""CSV tables for spreadsheet programs, in which no cell is executed as a formula.

A text that a spreadsheet might execute gets an apostrophe in front. `unguard` removes exactly that
apostrophe, so the texts of a returned table are the original ones.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Final

_SIGNS: Final = frozenset("=+-@\N{MINUS SIGN}")
"""Signs that begin a formula, also in forms that Unicode normalises to them."""
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0")
"""Invisible letters of Hangul."""
_ORDINARY: Final = re.compile("[A-Za-z0-9]")


def _is_risky(text: str) -> bool:
    """Whether a spreadsheet might execute a text, or a guard could not be undone.

    So if it begins with a control character (programs drop some and execute the rest), an
    apostrophe, or, after invisible characters, a sign that begins a formula.
    """
    if not text or _ORDINARY.match(text):
        return False
    if text[0] == "'" or unicodedata.category(text[0]) == "Cc":
        return True
    first = next((char for char in text if not _is_unseen(char)), "")
    return unicodedata.normalize("NFKC", first) in _SIGNS


def _is_unseen(char: str) -> bool:
    """Whether it is a space, control or format character, combining mark or filler."""
    return char in _FILLERS or unicodedata.category(char)[0] in "ZCM"


def guard(text: str) -> str:
    """Make a cell of a text, with an apostrophe in front if a spreadsheet might execute it.

    >>> guard("=1+1"), guard("Tea.")
    ("'=1+1", 'Tea.')
    """
    return f"'{text}" if _is_risky(text) else text


def unguard(cell: str) -> str:
    """Return the text from which `guard` made this cell."""
    return cell[1:] if cell.startswith("'") and _is_risky(cell[1:]) else cell


def writer(file: IO[str], names: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    """Write a CSV header; returns a function that writes a row with every text guarded.

    Open ``file`` with ``newline=""``. Lines end in CR LF, since otherwise Python 3.11 does not
    quote cells with a lone CR.
    """
    table = csv.DictWriter(file, names, lineterminator="\r\n")
    table.writeheader()
    return lambda row: table.writerow({name: _cell(row[name]) for name in names})


def write(file: IO[str], names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a header and rows as CSV with every text guarded; returns the number of rows.

    ``file`` is opened with ``newline=""``.
    """
    row_of, count = writer(file, names), 0
    for row in rows:
        row_of(row)
        count += 1
    return count


def _cell(value: Any) -> Any:
    return guard(value) if isinstance(value, str) else value
