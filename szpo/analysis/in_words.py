"""How much of a direction of hidden states the dictionary says, on prompts left out.

The direction tells the two answers of a pair apart by a difference in logits. A ridge regression
on all named features foretells these differences on the prompts of a fold that it was not fitted
on; the groups with the largest parts of it are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from szpo.analysis import taught_taste
from szpo.optim import named_features
from szpo.optim.named_features import NamedFeatures
from szpo.types import Floats

MOST: Final = 4
"""Most groups that are named."""
FOLDS: Final = 5
RIDGES: Final = (0.5, 1.5, 5.0)
"""Ridges that are tried, in units of a row's mean square."""
LEAST: Final = 0.01
"""A smaller share is told as none."""


@dataclass(frozen=True, slots=True)
class InWords:
    """What the dictionary says of a direction."""

    share: float
    """Of the squared differences on prompts left out, from 0 to 1."""
    words: tuple[str, ...]
    """The groups that say it, the first one most; empty where ``share`` is 0."""

    def __str__(self) -> str:
        """The finding in a sentence.

        >>> str(InWords(0.31, ("shorter", "fewer lists")))
        'in words, 31 % of it on prompts left out: shorter, fewer lists; no words of the \
dictionary say the rest'
        >>> str(InWords(0.0, ()))
        'no words of the dictionary say any of it'
        """
        if not self.words:
            return "no words of the dictionary say any of it"
        said = f"in words, {100 * self.share:.0f} % of it on prompts left out"
        return f"{said}: {', '.join(self.words)}; no words of the dictionary say the rest"


def explain(x: Floats, apart: Floats, prompts: Sequence[str], named: NamedFeatures) -> InWords:
    """What features say of the differences that a direction makes.

    Args:
        x: (R, k): differences in the features of ``named``, in spreads.
        apart: (R,): differences along the direction, logits.
        prompts: (R,): the rows of one prompt are left out together.
        named: The features, with their groups.
    """
    place = {prompt: i % FOLDS for i, prompt in enumerate(sorted(set(prompts)))}
    fold, whole = np.array([place[prompt] for prompt in prompts]), float((apart**2).sum())
    errors = np.zeros(len(RIDGES))
    for each in range(FOLDS):
        out = fold == each
        if out.any() and not out.all():
            fits = [_ridge(x[~out], apart[~out], ridge) for ridge in RIDGES]
            errors += [((apart[out] - x[out] @ w) ** 2).sum() for w in fits]
        else:
            errors += (apart[out] ** 2).sum()
    share = 1 - float(errors.min()) / whole if whole else 0.0
    if share < LEAST:
        return InWords(0.0, ())
    w = _ridge(x, apart, RIDGES[int(errors.argmin())])
    said = []
    for group in named_features.groups(named):
        own = [i for i in group.members if i < len(w)]
        said.append((float((x[:, own] @ w[own]) @ apart) / whole, float(w[own].sum()), group.name))
    most = sorted(said, key=lambda each: (-each[0], each[2]))[:MOST]
    return InWords(
        share, tuple(taught_taste.phrase(name, w > 0) for part, w, name in most if part > 0)
    )


def _ridge(x: Floats, apart: Floats, ridge: float) -> Floats:
    """Weights (k,) of a ridge regression, in the number of rows."""
    gram = x @ x.T
    size = float(np.trace(gram)) / max(1, len(x)) or 1.0
    return np.asarray(x.T @ np.linalg.solve(gram + ridge * size * np.eye(len(x)), apart))
