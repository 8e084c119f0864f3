"""Preference pairs of users: features by hashed words, contexts of users, and files.

Texts become features by hashing words and pairs of words (`hash_words`). That needs no model,
gives the same bits on every machine, and keeps a decisive word visible, where the hidden state of
a small model reflects little but its own corpus. Any other (n, e) array may take its place.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

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
    """(n, e)"""
    rejected: Floats
    user: Ints
    """(n,) 0 … users − 1"""
    controversial: NDArray[np.bool_]
    """(n,) users do not all prefer the same."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: Ints | NDArray[np.bool_]) -> Pairs:
        """The pairs of an index or a mask."""
        return Pairs(
            self.chosen[index], self.rejected[index], self.user[index], self.controversial[index]
        )


@dataclass(frozen=True)
class UserVote:
    """One preference pair as text."""

    user: str
    chosen: str
    rejected: str
    controversial: bool
    prompt: str = ""
    embedding: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@lru_cache(maxsize=65_536)
def hash_words(text: str, width: int = WIDTH) -> tuple[float, ...]:
    """Words and pairs of words, each at a hashed place with a hashed sign, of length 1.

    The hashing trick of Weinberger et al. (2009).

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


def pairs(votes: Sequence[UserVote]) -> Pairs:
    """Preference pairs as features; users are numbered in the order of their names.

    Raises:
        UsageError: there is no pair, or some have embeddings of their own and others have not.
    """
    if not votes:
        raise UsageError("no judged pairs; give at least one")
    order = {name: i for i, name in enumerate(sorted({one.user for one in votes}))}
    own = {one.embedding is not None for one in votes}
    if len(own) > 1:
        raise UsageError("some pairs bring embeddings and some do not; give them for all or none")
    both = [one.embedding or (hash_words(one.chosen), hash_words(one.rejected)) for one in votes]
    return Pairs(
        np.array([one for one, _ in both]),
        np.array([other for _, other in both]),
        np.array([order[one.user] for one in votes], dtype=np.int64),
        np.array([one.controversial for one in votes]),
    )


def contexts(known: Pairs, users: Ints, size: Ints, u: Floats, skip: Ints | None = None) -> Ints:
    """Rows of ``known`` (b, n) drawn as contexts of users; −1 is padding.

    Args:
        known: pairs to draw from, with replacement.
        users: (b,) of whom.
        size: (b,) how many pairs each.
        u: (b, n) uniform numbers; n is at least the largest size.
        skip: (b,) a row of ``known`` that may not be drawn, the one to be predicted.

    Raises:
        UsageError: a user has no (other) pair.
    """
    order = np.argsort(known.user, kind="stable")
    count = np.bincount(known.user, minlength=int(users.max(initial=0)) + 1)
    first = np.r_[0, np.cumsum(count)[:-1]]
    room = count[users] - (skip is not None)
    if (room < 1).any():
        raise UsageError("a user has a single pair: nothing is left to know them by")
    place = (u * room[:, None]).astype(np.int64)
    if skip is not None:
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        place += place >= (rank[skip] - first[users])[:, None]
    rows = order[first[users][:, None] + place]
    return np.where(np.arange(u.shape[1]) < size[:, None], rows, -1)


def load(path: str | Path) -> list[UserVote]:
    """Preference pairs of a local file of JSON lines, as UF-P's are.

    Each line has ``chosen`` and ``rejected`` (texts, or conversations whose last turn counts) and
    the user as ``data_subset`` (or ``user``); it may have ``prompt``, ``controversial`` and
    ``embeddings`` (``embedding_chosen``, ``embedding_rejected``: lists of numbers). Where no line
    has ``controversial``, pairs on which users differ are.

    Raises:
        UsageError: no such file, or a line cannot be read; it is named.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a file of JSON lines") from None
    votes, marked = [], False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            votes.append(_votes(row))
            marked |= "controversial" in row
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"{path}, line {number}: {what}") from None
    if not votes:
        raise UsageError(f"{path} has no lines")
    widths = {len(e) for one in votes if one.embedding for e in one.embedding}
    if len(widths) > 1:
        raise UsageError(f"{path}: embeddings of different lengths: {sorted(widths)}")
    return votes if marked else mark_controversial(votes)


def mark_controversial(votes: Sequence[UserVote]) -> list[UserVote]:
    """The same votes, marked as controversial where users prefer different texts of the pair."""
    wanted: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for one in votes:
        wanted[one.prompt, *sorted((one.chosen, one.rejected))].add(one.chosen)
    return [
        replace(
            one,
            controversial=len(wanted[one.prompt, *sorted((one.chosen, one.rejected))]) > 1,
        )
        for one in votes
    ]


def _votes(row: Mapping[str, Any]) -> UserVote:
    user = row["data_subset"] if "data_subset" in row else row["user"]
    own = row.get("embeddings")
    embedding = None
    if own is not None:
        one, other = (
            tuple(float(v) for v in own[name])
            for name in ("embedding_chosen", "embedding_rejected")
        )
        embedding = one, other
    return UserVote(
        str(user), _text(row["chosen"]), _text(row["rejected"]),
        bool(row.get("controversial", False)), _text(row.get("prompt", "")), embedding,
    )  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # a conversation
        return _text(value[-1]["content"])
    raise TypeError(f"{value!r} is neither a text nor a conversation")
