"""Preference pairs of users: features by hashed words, and contexts of users.

Texts become features by hashing words and pairs of words (`hash_words`). This needs no model,
gives the same bits on every machine, and keeps a decisive word visible; the hidden state of a
small model reflects little but its own corpus. Any other array (n, e) of features works as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.metrics import words
from szpo.types import Floats, Ints

WIDTH = 256


@dataclass(frozen=True)
class Pairs:
    """n preference pairs as features."""

    chosen: Floats
    """(n, e): features of the chosen texts."""
    rejected: Floats
    user: Ints
    """(n,): each pair's user, 0 … users − 1."""
    controversial: NDArray[np.bool_]
    """(n,): whether users disagree about the pair."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: Ints | NDArray[np.bool_]) -> Pairs:
        """The pairs selected by an index or a mask."""
        return Pairs(
            self.chosen[index], self.rejected[index], self.user[index], self.controversial[index]
        )


@lru_cache(maxsize=65_536)
def hash_words(text: str, width: int = WIDTH) -> tuple[float, ...]:
    """A vector of norm 1 with a hashed place and sign for each word and pair of words.

    This is the hashing trick of Weinberger et al. (2009).

    >>> round(sum(x * x for x in hash_words("The sea is calm.")), 9)
    1.0
    """
    found = words(text)
    grams = [*found, *(" ".join(pair) for pair in pairwise(found))]
    row = np.zeros(width)
    for gram in grams:
        code = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little")
        row[(code >> 1) % width] += 1 if code & 1 else -1
    size = float(np.linalg.norm(row))
    return tuple((row / size if size else row).tolist())


def hash_votes(votes: Sequence[tuple[str, str, str, bool]]) -> Pairs:
    """Pairs with features by `hash_words` from (user, chosen, rejected, controversial) of texts.

    Users are numbered in the order of their names.
    """
    users, chosen, rejected, controversial = zip(*votes, strict=True)
    return Pairs(
        np.array([hash_words(text) for text in chosen]),
        np.array([hash_words(text) for text in rejected]),
        np.unique(users, return_inverse=True)[1],
        np.array(controversial),
    )


def contexts(known: Pairs, users: Ints, size: Ints, u: Floats, skip: Ints | None = None) -> Ints:
    """Indices (b, n) of pairs in ``known`` drawn as contexts of users; −1 is padding.

    Args:
        known: pairs to draw from, with replacement.
        users: (b,) user of each context.
        size: (b,) number of pairs in each context.
        u: (b, n) uniform numbers; n is at least the largest size.
        skip: (b,) index of the pair to be predicted, which is not drawn; None: no such pair.
    """
    order = np.argsort(known.user, kind="stable")
    count = np.bincount(known.user, minlength=int(users.max(initial=0)) + 1)
    first = np.r_[0, np.cumsum(count)[:-1]]
    room = count[users] - (skip is not None)
    if (room < 1).any():
        raise UsageError("a user has a single pair; give each user two or more")
    place = (u * room[:, None]).astype(np.int64)
    if skip is not None:
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        place += place >= (rank[skip] - first[users])[:, None]
    rows = order[first[users][:, None] + place]
    return np.where(np.arange(u.shape[1]) < size[:, None], rows, -1)
