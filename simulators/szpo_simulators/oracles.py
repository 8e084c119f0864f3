"""Simulated raters: how a difference of batch means becomes an answer, flaws included.

With x = β · (mean reward of A − mean reward of B) + side bias and p = σ(x), a rater answers

    P(A) : P(B) : P(tie) = p : 1 − p : ν √(p (1 − p))

which is Bradley–Terry for ν = 0 and Davidson's model of ties for ν > 0 under the logistic link.
With probability λ, a lapse, the answer is drawn evenly from what may be answered. A negative β is
a hostile rater. All functions take arrays of any shape, so worlds ask thousands at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from szpo.errors import RunError, UsageError
from szpo.links import link
from szpo.seeds import derive, uniform
from szpo.types import Choice, Comparison, Floats


@dataclass(frozen=True, slots=True)
class Rater:
    """One rater's law. Biases and spreads are in the units of the link (logits)."""

    beta: float = 1.0
    """Sensitivity β: logits per unit of reward; negative for a hostile rater."""
    link: str = "logistic"
    side_bias: float = 0.0
    """Added in favour of the batch on side A."""
    tie: float = 0.0
    """Davidson's ν: between equal batches ν / (2 + ν) of the answers are ties."""
    lapse: float = 0.0
    """Share λ of answers that ignore what is shown, in [0, 1]."""
    item_spread: float = 0.0
    """Standard deviation of an effect on x that all raters of a comparison share."""
    tie_spread: float = 0.0
    """Standard deviation of log ν between comparisons, shared by their raters."""

    def __post_init__(self) -> None:
        """Refuse laws that are none."""
        link(self.link)
        numbers = (self.beta, self.side_bias, self.tie, self.item_spread, self.tie_spread)
        if not all(map(isfinite, numbers)) or min(self.tie, *numbers[3:]) < 0:
            raise UsageError(f"{self}: numbers must be finite; tie and spreads at least 0")
        if not 0 <= self.lapse <= 1:
            raise UsageError(f"{self}: lapse is a share, from 0 to 1")


def law(
    rater: Rater, gap: ArrayLike, plus_on_a: ArrayLike = True, items: Floats | None = None
) -> Floats:
    """Probabilities (..., 3) of answering A, B, tie.

    Args:
        rater: who answers.
        gap: mean reward of plus minus that of minus, any shape.
        plus_on_a: which side plus stands on.
        items: standard normal numbers (..., 2) of the comparison; None for no item effects.
            A positive first number favours plus.

    >>> law(Rater(beta=2.0), 0.5, plus_on_a=False).round(3).tolist()
    [0.269, 0.731, 0.0]
    """
    gap = np.asarray(gap, dtype=np.float64)
    if not np.isfinite(gap).all():
        raise RunError("a difference of rewards is not finite; check the reward")
    x, log_tie = rater.beta * gap, np.zeros(())
    if items is not None:
        x = x + rater.item_spread * items[..., 0]
        log_tie = rater.tie_spread * items[..., 1]
    x = np.where(plus_on_a, x, -x) + rater.side_bias
    # Both tails from the link itself: 1 − p would lose the small one.
    chosen = link(rater.link).prob
    p, q = chosen(x), chosen(-x)
    tie = rater.tie * np.exp(log_tie) * np.sqrt(p * q)
    shares = np.stack([p, q, tie], axis=-1) / (p + q + tie)[..., None]
    even = np.array([1.0, 1.0, 1.0]) / 3 if rater.tie else np.array([0.5, 0.5, 0.0])
    mixed: Floats = (1 - rater.lapse) * shares + rater.lapse * even
    return mixed


def pick(shares: Floats, u: ArrayLike) -> NDArray[np.int8]:
    """0 for A, 1 for B, 2 for a tie, from shares (..., 3) and uniform numbers (...)."""
    u = np.asarray(u)
    first = shares[..., 0]
    return ((u >= first).astype(np.int8) + (u >= first + shares[..., 1])).astype(np.int8)


def item_effects(comparison: str) -> Floats:
    """The two standard normal numbers that all raters of a comparison share, from its id."""
    u = uniform(derive(0, "item effects", name=comparison), 2)
    return np.asarray(ndtri(u + 2.0**-54))  # u may be 0, where the quantile is infinite


@dataclass(frozen=True)
class SimulatedJudge:
    """A rater who answers comparisons: the `Judge` of an in-process panel.

    ``gap`` gives a comparison's difference of batch mean rewards, plus over minus.
    """

    gap: Callable[[Comparison], float]
    rater: Rater

    def judge(
        self,
        comparison: Comparison,
        *,
        panelist: str,
        plus_side: Literal["A", "B"],
        key: bytes,
    ) -> Choice:
        """The answer, a pure function of the comparison, the side and the key's bytes."""
        shares = law(
            self.rater, self.gap(comparison), plus_side == "A", item_effects(comparison.id)
        )
        answers: tuple[Choice, ...] = ("A", "B", "tie")
        return answers[int(pick(shares, uniform(key, 1)[0]))]
