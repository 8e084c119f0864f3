"""What a run's votes taught, in words and over votes; where they taught nothing, why.

Figures are told once the votes show a taste. Read from what each step looked ahead to
(`szpo.optim.rules.look_ahead`), in runs whose coordinates are named features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from szpo.analysis import agreement, evidence
from szpo.features import dictionary
from szpo.intervals import Share, share
from szpo.ledger.database import Ledger
from szpo.optim.named_features import Claim
from szpo.optim.rules.look_ahead import LookAhead

LIKELY: Final = 0.5
"""Probability from which a claim is told."""
LISTED: Final = 0.1
"""Probability from which a claim is mentioned where none is likely, and drawn."""
FEW: Final = 80
"""Votes below which they are too few to say that they follow nothing that has a name.

Of 60 simulated runs on sixty features, those of a taste half as clear as usual that still look so
are 35 at 40 votes and 18 at 80, of a usual one 5 and 0, of votes by chance 53 and 54
(tests/analysis/test_taught.py)."""
PAIRS: Final = 10
"""Pairs of votes on one comparison from which their agreement is told."""
DRAWN: Final = 5
"""Groups in a chart."""


@dataclass(frozen=True, slots=True)
class Line:
    """A group's probability after each step."""

    name: str
    votes: tuple[int, ...]
    chances: tuple[float, ...]
    """0 where it was not listed, below a fiftieth."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What all votes of a run taught."""

    votes: int
    words: str
    """What they are about, with figures once a taste is shown; empty where nothing is likely."""
    shown: bool
    """They show a taste."""
    why: str = ""
    """Why they do not; empty where they do."""
    aside: tuple[str, ...] = ()
    """Groups that they are not to be about, by order."""
    lines: tuple[Line, ...] = field(default=(), repr=False)
    """The leading groups, the likeliest first; empty before a taste is shown."""

    def __str__(self) -> str:
        """In one line.

        >>> str(Lesson(31, "fewer commas (97 %)", True))
        '31 votes: fewer commas (97 %)'
        """
        besides = f", besides {', '.join(self.aside)}" if self.aside else ""
        if self.shown:
            return f"{self.votes} votes{besides}: {self.words}"
        perhaps = f"; perhaps {self.words}" if self.words else ""
        return f"{self.votes} votes{besides}: no taste shown{perhaps}; {self.why}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "text": str(self)}


def phrase(feature: str, more: bool) -> str:
    """More or less of a feature, in plain words.

    >>> phrase("commas", False)
    'fewer commas'
    """
    entry = dictionary.BY_NAME.get(feature)
    if entry is None:
        return f"{'more' if more else 'less'} of {feature}"
    return entry.more if more else entry.fewer


def words(found: LookAhead) -> str:
    """What the votes are about, with figures only once they show a common taste."""
    if found.taught is None:
        return ""
    likely = [each for each in found.taught if each.chance >= LIKELY]
    if not found.shown:
        return ", ".join(_group(each) for each in likely)
    if likely:
        return ", ".join(_told(each) for each in likely)
    if found.unnamed + found.chance >= LIKELY:
        return (
            "a taste that no named feature explains "
            f"({_percent(found.unnamed + found.chance)} for none)"
        )
    some = " or ".join(_told(each) for each in found.taught[:2] if each.chance >= LISTED)
    return f"not clear yet: {some}" if some else "a taste, not clear yet which"


def _group(claim: Claim) -> str:
    return phrase(claim.group or claim.feature, claim.more)


def _told(claim: Claim) -> str:
    """The group with its probability, then its likeliest feature where that is likely in it."""
    very = ""
    if claim.group not in ("", claim.feature) and claim.share >= LIKELY:
        very = (
            f", most likely {phrase(claim.feature, claim.more)} "
            f"({_percent(claim.chance * claim.share)})"
        )
    return f"{_group(claim)} ({_percent(claim.chance)}){very}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def read(ledger: Ledger) -> Lesson | None:
    """What a run's votes taught as of its last step; None where its rule knows no features."""
    steps = ledger.query(
        "SELECT json_extract(body, '$.total_votes') AS votes, json_extract(body, '$.ties') AS "
        "ties, json_extract(body, '$.automatic_ties') AS same, json_extract(body, "
        "'$.extra.outlook') AS found FROM events WHERE kind = 'step' ORDER BY event"
    )
    known = [
        (row["votes"], LookAhead.from_json(json.loads(row["found"])))
        for row in steps
        if row["found"] is not None
    ]
    known = [(votes, found) for votes, found in known if found.taught is not None]
    if not known:
        return None
    votes, last = known[-1]
    if last.shown:
        return Lesson(votes, words(last), True, aside=last.aside, lines=_lines(known))
    ties, same = (sum(row[name] or 0 for row in steps) for name in ("ties", "same"))
    why = _why(ledger, last, votes, ties, same)
    return Lesson(votes, words(last), False, why, last.aside)


def _lines(known: Sequence[tuple[int, LookAhead]]) -> tuple[Line, ...]:
    every = [{_group(c): c.chance for c in found.taught or ()} for _, found in known]
    leading = [name for name, chance in every[-1].items() if chance >= LISTED][:DRAWN]
    at = tuple(votes for votes, _ in known)
    return tuple(Line(name, at, tuple(c.get(name, 0.0) for c in every)) for name in leading)


def _why(ledger: Ledger, found: LookAhead, votes: int, ties: int, same: int) -> str:
    """Why no taste is shown: nothing to choose between, too few votes, no accord, or no name."""
    asked = votes + same
    if asked and 2 * (ties + same) >= asked and asked >= PAIRS:
        return (
            f"the questions hardly differ: {ties} ties, and {same} times two equal sides, in "
            f"{asked} comparisons (more rows or a wider radius show more)"
        )
    unnamed = found.unnamed + found.chance
    if votes < FEW or unnamed < LIKELY:
        return f"the votes are too few (a clear taste takes 40 to {FEW})"
    stated = f"no named feature explains them ({_percent(unnamed)} for none)"
    alike = _alike(ledger)
    if alike.of < PAIRS:
        return (
            f"{stated}: people disagree, or want what has no name here; second votes on a "
            "comparison tell which (panel.second_share)"
        )
    pairs = f"in {alike.hits:.0f} of {alike.of:.0f} pairs, two votes on one comparison agree"
    return f"{stated}, though {pairs}" if alike.low > 0.5 else f"the votes disagree: {pairs}"


def _alike(ledger: Ledger) -> Share:
    """How often two votes on one comparison chose the same side, second seats among them."""
    first = agreement.agreement(evidence.read(ledger)).same
    second = agreement.second_opinions(ledger)
    return share(first.hits + second.hits, first.of + second.of)
