"""How often somebody may ask: token buckets, and the lock after wrong codes; both in memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from szpo.ledger.database import Clock

KEPT = 10_000
"""Names remembered at once; the one that was quiet for longest is forgotten first."""


class Buckets:
    """``rate`` requests a second and ``burst`` at once, counted per key."""

    def __init__(self, clock: Clock, *, rate: float, burst: float):
        self.clock: Final = clock
        self.rate: Final = rate
        self.burst: Final = burst
        self._level: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str) -> float:
        """0.0 if the request may pass, else the seconds until the next one may."""
        now = self.clock()
        level, before = self._level.pop(key, (self.burst, now))
        level = min(self.burst, level + max(0, now - before) * 1e-6 * self.rate)
        passes = level >= 1.0
        self._level[key] = (level - 1.0 if passes else level, now)
        if len(self._level) > KEPT:
            self._level.popitem(last=False)
        return 0.0 if passes else (1.0 - level) / self.rate


@dataclass
class Locks:
    """At most ``tries`` wrong codes of a key within ``seconds``; nothing else takes one away.

    A code counts as wrong from the moment it is taken in until it is found right, so that many at
    once are no more than many in a row.
    """

    clock: Clock
    tries: int = 5
    seconds: float = 60.0
    _wrong: OrderedDict[str, tuple[int, ...]] = field(default_factory=OrderedDict)

    def take(self, key: str) -> float:
        """0.0 if a code may be judged, which is counted; else the seconds until one may."""
        now, span = self.clock(), round(self.seconds * 1e6)
        # What lies ahead was noted before the clock was set back, and says nothing any more.
        lately = tuple(at for at in self._wrong.pop(key, ()) if 0 <= now - at < span)
        passes = len(lately) < self.tries
        self._wrong[key] = (*lately, now) if passes else lately
        if len(self._wrong) > KEPT:
            self._wrong.popitem(last=False)
        return 0.0 if passes else (lately[0] + span - now) * 1e-6

    def right(self, key: str) -> None:
        """A code that was taken in was right: it alone does not count."""
        self._wrong[key] = self._wrong.get(key, ())[:-1]
