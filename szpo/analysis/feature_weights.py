"""Fit votes to named features by Bradley–Terry: for the panel and for each panelist.

P(plus preferred) = σ(wᵀx), with x the difference of the two sides' features (Bradley and Terry,
1952, with features), and a ridge. There is no intercept, since which side is plus is arbitrary. A
tie is half a vote for each side, or a third outcome (Davidson, 1970). `newton`, `over_panelists`
and `halves` take any leading axes, which are repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from szpo import seeds
from szpo.analysis import vote_rows
from szpo.analysis.features import Feature, differences
from szpo.errors import RunError
from szpo.ledger.database import Ledger
from szpo.metrics import Share, Z, share
from szpo.types import Floats, Ints

Ties: TypeAlias = Literal["half", "davidson"]

RIDGE = 0.1
"""Precision of the prior on a weight in logits per standard deviation: N(0, 3.2²)."""
MIN_PANELISTS = 4
"""Panelists needed for intervals over panelists; with fewer, intervals are over votes."""
SHUFFLES = 999
"""Random permutations of panelists over votes in `heterogeneity_p`."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Weights (…, p) in logits per unit of x, and minus the log posterior's second derivative.

    Under Davidson's model both end with log ν.
    """

    weights: Floats
    information: Floats
    """(…, p, p), including the ridge."""


def newton(
    x: Floats, y: Floats, ridge: float = RIDGE, ties: Ties = "half", centre: Floats | None = None
) -> Fit:
    """The posterior mode by Newton's method.

    Differences ``x`` are (…, n, p), votes ``y`` (…, n): 1 plus, 0 minus, ½ tie. ``ridge``:
    precision of the prior N(``centre``, 1/ridge) on each weight.

    >>> found = newton(np.ones((3, 1)), np.array([1.0, 1.0, 0.0]), ridge=1e-9)
    >>> found.weights.round(4).tolist()  # the logarithm of the odds, log 2
    [0.6931]
    """
    if ties == "davidson" and not (y == 0.5).any(-1).all():
        raise RunError("Davidson's model needs a tie among the votes; give --ties half")
    p = x.shape[-1]
    size = p + (ties == "davidson")
    prior = np.zeros(size)
    prior[:p] = ridge
    middle = np.zeros((*x.shape[:-2], size))
    if centre is not None:
        middle[..., :p] = centre
    w = middle.copy()
    for _ in range(200):
        scores, information = _derivatives(x, y, w, ties)
        information = information + np.diag(prior)
        gradient = scores.sum(-2) - prior * (w - middle)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        w = w + np.clip(step, -2.0, 2.0)  # a longer step of a separable fit would overshoot
        if np.abs(step).max(initial=0.0) < 1e-10:
            return Fit(w, information)
    raise RunError(
        "the fit of the features does not converge; raise --ridge or name fewer features"
    )


def _derivatives(x: Floats, y: Floats, w: Floats, ties: Ties) -> tuple[Floats, Floats]:
    """Each vote's score (…, n, size), and minus the second derivative of the log-likelihood."""
    p = x.shape[-1]
    u = (x @ w[..., :p, None])[..., 0]
    if ties == "half":
        chance = special.expit(u)
        weighed = x * (chance * (1 - chance))[..., None]
        return x * (y - chance)[..., None], np.swapaxes(x, -1, -2) @ weighed
    # P(plus, minus, tie) ∝ (e^{u/2}, e^{−u/2}, ν)
    u = np.clip(u, -60.0, 60.0)
    nu = np.exp(np.clip(w[..., p], -20.0, 20.0))[..., None]
    sinh, cosh = np.sinh(u / 2), np.cosh(u / 2)
    z = 2 * cosh + nu
    wide = np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1)
    scores = np.stack([y - 0.5 - sinh / z, (y == 0.5) - nu / z], axis=-1)
    per_vote = np.concatenate([x * scores[..., :1], scores[..., 1:]], axis=-1)
    curves = np.empty((*u.shape, 2))
    curves[..., 0] = (1 + nu * cosh / 2) / z**2
    curves[..., 1] = nu / z * (1 - nu / z)
    cross = -nu * sinh / z**2
    information = np.swapaxes(wide, -1, -2) @ (
        np.concatenate([x * curves[..., :1], cross[..., None]], axis=-1)
    )
    information[..., p, :p] = information[..., :p, p] = (x * cross[..., None]).sum(-2)
    information[..., p, p] = curves[..., 1].sum(-1)
    return per_vote, information


def over_panelists(x: Floats, y: Floats, who: Ints, fit: Fit, ties: Ties = "half") -> Floats:
    """Covariance of the weights over panelists: the jackknife that leaves one panelist out.

    One Newton step for each (CR3 of Bell and McCaffrey, 2002; Pustejovsky and Tipton, 2018). With
    few panelists it is rather too wide, where the usual sandwich is far too narrow. ``fit`` is at
    the mode of `newton` for these differences and votes; ``who`` (n,) cast them, 0 … G − 1.
    """
    scores, _ = _derivatives(x, y, fit.weights, ties)
    groups = int(who.max()) + 1
    total = np.zeros(fit.information.shape)
    for g in range(groups):
        own = who == g
        _, part = _derivatives(x[..., own, :], y[..., own], fit.weights, ties)
        score = scores[..., own, :].sum(-2)
        left = np.linalg.solve(fit.information - part, score[..., None])
        total += left @ np.swapaxes(left, -1, -2)
    return np.asarray(total * (groups - 1) / groups)


def halves(x: Floats, y: Floats, who: Ints, fit: Fit, ties: Ties = "half") -> tuple[Floats, bool]:
    """Half widths (…, p) of the 95 % intervals, and whether they are over panelists.

    With G ≥ `MIN_PANELISTS` panelists they are, with Student's quantile at G − 1 degrees of
    freedom. Otherwise by the Laplace approximation, as if one person had cast all votes.
    """
    p, groups = x.shape[-1], int(who.max()) + 1
    clustered = groups >= MIN_PANELISTS
    quantile = float(special.stdtrit(groups - 1, 0.975)) if clustered else Z
    covariance = (
        over_panelists(x, y, who, fit, ties)
        if clustered
        else np.asarray(np.linalg.inv(fit.information), dtype=np.float64)
    )
    return quantile * np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1)[..., :p]), clustered


def spread(x: Floats, y: Floats, who: Ints, fit: Fit, orders: Ints) -> Floats:
    """Score statistic for different weights of panelists, one number per order (…,).

    Q = Σ_g s_gᵀ I⁻¹ s_g · n/n_g, with s_g the sum of a panelist's scores at the common fit, of
    ties as half votes. ``orders`` (…, n): the vote at each place; panelists keep their places.
    """
    scores, _ = _derivatives(x, y, fit.weights, "half")
    white = scores @ np.linalg.inv(np.linalg.cholesky(fit.information)).T
    places = np.argsort(who, kind="stable")
    counts = np.bincount(who)
    starts = np.r_[0, np.cumsum(counts)[:-1]]
    sums = np.add.reduceat(white[orders[..., places]], starts, axis=-2)
    return np.asarray(((sums**2).sum(-1) * len(y) / counts).sum(-1))


def heterogeneity_p(
    x: Floats, y: Floats, who: Ints, fit: Fit, key: bytes, shuffles: int = SHUFFLES
) -> float:
    """p-value of the test that all panelists share one weight vector.

    A permutation test: `spread` against its value with panelists shuffled over votes. It is exact
    if comparisons are assigned to panelists independently of the votes; nan for one panelist.
    """
    if who.max() == 0:
        return float("nan")
    n, found = len(y), 0
    actual = float(spread(x, y, who, fit, np.arange(n))) * (1 - 1e-9)  # equal ones count as found
    for start in range(0, shuffles, 100):  # bounds the memory
        count = min(100, shuffles - start)
        drawn = seeds.uniform(key, count * n, start * n).reshape(count, n)
        found += int((spread(x, y, who, fit, np.argsort(drawn, axis=-1)) >= actual).sum())
    return (1 + found) / (1 + shuffles)


def separable(x: Floats, y: Floats) -> bool:
    """Whether some w predicts every vote (ties with logit 0), and at least one vote strictly.

    The linear program of Konis (2007): maximise Σ sᵢ with 0 ≤ sᵢ ≤ 1 and ±xᵢᵀw ≥ sᵢ.

    >>> separable(np.array([[1.0], [2.0]]), np.array([1.0, 1.0]))
    True
    >>> separable(np.array([[1.0], [2.0]]), np.array([1.0, 0.0]))
    False
    """
    from scipy import optimize  # late: it loads half of scipy

    sided = y != 0.5
    signed = x[sided] * np.sign(y[sided] - 0.5)[:, None]
    n, p = signed.shape
    if not n:
        return False
    tied = x[~sided]
    found = optimize.linprog(
        np.r_[np.zeros(p), -np.ones(n)],
        A_ub=np.hstack([-signed, np.eye(n)]),
        b_ub=np.zeros(n),
        A_eq=np.hstack([tied, np.zeros((len(tied), n))]) if len(tied) else None,
        b_eq=np.zeros(len(tied)) if len(tied) else None,
        bounds=[(None, None)] * p + [(0, 1)] * n,
    )
    return bool(found.status == 0 and -found.fun > 1e-6)


FOLDS = 10
"""Parts into which comparisons are divided to predict each part from the others."""


@dataclass(frozen=True, slots=True)
class FeatureVotes:
    """n votes, each with the difference of p features between the sides of its comparison."""

    x: Floats
    """(n, p) plus − minus, in the features' own units."""
    y: Floats
    """(n,) 1 plus, 0 minus, ½ tie."""
    panelists: Sequence[str]
    """(n,) the panelist of each vote."""
    comparisons: Sequence[str]
    """(n,) the comparison of each vote."""


@dataclass(frozen=True, slots=True)
class Taste:
    """The fitted weights of p features; a feature that never differs has weight nan."""

    weights: Floats
    """(p,) logits per standard deviation of the difference between the sides."""
    low: Floats
    high: Floats
    """Ends of the 95 % intervals."""
    scale: Floats
    """(p,) this standard deviation, about 0 since sides are arbitrary, in the feature's units."""
    votes: int
    ties: int
    panelists: int
    clustered: bool
    """The intervals are clustered by panelist, so that they hold for other such panelists."""
    separable: bool
    """Some weights predict every vote, so that only the ridge keeps them finite."""
    alone: tuple[Share, ...]
    """Per feature, the share of votes for a side that chose the batch with more of it."""
    foretold: Floats
    """(votes,) the logit of plus by a fit to the votes on other comparisons."""
    held_out: Share
    """The share of votes for a side that ``foretold`` has right."""
    heterogeneity_p: float
    """P-value of "the panelists share these weights"; nan for one panelist."""
    nu: float | None = None
    """Davidson's ν."""


def read_votes(ledger: Ledger, features: Sequence[Feature]) -> FeatureVotes:
    """The counted votes of a run's closed rounds, by the differences in these features."""
    cast = vote_rows.read_judged(ledger)
    x = differences(features, cast.comparisons)[cast.which]
    return FeatureVotes(x, cast.y, cast.panelist, [cast.comparisons[i].id for i in cast.which])


def foretell(x: Floats, y: Floats, groups: Ints, key: bytes, *, ridge: float = RIDGE) -> Floats:
    """Logits (n,) of plus by fits to other comparisons, in at most `FOLDS` parts; nan without any.

    Differences ``x`` are (n, p). ``groups`` (n,): the comparison of each vote, whose votes are
    left out together.
    """
    count = int(groups.max()) + 1
    fold = (seeds.permutation(key, count) % FOLDS)[groups]
    found = np.full(len(y), np.nan)
    for part in np.unique(fold):
        test = fold == part
        if not test.all():
            found[test] = x[test] @ newton(x[~test], y[~test], ridge).weights
    return found


def held_out(foretold: Floats, y: Floats) -> Share:
    """The share of votes for a side, of those foretold, that have it right; logit 0 counts half.

    >>> held_out(np.array([1.0, -1.0, 0.0]), np.array([1.0, 1.0, 0.0])).value
    0.5
    """
    sided = (y != 0.5) & ~np.isnan(foretold)
    right = np.where(foretold == 0, 0.5, (foretold > 0) == (y > 0.5))[sided]
    return share(float(right.sum()), len(right))


def misses(votes: FeatureVotes, foretold: Floats) -> list[int]:
    """The votes for a side that features foretell wrongly, surest first, one a comparison.

    An expert who reads what these votes preferred may see which feature lacks.
    """
    against = foretold * np.sign(0.5 - votes.y)
    order = [int(i) for i in np.argsort(-against, kind="stable") if against[i] > 0]
    return list({votes.comparisons[i]: i for i in order}.values())


def fit_taste(
    votes: FeatureVotes, *, seed: int, ridge: float = RIDGE, ties: Ties = "half"
) -> Taste:
    """Fit the weights of features to the votes of all panelists.

    ``seed`` draws the parts of `held_out` and the shuffles of the permutation test, ``ridge`` is
    the precision of the prior on each standardised weight.
    """
    x, y = votes.x, votes.y
    scale = np.sqrt(np.mean(x**2, axis=0))
    moves = scale > 0
    if not moves.any():
        raise RunError("no feature differs in any comparison; name others")
    z = x[:, moves] / scale[moves]
    _, panelists = np.unique(np.asarray(votes.panelists), return_inverse=True)
    _, groups = np.unique(np.asarray(votes.comparisons), return_inverse=True)
    ties = ties if (y == 0.5).any() else "half"
    fit = newton(z, y, ridge, ties)
    p = z.shape[1]
    half, clustered = halves(z, y, panelists, fit, ties)
    plain = fit if ties == "half" else newton(z, y, ridge)
    foretold = foretell(z, y, groups, seeds.derive(seed, "taste parts"), ridge=ridge)
    weights = _spread_out(fit.weights[:p], moves)
    width = _spread_out(half, moves)
    return Taste(
        weights=weights, low=weights - width, high=weights + width, scale=scale,
        votes=len(y), ties=int((y == 0.5).sum()), panelists=int(panelists.max()) + 1,
        clustered=clustered, separable=separable(z, y),
        alone=tuple(_alone(x[:, j], y) for j in range(x.shape[1])),
        foretold=foretold, held_out=held_out(foretold, y),
        heterogeneity_p=heterogeneity_p(
            z, y, panelists, plain, seeds.derive(seed, "taste shuffles")
        ),
        nu=float(np.exp(fit.weights[p])) if ties == "davidson" else None,
    )  # fmt: skip


def _spread_out(values: Floats, moves: NDArray[np.bool_]) -> Floats:
    wide = np.full(len(moves), np.nan)
    wide[moves] = values
    return wide


def _alone(x: Floats, y: Floats) -> Share:
    decided = (y != 0.5) & (x != 0)
    return share(int(((x > 0) == (y > 0.5))[decided].sum()), int(decided.sum()))


def fit_panelists(
    votes: FeatureVotes, panel: Taste
) -> dict[str, tuple[int, Floats, Floats, Floats]]:
    """Every panelist's votes, weights and their ends, by name, shrunk towards the panel's.

    The prior of each weight has the panel's as its mean and a standard deviation of one logit, so
    that few votes change little. Intervals are by Laplace's approximation.
    """
    moves = panel.scale > 0
    z = votes.x[:, moves] / panel.scale[moves]
    found = {}
    for name in sorted(set(votes.panelists)):
        mine = np.array([one == name for one in votes.panelists])
        fit = newton(z[mine], votes.y[mine], 1.0, centre=panel.weights[moves])
        half = Z * np.sqrt(np.diagonal(np.linalg.inv(fit.information)))
        weights, width = _spread_out(fit.weights, moves), _spread_out(half, moves)
        found[name] = int(mine.sum()), weights, weights - width, weights + width
    return found
