"""Direct preference optimisation for trajectories, offline and online.

The margin of a pair is m = Σ_t log π(a|s)/π_ref(a|s) over plus minus the same over minus (batch
means if whole batches were compared), and the loss is −log σ(β m) if plus was preferred (Rafailov
et al. 2023). The derivation holds for bandits and deterministic transitions. With stochastic
transitions the return also depends on chance, which no ratio of policies can express.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from szpo.types import Floats
from szpo_simulators.worlds.curves import Curve, train_in_rounds
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.tables import Adam, log_policy, to_logits
from szpo_simulators.worlds.walks import MOVES


def gradient(
    theta: Floats, reference: Floats, x: Floats, won: Floats, *, beta: float, moves: int
) -> Floats:
    """Gradient of the mean loss over pairs with respect to the logits, (S, d).

    Args:
        theta: logits (S, d).
        reference: logits of the reference policy (S, d).
        x: counts of (cell, move) of plus minus those of minus, (S, n, d).
        won: share of the votes for plus (S, n), in [0, 1].
        beta: β, which ties the policy to the reference, above 0.
        moves: moves per cell.
    """
    ratio = log_policy(theta, moves) - log_policy(reference, moves)
    m = beta * (x @ ratio[..., None])[..., 0]
    pull = beta * (1 / (1 + np.exp(-m)) - won) / x.shape[-2]  # ∂loss/∂margin = β(σ(m) − y)/n
    towards = (np.swapaxes(x, -1, -2) @ pull[..., None])[..., 0]
    return to_logits(towards, theta, moves)


def train(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    *,
    panel: LinkPanel,
    rows: int = 1,
    rounds: int = 1,
    beta: float = 0.1,
    rate: float = 0.03,
    epochs: int = 8,
) -> Curve:
    """Train on one vote on each of ``pairs`` pairs of batches; values after every round.

    Args:
        world: The world of the policies.
        root_seeds: One for each repetition.
        pairs: Total number of votes.
        panel: The voters.
        rows: D, walks per batch.
        rounds: 1: offline, all pairs by the starting policy. More: online, by the current policy.
        beta: β; see `gradient`.
        rate: Adam's learning rate.
        epochs: Gradient steps on each round's pairs; the reference is the policy that made them.
    """
    adam = Adam((len(root_seeds), world.dim))

    def improve(step: int, theta: Floats, x: Floats, won: Floats) -> Floats:
        reference = theta
        for _ in range(epochs):
            slope = gradient(theta, reference, x, won, beta=beta, moves=MOVES)
            theta = theta + adam.step(-slope, rate)
        return theta

    return train_in_rounds(
        world, root_seeds, pairs, rounds, improve, kind="moves", rows=rows, panel=panel
    )
