"""The interface of a rule: a step's weighted votes become a move of θ.

A rule is a record of functions, so a single run and a simulation with a thousand repetitions call
the same ones. All arrays may have leading axes: the repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from szpo.errors import RunError, UsageError
from szpo.optim import parameters, weighting
from szpo.optim.kl_limits import KlMeasurement
from szpo.optim.settings import Settings
from szpo.optim.vote_regression import Fit
from szpo.optim.weighting import History, VotesByVoter
from szpo.types import Explanation, Floats, Ints, Query, Tally

Recounted: TypeAlias = tuple[int, float, float, float]
"""A comparison's place in order of (step, k, n), its votes for plus and for minus as the rule
counts them, and the side of plus (`szpo.types.Tally.side`)."""


@dataclass(frozen=True, slots=True)
class HistoryUse:
    """How a rule uses past votes by voter."""

    rows: int = 0
    """Number of past directions that the rule needs."""
    alone: bool = False
    """Each comparison is a direction of its own, since steps differ in N."""
    weights: Callable[[History], Floats] | None = None
    """How the rule weighs voters (..., P); None: as the weighting says."""


@dataclass(frozen=True, slots=True)
class WeightedVotes:
    """A step's tally after voter weighting, and the updated voter history."""

    tally: Tally
    """Counts, or sums of voters' weights; ``cast`` then has the number of votes."""
    delta: Floats | None = None
    """One given estimate per direction (..., K) that replaces Δ̂ from the votes."""
    by_voter: VotesByVoter | None = None
    weights: Floats = field(default_factory=lambda: np.ones(0))
    """(..., P): one for each voter of ``by_voter``."""
    history: History | None = None


def weigh(
    settings: Settings,
    history: History | None,
    step: int,
    tally: Tally,
    by_voter: VotesByVoter | None,
    *,
    use: HistoryUse | None = None,
) -> WeightedVotes:
    """Apply the run's weighting to a step; weights are learned from earlier steps only.

    The history keeps the last directions, as many as the weighting and ``use`` need.
    """
    if by_voter is None:
        if (kind := settings.section.weighting) != "equal":
            raise UsageError(f"tell: weighting {kind} needs to know who voted how")
        return WeightedVotes(tally, history=history)
    use = use or HistoryUse()
    start = history or History.empty(1 if use.alone else settings.section.N)
    past = weighting.add_voters(start, by_voter.voters)
    by_voter = weighting.align(by_voter, past.voters)
    weights, rows = np.ones(len(past.voters)), use.rows
    if settings.section.weighting == "skill":
        weights = use.weights(past) if use.weights else weighting.skill(past).weights
        cast = tally.plus + tally.minus + tally.tie
        tally = replace(by_voter.tally(weights), cast=cast, side=tally.side)
        rows = max(rows, weighting.ROWS)
    if rows:
        kept = by_voter.alone() if use.alone else by_voter
        history = weighting.remember(past, step, kept, rows)
    return WeightedVotes(tally, None, by_voter, weights, history)


def check_tally(tally: Tally, step: int) -> None:
    """Raise UsageError or RunError unless counts are finite, at least 0 and of one shape."""
    for name in ("plus", "minus", "tie"):
        counts: Floats = getattr(tally, name)
        if counts.shape != tally.plus.shape or tally.identical.shape != tally.plus.shape:
            raise UsageError(f"tell: step {step} has vote arrays of different shapes")
        for (k, n), count in np.ndenumerate(counts):
            if not math.isfinite(count):
                raise RunError(
                    f"step {step}: {name} votes of direction {k}, comparison {n} are {count}; "
                    "nothing was applied"
                )
            if count < 0:
                raise UsageError(
                    f"step {step}: {name} votes of direction {k}, comparison {n} are {count}; "
                    "count a vote of negative weight for the other side"
                )


def totals(tally: Tally) -> tuple[float, float]:
    """Numbers of votes and of wins of plus (a tie is half), without identical comparisons."""
    live = ~tally.identical
    plus, minus, tie = (float(c[live].sum()) for c in (tally.plus, tally.minus, tally.tie))
    return plus + minus + tie, plus + 0.5 * tie


@dataclass(frozen=True, slots=True, eq=False)
class StepInputs:
    """A step's inputs besides its votes; all but ``reach`` are recorded before votes are cast."""

    scores: Floats | None = None
    """(..., K, N, d): mean whitened score of plus's texts minus that of minus's texts."""
    centre: Floats | None = None
    """θ (..., d) around which the step asked; None: the rule's centre."""
    text_differences: Ints | None = None
    """(K, N, k): differences of the shown texts in named features, in units of 2⁻¹² spreads."""
    states: NDArray[np.int16] | None = None
    """(texts, width): hidden states of the shown texts, as recorded; see `StateScale.rounded`."""
    state_differences: Floats | None = None
    """(K, N, width): mean states of plus's texts less minus's, in units of the start's scale."""
    ratings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """A judge's ratings of the shown texts, for each named feature that a judge rates."""
    reach: KlMeasurement | None = None
    """The KL measurement of the point that the votes proposed, as recorded with the step."""
    withdrawn: tuple[Recounted, ...] = ()
    """Comparisons of earlier steps whose votes are others now, since some were withdrawn."""


@dataclass(frozen=True, slots=True)
class Perturbations:
    """The points z⁺ and z⁻ around θ of the two policies of each of a step's K directions."""

    step: int
    mu: ArrayLike
    """Perturbation radius μ of the unit-variance directions, (...)."""
    alpha: ArrayLike | None
    """Step size α, (...); None during a warm-up and for rules without a step size."""
    radius: Floats
    """Radius (..., K) of the grid directions: μ · factor, rounded to 13 significant bits."""
    directions: Callable[[], tuple[Floats, Floats]]
    """Makes the grid values (..., K, d) and their factors (..., K); for small spaces only."""
    inputs: StepInputs = field(default_factory=StepInputs)
    measure_kl: Callable[[Floats], float] | None = None
    """Measures the KL to the model's start, nats, of a point given as its displacement from θ₀
    (d,); None where nothing is measured, as in a replay."""

    def unit_directions(self) -> Floats:
        """The unit-variance directions v (..., K, d)."""
        grid, factor = self.directions()
        return np.asarray(factor[..., None] * grid)

    def displacements(self, distance: int) -> Floats:
        """The displacement that votes on each direction compare: x = z⁺ − z⁻, (..., K, d)."""
        grid, _ = self.directions()
        return np.asarray((distance * self.radius)[..., None] * grid)


def perturbations(
    settings: Settings,
    query: Query,
    alpha: float | None,
    inputs: StepInputs | None = None,
    measure: Callable[[Floats], float] | None = None,
) -> Perturbations:
    """The perturbations of one run's query, with step size ``alpha``."""
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
    """A rule's result for a step: coefficients of the directions, or one vector per point."""

    carried: Any
    """What the rule carries to the next step."""
    coef: Floats | None = None
    """(..., K), of unit-variance directions: θ moves by Σ coef·v."""
    vector: Floats | None = None
    """(..., d): the move of θ; under a rule with two points, of the recommended point."""
    centre: Floats | None = None
    """(..., d): the move of the centre, under a rule with two points."""
    delta: Floats | None = None
    """Estimated value difference of each direction (..., K); None: the optimizer estimates it."""
    stderr: Floats | None = None
    """Standard error of ``delta`` (..., K)."""
    capped: bool = False
    """A coefficient was clipped to `known_and_sign.COEF_CAP`."""
    posterior: Fit | None = None
    """The posterior of the gradient, where the rule has one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's name, traits and functions.

    ``init`` makes what is carried before step 0, for leading axes. ``alpha`` is the step size at a
    step, or None. ``past`` says how past votes by voter are used. ``move`` makes the step from
    what was carried, the perturbations and the votes. ``figures`` are the rule's own numbers in
    the step's report. ``is_exact``: any machine recomputes the update to the last bit. ``ways``
    gives the explanations of the votes so far, from which directions are drawn
    (`Settings.asks_posterior`). What settings a rule has follows from its traits
    (`szpo.config.optimizer.tag_of`).
    """

    name: str
    init: Callable[[Settings, tuple[int, ...]], Any]
    alpha: Callable[[Settings, Any, int], float | None]
    past: Callable[[Settings, Any], HistoryUse]
    move: Callable[[Settings, Any, Perturbations, WeightedVotes], Move]
    figures: Callable[[Move], dict[str, float]]
    is_exact: Callable[[Settings], bool]
    ways: Callable[[Settings, Any], tuple[Explanation, ...]] = lambda settings, carried: ()
    two_points: bool = False
    """The rule keeps all votes, asks around one point, the centre, and recommends another; a step
    moves both. It can use a prior, but not an estimate in place of votes."""
    equation: str = ""
    """The rule's step in symbols; see `szpo.optim.known_and_sign.OnePointRule`."""
    can_warm_up: bool = False
    """A warm-up may measure the rule's step size."""


def check_finite(values: Floats, step: int, source: str) -> None:
    """Raise unless every number is finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise RunError(
            f"step {step}: {source} {bad[0]} is {values.flat[bad[0]]}; nothing was applied"
        )
