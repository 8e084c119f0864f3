"""Hidden rewards of simulated panels, each written as a short text or found in words.

``sentiment``, ``length:12`` (−|words − 12|/12, at least −1), ``keyword:sea+sun``,
``regex:PATTERN`` (1 if found, else 0), ``verify:no_comma+lowercase``, ``repetition`` (minus the
share of repeated word pairs), ``taste:few commas``, ``fluency``, ``walk`` (of the small yard
world), and weighted sums, in which every term after the first needs a weight:
``0.7*sentiment+0.3*fluency``. The optimizer sees only votes on batches, never these numbers, and
rewards never see a policy's weights.

Rewards read texts only: comparisons reach a panel through the ledger, which holds no token counts.

Finds the reward that a person's words name, and the dictionary entry nearest to a taste. A run's
result says more if no entry equals its taste, so a quoted result should name both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np

from szpo import plugins
from szpo.analysis.features import Feature
from szpo.errors import RunError, UsageError
from szpo.features import dictionary, differences
from szpo.metrics import repetition, words
from szpo.types import Answer, Comparison, Floats, Prompt
from szpo.voting.panel_factory import Logprob
from szpo_simulators.panels import tastes
from szpo_simulators.panels import text_features as features
from szpo_simulators.panels.tastes import TASTES
from szpo_simulators.panels.text_features import PLAIN, bare

_NEXT_TERM = re.compile(r"\+(?=\s*-?(?:\d+\.?\d*|\.\d+)\*)")
_TERM = re.compile(r"\s*(?:(-?(?:\d+\.?\d*|\.\d+))\*)?\s*([a-z][a-z0-9_-]*)(?::(.*))?", re.DOTALL)
SAME: Final = 0.99
"""Correlation over base answers from which a taste counts as equal to an entry."""
IS_ENTRY: Final = "this taste is an entry of the dictionary"


class Reward(Protocol):
    """A number for one answer to one prompt; the reward of a batch is the mean over its rows."""

    def score(self, prompt: Prompt, answer: Answer) -> float:
        """The reward of this answer, a pure function of prompt and answer."""


@runtime_checkable
class BatchReward(Protocol):
    """A reward that scores many answers in one call."""

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """The rewards of the answers, in order."""


def scores(reward: Reward, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
    """The rewards of many answers, in one call if the reward is a `BatchReward`."""
    if isinstance(reward, BatchReward):
        values = np.asarray(reward.scores(prompts, answers), dtype=np.float64)
    else:
        pairs = zip(prompts, answers, strict=True)
        values = np.array([reward.score(p, a) for p, a in pairs], dtype=np.float64)
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise RunError(f"reward {reward}: {values[where]} for answer {answers[where].text[:60]!r}")
    return values


def difference(reward: Reward, comparison: Comparison) -> float:
    """Mean reward of plus minus mean reward of minus over all D rows; identical rows give 0."""
    rows = [row for row in comparison.rows if not row.identical]
    if not rows:
        return 0.0
    prompts = [row.prompt for row in rows]
    values = scores(reward, prompts * 2, [row.plus for row in rows] + [row.minus for row in rows])
    gaps = values[: len(rows)] - values[len(rows) :]
    return float(gaps.sum() / len(comparison.rows))


def words_difference(comparison: Comparison) -> float:
    """Words of plus minus words of minus, mean over all D rows."""
    rows = comparison.rows
    return sum(len(words(r.plus.text)) - len(words(r.minus.text)) for r in rows) / len(rows)


def matrix(
    reward: Reward, prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]
) -> Floats:
    """Rewards (prompts, samples) of several answers to each prompt."""
    flat = [(p, a) for p, row in zip(prompts, answers, strict=True) for a in row]
    values = scores(reward, [p for p, _ in flat], [a for _, a in flat])
    return values.reshape(len(prompts), -1)


@dataclass(frozen=True)
class Fluency:
    """Mean log-probability per token of the answer under the frozen base model, nats."""

    logprob: Logprob

    def score(self, prompt: Prompt, answer: Answer) -> float:
        """The reward of one answer; `scores` is faster for many."""
        return float(self.logprob([prompt], [answer])[0])

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """The rewards of all answers in one call."""
        return np.asarray(self.logprob(prompts, answers), dtype=np.float64)


@dataclass(frozen=True)
class Weighted:
    """A weighted sum of rewards."""

    terms: tuple[tuple[float, Reward], ...]

    def score(self, prompt: Prompt, answer: Answer) -> float:
        """The weighted sum for one answer."""
        return sum(weight * reward.score(prompt, answer) for weight, reward in self.terms)

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """The weighted sums for many answers; each term scores them in one call if it can."""
        total = np.zeros(len(answers))
        for weight, reward in self.terms:
            total += weight * scores(reward, prompts, answers)
        return total


def _length(argument: str | None) -> Reward:
    if argument is None or not argument.isdecimal() or int(argument) < 1:
        raise UsageError("needs a number of words from 1, as in length:12")
    target = int(argument)

    def score(prompt: Prompt, answer: Answer) -> float:
        return -min(abs(len(words(answer.text)) - target) / target, 1.0)

    return Feature(f"length:{target}", score)


def _keyword(argument: str | None) -> Reward:
    if not argument:
        raise UsageError("needs whole words joined by +, as in keyword:sea+sun")
    return features.reward(f"keyword:{argument.replace(',', '+')}")


def _regex(argument: str | None) -> Reward:
    if not argument:
        raise UsageError("needs a pattern, as in regex:^Once")
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise UsageError(f"not a regular expression ({error})") from error
    return Feature(f"regex:{argument}", lambda _, answer: float(bool(pattern.search(answer.text))))


REWARDS: dict[str, Callable[[str | None], Reward]] = {
    "sentiment": bare(features.reward("sentiment")),
    "length": _length,
    "keyword": _keyword,
    "regex": _regex,
    "verify": features.checked,
    "repetition": bare(Feature("repetition", lambda _, answer: -repetition(answer.text))),
    "taste": tastes.reward,
}
"""Makers by name, called with the text after the colon; installed packages may add more."""


def parse(spec: str, *, logprob: Logprob | None = None) -> Reward:
    """The reward that a text names; ``fluency`` needs the base model's log-probabilities.

    A name that is not built in is looked up in the entry-point group ``szpo.rewards``: a callable
    that takes the text after the colon, or None without a colon.

    Raises:
        UsageError: the text names no reward, or an argument does not fit.

    >>> parse("0.5*length:4+0.5*keyword:sea").score(Prompt.user("?"), Answer("The sea is calm."))
    0.5
    """
    terms = [_term(part, spec, logprob) for part in _NEXT_TERM.split(spec)]
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    return Weighted(tuple(terms))


def _term(part: str, spec: str, logprob: Logprob | None) -> tuple[float, Reward]:
    match = _TERM.fullmatch(part)
    if match is None:
        raise UsageError(
            f"reward {spec!r}: {part!r} is not name, name:argument or weight*name; words that are "
            "liked are written keyword:tea+bread, a pattern regex:^Once"
        )
    weight, name, argument = match.groups()
    try:
        return float(weight or 1), _maker(name, logprob)(argument)
    except UsageError as error:
        raise UsageError(f"reward {part.strip()!r}: {error}") from error


def _maker(name: str, logprob: Logprob | None) -> Callable[[str | None], Reward]:
    if name == "fluency":
        if logprob is None:
            raise UsageError("needs a model that gives log-probabilities")
        return bare(Fluency(logprob))
    if name in REWARDS:
        return REWARDS[name]
    if name in features.PLAIN:  # a check of form by its own name
        return lambda argument: REWARDS["verify"](
            name if argument is None else f"{name}:{argument}"
        )
    installed = [other for other in plugins.names("szpo.rewards") if other != "parse"]
    if name in installed:
        made: Callable[[str | None], Reward] = plugins.load("szpo.rewards", name, "reward")
        return made
    known = ", ".join(dict.fromkeys((*REWARDS, "fluency", *installed)))
    raise UsageError(f"no reward of that name; there are {known} (sums: 0.7*one+0.3*other)")


def find_asked(words: str) -> str:
    """The reward that these words name: a taste, a check of form, an entry, or a reward's text.

    >>> tuple(map(find_asked, ("no comma", "fewer commas", "few commas", "commas")))
    ('verify:no_comma', '-1*feature:commas', 'taste:few commas', 'feature:commas')
    >>> find_asked("0.5*sentiment+0.5*length:12")
    '0.5*sentiment+0.5*length:12'
    """
    name, entries = words.strip(), dictionary.ENTRIES
    if name in TASTES:
        return f"taste:{name}"
    if (check := name.replace(" ", "_")) in PLAIN:
        return f"verify:{check}"
    spoken = {each.more: f"feature:{each.name}" for each in entries}
    spoken |= {each.fewer: f"-1*feature:{each.name}" for each in entries}
    spoken |= {each.name: f"feature:{each.name}" for each in entries}
    return name if name == "sentiment" else spoken.get(name, name)


def describe_nearest(words: str, correlation: float) -> str:
    """What `find_nearest` found, as a sentence."""
    if correlation >= SAME:
        return f"{IS_ENTRY}: {words}"
    return (
        "no entry of the dictionary is this taste; the nearest is "
        f"{words} (correlation {correlation:.2f})"
    )


def find_nearest(
    prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], rewards: Floats
) -> tuple[str, float] | None:
    """The dictionary's entry nearest to a taste; None if rewards never differ within a prompt.

    ``texts``: several answers to each prompt. ``rewards`` (prompts, samples): the taste's.

    Returns the entry's words for the direction that the taste likes (more or fewer), and the
    absolute correlation of taste and entry within prompts, 0 to 1.
    """
    entries = dictionary.holding([prompt.text for prompt in prompts])
    rows = zip(prompts, texts, strict=True)
    pairs = ((prompt.text, text) for prompt, row in rows for text in row)
    values = differences.values(pairs, entries)
    values = values.reshape(*rewards.shape, len(entries))
    own = rewards - rewards.mean(1, keepdims=True)
    within = values - values.mean(1, keepdims=True)
    sizes = np.sqrt((own**2).sum() * (within**2).sum((0, 1)))
    if not own.any():
        return None
    found = np.einsum("ps,psk->k", own, within) / np.where(sizes > 0, sizes, np.inf)
    best = int(np.abs(found).argmax())
    entry = entries[best]
    return entry.more if found[best] > 0 else entry.fewer, float(abs(found[best]))
