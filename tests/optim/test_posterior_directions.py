"""Directions drawn from what votes may be about: which, how often, and the same everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.optim import named_features, optimizer, parameters, posterior_directions
from szpo.optim.checked_settings import defaults
from szpo.optim.named_features import NamedFeatures
from szpo.optim.posterior_directions import (
    CHANCE_UNITS,
    LARGEST_WEIGHT,
    NOISE,
    UNRECORDED_TEMPERATURE,
    draw_direction,
    explanations_of,
)
from szpo.optim.settings import SettingsError
from szpo.optim.sparse_regression import Kept, SparseFit
from szpo.types import FEATURE_GRID, Asked, Explanation, Shift
from tests.optim.test_named_features import DIM, WANTED, cosine, settings_of, walk

AXES = NamedFeatures(
    ("f0", "f1"),
    (0, 1),
    (FEATURE_GRID, FEATURE_GRID),
    ((FEATURE_GRID, 0, 0, 0), (0, FEATURE_GRID, 0, 0)),
    1,
    "0" * 64,
)
SPACE = defaults(3, (("z", (4,)),), rule="regression").space


def fit_of(*kept: tuple[tuple[int, ...], float, list[float]]) -> SparseFit:
    """A posterior of three regressors: two features and a component."""
    none, matrix = np.zeros(3), np.eye(3)
    ways = tuple(Kept(support, 0.0, chance, np.array(w)) for support, chance, w in kept)
    return SparseFit(none, matrix, 0.9, 1.0, none, none, 0.1, ways)


def test_the_draw_of_a_seed_is_these_numbers() -> None:
    # The seed turns the way (4, -3, 0, 0)/5 round. √.75 of that and √.25 of the seed's own unit
    # vector, here (-343, 72, 370, 54)/512.05, at length 2·256, end in (-424.37, 243.63, 149.09,
    # 21.76).
    own = parameters.direction_vector(SPACE, 1, 2) * 256
    assert own.tolist() == [-343, 72, 370, 54]
    way = Explanation(CHANCE_UNITS, (0, 1), (8, -6))
    assert draw_direction(SPACE, AXES, [way], 0.25, 1, 2) == (-424, 244, 149, 22)


def test_a_direction_has_its_share_of_noise_and_the_laws_length() -> None:
    settings = settings_of()
    named, space = settings.features, settings.space
    assert named is not None
    way = Explanation(CHANCE_UNITS, (WANTED,), (LARGEST_WEIGHT,))
    along = named_features.directions(named)[:, WANTED]
    for noise in (0.1, NOISE, 1.0):
        cosines = []
        for k in range(DIM):
            v = np.array(draw_direction(space, named, [way], noise, 0, k)) / 256
            own = parameters.direction_vector(space, 0, k)
            assert np.linalg.norm(v) == pytest.approx(np.sqrt(DIM), abs=0.02)
            rest = v - own * (v @ own) / (own @ own)
            cosines.append(abs(cosine(v, along)))
            if noise == 1.0:
                assert np.linalg.norm(rest) < 0.02
        # A frame's own directions have a squared cosine of 1/d on average with any other.
        wanted = 1 - noise + noise / DIM
        assert np.mean(np.square(cosines)) == pytest.approx(wanted, abs=0.06)


def test_both_ways_round_are_drawn_alike_and_each_way_as_often_as_it_says() -> None:
    ways = [
        Explanation(3 * CHANCE_UNITS // 4, (0,), (LARGEST_WEIGHT,)),
        Explanation(CHANCE_UNITS // 4, (2,), (LARGEST_WEIGHT,)),
    ]
    seen = Counter[tuple[int, bool]]()
    for step in range(600):
        v = draw_direction(SPACE, AXES, ways, 0.01, step, 0)
        axis = int(np.argmax(np.abs(v)))
        seen[axis, v[axis] > 0] += 1
    assert {axis for axis, _ in seen} == {0}  # the component is the first coordinate as well
    assert seen[0, True] == pytest.approx(300, abs=50)  # four standard errors
    other = [
        Explanation(3 * CHANCE_UNITS // 4, (0,), (LARGEST_WEIGHT,)),
        Explanation(CHANCE_UNITS // 4, (1,), (LARGEST_WEIGHT,)),
    ]
    axes = Counter(
        int(np.argmax(np.abs(draw_direction(SPACE, AXES, other, 0.01, step, 0))))
        for step in range(600)
    )
    assert axes[0] == pytest.approx(450, abs=45) and axes[0] + axes[1] == 600


def test_the_temperature_is_of_features_not_of_explanations() -> None:
    # Feature 0 has .64 in two explanations, feature 1 has .04 in one of these, the block .16.
    found = fit_of(
        ((), 0.2, []), ((0,), 0.6, [2.0]), ((0, 1), 0.04, [2.0, -1.0]), ((2,), 0.16, [0.5])
    )
    plain = {way.regressors: way.chance / CHANCE_UNITS for way in explanations_of(found, AXES)}
    whole = 0.64 + 0.04 + 0.16  # P of the features
    assert plain[0,] == pytest.approx(0.6 / whole, abs=1e-4)
    assert plain[0, 1] == pytest.approx((0.04 + 0.04) / whole, abs=1e-4)  # of either feature
    chances = {
        way.regressors: way.chance / CHANCE_UNITS
        for way in explanations_of(found, AXES, (), UNRECORDED_TEMPERATURE)
    }
    whole = 0.8 + 0.2 + 0.4  # √P
    assert chances[0,] == pytest.approx(0.6 / 0.8 / whole, abs=1e-4)
    assert chances[0, 1] == pytest.approx((0.04 / 0.8 + 0.04 / 0.2) / whole, abs=1e-4)
    assert chances[2,] == pytest.approx(0.4 / whole, abs=1e-4)
    assert {way.weights for way in explanations_of(found, AXES)} == {
        (LARGEST_WEIGHT,), (LARGEST_WEIGHT, -round(LARGEST_WEIGHT / 2)),
    }  # fmt: skip


def test_what_votes_are_not_to_be_about_is_not_asked_along() -> None:
    found = fit_of(((0,), 0.6, [2.0]), ((0, 1), 0.3, [2.0, -1.0]), ((2,), 0.1, [0.5]))
    ways = {way.regressors: way for way in explanations_of(found, AXES, aside=[0])}
    assert set(ways) == {(0, 1), (2,)} and ways[0, 1].weights == (0, -LARGEST_WEIGHT)
    assert ways[0, 1].chance / ways[2,].chance == pytest.approx(3, rel=1e-3)


def test_votes_that_say_nothing_leave_the_directions_of_the_seed() -> None:
    assert explanations_of(fit_of(((), 0.4, []), ((0,), 0.6, [1e-12])), AXES) == ()
    settings = replace(settings_of(), asking_noise=NOISE)
    query = optimizer.ask(optimizer.init(settings))
    assert query.asked == Asked(0, (), ())
    assert query.shifts == optimizer.ask(optimizer.init(settings_of())).shifts
    assert optimizer.ask(optimizer.init(replace(settings, asking_noise=1.0))).asked is None


def test_later_steps_ask_along_what_is_liked_and_lag_knows_one_step_less() -> None:
    settings = replace(settings_of(), asking_noise=NOISE)
    state, again = walk(settings, 4, 1), walk(settings, 4, 1)
    query = optimizer.ask(state)
    assert query == optimizer.ask(again)
    assert query.asked is not None and query.asked.after == 4
    assert settings.features is not None
    way = named_features.directions(settings.features)[:, WANTED]
    v = np.array(query.asked.grids)
    plain = np.array([parameters.direction_vector(settings.space, 4, k) for k in range(8)])
    asked, chance = (np.mean([cosine(one, way) ** 2 for one in each]) for each in (v, plain))
    assert asked > 4 * chance
    ahead = optimizer.ask(state, 5)
    assert ahead.asked is not None and ahead.asked.after == 4
    assert ahead.asked.ways == query.asked.ways and ahead.asked.grids != query.asked.grids


def test_a_shift_goes_along_its_own_grid_with_the_radius_of_the_law() -> None:
    grid = (300, -100, 0, 25)
    asked = Asked(1, (Explanation(1, (0,), (LARGEST_WEIGHT,)),), (grid,) * 8)
    settings = defaults(3, (("z", (4,)),), rule="regression", features=AXES, asking_noise=NOISE)
    query = optimizer.query(settings, 1, 0.5, asked=asked)
    theta = parameters.zeros(settings.layout)
    for plus, minus in query.shifts:
        z = parameters.shift(settings.space, theta, plus)["z"]
        assert np.linalg.norm(z) == pytest.approx(0.5 * 2, rel=2e-4)  # μ√d
        np.testing.assert_array_equal(z, -parameters.shift(settings.space, theta, minus)["z"])
        assert cosine(z.astype(float), np.array(grid, float)) == pytest.approx(1)
    for wrong in ((1, 2), (2**15, 0, 0, 0)):
        with pytest.raises(UsageError, match="4 integers of 16 bits"):
            parameters.shift(settings.space, theta, Shift(1, 0, 1, 0.5, wrong))


def test_what_does_not_fit_is_refused() -> None:
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(SettingsError, match="share above 0, at most 1"):
            settings_of(asking_noise=wrong)
    with pytest.raises(SettingsError, match="only in coordinates of named features"):
        defaults(3, (("z", (4,)),), rule="regression", asking_noise=0.5)
    assert posterior_directions.NOISE == 0.33


def test_the_setting_is_the_runs_own_and_for_named_features_alone() -> None:
    layout = (("z", (4,)),)
    for sets, wanted in (([], NOISE), (["optimizer.asking_noise=1"], 1.0)):
        config = settings_file.load(sets=["subspace.kind=features", *sets])
        assert config.optimizer_settings(layout, 1.0, AXES).asking_noise == wanted
        assert config.optimizer_settings(layout, 1.0).asking_noise is None
        config.require_used()
    config = settings_file.load(sets=["subspace.kind=score", "optimizer.asking_noise=0.5"])
    with pytest.raises(UsageError, match="asking_noise is for coordinates of named features"):
        config.require_used()
