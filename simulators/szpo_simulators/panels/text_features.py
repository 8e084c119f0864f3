"""Checks of form as named features, and named features as hidden rewards.

``verify:no_comma+question`` is a feature (`szpo.features`). ``feature:politeness`` is a reward, so
a weighted sum of features can be a simulated panel's reward:
``0.5*feature:politeness+-0.2*feature:length``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from szpo.analysis.features import Score, parse
from szpo.errors import UsageError
from szpo.types import Answer, Prompt
from szpo_simulators.panels.verifiers import verifier


def verify(argument: str | None) -> Score:
    """Share of the named checks of form that an answer passes, in [0, 1]."""
    if not argument:
        raise UsageError("needs checks joined by +, as in verify:no_comma+lowercase")
    checks = [verifier(name) for name in argument.split("+")]
    return lambda prompt, answer: sum(check(answer.text) for check in checks) / len(checks)


Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Scored:
    """A reward that is a pure function of prompt and answer."""

    name: str
    """Name of the reward in messages."""
    score: Callable[[Prompt, Answer], float]

    def __str__(self) -> str:
        return self.name


def bare(made: Kind) -> Callable[[str | None], Kind]:
    """A maker that returns ``made`` and refuses an argument after a colon."""

    def build(argument: str | None) -> Kind:
        if argument is not None:
            raise UsageError("takes nothing after a colon")
        return made

    return build


def reward(argument: str | None) -> Scored:
    """The named feature as a reward; refuses functions by module name, as records name rewards."""
    if not argument:
        raise UsageError("needs a feature, as in feature:politeness")
    (feature, *more) = parse(argument, functions=False)
    if more:
        raise UsageError("takes one feature; weigh several as 0.5*feature:length+feature:…")
    return Scored(feature.name, feature.score)


def checked(argument: str | None) -> Scored:
    """The share of the named checks of form that an answer passes, as a reward."""
    return Scored(f"verify:{argument}", verify(argument))
