"""Cluster panelists by taste: how many tastes a panel has, and who has which.

The result is one of five verdicts (`Verdict`). A permutation test says whether panelists differ at
all (`heterogeneity_p`). How many tastes there are, and how far
panelists agree within and between them, is measured on votes that were left out of the fit, since
clusters found in votes always seem to agree on those votes.

The model is a mixture of K tastes, one for each panelist. The reward under taste k is r(x, z = k)
= xᵀw_k. With K values of z the posterior q(z | votes) is computed, not learned by an encoder, so
the evidence lower bound is tight and expectation–maximisation raises it (Dempster, Laird and
Rubin, 1977). The encoder of `szpo_simulators.worlds.vpl` would need thousands of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from scipy import special

from szpo import seeds
from szpo.analysis.named_votes import FeatureVotes
from szpo.errors import UsageError
from szpo.metrics import Share, share
from szpo.optim import bradley_terry
from szpo.optim.bradley_terry import Approximation, fit_ridge
from szpo.types import Floats, Ints

Verdict: TypeAlias = Literal["several", "sharpness", "unlike", "one", "few"]
"""In order: several tastes; one taste, held with different sharpness; panelists differ but in no
groups; one taste; too few votes to decide."""

RIDGE: Final = 1.0
"""Precision of the prior on a cluster's weight, in logits per deviation of a difference."""
SHARED_RIDGE: Final = 0.1
"""The same of the taste that all share, from which panelists may differ."""
SHUFFLES: Final = 999
"""Random permutations of panelists over votes in `heterogeneity_p`."""
STARTS: Final = 8
ROUNDS: Final = 60
MAX_TASTES: Final = 4
"""The most tastes that are tried."""
FOLDS: Final = 5
LEVEL: Final = 0.05
MIN_POWER: Final = 0.8
"""From this power on, a test that finds no difference is evidence of one taste."""
PANELS: Final = 60
"""Number of simulated panels of two opposed halves, by which the power is estimated."""
AGREEMENT: Final = 0.70
"""Agreement of two simulated panelists with one taste, as of people and the reference panel."""


@dataclass(frozen=True)
class Clusters:
    """What the votes say about the tastes of G panelists."""

    verdict: Verdict
    p: float
    """P-value of "the panelists share one taste"."""
    power: float
    """Share of simulated panels of two opposed halves that the test detects."""
    votes: int
    names: tuple[str, ...]
    """(G,) panelists by pseudonym."""
    gains: tuple[float, ...]
    """For 1, 2, … tastes: left-out log-likelihood per vote above a coin's, nats."""
    errors: tuple[float, ...]
    """Standard errors, over panelists, of the differences of the gains from that of one taste."""
    found: Mixture
    """The fitted mixture, of one taste unless the verdict is several or sharpness."""
    within: Share
    """Share of pairs of left-out votes on one comparison with the same side, within clusters."""
    between: Share
    """The same for pairs between different clusters."""
    expected: Floats
    """(K, K) agreement that the fitted tastes would have on the comparisons that were asked."""

    @property
    def cosines(self) -> Floats:
        """(K, K) cosines between the clusters' tastes."""
        unit = self.found.weights / np.linalg.norm(self.found.weights, axis=1, keepdims=True)
        return np.asarray(unit @ unit.T)


def find_clusters(votes: FeatureVotes, *, seed: int) -> Clusters:
    """Look for groups of panelists who share a taste."""
    x, y = votes.x, votes.y
    names, panelist = np.unique(np.asarray(votes.panelists), return_inverse=True)
    _, comparison = np.unique(np.asarray(votes.comparisons), return_inverse=True)
    scale = np.sqrt(np.mean(x**2, axis=0))
    if len(names) < 2:
        raise UsageError("one panelist only: clusters need at least two; ask more people")
    if not scale.any():
        raise UsageError("no feature differs between the answers; name others with --features")
    z = x[:, scale > 0] / scale[scale > 0]
    p = heterogeneity_p(z, y, panelist, seeds.derive(seed, "clusters shuffles"))
    power = detectable(z, panelist, seed)
    most = min(MAX_TASTES, len(names))
    fold = (
        seeds.permutation(seeds.derive(seed, "clusters parts"), int(comparison.max()) + 1) % FOLDS
    )[comparison]
    left = [_left_out(z, y, panelist, fold, k, seed) for k in range(1, most + 1)]
    gains = [float(np.mean(scores)) + np.log(2) for scores, _ in left]
    errors = [_error(scores - left[0][0], panelist) for scores, _ in left]
    best = int(np.argmax(gains))
    # The fewest tastes that are not surely worse than the best.
    k = next(
        k for k in range(best + 1)
        if gains[k] >= gains[best] - _error(left[best][0] - left[k][0], panelist)
    )  # fmt: skip
    if p >= LEVEL:
        k = 0
    found = fit_mixture(z, y, panelist, len(names), k + 1, seeds.derive(seed, "clusters", k=k))
    within, between = _agreement(y, panelist, comparison, fold, left[k][1])
    chances = special.expit(z @ found.weights.T)
    expected = (chances.T @ chances + (1 - chances).T @ (1 - chances)) / len(y)
    verdict: Verdict
    if p >= LEVEL:
        verdict = "one" if power >= MIN_POWER else "few"
    elif len(found.shares) == 1:
        verdict = "unlike"
    else:
        verdict = "sharpness" if one_direction(z, y, panelist, found) else "several"
    return Clusters(
        verdict, p, power, len(y), tuple(map(str, names)), tuple(gains), tuple(errors), found,
        within, between, expected,
    )  # fmt: skip


def detectable(x: Floats, who: Ints, seed: int) -> float:
    """The power of the test against a panel of two opposed halves, in [0, 1].

    Simulated panels vote on the same comparisons. A random half of the panelists likes a random
    direction of the features, the rest its opposite. Two of one taste agree on 70 %.
    """
    rng = seeds.generator(seeds.derive(seed, "clusters power"))
    seen = 0
    for i in range(PANELS):
        u = x @ rng.normal(size=x.shape[1])
        u *= _sharpness(u)
        side = np.where(rng.permutation(int(who.max()) + 1) % 2, 1.0, -1.0)
        votes = (rng.random(len(u)) < 1 / (1 + np.exp(-u * side[who]))).astype(np.float64)
        key = seeds.derive(seed, "clusters power", k=i)
        seen += heterogeneity_p(x, votes, who, key, shuffles=99) < LEVEL
    return seen / PANELS


def heterogeneity_p(
    x: Floats, y: Floats, who: Ints, key: bytes, shuffles: int = SHUFFLES
) -> float:
    """p-value of the test that all panelists share one weight vector.

    A permutation test: `_spread` against its value with panelists shuffled over votes. It is exact
    if comparisons are assigned to panelists independently of the votes; nan for one panelist.
    """
    if who.max() == 0:
        return float("nan")
    n, found, fit = len(y), 0, fit_ridge(x, y, SHARED_RIDGE)
    actual = float(_spread(x, y, who, fit, np.arange(n))) * (1 - 1e-9)  # equal ones count as found
    for start in range(0, shuffles, 100):  # bounds the memory
        count = min(100, shuffles - start)
        drawn = seeds.uniform(key, count * n, start * n).reshape(count, n)
        found += int((_spread(x, y, who, fit, np.argsort(drawn, axis=-1)) >= actual).sum())
    return (1 + found) / (1 + shuffles)


def _spread(x: Floats, y: Floats, who: Ints, fit: Approximation, orders: Ints) -> Floats:
    """Σ_g s_gᵀ I⁻¹ s_g · n/n_g (…,), s_g the sum of a panelist's scores, by ``orders`` (…, n)."""
    rows = bradley_terry.Rows(x, y, np.ones(len(y)))
    scores = x * bradley_terry.derivatives(rows, x @ fit.coef)[0][:, None]
    white = scores @ np.linalg.inv(np.linalg.cholesky(fit.information + fit.precision)).T
    places = np.argsort(who, kind="stable")
    counts = np.bincount(who)
    starts = np.r_[0, np.cumsum(counts)[:-1]]
    sums = np.add.reduceat(white[orders[..., places]], starts, axis=-2)
    return np.asarray(((sums**2).sum(-1) * len(y) / counts).sum(-1))


def _sharpness(u: Floats) -> float:
    """The factor on the logits ``u`` at which two voters agree on `AGREEMENT` of the questions."""
    sizes = np.abs(u[u != 0])
    if not len(sizes):
        return 1.0
    low, high = 1e-3 / sizes.mean(), 1e4 / sizes.mean()
    for _ in range(50):
        middle = (low * high) ** 0.5
        chance = 1 / (1 + np.exp(-np.minimum(middle * sizes, 50)))
        if np.mean(chance**2 + (1 - chance) ** 2) < AGREEMENT:
            low = middle
        else:
            high = middle
    return float((low * high) ** 0.5)


def _left_out(
    z: Floats, y: Floats, who: Ints, fold: Ints, k: int, seed: int
) -> tuple[Floats, list[Ints]]:
    """Log-likelihood (n,) of left-out votes, and each part's clusters of the panelists (G,)."""
    groups, scores, members = int(who.max()) + 1, np.zeros(len(y)), []
    for part in range(FOLDS):
        test = fold == part
        key = seeds.derive(seed, "clusters left out", step=part, k=k)
        found = fit_mixture(z[~test], y[~test], who[~test], groups, k, key)
        chance = np.clip(found.predict(z[test], who[test]), 1e-9, 1 - 1e-9)
        scores[test] = y[test] * np.log(chance) + (1 - y[test]) * np.log1p(-chance)
        members.append(found.members)
    return scores, members


def _error(gaps: Floats, who: Ints) -> float:
    """Standard error of the mean of ``gaps``, clustered by panelist."""
    groups = int(who.max()) + 1
    sums = np.bincount(who, gaps - gaps.mean(), groups)
    return float(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(gaps))


def _agreement(
    y: Floats, who: Ints, comparison: Ints, fold: Ints, members: Sequence[Ints]
) -> tuple[Share, Share]:
    """Agreement of pairs of votes for a side on one comparison, within and between clusters."""
    hits, of = [0, 0], [0, 0]
    for number in np.flatnonzero(np.bincount(comparison) > 1):
        rows = np.flatnonzero((comparison == number) & (y != 0.5))
        for i, a in enumerate(rows):
            for b in rows[i + 1 :]:
                group = members[fold[a]]
                apart = int(group[who[a]] != group[who[b]])
                of[apart] += 1
                hits[apart] += int(y[a] == y[b])
    return share(hits[0], of[0]), share(hits[1], of[1])


def one_direction(z: Floats, y: Floats, who: Ints, found: Mixture) -> bool:
    """Whether every cluster's taste may be the strongest one's, held less sharply or not at all.

    Wald's test, on the votes of a cluster's members, compares its weights with the nearest
    multiple, not below 0, of the strongest cluster's.
    """
    first = int(np.argmax(np.linalg.norm(found.weights, axis=1)))
    strongest = found.weights[first]
    for k in range(len(found.weights)):
        own = found.members[who] == k
        if k == first or not own.any():
            continue
        fit = fit_ridge(z[own], y[own], RIDGE)
        curvature = fit.information + fit.precision
        towards = strongest @ curvature
        multiple = max(0.0, float(towards @ fit.coef / (towards @ strongest)))
        rest = fit.coef - multiple * strongest
        freedom = max(1, z.shape[1] - 1)
        if rest @ curvature @ rest > special.chdtri(freedom, LEVEL):
            return False
    return True


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of K tastes, and the probability of each taste for each panelist."""

    weights: Floats
    """(K, p), the taste of most panelists first."""
    shares: Floats
    """(K,)"""
    posterior: Floats
    """(G, K) probability of each taste, given a panelist's votes."""

    @property
    def members(self) -> Ints:
        """(G,) the likeliest taste of each panelist."""
        found: Ints = np.argmax(self.posterior, axis=1).astype(np.int64)
        return found

    def predict(self, x: Floats, who: Ints) -> Floats:
        """Probability of plus (n,) for panelists who, each by their posterior."""
        return np.asarray((special.expit(x @ self.weights.T) * self.posterior[who]).sum(-1))


def fit_mixture(x: Floats, y: Floats, who: Ints, groups: int, k: int, key: bytes) -> Mixture:
    """Fit K tastes: the best of `STARTS` runs of expectation–maximisation, all of them at once.

    Standardised differences ``x`` are (n, p), votes ``y`` (n,): 1 plus, 0 minus, ½ tie. ``who``
    (n,): the panelist of each vote, 0 … G − 1; one without votes has the prior.
    """
    n, starts, fit, weights = len(y), STARTS if k > 1 else 1, None, np.zeros(0)
    u = seeds.uniform(key, starts * groups * k).reshape(starts, groups, k)
    posterior = -np.log1p(-u)  # exponential draws, normalised: anywhere on the simplex
    posterior /= posterior.sum(-1, keepdims=True)
    design, every = np.broadcast_to(x, (starts, k, *x.shape)), bradley_terry.Rows(x, y, np.ones(n))
    one_hot = np.zeros((groups, n))
    one_hot[who, np.arange(n)] = 1.0
    for _ in range(ROUNDS if k > 1 else 1):
        share = np.swapaxes(posterior[:, who], 1, 2)  # q(z | votes), (starts, k, n)
        fit = fit_ridge(design, share * y, RIDGE, share, fit)  # M step
        weights = fit.coef
        shares = (posterior.sum(1) + 1) / (groups + k)  # one phantom panelist for each taste
        # E step: q(z | votes) ∝ share of z · likelihood of the panelist's votes
        each = bradley_terry.log_likelihood(every, weights @ x.T)
        joint = np.swapaxes(each @ one_hot.T, 1, 2) + np.log(shares)[:, None]  # (starts, G, k)
        evidence = special.logsumexp(joint, axis=-1)
        posterior = np.exp(joint - evidence[..., None])
        prior = RIDGE / 2 * (weights**2).sum((-1, -2))
        bound = evidence.sum(-1) - prior + np.log(shares).sum(-1)
    best = int(np.argmax(bound))
    order = np.argsort(-posterior[best].sum(0), kind="stable")
    return Mixture(weights[best][order], shares[best][order], posterior[best][:, order])
