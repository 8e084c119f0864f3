"""Direct preference optimisation for trajectories, offline and online.

The margin of a pair is m = Σ_t log π(a|s)/π_ref(a|s) over plus less the same over minus (batch
means where whole batches were compared) and the loss −log σ(β m) of the preferred one (Rafailov
et al. 2023). The closed form behind it holds for bandits and deterministic transitions; with
stochastic ones the return depends on luck that no ratio of policies can carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from szpo.types import Floats
from szpo_simulators.baselines.curves import Curve, curve, shares
from szpo_simulators.baselines.tables import Adam, log_policy, to_logits
from szpo_simulators.baselines.walks import MOVES, ask
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import Panel


def margin(theta: Floats, reference: Floats, x: Floats, moves: int) -> Floats:
    """Margins (S, n) of pairs with differences of counts x (S, n, d); logits are (S, d)."""
    ratio = log_policy(theta, moves) - log_policy(reference, moves)
    return np.asarray((x @ ratio[..., None])[..., 0])


def loss(
    theta: Floats, reference: Floats, x: Floats, won: Floats, *, beta: float, moves: int
) -> Floats:
    """Mean over pairs, (S,): ln 2 at θ = θ_ref.

    Args:
        theta: logits (S, d).
        reference: those of the reference policy, (S, d).
        x: counts of (cell, move) of plus minus those of minus, (S, n, d).
        won: share of the votes for plus (S, n), in [0, 1].
        beta: strength of the tie to the reference, above 0.
        moves: per cell.
    """
    m = beta * margin(theta, reference, x, moves)
    found: Floats = (np.logaddexp(0, -m) + (1 - won) * m).mean(axis=-1)
    return found


def gradient(
    theta: Floats, reference: Floats, x: Floats, won: Floats, *, beta: float, moves: int
) -> Floats:
    """Of `loss` with respect to the logits, (S, d)."""
    m = beta * margin(theta, reference, x, moves)
    pull = beta * (1 / (1 + np.exp(-m)) - won) / x.shape[-2]
    towards = (np.swapaxes(x, -1, -2) @ pull[..., None])[..., 0]
    return to_logits(towards, theta, moves)


@dataclass(frozen=True)
class Recipe:
    """How the votes become a policy."""

    rounds: int = 1
    """1: offline, all pairs by the starting policy. More: online, by the policy as it stands."""
    beta: float = 0.1
    rate: float = 0.03
    """Adam's."""
    epochs: int = 8
    """Gradient steps on each round's pairs."""
    anchor: Literal["latest", "start"] = "latest"
    """The reference: the policy that made the round's pairs, or the one at the start."""


def train(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    how: Recipe,
    *,
    rows: int = 1,
    panel: Panel,
) -> Curve:
    """Spend one vote on each of so many pairs of batches of D rows; values after every round."""
    start = np.tile(world.theta0, (len(root_seeds), 1))
    theta, adam = start, Adam.empty(start.shape)
    values, votes, spent = [], [], 0
    for step, count in enumerate(shares(pairs, how.rounds)):
        asked = ask(world, theta, root_seeds, step, count, rows=rows, kind="moves", panel=panel)
        reference = theta if how.anchor == "latest" else start
        for _ in range(how.epochs):
            slope = gradient(theta, reference, asked.x, asked.won, beta=how.beta, moves=MOVES)
            adam, move = adam.step(-slope, how.rate)
            theta = theta + move
        spent += count
        values.append(world.value(theta))
        votes.append(spent)
    return curve(values, votes, [2 * rows * n for n in votes])
