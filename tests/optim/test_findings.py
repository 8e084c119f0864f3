"""What a run of `regression` finds in its votes and what holds it back, without a model."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from szpo.optim import all_votes, optimizer, regression
from szpo.optim.regression import Findings
from szpo.optim.vote_regression import fit
from szpo.types import Tally
from tests.support.regression_walk import GRADIENT, features, settings_of, walk


def test_it_comes_back_from_the_record_as_it_was():
    settings = settings_of()
    state, _ = walk(settings, 2, seed=1)
    found = regression.findings_of(settings, state.carried)
    assert Findings.from_json(json.loads(json.dumps(found.to_json()))) == found
    none = regression.findings_of(settings, optimizer.init(settings).carried)
    assert none.factor == -math.inf and not none.shown
    assert Findings.from_json({**none.to_json(), "factor": None}) == none


def lean(settings, steps, seed):
    """A run of voters of whom each adds 1.5 logits to what stands on A; plus stands there twice
    as often for directions along the gradient."""
    state, rng = optimizer.init(settings), np.random.default_rng(seed)
    for _ in range(steps):
        query = optimizer.ask(state)
        x = features(settings, query.step) @ GRADIENT
        side = np.where(rng.random(8) < np.where(x > 0, 0.2, 0.8), 1.0, -1.0)
        plus = (rng.random(8) < special.expit(x / 4 + 1.5 * side))[:, None] * 1.0
        tally = Tally(plus, 1 - plus, 0 * plus, plus < 0, side=side[:, None])
        state = optimizer.tell(state, query, tally)[0]
    return state.carried


@pytest.mark.full
def test_what_standing_on_a_side_is_worth_is_not_taken_for_taste():
    settings = settings_of()
    runs = [lean(settings, 15, seed) for seed in range(3)]
    blind = [fit(replace(run.votes, plus_on_a=None), all_votes.prior(settings)) for run in runs]
    cosines = [
        np.mean([w @ GRADIENT / np.linalg.norm(w) for w in found])
        for found in ([run.recommended for run in runs], [found.w for found in blind])
    ]
    assert cosines[0] > cosines[1] + 0.2
    carried = runs[0]
    assert carried.votes.plus_on_a.shape == (120,) and set(carried.votes.plus_on_a) == {-1.0, 1.0}
    found = regression.findings_of(settings_of(), carried)
    assert 0.7 < found.side < 2.3
    # Tallies without sides, as in the worlds, fit no such term.
    assert walk(settings_of(), 2)[0].carried.votes.plus_on_a is None
