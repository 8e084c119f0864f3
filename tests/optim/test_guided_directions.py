"""Guided directions: their law, the step along them, and that a proposal has no sense."""

import weakref
from dataclasses import replace

import numpy as np
import pytest

from szpo import seeds
from szpo.config.optimizer import make_settings, record_settings
from szpo.errors import UsageError
from szpo.optim import optimizer, parameters, sample_directions
from szpo.optim.guided_directions import NAME, Span, in_force
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.types import Tally
from tests.support.cases import case

LAYOUT = (("a", (3, 2)), ("b", (4,)))
MIXING = ((1.0, 0.5), (0.0, 2.0))


def proposals(sense=1):
    rng = np.random.default_rng(5)
    return tuple(
        {name: np.float32(sense) * rng.normal(size=shape).astype(np.float32)
         for name, shape in LAYOUT}
        for _ in range(2)
    )  # fmt: skip


def span(first=2, noise=0.5, sense=1):
    return Span(first, noise, proposals(sense), MIXING)


def flat(theta):
    return np.concatenate([theta[name].ravel() for name, _ in LAYOUT]).astype(np.float64)


def covariance(found):
    """C = (1 − s) C₀ + s U Uᵀ / k, whose parts are in ``noise`` and ``mixing``."""
    axes = np.array(MIXING) @ np.stack([flat(each) for each in found.proposals])
    return found.noise**2 * np.eye(10) + axes.T @ axes


def test_before_its_first_step_and_without_a_span_directions_are_the_seeds_own():
    plain, guided = Space(1, LAYOUT, Law()), Space(1, LAYOUT, Law(), (span(),))
    for step in (0, 1):
        mine = parameters.direction(guided, step, 0)
        for name, value in parameters.direction(plain, step, 0).items():
            np.testing.assert_array_equal(mine[name], value)
    assert (
        flat(parameters.direction(guided, 2, 0)) != flat(parameters.direction(plain, 2, 0))
    ).all()
    last = span(7)
    assert in_force((span(), last), 6).first == 2 and in_force((span(), last), 7) is last


@pytest.mark.full
def test_directions_have_the_covariance_of_their_definition():
    found = span()
    drawn = np.stack([
        parameters.direction_vector(Space(3, LAYOUT, Law(), (found,)), 2 + t, 0)
        for t in range(4000)
    ])  # fmt: skip
    wanted = covariance(found)
    # The standard error of an entry is at most √2 · the largest variance / √4,000.
    np.testing.assert_allclose(drawn.T @ drawn / 4000, wanted, atol=0.1 * wanted.max())
    assert np.abs(drawn.mean(0)).max() < 0.06 * np.sqrt(wanted.max())


@pytest.mark.full
def test_a_step_is_on_average_the_preconditioned_gradient():
    """Where links invert to Δ̂ = 2μ ∇·v, θ moves by α (∇·v) v, on average α E[v vᵀ] ∇ = α C ∇."""
    found, gradient = span(first=0), np.linspace(-1, 1, 10)
    settings = replace(
        make_settings(4, LAYOUT, rule="known", N=1, mu=0.01, alpha=1e-6, law="gaussian"),
        spans=(found,),
    )
    none = np.zeros((1, 1))
    tally, state = Tally(none, none, none, none > 0), optimizer.init(settings)
    steps = []
    for step in range(300):
        state = replace(state, step=step)
        v = parameters.direction_vector(settings.space, step, 0)
        delta = 2 * settings.section.mu * gradient @ v
        _, (update,), _ = optimizer.tell(state, optimizer.ask(state), tally, delta=[delta])
        assert update.coef == pytest.approx(1e-6 * gradient @ v, rel=2.0**-13)
        steps.append(update.coef * v)
    wanted = 1e-6 * covariance(found) @ gradient
    assert np.linalg.norm(np.mean(steps, axis=0) - wanted) < 0.3 * np.linalg.norm(wanted)


def test_a_proposal_that_is_turned_round_gives_the_same_step():
    """In the span alone v becomes −v; whoever liked plus now likes minus."""
    there, back = (
        replace(make_settings(4, LAYOUT, rule="sign", N=1, mu=0.01, alpha=0.1, law="gaussian"),
                spans=(span(0, 0.0, sense),))
        for sense in (1, -1)
    )  # fmt: skip
    won, lost = np.ones((1, 1)), np.zeros((1, 1))
    theta = parameters.zeros(LAYOUT)
    ends = []
    for settings, plus, minus in ((there, won, lost), (back, lost, won)):
        state = optimizer.init(settings)
        tally = Tally(plus, minus, lost, lost > 0)
        _, (update,), _ = optimizer.tell(state, optimizer.ask(state), tally)
        ends.append(flat(parameters.apply_update(settings.space, theta, update)))
    assert ends[0].any()
    np.testing.assert_array_equal(*ends)


def test_every_sum_is_of_products_that_were_rounded_to_fp32():
    """So it is the same on every machine, with or without fused multiply-add."""
    found, drawn = span(0), (Space(1, LAYOUT, Law()), 0, 0)
    space = replace(drawn[0], spans=(found,))
    epsilon = sample_directions.gaussian(seeds.derive(1, "direction", step=0, k=0, name=NAME), 2)
    for name, value in parameters.direction(space, 0, 0).items():
        wanted = np.float32(0.5) * parameters.direction(*drawn)[name]
        for weight, row in zip(
            np.float32(epsilon) / np.float32(256), np.float32(MIXING), strict=True
        ):
            axis = np.float32(0)
            for share, each in zip(row, found.proposals, strict=True):
                axis = axis + share * each[name]
            wanted = wanted + weight * axis
        assert value.dtype == wanted.dtype == np.float32
        np.testing.assert_array_equal(value, wanted)


ONES = {name: np.ones(shape, np.float32) for name, shape in LAYOUT}
"""An axis of a multiple of it has that multiple as its root mean square."""
REFUSED = [
    *((0.5, proposals(), mixing, "span: ")
      for mixing in ((), ((1.0,),), ((1.0, 0.0),) * 3, ((np.nan, 0.0),))),
    # 1e300 is finite as a double, and infinite in fp32, in which directions are made.
    *((noise, proposals(), ((1.0, 0.0),), "its noise is not from 0 to 1")
      for noise in (-0.1, 1.5, 1e300, float("nan"), float("inf"))),
    *((0.5, (ONES,), ((size,),), "span: an axis is .* long; 16 at most")
      for size in (17, 1e6, 3e38)),
]  # fmt: skip


def test_a_span_of_other_proposals_of_no_share_or_of_an_endless_axis_is_refused():
    assert Span(0, 0.5, (ONES,), ((-16.0,),)).axes
    for noise, proposed, mixing, words in REFUSED:
        with case(noise, mixing), pytest.raises(UsageError, match=words):
            Span(0, noise, proposed, mixing)


def test_guides_need_a_share_and_weights_as_coordinates():
    wide = (("w", (100, 100)),)
    assert not make_settings(1, wide, rule="known").guides
    guided = make_settings(1, wide, rule="known", guided=0.8)
    assert guided.guides and record_settings(guided)["guided"] == 0.8
    assert not make_settings(1, (("z", (100,)),), rule="known", guided=0.8).guides


def test_what_many_spans_were_drawn_with_is_not_held():
    spans = [span(first) for first in range(4)]
    held = [weakref.ref(next(iter(each.axes[0].values()))) for each in spans]
    assert [each() is not None for each in held] == [False, False, True, True]
