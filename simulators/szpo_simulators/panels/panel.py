"""Panels of simulated raters, and the calibration that makes them as reliable as people.

The reference panel ``bt70`` has P raters, the logistic link, no lapses, no side bias, and one β.
This β is fitted per base model, reward and D, so that two raters agree on 70 % of comparisons of
two batches of D answers that differ in reward, both drawn from the base policy for the same
prompts. The other panels are harder: ``half-beta`` (β / 2), ``lapse10`` (10 % lapses), ``hostile``
and ``hostile2`` (the last member or two prefer the worse batch), ``mtbench`` (ties, lapses and
item effects fitted to a public set of human votes on chat answers, at the β of ``bt70``),
``labels70`` (a rater agrees with the *truth* on 70 % of such comparisons, two raters on fewer) and
``close`` (the model of ``mtbench`` fitted to chatbots as close as perturbed policies, at the β at
which the better batch wins 55 % of the votes that are no ties). `szpo_simulators.panels.flaws`
reads the changes that may follow a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import exp
from typing import Any, Final

import numpy as np

from szpo.aggregation.links import link
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.evaluators.panel_evaluator import PanelEvaluator
from szpo.evaluators.panel_factory import Logprob, StartingPolicy, sharpness
from szpo.seeds import derive, uniform
from szpo.types import Answer, Comparison, Floats, Prompt
from szpo.voting.service import VoteService
from szpo_simulators.panels import flaws, mtbench
from szpo_simulators.panels.raters import Rater, SimulatedJudge
from szpo_simulators.panels.text_rewards import (
    Reward,
    difference,
    matrix,
    parse,
    words_difference,
)

PANELS: Final = tuple(flaws.PRESETS)
MAX_TOLD: Final = 60
"""Longest text of a reward in a sentence, in characters; the record has the whole text."""
PAIRS = 16_384
"""Pairs of batches drawn to fit β, and drawn again to measure the resulting agreement."""
ZERO = 1e-12
"""Differences up to this size are rounding errors of equal means and count as zero."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted β, its agreement on fresh pairs, and the share of pairs without difference."""

    beta: float
    agreement: float
    """Mean of p² + (1 − p)² over pairs that differ: how often two raters agree."""
    zero_share: float
    fitted: str = "agreement"
    """The measure that β was fitted to, a name of `MEASURES`."""
    reached: float | None = None
    """Value of that measure on fresh pairs; None if the measure is the agreement."""

    @property
    def spec(self) -> dict[str, Any]:
        """The calibration as JSON values; `fitted` and `reached` are left out for agreement."""
        values = asdict(self)
        return values if self.reached is not None else {k: values[k] for k in list(values)[:3]}

    def __str__(self) -> str:
        more = "" if self.reached is None else f", {self.fitted} {self.reached:.3f}"
        return (
            f"sharpness beta {self.beta:.3g}, at which two panelists agree on "
            f"{self.agreement:.1%} of pairs that differ{more}"
        )


def agreement(rater: Rater, gaps: Floats) -> float:
    """How often two such raters agree on comparisons with these differences (n,).

    Lapses, ties and item effects are ignored, since the fit is of β alone.

    >>> agreement(Rater(beta=1.0), np.array([0.0])), agreement(Rater(beta=1.0), np.array([100.0]))
    (0.5, 1.0)
    """
    p = link(rater.link).prob(rater.beta * gaps)
    return float(np.mean(p**2 + (1 - p) ** 2))


def labels(rater: Rater, gaps: Floats) -> float:
    """How often such a rater prefers the truly better batch; only β and the link count.

    >>> labels(Rater(beta=1.0), np.array([0.0])), labels(Rater(beta=1.0), np.array([-100.0]))
    (0.5, 1.0)
    """
    return float(np.mean(link(rater.link).prob(abs(rater.beta) * np.abs(gaps))))


def wins(rater: Rater, gaps: Floats) -> float:
    """How often the better batch wins a vote that is no tie, over `QUANTILES` of many gaps."""
    sizes = np.abs(gaps)
    if len(sizes) > QUANTILES:
        sizes = np.quantile(sizes, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return mtbench.favourite(rater, sizes)


Measure = Callable[[Rater, Floats], float]
MEASURES: Final[Mapping[str, Measure]] = {"agreement": agreement, "labels": labels, "wins": wins}
"""Measures that β can be fitted to: shares that rise with β from one half."""
QUANTILES: Final = 200
TARGETS: Final[Mapping[str, tuple[str, float]]] = {
    "labels70": ("labels", 0.70),
    "close": ("wins", mtbench.load_committed()["close"]["favourite"]),
}
"""(measure, target) of a preset's β; other presets use two raters' agreement of 70 %."""


def batch_gaps(rewards: Floats, rows: int, key: bytes, pairs: int = PAIRS) -> Floats:
    """Differences (pairs,) between the mean rewards of two batches for the same prompts.

    Args:
        rewards: rewards (prompts, samples) of the base policy's answers.
        rows: D; a batch's prompts are distinct if there are enough prompts.
        key: key of the random numbers.
        pairs: number of pairs of batches.
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
    rewards: Floats,
    D: int,
    seed: int,
    target: float = 0.70,
    *,
    measure: str = "agreement",
    rater: Rater | None = None,
) -> Calibration:
    """The β at which a measure reaches its target on comparisons whose batches differ.

    Args:
        rewards: rewards (prompts, samples) of the base policy's answers, two samples or more.
        D: rows of a batch in the run.
        seed: seed of the pairs of batches.
        target: value of the measure over non-zero differences, in (½, 1).
        measure: a name of `MEASURES`.
        rater: the rater whose β is fitted: its link, and for ``wins`` its ties and lapses.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or rewards.shape[1] < 2 or D < 1:
        raise UsageError(f"calibration needs prompts × 2 or more samples; got {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise UsageError("calibration: panel.reward is not finite for a base answer; give another")
    if not 0.5 < target < 1:
        raise UsageError(f"calibration: target {target:g} must be between 0.5 and 1")
    drawn = batch_gaps(rewards, D, derive(seed, "calibration"))
    gaps = drawn[drawn != 0]
    if not len(gaps):
        raise UsageError("calibration: base answers never differ in this reward; give another")
    scale = float(np.sqrt(np.mean(gaps**2)))
    base, measured = rater or Rater(), MEASURES[measure]
    # The measure rises with β from ½ at 0: bisect log β.
    low, high = np.log(1e-6 / scale), np.log(1e6 / scale)
    if measured(replace(base, beta=exp(high)), gaps) < target:
        raise UsageError(f"calibration: no beta brings {measure} to {target:.0%} for this panel")
    for _ in range(60):
        middle = (low + high) / 2
        if measured(replace(base, beta=exp(middle)), gaps) < target:
            low = middle
        else:
            high = middle
    beta = float(f"{exp((low + high) / 2):.6g}")  # short enough to print, store and retype
    fresh = batch_gaps(rewards, D, derive(seed, "calibration check"))
    fresh = fresh[fresh != 0]
    shown = fresh if len(fresh) else gaps
    final = replace(base, beta=beta)
    return Calibration(
        beta=beta,
        agreement=agreement(final, shown),
        zero_share=1 - len(gaps) / len(drawn),
        fitted=measure,
        reached=None if measure == "agreement" else measured(final, shown),
    )


@dataclass(frozen=True)
class SimulatedPanel:
    """A panel of simulated raters, one judge for each, and the facts needed to rebuild it."""

    name: str
    reward: str
    raters: tuple[Rater, ...]
    rows: int
    judges: tuple[SimulatedJudge, ...]
    calibration: Calibration | None = None
    other: str = ""
    """The reward of members with the other taste; "" for none."""

    @property
    def spec(self) -> dict[str, Any]:
        """The panel as JSON values, for the run's record; `from_spec` reads it back."""
        return {
            "panel": self.name,
            "reward": self.reward,
            "rows": self.rows,
            "raters": [asdict(rater) for rater in self.raters],
            "calibration": self.calibration.spec if self.calibration else None,
            **({"other": self.other} if self.other else {}),
        }

    def evaluator(self, service: VoteService) -> PanelEvaluator:
        """The panel at a vote service."""
        return PanelEvaluator(service, self.judges)

    def __str__(self) -> str:
        fitted = str(self.calibration or f"sharpness beta {self.raters[0].beta:.3g}, given")
        n, reward = len(self.raters), self.reward
        if len(reward) > MAX_TOLD:
            reward = f"{reward[: MAX_TOLD - 1]}…"
        return f"panel {self.name}: {n} simulated panelists, reward {reward}, {fitted}"


def build(
    name: str,
    *,
    reward: str,
    size: int = 5,
    rows: int = 8,
    beta: float | None = None,
    start: StartingPolicy | None = None,
) -> SimulatedPanel:
    """Build a panel by name; β is fitted to the base policy's answers unless it is given.

    Args:
        name: one of `PANELS`, or one with changes: ``bt70+side=.3+hostile=1``.
        reward: the members' reward, as `szpo_simulators.panels.text_rewards.parse` reads it.
        size: P, the number of members.
        rows: D of the run, at which β is fitted.
        beta: the preset's β from an earlier calibration with the same base, reward and D.
        start: its answers are used to fit β if ``beta`` is None; its log-probabilities are used
            by rewards with ``fluency``.
    """
    start = start or StartingPolicy()
    preset, chosen = flaws.read(name)
    liked = parse(reward, logprob=start.logprob)
    fitted = None
    if beta is None:
        if start.answers is None:
            raise UsageError(f"panel {name}: give beta, or a start with answers to fit it to")
        prompts, drawn = start.answers()
        measure, target = TARGETS.get(preset, ("agreement", 0.70))
        fitted = calibrate(
            matrix(liked, prompts, drawn), rows, 0, target, measure=measure,
            rater=flaws.members(preset, 1.0, chosen.odd + 1)[0],
        )  # fmt: skip
        beta = fitted.beta
    raters = flaws.members(name, beta, size)
    other = parse(chosen.other, logprob=start.logprob) if chosen.other else None
    return SimulatedPanel(
        name, reward, raters, rows, judges(liked, raters, other), fitted, chosen.other
    )


def judges(
    reward: Reward, raters: Sequence[Rater], other: Reward | None = None
) -> tuple[SimulatedJudge, ...]:
    """Make one judge per rater; they share the computed reward differences."""

    @lru_cache(maxsize=1024)
    def gap(comparison: Comparison) -> float:
        return difference(reward, comparison)

    @lru_cache(maxsize=1024)
    def second(comparison: Comparison) -> float:
        return 0.0 if other is None else difference(other, comparison)

    longer = lru_cache(maxsize=1024)(words_difference)
    return tuple(SimulatedJudge(gap, rater, second, longer) for rater in raters)


def from_spec(spec: Mapping[str, Any], *, logprob: Logprob | None = None) -> SimulatedPanel:
    """The panel that `SimulatedPanel.spec` recorded, without a model and without a new fit."""
    try:
        raters = tuple(Rater(**rater) for rater in spec["raters"])
        name, reward, rows = str(spec["panel"]), str(spec["reward"]), int(spec["rows"])
        fitted = Calibration(**spec["calibration"]) if spec.get("calibration") else None
        other = str(spec.get("other", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"this run has no simulated panel on record ({error})") from error
    liked, second = (parse(text, logprob=logprob) if text else None for text in (reward, other))
    if liked is None:
        raise UsageError("this run has no simulated panel on record (its reward is empty)")
    return SimulatedPanel(name, reward, raters, rows, judges(liked, raters, second), fitted, other)


@dataclass(frozen=True)
class Maker:
    """The factory of the panel ``name``, an entry point of `szpo.evaluators`."""

    name: str

    def check(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Check the panel's line, its rewards and its size before a model is loaded."""

        def nothing(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
            return np.zeros(len(answers))

        _, chosen = flaws.read(self.name)
        parse(config.panel.reward, logprob=nothing)
        if chosen.other:
            parse(chosen.other, logprob=nothing)
        flaws.members(self.name, 1.0, config.panel.size)

    def with_changes(self, changes: str) -> Maker:
        """The factory of this panel with changes, for example ``side=.3+hostile=1``."""
        return Maker(f"{self.name}+{changes}")

    def build(
        self, config: Config, start: StartingPolicy, recorded: Mapping[str, Any] | None = None
    ) -> SimulatedPanel:
        """The panel of a run; β comes from the settings or the record, or is fitted."""
        return build(
            self.name,
            reward=config.panel.reward,
            size=config.panel.size,
            rows=config.optimizer.rows,
            beta=sharpness(config, recorded),
            start=start,
        )


bt70 = Maker("bt70")
half_beta = Maker("half-beta")
lapse10 = Maker("lapse10")
hostile = Maker("hostile")
hostile2 = Maker("hostile2")
mtbench_panel = Maker("mtbench")
labels70 = Maker("labels70")
close = Maker("close")
