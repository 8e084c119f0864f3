"""The mathematics behind the benches of known worlds, and that each bench draws what it says."""

import csv
from itertools import product
from math import sqrt

import numpy as np
import pytest
from scipy.special import expit

from szpo.errors import RunError, UsageError
from szpo_simulators import study
from szpo_simulators.bench import run_all
from szpo_simulators.bench.known_worlds import (
    bandit,
    budget_split,
    dimension,
    estimators,
    links,
    pairing,
    rules,
    runs,
    speed,
)
from szpo_simulators.worlds import efficiency, oracle, repetitions
from szpo_simulators.worlds.bandit import Bandit
from szpo_simulators.worlds.gridworld import DENSE, GridWorld
from szpo_simulators.worlds.subspace import Subspace
from szpo_simulators.worlds.world import World, draws


def test_what_a_sign_keeps_by_counting_every_outcome():
    """(E|S|)²/(n·P(S ≠ 0)) over all 2ⁿ outcomes of n fair votes."""
    for n in range(1, 11):
        sums = [sum(votes) for votes in product((-1, 1), repeat=n)]
        size = sum(map(abs, sums)) / 2**n
        moved = sum(s != 0 for s in sums) / 2**n
        assert float(efficiency.sign_efficiency(n)) == pytest.approx(size**2 / (n * moved))


def test_the_limits_of_what_a_sign_keeps():
    efficiency_of = {n: float(efficiency.sign_efficiency(n)) for n in (1, 2, 3, 4, 12, 64, 10_001)}
    assert (
        efficiency_of[1] == efficiency_of[2] == 1
        and efficiency_of[3] == 0.75
        and efficiency_of[4] == 0.9
    )
    # 12: E|S| = 12·C(11, 5)/2¹¹ = 2.70703, P(tie) = C(12, 6)/2¹² = .225586; 64 likewise.
    assert efficiency_of[12] == pytest.approx(2.70703125**2 / (12 * (1 - 0.2255859375)))
    assert efficiency_of[64] == pytest.approx(0.70134, abs=1e-5)
    assert efficiency_of[10_001] == pytest.approx(2 / np.pi, abs=1e-4)


@pytest.mark.parametrize("n", rules.VOTES)
def test_exact_small_and_simulated_merits_agree(n):
    sign, margin = efficiency.merits(n, 0.01)
    assert sign / margin == pytest.approx(float(efficiency.sign_efficiency(n)), rel=1e-3)
    # At small signal a margin's merit is its votes times E[x²]/4.
    assert margin == pytest.approx(n * 0.01**2 / 4, rel=1e-2)
    sign, margin = efficiency.merits(n, 1.0)
    for rule, merit in (("sign", sign), ("margin", margin)):
        found = efficiency.simulate_merit(n, 1.0, rule, 80_000, 3)
        assert found.mean() == pytest.approx(merit, abs=4 * found.std() / sqrt(40) + 1e-3)


@pytest.mark.parametrize("n", [1, 2])
def test_with_one_or_two_votes_sign_and_margin_are_one_rule(n):
    found = [
        repetitions.train(
            DENSE, repetitions.settings_for(DENSE, rule=rule, N=n, alpha=0.2), [1, 2], 30
        ).theta
        for rule in ("sign", "margin")
    ]
    np.testing.assert_array_equal(*found)
    three = repetitions.train(
        DENSE, repetitions.settings_for(DENSE, rule="sign", N=3, alpha=0.2), [1], 30
    ).theta
    other = repetitions.train(
        DENSE, repetitions.settings_for(DENSE, rule="margin", N=3, alpha=0.2), [1], 30
    ).theta
    assert np.abs(three - other).max() > 0.1


def test_weights_by_sensitivity_save_what_their_spread_says():
    beta = np.exp(0.7 * np.random.default_rng(0).normal(size=(1, 400_000)))
    # 1 + CV² = exp(.49) = 1.632 for log-normal β of spread .7; equal weights gain nothing.
    assert efficiency.weights_gain(beta, beta)[0] == pytest.approx(1.632, abs=0.02)
    assert efficiency.weights_gain(np.ones_like(beta), beta)[0] == pytest.approx(1)
    assert efficiency.weights_gain(3 * beta, beta) == pytest.approx(
        efficiency.weights_gain(beta, beta)
    )


@pytest.mark.parametrize(
    ("M", "x", "smoothing", "bias", "rmse"),
    [  # By exact sums over the binomial law, worked out independently.
        (1, 0.5, "clip", -0.500, 0.50), (3, 1.0, "haldane", -0.138, 0.99),
        (5, 1.0, "laplace", -0.243, 0.73), (10, 1.0, "clip", 0.123, 0.80),
        (10, 1.0, "haldane", 0.001, 0.73), (20, 2.0, "second", -0.118, 0.53),
        (50, 2.0, "posterior", -0.221, 0.39), (100, 2.0, "score", -0.477, 0.49),
    ],
)  # fmt: skip
def test_the_exact_bias_of_estimators(M, x, smoothing, bias, rmse):
    found = estimators.exact_error({"M": M, "x": x, "smoothing": smoothing})
    assert found["bias"] == pytest.approx(bias, abs=6e-4)
    assert found["rmse"] == pytest.approx(rmse, abs=6e-3)


def test_slopes_at_zero_are_those_of_the_exact_mean():
    for name, M in product(estimators.NAMES, (1, 3, 10)):
        up, down = (estimators.bias_at(name, M, np.array([h])) + h for h in (1e-4, -1e-4))
        assert estimators.slope_at_zero(name, M) == pytest.approx(
            (up - down).item() / 2e-4, abs=1e-4
        )
    assert estimators.slope_at_zero("clip", 1) == 0
    assert estimators.slope_at_zero("haldane", 1) == pytest.approx(np.log(3) / 2)


def test_a_preference_for_a_side_costs_slope():
    # Balanced sides: P = ½[σ(x + b) + σ(x − b)].
    for b, left in ((0.25, 0.985), (0.5, 0.94), (1.0, 0.79), (2.0, 0.42)):
        numeric = 2 * sum(expit(0.01 + s * b) - expit(-0.01 + s * b) for s in (1, -1)) / 0.02
        assert estimators.side_slope(b) == pytest.approx(numeric, abs=1e-4)
        assert estimators.side_slope(b) == pytest.approx(left, abs=5e-3)


def test_the_bandit_misleads_single_votes_and_not_batches():
    # One pull: −1 with .7, +3 with .3.
    assert bandit.mean_vote_margin(1.0, 1) == pytest.approx(0.7 * expit(-1) + 0.3 * expit(3) - 0.5)
    assert (
        bandit.mean_vote_margin(1.0, 1)
        < 0
        < bandit.mean_vote_margin(1.0, 2)
        < bandit.mean_vote_margin(1.0, 8)
    )
    assert bandit.mean_vote_margin(5.0, 1) == pytest.approx(-0.195, abs=1e-3)
    # Many voters and the right link find the mean, +.2; with a steep panel they move away.
    assert bandit.mean_estimate(1.0, 1) == pytest.approx(-0.057, abs=1e-3)
    assert bandit.mean_estimate(1.0, 50) == pytest.approx(0.197, abs=1e-3)
    assert bandit.mean_estimate(5.0, 100) < bandit.mean_estimate(5.0, 1) < 0


def test_the_bandit_is_a_world_with_the_value_of_its_walks():
    world, theta = Bandit(), np.array([[-1.0], [0.0], [2.0]])
    assert isinstance(world, World)
    u = draws(world, [1, 2, 3], 0, 0, 60_000)
    returns, walked = world.returns(theta, u), world.walks(theta, u)
    np.testing.assert_array_equal(walked.returns, returns)
    assert (np.abs(returns.mean(1) - world.value(theta)) < 3.5 * returns.std(1) / 245).all()
    assert walked.actions.mean((1, 2)) == pytest.approx(world.risky(theta), abs=0.01)


def test_the_best_split_of_costly_walks_is_the_least_variance():
    s, cost = 2.0, 0.3
    variance = {(M, D): (s**2 / D + 4 / M) * (M + 2 * D * cost)
                for M, D in product(range(1, 60), range(1, 60))}  # fmt: skip
    M, D = min(variance, key=variance.__getitem__)
    assert budget_split.best_ratio(cost, s) == pytest.approx(M / D, rel=0.02)


def test_a_subspace_moves_as_far_as_the_whole():
    small = Subspace(GridWorld(), 8)
    assert isinstance(small, World)
    z = np.random.default_rng(0).normal(size=(3, 8))
    whole = small.whole(z)
    scale = np.linalg.norm(whole, axis=1) / np.linalg.norm(z, axis=1)
    np.testing.assert_allclose(scale, sqrt(100 / 8))
    np.testing.assert_array_equal(small.value(z), GridWorld().value(whole))
    with pytest.raises(UsageError, match="101 of 100"):
        Subspace(GridWorld(), 101)


def test_a_cell_is_the_runs_it_names():
    asked = runs.make_spec(
        rule="sign", alpha=0.2, N=4, M=3, D=2, steps=20, seeds=[5, 6], world="sparse",
        law="block:10", panel="probit", beta=2.0, crn=True,
    )  # fmt: skip
    found = runs.work(asked)
    chosen = repetitions.settings_for(runs.WORLDS["sparse"], rule="sign", N=4, M=3, D=2, alpha=0.2,
                           law=runs.make_law("block:10"))  # fmt: skip
    expected = repetitions.train(
        runs.WORLDS["sparse"], chosen, [5, 6], 20, panel=oracle.LinkPanel("probit", 2.0)
    )
    assert found["values"] == expected.final.tolist()
    assert (found["votes"], found["answers"], found["walks"]) == (240, 960, 320)
    assert runs.budget_at_marks({**asked, **found}, "answers")[-1] == 960


def test_the_oracle_and_the_grid_are_timed_for_what_they_did():
    ran, asked = speed.time_grid(4, 3, 8, threads=1), speed.time_votes(10, 8, 32)
    assert ran["moves"] == 4 * 3 * 8 * 2 * 12 and asked["votes"] == 10 * 8 * 32
    assert sum(ran[f"share_{part}"] for part in ("rollouts", "oracle", "optimizer")) == (
        pytest.approx(1)
    )


def instead(asked):
    """Results of the shape of `runs.work`, without a run."""
    count = len(asked["seeds"])
    value = 5 + 0.1 * asked["N"] / 64 - abs(np.log10(asked["alpha"]))
    values = [value + 0.01 * (i % 7) for i in range(count)]
    marks = runs.space_marks(asked["steps"])
    votes = asked["steps"] * asked["N"] * asked["M"] * asked["K"]
    return {
        "values": values, "marks": marks, "curve": [study.interval(values) for _ in marks],
        "votes": votes, "answers": 2 * asked["D"] * votes, "walks": votes,
    }  # fmt: skip


BENCHES = {
    "bandit": (bandit, "runs"), "budget-split": (budget_split, "splits"),
    "dimension": (dimension, "subspaces"), "estimators": (estimators, "runs"),
    "links": (links, "links"), "pairing": (pairing, "pairs"), "rules": (rules, "runs"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "bandit")) for name in BENCHES],
)
def test_a_bench_writes_its_tables_and_its_figure(name, tmp_path, monkeypatch, capsys):
    bench, part = BENCHES[name]
    monkeypatch.setattr(runs, "work", instead)
    result = bench.main(quick=True, folder=tmp_path / "runs", figures=tmp_path / "docs")
    assert (tmp_path / "docs" / f"{name}.svg").exists()
    assert (tmp_path / "runs" / f"{name}.png").exists()
    with (tmp_path / "runs" / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(result[part])
    assert all(row["low"] and row["high"] and row["votes"] for row in written)
    shown = capsys.readouterr().out
    assert "±" in shown or "[" in shown
    assert "votes" in shown and "cores, load" in shown


def test_all_benches_run_and_a_failing_one_is_named(tmp_path, monkeypatch, capsys):
    called = []

    def load(group, name, what):
        def main(*, quick, folder, figures, frozen=None):
            called.append((name, quick, folder.name, figures, frozen))
            if name == "track":
                raise UsageError("no road")

        return main

    monkeypatch.setattr(run_all, "load", load)
    frozen = tmp_path / "frozen.toml"
    with pytest.raises(RunError, match="not run: track"):
        run_all.main(quick=True, folder=tmp_path, figures=tmp_path, frozen=frozen)
    assert [row[0] for row in called] == list(run_all.NAMES)
    assert all(row[1:] == (True, row[0], tmp_path, None) for row in called)
    frozen.touch()
    run_all.main(folder=tmp_path, only=("links", "gridworld"), frozen=frozen)
    assert called[-2:] == [
        ("gridworld", False, "gridworld", None, None),
        ("gridworld", False, "gridworld-claim", None, frozen),
    ]
    assert "track: no road" in capsys.readouterr().out
