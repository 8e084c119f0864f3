"""When further votes of a step are not worth their price, under a rule that has a posterior.

The step δ = ℓ·ŵ/R with R = √(|ŵ|² + tr P) is expected to gain E[w·δ] = ℓ|ŵ|²/R in value, in
units of the link. A further vote with feature x moves ŵ along e = Px/|Px|, by as much as it lowers
tr P: by f = λ|Px|²/(1 + λxᵀPx) in square, with λ = p(1 − p) the information of a vote at
p = σ(xᵀŵ). To second order it gains (ℓf/R)(1 − 2α + 1.5αγ), with α = (ŵ·e)²/R² and γ = |ŵ|²/R²;
the bracket is within [1/3, 1]. That later steps use the vote too, the less the older it is, is not
counted: set the price accordingly.

Under ``regression`` ℓ is the radius of the ball that holds the recommended point, and the gain is
that of the recommendation. Only rules with a posterior may look: it does not depend on why one
stopped asking. For the other rules a stop that looks at the votes is biased (docs/active.md has
by how much).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from szpo.errors import UsageError
from szpo.optim.rules.registry import rule_of
from szpo.optim.rules.rule import perturbations
from szpo.optim.state import State
from szpo.optim.vote_regression import Fit
from szpo.optim.weighted_votes import weigh
from szpo.types import Floats, Query, Tally


def worth(known: Fit, x: Floats, length: ArrayLike) -> Floats:
    """What one further vote with feature x (..., d) is expected to gain at a step of ``length``.

    In link units of value, (...); 0 or more.
    """
    Px = np.einsum("...ij,...j->...i", known.covariance, x)
    p = special.expit((x * known.w).sum(-1))
    information = p * (1 - p)
    fall = information * (Px * Px).sum(-1) / (1 + information * (x * Px).sum(-1))
    trace = np.trace(known.covariance, axis1=-2, axis2=-1)
    square, along = (known.w**2).sum(-1), (known.w * Px).sum(-1) ** 2
    total = square + trace
    alpha = along / np.maximum((Px * Px).sum(-1), 1e-300) / total
    bracket = 1 - 2 * alpha + 1.5 * alpha * square / total
    return np.asarray(np.asarray(length) * fall / np.sqrt(total) * bracket)


def worth_asking(state: State, query: Query, tally: Tally) -> Floats:
    """`worth` of a further vote on each direction (K,), given the votes of the step so far.

    Raises:
        UsageError: the run's rule has no posterior.
    """
    settings, rule = state.settings, rule_of(state.settings.rule)
    if rule.known is None:
        raise UsageError(
            f"stopping: rule {settings.rule} keeps no posterior; only regression may stop"
        )
    at = perturbations(settings, query, None)
    votes = weigh(settings, None, query.step, tally, None)
    known, length = rule.known(settings, state.carried, at, votes)
    return worth(known, at.features(settings.distance), length)
