"""A run's votes as rows: JSONL, CSV or an SQLite table."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Final

from szpo.analysis.vote_rows import VoteRows, open_comparisons
from szpo.data import csv_tables
from szpo.errors import UsageError
from szpo.failpoints import failpoint
from szpo.files import private, write_whole
from szpo.ledger.database import Ledger, Record

COLUMNS: Final = (
    "run", "step", "k", "n", "comparison", "kind", "panelist", "panelist_kind", "vote", "revision",
    "plus_side", "choice", "verdict", "counted", "late", "skip_reason", "dwell_ms", "received_us",
)  # fmt: skip
HELD: Final = 256
"""Most comparisons whose texts are in memory at a time."""


def write_votes(ledger: Ledger, path: Path) -> int:
    """Write the votes by the suffix: JSONL or an SQLite table with texts, or CSV without.

    Withdrawn votes and those of open rounds and final comparisons are left out. Returns the number
    of votes.
    """
    writers = {".jsonl": write_jsonl, ".csv": write_csv, ".db": None}
    if path.suffix not in writers:
        raise UsageError(f"{path.name}: votes are written as .jsonl, .csv or .db")
    write = writers[path.suffix]
    with (
        write_whole(path) as draft,
        open(draft, "x", encoding="utf-8", newline="", opener=private) as file,
        ledger.snapshot(),
    ):
        count = write_table(ledger, draft) if write is None else write(ledger, file)
        failpoint("cp13")
    return count


def export_votes(
    ledger: Ledger, *, texts: bool = False, without: Collection[str] = ()
) -> Iterator[Record]:
    """Yield stored votes but withdrawn ones as flat rows, in order, with panelists' pseudonyms.

    ``texts``: add prompts and both batches. ``without``: comparisons to leave out.
    """
    people = ledger.query("SELECT pseudonym, kind FROM panelists")
    kinds = {row["pseudonym"]: row["kind"] for row in people}
    texts_of = lru_cache(HELD)(partial(_texts, ledger))
    for vote in VoteRows(ledger, without=without):
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


def write_jsonl(ledger: Ledger, file: IO[str]) -> int:
    """Write votes of closed rounds with their texts as lines of JSON; returns their number."""
    count = 0
    for row in export_votes(ledger, texts=True, without=open_comparisons(ledger)):
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count


def write_csv(ledger: Ledger, file: IO[str]) -> int:
    """Write votes of closed rounds as CSV without formulas, and nothing if there are none."""
    rows = export_votes(ledger, without=open_comparisons(ledger))
    first = next(rows, None)
    if first is None:
        return 0
    return csv_tables.write_table(file, COLUMNS, itertools.chain([first], rows))


def write_table(ledger: Ledger, path: Path) -> int:
    """Write a table ``votes`` with indexes to an empty SQLite file; returns its row count."""
    from sqlite_utils import Database  # it loads pandas

    with contextlib.closing(Database(path)) as file:
        votes = file.table("votes")
        whole = dict.fromkeys(("step", "k", "n", "dwell_ms"), int)  # the first may be null
        rows = export_votes(ledger, texts=True, without=open_comparisons(ledger))
        votes.insert_all(rows, pk="vote", columns=whole)
        if not votes.exists():
            return 0
        for columns in (("step", "k", "n"), ("comparison",), ("panelist",)):
            votes.create_index(columns)
        return int(votes.count)
