"""What a pair scorer learns from: a run's counted votes, or a file of chosen and rejected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from szpo.data import preference_files
from szpo.ledger.database import Ledger
from szpo.types import Answer, Prompt
from szpo.voting import counting

Shown = tuple[Prompt, Answer, Answer]
"""A request with the first and the second answer to it."""
HELD_OUT_EVERY: Final = 5
"""One pair in this many is held out for measuring."""


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two sets of answers and which was better: z is 1 for the first, 0 for the second, ½ tie."""

    shown: tuple[Shown, ...]
    z: float
    rows: int
    """D, rows with equal answers included."""


def of_ledger(ledger: Ledger) -> list[LabelledPair]:
    """One pair for each counted vote of a run, plus first."""
    found = []
    for row in ledger.steps():
        comparisons = {c.id: c for c in ledger.comparisons(row["step"])}
        for vote in counting.counted(ledger, row["step"]):
            rows = comparisons[vote.comparison].rows
            shown = tuple((r.prompt, r.plus, r.minus) for r in rows if not r.identical)
            z = {"plus": 1.0, "minus": 0.0}.get(vote.verdict, 0.5)
            found.append(LabelledPair(shown, z, len(rows)))
    return found


def of_file(path: Path) -> list[LabelledPair]:
    """One pair for each preference of a file, the chosen answer first; ties are left out.

    Raises:
        UsageError: The file cannot be read, or a record is no preference.
    """
    pairs = preference_files.read(path, preference_files.find_format(path)).pairs
    return [LabelledPair(((each.prompt, each.chosen, each.rejected),), 1.0, 1) for each in pairs]


def split(pairs: Sequence[LabelledPair]) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Pairs to learn from and, by the hash of their prompts, every fifth or so to measure on."""
    parts: tuple[list[LabelledPair], list[LabelledPair]] = ([], [])
    for pair in pairs:
        text = json.dumps([row[0].turns for row in pair.shown])
        parts[hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_EVERY == 0].append(pair)
    return parts
