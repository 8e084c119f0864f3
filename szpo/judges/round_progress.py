"""How far a judge is with the pairs of a round, in words, for those who wait for it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Final

TELL_S: float = 5.0
"""Seconds between two lines of a judge that is asked."""
HOPELESS: Final = 8
"""A judge without one readable reply among as many is not asked a third time."""


@dataclass(slots=True)
class Heard:
    """What has come back from a judge, counted from several threads."""

    replies: int = 0
    unread: int = 0
    one: str = ""
    """The latest reply that could not be read, or what went wrong."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, unread: str | None) -> None:
        """Count a reply; ``unread`` is one that could not be read, else None."""
        with self._lock:
            self.replies += 1
            if unread is not None:
                self.unread += 1
                self.one = unread

    @property
    def hopeless(self) -> bool:
        """Whether none of several replies could be read."""
        return self.unread == self.replies >= HOPELESS


def describe(
    done: int, of: int, spent_s: float, each_s: float | None, at_once: int, unread: str = ""
) -> str:
    """So many pairs of a round are judged, how long one takes, and what the rest may take.

    Args:
        done: pairs judged.
        of: pairs of the round.
        spent_s: seconds since the round's first question.
        each_s: mean seconds of the pairs judged last; None: none was judged yet.
        at_once: pairs that are judged at the same time.
        unread: what is wrong with the replies so far.

    >>> describe(4, 8, 17, 16, 4)
    'judging: 4 of 8 pairs, 16 s each, 4 at a time; about 15 s left'
    >>> describe(0, 8, 25, None, 4)
    'judging: 0 of 8 pairs; no vote yet after 25 s'
    >>> describe(0, 8, 9, None, 4, "2 of 2 replies not read (one: 'Purple.')")
    "judging: 0 of 8 pairs; 2 of 2 replies not read (one: 'Purple.'); no vote yet after 9 s"
    >>> describe(0, 8, 60, 16, 4)
    'judging: 0 of 8 pairs, 16 s each, 4 at a time; 60 s so far'
    >>> describe(1, 8, 90, 90, 1)
    'judging: 1 of 8 pairs, 90 s each; about 10 minutes left'
    """
    text = f"judging: {done} of {of} pairs"
    wrong = f"; {unread}" if unread else ""
    if each_s is None:
        return f"{text}{wrong}; no vote yet after {spent_s:.0f} s"
    text += f", {each_s:.0f} s each" if each_s >= 1 else ""
    text += f", {at_once} at a time{wrong}" if 1 < at_once <= of else wrong
    left = math.ceil(of / at_once) * each_s - spent_s
    if left < 1:
        return f"{text}; {spent_s:.0f} s so far"
    return f"{text}; about {f'{left:.0f} s' if left < 120 else f'{left / 60:.0f} minutes'} left"
