"""The operator's page as text, and a look ahead for it to show."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from szpo.analysis import measuring
from szpo.ledger.database import Ledger
from szpo.optim.named_features import Claim
from szpo.optim.rules.look_ahead import Ahead, LookAhead
from tests.support.browser import Stage

SURE = LookAhead(
    (
        Ahead(0, (0.61, 0.5, 0.7), (1.25, 1.25, 1.25), 1.0),
        Ahead(40, (0.68, 0.55, 0.8), (2.0, 1.5, 2.5), 1.0),
        Ahead(80, (0.7, 0.6, 0.8), (3.0, 2.0, 4.0), 1.0),
    ),
    math.log(20),
)


def measure(stage: Stage, *points: tuple[int, float]) -> None:
    """Measurements of three held-out prompts: after a number of steps, each with a mean reward."""
    for steps, reward in points:
        name = "tuned" if steps else "base"
        texts = [(f"held-out {i}?", f"<i>{name}</i> answer {i}") for i in range(3)]
        rewards = [[reward + 0.01 * i] for i in range(3)]
        found = measuring.Measured(steps, 4 * steps, rewards, 9.0, None, texts)
        measuring.record(stage.ledger, "run", found)


def text(html: str) -> str:
    """What is read: no tags, single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def teach(
    ledger: Ledger,
    votes: int,
    claims: Sequence[Claim],
    *,
    factor: float = math.log(20),
    ties: int = 0,
    automatic_ties: int = 0,
    **more: float,
) -> None:
    """The record of a step in coordinates of named features, as of so many votes."""
    found = LookAhead((), factor, taught=tuple(claims), **more)
    record(ledger, votes, found, ties=ties, automatic_ties=automatic_ties)


def record(ledger: Ledger, votes: int, found: LookAhead, **counts: int) -> None:
    """The record of a step that looked ahead, as of so many votes."""
    body = {"step": 1, "total_votes": votes, "ties": 0, "automatic_ties": 0, **counts}
    ledger.record_event("step", "controller", {**body, "extra": {"outlook": found.to_json()}})


def look_ahead(stage: Stage, **fields: Any) -> None:
    """The record of a step that looked ahead, with something to say of everything."""
    outlook = {**SURE.to_json(), "share": 0.5, "drift": 2.0, **fields}
    body = {"step": 1, "total_votes": 8, "extra": {"outlook": outlook}}
    stage.ledger.record_event("step", "controller", body)
