"""Checks of form as named features, and named features as hidden rewards.

``verify:no_comma+question`` is a feature (`szpo.features`); ``feature:politeness`` is a reward, so
that a weighted sum of features is a simulated panel's taste:
``0.5*feature:politeness+-0.2*feature:length``.
"""

from __future__ import annotations

from dataclasses import dataclass

from szpo.analysis.features import Feature, Score, parse
from szpo.errors import UsageError
from szpo.types import Answer, Prompt
from szpo_simulators.rewards.verifiers import verifier


def verify(argument: str | None) -> Score:
    """Share of the named checks of form that an answer passes, in [0, 1].

    Raises:
        UsageError: no check is named, or one does not exist.
    """
    if not argument:
        raise UsageError("needs checks joined by +, as in verify:no_comma+lowercase")
    checks = [verifier(name) for name in argument.split("+")]
    return lambda prompt, answer: sum(check(answer.text) for check in checks) / len(checks)


@dataclass(frozen=True)
class Featured:
    """A reward that is one feature, in the feature's own units."""

    feature: Feature

    def score(self, prompt: Prompt, answer: Answer) -> float:
        """The feature's value."""
        return self.feature.score(prompt, answer)


def reward(argument: str | None) -> Featured:
    """The reward that is this feature; never a function by its module, as records name rewards.

    Raises:
        UsageError: not exactly one feature is named.
    """
    if not argument:
        raise UsageError("needs a feature, as in feature:politeness")
    (feature, *more) = parse(argument, functions=False)
    if more:
        raise UsageError("takes one feature; weigh several as 0.5*feature:length+feature:…")
    return Featured(feature)


def checked(argument: str | None) -> Featured:
    """The reward that is the share of the named checks of form.

    Raises:
        UsageError: no check is named, or one does not exist.
    """
    return Featured(Feature(f"verify:{argument}", verify(argument)))
