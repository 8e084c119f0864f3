"""Panels of simulated raters, and the calibration that makes them as reliable as people.

The reference panel ``bt70`` has P raters, the logistic link, no lapses, no side bias, and one β.
This β is fitted per base model, reward and D, so that two raters agree on 70 % of comparisons of
two batches of D answers that differ in reward, both drawn from the base policy for the same
prompts. The other panels are harder: ``half-beta`` (β / 2), ``lapse10`` (10 % lapses), ``hostile``
and ``hostile2`` (the last member or two prefer the worse batch) and ``mtbench`` (ties, lapses and
item effects fitted to a public set of human votes on chat answers), all at the β of ``bt70``.
Changes may follow a name, as in ``bt70+side=.3+lapse=.1+hostile=1``; `Flaws` has them,
`PRESETS` the panels.

The order of members: those who judge (the last of them have the other taste), hostile ones, lazy
ones (always side A), random ones (fast, without looking), and a ring of members who vote as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from math import exp, isfinite, sqrt
from typing import Any, Final

import numpy as np
from scipy.special import ndtri

from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.optim.links import link
from szpo.seeds import derive, uniform
from szpo.types import Floats, Prompt
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.panel_factory import StartingPolicy, sharpness
from szpo.voting.service import VoteService
from szpo_simulators.panels import raters
from szpo_simulators.panels.raters import ZERO, Rater, SimulatedJudge
from szpo_simulators.panels.text_rewards import (
    difference,
    matrix,
    parse,
    words_difference,
)

RING_SHARPNESS: Final = 10.0
"""Factor of a ring's β over the panel's."""
CERTAIN: Final = 50.0
"""Side bias of lazy members, in logits: large enough that they always answer A."""
_CHANGE = re.compile(r"\+(?=[a-z]+=)")
MAX_TOLD: Final = 60
"""Longest text of a reward in a sentence, in characters; the record has the whole text."""
PAIRS = 16_384
"""Pairs of batches drawn to fit β, and drawn again to measure the resulting agreement."""
TARGET: Final = 0.70
"""How often two raters agree, to which β is fitted."""


OF_RATER: Final[Mapping[str, str]] = {
    "side": "side_bias", "words": "verbosity", "tie": "tie", "jnd": "threshold", "lapse": "lapse",
    "item": "item_spread", "itemtie": "tie_spread", "fatigue": "fatigue", "drift": "drift",
    "turn": "turn", "ahead": "ahead",
}  # fmt: skip
"""Flaws of all who judge, and the fields of `Rater` that say what they are."""


@dataclass(frozen=True, slots=True)
class Flaws:
    """The flaws of a panel's members, as docs/reference/panels.md names and explains them."""

    sharp: float = 1.0
    spread: float = 0.0
    side: float = 0.0
    words: float = 0.0
    tie: float = 0.0
    jnd: float = 0.0
    lapse: float = 0.0
    item: float = 0.0
    itemtie: float = 0.0
    fatigue: float = 0.0
    drift: float = 0.0
    turn: float = 0.0
    ahead: float = 0.0
    noise: str = "gumbel"
    types: float = 0.0
    other: str = ""
    equal: str = ""
    hostile: int = 0
    lazy: int = 0
    random: int = 0
    ring: int = 0

    @property
    def odd(self) -> int:
        """Number of members who do not judge."""
        return self.hostile + self.lazy + self.random + self.ring


def _people() -> Flaws:
    """The flaws of people, fitted to the set of human votes (`raters.load_mtbench`)."""
    found = raters.load_mtbench()["constants"]["preset"]
    spreads = {"item": found["item_spread"], "itemtie": found["tie_spread"]}
    return Flaws(tie=exp(found["log_tie"]), lapse=found["lapse"], **spreads)


PRESETS: Final[Mapping[str, Flaws]] = {
    "bt70": Flaws(),
    "half-beta": Flaws(sharp=0.5),
    "lapse10": Flaws(lapse=0.10),
    "hostile": Flaws(hostile=1),
    "hostile2": Flaws(hostile=2),
    "mtbench": _people(),
}


def read_flaws(name: str) -> Flaws:
    """The flaws of a panel's line.

    Raises:
        UsageError: a part of the line is wrong; the error names it.

    >>> read_flaws("bt70+side=.3+hostile=1") == Flaws(side=0.3, hostile=1)
    True
    """
    preset, *changes = _CHANGE.split(name)
    if preset not in PRESETS:
        raise UsageError(f"no simulated panel {preset!r}; there are {', '.join(PRESETS)}")
    given: dict[str, float | int | str] = {}
    known = [each.name for each in fields(Flaws)]
    for change in changes:
        key, _, text = change.partition("=")
        if key not in known:
            raise UsageError(f"panel {name!r}: no flaw {key!r}; there are {', '.join(known)}")
        if key in given:
            raise UsageError(f"panel {name!r}: {key} is given twice")
        given[key] = _value(name, key, text)
    flaws = replace(PRESETS[preset], **given)  # type: ignore[arg-type]
    _check(name, flaws)
    return flaws


def _value(name: str, key: str, text: str) -> float | int | str:
    kind = type(getattr(Flaws(), key))
    try:
        if kind is not str and not isfinite(float(text)):
            raise ValueError
        value: float | int | str = kind(text)
    except ValueError:
        whole = "a whole number" if kind is int else "a number"
        raise UsageError(f"panel {name!r}: {key}={text!r} is not {whole}") from None
    return value


def _check(name: str, flaws: Flaws) -> None:
    """Check what `Rater` cannot check itself, then a rater with these flaws."""
    where = f"panel {name!r}:"
    if min(flaws.hostile, flaws.lazy, flaws.random, flaws.ring) < 0:
        raise UsageError(f"{where} hostile, lazy, random and ring must be 0 or more")
    if flaws.sharp <= 0 or flaws.spread < 0:
        raise UsageError(f"{where} sharp must be above 0, and spread 0 or more")
    if flaws.noise not in ("gumbel", "gaussian"):
        raise UsageError(f"{where} noise={flaws.noise!r} is neither gumbel nor gaussian")
    if flaws.equal not in ("", "same"):
        raise UsageError(f"{where} equal={flaws.equal!r} is not same")
    if not 0 <= flaws.types <= 1:
        raise UsageError(f"{where} types must be a share, from 0 to 1")
    if (flaws.types or flaws.turn) and not flaws.other:
        raise UsageError(f"{where} types and turn need another reward, as in +other=-1*sentiment")
    if flaws.other and not (flaws.types or flaws.turn or flaws.ring):
        raise UsageError(f"{where} nobody has the other taste; add types=.5, turn=… or ring=…")
    try:
        _judging(flaws, 1.0)
    except UsageError as error:
        raise UsageError(f"{where} {error}") from error


def members(name: str, beta: float, size: int) -> tuple[Rater, ...]:
    """The raters of a panel by its line, given the β of its preset.

    ``beta``: that of ``bt70``, which all presets use.

    Raises:
        UsageError: the line is wrong, or ``size`` is too small for its members.

    >>> [rater.beta for rater in members("hostile2", 8.0, 5)]
    [8.0, 8.0, 8.0, -8.0, -8.0]
    """
    flaws = read_flaws(name)
    if size < flaws.odd + 1:
        raise UsageError(f"panel {name!r}: size {size} is too small; give {flaws.odd + 1} or more")
    z = ndtri(uniform(derive(0, "temperature"), size) + 2.0**-54)
    raters = [_judging(flaws, beta * exp(flaws.spread * z[i])) for i in range(size)]
    judging = size - flaws.odd
    second = judging - round(flaws.types * judging)
    raters = [
        replace(rater, taste=1.0) if second <= i < judging else rater
        for i, rater in enumerate(raters)
    ]
    start = judging
    for i in range(start, start := start + flaws.hostile):
        raters[i] = replace(raters[i], beta=-raters[i].beta)
    for i in range(start, start := start + flaws.lazy):
        raters[i] = Rater(beta=0.0, side_bias=CERTAIN)
    for i in range(start, start := start + flaws.random):
        raters[i] = Rater(beta=0.0, lapse=1.0, tie=flaws.tie, threshold=flaws.jnd)
    for i in range(start, size):
        sharp = RING_SHARPNESS * beta
        raters[i] = Rater(
            beta=sharp if flaws.other else -sharp, taste=1.0 if flaws.other else 0.0, ring=True
        )
    return tuple(raters)


def _judging(flaws: Flaws, beta: float) -> Rater:
    """A member who judges by the first taste."""
    sharp = flaws.sharp * beta
    gaussian = flaws.noise == "gaussian"
    return Rater(
        # The difference of two Gaussian noises of scale 1/β has scale √2/β.
        beta=sharp / sqrt(2) if gaussian else sharp,
        link="probit" if gaussian else "logistic",
        **{of_rater: getattr(flaws, name) for name, of_rater in OF_RATER.items()},
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted β, its agreement on fresh pairs, and the share of pairs without difference."""

    beta: float
    agreement: float
    """Mean of p² + (1 − p)² over pairs that differ: how often two raters agree."""
    zero_share: float

    def __str__(self) -> str:
        return (
            f"sharpness beta {self.beta:.3g}, at which two panelists agree on "
            f"{self.agreement:.1%} of pairs that differ"
        )


def agreement(rater: Rater, gaps: Floats) -> float:
    """How often two such raters agree on comparisons with these differences (n,).

    Lapses, ties and item effects are ignored, since the fit is of β alone.

    >>> agreement(Rater(beta=1.0), np.array([0.0])), agreement(Rater(beta=1.0), np.array([100.0]))
    (0.5, 1.0)
    """
    p = link(rater.link).prob(rater.beta * gaps)
    return float(np.mean(p**2 + (1 - p) ** 2))


def batch_gaps(rewards: Floats, rows: int, key: bytes, pairs: int = PAIRS) -> Floats:
    """Differences (pairs,) between the mean rewards of two batches for the same prompts.

    ``rewards`` (prompts, samples) are of the base policy's answers. The D = ``rows`` prompts of a
    batch are distinct if there are enough.
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


def fit_beta(gaps: Floats) -> float:
    """β at which two raters agree on `TARGET` of these differences (n,), which are not 0."""
    from scipy.optimize import brentq  # late: it loads half of scipy

    scale = float(np.sqrt(np.mean(gaps**2)))
    ends = np.log(1e-6 / scale), np.log(1e6 / scale)
    return exp(brentq(lambda log_beta: agreement(Rater(exp(log_beta)), gaps) - TARGET, *ends))


def calibrate(rewards: Floats, D: int) -> Calibration:
    """The β at which two raters agree on `TARGET` of comparisons whose batches differ.

    ``rewards`` (prompts, samples) are of the base policy's answers, two samples or more.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or rewards.shape[1] < 2 or D < 1:
        raise UsageError(f"calibration needs prompts × 2 or more samples; got {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise UsageError("calibration: panel.reward is not finite for a base answer; give another")
    drawn, fresh = (
        batch_gaps(rewards, D, derive(0, purpose))
        for purpose in ("calibration", "calibration check")
    )
    gaps = drawn[drawn != 0]
    if not len(gaps):
        raise UsageError("calibration: base answers never differ in this reward; give another")
    beta = float(f"{fit_beta(gaps):.6g}")  # short enough to print, store and retype
    agreed = agreement(Rater(beta), fresh[fresh != 0] if fresh.any() else gaps)
    return Calibration(beta, agreed, zero_share=1 - len(gaps) / len(drawn))


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
        """The panel as JSON values, for the run's record."""
        return {
            "panel": self.name,
            "reward": self.reward,
            "rows": self.rows,
            "raters": [rater.spec for rater in self.raters],
            "calibration": asdict(self.calibration) if self.calibration else None,
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

    ``name``: one of `PRESETS`, or one with changes: ``bt70+side=.3+hostile=1``. ``reward``: as
    `szpo_simulators.panels.text_rewards.parse` reads it. ``rows``: D of the run, at which the
    preset's β is fitted to the answers of ``start``, whose log-probabilities rewards with
    ``fluency`` use.
    """
    start = start or StartingPolicy()
    chosen = read_flaws(name)
    liked = parse(reward, logprob=start.logprob)
    fitted = None
    if beta is None:
        if start.answers is None:
            raise UsageError(f"panel {name}: give beta, or a start with answers to fit it to")
        fitted = calibrate(matrix(liked, *start.answers()), rows)
        beta = fitted.beta
    raters = members(name, beta, size)
    other = parse(chosen.other, logprob=start.logprob) if chosen.other else None
    cached = lru_cache(maxsize=1024)  # the members share the computed differences
    gap, longer = cached(partial(difference, liked)), cached(words_difference)
    second = None if other is None else cached(partial(difference, other))
    same = chosen.equal == "same"
    made = tuple(SimulatedJudge(gap, rater, second, longer, same=same) for rater in raters)
    return SimulatedPanel(name, reward, raters, rows, made, fitted, chosen.other)


@dataclass(frozen=True)
class Maker:
    """The factory of the panel ``name``, an entry point of `szpo.evaluators`."""

    name: str

    def check(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Check the panel's line, its rewards and its size before a model is loaded."""
        chosen = read_flaws(self.name)
        for reward in filter(None, (config.panel.reward, chosen.other)):
            parse(reward, logprob=lambda prompts, answers: np.zeros(len(answers)))
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
            start=start,
        )


bt70 = Maker("bt70")
half_beta = Maker("half-beta")
lapse10 = Maker("lapse10")
hostile = Maker("hostile")
hostile2 = Maker("hostile2")
mtbench_panel = Maker("mtbench")
