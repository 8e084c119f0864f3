"""What a model can be taught in coordinates of named features, before a vote is spent.

Read from the set-up's report (`szpo.policies.feature_basis`): of each feature its reach, the share
of its variance that the coordinates move; of a simulated panel, from its fit to base answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Final

from szpo.features import dictionary, own
from szpo.optim.rules.regression import BUDGET
from szpo.visible_text import visible

SHARE: Final = (0.03, 0.5)
"""What teaching something new means: a share of the answers that grows from here to there."""
EASY: Final = BUDGET[0][1]
"""Nats that the recommended point may cost after its first 60 votes, by default."""
HARD: Final = BUDGET[-1][1]
"""Nats that it may ever cost, by default: what costs more is not taught at all."""
TOLD: Final = 8
"""Features of a class that a line names."""
CHANGE: Final = (
    "take prompts whose answers differ in what you want, or more rows in a vote (optimizer.rows)"
)
"""What to do where questions show no difference."""


@dataclass(frozen=True, slots=True)
class Teachable:
    """How far one feature can be moved, and how often a comparison would show a difference."""

    feature: str
    words: str
    """More of it, in plain words."""
    reach: float
    """Share of its variance that the coordinates move, 0 to 1."""
    skew: float
    """Of its direction: above 0 a long step costs more nats than a short one promises."""
    same: float | None
    """Share of pairs of answers to one prompt that are alike in it; None in older set-ups."""

    @property
    def nats(self) -> float:
        """What a share of the answers from .03 to .5 costs at least.

        The least KL of any policy that has this share, over the reach: with R² of the variance
        the same change takes 1/R² times the nats.

        >>> round(Teachable("i", 'says "I" more', 0.5, 0.8, None).nats, 2)
        2.15
        """
        start, end = SHARE
        least = end * math.log(end / start) + (1 - end) * math.log((1 - end) / (1 - start))
        return least / self.reach if self.reach > 0 else math.inf

    @property
    def cost(self) -> str:
        """Its nats, in words."""
        return f"{self.nats:.1f} nats" if math.isfinite(self.nats) else "out of reach"

    @property
    def ease(self) -> str:
        """Easily, hardly or not at all."""
        return "easily" if self.nats <= EASY else "hardly" if self.nats <= HARD else "not at all"

    def alike(self, rows: int) -> float | None:
        """Share of comparisons of so many prompts whose two sides would not differ in it."""
        return None if self.same is None else self.same**rows


def read(names: Sequence[str], report: Mapping[str, Any]) -> tuple[Teachable, ...]:
    """The features of a set-up, those of the longest reach first.

    Args:
        names: Of its features.
        report: Of the set-up: ``reach``, ``skew`` and ``same`` of each.
    """
    same = report.get("same") or [None] * len(names)
    rows = zip(names, report.get("reach", ()), report.get("skew", ()), same, strict=False)
    found = [Teachable(name, _words(name), *rest) for name, *rest in rows]
    return tuple(sorted(found, key=lambda each: -each.reach))


def of_spec(spec: Mapping[str, Any]) -> tuple[Teachable, ...]:
    """The features of a recorded run; none where its coordinates are not of features."""
    space = spec.get("space", {})
    return read(space.get("features", {}).get("names", ()), space.get("report", {}))


def describe(found: Sequence[Teachable], rows: int) -> dict[str, str]:
    """What can be taught easily, hardly and not at all, and what of it comparisons seldom show.

    Args:
        found: The features.
        rows: Prompts of a comparison.
    """
    costs = {
        "easily": f"{found[0].nats:.1f} to {EASY:g} nats" if found else "",
        "hardly": f"{EASY:g} to {HARD:g} nats",
        "not at all": f"more than {HARD:g} nats",
    }
    lines = {}
    for ease, nats in costs.items():
        if names := [each.words for each in found if each.ease == ease]:
            lines[f"taught {ease}"] = f"{_list(names)} (from 3 % of answers to half: {nats})"
    mine = [each for each in found if each.feature not in dictionary.BY_NAME]
    if mine:
        told = "; ".join(f"{each.words}: {each.cost}{_same(each.alike(rows))}" for each in mine)
        lines["yours"] = f"{told} (from 3 % of answers to half; a smaller gain costs less)"
    can = (each for each in found if each.ease != "not at all" and each not in mine)
    seldom = [(each, alike) for each in can if (alike := each.alike(rows) or 0.0) >= 0.5]
    if seldom:
        seldom.sort(key=lambda pair: -pair[1])
        names = [f"{each.words} ({100 * alike:.0f} %)" for each, alike in seldom]
        lines["seldom shown"] = (
            f"{_list(names)}: so often two sets of {rows} answers do not differ in it"
        )
    return lines


def ruler(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What nats look like: what was answered so many nats from the start, the prompt first.

    Args:
        report: Of the set-up; older ones, and those of every weight, have none.
    """
    found = report.get("ruler")
    if found is None:
        return []
    rows = [(f"{n:g} nat{'s' * (n != 1)}", visible(text)) for n, text in found["answers"]]
    return [("prompt", visible(found["prompt"])), *rows]


def describe_ruler(report: Mapping[str, Any]) -> list[str]:
    """`ruler` as lines of a terminal, under its prompt; a text ends after 84 letters."""
    rows = [(nats, shorten(text, 84, placeholder=" …")) for nats, text in ruler(report)]
    return [f"what nats look like: {text}" for _, text in rows[:1]] + [
        f"{nats:>8}  {text}" for nats, text in rows[1:]
    ]


def foretell(panel: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Whether half of a simulated panel's questions would show it no difference, and how many.

    ``panel`` is its ``spec``. Where nobody knows, and below one in a hundred, the text is empty.
    """
    share = ((panel or {}).get("calibration") or {}).get("zero_share") or 0.0
    if share < 0.005:
        return False, ""
    text = f"{100 * share:.0f} % of comparisons of base answers show this panel no difference"
    return share >= 0.5, f"{text}: {CHANGE}" if share >= 0.5 else text


def _words(name: str) -> str:
    entry = dictionary.BY_NAME.get(name)
    return f"more of {own.split(name)[0]}" if entry is None else entry.more


def _same(share: float | None) -> str:
    """How often two sides would not differ; empty below one in four, or where nobody knows."""
    if share is None or share < 0.25:
        return ""
    return f", the same on both sides in {100 * share:.0f} %"


def _list(names: Sequence[str]) -> str:
    more = f"; and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return "; ".join(names[:TOLD]) + more
