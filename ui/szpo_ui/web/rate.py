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
    """After ``tries`` wrong codes in a row a key is locked for ``seconds``."""

    clock: Clock
    tries: int = 5
    seconds: float = 60.0
    _wrong: OrderedDict[str, tuple[int, int]] = field(default_factory=OrderedDict)

    def left(self, *keys: str) -> float:
        """Seconds until none of the keys is locked."""
        now = self.clock()
        ends = [self._wrong[key][1] for key in keys if key in self._wrong]
        return max(0.0, (max(ends, default=0) - now) * 1e-6)

    def wrong(self, *keys: str) -> None:
        """Count a wrong code against each key; the count starts anew after a lock."""
        now = self.clock()
        for key in keys:
            count, end = self._wrong.pop(key, (0, 0))
            count = 1 if 0 < end <= now else count + 1
            end = now + round(self.seconds * 1e6) if count >= self.tries else 0
            self._wrong[key] = (count, end)
            if len(self._wrong) > KEPT:
                self._wrong.popitem(last=False)

    def right(self, *keys: str) -> None:
        """Forget the wrong codes of these keys."""
        for key in keys:
            self._wrong.pop(key, None)
