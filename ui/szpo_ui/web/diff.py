"""Marks the words that differ between the two answers to a prompt, by difflib.

Below a similarity of one half, nearly everything would be marked, so nothing is. Very long answers
are not compared, since difflib takes quadratic time. The same texts always get the same marks.
Recent comparisons are cached.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Final, TypeAlias

SIMILAR: Final = 0.5
"""Differences are marked only in answers that are at least this similar."""
MOST_WORDS: Final = 800
"""Most words and punctuation marks of an answer; longer answers are not compared."""
MOST_LETTERS: Final = 20_000
"""Most characters of an answer; longer answers are not compared."""
MOST_MATCHES: Final = 20_000
"""Most pairs of equal words; very repetitive answers have more and are not compared."""
CACHED: Final = 256
"""Comparisons to cache, at most 64 MiB, since every request draws the page again."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:['’]\w+)*|[^\w\s]|\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; ``differs`` if the other answer has something else there."""

    text: str
    differs: bool = False


Pieces: TypeAlias = tuple[Piece, ...]


def compare(a: str, b: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces, with words that differ marked; joined, the pieces are the text.

    Similarity is 2·matches / number of words in both, without white space.

    >>> compare("The sky is blue.", "The sea is blue.")[1]
    (Piece(text='The ', differs=False), Piece(text='sea', differs=True), Piece(text=' is blue.', differs=False))
    """  # noqa: E501
    if max(len(a), len(b)) > MOST_LETTERS:
        return _whole(a), _whole(b)
    return _compare_words(a, b)


@lru_cache(maxsize=CACHED)
def _compare_words(a: str, b: str) -> tuple[Pieces, Pieces]:
    tokens = _WORDS.findall(a), _WORDS.findall(b)
    # Space between words is not compared; space at a text's beginning counts as a word.
    left, right = ([i for i, t in enumerate(some) if i == 0 or not t.isspace()] for some in tokens)
    plain = _whole(a), _whole(b)
    if max(len(left), len(right)) > MOST_WORDS:
        return plain
    texts = [tokens[0][i].strip() for i in left], [tokens[1][i].strip() for i in right]
    here, there = Counter(texts[0]), Counter(texts[1])
    if sum(count * there[text] for text, count in here.items()) > MOST_MATCHES:
        return plain
    matcher = SequenceMatcher(None, *texts, autojunk=False)
    # Try a fast upper bound first.
    if matcher.quick_ratio() < SIMILAR or round(matcher.ratio(), 3) < SIMILAR:
        return plain
    blocks = matcher.get_matching_blocks()
    same_a = {left[block.a + i] for block in blocks for i in range(block.size)}
    same_b = {right[block.b + i] for block in blocks for i in range(block.size)}
    return _pieces(tokens[0], set(left) - same_a), _pieces(tokens[1], set(right) - same_b)


def _whole(text: str) -> Pieces:
    return (Piece(text),) if text else ()


def _pieces(tokens: Sequence[str], differ: set[int]) -> Pieces:
    """The tokens joined to pieces; space between two marked words is marked too."""
    marked = [
        {i - 1, i + 1} <= differ if token.isspace() else i in differ
        for i, token in enumerate(tokens)
    ]
    runs = groupby(zip(tokens, marked, strict=True), key=itemgetter(1))
    return tuple(Piece("".join(token for token, _ in run), differs) for differs, run in runs)
