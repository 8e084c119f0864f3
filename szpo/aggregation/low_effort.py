"""Flags for low effort in one panelist's answers: people look into them, no vote is dropped.

Pure arithmetic on counts. Each flag should hit fewer than one honest panelist in a hundred.
experiments/LOG.md has the measured rates for honest panelists and for random clickers. The
operator's page shows the same flags (`szpo.analysis.agreement`); docs/decisions.md has their
costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from scipy import special

from szpo.intervals import wilson

Counts = tuple[float, float]
"""Number of hits, and out of how many."""

FAST_MS: Final = 700.0
WORD_MS: Final = 15.0
"""Nobody reads 4,000 words a minute, or any text in less than 700 ms."""
LONGER_Z: Final = 3.5
"""Standard errors from which somebody is said to prefer longer answers more than the others do."""
RANDOM_LOG_RATIO: Final = math.log(100)
"""Limit of the log-likelihood ratio of answering at random over answering as the panel does.

By Ville's inequality at most one honest panelist in a hundred ever passes it, however often it is
checked, if the panel's shares hold for that panelist.
"""


@dataclass(frozen=True, slots=True)
class Conduct:
    """Counts (hits, of) on a panelist's answers, in any unit of votes."""

    fast: Counts = (0, 0)
    """Answers faster than `soonest_ms`, of those with a time."""
    skim: Counts = (0, 0)
    """Answers in less than a quarter of the reading time, of those with a time."""
    left: Counts = (0, 0)
    """Answers A, of those for a side."""
    run: int = 0
    """Longest run of one side."""
    gold: Counts = (0, 0)
    """Right answers, of known questions answered."""
    repeat: Counts = (0, 0)
    """Same answers, of comparisons answered twice."""
    rest: Counts = (0, 0)
    """Answers with the majority of the others on the same direction, where there is one."""
    skips: Counts = (0, 0)
    """Skipped comparisons, of all that were shown and answered."""
    longer: Counts = (0, 0)
    """Answers for the longer side, of those for a side where the two differ in length."""


@dataclass(frozen=True, slots=True)
class Usual:
    """The expected shares of an honest panelist, measured over the whole panel.

    Unknown shares of repeats and of agreement with the others are ½: they say nothing.
    """

    gold: float = 0.95
    repeat: float = 0.5
    rest: float = 0.5
    longer: Counts = (0, 0)
    """As `Conduct.longer`, of the whole panel, this panelist included."""


def soonest_ms(words: int) -> float:
    """The shortest time, in ms, in which somebody can look at a text of this many words.

    >>> soonest_ms(10), soonest_ms(300)
    (700.0, 4500.0)
    """
    return max(FAST_MS, WORD_MS * words)


def longest_run(sides: Sequence[str]) -> int:
    """Longest run of one side; any other answer breaks it.

    >>> longest_run("ABBBA"), longest_run(["A", "tie", "tie", "A"]), longest_run("")
    (3, 1, 0)
    """
    return max((len(list(run)) for side, run in groupby(sides) if side in ("A", "B")), default=0)


def flags(conduct: Conduct, usual: Usual | None = None) -> tuple[tuple[str, str], ...]:
    """The flags of a panelist, code and sentence, in a fixed order; most panelists have none.

    ``usual``: the panel's shares, measured over all its members.
    """
    c = conduct
    found = []
    hits, of = c.fast
    if hits >= 3 and hits > of / 10:
        found.append(("fast", f"{hits:.0f} of {of:.0f} answers sooner than texts can be read"))
    hits, of = c.skim
    if of >= 6 and hits > of / 2:
        found.append(
            (
                "skim",
                f"{hits:.0f} of {of:.0f} answers in less than a quarter of the reading time",
            )
        )
    hits, of = c.left
    if of and 2 * special.bdtr(min(hits, of - hits), of, 0.5) < 0.001:
        found.append(("side", f"chose the left side in {hits:.0f} of {of:.0f} answers"))
    if c.run > max(12, math.log2(max(of, 1)) + 8):  # longer records have longer runs by chance
        found.append(("run", f"chose the same side {c.run} times in a row"))
    hits, of = c.gold
    if of >= 6 and wilson(hits, of)[1] < 0.85:
        found.append(("gold", f"{hits:.0f} of {of:.0f} known answers right"))
    hits, of = c.repeat
    if of >= 5 and wilson(hits, of)[1] < 0.6:
        found.append(("repeat", f"the same answer in {hits:.0f} of {of:.0f} repeats"))
    hits, of = c.rest
    if of >= 30 and wilson(hits, of)[1] < 0.45:
        found.append(("rest", f"with the others in {hits:.0f} of {of:.0f} answers"))
    hits, of = c.skips
    if of >= 12 and hits > of / 4:
        found.append(("skips", f"could not judge {hits:.0f} of {of:.0f}"))
    hits, of = c.longer
    panel = (0, 0) if usual is None else usual.longer
    rest, others = panel[0] - hits, panel[1] - of
    if of >= 10 and others >= 20 and _excess(hits, of, rest, others) > LONGER_Z:
        share = f"{100 * rest / others:.0f} %"
        text = f"preferred the longer answer in {hits:.0f} of {of:.0f}, the others in {share}"
        found.append(("longer", text))
    if (ratio := at_random(c, usual)) > RANDOM_LOG_RATIO:
        found.append(("random", f"{math.exp(min(ratio, 20)):.0f} to 1 for answers at random"))
    return tuple(found)


def _excess(hits: float, of: float, rest: float, others: float) -> float:
    """By how many standard errors a share lies above another, were both one share."""
    share = (hits + rest) / (of + others)
    error = math.sqrt(share * (1 - share) * (1 / of + 1 / others))
    return (hits / of - rest / others) / error if error else 0.0


def at_random(conduct: Conduct, usual: Usual | None = None) -> float:
    """Log-likelihood ratio of answering at random over answering as the panel does.

    >>> round(at_random(Conduct(gold=(1, 4))), 2)
    6.27
    """
    shares = Usual() if usual is None else usual
    total = 0.0
    for (hits, of), share in (
        (conduct.gold, shares.gold),
        (conduct.repeat, shares.repeat),
        (conduct.rest, shares.rest),
    ):
        expected = min(max(share, 0.5), 0.98)
        total += hits * math.log(0.5 / expected) + (of - hits) * math.log(0.5 / (1 - expected))
    return total
