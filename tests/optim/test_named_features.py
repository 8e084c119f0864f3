"""Votes regressed on named features: what is found, in which direction, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from szpo.aggregation.weighting import MINUS, PLUS, VotesByVoter
from szpo.errors import UsageError
from szpo.optim import named_features, optimizer
from szpo.optim.checked_settings import defaults, settings_from_json, settings_to_json
from szpo.optim.named_features import NamedFeatures
from szpo.optim.rules import all_votes, look_ahead
from szpo.optim.rules.rule import StepInputs, perturbations
from szpo.optim.settings import Settings, SettingsError
from szpo.optim.state import State
from szpo.types import FEATURE_GRID, Floats, Query, Tally

DIM, COUNT, COMPONENTS, ROWS = 24, 16, 4, 8
LAYOUT = (("z", (DIM,)),)
WANTED = 5
"""The voters like less of this feature."""


def table(seed: int = 0) -> NamedFeatures:
    """Features whose natural gradients lie in random directions, each of R² about a half."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((COUNT, DIM))
    rows *= 0.7 / np.linalg.norm(rows, axis=1, keepdims=True)
    return NamedFeatures(
        tuple(f"f{i}" for i in range(COUNT)),
        tuple(range(COUNT)),
        (FEATURE_GRID,) * COUNT,
        tuple(tuple(round(v * FEATURE_GRID) for v in row.tolist()) for row in rows),
        COMPONENTS,
        "0" * 64,
    )


def settings_of(features: NamedFeatures | None = None, **more: object) -> Settings:
    own = features or table()
    return defaults(3, LAYOUT, rule="regression", features=own, D=ROWS, sided=False, **more)


def texts(settings: Settings, query: Query, rng: np.random.Generator) -> tuple[StepInputs, Floats]:
    """What a step's texts show: the moves of both sides, and the luck of eight texts a side."""
    named = settings.features
    assert named is not None
    moves = perturbations(settings, query, None).displacements(settings.distance)
    gradients = named_features.directions(named)[:, :COUNT]
    luck = rng.standard_normal((settings.K, DIM)) * np.sqrt(2 / ROWS)
    rest = np.sqrt(1 - 0.7**2) * rng.standard_normal((settings.K, COUNT)) * np.sqrt(2 / ROWS)
    shown = (moves + luck) @ gradients + rest
    inputs = StepInputs(
        scores=(moves + luck)[:, None],
        centre=np.zeros(DIM),
        text_differences=np.round(shown * FEATURE_GRID).astype(np.int64)[:, None],
    )
    return inputs, shown


def tally_of(plus: NDArray[np.bool_]) -> Tally:
    """One vote a direction, for plus or for minus."""
    up = plus[:, None].astype(float)
    return Tally(up, 1 - up, 0 * up, up < 0)


def walk(
    settings: Settings, steps: int, seed: int, strength: float = 3.0, aside=lambda step: ()
) -> State:
    """Steps whose voter likes less of `WANTED`; with strength 0, a coin."""
    state, rng = optimizer.init(settings), np.random.default_rng(seed)
    for step in range(steps):
        query = optimizer.ask(state)
        inputs, shown = texts(settings, query, rng)
        inputs = replace(inputs, aside=aside(step))
        plus = rng.random(settings.K) < special.expit(-strength * shown[:, WANTED])
        tally = tally_of(plus)
        state, _, _ = optimizer.tell(state, query, tally, inputs=inputs)
    return state


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_forty_votes_find_the_feature_and_go_along_its_natural_gradient() -> None:
    settings = settings_of()
    assert settings.features is not None
    way = -named_features.directions(settings.features)[:, WANTED]
    found = []
    for seed in range(3):
        state = walk(settings, 5, seed)
        fit = all_votes.fit_named(settings, state.carried.votes)
        assert fit.less[WANTED] == max(*fit.less, *fit.more)
        found.append(cosine(state.carried.recommended, way))
    assert np.mean(found) > 0.9
    # A flat fit of the coordinates, from the same votes' moves alone, stays behind.
    flat = defaults(3, LAYOUT, rule="regression", D=ROWS, sided=False, prior_variances="flat")
    shares = [cosine(_plain(flat, settings, seed), way) for seed in range(3)]
    assert np.mean(shares) < np.mean(found) - 0.2


def _plain(flat: Settings, settings: Settings, seed: int) -> Floats:
    state, rng = optimizer.init(flat), np.random.default_rng(seed)
    for _ in range(5):
        query = optimizer.ask(state)
        inputs, shown = texts(settings, query, rng)
        plus = rng.random(flat.K) < special.expit(-3.0 * shown[:, WANTED])
        tally = tally_of(plus)
        state, _, _ = optimizer.tell(state, query, tally, inputs=StepInputs(centre=inputs.centre))
    return np.asarray(state.carried.recommended)


def test_votes_by_chance_keep_the_recommendation_at_the_start() -> None:
    settings = settings_of()
    nats = []
    for seed in range(5):
        state = walk(settings, 5, 100 + seed, strength=0.0)
        nats.append(float((state.carried.recommended**2).sum()) / 2)
    assert np.median(nats) < 0.15  # .14 nats while nothing is shown


def test_the_posterior_in_coordinates_predicts_what_the_weights_predict() -> None:
    settings = settings_of()
    state = walk(settings, 5, 1)
    assert settings.features is not None
    whole = all_votes.fit_named(settings, state.carried.votes)
    found, _ = all_votes.fit_votes(settings, state.carried)
    A = named_features.directions(settings.features)
    x = np.random.default_rng(0).standard_normal((5, DIM))
    np.testing.assert_allclose(x @ found.w, x @ A @ whole.w)
    np.testing.assert_allclose(found.covariance, A @ whole.covariance @ A.T)
    assert found.log_factor == whole.log_factor and found.signal == whole.signal


def test_same_votes_same_bits_and_settings_survive_json() -> None:
    settings = settings_of()
    again = settings_from_json(settings_to_json(settings))
    assert again == settings
    first, second = walk(settings, 3, 2), walk(again, 3, 2)
    assert first.carried.recommended.tobytes() == second.carried.recommended.tobytes()


def test_a_hostile_voter_weighs_less_than_one_who_votes_as_the_others() -> None:
    settings = settings_of(weighting="skill")
    state, rng = optimizer.init(settings), np.random.default_rng(4)
    names = tuple("abcd")
    for step in range(12):
        query = optimizer.ask(state)
        inputs, shown = texts(settings, query, rng)
        likes = rng.random(settings.K) < special.expit(-4.0 * shown[:, WANTED])
        voter = (np.arange(settings.K) + step) % len(names)
        plus = np.where(voter == 3, ~likes, likes)
        verdicts = np.zeros((len(names), settings.K, 1), dtype=np.int8)
        verdicts[voter, np.arange(settings.K), 0] = np.where(plus, PLUS, MINUS)
        by_voter = VotesByVoter(names, verdicts, np.zeros((settings.K, 1), bool))
        tally = by_voter.tally(np.ones(len(names)))
        state, _, _ = optimizer.tell(state, query, tally, by_voter=by_voter, inputs=inputs)
    assert state.history is not None
    weights = all_votes.learn_weights(settings, state.carried, state.history)
    assert weights[3] < 0.2 * weights[:3].min()


def test_what_does_not_fit_is_refused() -> None:
    settings = settings_of()
    state = optimizer.init(settings)
    with pytest.raises(UsageError, match="features of its texts"):
        optimizer.tell(
            state, optimizer.ask(state), tally_of(np.ones(8, bool)), inputs=StepInputs()
        )
    own = table()
    for wrong in (
        lambda: replace(own, names=own.names[1:]),
        lambda: replace(own, scales=(0, *own.scales[1:])),
        lambda: replace(own, map=(own.map[0][1:], *own.map[1:])),
        lambda: replace(own, components=DIM + 1),
        lambda: replace(own, names=(3, *own.names[1:])),  # type: ignore[arg-type]
        lambda: replace(own, own=((1, 2, 3, 4, 5),)),  # type: ignore[arg-type]
        lambda: replace(own, groups=(*own.groups[:-1], 500)),
        lambda: replace(own, groups=(*own.groups[:-1], -1)),
        lambda: replace(own, scales=(10**400, *own.scales[1:])),
        lambda: replace(own, map=((0.5, *own.map[0][1:]), *own.map[1:])),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match="features"):
            wrong()
    with pytest.raises(SettingsError, match="coordinates"):
        defaults(3, (("z", (4,)),), rule="regression", features=own)
    with pytest.raises(SettingsError, match="score_share"):
        settings_of(score_share=0.5)
    with pytest.raises(SettingsError, match="belongs to the rule regression"):
        defaults(3, LAYOUT, rule="known", features=own)


def test_a_forecast_holds_the_true_win_rate_and_counts_on_evidence_only_where_it_comes() -> None:
    """Voters like less of a feature, 2 logits a spread; what a point changes is linear here.

    Of 40 such walks and others (strengths 0, .5 and 1) the interval held the truth in 97 %, and of
    126 forecasts of evidence not yet there those above a half came true in 17 of 25, those below
    in 16 of 105.
    """
    settings = settings_of()
    assert settings.features is not None
    moved = -named_features.directions(settings.features)[:, WANTED]
    late = []
    for seed in range(4):
        state = walk(settings, 4, seed, strength=2.0)
        seen = look_ahead.look_ahead(settings, state.carried)
        truth = special.expit(2.0 * float(state.carried.recommended @ moved))
        _, low, high = seen.ahead[0].win_rate
        assert low <= truth <= high
        assert [each.votes for each in seen.ahead] == [0, 20, 40, 80]
        evidence = [each.evidence for each in seen.ahead]
        assert evidence == sorted(evidence)
        late.append(evidence[-1])
        assert all(each.kl[2] <= 0.9 * 5.1 for each in seen.ahead)  # 112 votes: 3.87 nats
    assert np.mean(late) > 0.7
    assert look_ahead.look_ahead(settings, optimizer.init(settings).carried).ahead == ()
    thrown = [walk(settings, 5, 100 + seed, strength=0.0) for seed in range(3)]
    ahead = [look_ahead.look_ahead(settings, state.carried).ahead for state in thrown]
    assert np.mean([each[1].evidence for each in ahead]) < 0.2


def test_a_group_is_called_by_the_feature_that_its_direction_moves_most() -> None:
    own = table()
    rows = (own.map[0], tuple(2 * v for v in own.map[0]), *own.map[2:])
    near = replace(own, groups=(0, 0, *range(1, COUNT - 1)), map=rows)
    assert named_features.group_heads(near)[:2] == (1, 2)
    fit = all_votes.fit_named(settings_of(), walk(settings_of(), 5, 0).carried.votes)
    chances = np.zeros_like(fit.less)
    chances[:2] = 0.6, 0.3
    (claim,) = named_features.claims(replace(fit, less=chances, more=0 * chances), near)
    assert (claim.feature, claim.group, claim.chance) == ("f0", "f1", pytest.approx(0.9))
    assert claim.share == pytest.approx(2 / 3)


# ---- what votes are not to be about ----


def test_what_is_left_out_explains_votes_is_not_followed_and_does_not_change() -> None:
    settings = settings_of()
    gradients = named_features.directions(settings.features)[:, :COUNT]
    plain = walk(settings, 6, 0).carried
    held = walk(settings, 6, 0, aside=lambda step: (WANTED,) if step >= 5 else ()).carried
    assert plain.log_factor >= np.log(9)
    moved = held.recommended @ gradients
    assert abs(moved[WANTED]) < 1e-6 * max(1, np.abs(moved).max())  # but for fp32
    assert plain.recommended @ gradients[:, WANTED] < -0.3
    # The gate began again: the feature's evidence keeps it open no longer.
    assert held.log_factor < np.log(9)
    fit = all_votes.fit_named(settings, held.votes, (WANTED,))
    assert fit.less[WANTED] == fit.more[WANTED] == fit.w[WANTED] == 0.0
    alone = all_votes.fit_named(settings, held.votes)
    assert fit.kept[0].support == alone.kept[0].support == (WANTED,)  # it still explains them
    seen = look_ahead.look_ahead(settings, held)
    assert seen.aside == (f"f{WANTED}",) and not seen.shown


def test_evidence_besides_what_is_left_out_is_for_what_else_votes_are_about() -> None:
    settings, other = settings_of(), 9
    state, rng = optimizer.init(settings), np.random.default_rng(7)
    for _ in range(12):
        query = optimizer.ask(state)
        inputs, shown = texts(settings, query, rng)
        likes = special.expit(-3.0 * shown[:, WANTED] + 3.0 * shown[:, other])
        plus = rng.random(settings.K) < likes
        inputs = replace(inputs, aside=(WANTED,))
        state, _, _ = optimizer.tell(state, query, tally_of(plus), inputs=inputs)
    seen = look_ahead.look_ahead(settings, state.carried)
    assert seen.shown and seen.taught is not None
    assert (seen.taught[0].feature, seen.taught[0].more) == (f"f{other}", True)
    gradients = named_features.directions(settings.features)[:, :COUNT]
    moved = state.carried.recommended @ gradients
    assert moved[other] > 0.3 and abs(moved[WANTED]) < 1e-6


def test_an_order_taken_back_leaves_no_trace_but_the_gate() -> None:
    settings = settings_of()
    plain = walk(settings, 6, 0).carried
    back = walk(settings, 6, 0, aside=lambda step: (WANTED,) if step == 2 else ()).carried
    np.testing.assert_array_equal(plain.votes.up, back.votes.up)
    fits = (all_votes.fit_votes(settings, each)[0] for each in (plain, back))
    assert len({each.log_factor.item() for each in fits}) == 1
    assert back.aside == () and back.log_factor <= plain.log_factor


def test_chance_votes_pass_the_gate_as_seldom_besides_a_feature_that_is_left_out() -> None:
    # Votes are about one feature alone, which is left out: a Bayes factor of 9 for more than that
    # is passed with probability 1/9 at most (Ville); of 16 runs, 6 or more have 4 in 1000.
    settings = settings_of()
    runs = [walk(settings, 4, 200 + seed, aside=lambda step: (WANTED,)) for seed in range(16)]
    assert sum(run.carried.log_factor >= np.log(9) for run in runs) <= 5


def test_the_users_own_features_are_together_as_likely_as_all_others() -> None:
    own = replace(table(), own=(("f0", "keyword", "", "", "a"), ("f1", "regex", "", "", "b")))
    assert NamedFeatures.from_json(settings_to_json(settings_of(own))["features"]) == own
    chances = named_features.prior_of(own, ROWS).features()[:COUNT]
    np.testing.assert_allclose(chances[:2], 1 / 4)
    np.testing.assert_allclose(chances[2:], 1 / 2 / (COUNT - 2))
    with pytest.raises(UsageError, match="five facts"):
        replace(own, own=(("f0",),))


def test_pairs_from_elsewhere_make_likelier_what_they_are_about_whichever_way() -> None:
    named, rng = table(), np.random.default_rng(3)
    x = rng.standard_normal((100, COUNT + COMPONENTS))
    x *= np.where(rng.random(100) < special.expit(2 * x[:, WANTED]), 1, -1)[:, None]
    before = 1 / COUNT
    for sign in (1, -1):
        chances = np.array(named_features.chances_of_pairs(named, sign * x))
        assert chances.sum() == pytest.approx(1, abs=1e-4)
        assert 0.4 < chances[WANTED] < named_features.FROM_PAIRS + before
        assert chances.min() > before * (1 - named_features.FROM_PAIRS) - 1e-6
    thrown = np.array(named_features.chances_of_pairs(named, rng.standard_normal(x.shape)))
    assert thrown.max() < 0.2
    # Of twelve walks of a faint taste, more show it in forty votes.
    told, plain = settings_of(prior_chances=tuple(chances.tolist())), settings_of()
    shown = [
        sum(
            walk(each, 5, 300 + seed, strength=1.0).carried.log_factor >= np.log(9)
            for seed in range(12)
        )
        for each in (plain, told)
    ]
    assert shown[1] >= shown[0] + 2
    with pytest.raises(SettingsError, match="one value for each"):
        settings_of(prior_chances=(0.5,))
    with pytest.raises(SettingsError, match="must be finite"):
        settings_of(prior_chances=(0.0,) * COUNT)


def test_a_step_is_fitted_once_for_its_move_and_its_words(monkeypatch):
    settings, calls = settings_of(), []
    fitted = all_votes.fit_named
    monkeypatch.setattr(all_votes, "fit_named", lambda *a: calls.append(a) or fitted(*a))
    monkeypatch.setattr(look_ahead, "fit_named", all_votes.fit_named)
    state = walk(settings, 1, seed=0)
    look_ahead.look_ahead(settings, state.carried)
    assert len(calls) == 1
