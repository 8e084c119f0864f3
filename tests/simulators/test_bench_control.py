"""The benches of the control tasks: cells, budgets, goals, tables and figures, made small."""

import csv
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from szpo_simulators.baselines import notebook
from szpo_simulators.bench.known_worlds import cartpole
from szpo_simulators.worlds.cartpole import CartPole


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_cartpoles_cells_are_the_notebook_and_many_runs():
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


@pytest.mark.full
def test_cartpoles_figures_and_both_axes(tmp_path, monkeypatch):
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
