"""Scores in the run's coordinates, and the figures of the start's answers."""

from __future__ import annotations

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.models.logprobs import Sample
from szpo.models.scores import score_vectors
from szpo.optim.rules.guard_geometry import Moments, predict
from szpo.training.guard_moments import measure_figures, measure_moments, project
from szpo.types import Prompt
from tests.policies.test_protocol import full, policy_of, small
from tests.support.tiny_models import loaded

PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(20, 44, 2)]


def test_projected_scores_are_the_slopes_of_the_log_probability() -> None:
    """Against central differences of log π(answer) along each coordinate."""
    base = loaded("llama")
    policy = policy_of(base, small(base))
    rows = policy.sample_tokens(PROMPTS[:3], 1, seed=1)
    read = [Sample(policy.encode(p), row) for p, row in zip(PROMPTS, rows, strict=False)]
    start = {**policy.subspace.fixed, **policy.subspace.start}
    vectors = score_vectors(base.adapt(policy.subspace.sites), start, read)
    found = project(policy.subspace, vectors)
    step = 0.002
    for i in range(policy.dim):
        z = np.zeros(policy.dim, np.float32)
        z[i] = step
        plus, minus = (policy.deltas([{"z": sign * z}]) for sign in (1, -1))
        ids = [list(sample.prompt) for sample in read]
        up, down = (policy.engine.logprobs(ids, rows, [0] * 3, deltas) for deltas in (plus, minus))
        slope = [(a.sum() - b.sum()) / (2 * step) for a, b in zip(up, down, strict=True)]
        assert found[:, i] == pytest.approx(slope, rel=0.02, abs=0.02)


def test_moments_of_a_small_model_are_repeatable_and_read_at_the_start() -> None:
    base = loaded("llama")
    policy = policy_of(base, small(base))
    found = measure_moments(policy, PROMPTS, 3, seed=2)
    assert found.answers <= 36 and found.scores.shape == (policy.dim, policy.dim)
    policy.move_to({"z": np.full(policy.dim, 0.5, np.float32)})
    again = measure_moments(policy, PROMPTS, 3, seed=2)
    for name in Moments.__slots__:
        assert np.array_equal(getattr(found, name), getattr(again, name)), name
    changes = [p.change for p in predict(found, np.zeros(policy.dim))]
    assert changes and not any(changes)
    few = measure_figures(policy, PROMPTS[:2], policy.sample(PROMPTS[:2], 1, seed=0), seed=0)
    assert few.shape == (2, 3) and np.isnan(few[:, 2]).all()


def test_coordinates_without_a_basis_are_refused() -> None:
    base = loaded("llama")
    with pytest.raises(UsageError, match="subspace full has no basis"):
        project(full(base, 2, "B"), np.zeros((1, 4)))
