"""A simulated panel of individual members for worlds, with every flaw that a member can have.

The law is that of `szpo_simulators.panels.raters`, on arrays: repetitions × members. Seats are a
round robin; the side of plus is drawn for each seat. Fatigue counts the votes of earlier steps, as
for a panel that answers through the ledger. A taste, or the length of a walk, is another *view*: a
world with the same walks that counts something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from szpo.aggregation import weighting
from szpo.aggregation.weighting import VotesByVoter
from szpo.errors import UsageError
from szpo.types import Floats, Ints
from szpo_simulators.panels import flaws
from szpo_simulators.panels.raters import Raters, law, pick, stack_raters
from szpo_simulators.worlds import oracle
from szpo_simulators.worlds.world import Uniforms, World

_MIDDLE = 2.0**-25
"""Half a step of the uniform numbers: quantiles of 0 would be infinite."""


@dataclass(frozen=True)
class People:
    """P members by a panel's line, such as ``bt70+spread=.7+hostile=1``, and the β of its preset.

    The line's ``other`` names nothing here: what the other taste likes is the view ``other``, and
    ``words`` counts what members with a verbosity bias count.

    Raises:
        UsageError: no such panel, or a taste without its view.
    """

    name: str
    beta: float = 1.0
    size: int = 10
    other: World | None = None
    words: World | None = None

    def __post_init__(self) -> None:
        """Refuse a panel that cannot vote."""
        raters = flaws.members(self.name, self.beta, self.size)
        if self.other is None and any(rater.taste or rater.turn for rater in raters):
            raise UsageError(f"panel {self.name!r}: the other taste needs a view of its own")
        if self.words is None and any(rater.verbosity for rater in raters):
            raise UsageError(f"panel {self.name!r}: words are counted by a view of their own")

    @property
    def names(self) -> tuple[str, ...]:
        """The members in order."""
        return tuple(f"member-{i:03d}" for i in range(self.size))

    def raters(self, root_seeds: Sequence[int]) -> Raters:
        """The members' laws (S, P): temperatures are drawn by each root seed."""
        return stack_raters(
            [flaws.members(self.name, self.beta, self.size, s) for s in root_seeds]
        )

    def seats(self, step: int, shape: tuple[int, int, int]) -> tuple[Ints, Ints]:
        """Who answers (K, N, M), a round robin, and how many votes each had given before (P,).

        >>> People("bt70", size=3).seats(1, (1, 2, 2))
        (array([[[1, 2],
                [0, 1]]]), array([2, 1, 1]))
        """
        each = int(np.prod(shape))
        if shape[-1] > self.size:
            raise UsageError(f"M = {shape[-1]} needs {shape[-1]} panelists; there are {self.size}")
        seats = (step * each + np.arange(each).reshape(shape)) % self.size
        given = (step * each + self.size - 1 - np.arange(self.size)) // self.size
        return seats, given


def coins(
    root_seeds: Sequence[int], step: int, shape: tuple[int, int, int], steps: int = 1
) -> tuple[Uniforms, Uniforms]:
    """Numbers of seats (steps, S, K, N, M, 2), of comparisons (steps, S, K, N, 3), from a step on.

    A seat's: its answer, its side. A comparison's: two item effects and the answer of a ring.
    """
    seats = oracle.coins(root_seeds, step, (*shape, 2), steps, name="seats")
    return seats, oracle.coins(root_seeds, step, (*shape[:-1], 3), steps, name="comparisons")


def cast_votes(
    people: People,
    raters: Raters,
    step: int,
    views: tuple[Floats, Floats | None, Floats | None],
    numbers: tuple[Uniforms, Uniforms],
) -> VotesByVoter:
    """One step's votes, ``verdicts`` (S, P, K, N).

    Args:
        people: the panel.
        raters: its members (S, P).
        step: of the run.
        views: differences (S, K, N) of mean returns, of the other taste's and of words.
        numbers: of `coins`, one step's: (S, K, N, M, 2) and (S, K, N, 3).
    """
    seat_coins, own_coins = numbers
    seats, given = people.seats(step, seat_coins.shape[1:4])
    who = raters.of(seats).at(given[seats], step)
    gap, other, words = (None if view is None else view[..., None] for view in views)
    assert gap is not None
    if other is not None:
        gap = (1 - who.taste) * gap + who.taste * other
    ring = who.ring > 0
    plus_on_a = (seat_coins[..., 1] < 0.5) | ring
    items = None
    if raters.item_spread.any() or raters.tie_spread.any():
        items = np.asarray(ndtri(own_coins[..., None, :2].astype(np.float64) + _MIDDLE))
    shares = law(who, gap, plus_on_a, items, 0.0 if words is None else words)
    answer = pick(shares, np.where(ring, own_coins[..., None, 2], seat_coins[..., 0]))
    sided = np.where((answer == 0) == plus_on_a, weighting.PLUS, weighting.MINUS)
    verdict = np.where(answer == 2, weighting.TIE, sided).astype(np.int8)
    lead, (K, N, _) = seat_coins.shape[0], seats.shape
    verdicts = np.zeros((lead, people.size, K, N), dtype=np.int8)
    verdicts[:, seats, np.arange(K)[:, None, None], np.arange(N)[:, None]] = verdict
    return VotesByVoter(people.names, verdicts, np.zeros((lead, K, N), dtype=bool))
