"""Sheets of questions filled in by people: id, prompt, a, b, choice (A, B, tie, skip), by.

Where a prompt has several turns, they are also given as messages.

`szpo select` writes them as .csv or .jsonl. Unanswered and skipped questions give neither a pair
nor a tie.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from szpo.data import spreadsheets, text_files, trl
from szpo.data.pairs import Preferences, get_text, make_pair
from szpo.errors import UsageError

CHOICES: Final = {"a": "A", "b": "B", "tie": "tie", "skip": "skip"}
"""Choices by what people may write, in lower case."""
COLUMN: Final = "choice"


def read_pairs(record: dict[str, Any], where: str) -> Preferences:
    """Read the pair of an answered question; the choice tie and equal texts are ties."""
    a, b = (get_text(record, name, where) for name in ("a", "b"))
    prompt = trl.read_prompt(record, where)
    given = read_choice(record) if COLUMN in record else get_text(record, COLUMN, where)
    if given in ("", "skip"):
        return Preferences(())
    if given == "tie":
        return Preferences((), 1)
    if given not in ("A", "B"):
        raise UsageError(f"{where}: choice {given!r} is unknown; give A, B, tie or skip")
    chosen, rejected = (a, b) if given == "A" else (b, a)
    return make_pair(prompt, chosen, rejected, "pair")


def read_choice(record: dict[str, Any]) -> str:
    """A record's choice as szpo writes it; "" if nobody answered."""
    given = str(record.get(COLUMN) or "").strip()
    return CHOICES.get(given.lower(), given)


def read_csv(path: Path, limit: int, *, ours: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row's place in the file, and its cells.

    Args:
        path: The table.
        limit: Most bytes of a line.
        ours: szpo wrote the sheet: cells are unguarded. The rows of another table must be as long
            as its header.
    """
    text_files.inspect_file(path, "sheet" if ours else "pool")
    with path.open("rb") as file:
        texts = (text for _, text in text_files.read_lines(file, path, limit))
        reader = csv.DictReader(texts, strict=True)
        try:
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if ours:
                    cells = {
                        name: spreadsheets.unguard(cell) if isinstance(cell, str) else cell
                        for name, cell in cells.items()
                    }
                elif None in cells or None in cells.values():
                    raise UsageError(
                        f"{where}: not as many cells as the header; quote texts with commas"
                    )
                yield where, cells
        except csv.Error as error:
            raise UsageError(f"{path}:{reader.line_num}: {error}") from error
