"""Tags and notes of a folder's runs, in the folder's own ledger: runs stay as they were."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from szpo.ledger.database import Ledger

KIND: Final = "label"
"""Events of this kind name a run with its tag and note; a run's last one holds."""
MOST_TAG, MOST_NOTE = 40, 500
"""Characters."""


@dataclass(frozen=True, slots=True)
class Label:
    """What an operator wrote beside a run."""

    tag: str = ""
    note: str = ""


def read(ledger: Ledger) -> dict[str, Label]:
    """The labels by their runs."""
    bodies = (json.loads(row["body"]) for row in ledger.query(
        "SELECT body FROM events WHERE kind = ? ORDER BY event", (KIND,)
    ))  # fmt: skip
    return {body.pop("run"): Label(**body) for body in bodies}


def write(ledger: Ledger, who: str, run: str, label: Label) -> None:
    """Label a run anew."""
    ledger.record_event(KIND, who, {"run": run, **asdict(label)})
