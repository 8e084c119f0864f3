"""Sheets of questions filled in by people: id, prompt, a, b, choice (A, B, tie, skip), by.

Where a prompt has several turns, they are also given as messages.

`szpo select` writes them as .csv or .jsonl. Unanswered and skipped questions give neither a pair
nor a tie.
"""

from __future__ import annotations

from typing import Any, Final

from szpo.data import trl
from szpo.data.pairs import Preferences, get_text, make_pair
from szpo.data.prompts import SYSTEM_KEYS
from szpo.errors import UsageError

CHOICES: Final = {"a": "A", "b": "B", "tie": "tie", "skip": "skip"}
"""Choices by what people may write, in lower case."""
COLUMN: Final = "choice"
COLUMNS: Final = (
    "id", "prompt", "a", "b", COLUMN, "by", "gain", trl.MESSAGES, *SYSTEM_KEYS,
    "chosen", "rejected", "completion", "instruction", "chosen_end", "rejected_end", "source",
    "votes",
)  # fmt: skip
"""Columns of tables of pairs."""


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
