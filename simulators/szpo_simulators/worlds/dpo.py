"""Direct preference optimisation for trajectories, offline and online.

The margin of a pair is m = Σ_t log π(a|s)/π_ref(a|s) over plus less the same over minus (batch
means where whole batches were compared) and the loss is −log σ(β m) of the preferred one (Rafailov
et al. 2023). Its closed form holds for bandits and deterministic transitions. With stochastic
transitions the return also depends on luck, which no ratio of policies can express.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from szpo.types import Floats
from szpo_simulators.worlds.curves import Curve, train_in_rounds
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.tables import Adam, log_policy, to_logits
from szpo_simulators.worlds.walks import MOVES, Answers, Question


def margin(theta: Floats, reference: Floats, x: Floats, moves: int) -> Floats:
    """Margins m (S, n) of pairs with differences of counts x (S, n, d); logits are (S, d)."""
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
    # −log σ(m) where plus won, −log σ(−m) = m − log σ(m) where minus won.
    found: Floats = (np.logaddexp(0, -m) + (1 - won) * m).mean(axis=-1)
    return found


def gradient(
    theta: Floats, reference: Floats, x: Floats, won: Floats, *, beta: float, moves: int
) -> Floats:
    """Gradient of `loss` with respect to the logits, (S, d)."""
    m = beta * margin(theta, reference, x, moves)
    pull = beta * (1 / (1 + np.exp(-m)) - won) / x.shape[-2]  # ∂loss/∂margin = β(σ(m) − y)/n
    towards = (np.swapaxes(x, -1, -2) @ pull[..., None])[..., 0]
    return to_logits(towards, theta, moves)


@dataclass(frozen=True)
class Recipe:
    """Settings of DPO in a world."""

    rounds: int = 1
    """1: offline, all pairs by the starting policy. More: online, by the current policy."""
    beta: float = 0.1
    rate: float = 0.03
    """Adam's learning rate."""
    epochs: int = 8
    """Gradient steps on each round's pairs; the reference is the policy that made them."""


def train(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    how: Recipe,
    *,
    rows: int = 1,
    panel: LinkPanel,
) -> Curve:
    """Train on one vote on each of n pairs of batches of D walks; values after every round."""
    adam = Adam.empty((len(root_seeds), world.dim))

    def improve(step: int, theta: Floats, answers: Answers) -> Floats:
        nonlocal adam
        reference = theta
        for _ in range(how.epochs):
            slope = gradient(theta, reference, answers.x, answers.won, beta=how.beta, moves=MOVES)
            adam, move = adam.step(-slope, how.rate)
            theta = theta + move
        return theta

    question = Question("moves", rows, panel)
    return train_in_rounds(world, root_seeds, pairs, how.rounds, question, improve)
