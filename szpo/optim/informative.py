"""What to ask next: directions along which votes differ, and pairs whose verdict says most.

A direction is a draw from the posterior over explanations of the votes so far, plus the seed's own
direction as noise. Sampling from the posterior asks where something is still open (Thompson 1933,
"On the likelihood that one unknown probability exceeds another", Biometrika 25). The noise is
never zero, so every direction stays possible. The posterior is computed in floating point and
rounded to integers. All later arithmetic is exact, so every machine draws the same directions.

Which pair of answers is shown: the one whose verdict is expected to say most. The worth of a pair
is the mutual information between its verdict and the explanations that the fit of the votes so far
keeps (Houlsby et al., "Bayesian active learning for classification and preference learning", arXiv
1112.5745). What the fit does not keep counts as under the prior. Worth is rounded before it is
compared, and a little chance always stays, so nothing is never asked.
"""

from __future__ import annotations

import decimal
import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import special

from szpo import seeds
from szpo.optim import parameters, sample_directions
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import Space
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit
from szpo.types import FEATURE_GRID, Explanation, Floats, Grid, Ints

NOISE: Final = 0.33
"""`Settings.asking_noise` of runs: the seed's part is .7 times as long as the posterior's."""
CHANCE_UNITS: Final = 2**16 - 1
"""Integer that a probability of 1 becomes: the chances of all explanations add up to about it."""
LARGEST_WEIGHT: Final = 2**15 - 1
"""Integer that the largest weight of each explanation becomes."""
SMALLEST_COEF: Final = 1e-6
"""Explanations with smaller coefficients are left out: votes cancel, or there are none."""
SMALLEST_PROBABILITY: Final = 1e-9
"""Probability below which an explanation is left out."""

UNITS: Final = 2.0**20
"""Worth is a whole number of 2⁻²⁰ nats, so that no choice depends on a last bit."""
BY_CHANCE: Final = 8
"""One row of so many is a pair drawn by chance."""
LEAST_CHANCE: Final = 1e-4
"""Explanations below this probability count as not kept."""
WIDTH: Final = 2.0
"""Prior standard deviation of the logit that a coefficient which is not kept gives."""


def explanations_of(fit: SparseFit, features: NamedFeatures) -> tuple[Explanation, ...]:
    """The explanations of the votes, as weights on regressors; empty while the votes say nothing.

    A feature is chosen in proportion to its probability, then one of its explanations in
    proportion to theirs. A named coordinate counts as a feature does; all coordinates together
    count as one.
    """
    count = len(features.names)
    every = tuple(range(count, features.columns))
    listed, share = [], np.zeros(0)
    for each in fit.kept:
        if (
            each.chance >= SMALLEST_PROBABILITY
            and np.abs(each.w).max(initial=0.0) >= SMALLEST_COEF
        ):
            members = 1 if each.support == every else len(each.support)
            listed.append(each)
            share = np.append(share, each.chance * members)
    chances = np.rint(CHANCE_UNITS * share / max(share.sum(), SMALLEST_PROBABILITY)).astype(
        np.int64
    )
    return tuple(
        Explanation(int(chance), each.support, _as_integers(each.w))
        for chance, each in zip(chances, listed, strict=True)
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
    """Direction k of a step: along a random explanation with a random sign, plus noise; |v| = √d.

    ``noise``: the share of the seed's own direction in |v|², in (0, 1].
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
    """The explanation's direction (d,) in the run's coordinates, up to its length; exact."""
    count, along = len(features.names), np.zeros(features.dim, dtype=np.int64)
    for at, weight in zip(way.regressors, way.weights, strict=True):
        if at < count or features.axes:
            row = features.map[at] if at < count else features.axes[at - count]
            along += weight * np.array(row, dtype=np.int64)
        else:
            along[at - count] += weight * FEATURE_GRID
    return along


def _unit(values: Ints) -> list[decimal.Decimal]:
    """Values (d,) scaled to length 1 with the context's precision; zeros stay zeros."""
    whole: list[int] = values.tolist()
    length = decimal.Decimal(sum(x * x for x in whole)).sqrt() or decimal.Decimal(1)
    return [decimal.Decimal(x) / length for x in whole]


def worth(x: Floats, fit: SparseFit | None, prior: SparsePrior) -> Ints:
    """What a verdict on each pair, with regressors x (pairs, k), is worth, in 2⁻²⁰ nats.

    ``fit``: of the votes so far; None before the first.
    """
    variances, means = _mean_entropies()
    deviations = x * (WIDTH / prior.scale)
    before = np.interp(deviations * deviations, variances, means) @ prior.features()
    if fit is None:
        return _rounded(np.log(2) - before)
    kept = [each for each in fit.kept if each.chance > LEAST_CHANCE]
    chances = np.array([each.chance for each in kept])
    rest = max(0.0, 1 - float(chances.sum()))
    logits = [x[:, list(each.support)] @ each.w for each in kept]
    each = special.expit(np.stack(logits, axis=1)) if kept else np.zeros((len(x), 0))
    whole = verdict_entropy(each @ chances + rest / 2)
    return _rounded(whole - verdict_entropy(each) @ chances - rest * before)


def choose_pair(root_seed: int, step: int, row: int, worths: Ints, *, known: bool = True) -> int:
    """The index of the pair to show in a row of a step; the first of equal ones, or by chance.

    Without ``known`` features of the texts chance alone decides.
    """
    key = seeds.derive(root_seed, "pair", step=step, k=row)
    if not known or seeds.integer(key, 0, BY_CHANCE) == 0:
        return seeds.integer(key, 1, len(worths))
    return int(worths.argmax())


def _rounded(nats: Floats) -> Ints:
    return np.asarray(np.rint(UNITS * nats), dtype=np.int64)


def verdict_entropy(p: Floats) -> Floats:
    """Entropy in nats of verdicts that prefer one side with the chances ``p``."""
    return np.asarray(special.entr(p) + special.entr(1 - p))


@functools.cache
def _mean_entropies() -> tuple[Floats, Floats]:
    """Mean entropy of a verdict whose logit is N(0, v), nats, for a table of variances v."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    variances = np.concatenate([[0.0], np.geomspace(1e-3, 400, 200)])
    chances = special.expit(np.sqrt(variances)[:, None] * nodes)
    return variances, verdict_entropy(chances) @ (weights / weights.sum())
