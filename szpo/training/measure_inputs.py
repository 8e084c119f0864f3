"""What a step's votes are fitted on, measured on the shown texts while panelists read them.

It is recorded as an event before the first fit that uses it, and depends on no vote.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from szpo.errors import UsageError
from szpo.optim.rules.registry import rule_of
from szpo.optim.rules.rule import StepInputs
from szpo.training.position import Position
from szpo.training.services import Services
from szpo.types import Comparison, Floats
from szpo.voting import lease, shown_features, step_inputs


def record(run: Services, at: Position, step: int, comparisons: Sequence[Comparison]) -> None:
    """Measure the regressors of a step's votes and record them, unless the record has them."""
    ledger, settings = run.ledger, run.settings
    two_points = rule_of(settings.section.rule).two_points
    if not two_points or step_inputs.body_of(ledger, "regressors", step):
        return
    named, scores, moments = settings.features, None, None
    differences, ratings = None, dict[str, tuple[int, ...]]()
    if settings.score_share:
        scores = _scores(run, comparisons, "score_share needs", "optimizer.score_share to 0")
    if named is not None and not named.coordinates:
        who, instead = "coordinates of named features need", "subspace.kind to score or random"
        scores = np.zeros((settings.section.K, len(comparisons) // settings.section.K, 0))
        if named.components:
            scores = _scores(run, comparisons, who, instead)[..., : named.components]
    if named is not None and named.names:
        entries = run.counted_features
        shown_features.demand(named, entries)
        differences = shown_features.differences_of(named, comparisons, entries)
        ratings = shown_features.ratings_of(comparisons, entries)
    if settings.section.guarded and at.state.carried.moments is None and run.moments is not None:
        moments = run.moments()
    inputs = StepInputs(scores, None, moments, differences, ratings)
    with ledger.transaction("controller"):
        lease.check(ledger, run.epoch)
        ledger.record_event("regressors", "controller", step_inputs.note(step, inputs))


def _scores(run: Services, comparisons: Sequence[Comparison], who: str, instead: str) -> Floats:
    """Scores (K, N, d) of the shown texts; ``who`` needs them, ``instead`` names the way out."""
    settings, scores = run.settings, getattr(run.policy, "score_features", None)
    if scores is None:
        raise UsageError(
            f"{who} the scores of the shown texts, which this policy does not give; set {instead}"
        )
    return np.asarray(scores(comparisons).reshape(settings.section.K, -1, settings.dim))
