"""Panels of simulated raters, and the calibration that makes them as reliable as people.

The reference panel ``bt70`` has P raters, the logistic link, no lapses, no side bias, and one β.
This β is fitted per base model, reward and D, so that two raters agree on 70 % of comparisons of
two batches of D answers that differ in reward, both drawn from the base policy for the same
prompts. The other panels are harder: ``half-beta`` (β / 2), ``lapse10`` (10 % lapses), ``hostile``
and ``hostile2`` (the last member or two prefer the worse batch), ``mtbench`` (ties, lapses and
item effects fitted to a public set of human votes on chat answers, at the β of ``bt70``),
``labels70`` (a rater agrees with the *truth* on 70 % of such comparisons, two raters on fewer) and
``close`` (the model of ``mtbench`` fitted to chatbots as close as perturbed policies, at the β at
which the better batch wins 55 % of the votes that are no ties). `szpo_simulators.panels.raters`
reads the changes that may follow a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from math import exp
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.optim.links import link
from szpo.seeds import derive, uniform
from szpo.types import Answer, Comparison, Floats, Prompt
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.panel_factory import Logprob, StartingPolicy, sharpness
from szpo.voting.service import VoteService
from szpo_simulators.panels import raters
from szpo_simulators.panels.raters import PRESETS, ZERO, Rater, SimulatedJudge, members, read_flaws
from szpo_simulators.panels.text_rewards import (
    Reward,
    difference,
    matrix,
    parse,
    words_difference,
)

PANELS: Final = tuple(PRESETS)
MAX_TOLD: Final = 60
"""Longest text of a reward in a sentence, in characters; the record has the whole text."""
FORM: Final = ("feature:length", "fluency")
"""Rewards whose sum, each in spreads of the base's answers, decides under ``equal=form``."""
PAIRS = 16_384
"""Pairs of batches drawn to fit β, and drawn again to measure the resulting agreement."""


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
    shown: bool = False
    """Fitted to all pairs shown, also those that do not differ."""

    @property
    def spec(self) -> dict[str, Any]:
        """The calibration as JSON values, without what is as usual."""
        values = asdict(self)
        left = ["fitted", "reached"] * (self.reached is None) + ["shown"] * (not self.shown)
        return {name: value for name, value in values.items() if name not in left}

    def __str__(self) -> str:
        more = "" if self.reached is None else f", {self.fitted} {self.reached:.3f}"
        pairs = "all pairs shown" if self.shown else "pairs that differ"
        return (
            f"sharpness beta {self.beta:.3g}, at which two panelists agree on "
            f"{self.agreement:.1%} of {pairs}{more}"
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
    return raters.favourite(rater, sizes)


Measure = Callable[[Rater, Floats], float]
MEASURES: Final[Mapping[str, Measure]] = {"agreement": agreement, "labels": labels, "wins": wins}
"""Measures that β can be fitted to: shares that rise with β from one half."""
QUANTILES: Final = 200
TARGETS: Final[Mapping[str, tuple[str, float]]] = {
    "labels70": ("labels", 0.70),
    "close": ("wins", raters.load_mtbench()["close"]["favourite"]),
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
    among: Callable[[bytes], NDArray[np.bool_]] | None = None,
) -> Calibration:
    """The β at which a measure reaches its target on comparisons whose batches differ.

    Args:
        rewards: rewards (prompts, samples) of the base policy's answers, two samples or more.
        D: rows of a batch in the run.
        seed: seed of the pairs of batches.
        target: value of the measure over non-zero differences, in (½, 1).
        measure: a name of `MEASURES`.
        rater: the rater whose β is fitted: its link, and for ``wins`` its ties and lapses.
        among: which comparisons count, by the key that draws them; None: those that differ.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or rewards.shape[1] < 2 or D < 1:
        raise UsageError(f"calibration needs prompts × 2 or more samples; got {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise UsageError("calibration: panel.reward is not finite for a base answer; give another")
    if not 0.5 < target < 1:
        raise UsageError(f"calibration: target {target:g} must be between 0.5 and 1")

    def draw(purpose: str) -> tuple[Floats, Floats]:
        key = derive(seed, purpose)
        every = batch_gaps(rewards, D, key)
        return every, every[every != 0 if among is None else among(key)]

    drawn, gaps = draw("calibration")
    if not gaps.any():
        raise UsageError("calibration: base answers never differ in this reward; give another")
    scale = float(np.sqrt(np.mean(gaps**2)))
    base, measured = rater or Rater(), MEASURES[measure]
    # The measure rises with β from ½ at 0: bisect log β.
    low, high = np.log(1e-6 / scale), np.log(1e6 / scale)
    if measured(replace(base, beta=exp(high)), gaps) < target:
        even = f", as {np.mean(gaps == 0):.0%} of its pairs do not differ" * (not gaps.all())
        raise UsageError(
            f"calibration: no beta brings {measure} to {target:.0%} for this panel{even}"
        )
    for _ in range(60):
        middle = (low + high) / 2
        if measured(replace(base, beta=exp(middle)), gaps) < target:
            low = middle
        else:
            high = middle
    beta = float(f"{exp((low + high) / 2):.6g}")  # short enough to print, store and retype
    _, fresh = draw("calibration check")
    shown = fresh if len(fresh) else gaps
    final = replace(base, beta=beta)
    return Calibration(
        beta=beta,
        agreement=agreement(final, shown),
        zero_share=1 - np.count_nonzero(drawn) / len(drawn),
        fitted=measure,
        reached=None if measure == "agreement" else measured(final, shown),
        shown=among is not None,
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
    equal: str = ""
    """What decides where the reward shows no difference: a coin if "", "same", or a reward."""

    @property
    def spec(self) -> dict[str, Any]:
        """The panel as JSON values, for the run's record."""
        return {
            "panel": self.name,
            "reward": self.reward,
            "rows": self.rows,
            "raters": [rater.spec for rater in self.raters],
            "calibration": self.calibration.spec if self.calibration else None,
            **({"other": self.other} if self.other else {}),
            **({"equal": self.equal} if self.equal else {}),
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
    equal: str = "",
    start: StartingPolicy | None = None,
) -> SimulatedPanel:
    """Build a panel by name; β is fitted to the base policy's answers unless it is given.

    Args:
        name: one of `PANELS`, or one with changes: ``bt70+side=.3+hostile=1``.
        reward: the members' reward, as `szpo_simulators.panels.text_rewards.parse` reads it.
        size: P, the number of members.
        rows: D of the run, at which β is fitted.
        beta: the preset's β from an earlier calibration with the same base, reward and D.
        equal: `SimulatedPanel.equal` on record.
        start: its answers are used to fit β if ``beta`` is None; its log-probabilities are used
            by rewards with ``fluency``.
    """
    start = start or StartingPolicy()
    preset, chosen = read_flaws(name)
    liked = parse(reward, logprob=start.logprob)
    fitted = None
    equal = equal or ("same" if chosen.equal == "same" else "")
    if beta is None or (chosen.equal == "form" and not equal):
        if start.answers is None:
            what = "give beta, or" if beta is None else "equal=form needs"
            raise UsageError(f"panel {name}: {what} a start with answers to fit it to")
        prompts, drawn = start.answers()
        values = matrix(liked, prompts, drawn)
        measure, target = TARGETS.get(preset, ("agreement", 0.70))
        fit = partial(
            calibrate, D=rows, seed=0, target=target, measure=measure,
            rater=members(preset, 1.0, chosen.odd + 1)[0],
        )  # fmt: skip
        if beta is None:
            differ = _texts_differ(drawn, rows) if chosen.equal == "coin" else None
            fitted = fit(values, among=differ)
            beta = fitted.beta
        if chosen.equal == "form":
            parts = [matrix(parse(term, logprob=start.logprob), prompts, drawn) for term in FORM]
            spreads = [max(float((part - part.mean(1)[:, None]).std()), ZERO) for part in parts]
            form = np.sum([part / size for part, size in zip(parts, spreads, strict=True)], axis=0)

            def alike(key: bytes) -> NDArray[np.bool_]:
                apart = batch_gaps(form, rows, key) != 0
                found = apart & (batch_gaps(values, rows, key) == 0)
                return np.asarray(found if found.any() else apart)

            strength = fit(form, among=alike).beta / beta
            weights = [
                np.format_float_positional(strength / size, 6, fractional=False)
                for size in spreads
            ]
            equal = "+".join(f"{w}*{term}" for w, term in zip(weights, FORM, strict=True))
    raters = members(name, beta, size)
    other = parse(chosen.other, logprob=start.logprob) if chosen.other else None
    made = judges(liked, raters, other, _form(equal, start.logprob), same=equal == "same")
    return SimulatedPanel(name, reward, raters, rows, made, fitted, chosen.other, equal)


def _texts_differ(
    drawn: Sequence[Sequence[Answer]], rows: int
) -> Callable[[bytes], NDArray[np.bool_]]:
    """Which comparisons have different texts, so that they are shown."""
    texts = np.array([[answer.text for answer in row] for row in drawn], dtype=object)
    place = np.unique(texts.astype(str), return_inverse=True)[1].reshape(texts.shape)
    number = uniform(derive(0, "texts"), texts.size)[place]
    return lambda key: np.asarray(batch_gaps(number, rows, key) != 0)


def _form(equal: str, logprob: Logprob | None) -> Reward | None:
    return None if equal in ("", "same") else parse(equal, logprob=logprob)


def judges(
    reward: Reward,
    raters: Sequence[Rater],
    other: Reward | None = None,
    form: Reward | None = None,
    *,
    same: bool = False,
) -> tuple[SimulatedJudge, ...]:
    """Make one judge per rater; they share the computed reward differences.

    Where the reward shows no difference, ``form`` takes its place, or the answer is ``same``.
    """

    @lru_cache(maxsize=1024)
    def gap(comparison: Comparison) -> float:
        return difference(reward, comparison)

    @lru_cache(maxsize=1024)
    def second(comparison: Comparison) -> float:
        return 0.0 if other is None else difference(other, comparison)

    @lru_cache(maxsize=1024)
    def third(comparison: Comparison) -> float:
        return 0.0 if form is None else difference(form, comparison)

    longer = lru_cache(maxsize=1024)(words_difference)
    instead = None if form is None else third
    return tuple(
        SimulatedJudge(gap, rater, second, longer, form=instead, same=same) for rater in raters
    )


@dataclass(frozen=True)
class Maker:
    """The factory of the panel ``name``, an entry point of `szpo.evaluators`."""

    name: str

    def check(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Check the panel's line, its rewards and its size before a model is loaded."""

        def nothing(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
            return np.zeros(len(answers))

        _, chosen = read_flaws(self.name)
        parse(config.panel.reward, logprob=nothing)
        if chosen.other:
            parse(chosen.other, logprob=nothing)
        members(self.name, 1.0, config.panel.size)

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
            rows=config.optimizer.D,
            beta=sharpness(config, recorded),
            equal=str((recorded or {}).get("equal", "")),
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
