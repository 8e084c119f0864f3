"""What a rule is: how a step's votes become a move of θ, and what it carries to the next step.

A rule is a value of functions, so that the optimizer of one run and the worlds with a thousand
repetitions call the same ones. All arrays may have leading axes, the repetitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from szpo.errors import RunError
from szpo.optim import parameters
from szpo.optim.rules.guard_geometry import Moments
from szpo.optim.rules.measured_kl import KlMeasurement
from szpo.optim.settings import Settings
from szpo.optim.vote_regression import Fit
from szpo.optim.weighted_votes import HistoryUse, WeightedVotes
from szpo.types import Explanation, Floats, Ints, Query


@dataclass(frozen=True, slots=True, eq=False)
class StepInputs:
    """What a step takes besides its votes; all but ``reach`` is recorded before they are cast."""

    scores: Floats | None = None
    """(..., K, N, d): mean whitened score of the texts of plus less that of the texts of minus."""
    kl: tuple[float, float] | None = None
    """Without `Settings.measured`: KL to the start, nats, of a point that was recommended when the
    answers were made, as measured, and by the quadratic estimate |z|²/2 in whitened units."""
    centre: Floats | None = None
    """θ (..., d) around which the step asked; None where that is the rule's centre."""
    moments: Moments | None = None
    """Of the start's answers, from which guards are predicted; recorded until a step has it."""
    text_differences: Ints | None = None
    """(K, N, k): differences of the shown texts in named features, in units of 2⁻¹² spreads."""
    ratings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of the shown texts by a judge, for each named feature that one rates."""
    aside: tuple[int, ...] = ()
    """Features that the operator ordered not to follow from this step on; they may explain
    votes."""
    reach: KlMeasurement | None = None
    """What was measured of the point that its votes proposed, as recorded with the step."""


@dataclass(frozen=True, slots=True)
class Perturbations:
    """Where the two policies of each of a step's K directions stood: z⁺ and z⁻ around θ."""

    step: int
    mu: ArrayLike
    """Perturbation radius μ of the unit-variance direction, (...)."""
    alpha: ArrayLike | None
    """Step size α, (...); None while a warm-up measures it, and for rules that need none."""
    radius: Floats
    """Radius (..., K) of the integer-grid direction: μ · factor, rounded to 13 bits."""
    directions: Callable[[], tuple[Floats, Floats]]
    """Makes the grid values (..., K, d) and their factors (..., K); for small spaces only."""
    inputs: StepInputs = field(default_factory=StepInputs)
    """What was recorded."""
    measure_kl: Callable[[Floats], float] | None = None
    """KL to the model's start, nats, of a point as moved from θ₀ (d,); None where nobody measures
    now, as when a run is played again."""

    def unit_directions(self) -> Floats:
        """The unit-variance directions v (..., K, d)."""
        grid, factor = self.directions()
        return np.asarray(factor[..., None] * grid)

    def displacements(self, distance: int) -> Floats:
        """What a vote on each direction is about: x = z⁺ − z⁻, (..., K, d)."""
        grid, _ = self.directions()
        return np.asarray((distance * self.radius)[..., None] * grid)


def perturbations(
    settings: Settings,
    query: Query,
    alpha: float | None,
    inputs: StepInputs | None = None,
    measure: Callable[[Floats], float] | None = None,
) -> Perturbations:
    """The perturbations of one run's query, at a step size."""
    space, sides = settings.space, [plus for plus, _ in query.shifts]

    def directions() -> tuple[Floats, Floats]:
        named = [(space, each.step, each.k, each.grid) for each in sides]
        grid = np.stack([parameters.direction_vector(*each) for each in named])
        return grid, np.array([parameters.factor(*each) for each in named])

    radius = np.array([plus.radius for plus in sides])
    noted = inputs or StepInputs()
    return Perturbations(query.step, query.mu, alpha, radius, directions, noted, measure)


@dataclass(frozen=True, slots=True)
class Move:
    """What a rule makes of a step's votes: coefficients of the directions, or one vector."""

    carried: Any
    """What the rule carries on."""
    coef: Floats | None = None
    """(..., K), of unit-variance directions: θ moves by Σ coef·v."""
    vector: Floats | None = None
    """(..., d): θ moves by it, under a rule of two points the recommended one."""
    centre: Floats | None = None
    """(..., d): the asked centre moves by it, under a rule of two points."""
    delta: Floats | None = None
    """Δ̂ (..., K), where the move rests on it."""
    stderr: Floats | None = None
    """Its standard error (..., K)."""
    capped: bool = False
    """Some coefficient, or the vector, was cut to `Settings.coef_cap`."""
    posterior: Fit | None = None
    """On the gradient, where the rule has one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's name, traits and functions.

    ``check`` refuses settings that the rule cannot work with (UsageError). ``init`` gives what is
    carried before step 0, for leading axes. ``alpha`` is the step size at a step, or None.
    ``past`` says what is made of past votes by voter. ``move`` makes the
    step from what was carried, the perturbations, the votes and Davidson's ν. ``figures`` are the
    rule's own in the step's report, for people. ``flip_share`` is the smallest share of voters
    who, voting against throughout, would have turned the step; None where nobody can tell.
    ``is_exact``: the update is recomputed to the last bit on any machine. ``defaults`` are
    settings in which the rule's own differ. ``ways``: what the votes so far may be about, to ask
    along (`Settings.asks_posterior`). ``repeat``: the coefficients of many steps at once, where no
    step looks at another's votes; see `along_direction.repeat`.
    """

    name: str
    check: Callable[[Settings], None]
    init: Callable[[Settings, tuple[int, ...]], Any]
    alpha: Callable[[Settings, Any, int], float | None]
    past: Callable[[Settings, Any], HistoryUse]
    move: Callable[[Settings, Any, Perturbations, WeightedVotes, float | None], Move]
    figures: Callable[[Move], dict[str, float]]
    flip_share: Callable[
        [Settings, Move, Perturbations, WeightedVotes, float | None], float | None
    ]
    is_exact: Callable[[Settings], bool]
    ways: Callable[[Settings, Any], tuple[Explanation, ...]] = lambda settings, carried: ()
    repeat: Callable[[Settings, Any, int, Floats], Floats | None] = (
        lambda settings, carried, first, counts: None
    )
    defaults: Mapping[str, Any] = field(default_factory=dict)
    two_points: bool = False
    """It keeps all votes and their likelihood, asks around one point, the centre, and recommends
    another; a step moves both. It can take a prior, and no estimate in place of votes."""
    ignores: tuple[str, ...] = ()
    """Settings that play no part in it."""
    equation: str = ""
    """Its step in symbols, for people; see `szpo.optim.rules.along_direction.OnePointRule`."""
    can_warm_up: bool = False
    """A warm-up may measure its step size."""


def check_finite(values: Floats, step: int, source: str) -> None:
    """Raise unless every number is finite.

    Raises:
        RunError: names the step, the source and the first index.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise RunError(
            f"step {step}: {source} {bad[0]} is {values.flat[bad[0]]}; nothing was applied"
        )
