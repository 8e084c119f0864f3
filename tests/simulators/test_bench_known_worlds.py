"""The mathematics behind the benches of known worlds, and that each bench draws what it says."""

from itertools import product

import pytest
from scipy.special import expit

from szpo.errors import RunError, UsageError
from szpo_simulators.bench import run_all
from szpo_simulators.bench.known_worlds import bandit
from szpo_simulators.worlds import efficiency


def test_what_a_sign_keeps_by_counting_every_outcome():
    """(E|S|)²/(n·P(S ≠ 0)) over all 2ⁿ outcomes of n fair votes."""
    for n in range(1, 11):
        sums = [sum(votes) for votes in product((-1, 1), repeat=n)]
        size = sum(map(abs, sums)) / 2**n
        moved = sum(s != 0 for s in sums) / 2**n
        assert float(efficiency.sign_efficiency(n)) == pytest.approx(size**2 / (n * moved))


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


@pytest.mark.full
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
