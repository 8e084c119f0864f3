"""Small measures of texts that guards and reports share: variety, repetition, words."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation.

    >>> words("It's a well-kept -- secret_place, No. 7!")
    ["it's", 'a', 'well-kept', 'secret', 'place', 'no', '7']
    """
    return _WORD.findall(text.lower())


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams of words over all n-grams of the texts, in [0, 1]; 1 where there is none.

    The ratio falls with the amount of text, so compare only equal numbers of texts of about
    equal length.

    >>> distinct_n(["the sea the sea"], 2)  # the-sea, sea-the, the-sea
    0.6666666666666666
    """
    grams = [gram for text in texts for gram in _ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(text: str, n: int = 2) -> float:
    """Share of a text's n-grams that occurred earlier in the same text, in [0, 1).

    >>> repetition("very very very very")
    0.6666666666666667
    >>> repetition("one of a kind")
    0.0
    """
    grams = _ngrams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
