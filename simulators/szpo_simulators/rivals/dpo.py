"""Direct preference optimisation for trajectories, offline and online.

The margin of a pair is m = Σ_t log π(a|s)/π_ref(a|s) over plus less the same over minus (batch
means where whole batches were compared) and the loss −log σ(β m) of the preferred one (Rafailov
et al. 2023). The closed form behind it holds for bandits and deterministic transitions; with
stochastic ones the return depends on luck that no ratio of policies can carry.
"""

from __future__ import annotations

import numpy as np

from szpo.types import Floats
from szpo_simulators.rivals.tables import log_policy, to_logits


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
