"""crowd-kit's one-coin Dawid–Skene on a history of votes, for a report (the extra `crowd`)."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np

from szpo.aggregation.weighting import History
from szpo.errors import UsageError
from szpo.types import Floats

ROUNDS: Final = 50


def one_coin(history: History, rounds: int = ROUNDS) -> Floats:
    """Each voter's accuracy (P,) by `crowdkit.aggregation.OneCoinDawidSkene`; NaN without votes.

    Tasks are the comparisons that two or more answered with a side, each with its mirror image:
    which end of a direction is called plus means nothing, so that neither side may be the rarer.

    Raises:
        UsageError: crowd-kit is not installed.
    """
    try:
        import pandas as pd
        from crowdkit.aggregation.classification.dawid_skene import OneCoinDawidSkene
    except ModuleNotFoundError as error:
        raise UsageError(f"--crowd needs {error.name}: pip install 'szpo[crowd]'") from None
    own = np.where(np.abs(history.verdicts) == 1, history.verdicts, 0)
    several = (own != 0).sum(0) > 1
    rows: list[tuple[Any, ...]] = []
    for voter, r, n in zip(*np.nonzero((own != 0) & several), strict=True):
        side = int(own[voter, r, n])
        rows += [(f"{r}/{n}/{image}", int(voter), side * image) for image in (1, -1)]
    found = np.full(len(history.voters), np.nan)
    if rows:
        votes = pd.DataFrame(rows, columns=["task", "worker", "label"])
        with warnings.catch_warnings():  # warnings about its use of pandas are not ours
            warnings.simplefilter("ignore")
            # It stops at the first round that gains less than tol: with a negative one never.
            fitted = OneCoinDawidSkene(n_iter=rounds, tol=-1.0).fit(votes)
        skills = {int(voter): float(skill) for voter, skill in dict(fitted.skills_).items()}
        found = np.array([skills.get(i, np.nan) for i in range(len(found))])
    return found
