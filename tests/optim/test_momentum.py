"""Momentum and Adam: by hand, and as a fold of recorded rows."""

import math

import numpy as np
import pytest

from szpo.optim import momentum, optimizer, parameters
from szpo.optim.checked_settings import defaults
from szpo.optim.directions import Law
from szpo.optim.parameters import round13
from szpo.optim.settings import Adam
from szpo.types import Update
from tests.support.tallies import SMALL, WIDE, random_tally, tally, told


def test_full_space_momentum_is_a_fold_of_undecayed_rows():
    settings = defaults(
        1, WIDE, rule="sign", K=2, N=1, alpha=1.0, momentum=0.5, momentum_terms=2, law=Law()
    )
    state, rows = optimizer.init(settings), []
    for step in range(4):
        votes = tally([[1.0], [0.0]], [[0.0], [1.0]])
        state, updates, _ = optimizer.tell(state, optimizer.ask(state), votes)
        assert [u.coef for u in updates] == [0.5, -0.5]  # undecayed
        rows.extend(updates)
        added = momentum.added_updates(settings, rows, step)
        expected = [
            Update(step - j, k, coef=sign * 0.5 * 0.5**j)
            for j in range(min(step, 2) + 1)
            for k, sign in ((0, 1), (1, -1))
        ]
        assert list(added) == expected
        # Later rows and the order of the record do not matter.
        assert (
            momentum.added_updates(settings, [*reversed(rows), Update(9, 0, coef=1.0)], step)
            == added
        )


def test_folded_coefficients_are_rounded_again():
    settings = defaults(1, WIDE, rule="sign", momentum=0.9, momentum_terms=3)
    coef = float(round13(0.1234567))
    added = momentum.added_updates(settings, [Update(0, 0, coef=coef)], 3)
    assert added == (Update(0, 0, coef=float(round13(0.9 * 0.9 * 0.9 * coef))),)
    assert momentum.added_updates(settings, [Update(0, 0, coef=coef)], 4) == ()


def test_without_momentum_a_fold_is_the_step_itself():
    settings = defaults(1, WIDE, rule="sign", K=2)
    rows = [Update(1, 1, coef=1.0), Update(1, 0, coef=0.0), Update(0, 0, coef=2.0)]
    assert momentum.added_updates(settings, rows, 1) == (rows[1], rows[0])


def test_small_momentum_and_fold_tell_the_same_story():
    """The vector of a small space is the untruncated fold, up to rounding."""
    rng = np.random.default_rng(0)
    layout = (("z", (6,)),)
    small = defaults(4, layout, rule="sign", N=1, alpha=0.5, momentum=0.7, law=Law())
    full = defaults(4, layout, rule="sign", N=1, alpha=0.5, law=Law())

    def v(step):
        return parameters.direction_vector(full.space, step, 0)

    a, b, rows = optimizer.init(small), optimizer.init(full), []
    for step in range(12):
        votes = random_tally(rng, small)
        a, updates, _ = optimizer.tell(a, optimizer.ask(a), votes)
        b, plain, _ = optimizer.tell(b, optimizer.ask(b), votes)
        rows.extend(plain)
        expected = sum(0.7 ** (step - row.step) * row.coef * v(row.step) for row in rows)
        assert updates == (Update(step, 0, vector=updates[0].vector),)
        assert updates[0].vector == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_adam_by_hand():
    settings = defaults(4, SMALL, rule="known", N=1, alpha=0.1, mu=0.5, adam=Adam(), law=Law())
    state = optimizer.init(settings)
    first, second = np.zeros(3), np.zeros(3)
    for t, vote in enumerate([1.0, 0.0, 1.0], start=1):
        query = optimizer.ask(state)
        state, updates, _ = optimizer.tell(state, query, tally([[vote]], [[1 - vote]]))
        v = parameters.direction_vector(settings.space, t - 1, 0)
        g = (2 * vote - 1) * math.log(3) / (2 * 0.5) * v
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        move = 0.1 * first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        assert updates[0].vector == pytest.approx(move, rel=1e-6)


def test_adam_sees_the_size_of_a_gradient_at_a_small_radius():
    # Its input is Δ̂/2μ, far beyond coef_cap · μ, a bound for steps: unanimous votes must count
    # for more than split ones.
    settings = defaults(4, SMALL, rule="known", N=4, mu=0.01, adam=Adam(), law=Law())
    state, _, info = told(settings, tally([[1.0, 1, 1, 1]]))
    assert not info.capped
    split, _, _ = told(settings, tally([[1.0, 1, 1, 0]], [[0.0, 0, 0, 1]]))
    assert state.carried.memory.first == pytest.approx(2 * split.carried.memory.first, rel=1e-12)


def test_a_vector_step_is_capped_too():
    settings = defaults(4, SMALL, rule="sign", N=1, alpha=9.0, momentum=0.5, mu=0.1, coef_cap=2.0)
    _, updates, info = told(settings, tally([[1.0]]))
    assert info.capped
    assert np.linalg.norm(updates[0].vector) == pytest.approx(2.0 * 0.1 * math.sqrt(3), rel=1e-6)
