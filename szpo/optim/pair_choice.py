"""Which pair of answers is shown: the one whose verdict is expected to say most.

The worth of a pair is the mutual information between its verdict and the explanations that the fit
of the votes so far keeps (Houlsby et al., "Bayesian active learning for classification and
preference learning", arXiv 1112.5745). What the fit does not keep counts as under the prior. Worth
is rounded before it is compared, and a little chance always stays, so nothing is never asked.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from scipy import special

from szpo import seeds
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit
from szpo.types import Floats, Ints

UNITS: Final = 2.0**20
"""Worth is a whole number of 2⁻²⁰ nats, so that no choice depends on a last bit."""
BY_CHANCE: Final = 8
"""One row of so many is a pair drawn by chance."""
LEAST_CHANCE: Final = 1e-4
"""Explanations below this probability count as not kept."""
WIDTH: Final = 2.0
"""Prior standard deviation of the logit that a coefficient which is not kept gives."""


def worth(x: Floats, found: SparseFit | None, prior: SparsePrior) -> Ints:
    """What a verdict on each pair, with regressors x (pairs, k), is worth, in 2⁻²⁰ nats.

    ``found``: the fit of the votes so far; None before the first.
    """
    variances, means = _mean_entropies()
    deviations = x * (WIDTH / prior.scale)
    before = np.interp(deviations * deviations, variances, means) @ prior.features()
    if found is None:
        return _rounded(np.log(2) - before)
    kept = [each for each in found.kept if each.chance > LEAST_CHANCE]
    chances = np.array([each.chance for each in kept])
    rest = max(0.0, 1 - float(chances.sum()))
    logits = [x[:, list(each.support)] @ each.w for each in kept]
    each = special.expit(np.stack(logits, axis=1)) if kept else np.zeros((len(x), 0))
    whole = _entropy(each @ chances + rest / 2)
    return _rounded(whole - _entropy(each) @ chances - rest * before)


def choose(root_seed: int, step: int, row: int, worths: Ints, *, known: bool = True) -> int:
    """The index of the pair to show in a row of a step; the first of equal ones, or by chance.

    Without ``known`` features of the texts chance alone decides.
    """
    key = seeds.derive(root_seed, "pair", step=step, k=row)
    if not known or seeds.integer(key, 0, BY_CHANCE) == 0:
        return seeds.integer(key, 1, len(worths))
    return int(worths.argmax())


def _rounded(nats: Floats) -> Ints:
    return np.asarray(np.rint(UNITS * nats), dtype=np.int64)


def _entropy(p: Floats) -> Floats:
    return np.asarray(special.entr(p) + special.entr(1 - p))


@functools.cache
def _mean_entropies() -> tuple[Floats, Floats]:
    """Mean entropy of a verdict whose logit is N(0, v), nats, for a table of variances v."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    variances = np.concatenate([[0.0], np.geomspace(1e-3, 400, 200)])
    chances = special.expit(np.sqrt(variances)[:, None] * nodes)
    return variances, _entropy(chances) @ (weights / weights.sum())
