"""Shares of answers that nobody can judge: cut off, repeated, empty, off topic, alike, foreign.

They come from a model that is too small, too hot or cut too short, and panelists who see them
leave. Shares above `BOUNDS` keep a run with people from opening its first round. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from szpo import metrics
from szpo.generation.languages import in_another
from szpo.generation.whole_sentences import is_cut
from szpo.intervals import Share, share
from szpo.types import Answer

GRAM: Final = 3
"""Length n of the word n-grams whose repetition is counted."""
REPEATED_FROM: Final = 0.25
"""A text repeats itself if at least this share of its n-grams occurred before."""
LONGEST_WORD: Final = 30
"""Most letters of a word; a longer one is text without spaces, and its letters count as words."""
BOUNDS: Final[Mapping[str, float]] = MappingProxyType(
    {"cut": 0.5, "repeated": 0.25, "empty": 0.1, "off_topic": 0.25, "language": 0.5, "equal": 0.5}
)
"""Highest shares of such answers with which a first round opens."""
NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cut": "cut off",
        "repeated": "repeated",
        "empty": "empty",
        "off_topic": "off topic",
        "language": "in another language than their prompt",
        "equal": "equal to another answer",
    }
)
"""The kinds of answers in words."""
MENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cut": "raise generation.max_new_tokens",
        "repeated": "take a larger model (model.name)",
        "empty": "take another model (model.name)",
        "off_topic": "take a larger model (model.name)",
        "language": "take a model that writes the prompts' language (model.name)",
        "equal": "raise generation.temperature, or take prompts that leave more open",
    }
)
"""What mends each kind."""


@dataclass(frozen=True, slots=True)
class AnswerShares:
    """Shares of answers that nobody can judge, each with its 95 % interval."""

    cut: Share
    """Ended by the token limit in the middle of a sentence."""
    repeated: Share
    """Repeat themselves; see `repeats`."""
    empty: Share
    """Without a visible character."""
    off_topic: Share | None = None
    """Likelier after another prompt than after their own; None if not measured."""
    language: Share | None = None
    """In another language than their prompt, of those that can be told; None if not measured."""
    equal: Share | None = None
    """Equal to another answer to their prompt; None if not measured."""

    def list_shares(self) -> tuple[tuple[str, Share], ...]:
        """The shares that were measured, by their keys in `BOUNDS`."""
        found = ((name, getattr(self, name)) for name in BOUNDS)
        return tuple((name, value) for name, value in found if value is not None)

    def list_beyond(self) -> tuple[tuple[str, Share], ...]:
        """The shares above their bounds; empty without answers."""
        return tuple(
            (name, value)
            for name, value in self.list_shares()
            if value.value is not None and value.value > BOUNDS[name]
        )

    def beyond(self) -> tuple[str, ...]:
        """The shares above their bounds, in words."""
        return tuple(
            f"{value.hits:g} of {value.of:g} {NAMES[name]}, bound {BOUNDS[name]:.0%}"
            for name, value in self.list_beyond()
        )


def measure(
    answers: Sequence[Answer],
    margins: Sequence[float] | None = None,
    prompts: Sequence[str] | None = None,
) -> AnswerShares:
    """The shares of some answers.

    Args:
        answers: The answers.
        margins: The margin of each answer (`szpo.policies.own_prompt`), nats, nan for an empty
            one; None: not measured.
        prompts: Each answer's prompt, to compare languages; None: not measured.

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
        cut=share(sum(map(is_cut, answers)), count),
        repeated=share(sum(repeats(answer.text) for answer in answers), count),
        empty=share(sum(not answer.text.strip() for answer in answers), count),
        off_topic=off,
        language=None if prompts is None else _foreign(prompts, answers),
    )


def warn(prompts: Sequence[str], rows: Sequence[Sequence[Answer]]) -> str:
    """What is wrong with most answers (several to each prompt), and what mends it; or empty.

    >>> warn(["How was the day?"], [[Answer("It was the", "length")]])
    'of the base answers 1 of 1 cut off: raise generation.max_new_tokens'
    """
    flat = [answer for row in rows for answer in row]
    asked = [prompt for prompt, row in zip(prompts, rows, strict=True) for _ in row]
    texts = [Counter(answer.text for answer in row) for row in rows]
    twice = sum(n for row in texts for n in row.values() if n > 1)
    several = any(len(row) > 1 for row in rows)
    found = replace(
        measure(flat, prompts=asked), equal=share(twice, len(flat)) if several else None
    )
    said = [
        f"{value.hits:g} of {value.of:g} {NAMES[name]}: {MENDS[name]}"
        for name, value in found.list_beyond()
    ]
    return f"of the base answers {'; '.join(said)}" if said else ""


def _foreign(prompts: Sequence[str], answers: Sequence[Answer]) -> Share | None:
    return share(*in_another(prompts, [answer.text for answer in answers]))


def repeats(text: str) -> bool:
    """Whether a text repeats itself: a quarter of its three-word runs or more occurred before.

    >>> repeats("I am fine. I am fine. I am fine."), repeats("The cat saw the dog and it ran.")
    (True, False)
    """
    words = [
        each
        for word in metrics.words(text)
        for each in ([word] if len(word) <= LONGEST_WORD else word)
    ]
    return metrics.repetition(" ".join(words), GRAM) >= REPEATED_FROM
