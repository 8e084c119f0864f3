"""Simulated raters and their presets: how a difference becomes an answer, flaws, as people did.

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

The public set of human votes on chat answers behind the panels ``mtbench`` and ``close``. A vote
is one of three answers to an *item*: one question, one turn, two chatbots a and b. The model is
Davidson's, with effects that all judges of an item share,

    x = θ_a − θ_b + s·z₁,   log ν = η + t·z₂,   z₁, z₂ ~ N(0, 1),

answer probabilities of `szpo_simulators.panels.raters.law`, and lapses spread evenly over the
three answers. ``data/mtbench.json`` has the model's constants, how many items had how many votes,
and statistics computed from these, but not the votes. experiments/LOG.md names the command that
made the file.

Reads a panel from one line: a preset and changes, ``bt70+side=.3+lapse=.1+hostile=1``. `FLAWS`
lists the possible changes and `PRESETS` the presets; `members` makes the raters. The order of
members: those who judge (the last of them have the other taste), hostile ones, lazy ones (always
side A), random ones (fast, without looking), and a ring of members who vote as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib import resources
from math import exp, isfinite, sqrt
from typing import Any, Final, Literal

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

    Args:
        rater: the rater who answers.
        gap: mean reward of plus minus that of minus, any shape.
        plus_on_a: whether plus is on side A.
        items: standard normal numbers (..., 2) of the comparison; None for no item effects.
            A positive first number favours plus.
        longer: words of plus minus words of minus, mean over rows.

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


Difference = Callable[[Comparison], float]
"""A comparison's difference of batch means, plus over minus."""
_SWAPPED: dict[Choice, Choice] = {"A": "B", "B": "A"}


@dataclass(frozen=True)
class SimulatedJudge:
    """A rater who answers comparisons: the `Judge` of an in-process panel.

    Differences: ``gap`` of the panel's reward, ``other`` of its other reward, ``longer`` of words.
    Where the reward shows none, ``form`` takes its place, or the answer is ``same``.
    """

    gap: Difference
    rater: Rater
    other: Difference | None = None
    longer: Difference | None = None
    given: int = 0
    """Votes given before the step."""
    form: Difference | None = None
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
        if alike and self.form is not None:
            gap = self.form(comparison)
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


NODES: Final = (25, 15)
"""Gauss–Hermite nodes in z₁ and z₂."""


@cache
def nodes() -> tuple[Floats, Floats]:
    """Quadrature nodes (nodes, 2) in the two item effects and their weights (nodes,)."""
    (x, v), (y, w) = (np.polynomial.hermite_e.hermegauss(n) for n in NODES)
    places = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(v / v.sum(), w / w.sum()).ravel()
    return places, weights


def shares(rater: Rater, gaps: Floats) -> Floats:
    """Probabilities (nodes, n, 3) of the answers a, b, tie at each node, for gaps (n,)."""
    return law(rater, gaps[None, :], True, nodes()[0][:, None, :])


def favourite(rater: Rater, gaps: Floats) -> float:
    """Win rate of the better side among votes that are no ties, over gaps (n,).

    >>> round(favourite(Rater(beta=1.0), np.array([0.0, 2.0])), 4)
    0.6904
    """
    p = np.tensordot(nodes()[1], shares(rater, np.abs(gaps)), axes=1).mean(0)
    return float(p[0] / (p[0] + p[1]))


@cache
def load_mtbench() -> dict[str, Any]:
    """The content of ``data/mtbench.json``."""
    file = resources.files("szpo_simulators") / "data" / "mtbench.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def mtbench_rater(part: str = "preset") -> Rater:
    """A rater fitted to a part of the votes, for gaps in logits.

    Parts are ``preset``, the ``training`` half and ``close`` pairs. The file has for each part the
    strengths θ by chatbot (their mean is 0), η, lapses, and the item spreads s and t.
    """
    found = load_mtbench()["constants"][part]
    same = {name: found[name] for name in ("lapse", "item_spread", "tie_spread")}
    return Rater(tie=exp(found["log_tie"]), **same)


def _flaw(default: float | int | str, meaning: str, rater: str = "") -> Any:
    """A flaw; ``rater`` names the field of `Rater` that it sets for all who judge, or is ""."""
    return field(default=default, metadata={"meaning": meaning, "rater": rater})


@dataclass(frozen=True, slots=True)
class Flaws:
    """The flaws of a panel's members. Logits are units of x; `raters` has the formulas."""

    sharp: float = _flaw(1.0, "factor on β of all who judge")
    spread: float = _flaw(0.0, "standard deviation of log β between members")
    side: float = _flaw(0.0, "logits for the batch on side A", "side_bias")
    words: float = _flaw(0.0, "logits per word that a batch is longer", "verbosity")
    tie: float = _flaw(0.0, "Davidson's ν", "tie")
    jnd: float = _flaw(0.0, "η: logits that go unnoticed (Rao and Kupper)", "threshold")
    lapse: float = _flaw(0.0, "share of answers that ignore what is shown", "lapse")
    item: float = _flaw(0.0, "spread of a comparison's own effect on x", "item_spread")
    itemtie: float = _flaw(
        0.0, "spread of a comparison's own effect on log ν or log η", "tie_spread"
    )
    fatigue: float = _flaw(0.0, "attention falls by exp(−f · votes/100)", "fatigue")
    drift: float = _flaw(0.0, "change of log β per hundred steps", "drift")
    turn: float = _flaw(0.0, "change of everybody's taste per hundred steps", "turn")
    ahead: float = _flaw(
        0.0, "logits by which each errs about the worth of going on where an answer was cut off",
        "ahead",
    )  # fmt: skip
    noise: str = _flaw("gumbel", "noise on values: gumbel (logistic votes) or gaussian (probit)")
    types: float = _flaw(0.0, "share of those who judge that has the other taste")
    other: str = _flaw("", "what that taste likes, a reward; also the ring's target")
    equal: str = _flaw(
        "", "votes where the taste shows no difference: a coin, same, or form (length and fluency)"
    )
    hostile: int = _flaw(0, "members who prefer the worse batch")
    lazy: int = _flaw(0, "members who always answer A")
    random: int = _flaw(0, "members who answer at random")
    ring: int = _flaw(0, "members who vote as one for an agreed target: the other taste, or worse")

    @property
    def odd(self) -> int:
        """Number of members who do not judge."""
        return self.hostile + self.lazy + self.random + self.ring


FLAWS: Final[Mapping[str, str]] = {f.name: f.metadata["meaning"] for f in fields(Flaws)}
"""Names of the flaws, with their meaning."""
RING_SHARPNESS: Final = 10.0
"""Factor of a ring's β over the panel's."""
EQUAL: Final = ("", "coin", "same", "form")
"""Values of ``equal``. The first is a coin too, but agreement is fitted to pairs that differ;
with the others it is fitted over all pairs shown that are given to a side."""
CERTAIN: Final = 50.0
"""Side bias of lazy members, in logits: large enough that they always answer A."""


def _people(part: str) -> Flaws:
    """The flaws of people, fitted to a part of their votes; see `raters.mtbench_rater`."""
    found = mtbench_rater(part)
    return Flaws(
        tie=found.tie, lapse=found.lapse, item=found.item_spread, itemtie=found.tie_spread
    )


PRESETS: Final[Mapping[str, Flaws]] = {
    "bt70": Flaws(),
    "half-beta": Flaws(sharp=0.5),
    "lapse10": Flaws(lapse=0.10),
    "hostile": Flaws(hostile=1),
    "hostile2": Flaws(hostile=2),
    "mtbench": _people("preset"),
    "labels70": Flaws(),
    "close": _people("close"),
}
_CHANGE = re.compile(r"\+(?=[a-z]+=)")


def read_flaws(name: str) -> tuple[str, Flaws]:
    """The preset's name and the flaws of a panel's line.

    Raises:
        UsageError: a part of the line is wrong; the error names it.

    >>> read_flaws("bt70+side=.3+hostile=1")[1] == Flaws(side=0.3, hostile=1)
    True
    """
    preset, *changes = _CHANGE.split(name)
    if preset not in PRESETS:
        raise UsageError(f"no simulated panel {preset!r}; there are {', '.join(PRESETS)}")
    given: dict[str, float | int | str] = {}
    for change in changes:
        key, _, text = change.partition("=")
        if key not in FLAWS:
            raise UsageError(f"panel {name!r}: no flaw {key!r}; there are {', '.join(FLAWS)}")
        if key in given:
            raise UsageError(f"panel {name!r}: {key} is given twice")
        given[key] = _value(name, key, text)
    flaws = replace(PRESETS[preset], **given)  # type: ignore[arg-type]
    _check(name, flaws)
    return preset, flaws


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
    if flaws.equal not in EQUAL:
        raise UsageError(f"{where} equal={flaws.equal!r} is none of coin, same and form")
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


def members(name: str, beta: float, size: int, seed: int = 0) -> tuple[Rater, ...]:
    """The raters of a panel by its line, given the β of its preset.

    Args:
        name: a preset, with or without changes.
        beta: β of the preset; all but ``labels70`` and ``close`` use that of ``bt70``.
        size: P, the number of members.
        seed: seed of the members' differences in log β (``spread``).

    Raises:
        UsageError: the line is wrong, or ``size`` is too small for its members.

    >>> [rater.beta for rater in members("hostile2", 8.0, 5)]
    [8.0, 8.0, 8.0, -8.0, -8.0]
    """
    _, flaws = read_flaws(name)
    if size < flaws.odd + 1:
        raise UsageError(f"panel {name!r}: size {size} is too small; give {flaws.odd + 1} or more")
    z = ndtri(uniform(derive(seed, "temperature"), size) + 2.0**-54)
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
        **{
            f.metadata["rater"]: getattr(flaws, f.name)
            for f in fields(flaws)
            if f.metadata["rater"]
        },
    )
