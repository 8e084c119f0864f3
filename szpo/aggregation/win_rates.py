"""Count the votes between two policies: pure arithmetic on verdicts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from szpo.intervals import Share, share


@dataclass(frozen=True, slots=True)
class Preference:
    """Votes between two policies. Ties are counted, but not in the share or its interval."""

    tuned: int = 0
    base: int = 0
    ties: int = 0

    @property
    def votes(self) -> int:
        """All answers, ties included."""
        return self.tuned + self.base + self.ties

    @property
    def decided(self) -> Share:
        """Votes for tuned, of those for either; votes are taken as independent."""
        return share(self.tuned, self.tuned + self.base)

    @property
    def share(self) -> float | None:
        """Share of votes for tuned, of those for either; None without any."""
        return self.decided.value


class PolicyVote(Protocol):
    """A valid vote between two policies, such as `szpo.types.Vote`."""

    @property
    def comparison(self) -> str:
        """The id of the comparison."""

    @property
    def panelist(self) -> str:
        """The id of the panelist who cast the vote."""

    @property
    def verdict(self) -> str:
        """Plus (tuned), minus (base), tie or skip."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """Counted votes: of everybody, and of panelists with and without votes in training.

    ``majorities`` counts each comparison once, by its majority. Votes of several panelists on one
    comparison are not independent, so this interval is the valid one.
    """

    everybody: Preference
    tuners: Preference
    """Panelists who also voted in training."""
    others: Preference
    majorities: Preference
    skips: int


def better_side(product: float) -> float:
    """The win rate p ≥ ½ of a direction's better side, without bias from choosing it afterwards.

    ``product`` is the mean product of the signs of two votes on different comparisons of the
    direction. It estimates (2p − 1)², and is 2a − 1 where a is the votes' agreement.

    >>> better_side(0.16), better_side(-0.2)
    (0.7, 0.5)
    """
    return 0.5 + 0.5 * math.sqrt(max(product, 0.0))


def count(votes: Sequence[PolicyVote], tuners: Collection[str]) -> Preferences:
    """Count the votes on blind comparisons of two policies; ``tuners`` voted in training.

    >>> from szpo.types import Vote
    >>> votes = [Vote("c", "ann", 0, 0, "plus", "A"), Vote("c", "ben", 0, 0, "minus", "B")]
    >>> found = count(votes, {"ben"})
    >>> found.everybody, found.others, found.majorities.ties
    (Preference(tuned=1, base=1, ties=0), Preference(tuned=1, base=0, ties=0), 1)
    """
    answered = [each for each in votes if each.verdict != "skip"]
    leads: dict[str, int] = defaultdict(int)
    for each in answered:
        leads[each.comparison] += {"plus": 1, "minus": -1, "tie": 0}[each.verdict]
    return Preferences(
        everybody=_preference([each.verdict for each in answered]),
        tuners=_preference([each.verdict for each in answered if each.panelist in tuners]),
        others=_preference([each.verdict for each in answered if each.panelist not in tuners]),
        majorities=_preference(
            ["plus" if lead > 0 else "minus" if lead < 0 else "tie" for lead in leads.values()]
        ),
        skips=len(votes) - len(answered),
    )


def _preference(verdicts: Sequence[str]) -> Preference:
    found = Counter(verdicts)
    return Preference(found["plus"], found["minus"], found["tie"])
