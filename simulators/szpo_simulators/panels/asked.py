"""Finds the reward that a person's words name, and the dictionary entry nearest to a taste.

A run's result says more if no entry equals its taste, so a quoted result should name both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from szpo.features import dictionary
from szpo.types import Floats, Prompt
from szpo_simulators.panels.tastes import TASTES
from szpo_simulators.panels.verifiers import PLAIN

SAME: Final = 0.99
"""Correlation over base answers from which a taste counts as equal to an entry."""
IS_ENTRY: Final = "this taste is an entry of the dictionary"


def find(words: str) -> str:
    """The reward that these words name: a taste, a check of form, an entry, or a reward's text.

    >>> find("no comma"), find("fewer commas"), find("few commas"), find("commas")
    ('verify:no_comma', '-1*feature:commas', 'taste:few commas', 'feature:commas')
    >>> find("0.5*sentiment+0.5*length:12")
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


def feature_values(
    entries: Sequence[dictionary.Entry], pairs: Iterable[tuple[str, str]]
) -> Floats:
    """Values (N, k) of k dictionary entries for N pairs of a prompt and an answer."""
    every = (dictionary.ratios(prompt, answer, entries) for prompt, answer in pairs)
    return np.array([[top / bottom for top, bottom in row] for row in every])


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

    Args:
        prompts: The prompts.
        texts: Several answers to each prompt.
        rewards: The taste's rewards of the answers (prompts, samples).

    Returns the entry's words for the direction that the taste likes (more or fewer), and the
    absolute correlation of taste and entry within prompts, 0 to 1.
    """
    entries = dictionary.holding([prompt.text for prompt in prompts])
    rows = zip(prompts, texts, strict=True)
    values = feature_values(entries, ((prompt.text, text) for prompt, row in rows for text in row))
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
