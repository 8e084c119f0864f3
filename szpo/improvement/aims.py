"""What an adapter of a set is for: a feature in one sense, fluency, a reward, or a taste."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from szpo import plugins
from szpo.errors import UsageError
from szpo.features import differences, user_features
from szpo.features.dictionary import BY_NAME, ENTRIES, Entry
from szpo.policies.text_guards import LENGTH, VARIETY
from szpo.taste import Taste
from szpo.types import Answer, Floats, Prompt

if TYPE_CHECKING:
    from szpo.improvement.policy_gradient import Score
    from szpo.policies.lora_policy import LoraPolicy

FLUENCY: Final = "fluency"
"""The start's mean log-probability a token; no entry of the dictionary is that."""
USUAL: Final = (
    "positive tone = sentiment", "first person = i", "reader = you", "questions", "exclamations",
    "commas", "shorter", "longer", "easy words = fewer long words", "contractions", "hedges",
    "past tense = past", "concreteness = less abstract", "lists = bullets", "politeness", FLUENCY,
)  # fmt: skip
"""The usual set for English. The dictionary counts no concreteness: abstract nouns are nearest."""
USUAL_TINY: Final = (
    "positive tone = sentiment", "first person = i", "we", "it", "adverbs", "intensifiers", "past",
    FLUENCY,
)  # fmt: skip
SENSES: Final = {"more": 1, "less": -1, "fewer": -1}
LENGTHS: Final = frozenset({"length", "characters", "sentences", "lines", "bullets", "paragraphs"})
"""Entries that are about length themselves, so that its guard does not bind them."""
ABOUT: Final = {
    "length": LENGTH, "sentences": LENGTH, "layout": LENGTH, "variety": VARIETY,
}  # fmt: skip
"""Guards that do not bind a taste about features of a group."""
MATTERS: Final = 0.1
"""Share of the largest expected weight below which a taste is not about a feature."""
MOST: Final = 32
FREQUENT: Final = 3
"""A value counts in full where so many answers of the start reach it."""


@dataclass(frozen=True, eq=False)
class Aim:
    """A name, and what is to rise under it."""

    name: str
    feature: str
    """Name of an entry, `FLUENCY`, a reward as panel.reward takes it, or a taste's digest."""
    sign: int = 1
    """−1: the entry is to fall."""
    entry: Entry | None = None
    taste: Taste | None = None
    given: tuple[str, ...] = ()
    """The user's own features of the taste that are code, anew."""

    @property
    def slug(self) -> str:
        """A name for its folder.

        >>> Aim('says "I"', "i").slug
        'says-i'
        """
        return re.sub(r"[^\w]+", "-", self.name.casefold()).strip("-") or "adapter"

    @property
    def waived(self) -> tuple[str, ...]:
        """The guards that do not bind it."""
        if self.taste is not None:
            return waived_by(self.taste)
        return (LENGTH,) if self.feature in LENGTHS else ()


def decay_of(taste: Taste) -> float | None:
    """λ for one token of what a taste scores; None where it does not score beginnings quickly."""
    from szpo.improvement.policy_gradient import DECAY

    quick = {kind for _, kind, *_ in taste.own} <= user_features.QUICK
    # By states it raised the score and not what readers like (experiments/LOG.md, 30 November).
    return DECAY if quick and taste.direction is None else None


def waived_by(taste: Taste) -> tuple[str, ...]:
    """The guards that do not bind what is moved on a taste: those that it is about.

    It is about a feature whose expected weight is at least `MATTERS` of the largest part.
    """
    sizes = taste.sizes
    largest = max([*sizes.tolist(), taste.along])
    heavy = [
        feature.name
        for feature, size in zip(taste.features, sizes, strict=True)
        if size >= MATTERS * largest
    ]
    groups = {BY_NAME[name].group for name in heavy if name in BY_NAME}
    return tuple(dict.fromkeys(ABOUT[group] for group in sorted(groups & {*ABOUT})))


def of_taste(text: str, taste: Taste, given: Sequence[str] = ()) -> Aim:
    """The aim that a taste's score is to rise; ``text``: its file, or ``NAME = FILE``.

    Raises:
        UsageError: a judge rates one of its features, so texts alone cannot be scored.
    """
    name, file = user_features.split(text)
    for each in taste.features:
        if user_features.is_judged(each.name):
            raise UsageError(
                f"--taste {text}: a judge rates its feature {each.name!r}, and adapters are made "
                "without one"
            )
    called = Path(file).stem if name == file else name
    return Aim(called, f"taste {taste.sha256}", taste=taste, given=tuple(given))


def read(texts: Sequence[str], tastes: Sequence[Aim] = ()) -> tuple[Aim, ...]:
    """The aims of ``--of``, and of tastes; all of them are checked before anything is made.

    >>> [(a.name, a.feature, a.sign) for a in read(["fewer commas", "kind = politeness"])]
    [('fewer commas', 'commas', -1), ('kind', 'politeness', 1)]
    """
    found = (*map(_read, texts), *tastes)
    if not 1 <= len(found) <= MOST:
        raise UsageError(f"--of: {len(found)} adapters; give 1 to {MOST}")
    for each in found:
        if "," in each.name:
            raise UsageError(
                f"--of: {each.name!r} holds a comma, which --mix could not name; "
                "write NAME = FEATURE"
            )
    slugs = [each.slug for each in found]
    for each in found:
        if slugs.count(each.slug) > 1:
            raise UsageError(f"--of: {each.name!r} is named twice; write NAME = FEATURE for one")
    return found


def _read(text: str) -> Aim:
    name, form = (part.strip() for part in user_features.split(text))
    if form == FLUENCY:
        return Aim(name, FLUENCY)
    for entry in ENTRIES:
        for phrase, sign in ((entry.more, 1), (entry.fewer, -1)):
            short = (phrase.removeprefix("more "), phrase.removesuffix(" more"))
            if form == phrase or (sign > 0 and form in short):
                return Aim(name, entry.name, sign, entry)
    sense, _, rest = form.partition(" ")
    sign, plain = (SENSES[sense], rest.strip()) if sense in SENSES and rest else (1, form)
    if plain in BY_NAME:
        return Aim(name, plain, sign, BY_NAME[plain])
    if "parse" in plugins.names("szpo.rewards"):
        try:
            plugins.read_reward(form)
        except UsageError as error:
            raise UsageError(f"--of {text!r}: {_missing(form)}; as a reward: {error}") from None
        return Aim(name, form)
    raise UsageError(f"--of {text!r}: {_missing(form)}")


def _missing(form: str) -> str:
    known = {text: text for e in ENTRIES for text in (e.name, e.more, e.fewer)}
    close = difflib.get_close_matches(form, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"no feature of the dictionary is called so ({hint}szpo taste --list)"


def count(aims: Sequence[Aim], prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
    """Values (answers, aims) of the aims that texts alone decide; nan for the others."""
    found = np.full((len(answers), len(aims)), np.nan)
    signs = np.array([aim.sign for aim in aims])
    places = [i for i, aim in enumerate(aims) if aim.entry is not None]
    entries = [aim.entry for aim in aims if aim.entry is not None]
    texts = [prompt.text for prompt in prompts], [answer.text for answer in answers]
    found[:, places] = differences.values(zip(*texts, strict=True), entries)
    for place, aim in enumerate(aims):
        if aim.taste is not None and aim.taste.direction is None:
            found[:, place] = aim.taste.score(*texts, given=aim.given)
    return np.asarray(found * signs)


def values_of(
    aims: Sequence[Aim], policy: LoraPolicy, prompts: Sequence[Prompt], answers: Sequence[Answer]
) -> Floats:
    """Values (answers, aims) of all aims."""
    found = count(aims, prompts, answers)
    for place, aim in enumerate(aims):
        if aim.entry is None and (aim.taste is None or aim.taste.direction is not None):
            found[:, place] = score_of(aim, policy)(prompts, answers)
    return found


def score_of(aim: Aim, policy: LoraPolicy) -> Score:
    """The aim as a score of answers."""
    from szpo.improvement.policy_gradient import DECAY, Score

    taste = aim.taste
    if taste is not None:
        taste.require_model(policy.loaded.sha256, policy.loaded.name)
        return score_of_taste(taste, policy, aim.given)
    if aim.entry is not None:
        return Score(
            lambda prompts, answers, states: count([aim], prompts, answers)[:, 0], decay=DECAY
        )
    if aim.feature == FLUENCY:
        return Score(
            lambda prompts, answers, states: np.nan_to_num(policy.logprob_base(prompts, answers))
        )
    reward = plugins.read_reward(aim.feature, policy.logprob_base)
    return Score(
        lambda prompts, answers, states: np.array(
            [float(reward.score(*pair)) for pair in zip(prompts, answers, strict=True)]
        )
    )


def score_of_taste(taste: Taste, policy: LoraPolicy, given: Sequence[str] = ()) -> Score:
    """What a taste says of answers, read with the policy where it needs states."""
    from szpo.improvement.policy_gradient import Score

    return Score(
        lambda prompts, answers, states: taste.score(
            **taste.read(policy, prompts, answers, given, states)
        ),
        None if taste.direction is None else taste.direction.layer,
        decay_of(taste),
    )


def bounds_of(aim: Aim, values: Floats) -> tuple[float, float]:
    """The range within which values count: what at least `FREQUENT` of the start's had.

    A taste's features have bounds of their own, from what voters saw.

    >>> bounds_of(Aim("", "commas"), np.array([0.0, 0, 0, 1, 1, 1, 2, 40]))
    (0.0, 1.0)
    """
    if aim.taste is not None:
        return -math.inf, math.inf
    ordered = np.sort(values)
    place = min(FREQUENT, len(ordered)) - 1
    return float(ordered[place]), float(ordered[-1 - place])


def bounded(score: Score, low: float, high: float) -> Score:
    """The score, cut to a range, so that it cannot be driven where no text of the start was."""
    return replace(score, of=lambda *given: np.clip(score(*given), low, high))
