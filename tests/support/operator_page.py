"""The operator's page as text, and a look ahead for it to show."""

from __future__ import annotations

import math
import re
from typing import Any

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


def text(html: str) -> str:
    """What is read: no tags, single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def look_ahead(stage: Stage, **fields: Any) -> None:
    """The record of a step that looked ahead, with something to say of everything."""
    outlook = {**SURE.to_json(), "share": 0.5, "drift": 2.0, **fields}
    body = {"step": 1, "total_votes": 8, "extra": {"outlook": outlook}}
    stage.ledger.record_event("step", "controller", body)
