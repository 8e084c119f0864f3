"""How far a move may go: by its measured KL, and by guards predicted from the start's answers.

Shrink a proposed point until its measured KL fits the budget; only then is it recorded. The point
lies on a ray from the model's start. A share of the way is n/256. The whole way is measured first.
While a reading is above the budget, a smaller share is measured, with at most `MOST_READINGS`
readings in all, or one where the budget is small. KL is taken as linear in the square of the share
between the largest share that fits (or the start) and the smallest that does not, and the next
share aims at `AIMED_SHARE` of the budget. The readings are recorded, and they alone determine
every share, to the last bit: a replay needs no model.

In whitened coordinates z the policy near its start is the start's distribution tilted by
exp(z · u), where u is the score of an answer, ∂ log π(answer) / ∂z. So the mean of any figure f of
an answer changes by cov(f, u) · z at first order: the regression of f on u *is* the change (the
compatible-function theorem: Kakade 2001, "A natural policy gradient"; Peters and Schaal 2008).
Where u is about normal, the tilt shifts its mean by m = cov(u) z, and one more coefficient, for
½|u|², gives the common part of the curvature. Votes and rewards are not used.

With many coordinates, as with named features, only the diagonal of their covariance is used:
whitened scores are uncorrelated, so a few hundred answers suffice for any number of coordinates.

The figures are those of three guards: log-probability per token under the base, length, and the
margin of the own prompt. Variety (distinct-2) belongs to a set of answers and is not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.types import Floats

SHARE_PARTS: Final = 256
"""Shares of the way are multiples of 1/256."""
MOST_READINGS: Final = 3
"""Largest number of readings in a step."""
UNPROVEN: Final = 0.14
"""How far the recommended point goes while the votes may be chance, nats."""
AIMED_SHARE: Final = 0.9
"""Share of the budget that is aimed at, since measured KL scatters."""
CLOSE_ENOUGH_SHARE: Final = 0.75
"""A shrunk point is accepted if its KL is at least this share of the budget."""
ONE_READING: Final = UNPROVEN / AIMED_SHARE
"""A budget of at most these nats gets one reading: a short way costs as much as a long one."""
LEAST_KL: Final = 0.1
"""A point is measured if its quadratic KL estimate is at least this many nats."""
UNMOVED_SHARE: Final = 0.05
"""A point that moved by at most this share of its distance from the start is not read again."""


@dataclass(frozen=True, slots=True)
class Reading:
    """KL to the model's start, nats, at a share of the way."""

    share: int
    """In units of 1/256."""
    kl: float
    """Measured KL."""
    estimate: float
    """Quadratic estimate, |z|²/2 in whitened units."""


@dataclass(frozen=True, slots=True)
class KlMeasurement:
    """The readings of a proposed point, and the share of the way that was recorded."""

    limit: float
    """The budget, nats."""
    readings: tuple[Reading, ...]
    """In the order in which they were made; at least one."""
    share: int
    """The recorded share of the way, in units of 1/256."""

    @property
    def nearest(self) -> Reading:
        """The reading whose share is nearest to the recorded one."""
        return min(self.readings, key=lambda each: abs(each.share - self.share))

    @property
    def scale(self) -> float:
        """Measured KL over its quadratic estimate at `nearest`; `LEAST_KL` is added to both."""
        return (self.nearest.kl + LEAST_KL) / (self.nearest.estimate + LEAST_KL)

    @property
    def measured(self) -> float | None:
        """Measured KL of the recorded point, nats; None if the KL was not read there."""
        return self.nearest.kl if self.nearest.share == self.share else None

    @property
    def follows(self) -> bool:
        """True if every share follows from the readings before it."""
        given = [(each.share, False) for each in self.readings] + [(self.share, True)]
        found = [
            [choose_share(self.limit, self.readings[:i], most) for i in range(len(given))]
            for most in {_most_readings(self.limit), MOST_READINGS}
        ]
        return given in found

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> KlMeasurement:
        """Read the measurement that a step recorded.

        Raises:
            KeyError, TypeError, ValueError: the form is wrong, or a number is out of range.
        """
        readings = tuple(Reading(**each) for each in body["readings"])
        found = cls(body["limit"], readings, body["share"])
        above = [found.limit, *(each.estimate for each in readings)]
        others = [each.kl for each in readings]
        shares = [found.share, *(each.share for each in readings)]
        finite = all(map(math.isfinite, above + others))
        if not readings or not finite or min(above) <= 0 or min(others) < 0:
            raise ValueError("reach")
        if not all(isinstance(each, int) for each in shares):
            raise TypeError("reach")
        return found


def measure_share(limit: float, read: Callable[[int], Reading]) -> KlMeasurement:
    """Measure a proposed point and find how much of the way to it fits the budget.

    ``limit``: the budget, nats. ``read`` measures KL at a share of the way, in units of 1/256.
    """
    readings: tuple[Reading, ...] = ()
    most = _most_readings(limit)
    while True:
        share, settled = choose_share(limit, readings, most)
        if settled:
            return KlMeasurement(limit, readings, share)
        readings += (read(share),)


def _most_readings(limit: float) -> int:
    return MOST_READINGS if limit > ONE_READING else 1


def choose_share(
    limit: float, readings: tuple[Reading, ...], most: int = MOST_READINGS
) -> tuple[int, bool]:
    """The share that follows from the readings, and whether to record it (True) or to measure it.

    At most ``most`` readings are made.

    >>> choose_share(3.0, (Reading(256, 12.0, 2.7),))
    (121, False)
    """
    if not readings:
        return SHARE_PARTS, False
    fits = [each for each in readings if each.kl <= limit]
    above = [each for each in readings if each.kl > limit]
    low = max(fits, key=lambda each: each.share, default=Reading(0, 0.0, 0.0))
    if not above or (fits and low.kl >= CLOSE_ENOUGH_SHARE * limit):
        return low.share, True
    high = min(above, key=lambda each: each.share)
    full = len(readings) >= most
    if full and fits:
        return low.share, True
    bottom, top, aim = Fraction(low.kl), Fraction(high.kl), Fraction(AIMED_SHARE) * Fraction(limit)
    if aim <= bottom:
        return low.share, True
    along = (aim - bottom) / (top - bottom)
    share = math.isqrt(math.floor(low.share**2 + along * (high.share**2 - low.share**2)))
    return share, full or share <= low.share


FIGURES: Final = ("logprob", "tokens", "margin")
"""Figures of an answer: log-probability per token under the base, length, own-prompt margin."""
LIMITS: Final = {"logprob": (-0.5, math.inf), "tokens": (-0.2, 0.2), "margin": (-0.25, math.inf)}
"""Changes of `FIGURES` that guards allow: log-probability in nats, the others as shares of the
start's."""
LEAST_KL_PREDICTED: Final = 0.2
"""A move is not shrunk below these nats, |z|²/2: it would not be worth making."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the start's answers, centred within prompts: all that a prediction needs.

    Features φ of an answer are its score u (d) and ½|u|². Everything is a plain number,
    so it can be recorded and replayed without a model.
    """

    answers: int
    freedom: int
    """Residual degrees of freedom: answers − prompts (or 1) − d − 1, without d if diagonal."""
    scores: Floats
    """cov(u) = E[u uᵀ] (d, d), maps z to the shift of the mean score; or its diagonal (d,)."""
    gram: Floats
    """Σ φφᵀ (d + 1, d + 1); or its diagonal (d + 1,)."""
    cross: Floats
    """Σ φ f (d + 1, figures)."""
    squares: Floats
    """Σ f² (figures,)."""
    levels: Floats
    """Figures at the start (figures,): means, and the median for the margin."""

    def to_json(self) -> dict[str, Any]:
        """As JSON for the record; numbers are exact, and unknown ones are null."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_json(cls, body: Mapping[str, Any], dim: int) -> Moments:
        """Read the output of `to_json` for ``dim`` coordinates.

        Raises:
            UsageError: the body is not such an output.
        """
        found: dict[str, Any] = {
            name: np.array(value, np.float64) if isinstance(value, list) else value
            for name, value in body.items()
        }
        times = np.ndim(found.get("scores", 0.0))
        shapes = {
            "scores": (dim,) * times, "gram": (dim + 1,) * times,
            "cross": (dim + 1, len(FIGURES)),
            "squares": (len(FIGURES),), "levels": (len(FIGURES),),
        }  # fmt: skip
        counts = [found.get(name) for name in ("answers", "freedom")]
        fits = all(np.asarray(found.get(name)).shape == shape for name, shape in shapes.items())
        whole = all(isinstance(count, int) and count > 0 for count in counts)
        if times not in (1, 2) or not fits or not whole or not np.isfinite(found["scores"]).all():
            raise UsageError(f"moments of the start's answers: not those of {dim} coordinates")
        return cls(**found)


def gather_moments(
    scores: Floats, figures: Floats, prompts: Sequence[int], *, apart: bool = False
) -> Moments:
    """Sum up the start's answers.

    Args:
        scores: u (answers, d) in the run's coordinates.
        figures: (answers, 3) in the order of `FIGURES`; a figure with nan anywhere is not used.
        prompts: The number of each answer's prompt. Values are centred within prompts if these
            have at least two answers on average, else over all answers.
        apart: Use only the diagonal of the covariances; for whitened coordinates.
    """
    u, f = np.asarray(scores, np.float64), np.asarray(figures, np.float64)
    rows, d = u.shape
    groups = np.unique(np.asarray(prompts), return_inverse=True)[1]
    count = int(groups.max()) + 1
    if count * 2 > rows:
        groups, count = np.zeros(rows, int), 1
    freedom = rows - count - 1 - (0 if apart else d)
    if freedom < 1:
        raise UsageError(
            f"guards cannot be predicted from {rows} answers to {count} prompts in {d} "
            f"coordinates; it takes at least {rows - freedom + 1}"
        )
    levels = np.array([f[:, 0].mean(), f[:, 1].mean(), np.median(f[:, 2])])

    def centre(values: Floats) -> Floats:
        sums = np.zeros((count, values.shape[1]))
        np.add.at(sums, groups, values)
        sizes = np.bincount(groups, minlength=count)[:, None]
        found: Floats = values - (sums / sizes)[groups]
        return found

    half = 0.5 * (u**2).sum(1, keepdims=True)
    phi, f = centre(np.hstack([u, half])), centre(f)
    # A score has mean 0 for every prompt, so its covariance needs no centring.
    covariance, gram = (
        ((u**2).mean(0), (phi**2).sum(0)) if apart else (u.T @ u / rows, phi.T @ phi)
    )
    return Moments(rows, freedom, covariance, gram, phi.T @ f, (f**2).sum(0), levels)


def predict_changes(moments: Moments, z: Floats) -> Floats:
    """Predicted changes (..., figures) in the units of `LIMITS`; nan: unknown.

    ``z``: points (..., d), whitened: |z|²/2 is about the KL in nats.
    """
    slope, bend = _along(moments, np.asarray(z, np.float64))
    return slope + bend


def hold(changes: Floats) -> NDArray[np.bool_]:
    """Whether each figure (..., figures) changes within its limits; one that is unknown does."""
    low, high = np.array([LIMITS[name] for name in FIGURES]).T
    found: NDArray[np.bool_] = ((changes >= low) & (changes <= high)) | ~np.isfinite(changes)
    return found


def shrink_for_guards(moments: Moments, z: Floats) -> Floats:
    """The largest share s ≤ 1 of a move at which every predicted guard holds; 0 if there is none.

    ``z``: moves (..., d) from the start, whitened.

    Returns:
        (...), multiples of 1/`SHARE_PARTS`. 0: guards fail at every share down to `LEAST_KL` nats.
        A move of fewer nats than that is not shrunk: its share is 1 or 0.
    """
    z = np.asarray(z, np.float64)
    size = np.maximum(np.linalg.norm(z, axis=-1), 1e-300)
    least = np.minimum(1.0, np.sqrt(2 * LEAST_KL_PREDICTED) / size)
    shares = np.arange(SHARE_PARTS, 0, -1) / SHARE_PARTS
    slope, bend = _along(moments, z)
    s = shares[:, None]
    changes = s * slope[..., None, :] + s**2 * bend[..., None, :]
    fits = (shares >= least[..., None] - 1e-12) & hold(changes).all(-1)
    return np.where(fits.any(-1), shares[fits.argmax(-1)], 0.0)


def _along(moments: Moments, z: Floats) -> tuple[Floats, Floats]:
    """Changes (..., figures) at s·z as s·c₁ + s²·c₂."""
    coefficients = _inverse(moments) @ moments.cross / _units(moments)
    linear, square = coefficients[:-1], coefficients[-1]
    shift = _shift(moments, z)
    return shift @ linear, 0.5 * (shift**2).sum(-1, keepdims=True) * square


def _shift(moments: Moments, z: Floats) -> Floats:
    """The shift of the mean score at z (..., d)."""
    found: Floats = z * moments.scores if moments.scores.ndim == 1 else z @ moments.scores
    return found


def _inverse(moments: Moments) -> Floats:
    """The inverse of Σ φφᵀ (d + 1, d + 1)."""
    if moments.gram.ndim == 1:
        return np.diag(1 / np.maximum(moments.gram, 1e-300))
    return np.asarray(np.linalg.pinv(moments.gram, hermitian=True))


def _units(moments: Moments) -> Floats:
    """The unit of each figure's change: 1 nat or the start's level; nan if the level is too small.

    A share of a level below half the spread of answers to one prompt would be noise.
    """
    spread = np.sqrt(moments.squares / moments.answers)
    level = np.where(moments.levels > np.maximum(spread / 2, 0.0), moments.levels, np.nan)
    return np.array([1.0, level[1], level[2]])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return value if isinstance(value, int) else (float(value) if np.isfinite(value) else None)
