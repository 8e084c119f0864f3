"""Answers that nobody can judge: cut off, repeating themselves, empty, off topic. Pure.

A model that is too small, too hot or cut too short writes them, and the first panelist who meets
them leaves. Shares beyond `BOUNDS` keep a run for people from its first round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from szpo import metrics
from szpo.intervals import Share, share
from szpo.types import Answer

GRAM: Final = 3
"""Words in a row whose recurrence is counted."""
REPEATED_FROM: Final = 0.25
"""Share of a text's n-grams that occurred before, from which it repeats itself."""
LONGEST_WORD: Final = 30
"""Letters of a word; a longer one is text without spaces, whose letters are counted as words."""
BOUNDS: Final[Mapping[str, float]] = MappingProxyType(
    {"cut": 0.5, "repeated": 0.25, "empty": 0.1, "off_topic": 0.25}
)
"""Highest shares of answers that a first round opens with."""
NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"cut": "cut off", "repeated": "repeated", "empty": "empty", "off_topic": "off topic"}
)
"""What people call them."""


@dataclass(frozen=True, slots=True)
class AnswerShares:
    """Shares of answers that nobody can judge, each with its 95 % interval."""

    cut: Share
    """Ended by the limit of tokens."""
    repeated: Share
    """Repeat themselves; see `repeats`."""
    empty: Share
    """Without a character that shows."""
    off_topic: Share | None = None
    """Likelier after another prompt than after their own; None where it was not measured."""

    def list_shares(self) -> tuple[tuple[str, Share], ...]:
        """The shares that were measured, by their keys in `BOUNDS`."""
        found = ((name, getattr(self, name)) for name in BOUNDS)
        return tuple((name, value) for name, value in found if value is not None)

    def beyond(self) -> tuple[str, ...]:
        """What is above its bound, in words; nothing where there are no answers."""
        return tuple(
            f"{value.hits:g} of {value.of:g} {NAMES[name]}, bound {BOUNDS[name]:.0%}"
            for name, value in self.list_shares()
            if value.value is not None and value.value > BOUNDS[name]
        )


def measure(answers: Sequence[Answer], margins: Sequence[float] | None = None) -> AnswerShares:
    """The shares of some answers.

    Args:
        answers: The texts with why they ended.
        margins: Of each answer, as in `szpo.policies.own_prompt`, nats, nan for an empty one;
            None: not measured.

    >>> found = measure([Answer("Yes."), Answer("no no no no no", "length"), Answer(" ")])
    >>> [(name, value.hits) for name, value in found.list_shares()]
    [('cut', 1), ('repeated', 1), ('empty', 1)]
    """
    count = len(answers)
    off = None
    if margins is not None:
        known = [margin for margin in margins if not math.isnan(margin)]
        off = share(sum(margin < 0 for margin in known), len(known))
    return AnswerShares(
        cut=share(sum(answer.end == "length" for answer in answers), count),
        repeated=share(sum(repeats(answer.text) for answer in answers), count),
        empty=share(sum(not answer.text.strip() for answer in answers), count),
        off_topic=off,
    )


def repeats(text: str) -> bool:
    """A text repeats itself: a quarter of its runs of three words, or more, occurred before.

    >>> repeats("I am fine. I am fine. I am fine."), repeats("The cat saw the dog and it ran.")
    (True, False)
    """
    words = [
        each
        for word in metrics.words(text)
        for each in ([word] if len(word) <= LONGEST_WORD else word)
    ]
    return metrics.repetition(" ".join(words), GRAM) >= REPEATED_FROM
