"""Simulated raters: how a difference becomes an answer, flaws, as people did.

With x = β · (mean reward of A − mean reward of B) + side bias + verbosity · (words of A − words of
B, mean over rows) and p = σ(x), a rater answers

    P(A) : P(B) : P(tie) = p : 1 − p : ν √(p (1 − p))

Under the logistic link this is Bradley–Terry for ν = 0 and Davidson's model of ties for ν > 0.
With a threshold η instead of ν, a difference too small to notice is a tie: P(A) = σ(x − η),
P(B) = σ(−x − η), and the rest are ties (Rao and Kupper's model under the logistic link). With
probability λ, a lapse, the answer is drawn evenly from the possible answers. A negative β is a
hostile rater. `law` and `pick` take arrays of any shape, so worlds ask thousands at once.

After n votes a tired rater has attention a = exp(−f · n/100), sensitivity β · a and lapses
1 − (1 − λ) · a. By step t, log |β| has changed by drift · t/100 and the taste by turn · t/100.

The public set of human votes on chat answers behind the panel ``mtbench``. A vote
is one of three answers to an *item*: one question, one turn, two chatbots a and b. The model is
Davidson's, with effects that all judges of an item share,

    x = θ_a − θ_b + s·z₁,   log ν = η + t·z₂,   z₁, z₂ ~ N(0, 1),

answer probabilities of `szpo_simulators.panels.raters.law`, and lapses spread evenly over the
three answers. ``data/mtbench.json`` has the model's constants, how many items had how many votes,
and statistics computed from these, but not the votes. experiments/LOG.md names the command that
made the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from math import exp, isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from szpo.errors import RunError, UsageError
from szpo.optim.links import link
from szpo.seeds import derive, uniform
from szpo.types import Answer, Choice, Comparison, Floats

ZERO = 1e-12
"""Differences up to this size are rounding errors of equal means and count as zero."""
_STEEPEST = 50.0
"""Log of the largest factor that drift may put on β; beyond it all answers are certain."""

Difference = Callable[[Comparison], float]
"""A comparison's difference of batch means, plus over minus."""
_SWAPPED: dict[Choice, Choice] = {"A": "B", "B": "A"}


@dataclass(frozen=True, slots=True)
class Rater:
    """One rater's answer probabilities. Biases and spreads are in the link's units (logits)."""

    beta: float = 1.0
    """Sensitivity β: logits per unit of reward; negative for a hostile rater."""
    link: str = "logistic"
    side_bias: float = 0.0
    """Added in favour of the batch on side A."""
    tie: float = 0.0
    """Davidson's ν: for equal batches the share ν / (2 + ν) of the answers are ties."""
    lapse: float = 0.0
    """Share λ of answers that ignore the batches, in [0, 1]."""
    item_spread: float = 0.0
    """Standard deviation of an effect on x that all raters of a comparison share."""
    tie_spread: float = 0.0
    """Standard deviation of an effect on log ν (or log η) that a comparison's raters share."""
    threshold: float = 0.0
    """η, in logits: smaller differences go unnoticed and are ties. Replaces ``tie``."""
    verbosity: float = 0.0
    """Added per word that a batch's answers are longer, mean over rows; below 0: brevity."""
    fatigue: float = 0.0
    """f, by which attention falls: exp(−f · votes given/100)."""
    drift: float = 0.0
    """Change of log |β| per hundred steps."""
    taste: float = 0.0
    """Weight of the panel's other reward in this rater's reward, in [0, 1]."""
    turn: float = 0.0
    """Change of the taste per hundred steps, clipped to [0, 1]."""
    ahead: float = 0.0
    """Spread, in logits, of a rater's error about what an answer that was cut off would become."""
    ring: bool = False
    """Member of a ring: its random numbers depend on the comparison only, so all vote as one."""

    def __post_init__(self) -> None:
        """Check the numbers; raises UsageError."""
        link(self.link)
        sizes = (
            self.tie, self.item_spread, self.tie_spread, self.threshold, self.fatigue, self.ahead,
        )  # fmt: skip
        numbers = (self.beta, self.side_bias, self.verbosity, self.drift, self.turn, *sizes)
        if not all(map(isfinite, numbers)) or min(sizes) < 0:
            raise UsageError(
                "rater: beta and others must be finite; tie, threshold, spreads, fatigue 0 or more"
            )
        if not 0 <= self.lapse <= 1:
            raise UsageError(f"rater: lapse is a share, from 0 to 1; got {self.lapse:g}")
        if not 0 <= self.taste <= 1:
            raise UsageError(f"rater: taste is a share, from 0 to 1; got {self.taste:g}")
        if self.tie and self.threshold:
            raise UsageError("rater: give tie or threshold (jnd in a panel's name), not both")

    @property
    def spec(self) -> dict[str, Any]:
        """The rater as JSON values; ``ahead`` is left out where it is 0, as in older records."""
        return {name: v for name, v in asdict(self).items() if v or name != "ahead"}

    def at(self, given: int, step: int) -> Rater:
        """The rater after ``given`` votes, at a step of the run.

        >>> round(Rater(beta=2.0, fatigue=0.5).at(200, 0).beta, 4)  # 2 · exp(−.5 · 200/100)
        0.7358
        """
        if not (self.fatigue or self.drift or self.turn):
            return self
        attention = exp(-self.fatigue * given / 100)
        drifted = exp(min(self.drift * step / 100, _STEEPEST))
        return replace(
            self,
            beta=self.beta * attention * drifted,
            lapse=1 - (1 - self.lapse) * attention,
            taste=min(max(self.taste + self.turn * step / 100, 0.0), 1.0),
        )


def law(
    rater: Rater,
    gap: ArrayLike,
    plus_on_a: ArrayLike = True,
    items: Floats | None = None,
    longer: ArrayLike = 0.0,
) -> Floats:
    """Probabilities (..., 3) of answering A, B, tie.

    ``gap``: mean reward of plus minus that of minus, any shape. ``items``: standard normal numbers
    (..., 2) of the comparison, of which a positive first one favours plus; None: no item effects.
    ``longer``: words of plus minus words of minus, mean over rows.

    >>> law(Rater(beta=2.0), 0.5, plus_on_a=False).round(3).tolist()
    [0.269, 0.731, 0.0]
    """
    gap = np.asarray(gap, dtype=np.float64)
    if not np.isfinite(gap).all():
        raise RunError("a difference of rewards is not finite; check the reward")
    x = rater.beta * gap + np.multiply(rater.verbosity, longer)
    log_tie: Floats = np.zeros(())
    if items is not None:
        x = x + rater.item_spread * items[..., 0]
        log_tie = rater.tie_spread * items[..., 1]
    x = np.where(plus_on_a, x, -x) + rater.side_bias
    unnoticed = rater.threshold * np.exp(log_tie)
    # The link gives both tails, since 1 − p would lose a small one to rounding.
    chosen = link(rater.link).prob
    p, q = chosen(x - unnoticed), chosen(-x - unnoticed)
    # Rounding can make 1 − p − q negative.
    tie = np.where(
        unnoticed > 0, np.maximum(1 - p - q, 0.0), rater.tie * np.exp(log_tie) * np.sqrt(p * q)
    )
    shares = np.stack([p, q, tie], axis=-1) / (p + q + tie)[..., None]
    ties = rater.tie > 0 or rater.threshold > 0
    even = np.array([1 / 3, 1 / 3, 1 / 3] if ties else [0.5, 0.5, 0.0])
    return np.asarray((1 - rater.lapse) * shares + rater.lapse * even)


def pick(shares: Floats, u: ArrayLike) -> NDArray[np.int8]:
    """0 for A, 1 for B, 2 for a tie, from probabilities (..., 3) and uniform numbers (...)."""
    u = np.asarray(u)
    first = shares[..., 0]
    return ((u >= first).astype(np.int8) + (u >= first + shares[..., 1])).astype(np.int8)


def errors_ahead(comparison: Comparison, panelist: str) -> float:
    """A rater's errors about the worth of going on: N(0, 1) for each answer that was cut off.

    Plus less minus, mean over rows. They belong to rater and text, so that a rater errs alike each
    time, where votes by β err anew: values, not choices, are uncertain.
    """

    def error(answer: Answer) -> float:
        if answer.end != "length":
            return 0.0
        u = uniform(derive(0, "worth of going on", name=f"{panelist}\n{answer.text}"), 1)[0]
        return float(ndtri(u + 2.0**-54))

    return sum(error(r.plus) - error(r.minus) for r in comparison.rows) / len(comparison.rows)


def item_effects(comparison: str) -> Floats:
    """The two standard normal numbers that all raters of the comparison with this id share."""
    u = uniform(derive(0, "item effects", name=comparison), 2)
    return np.asarray(ndtri(u + 2.0**-54))  # u may be 0, where the quantile is infinite


@dataclass(frozen=True)
class SimulatedJudge:
    """A rater who answers comparisons: the `Judge` of an in-process panel.

    Differences: ``gap`` of the panel's reward, ``other`` of its other reward, ``longer`` of words.
    ``same``: where the reward shows none, the answer is a tie.
    """

    gap: Difference
    rater: Rater
    other: Difference | None = None
    longer: Difference | None = None
    given: int = 0
    """Votes given before the step."""
    same: bool = False

    @property
    def tires(self) -> bool:
        """Whether the answers depend on the number of votes given."""
        return self.rater.fatigue > 0

    def after(self, given: int) -> SimulatedJudge:
        """The same judge after ``given`` votes."""
        return replace(self, given=given)

    def judge(
        self,
        comparison: Comparison,
        *,
        panelist: str,
        plus_side: Literal["A", "B"],
        key: bytes,
    ) -> Choice:
        """The answer, a pure function of comparison, side, number of votes given and key."""
        now = self.rater.at(self.given, comparison.step)
        gap, longer = self.gap(comparison), 0.0
        if now.taste and self.other is not None:
            gap = (1 - now.taste) * gap + now.taste * self.other(comparison)
        if now.verbosity and self.longer is not None:
            longer = self.longer(comparison)
        alike = abs(gap) <= ZERO
        if now.ahead and now.beta:
            gap += now.ahead / abs(now.beta) * errors_ahead(comparison, panelist)
        effects = item_effects(comparison.id)
        answers: tuple[Choice, ...] = ("A", "B", "tie")
        if now.ring:  # computed as if plus were on A, so that all members choose the same batch
            u = uniform(derive(0, "ring", name=comparison.id), 1)[0]
            agreed = answers[int(pick(law(now, gap, True, effects, longer), u))]
            return agreed if plus_side == "A" else _SWAPPED.get(agreed, agreed)
        shares = law(now, gap, plus_side == "A", effects, longer)
        if alike and self.same and now.beta:  # but for those who never look
            shares = (1 - now.lapse) * np.array([0.0, 0.0, 1.0]) + now.lapse / 3
        return answers[int(pick(shares, uniform(key, 1)[0]))]


@cache
def load_mtbench() -> dict[str, Any]:
    """The content of ``data/mtbench.json``, with ``constants`` by part of the votes.

    Parts are ``preset``, the ``training`` half and ``close`` pairs. Each has the strengths θ by
    chatbot (their mean is 0), η, lapses, and the item spreads s and t.
    """
    file = resources.files("szpo_simulators") / "data" / "mtbench.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
