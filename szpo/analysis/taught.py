"""What a run's votes taught, in words and over votes; where they taught nothing, why.

Figures are told once the votes show a taste. Where the coordinates are named features, they are
each step's look-ahead (`szpo.optim.rules.look_ahead`); otherwise the shown texts tell it
(`szpo.analysis.text_taste`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from szpo.analysis import cause, text_taste
from szpo.features import dictionary, own
from szpo.ledger.database import Ledger
from szpo.optim.named_features import Claim
from szpo.optim.rules.look_ahead import LookAhead
from szpo.training import budget

LIKELY: Final = 0.5
"""Probability from which a claim is told."""
OPEN: Final = 0.2
"""Where the probability that no feature explains the votes is below this, more may name one.

Of 60 simulated runs of 120 votes each (tests/analysis/test_cause.py) it is below in two of 57
whose taste has no name, and in a third of those whose has one that does not show yet."""
LISTED: Final = 0.1
"""Probability from which a claim is mentioned where none is likely, and drawn."""
HARDLY: Final = 0.1
"""Forecast probability of a taste below which nobody is told to continue voting."""
DRAWN: Final = 5
"""Groups in a chart."""


@dataclass(frozen=True, slots=True)
class Line:
    """A group's probability after each step."""

    name: str
    votes: tuple[int, ...]
    chances: tuple[float, ...]
    """0 where the group was not listed, since its probability was below a fiftieth."""


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
    more_may: bool = True
    """More votes may show one, or more of it."""
    aside: tuple[str, ...] = ()
    """Groups that an order leaves out (``szpo not-about``)."""
    by_texts: bool = False
    """Read off the texts: the run's coordinates have no names."""
    lines: tuple[Line, ...] = field(default=(), repr=False)
    """The leading groups, the likeliest first; empty before a taste is shown."""

    def __str__(self) -> str:
        """In one line.

        >>> str(Lesson(31, "fewer commas (97 %)", True))
        '31 votes: fewer commas (97 %)'
        """
        besides = f", besides {', '.join(self.aside)}" if self.aside else ""
        besides += ", by their texts" * self.by_texts
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
        return f"{'more' if more else 'less'} of {own.split(feature)[0]}"
    return entry.more if more else entry.fewer


def words(found: LookAhead) -> str:
    """What the votes are about, with figures only once they show a taste."""
    if found.taught is None:
        return ""
    likely = [each for each in found.taught if each.chance >= LIKELY]
    if not found.shown:
        return ", ".join(_group(each) for each in likely)
    if not likely and found.unnamed + found.chance >= LIKELY:
        return (
            "a taste that no named feature explains "
            f"({_percent(found.unnamed + found.chance)} for none)"
        )
    return _all_told(found.taught)


def _all_told(every: Sequence[Claim]) -> str:
    """Of a taste that the votes show: what is likely, or what it may be."""
    if likely := ", ".join(_told(each) for each in every if each.chance >= LIKELY):
        return likely
    some = " or ".join(_told(each) for each in every[:2] if each.chance >= LISTED)
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
    """What a run's votes taught as of its last step; None where no features are known to it.

    Of a run whose coordinates have no names: what its texts show, None where they show nothing.
    """
    steps = ledger.query(
        "SELECT json_extract(body, '$.total_votes') AS votes, json_extract(body, "
        "'$.extra.outlook') AS found FROM events WHERE kind = 'step' ORDER BY event"
    )
    known = [
        (row["votes"], LookAhead.from_json(json.loads(row["found"])))
        for row in steps
        if row["found"] is not None
    ]
    known = [(votes, found) for votes, found in known if found.taught is not None]
    if not known:
        found_in = text_taste.read(ledger)
        return found_in and Lesson(found_in[0], _all_told(found_in[1]), True, by_texts=True)
    votes, last = known[-1][0] + cause.count_earlier(ledger), known[-1][1]
    if last.shown:
        return Lesson(votes, words(last), True, aside=last.aside, lines=_lines(known))
    undecided = last.unnamed + last.chance < OPEN
    hopeful = not last.ahead or last.ahead[-1].evidence >= HARDLY
    why, more_may = cause.read(ledger, undecided=undecided, named=True, hopeful=hopeful)
    if more_may:
        why += _promise(last)
    return Lesson(votes, words(last), False, why, more_may, last.aside)


def more_votes(ledger: Ledger, lesson: Lesson | None) -> str:
    """How somebody gives the run more votes; "" where nobody can, or where they would not help.

    ``lesson``: as `read` found it.
    """
    may = not cause.Watch(ledger).look() if lesson is None else lesson.more_may
    return budget.describe_more(ledger) if may else ""


def _promise(found: LookAhead) -> str:
    """After how many more votes a taste is likely to show, or how likely after the most."""
    later = [each for each in found.ahead if each.votes]
    if not later:
        return ""
    first = next((each for each in later if each.evidence >= LIKELY), later[-1])
    return f"; {first.votes} more votes show one with a chance of {_percent(first.evidence)}"


def _lines(known: Sequence[tuple[int, LookAhead]]) -> tuple[Line, ...]:
    every = [{_group(c): c.chance for c in found.taught or ()} for _, found in known]
    leading = [name for name, chance in every[-1].items() if chance >= LISTED][:DRAWN]
    at = tuple(votes for votes, _ in known)
    return tuple(Line(name, at, tuple(c.get(name, 0.0) for c in every)) for name in leading)
