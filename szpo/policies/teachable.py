"""What a model can be taught in coordinates of named features, known before any vote.

The set-up's report (`szpo.policies.basis`) has each feature's reach, the share of its
variance that the coordinates move. A simulated panel's fit to base answers has its own figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import shorten
from typing import Any, Final

from szpo.features import dictionary, user_features
from szpo.optim.regression import BUDGET
from szpo.types import sides
from szpo.visible_text import visible

SHARE: Final = (0.03, 0.5)
"""Teaching something new raises the share of answers with it from the first to the second."""
EASY: Final = BUDGET
"""Nats that the recommended point may cost, by default."""
HARD: Final = 8.0
"""What costs more nats cannot be taught: in the default budget .03 grows to .28 at most."""
TOLD: Final = 8
"""Largest number of features that a line names."""
PROMPTS: Final = "take prompts whose answers differ in what you want"
"""Advice where rows show no difference."""
CHANGE: Final = f"{PROMPTS}, or more rows in a vote (optimizer.D)"
"""The same where verdicts are on batches."""


@dataclass(frozen=True, slots=True)
class Teachable:
    """How far one feature can be moved, and how often a comparison would show a difference."""

    feature: str
    words: str
    """More of the feature, in plain words."""
    reach: float
    """Share of the feature's variance that the coordinates move, 0 to 1."""
    skew: float
    """Skewness along its direction; above 0, a long step costs more nats than |z|²/2."""
    same: float
    """Share of pairs of answers to one prompt with equal values."""

    @property
    def nats(self) -> float:
        """Least KL, in nats, to raise the feature's share of answers from .03 to .5.

        The least KL of any policy with that share, divided by the reach: if the coordinates move
        R² of the variance, the same change takes 1/R² times the nats.

        >>> round(Teachable("i", 'says "I" more', 0.5, 0.8, 0.6).nats, 2)
        2.15
        """
        start, end = SHARE
        least = end * math.log(end / start) + (1 - end) * math.log((1 - end) / (1 - start))
        return least / self.reach if self.reach > 0 else math.inf

    @property
    def cost(self) -> str:
        """`nats` in words."""
        return f"{self.nats:.1f} nats" if math.isfinite(self.nats) else "out of reach"

    @property
    def ease(self) -> str:
        """Whether it can be taught easily, less easily or not at all."""
        return (
            "easily" if self.nats <= EASY else "less easily" if self.nats <= HARD else "not at all"
        )

    def alike(self, rows: int) -> float:
        """Share of comparisons with ``rows`` prompts whose sides do not differ in the feature."""
        return self.same**rows


def read(names: Sequence[str], report: Mapping[str, Any]) -> tuple[Teachable, ...]:
    """The features of a set-up, the largest reach first.

    ``report``: the set-up's, with ``reach``, ``skew`` and ``same`` of each feature; that of
    adapters foretells nothing.
    """
    if report.get("kind") == "adapters":  # an adapter carries further than a response at the start
        return ()
    rows = zip(names, *(report.get(fact, ()) for fact in ("reach", "skew", "same")), strict=False)
    features = [Teachable(name, _words(name), *rest) for name, *rest in rows]
    return tuple(sorted(features, key=lambda each: -each.reach))


def of_spec(spec: Mapping[str, Any]) -> tuple[Teachable, ...]:
    """The features of a recorded run; empty if its coordinates are not of features."""
    space = spec.get("space", {})
    return read(space.get("features", {}).get("names", ()), space.get("report", {}))


def describe(features: Sequence[Teachable], rows: int) -> dict[str, str]:
    """Say which features are taught easily, less so or not, and which comparisons seldom show."""
    costs = {
        "easily": f"{features[0].nats:.1f} to {EASY:g} nats" if features else "",
        "less easily": f"{EASY:g} to {HARD:g} nats",
        "not at all": f"more than {HARD:g} nats",
    }
    lines = {}
    for ease, nats in costs.items():
        if names := [each.words for each in features if each.ease == ease]:
            lines[f"taught {ease}"] = f"{_list(names)} (from 3 % of answers to half: {nats})"
    mine = [each for each in features if each.feature not in dictionary.BY_NAME]
    if mine:
        told = "; ".join(f"{each.words}: {each.cost}{_same(each.alike(rows))}" for each in mine)
        lines["yours"] = f"{told} (from 3 % of answers to half; a smaller gain costs less)"
    can = (each for each in features if each.ease != "not at all" and each not in mine)
    seldom = [(each, alike) for each in can if (alike := each.alike(rows)) >= 0.5]
    if seldom:
        seldom.sort(key=lambda pair: -pair[1])
        names = [f"{each.words} ({100 * alike:.0f} %)" for each, alike in seldom]
        lines["seldom shown"] = f"{_list(names)}: so often {sides(rows)} do not differ in it"
    return lines


def ruler(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Example answers at several nats from the start, after a row with their prompt.

    A set-up of kind ``full`` has none.
    """
    ruler = report.get("ruler")
    if ruler is None:
        return []
    rows = [(f"{n:g} nat{'s' * (n != 1)}", visible(text)) for n, text in ruler["answers"]]
    return [("prompt", visible(ruler["prompt"])), *rows]


def describe_ruler(report: Mapping[str, Any]) -> list[str]:
    """`ruler` as terminal lines under its prompt; texts are cut after 84 characters.

    Equal neighbours are one line.
    """
    rows = [(nats, shorten(text, 84, placeholder=" …")) for nats, text in ruler(report)]
    lines = [f"what nats look like: {text}" for _, text in rows[:1]]
    for text, same in groupby(rows[1:], lambda row: row[1]):
        first, *more = (nats for nats, _ in same)
        label = f"{first.partition(' ')[0]} to {more[-1]}" if more else first
        lines.append(f"{label:>13}  {text}")
    return lines


def advise(rows: int) -> str:
    """What to change where comparisons of ``rows`` prompts show no difference."""
    return CHANGE if rows > 1 else PROMPTS


def foretell(panel: Mapping[str, Any] | None, rows: int) -> tuple[bool, str]:
    """Whether at least half of a simulated panel's comparisons show no difference, and a sentence.

    ``panel`` is its ``spec``, ``rows`` the number of prompts in a comparison. The sentence is
    empty if the share is unknown or below .5 %.
    """
    share = ((panel or {}).get("calibration") or {}).get("zero_share") or 0.0
    if share < 0.005:
        return False, ""
    text = f"{100 * share:.0f} % of comparisons of base answers show this panel no difference"
    return share >= 0.5, f"{text}: {advise(rows)}" if share >= 0.5 else text


def _words(name: str) -> str:
    entry = dictionary.BY_NAME.get(name)
    return f"more of {user_features.split(name)[0]}" if entry is None else entry.more


def _same(share: float) -> str:
    """How often two sides do not differ, in words; empty below one in four."""
    if share < 0.25:
        return ""
    return f", the same on both sides in {100 * share:.0f} %"


def _list(names: Sequence[str]) -> str:
    more = f"; and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return "; ".join(names[:TOLD]) + more
