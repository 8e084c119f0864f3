"""Reads a panel from one line: a preset and changes, ``bt70+side=.3+lapse=.1+hostile=1``.

`FLAWS` lists the possible changes and `PRESETS` the presets; `members` makes the raters.
The order of members: those who judge (the last of them have the other taste), hostile ones, lazy
ones (always side A), random ones (fast, without looking), and a ring of members who vote as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import exp, isfinite, sqrt
from typing import Any, Final

from scipy.special import ndtri

from szpo.errors import UsageError
from szpo.seeds import derive, uniform
from szpo_simulators.panels import mtbench
from szpo_simulators.panels.raters import Rater


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
    """The flaws of people, fitted to a part of their votes; see `mtbench.rater`."""
    found = mtbench.rater(part)
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


def read(name: str) -> tuple[str, Flaws]:
    """The preset's name and the flaws of a panel's line.

    Raises:
        UsageError: a part of the line is wrong; the error names it.

    >>> read("bt70+side=.3+hostile=1")[1] == Flaws(side=0.3, hostile=1)
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
    _, flaws = read(name)
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
