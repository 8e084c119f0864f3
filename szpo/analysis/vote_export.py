"""A run's votes as rows: JSONL, CSV, an SQLite table, or a folder for ``datasets``."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, Final

from szpo import __version__
from szpo.analysis.vote_rows import VoteRows, open_comparisons
from szpo.data import csv_tables
from szpo.errors import UsageError
from szpo.failpoints import failpoint
from szpo.files import private, write_whole
from szpo.ledger.database import Ledger, Record
from szpo.runs import status
from szpo.visible_text import visible

COLUMNS: Final = (
    "run", "step", "k", "n", "comparison", "kind", "panelist", "panelist_kind", "vote", "revision",
    "plus_side", "choice", "verdict", "counted", "late", "skip_reason", "dwell_ms", "received_us",
)  # fmt: skip
HELD: Final = 256
"""Most comparisons whose texts are in memory at a time."""

FILE: Final = "data/votes.jsonl"
TYPES: Final = {
    "run": "string", "step": "int64", "k": "int64", "n": "int64", "comparison": "string",
    "kind": "string", "vote": "int64", "revision": "int64", "plus_side": "string",
    "choice": "string", "verdict": "string", "counted": "bool", "late": "bool",
    "skip_reason": "string", "dwell_ms": "int64",
}  # fmt: skip
"""Columns of all datasets, with their types in ``datasets``."""
SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
MEANING: Final = """\
| column | meaning |
|---|---|
| `run`, `step`, `k`, `n` | the run; the step, the direction and the comparison of a direction |
| `comparison`, `kind` | the comparison; `train`, or what else it was asked for |
| `vote`, `revision` | the number of the vote; 0, or how often the answer was changed before |
| `plus_side` | the side, A or B, on which *plus* was shown |
| `choice`, `verdict` | A, B, tie or skip, as given; the same as plus, minus, tie or skip |
| `counted`, `late` | an update used it; it came after its round |
| `skip_reason` | why nobody could judge |
| `dwell_ms` | time on the page, milliseconds |
| `prompts` | the prompts, each a list of turns (`role`, `content`) |
| `plus`, `minus` | the answers compared, one a prompt |
"""


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
    return _write_lines(file, export_votes(ledger, texts=True, without=open_comparisons(ledger)))


def _write_lines(file: IO[str], rows: Iterator[Record]) -> int:
    count = 0
    for row in rows:
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


# ---- for ``datasets`` ----


def write_dataset(
    ledger: Ledger, path: Path, more: Collection[str] = (), *, licence: str | None = None
) -> int:
    """Write the votes to a new folder, completely or not at all; returns their number.

    Withdrawn votes and those of the open round and open final comparisons are left out.
    Contacts, pay and times of day are never written.

    The folder must not exist, or be empty. ``more``: columns about panelists, ``panelist``, a
    pseudonym, and ``notes`` on single prompts. ``licence``: as the hub has it, such as cc-by-4.0.
    """
    with write_whole(path) as draft, ledger.snapshot():
        (draft / FILE).parent.mkdir(parents=True)
        with open(draft / FILE, "x", encoding="utf-8", opener=private) as file:
            count = _write_lines(file, _rows(ledger, more))
        card = _card(ledger, more, count, licence)
        (draft / "README.md").write_text(card, encoding="utf-8")
    return count


def _rows(ledger: Ledger, more: Collection[str]) -> Iterator[Record]:
    texts_of = lru_cache(HELD)(partial(_texts, ledger))
    for vote in VoteRows(ledger, without=open_comparisons(ledger)):
        row: Record = {"run": ledger.run}
        row |= {name: getattr(vote, name) for name in TYPES if name != "run"}
        if "panelist" in more:
            row["panelist"] = vote.panelist
        if "notes" in more:
            notes = sorted(vote.notes.items())
            row["notes"] = [{"row": int(i), "side": side} for i, side in notes]
        texts = texts_of(vote.comparison)
        named = [[{"role": r, "content": c} for r, c in turns] for turns in texts["prompts"]]
        yield row | texts | {"prompts": named}


def _features(more: Collection[str]) -> list[dict[str, Any]]:
    """The columns with their types, which could not be guessed for a column without values."""
    turn = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
    columns: list[dict[str, Any]] = [{"name": n, "dtype": t} for n, t in TYPES.items()]
    if "panelist" in more:
        columns.append({"name": "panelist", "dtype": "string"})
    if "notes" in more:
        note = [{"name": "row", "dtype": "int64"}, {"name": "side", "dtype": "string"}]
        columns.append({"name": "notes", "list": note})
    columns.append({"name": "prompts", "list": {"list": turn}})
    return [*columns, *({"name": side, "list": "string"} for side in ("plus", "minus"))]


def _card(ledger: Ledger, more: Collection[str], count: int, licence: str | None) -> str:
    from huggingface_hub import DatasetCardData

    from szpo.analysis.model_card import count_voters, describe_voters  # it loads a tensor library

    total = status.read_results(ledger)
    people, programs = count_voters(ledger)
    creators = ["crowdsourced"] * bool(people) + ["machine-generated"] * bool(programs)
    size = next((name for most, name in SIZES if count < most), "1M<n<10M")
    front: dict[str, Any] = {
        "pretty_name": f"Votes of {total.name}",
        "annotations_creators": creators,
        "size_categories": [size],
        "tags": ["szpo", "preference", "comparisons"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": FILE}]}],
        "dataset_info": {"features": _features(more)},
    }
    if licence:
        front["license"] = licence
    extra = "| `panelist` | a pseudonym: votes of one panelist have one |\n" * ("panelist" in more)
    extra += "| `notes` | rows on which the panelist noted a better side |\n" * ("notes" in more)
    voters = visible(describe_voters(ledger, total))
    what = "They compare batches of answers of two policies to the same\nprompts"
    limit = "A vote is about a whole batch. It is no preference on any single prompt of it."
    if ledger.spec.get("optimizer", {}).get("D") == 1:
        what = "Each compares two answers to one prompt"
        limit = "A counted vote for a side is a preference between its two answers."
    return f"""---
{DatasetCardData(**front).to_yaml()}
---

# Votes of {visible(total.name)}

{count} votes from {voters}. {what}; szpo tuned a policy on them.
The head of the run's ledger was `{total.head}`.

```python
from datasets import load_dataset

votes = load_dataset("path/to/this/folder", split="train")
```

{MEANING}{extra}
## Limits

{limit} Withdrawn votes and those of a round
or of a final comparison that is still open are left out. Contacts, pay and times of day are not in
here{"" if "panelist" in more else ", nor is who cast which vote"}. Written by szpo {__version__}.
"""
