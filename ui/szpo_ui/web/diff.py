"""Word-level difference marks between the two answers to a prompt, from difflib.

Below a similarity of one half nearly everything would be marked, so nothing is; very long answers
are not compared, since difflib takes quadratic time. The same texts always give the same marks;
recent comparisons are cached.
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
"""Least similarity at which differences are marked."""
MOST_WORDS: Final = 800
"""Answers with more words (and marks of punctuation) on either side are not compared."""
MOST_LETTERS: Final = 20_000
"""Nor are answers with more characters."""
MOST_MATCHES: Final = 20_000
"""Nor are texts with more pairs of equal words, which very repetitive answers have."""
CACHED: Final = 256
"""Comparisons that are stored: at most 64 MiB; a page is drawn again with every request."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:['’]\w+)*|[^\w\s]|\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; ``differs`` where the other answer has something else there."""

    text: str
    differs: bool = False


Pieces: TypeAlias = tuple[Piece, ...]


def compare(a: str, b: str) -> tuple[Pieces, Pieces]:
    """The two texts with the words that differ marked; joined, the pieces are the texts.

    Similarity is 2·matches over words of both, white space left out.

    >>> compare("The sky is blue.", "The sea is blue.")[1]
    (Piece(text='The ', differs=False), Piece(text='sea', differs=True), Piece(text=' is blue.', differs=False))
    """  # noqa: E501
    if max(len(a), len(b)) > MOST_LETTERS:
        return _whole(a), _whole(b)
    return _compare_words(a, b)


@lru_cache(maxsize=CACHED)
def _compare_words(a: str, b: str) -> tuple[Pieces, Pieces]:
    tokens = _WORDS.findall(a), _WORDS.findall(b)
    # Of space between words nothing is compared; a text that begins with some has a word more.
    left, right = ([i for i, t in enumerate(some) if i == 0 or not t.isspace()] for some in tokens)
    plain = _whole(a), _whole(b)
    if max(len(left), len(right)) > MOST_WORDS:
        return plain
    texts = [tokens[0][i].strip() for i in left], [tokens[1][i].strip() for i in right]
    here, there = Counter(texts[0]), Counter(texts[1])
    if sum(count * there[text] for text, count in here.items()) > MOST_MATCHES:
        return plain
    matcher = SequenceMatcher(None, *texts, autojunk=False)
    # An upper bound, found fast, comes first.
    if matcher.quick_ratio() < SIMILAR or round(matcher.ratio(), 3) < SIMILAR:
        return plain
    blocks = matcher.get_matching_blocks()
    same_a = {left[block.a + i] for block in blocks for i in range(block.size)}
    same_b = {right[block.b + i] for block in blocks for i in range(block.size)}
    return _pieces(tokens[0], set(left) - same_a), _pieces(tokens[1], set(right) - same_b)


def _whole(text: str) -> Pieces:
    return (Piece(text),) if text else ()


def _pieces(tokens: Sequence[str], differ: set[int]) -> Pieces:
    """The tokens in stretches; space is marked between two words that both differ."""
    marked = [
        {i - 1, i + 1} <= differ if token.isspace() else i in differ
        for i, token in enumerate(tokens)
    ]
    runs = groupby(zip(tokens, marked, strict=True), key=itemgetter(1))
    return tuple(Piece("".join(token for token, _ in run), differs) for differs, run in runs)
