"""Learning curves of the baselines: the exact value after each round, and the budget spent so far.

`train_in_rounds` and `trace_walks` compute the values and count the budget, so that no method does
its own accounting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np

from szpo.types import Floats
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.walks import Kind, ask
from szpo_simulators.worlds.world import World


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Values (S, marks); ``votes`` and ``answers`` (marks,) spent so far by one repetition.

    For methods that see the true reward, answers are the walks whose returns they read.
    """

    values: Floats
    votes: tuple[int, ...]
    answers: tuple[int, ...]


def train_in_rounds(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    rounds: int,
    improve: Callable[[int, Floats, Floats, Floats], Floats],
    *,
    kind: Kind,
    rows: int,
    panel: LinkPanel,
) -> Curve:
    """Spend one vote on each of ``pairs`` pairs of batches, in rounds; values after every round.

    Args:
        world: The world of the policies.
        root_seeds: One for each repetition.
        pairs: Total number of votes.
        rounds: 1: all pairs by the starting policy. More: each round by the current policy.
        improve: From (round, θ (S, d), the round's x and won as returned by `ask`) to the next θ.
        kind: The features of a walk that the learner sees.
        rows: D, walks per batch.
        panel: The voters.
    """
    counts = split_budget(pairs, rounds)
    theta, values = np.tile(world.theta0, (len(root_seeds), 1)), []
    for step, count in enumerate(counts):
        x, won = ask(world, theta, root_seeds, step, count, kind=kind, rows=rows, panel=panel)
        theta = improve(step, theta, x, won)
        values.append(world.value(theta))
    votes = tuple(accumulate(counts))
    return Curve(np.stack(values, axis=1), votes, tuple(2 * rows * n for n in votes))


def trace_walks(world: World, thetas: Iterable[Floats], marks: Sequence[int], walks: int) -> Curve:
    """The curve of a method that sees true returns and needs no votes.

    Args:
        world: The world of the policies.
        thetas: θ (S, d) before the first step and after each; may be endless.
        marks: Steps after which the value is computed, in order.
        walks: Walks per step.
    """
    reached = enumerate(islice(thetas, marks[-1] + 1))
    values = [world.value(theta) for step, theta in reached if step in marks]
    return Curve(np.stack(values, axis=1), (0,) * len(marks), tuple(walks * n for n in marks))


def split_budget(total: int, rounds: int) -> list[int]:
    """A budget split over n rounds, as evenly as whole numbers allow; no round is empty.

    >>> split_budget(10, 4), split_budget(2, 5)
    ([2, 3, 3, 2], [1, 1])
    """
    ends = np.linspace(0, total, min(rounds, total) + 1).round().astype(int)
    return [int(n) for n in np.diff(ends)]
