"""What a run of `regression` finds in its votes and what holds it back, without a model."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from szpo.optim import all_votes, optimizer, regression
from szpo.optim.kl_limits import gather_moments
from szpo.optim.regression import Findings
from szpo.optim.rule import StepInputs
from szpo.optim.vote_regression import fit
from szpo.types import Tally
from tests.support.regression_walk import GRADIENT, features, settings_of, walk


def moments(slope=0.5):
    """Of answers whose log-probability falls along the gradient, by ``slope`` nats a unit."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(400, 6))
    logprob = -2 - slope * u @ GRADIENT / np.linalg.norm(GRADIENT)
    others = 20 + rng.normal(size=(400, 2))
    return gather_moments(u, np.column_stack([logprob, others]), np.arange(400))


def test_it_comes_back_from_the_record_as_it_was():
    settings = settings_of()
    state, _ = walk(settings, 2, seed=1)
    found = regression.findings_of(settings, state.carried)
    assert Findings.from_json(json.loads(json.dumps(found.to_json()))) == found
    none = regression.findings_of(settings, optimizer.init(settings).carried)
    assert none.factor == -math.inf and not none.shown
    assert Findings.from_json({**none.to_json(), "factor": None}) == none


def test_predicted_guards_hold_the_recommended_point_where_they_hold():
    settings = settings_of()
    free = walk(settings, 12, seed=1)[0].carried.recommended
    inputs = StepInputs(moments=moments())
    state = walk(settings, 12, seed=1, inputs=inputs)[0]
    held = state.carried
    # Along the gradient .5 nats of log-probability are lost after one unit.
    along = held.recommended @ GRADIENT / np.linalg.norm(GRADIENT)
    assert 0.9 < along < 1.1
    assert held.recommended == pytest.approx(held.guard_share * free, abs=1e-6)
    assert held.guards_broken == ("logprob",)
    found = regression.findings_of(settings, held)
    assert 0 < held.guard_share < 1 and found.share == held.guard_share
    # With a steep slope less than the least move worth making is left: no shrink mends it.
    steep = walk(settings, 12, seed=1, inputs=StepInputs(moments=moments(3.0)))[0].carried
    assert steep.guard_share == 0 and not steep.recommended.any()
    # The centre goes with it: votes are asked where the model may end.
    assert np.linalg.norm(held.centre) <= np.linalg.norm(held.recommended) + 1e-6
    free_of = settings_of(guarded=False)
    assert walk(free_of, 12, seed=1, inputs=inputs)[0].carried.recommended == pytest.approx(free)


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
