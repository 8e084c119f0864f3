"""Panels of simulated raters, and the calibration that makes them as reliable as people.

The reference panel ``bt70``: P raters, logistic link, no lapse, no side bias, and one β, fitted
per base model, reward and D so that two raters agree on 70 % of the questions as they are asked:
comparisons of two batches of D answers, both drawn from the base policy for the same prompts.
Beside it stand harder ones: ``half-beta`` (β / 2), ``lapse10`` (10 % lapses), ``hostile`` and
``hostile2`` (the last member, the last two prefer the worse batch) and ``mtbench`` (ties, lapses
and item effects fitted to a public set of human votes on chat answers, at the β of ``bt70``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import exp
from typing import Any

import numpy as np

from szpo.errors import UsageError
from szpo.links import link
from szpo.seeds import derive, uniform
from szpo.types import Answer, Comparison, Floats, Prompt
from szpo_simulators.oracles import Rater, SimulatedJudge
from szpo_simulators.rewards import Logprob, Reward, difference, matrix, parse

PANELS = ("bt70", "half-beta", "lapse10", "hostile", "hostile2", "mtbench")
HOSTILE = {"hostile": 1, "hostile2": 2}
"""How many members, the last ones, always want the opposite."""
PAIRS = 16_384
"""Pairs of batches drawn to fit β, and again to measure the agreement it gives."""
ZERO = 1e-12
"""Differences up to this are rounding of equal means, and count as zero."""

BaseAnswers = Callable[[], tuple[Sequence[Prompt], Sequence[Sequence[Answer]]]]
"""Prompts, and for each of them the same number (two or more) of the base policy's answers."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """β with the agreement it gives on fresh pairs, and the share of pairs without difference."""

    beta: float
    agreement: float
    """Mean of p² + (1 − p)² over pairs that differ: how often two raters answer alike."""
    zero_share: float

    def __str__(self) -> str:
        return (
            f"beta {self.beta:.3g}, agreement {self.agreement:.3f}, "
            f"zero share {self.zero_share:.3f}"
        )


def agreement(rater: Rater, gaps: Floats) -> float:
    """How often two raters of this law answer alike on comparisons with these differences.

    Lapses, ties and item effects are left out: this is the β part alone, as the fit needs it.

    >>> agreement(Rater(beta=1.0), np.array([0.0])), agreement(Rater(beta=1.0), np.array([100.0]))
    (0.5, 1.0)
    """
    p = link(rater.link).prob(rater.beta * gaps)
    return float(np.mean(p**2 + (1 - p) ** 2))


def batch_gaps(rewards: Floats, rows: int, key: bytes, pairs: int = PAIRS) -> Floats:
    """Differences (pairs,) of the mean reward of two batches for the same prompts.

    Args:
        rewards: (prompts, samples) of the base policy; samples of a prompt are exchangeable.
        rows: D; prompts of a batch are distinct while there are enough of them.
        key: names the draw.
        pairs: how many.
    """
    prompts, samples = rewards.shape
    gaps = np.zeros(pairs)
    chunk = max(1, 2**22 // max(prompts, rows))  # bounds the memory of the draw
    for start in range(0, pairs, chunk):
        n = min(chunk, pairs - start)
        if rows <= prompts:
            ranks = uniform(key, n * prompts, start * prompts).reshape(n, prompts)
            chosen = np.argpartition(ranks, rows - 1, axis=1)[:, :rows]
        else:
            u = uniform(key, n * rows, start * rows).reshape(n, rows)
            chosen = (u * prompts).astype(np.int64)
        key_samples = derive(0, "samples", name=key.hex())
        u0, u1 = uniform(key_samples, n * rows * 2, start * rows * 2).reshape(2, n, rows)
        first = (u0 * samples).astype(np.int64)
        second = (first + 1 + (u1 * (samples - 1)).astype(np.int64)) % samples
        difference = rewards[chosen, first] - rewards[chosen, second]
        gaps[start : start + n] = difference.mean(axis=1)
    gaps[np.abs(gaps) <= ZERO] = 0.0
    return gaps


def calibrate(
    rewards: Floats, D: int, seed: int, target: float = 0.70, *, link: str = "logistic"
) -> Calibration:
    """The β at which two raters agree on ``target`` of the questions that differ at all.

    Args:
        rewards: (prompts, samples) rewards of answers of the base policy, two samples or more.
        D: rows of a batch in the run.
        seed: names the draw of pairs.
        target: mean of p² + (1 − p)² over non-zero differences, in (½, 1).
        link: of the raters.

    Raises:
        UsageError: the shape does not fit, or the base policy's answers never differ in reward.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or rewards.shape[1] < 2 or D < 1:
        raise UsageError(f"calibration needs prompts × 2 or more samples; got {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise UsageError("calibration: a reward of the base answers is not finite")
    if not 0.5 < target < 1:
        raise UsageError(f"calibration: two raters cannot agree on {target:.0%} by design")
    drawn = batch_gaps(rewards, D, derive(seed, "calibration"))
    gaps = drawn[drawn != 0]
    if not len(gaps):
        raise UsageError("calibration: base answers never differ in this reward; choose another")
    scale = float(np.sqrt(np.mean(gaps**2)))
    # Agreement rises with β, from ½ at 0 to 1 far out: halve the interval of log β.
    low, high = np.log(1e-6 / scale), np.log(1e6 / scale)
    for _ in range(60):
        middle = (low + high) / 2
        if agreement(Rater(beta=exp(middle), link=link), gaps) < target:
            low = middle
        else:
            high = middle
    beta = float(f"{exp((low + high) / 2):.6g}")  # short enough to print, store and retype
    fresh = batch_gaps(rewards, D, derive(seed, "calibration check"))
    fresh = fresh[fresh != 0]
    return Calibration(
        beta=beta,
        agreement=agreement(Rater(beta=beta, link=link), fresh if len(fresh) else gaps),
        zero_share=1 - len(gaps) / len(drawn),
    )


@dataclass(frozen=True)
class Panel:
    """Raters with a common taste, one judge each, and the facts from which to build them again."""

    name: str
    reward: str
    raters: tuple[Rater, ...]
    rows: int
    judges: tuple[SimulatedJudge, ...]
    calibration: Calibration | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The panel as JSON values, for the run's record; `from_spec` reads it back."""
        return {
            "panel": self.name,
            "reward": self.reward,
            "rows": self.rows,
            "raters": [asdict(rater) for rater in self.raters],
            "calibration": asdict(self.calibration) if self.calibration else None,
        }

    def __str__(self) -> str:
        fitted = str(self.calibration or f"beta {self.raters[0].beta:.3g}, given")
        return f"panel {self.name} of {len(self.raters)}, {self.reward}, {fitted}"


def members(name: str, beta: float, size: int) -> tuple[Rater, ...]:
    """The raters of a panel by name, given the β of ``bt70``.

    Raises:
        UsageError: no such panel, or too few members for it.

    >>> [rater.beta for rater in members("hostile2", 8.0, 5)]
    [8.0, 8.0, 8.0, -8.0, -8.0]
    """
    if name not in PANELS:
        raise UsageError(f"no simulated panel {name!r}; there are {', '.join(PANELS)}")
    hostile = HOSTILE.get(name, 0)
    if size < hostile + 1:
        raise UsageError(f"a panel {name} of {size} has too few members")
    plain = Rater(beta=beta)
    same = {
        "half-beta": Rater(beta=beta / 2),
        "lapse10": Rater(beta=beta, lapse=0.10),
        # Davidson with item effects, maximum likelihood on 3,355 human votes of 65 judges.
        "mtbench": Rater(beta=beta, tie=exp(-0.15), lapse=0.081, item_spread=2.6, tie_spread=2.0),
    }.get(name, plain)
    return (same,) * (size - hostile) + (replace(plain, beta=-beta),) * hostile


def build(
    name: str,
    *,
    reward: str,
    size: int = 5,
    rows: int = 8,
    seed: int = 0,
    answers: BaseAnswers | None = None,
    beta: float | None = None,
    logprob: Logprob | None = None,
) -> Panel:
    """A panel by name; β is fitted to the base policy's answers unless it is given.

    Args:
        name: one of `PANELS`.
        reward: what its members like, as `szpo_simulators.rewards.parse` reads it.
        size: P, the number of members.
        rows: D of the run, at which β is fitted.
        seed: the run's root seed.
        answers: gives base answers; called only where β is not given.
        beta: of ``bt70``, from an earlier calibration of the same base, reward and D.
        logprob: base log-probabilities, for rewards with ``fluency``.

    Raises:
        UsageError: the name or the reward is unknown, or neither ``answers`` nor β is given.
    """
    liked = parse(reward, logprob=logprob)
    fitted = None
    if beta is None:
        if answers is None:
            raise UsageError(f"panel {name}: needs base answers to fit beta, or a beta")
        prompts, drawn = answers()
        fitted = calibrate(matrix(liked, prompts, drawn), rows, seed)
        beta = fitted.beta
    raters = members(name, beta, size)
    return Panel(name, reward, raters, rows, judges(liked, raters), fitted)


def judges(reward: Reward, raters: Sequence[Rater]) -> tuple[SimulatedJudge, ...]:
    """One judge per rater, sharing what they computed about a comparison."""

    @lru_cache(maxsize=1024)
    def gap(comparison: Comparison) -> float:
        return difference(reward, comparison)

    return tuple(SimulatedJudge(gap, rater) for rater in raters)


def from_spec(spec: Mapping[str, Any], *, logprob: Logprob | None = None) -> Panel:
    """The panel that `Panel.spec` recorded, with no model and no new fit.

    Raises:
        UsageError: the record is not a simulated panel's.
    """
    try:
        raters = tuple(Rater(**rater) for rater in spec["raters"])
        name, reward, rows = str(spec["panel"]), str(spec["reward"]), int(spec["rows"])
        fitted = Calibration(**spec["calibration"]) if spec.get("calibration") else None
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"this run has no simulated panel on record ({error})") from error
    liked = parse(reward, logprob=logprob)
    return Panel(name, reward, raters, rows, judges(liked, raters), fitted)


@dataclass(frozen=True)
class Maker:
    """A panel by name, as an entry point of `szpo.evaluators`: called with the rest of `build`."""

    name: str

    def __call__(self, **options: Any) -> Panel:
        """The panel."""
        return build(self.name, **options)

    def check(self, *, reward: str, size: int) -> None:
        """Refuse what can be refused before a model is loaded.

        Raises:
            UsageError: no such reward, or too few members.
        """
        parse(reward, logprob=lambda prompts, answers: np.zeros(len(answers)))
        members(self.name, 1.0, size)


bt70 = Maker("bt70")
half_beta = Maker("half-beta")
lapse10 = Maker("lapse10")
hostile = Maker("hostile")
hostile2 = Maker("hostile2")
mtbench = Maker("mtbench")
