"""What a rival's run gives: the exact value on its way, and what it had spent by then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from szpo.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Values (S, marks); ``votes`` and ``answers`` (marks,) spent by one repetition until then.

    For methods that see the true reward, answers are the walks whose return they read.
    """

    values: Floats
    votes: tuple[int, ...]
    answers: tuple[int, ...]

    @property
    def final(self) -> Floats:
        """Value (S,) at the end."""
        return np.asarray(self.values[:, -1])


def curve(values: list[Floats], votes: list[int], answers: list[int]) -> Curve:
    """From lists with one entry per mark."""
    return Curve(np.stack(values, axis=1), tuple(votes), tuple(answers))


def shares(total: int, rounds: int) -> list[int]:
    """A budget in so many rounds, as even as whole numbers allow, none empty.

    >>> shares(10, 4), shares(2, 5)
    ([2, 3, 3, 2], [1, 1])
    """
    ends = np.linspace(0, total, min(rounds, total) + 1).round().astype(int)
    return [int(n) for n in np.diff(ends)]
