"""Infer a taste from votes and texts alone, for runs whose coordinates have no names.

Votes are regressed on the differences of the shown texts in the dictionary's features, under the
sparse prior of `szpo.optim.sparse_prior`, as in a run with named features. The result describes
the votes. It does not say whether the policy can be moved that way.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

from szpo.analysis import vote_rows
from szpo.errors import UsageError
from szpo.features import dictionary
from szpo.ledger.database import Ledger
from szpo.optim import named_features, sparse_regression
from szpo.optim.named_features import Claim, NamedFeatures
from szpo.optim.sparse_prior import SparsePrior, group_features
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED, Votes
from szpo.types import FEATURE_GRID, Comparison, Floats

MAX_TEXTS: Final = 2_000
"""The most texts that are read, from the last comparisons; this takes a few seconds."""
FEWEST: Final = 5
"""A feature is used if it differs in at least this many comparisons."""
COMPONENTS: Final = 8
"""Number of mixtures of features, for tastes that one or two features do not explain."""


def read(ledger: Ledger) -> tuple[int, tuple[Claim, ...]] | None:
    """The number of votes read, and the claims about their taste, the likeliest first.

    None where the Bayes factor for any taste is below the one that a run needs. With random votes
    it is above in 3 of 255 runs of forty votes.
    """
    try:
        cast = vote_rows.read_judged(ledger)
    except UsageError:  # no vote on a closed round
        return None
    texts = np.cumsum([2 * len(each.rows) for each in cast.comparisons[::-1]])
    read_back = max(1, int((texts <= MAX_TEXTS).sum()))  # one comparison may have more
    first = len(cast.comparisons) - read_back
    newest = cast.which >= first
    which, y = cast.which[newest] - first, cast.y[newest]
    names, x = _differences(cast.comparisons[first:])
    if not names:
        return None
    up = np.bincount(which, y, len(x)).astype(np.float64)
    down = np.bincount(which, 1 - y, len(x)).astype(np.float64)
    features, mixed, prior = _prior(names, x)
    design = np.concatenate([x, mixed], axis=1)
    votes = Votes(design, up, down)
    found = sparse_regression.fit_sparse(votes, prior)
    if found.log_factor < math.log(BAYES_FACTOR_NEEDED):
        return None
    return len(y), named_features.claims(found, features)


def _differences(comparisons: tuple[Comparison, ...]) -> tuple[tuple[str, ...], Floats]:
    """Features that differ, and each comparison's plus less minus, scaled to mean square 1."""
    rows = [row for each in comparisons for row in each.rows]
    entries = dictionary.holding({row.prompt.text for row in rows})
    held = frozenset(each.name for each in entries)
    x = np.array(
        [
            sum(
                _values(row.prompt.text, row.plus.text) - _values(row.prompt.text, row.minus.text)
                for row in each.rows
            )
            for each in comparisons
        ]
    ).reshape(len(comparisons), -1)
    known = np.array([each.name in held for each in dictionary.ENTRIES])
    kept = known & ((x != 0).sum(0) >= FEWEST)
    names = tuple(each.name for each, keep in zip(dictionary.ENTRIES, kept, strict=True) if keep)
    return names, x[:, kept] / np.sqrt((x[:, kept] ** 2).mean(0))


@lru_cache(maxsize=2 * MAX_TEXTS)
def _values(prompt: str, answer: str) -> Floats:
    return np.array([above / below for above, below in dictionary.ratios(prompt, answer)])


def _prior(names: tuple[str, ...], x: Floats) -> tuple[NamedFeatures, Floats, SparsePrior]:
    """Features in groups that differ alike, their leading mixtures, and the prior of both."""
    groups = group_features(x.T @ x)
    _, sizes, axes = np.linalg.svd(x, full_matrices=False)
    axes, sizes = axes[:COMPONENTS], sizes[:COMPONENTS]
    shares = np.round(FEATURE_GRID * axes.T * sizes / math.sqrt(len(x))).astype(int)
    features = NamedFeatures(
        names, tuple(groups.tolist()), (FEATURE_GRID,) * len(names),
        tuple(map(tuple, shares.tolist())), len(sizes), dictionary.digest(),
    )  # fmt: skip
    prior = SparsePrior(
        np.array([*groups, *[-1] * len(sizes)]),
        np.array([*np.ones(len(names)), *np.maximum(sizes / math.sqrt(len(x)), 1e-9)]),
    )
    return features, x @ axes.T, prior
