"""The losses of PPO-clip on tensors (Schulman et al. 2017); pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """The policy loss, and statistics of the ratios it is made of."""

    loss: Tensor
    ratio: Tensor
    """π(a|s) / π_old(a|s) of each stored choice."""
    clipped: float
    """Share of choices whose ratio left [1 − ε, 1 + ε]."""


def policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip: float = 0.2
) -> PolicyLoss:
    """−mean min(ρA, clip(ρ, 1 − ε, 1 + ε)A) with ρ = exp(log π − log π_old) (eq. 7 there).

    Both log-probabilities are those of the *stored* choices: choices drawn anew would give the
    ratio of something else.

    Args:
        logp: log π of the stored choices as the policy is now, with gradient.
        old_logp: the same when they were made.
        advantages: of these choices.
        clip: ε > 0.
    """
    ratio = (logp - old_logp.detach()).exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    # −L^CLIP, eq. 7
    loss = -torch.minimum(ratio * advantages, bounded * advantages).mean()
    left = float((ratio.detach() != bounded.detach()).float().mean())
    return PolicyLoss(loss, ratio.detach(), left)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2
) -> Tensor:
    """½ mean max((V − R)², (V_clip − R)²), V_clip within ε of what V was at sampling.

    Args:
        values: V of the stored states, with gradient.
        old_values: the same when the answers were sampled.
        returns: advantages plus ``old_values``.
        clip: ε > 0, in units of the return; infinite for the plain squared error.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
