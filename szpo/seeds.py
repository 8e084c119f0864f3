"""Named randomness: every random number of a run is a pure function of its root seed and a name.

Keys are derived, never stored. Streams are counter based (NumPy's Philox raw words, which NumPy
promises not to change), so any slice can be made anywhere and in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from szpo.errors import UsageError

T = TypeVar("T", bound=Hashable)

SEED_LIMIT = 2**63
"""Root seeds are integers 0 <= seed < 2**63, so that SQLite can hold them."""


def derive(
    root_seed: int,
    purpose: str,
    *,
    step: int | None = None,
    k: int | None = None,
    name: str | None = None,
    version: int = 1,
) -> bytes:
    """The 16-byte key of a purpose: the first 16 bytes of SHA-256 over a canonical JSON list.

    The list is ["szpo", version, root_seed, purpose, step, k, name], without spaces, ASCII.

    >>> derive(0, "direction", step=0, k=0).hex()
    '633ae1658f10c74e281924843f27debe'
    """
    if isinstance(root_seed, bool) or not isinstance(root_seed, int):
        raise UsageError(f"seed: {root_seed!r} is not an integer; give one in [0, 2**63)")
    if not 0 <= root_seed < SEED_LIMIT:
        raise UsageError(f"seed: {root_seed} is out of range; give an integer in [0, 2**63)")
    # int() so that a NumPy integer and a plain one give the same text.
    at = [None if number is None else int(number) for number in (step, k)]
    parts = ["szpo", version, root_seed, purpose, *at, name]
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).digest()[:16]


def bits(key: bytes, n: int, start: int = 0) -> NDArray[np.uint64]:
    """Words start … start + n − 1 of the key's stream; any slice agrees with the whole.

    >>> whole = bits(bytes(16), 10)
    >>> bool((bits(bytes(16), 4, start=3) == whole[3:7]).all())
    True
    """
    block, skip = divmod(start, 4)  # Philox 4x64 makes four words per counter value
    stream = np.random.Philox(counter=block, key=int.from_bytes(key, "little"))
    words: NDArray[np.uint64] = stream.random_raw(n + skip)[skip:]
    return words


def uniform(key: bytes, n: int, start: int = 0) -> NDArray[np.float64]:
    """Numbers in [0, 1): the top 53 bits of each word, equal on every machine."""
    return (bits(key, n, start) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(key: bytes) -> np.random.Generator:
    """NumPy's generator for the key; NumPy may change its distributions, so no run uses it."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def integer(key: bytes, index: int, below: int) -> int:
    """The index-th integer in [0, below) of the key; its bias is less than below / 2**64."""
    if below < 1:
        raise UsageError(f"seeds.integer: below is {below}; it must be at least 1")
    return int(bits(key, 1, index)[0]) * below >> 64


def endless_order(
    count: int, need: int, key: Callable[[int], bytes], *, first: int = 0
) -> list[int]:
    """Places ``first`` … first + need − 1 of an endless order of 0 … count − 1.

    The order is one permutation after another; ``key(lap)`` is the key of each.

    >>> order = endless_order(3, 7, lambda lap: derive(1, "example", step=lap))
    >>> sorted(order[:3]), sorted(order[3:6]), len(order)
    ([0, 1, 2], [0, 1, 2], 7)
    """
    order: list[int] = []
    for lap in range(first // count, (first + need - 1) // count + 1):
        order += permutation(key(lap), count).tolist()
    start = first % count
    return order[start : start + need]


def split(items: Iterable[T], key: bytes, most: int, one_in: int) -> tuple[tuple[T, ...], ...]:
    """Different items in the key's order, and those set aside: one in so many, at most ``most``.

    >>> rest, aside = split("abcdefghi", derive(0, "set aside"), 32, 4)
    >>> len(rest), len(aside)
    (7, 2)
    """
    unique = tuple(dict.fromkeys(items))
    count, order = min(most, len(unique) // one_in), permutation(key, len(unique)).tolist()
    return tuple(unique[i] for i in order[count:]), tuple(unique[i] for i in order[:count])


def permutation(key: bytes, n: int) -> NDArray[np.int64]:
    """A random order of 0 … n − 1: the ranks of n words.

    >>> sorted(permutation(derive(1, "prompts", step=0), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(bits(key, n), kind="stable").astype(np.int64)


def child_seed(root_seed: int, step: int, name: str) -> int:
    """A root seed that is a function of another, a step and a name."""
    return as_seed(derive(root_seed, "branch", step=step, name=name))


def as_seed(key: bytes) -> int:
    """A derived key as the seed of a rollout, 0 ≤ s < 2⁶³."""
    return int.from_bytes(key[:8], "big") >> 1
