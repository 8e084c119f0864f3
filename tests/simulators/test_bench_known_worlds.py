"""The mathematics behind the benches of known worlds, and that each bench draws what it says."""

from itertools import product

import numpy as np
import pytest
from scipy.special import expit

from szpo.errors import RunError, UsageError
from szpo_simulators.bench import run_all
from szpo_simulators.bench.known_worlds import bandit, speed
from szpo_simulators.worlds import efficiency
from szpo_simulators.worlds.bandit import Bandit
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


def test_the_oracle_and_the_grid_are_timed_for_what_they_did():
    ran, asked = speed.time_grid(4, 3, 8, threads=1), speed.time_votes(10, 8, 32)
    assert ran["moves"] == 4 * 3 * 8 * 2 * 12 and asked["votes"] == 10 * 8 * 32
    assert sum(ran[f"share_{part}"] for part in ("rollouts", "oracle", "optimizer")) == (
        pytest.approx(1)
    )


def test_the_bandit_is_learned_by_batches_and_not_by_single_votes(tmp_path, capsys):
    found = bandit.main(quick=True, folder=tmp_path / "runs", figures=tmp_path / "docs")
    by = {(row["rule"], row["M"], row["D"], row["beta"]): row for row in found["runs"]}
    one, many = by["sign", 1, 1, 1.0], by["sign", 1, 8, 1.0]
    assert one["high"] < 0.3 < 0.7 < many["low"]
    assert (one["votes"], many["answers"]) == (32 * 400, 2 * 8 * 32 * 400)
    assert bandit.budget_at_marks(many, "answers")[-1] == many["answers"]
    spec = {name: one[name] for name in ("rule", "N", "M", "D", "alpha", "steps", "beta")}
    assert bandit.work({**spec, "seeds": one["seeds"][:2]})["values"] == one["values"][:2]
    assert (tmp_path / "docs" / "bandit.svg").exists()
    assert "P(risky)" in capsys.readouterr().out


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
    run_all.main(folder=tmp_path, only=("bandit", "gridworld"), frozen=frozen)
    assert called[-2:] == [
        ("gridworld", False, "gridworld", None, None),
        ("gridworld", False, "gridworld-claim", None, frozen),
    ]
    assert "track: no road" in capsys.readouterr().out
