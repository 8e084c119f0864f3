"""Preferences from any file that szpo reads, as comparisons in which plus was preferred.

A pair of a preference file becomes a comparison of one row. A demonstration is preferred to the
base's answer, which is drawn later, when a model is loaded. A run's ledger gives its own
comparisons of whole batches. Notes on single rows are not read.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from szpo.data import preference_files
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.types import Comparison, Row, Vote
from szpo.voting import counting

MAX_COMPARISONS: Final = 1000
"""Most comparisons used, spread evenly over the file; more would add little."""
LEDGER: Final = ".db"
LEDGER_KIND: Final = "ledger"


@dataclass(frozen=True, slots=True)
class Preferred:
    """The preferences in a file."""

    file: str
    """The file's name without its folder."""
    kind: str
    """ledger, demonstrations, or one of `preference_files.FORMATS`."""
    sha256: str
    """Hash of the file's bytes; for a ledger, which may still grow, of its last event."""
    comparisons: tuple[Comparison, ...]
    """Of direction 0, numbered in order; plus was preferred. For demonstrations minus equals plus
    until the base has answered."""
    of: int
    """Number of preferences in the file."""


def read(path: Path) -> Preferred:
    """Read the preferences of a ledger (.db) or of a preference file, whatever its format.

    Raises:
        UsageError: there is no such file, a record cannot be used, or nothing is preferred.
        StorageError, IntegrityError: a ledger cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file; give a run's .db or a preference file")
    if path.suffix == LEDGER:
        with Ledger.open(path, readonly=True) as ledger:
            last = ledger.last_event()
            assert last is not None, "a ledger's first event is written with it"
            digest, kind, rows = str(last["row_sha256"]), LEDGER_KIND, _read_ledger(ledger)
    else:
        kind = preference_files.find_format(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if kind == preference_files.DEMONSTRATIONS:
            examples = preference_files.read_examples(path)
            rows = [(Row(prompt, answer, answer),) for prompt, answer in examples]
        else:
            pairs = preference_files.read(path, kind).pairs
            rows = [(Row(pair.prompt, pair.chosen, pair.rejected),) for pair in pairs]
    if not rows:
        raise UsageError(f"{path} has no preference: no pair differs, or all are ties")
    chosen = rows
    if len(rows) > MAX_COMPARISONS:
        chosen = [rows[i * len(rows) // MAX_COMPARISONS] for i in range(MAX_COMPARISONS)]
    comparisons = tuple(Comparison(f"prior-{n}", -1, 0, n, row) for n, row in enumerate(chosen))
    return Preferred(path.name, kind, digest, comparisons, len(rows))


def _read_ledger(ledger: Ledger) -> list[tuple[Row, ...]]:
    """The rows of each comparison of a closed step, with the batch of more votes as plus."""
    found: list[tuple[Row, ...]] = []
    for comparison, votes in voted(ledger):
        ahead = lead(votes)
        if ahead > 0:
            found.append(comparison.rows)
        elif ahead < 0:
            found.append(tuple(Row(r.prompt, r.minus, r.plus) for r in comparison.rows))
    return found


def voted(ledger: Ledger) -> Iterator[tuple[Comparison, list[Vote]]]:
    """Yield comparisons of closed steps that have counted votes, each with its votes."""
    for step in ledger.steps():
        if step["state"] not in ("closed", "applied"):
            continue
        votes: dict[str, list[Vote]] = defaultdict(list)
        for vote in counting.counted(ledger, step["step"]):
            votes[vote.comparison].append(vote)
        for comparison in ledger.comparisons(step["step"]):
            if comparison.id in votes:
                yield comparison, votes[comparison.id]


def lead(votes: Sequence[Vote]) -> int:
    """Count the votes for plus minus those for minus."""
    return sum({"plus": 1, "minus": -1}.get(vote.verdict, 0) for vote in votes)
