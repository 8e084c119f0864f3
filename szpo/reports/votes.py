"""Every vote of a run as a row: JSONL with the texts, or CSV."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from szpo.data import spreadsheets
from szpo.errors import UsageError
from szpo.failpoints import failpoint
from szpo.files import private, written_whole
from szpo.ledger.database import Ledger, Record
from szpo.voting.counting import counted, verdict


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
        written_whole(path) as draft,
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
    names = {
        row["panelist"]: (row["pseudonym"], row["kind"])
        for row in ledger.query("SELECT * FROM panelists")
    }
    counting: dict[int, set[tuple[str, str, int]]] = {}
    rows_of: dict[str, Record] = {}
    for vote in ledger.votes():
        step = vote["step"]
        if step is not None and step not in counting:
            counting[step] = {
                (v.comparison, v.panelist, v.revision) for v in counted(ledger, step)
            }
        key = (vote["comparison"], vote["panelist"], vote["revision"])
        name, kind = names[vote["panelist"]]
        row: Record = {
            "run": ledger.run,
            "step": step,
            "k": vote["k"],
            "n": vote["n"],
            "comparison": vote["comparison"],
            "kind": vote["kind"],
            "panelist": name,
            "panelist_kind": kind,
            "vote": vote["vote"],
            "revision": vote["revision"],
            "plus_side": vote["plus_side"],
            "choice": vote["choice"],
            "verdict": verdict(vote["choice"], vote["plus_side"]),
            "counted": key in counting.get(step, ()),
            "late": bool(vote["late"]),
            "skip_reason": vote["skip_reason"],
            "dwell_ms": vote["dwell_ms"],
            "received_us": vote["received_us"],
        }
        if texts:
            if vote["comparison"] not in rows_of:
                comparison = ledger.comparison(vote["comparison"])
                shown = comparison.rows if comparison else ()
                rows_of[vote["comparison"]] = {
                    "prompts": [r.prompt.turns for r in shown],
                    "plus": [r.plus.text for r in shown],
                    "minus": [r.minus.text for r in shown],
                }
            row |= rows_of[vote["comparison"]]
        yield row


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
    return spreadsheets.write(file, list(first), itertools.chain([first], rows))
