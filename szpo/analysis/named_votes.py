"""The votes of any run by features that its operator names, and their fit.

It is the fit of runs on named features (`szpo.optim.sparse_regression`): what the votes are about
is one feature or two of different groups, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from szpo.analysis import vote_rows
from szpo.analysis.features import Feature, differences
from szpo.ledger.database import Ledger
from szpo.optim.sparse_prior import SparsePrior, group_features
from szpo.optim.sparse_regression import SparseFit, fit_sparse
from szpo.optim.vote_regression import Votes
from szpo.types import Floats

USUAL: Final = "length,readability,politeness,sentiment,questions,repetition,overlap"
"""Features that are fitted where none are named; for English texts."""


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


def read_votes(ledger: Ledger, features: Sequence[Feature]) -> FeatureVotes:
    """The counted votes of a run's closed rounds, by the differences in these features."""
    cast = vote_rows.read_judged(ledger)
    x = differences(features, cast.comparisons)[cast.which]
    return FeatureVotes(x, cast.y, cast.panelist, [cast.comparisons[i].id for i in cast.which])


def fit(votes: FeatureVotes) -> tuple[Floats, SparseFit]:
    """The standard deviations (p,) of the differences, and the posterior for these as units.

    Each differs somewhere. Features that differ alike in what was shown are of one group.
    """
    scale = np.sqrt(np.mean(votes.x**2, axis=0))
    z = votes.x / scale
    prior = SparsePrior(group_features(z.T @ z), np.ones(len(scale)))
    return scale, fit_sparse(Votes(z, votes.y, 1 - votes.y), prior)
