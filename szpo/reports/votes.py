"""Every vote of a run as a row: JSONL with the texts, or CSV."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Final

from szpo.analysis.vote_rows import VoteRows
from szpo.data import spreadsheets
from szpo.errors import UsageError
from szpo.failpoints import failpoint
from szpo.files import private, write_whole
from szpo.ledger.database import Ledger, Record

COLUMNS: Final = (
    "run", "step", "k", "n", "comparison", "kind", "panelist", "panelist_kind", "vote", "revision",
    "plus_side", "choice", "verdict", "counted", "late", "skip_reason", "dwell_ms", "received_us",
)  # fmt: skip
HELD: Final = 256
"""Comparisons whose texts are in memory at once."""


def write_votes(ledger: Ledger, path: Path) -> int:
    """Every stored vote as JSONL (with the texts) or CSV, by the suffix; returns their number.

    Raises:
        UsageError: The suffix is neither .jsonl nor .csv.
        StorageError: The file exists or cannot be written.
    """
    writers = {".jsonl": write_jsonl, ".csv": write_csv}
    if path.suffix not in writers:
        raise UsageError(f"{path.name}: votes are written as .jsonl or .csv")
    with (
        write_whole(path) as draft,
        open(draft, "x", encoding="utf-8", newline="", opener=private) as file,
        ledger.snapshot(),
    ):
        count = writers[path.suffix](ledger, file)
        failpoint("cp13")
    return count


def export_votes(ledger: Ledger, *, texts: bool = False) -> Iterator[Record]:
    """Every stored vote as a flat row, in order; panelists by pseudonym only.

    ``texts`` adds the comparison's prompts and both batches (as lists).
    """
    people = ledger.query("SELECT pseudonym, kind FROM panelists")
    kinds = {row["pseudonym"]: row["kind"] for row in people}
    texts_of = lru_cache(HELD)(partial(_texts, ledger))
    for vote in VoteRows(ledger):
        row: Record = {"run": ledger.run}
        for name in COLUMNS[1:]:
            own = name == "panelist_kind"
            row[name] = kinds[vote.panelist] if own else getattr(vote, name)
        yield row | texts_of(vote.comparison) if texts else row


def _texts(ledger: Ledger, comparison: str) -> Record:
    found = ledger.comparison(comparison)
    shown = found.rows if found else ()
    return {
        "prompts": [row.prompt.turns for row in shown],
        "plus": [row.plus.text for row in shown],
        "minus": [row.minus.text for row in shown],
    }


def write_jsonl(ledger: Ledger, file: IO[str], *, texts: bool = True) -> int:
    """Write every vote as a line of JSON; returns how many."""
    count = 0
    for row in export_votes(ledger, texts=texts):
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count


def write_csv(ledger: Ledger, file: IO[str]) -> int:
    """Write every vote as a line of CSV, no cell a formula; nothing where there is no vote."""
    rows = export_votes(ledger)
    first = next(rows, None)
    if first is None:
        return 0
    return spreadsheets.write(file, COLUMNS, itertools.chain([first], rows))
