"""What the shown texts of a step's comparisons differ in, by the dictionary of named features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from szpo.errors import UsageError
from szpo.features import dictionary, differences
from szpo.optim.named_features import NamedFeatures
from szpo.types import Comparison, Ints


def differences_of(features: NamedFeatures, comparisons: Sequence[Comparison]) -> Ints:
    """Mean of plus less mean of minus of each feature, in units of 2⁻¹² of its spread.

    Args:
        features: Those of the run.
        comparisons: Of one step, the same number for every direction.

    Returns:
        (K, N, k), in the order of k and n; exact on any machine.

    Raises:
        UsageError: the dictionary here is not the one that the run recorded.
    """
    if not can_recompute(features):
        raise UsageError(
            "the run's named features are of another version of the dictionary; go on with the "
            "szpo that began it"
        )
    entries = [dictionary.BY_NAME[name] for name in features.names]
    ordered = sorted(comparisons, key=lambda each: (each.k, each.n))
    rows = [
        differences.differences(
            [row.plus.text for row in each.rows],
            [row.minus.text for row in each.rows],
            [row.prompt.text for row in each.rows],
            features.scales,
            entries,
        )
        for each in ordered
    ]
    directions = len({each.k for each in ordered})
    return np.array(rows, dtype=np.int64).reshape(directions, -1, len(entries))


def can_recompute(features: NamedFeatures) -> bool:
    """Whether the dictionary here gives the values that the run recorded."""
    return features.dictionary == dictionary.digest()
