"""One reading of an answer and its prompt, which all features share.

Every class of characters is spelt out and small letters come from a table of our own, so that a
text gives the same integers under any locale and any release of Unicode's tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

SPACE: Final = r" \t\n\r\f\v\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NO_LETTER: Final = (
    r"\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\xa9\xab-\xb1\xb4\xb6-\xb8\xbb\xbf\xd7\xf7\u02c2-\u02c5"
    r"\u0589\u05be\u060c\u061b\u061f\u066a-\u066d\u06d4\u0964\u0965\u1680\u2000-\u206f\u20a0-\u20cf"
    r"\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2190-\u245f"
    r"\u249c-\u24e9\u2500-\u2775\u2794-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030"
    r"\u303d-\u303f\u30a0\u30fb\ufd3e\ufd3f\ufe00-\ufe0f\ufe10-\ufe6f\uff00-\uff0f\uff1a-\uff20"
    r"\uff3b-\uff40\uff5b-\uff65\uffe0-\uffff\ud800-\udfff\ue000-\uf8ff\U0001f000-\U0001faff"
    r"\U000e0000-\U0010ffff"
)
"""What no word has: controls, spaces, punctuation, signs, emoji; all else is a letter or digit."""
CAPITALS: Final = r"A-Z\xc0-\xd6\xd8-\xde\u0391-\u03a9\u0400-\u042f"
SMALL: Final = {
    **{c: c + 32 for first, last in ((65, 90), (0xC0, 0xD6), (0xD8, 0xDE), (0x391, 0x3A9),
       (0x410, 0x42F)) for c in range(first, last + 1)},
    **{c: c + 80 for c in range(0x400, 0x410)},
    **{c: c + 1 for c in range(0x100, 0x130, 2)},
    **{c: c + 1 for c in range(0x14A, 0x178, 2)},
    **{c: c + 1 for c in (0x139, 0x13B, 0x13D, 0x13F, 0x141, 0x143, 0x145, 0x147, 0x179, 0x17B,
       0x17D)},
    0x2019: 0x27,
}  # fmt: skip
"""Capital to small letter (Latin, Greek, Cyrillic), and one apostrophe for two."""

WORD: Final = re.compile(f"[^{NO_LETTER}]+(?:['-][^{NO_LETTER}]+)*")
SENTENCE_END: Final = re.compile(
    # Possessive, and from the first mark of a run alone: else a run takes quadratic time.
    rf"(?<![.!?。！？])[.!?。！？]++(?=[{SPACE}\"'”’)]|$)|[。！？؟।]+"
)
VOWELS: Final = re.compile("[aeiouy]+")

Phrases: TypeAlias = Mapping[str, Sequence[tuple[int, tuple[str, ...]]]]
"""By the first word of a phrase: the list that it is of, and the words that must follow."""


def small(text: str) -> str:
    """The text in small letters, with straight apostrophes.

    >>> small("It’s ÄRGER")
    "it's ärger"
    """
    return text.translate(SMALL)


def words(text: str) -> list[str]:
    """The words of a text in small letters.

    >>> words("It’s a well-read -- secret_place, No. 7!")
    ["it's", 'a', 'well-read', 'secret', 'place', 'no', '7']
    """
    return WORD.findall(small(text))


def split_sentences(text: str) -> list[list[str]]:
    """The words of each sentence, by closing marks; a text with words has at least one.

    >>> split_sentences("Rain. Again?! 3.5 mm")
    [['rain'], ['again'], ['3', '5', 'mm']]
    """
    return [found for part in SENTENCE_END.split(text) if (found := words(part))]


def syllables(word: str) -> int:
    """Syllables of an English word in small letters by its groups of vowels, at least one.

    >>> [syllables(word) for word in ("rain", "table", "created", "like", "the")]
    [1, 2, 2, 1, 1]
    """
    groups = len(VOWELS.findall(word))
    silent = word.endswith("e") and not word.endswith(("le", "ee")) and groups > 1
    return max(1, groups - silent)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the features of one answer are counted from."""

    text: str
    asked: str
    """The prompt's text."""
    prompt: frozenset[str]
    """Different words of the prompt."""
    words: tuple[str, ...]
    different: frozenset[str]
    sentences: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]
    """Those that are not blank, without the space around them."""
    listed: tuple[int, ...]
    """How many phrases of each list occur."""
    sums: tuple[int, ...]
    """Sums over the words of what is counted in each single word."""


@lru_cache(maxsize=4096)  # a prompt is answered many times
def different_words(text: str) -> frozenset[str]:
    """The set of a text's words."""
    return frozenset(words(text))


def read(
    prompt: str,
    answer: str,
    lists: int,
    phrases: Phrases,
    facts: Callable[[str], Sequence[int]],
) -> Reading:
    """Read an answer once.

    Args:
        prompt: the recorded text of the prompt.
        answer: the recorded text of the answer.
        lists: number of word lists.
        phrases: their phrases by the first word.
        facts: what is counted in a single word.
    """
    sentences = split_sentences(answer)
    found = tuple(word for sentence in sentences for word in sentence)
    listed = [0] * lists
    for place, word in enumerate(found):
        for number, rest in phrases.get(word, ()):
            if not rest or found[place + 1 : place + 1 + len(rest)] == rest:
                listed[number] += 1
    return Reading(
        answer,
        prompt,
        different_words(prompt),
        found,
        frozenset(found),
        tuple(map(tuple, sentences)),
        tuple(line for part in answer.split("\n") if (line := part.strip(" \t\r\f\v\xa0"))),
        tuple(listed),
        tuple(map(sum, zip(*map(facts, found or ("",)), strict=True))),
    )
