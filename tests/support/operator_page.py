"""The operator's page as text, and records for it to show.

(PYTEST_DONT_REWRITE: test modules import this module before pytest does.)
"""

import math
import re
from collections.abc import Sequence

from szpo.analysis import measuring
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.optim.named_features import Claim
from szpo.optim.regression import Findings
from tests.support.browser import Stage


def measure(stage: Stage, *points: tuple[int, float]) -> None:
    """Record measurements on three held-out prompts; points are (steps, mean reward)."""
    for steps, reward in points:
        name = "tuned" if steps else "base"
        texts = [(f"held-out {i}?", f"<i>{name}</i> answer {i}") for i in range(3)]
        rewards = [[reward + 0.01 * i] for i in range(3)]
        measuring.record(stage.ledger, "run", steps, 4 * steps, rewards, 9.0, None, texts)


def text(html: str) -> str:
    """The text of HTML: without tags, with single spaces."""
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
    """Write the record of a step in coordinates of named features, after ``votes`` votes."""
    found = Findings(factor, taught=tuple(claims), **more)
    record(ledger, votes, found, ties=ties, automatic_ties=automatic_ties)


def record(ledger: Ledger, votes: int, found: Findings, **counts: int) -> None:
    """Write the record of a step with its findings, after ``votes`` votes."""
    body = {"step": 1, "total_votes": votes, "ties": 0, "automatic_ties": 0, **counts}
    ledger.record_event("step", "controller", {**body, "extra": {"findings": found.to_json()}})


def answer_samples(
    stage: Stage, order: int, prompts: Sequence[str], answers: Sequence[str], end: str = "stop"
) -> None:
    """Fulfil an order of samples with the base model's answers, one per prompt."""
    column = {"name": "base", "step": None, "theta_sha256": "0"}
    column["answers"] = [[answer, end] for answer in answers]
    body = {"prompts": list(prompts), "columns": [column]}
    assert orders.settle(stage.ledger, orders.get(stage.ledger, order), body)
