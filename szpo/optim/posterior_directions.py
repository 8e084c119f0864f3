"""Directions along which votes are likely to differ: drawn from the posterior of named features.

A direction is a draw from what the votes so far may be about, plus the Gaussian direction that the
seed gives. Sampling from the posterior asks where something is still open (Thompson 1933, "On the
likelihood that one unknown probability exceeds another", Biometrika 25), and the noise, which is
never nothing, keeps every direction possible. The posterior is in floating point and ends in
integers; from these on all is exact, so that every machine draws the same directions.
"""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from typing import Final

import numpy as np

from szpo import seeds
from szpo.optim import parameters, sample_directions
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import Space
from szpo.optim.sparse_regression import SparseFit
from szpo.types import FEATURE_GRID, Explanation, Floats, Grid, Ints

NEW_RUN_TEMPERATURE: Final = 1.0
"""Of the posterior over features in new runs."""
UNRECORDED_TEMPERATURE: Final = 2.0
"""In runs that record none."""
NOISE: Final = 0.33
"""Default `asking_noise`: the seed's part is .7 times as long as the posterior's."""
CHANCE_UNITS: Final = 2**16 - 1
"""Of the chances of all ways together."""
LARGEST_WEIGHT: Final = 2**15 - 1
"""Of a way's weights."""
SMALLEST_COEF: Final = 1e-6
"""Largest coefficient below which votes say nothing: they cancel, or there are none."""
SMALLEST_PROBABILITY: Final = 1e-9
"""Probability below which an explanation is left out."""


def explanations_of(
    found: SparseFit,
    features: NamedFeatures,
    aside: Sequence[int] = (),
    temperature: float = NEW_RUN_TEMPERATURE,
) -> tuple[Explanation, ...]:
    """What the votes may be about, by regressors; nothing while they say nothing.

    At temperature T a feature of probability P is chosen in proportion to P^(1/T), then one of its
    explanations in proportion to theirs. The score components together are one feature. Features
    ``aside`` are not followed.
    """
    followed = np.ones(features.columns)
    followed[list(aside)] = 0.0
    count = len(features.names)
    total, listed = np.zeros(count + 1), []
    for each in found.kept:
        w = each.w * followed[list(each.support)]
        if each.chance >= SMALLEST_PROBABILITY and np.abs(w).max(initial=0.0) >= SMALLEST_COEF:
            members = sorted({min(at, count) for at in each.support if followed[at]})
            listed.append((each, w, members))
            total[members] += each.chance
    power = 1 / temperature - 1
    share = np.array([(each.chance * total[own] ** power).sum() for each, _, own in listed])
    chances = np.rint(CHANCE_UNITS * share / max(share.sum(), SMALLEST_PROBABILITY)).astype(
        np.int64
    )
    return tuple(
        Explanation(int(chance), each.support, _as_integers(w))
        for chance, (each, w, _) in zip(chances, listed, strict=True)
        if chance
    )


def draw_direction(
    space: Space,
    features: NamedFeatures,
    ways: Sequence[Explanation],
    noise: float,
    step: int,
    k: int,
) -> Grid:
    """Direction k of a step: along one of the ways, either way round, plus noise; |v| = √d.

    Args:
        space: The run's coordinates, in which KL is about |z|²/2, and law.
        features: What the ways' regressors move.
        ways: At least one.
        noise: Share of the seed's own direction in |v|², in (0, 1].
        step: Number of the step.
        k: Of the direction.
    """
    key = seeds.derive(space.root_seed, "asking", step=step, k=k)
    chances = np.cumsum([way.chance for way in ways])
    at = np.searchsorted(chances, seeds.integer(key, 0, int(chances[-1])), side="right")
    along = _in_coordinates(features, ways[int(at)])
    if seeds.integer(key, 1, 2):
        along = -along
    grid = sample_directions.PER_UNIT
    own = np.rint(parameters.direction_vector(space, step, k) * grid).astype(np.int64)
    even = decimal.ROUND_HALF_EVEN
    with decimal.localcontext(decimal.Context(prec=sample_directions.DIGITS)):
        share, length = decimal.Decimal(noise), grid * decimal.Decimal(space.dim).sqrt()
        mixed = [
            (1 - share).sqrt() * x + share.sqrt() * y
            for x, y in zip(_unit(along), _unit(own), strict=True)
        ]
        square = sum((x * x for x in mixed), decimal.Decimal(0))
        scale = length / square.sqrt()
        return tuple(int((scale * x).to_integral_value(even)) for x in mixed)


def _as_integers(w: Floats) -> tuple[int, ...]:
    return tuple(np.rint(LARGEST_WEIGHT * w / np.abs(w).max()).astype(np.int64).tolist())


def _in_coordinates(features: NamedFeatures, way: Explanation) -> Ints:
    """The way (d,) in the run's coordinates, up to its length; exact."""
    count, found = len(features.names), np.zeros(features.dim, dtype=np.int64)
    for at, weight in zip(way.regressors, way.weights, strict=True):
        if at < count:
            found += weight * np.array(features.map[at], dtype=np.int64)
        else:
            found[at - count] += weight * FEATURE_GRID
    return found


def _unit(values: Ints) -> list[decimal.Decimal]:
    """Values (d,) at length 1, or all 0, to the context's digits."""
    whole: list[int] = values.tolist()
    length = decimal.Decimal(sum(x * x for x in whole)).sqrt() or decimal.Decimal(1)
    return [decimal.Decimal(x) / length for x in whole]
