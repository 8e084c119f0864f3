"""What a ledger records of guided directions: proposals as tensors, and spans of the latest ones.

An event `SPAN` adds a proposal, a difference of weights, and says from which step on directions
are guided, by which proposals and with which numbers (`szpo.optim.guided_directions`). So replay
and verify draw every direction again without the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from szpo.errors import IntegrityError, UsageError
from szpo.ledger import canonical
from szpo.ledger.database import Ledger
from szpo.ledger.theta import adopted_digest
from szpo.optim.guided_directions import Span
from szpo.types import Theta

SPAN: Final = "span"
"""Kind of the event that adds a proposal."""
PREFIX: Final = "proposed/"
"""Of the tensors' names; their number and that of the weights follow."""


def append(
    ledger: Ledger,
    proposal: Theta,
    *,
    first: int,
    noise: float,
    of: Sequence[int],
    mixing: Sequence[Sequence[float]],
    notes: Mapping[str, Any],
) -> None:
    """Record a proposal, and the span of it and of earlier ones.

    ``of``: numbers of the span's proposals, of which this one is the last. ``notes``: what else
    should be known. For the others see `Span`.
    """
    with ledger.transaction("controller"):
        number = sum(1 for _ in ledger.events(SPAN))
        hashes = {}
        for name, values in proposal.items():
            row = canonical.tensor_row(f"{PREFIX}{number}/{name}", values)
            ledger.append("tensors", row)
            hashes[name] = row["sha256"]
        body = {
            **notes, "number": number, "first": first, "noise": noise, "of": [*of],
            "mixing": [[*row] for row in mixing], "tensors": hashes,
            "proposal_sha256": adopted_digest(proposal),
        }  # fmt: skip
        ledger.record_event(SPAN, "controller", body)


def read(ledger: Ledger) -> tuple[Span, ...]:
    """All spans of a run, in order; cached with the ledger.

    Raises:
        IntegrityError: they cannot be read, or a proposal is not the recorded one.
    """
    count = ledger.query("SELECT count(*) AS n FROM events WHERE kind = ?", (SPAN,))[0]["n"]
    known: tuple[Span, ...] = ledger.checked.get(SPAN, ())
    if len(known) == count:
        return known
    proposals, spans = [span.proposals[-1] for span in known], [*known]
    try:
        for event in itertools.islice(ledger.events(SPAN), len(known), None):
            body = event["body"]
            proposals.append(_proposal(ledger, body))
            if body["number"] != len(spans) or body["of"][-1] != len(spans):
                raise ValueError("its number is another")
            if not body["verdicts"] >= 0:
                raise ValueError("it names no verdicts")
            of = tuple(proposals[number] for number in body["of"])
            mixing = tuple(tuple(map(float, row)) for row in body["mixing"])
            spans.append(Span(int(body["first"]), float(body["noise"]), of, mixing))
    except (IndexError, KeyError, TypeError, ValueError, UsageError) as error:
        where = f"{ledger.path.name}: span {len(spans)}"
        raise IntegrityError(f"{where} cannot be read ({error}); restore a copy") from None
    ledger.checked[SPAN] = tuple(spans)
    return tuple(spans)


def _proposal(ledger: Ledger, body: Mapping[str, Any]) -> Theta:
    proposal, shapes = {}, dict(ledger.layout)
    for name, sha256 in body["tensors"].items():
        rows = ledger.query(
            "SELECT * FROM tensors WHERE sha256 = ? AND name = ?",
            (sha256, f"{PREFIX}{body['number']}/{name}"),
        )
        values = canonical.array_of(rows[0]).astype(np.float32)
        if canonical.tensor_row("", values)["sha256"] != sha256 or shapes[name] != values.shape:
            raise ValueError(f"{name} is not the recorded one")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite")
        proposal[name] = values
    if proposal.keys() != shapes.keys():
        raise ValueError("its tensors are not those that move")
    if adopted_digest(proposal) != body["proposal_sha256"]:
        raise ValueError("its proposal is not the recorded one")
    return proposal
