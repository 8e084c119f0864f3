"""The benches of the control tasks: cells, budgets, goals, tables and figures, made small."""

import csv
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from szpo_simulators.baselines import notebook
from szpo_simulators.bench.known_worlds import cartpole, track
from szpo_simulators.study import interval
from szpo_simulators.worlds.cartpole import HORIZON, CartPole
from szpo_simulators.worlds.track import PROXY, TRUTH


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.full
def test_sharpness_is_that_of_70_percent_agreement_and_falls_with_noise() -> None:
    one, four = cartpole.calibrate_panel(1), cartpole.calibrate_panel(4)
    assert one.agreement == pytest.approx(0.7, abs=0.01)
    # The spread of a mean of four episodes is half that of one: twice as sharp, or nearly.
    assert 1.5 < four.beta / one.beta < 2.1
    truth, proxy = track.calibrate_panel(TRUTH), track.calibrate_panel(PROXY)
    assert truth.agreement == pytest.approx(0.7, abs=0.01)
    assert proxy.agreement == pytest.approx(0.7, abs=0.01)


def test_cartpoles_cells_are_the_notebook_and_many_runs() -> None:
    seen = cartpole.run_notebook({"label": "PPO as written", "episodes": 4, "seed": 7})["lengths"]
    learning = notebook.ppo(7, notebook.FORMS["as written"])
    assert seen == [length for length, _ in islice(learning, 4)]
    asked = {"net": "linear", "D": 4, "beta": 0.25, "marks": [8, 16], "alpha": 0.3}
    found = cartpole.run_szpo({**asked, "seeds": [1, 2, 3]})
    assert len(found["values"]) == 3
    assert len(found["curve"]) == 2
    alone = cartpole.run_szpo({**asked, "seeds": [2]})
    assert alone["values"][0] == pytest.approx(found["values"][1])
    gradient = {"method": "REINFORCE", "net": "linear", "rate": 0.0, "marks": [1, 2], "seeds": [5]}
    still = cartpole.run_gradient_method(gradient)
    world = CartPole()
    assert still["curve"][0]["mean"] == still["curve"][1]["mean"]
    assert still["values"] == world.value(world.theta0[None]).tolist()


def test_goals_count_seeds_that_reach_500() -> None:
    rows = [
        {"label": "REINFORCE", "lengths": [20, HORIZON, 30]},
        {"label": "REINFORCE", "lengths": [20, 21, 22]},
        {"label": "PPO as written", "lengths": [20, HORIZON, 30]},
    ]
    assert cartpole._check_goal(rows, "REINFORCE", 3, 1, 3).startswith("met: REINFORCE")
    assert cartpole._check_goal(rows, "REINFORCE", 1, 1, 3).endswith("(on 1)")
    assert cartpole._check_goal(rows, "PPO as written", 5, 0, 0).startswith("MISSED")
    summary = cartpole._summarise("REINFORCE", rows[:2], 3)
    assert summary["first"] == "2, never"


@pytest.mark.full
def test_cartpoles_figures_and_both_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def curves(asked):
        return cartpole._score(
            np.array([[s % 7 + m for m in asked["marks"]] for s in asked["seeds"]], float)
        )

    lengths = {"lengths": list(range(10, 70))}
    monkeypatch.setattr(cartpole, "run_notebook", lambda asked: lengths)
    monkeypatch.setattr(cartpole, "run_szpo", curves)
    monkeypatch.setattr(cartpole, "run_gradient_method", curves)
    first = cartpole.main(quick=True, folder=tmp_path / "runs", figures=tmp_path / "docs")
    rows = lines(tmp_path / "runs" / "cartpole.csv")
    assert {row["label"] for row in rows} >= {"SZPO, linear, D = 4", "REINFORCE, notebook's net"}
    for row in rows:
        votes = int(row["votes"])
        if "SZPO" in row["label"]:
            assert int(row["episodes"]) == 2 * int(row["label"][-1]) * votes
            assert row["answers"] == row["episodes"]
        else:
            assert votes == 0
    drawn = {p.name: p.read_bytes() for p in (tmp_path / "docs").iterdir()}
    assert set(drawn) == {"cartpole.svg", "cartpole-notebook.svg"}
    # Again from the stored cells: nothing is computed, and the same bytes are drawn.
    for name in ("run_notebook", "run_szpo", "run_gradient_method"):
        monkeypatch.setattr(cartpole, name, None)
    again = cartpole.main(quick=True, folder=tmp_path / "runs", figures=tmp_path / "docs")
    assert again == first
    assert {p.name: p.read_bytes() for p in (tmp_path / "docs").iterdir()} == drawn


@pytest.mark.slow
def test_the_track_shows_hacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "BUDGETS", (12, 12, 60, 300))
    monkeypatch.setattr(track, "BATCHES", 12)
    monkeypatch.setattr(track, "RATES", (0.01, 0.03, 0.3))
    track.main(quick=True, folder=tmp_path)
    rows = {(row["label"], int(row["votes"])): row for row in lines(tmp_path / "track.csv")}
    assert all(int(row["answers"]) == 2 * int(row["votes"]) for row in rows.values())
    untrained = {w.seen: float(w.value(w.theta0[None])[0]) for w in (TRUTH, PROXY)}

    def end(label: str, seen: str, side: str) -> float:
        return float(rows[label, 300][f"{seen} {side}"])

    # The reward model with limited eyes: what is counted rises, what is meant falls.
    assert end(track.LIMITED, "checkpoints", "low") > 2 * untrained["checkpoints"]
    assert end(track.LIMITED, "progress", "high") < untrained["progress"] / 2
    # The same votes, read by a model that sees all, and SZPO's panel: what is meant rises.
    assert end(track.MODEL, "progress", "low") > 2 * untrained["progress"]
    assert end(track.SZPO, "progress", "low") > 2 * untrained["progress"]
    # SZPO is as blind as its panel.
    assert end(track.COUNTING, "checkpoints", "low") > 2 * untrained["checkpoints"]
    assert end(track.COUNTING, "progress", "high") < untrained["progress"]


def test_ends_are_exact_values_over_seeds() -> None:
    theta = np.stack([TRUTH.theta0, np.tile([9.0, 0.0, 0.0], TRUTH.cells)])
    assert track.value_intervals(theta)["progress"] == interval(TRUTH.value(theta).tolist())
    assert track.value_intervals(theta)["checkpoints"] == interval(PROXY.value(theta).tolist())
