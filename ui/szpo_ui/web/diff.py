"""Word-level difference marks between the two answers to a prompt, from difflib.

Below a similarity of one half nearly everything would be marked, so nothing is; very long answers
are not compared, since difflib takes quadratic time. The same texts always give the same marks;
recent comparisons are cached.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
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
    plain = _whole(a), _whole(b)
    left, right = _words(a), _words(b)
    if max(len(left), len(right)) > MOST_WORDS:
        return plain
    texts = [text for text, _ in left], [text for text, _ in right]
    here, there = Counter(texts[0]), Counter(texts[1])
    if sum(count * there[text] for text, count in here.items()) > MOST_MATCHES:
        return plain
    matcher = SequenceMatcher(None, *texts, autojunk=False)
    # An upper bound, found fast, comes first.
    if matcher.quick_ratio() < SIMILAR or round(matcher.ratio(), 3) < SIMILAR:
        return plain
    blocks = matcher.get_matching_blocks()
    same_a = {block.a + i for block in blocks for i in range(block.size)}
    same_b = {block.b + i for block in blocks for i in range(block.size)}
    return _pieces(left, same_a), _pieces(right, same_b)


def _whole(text: str) -> Pieces:
    return (Piece(text),) if text else ()


def _words(text: str) -> list[tuple[str, str]]:
    """Each word with the white space after it; leading space belongs to the first."""
    found: list[tuple[str, str]] = []
    lead = ""
    for token in _WORDS.findall(text):
        if not token.isspace():
            found.append((token, ""))
        elif found:
            found[-1] = found[-1][0], token
        else:
            lead = token
    if lead:
        found.insert(0, ("", lead))
    return found


def _pieces(found: list[tuple[str, str]], same: set[int]) -> Pieces:
    pieces: list[Piece] = []
    gap = ""
    for i, (word, space) in enumerate(found):
        differs = i not in same and bool(word)
        if pieces and pieces[-1].differs == differs:
            pieces[-1] = Piece(pieces[-1].text + gap + word, differs)
        elif pieces and pieces[-1].differs:
            pieces.append(Piece(gap + word, differs))
        elif pieces:  # space before a mark stays outside of it
            pieces[-1] = Piece(pieces[-1].text + gap)
            pieces.append(Piece(word, differs))
        else:
            pieces.append(Piece(word, differs))
        gap = space
    if gap:
        if pieces[-1].differs:
            pieces.append(Piece(gap))
        else:
            pieces[-1] = Piece(pieces[-1].text + gap)
    return tuple(piece for piece in pieces if piece.text)
