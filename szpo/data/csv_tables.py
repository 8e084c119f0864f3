"""Read other people's CSV tables, and write tables that a spreadsheet program does not execute.

A text that it might execute as a formula gets an apostrophe in front. `unguard` removes exactly
that apostrophe, so the texts of a returned table are the original ones.
"""

from __future__ import annotations

import contextlib
import csv
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from szpo.data import text_files
from szpo.data.text_files import Limits
from szpo.errors import UsageError
from szpo.visible_text import FILLERS

SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""Column separators; spreadsheet programs of some countries write semicolons."""
_SIGNS: Final = frozenset("=+-@\N{MINUS SIGN}")
"""Signs that begin a formula, also in forms that Unicode normalises to them."""
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
    return char in FILLERS or unicodedata.category(char)[0] in "ZCM"


def guard(text: str) -> str:
    """Make a cell of a text, with an apostrophe in front if a spreadsheet might execute it.

    >>> guard("=1+1"), guard("Tea.")
    ("'=1+1", 'Tea.')
    """
    return f"'{text}" if _is_risky(text) else text


def unguard(cell: str) -> str:
    """Return the text from which `guard` made this cell."""
    return cell[1:] if cell.startswith("'") and _is_risky(cell[1:]) else cell


def read_table(
    path: Path, known: Collection[str], limits: Limits, *, ours: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row's place in a table, and its cells by column.

    Columns are separated by the one of `SEPARATORS` that gives the header a known column.

    Args:
        path: The table.
        known: Names of columns in lower case; a header's case and spaces around it do not matter.
        limits: Those of the file.
        ours: szpo wrote it: cells are unguarded, and empty ones at a row's end may be missing.
    """
    position = 0

    def lines(file: IO[bytes]) -> Iterator[str]:
        nonlocal position
        for number, line in text_files.read_lines(file, path, limits.line):
            position = number
            yield line

    with text_files.open_text(path, limits) as file:
        mark = _find_separator(next(lines(file), ""), known)
        file.seek(0)
        rows = csv.reader(lines(file), strict=True, delimiter=mark)
        try:
            header = [_column(cell, known) for cell in next(rows, [])]
            if twice := [name for name in known if header.count(name) > 1]:
                raise UsageError(f"{path}:1: two columns are named {twice[0]}; keep one")
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                while len(row) > len(header) and not row[-1].strip():
                    row.pop()
                if ours:
                    row += [""] * (len(header) - len(row))
                if len(row) != len(header):
                    raise UsageError(
                        f"{path}:{position}: {len(row)} cells under {len(header)} column names; "
                        f"put texts with {SEPARATORS[mark]} in double quotes"
                    )
                cells = map(unguard, row) if ours else row
                yield f"{path}:{position}", dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise UsageError(f"{path}:{position}: not valid CSV ({error})") from error


def _column(cell: str, known: Collection[str]) -> str:
    name = cell.strip()
    return name.lower() if name.lower() in known else name


def _find_separator(header: str, known: Collection[str]) -> str:
    """The separator that gives a header a known column; else the most frequent one in it.

    >>> _find_separator("Prompt;topic", ["prompt"])
    ';'
    """
    for mark in SEPARATORS:
        with contextlib.suppress(csv.Error):
            cells = next(csv.reader([header], strict=True, delimiter=mark), [])
            if any(cell.strip().lower() in known for cell in cells):
                return mark
    return max(SEPARATORS, key=header.count)


def table_writer(file: IO[str], names: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    """Write a CSV header; returns a function that writes a row with every text guarded.

    Open ``file`` with ``newline=""``. Lines end in CR LF, since otherwise Python 3.11 does not
    quote cells with a lone CR.
    """
    table = csv.DictWriter(file, names, lineterminator="\r\n")
    table.writeheader()
    return lambda row: table.writerow({name: _cell(row[name]) for name in names})


def write_table(file: IO[str], names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a header and rows as CSV with every text guarded; returns the number of rows.

    ``file`` is opened with ``newline=""``.
    """
    row_of, count = table_writer(file, names), 0
    for row in rows:
        row_of(row)
        count += 1
    return count


def _cell(value: Any) -> Any:
    return guard(value) if isinstance(value, str) else value
