"""The taste that a run's votes taught, in words and as curves; or why they taught none.

Probabilities are given once the votes show a taste. Where the coordinates are named features, they
come from each step's look-ahead (`szpo.optim.rules.look_ahead`), otherwise from the shown texts
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
"""Probability from which a claim is stated."""
OPEN: Final = 0.2
"""If the probability that no feature explains the votes is below this, more votes may show one.

In simulated runs of 120 votes that show no taste (tests/analysis/test_cause.py), it is below in
two of 57 whose taste is no named feature, and in a third of those whose taste is one."""
LISTED: Final = 0.1
"""Probability from which a claim is drawn, and is mentioned where no claim is likely."""
HARDLY: Final = 0.1
"""If the forecast probability of a taste is below this, the advice is not to continue voting."""
DRAWN: Final = 5
"""The most groups in a chart."""


@dataclass(frozen=True, slots=True)
class Line:
    """A group's probability after each step."""

    name: str
    votes: tuple[int, ...]
    chances: tuple[float, ...]
    """0 where the group was not listed, since its probability was below a fiftieth."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """The taste that all votes of a run taught, or why they taught none."""

    votes: int
    words: str
    """The taste, with probabilities once it is shown; empty where no claim is likely."""
    shown: bool
    """The votes show a taste."""
    why: str = ""
    """Why the votes show no taste; empty where they show one."""
    more_may: bool = True
    """More votes may show one, or more of it."""
    aside: tuple[str, ...] = ()
    """Groups that an order leaves out (``szpo not-about``)."""
    by_texts: bool = False
    """The taste is inferred from the texts, since the run's coordinates have no names."""
    lines: tuple[Line, ...] = field(default=(), repr=False)
    """The leading groups, the likeliest first; empty before a taste is shown."""

    def __str__(self) -> str:
        """The lesson in one line.

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
        """The values for ``--json``."""
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
    """The taste of the votes, with probabilities only once they show one; "" if none is likely."""
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
    return _describe_claims(found.taught)


def _describe_claims(every: Sequence[Claim]) -> str:
    """A shown taste in words: its likely claims, or the leading ones where none is likely."""
    if likely := ", ".join(_describe_claim(each) for each in every if each.chance >= LIKELY):
        return likely
    some = " or ".join(_describe_claim(each) for each in every[:2] if each.chance >= LISTED)
    return f"not clear yet: {some}" if some else "a taste, not clear yet which"


def _group(claim: Claim) -> str:
    return phrase(claim.group or claim.feature, claim.more)


def _describe_claim(claim: Claim) -> str:
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
    """The lesson of a run as of its last step, from its named features or else from its texts.

    None where the coordinates have no names and the texts show no taste.
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
        return found_in and Lesson(found_in[0], _describe_claims(found_in[1]), True, by_texts=True)
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
    """How to give the run more votes, in words; "" where nobody can, or they would not help.

    ``lesson``: the result of `read`.
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
