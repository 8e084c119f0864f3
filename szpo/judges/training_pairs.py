"""What a pair scorer learns from: a run's counted votes, or a file of chosen and rejected."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.types import Answer, Prompt
from szpo.voting import counting

Shown = tuple[Prompt, Answer, Answer]
"""A request with the first and the second answer to it."""
HELD_OUT_EVERY: Final = 5
"""One lesson in this many is held out for measuring."""
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


@dataclass(frozen=True, slots=True)
class Lesson:
    """Two sets of answers and which was better: z is 1 for the first, 0 for the second, ½ tie."""

    shown: tuple[Shown, ...]
    z: float
    rows: int
    """D, rows with equal answers included."""


def of_ledger(ledger: Ledger) -> list[Lesson]:
    """One lesson for each counted vote of a run, plus first."""
    found = []
    for row in ledger.steps():
        comparisons = {c.id: c for c in ledger.comparisons(row["step"])}
        for vote in counting.counted(ledger, row["step"]):
            rows = comparisons[vote.comparison].rows
            shown = tuple((r.prompt, r.plus, r.minus) for r in rows if not r.identical)
            z = {"plus": 1.0, "minus": 0.0}.get(vote.verdict, 0.5)
            found.append(Lesson(shown, z, len(rows)))
    return found


def of_file(path: Path) -> list[Lesson]:
    r"""One lesson for each line {"chosen", "rejected"} of a JSONL file.

    Each is a text after "prompt", a list of messages, or a whole dialogue of "\n\nHuman:" and
    "\n\nAssistant:" turns whose last answer is meant. Lines with equal answers are left out.

    Raises:
        UsageError: The file cannot be read, or a line is none of these.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"pairs {path} cannot be read ({why})") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is not JSON ({error})") from None
        if not isinstance(entry, dict) or not {"chosen", "rejected"} <= set(entry):
            raise UsageError(f'{where}: give {{"chosen": …, "rejected": …}}')
        (prompt, good), (other, bad) = (
            _dialogue(entry[side], entry.get("prompt"), where) for side in ("chosen", "rejected")
        )
        if prompt != other:
            raise UsageError(f"{where}: chosen and rejected answer different requests")
        if good != bad:
            found.append(Lesson(((prompt, Answer(good), Answer(bad)),), 1.0, 1))
    return found


def split(lessons: Sequence[Lesson]) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons to learn from and, by the hash of their prompts, every fifth or so to measure on."""
    parts: tuple[list[Lesson], list[Lesson]] = ([], [])
    for lesson in lessons:
        text = json.dumps([row[0].turns for row in lesson.shown])
        parts[hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_EVERY == 0].append(lesson)
    return parts


def _dialogue(value: Any, prompt: Any, where: str) -> tuple[Prompt, str]:
    """The request and the answer that a field holds."""
    if isinstance(value, list):
        turns = [(m.get("role"), m.get("content")) for m in value if isinstance(m, dict)]
    elif isinstance(value, str) and isinstance(prompt, str):
        turns = [("user", prompt), ("assistant", value)]
    elif isinstance(value, str):
        parts = _TURN.split(value)
        roles = {"Human": "user", "Assistant": "assistant"}
        turns = [(roles[r], t.strip()) for r, t in zip(parts[1::2], parts[2::2], strict=True)]
    else:
        turns = []
    whole = all(isinstance(r, str) and isinstance(t, str) for r, t in turns)
    if len(turns) < 2 or not whole or turns[-1][0] != "assistant":
        raise UsageError(
            f"{where}: give texts with a prompt, messages, or a dialogue of Human and Assistant "
            "turns that ends with an answer"
        )
    return Prompt(tuple((str(r), str(t)) for r, t in turns[:-1])), str(turns[-1][1])
