"""Steps of the regression rule with voters who follow a known gradient."""

import numpy as np
from scipy import special

from szpo.config.optimizer import make_settings
from szpo.optim import optimizer, parameters
from szpo.types import Tally

LAYOUT = (("z", (6,)),)
GRADIENT = np.array([1.0, -0.5, 0.8, 0.0, 0.3, -0.9])


def settings_of(**changes):
    return make_settings(3, LAYOUT, **{"rule": "regression", **changes})


def features(settings, step):
    query = optimizer.query(settings, step, optimizer.ask(optimizer.init(settings)).mu)
    return np.stack(
        [
            2 * plus.radius * parameters.direction_vector(settings.space, step, k)
            for k, (plus, _) in enumerate(query.shifts)
        ]
    )


def vote(settings, state, rng, gradient=GRADIENT, inputs=None):
    """One step with voters who follow the logistic law along a gradient."""
    query = optimizer.ask(state)
    chance = special.expit(features(settings, query.step) @ gradient)
    plus = (
        rng.random((settings.section.K, settings.section.N, settings.section.M))
        < chance[:, None, None]
    ).sum(-1) * 1.0
    tally = Tally(plus, settings.section.M - plus, 0 * plus, plus < 0)
    return optimizer.tell(state, query, tally, inputs=inputs)


def walk(settings, steps, seed=0, **how):
    state, rng, rows = optimizer.init(settings), np.random.default_rng(seed), []
    for _ in range(steps):
        state, updates, info = vote(settings, state, rng, **how)
        rows.append((updates, info))
    return state, rows
