"""`szpo bench panels`, small: all weightings, opposed tastes, votes saved, runs of a model."""

import math

import numpy as np
import pytest

from szpo.aggregation import registry
from szpo.errors import UsageError
from szpo_simulators.bench.voters import panel_runs, panels
from szpo_simulators.panels.flaws import members, read
from szpo_simulators.study import Study, interval, seed_range


def test_every_panel_is_asked_with_every_weighting():
    rows = panels.make_specs(1.0, 5)
    assert len(rows) == len(panels.PANELS) * len(registry.WEIGHTINGS)
    assert {row["weighting"] for row in rows} == set(registry.WEIGHTINGS)
    hostile = {read(line)[1].hostile / panels.SIZE for line in panels.PANELS.values()}
    assert {0.0, 0.1, 0.3} <= hostile
    for line in panels.PANELS.values():
        assert len(members(line, 1.0, panels.SIZE)) == panels.SIZE


@pytest.mark.parametrize("label", ["careless", "two tastes, 7 : 3", "30 % hostile"])
def test_a_cell_learns_and_counts_what_was_spent(label):
    asked = {"panel": panels.PANELS[label], "beta": 0.9, "weighting": "equal", "alpha": 3.0,
             "steps": 10, "seeds": seed_range(8)}  # fmt: skip
    found = panels.run_grid(asked)
    # 10 steps of 10 comparisons with four votes; a vote reads two walks.
    assert (found["votes"], found["answers"]) == (400, 800)
    assert found["marks"] == list(range(1, 11))
    assert found["curve"][-1]["mean"] == pytest.approx(np.mean(found["values"]))
    assert found["curve"][-1]["low"] > 2.9  # from 2.85, though a third may work against it
    assert panels.run_grid(asked) == found


def test_opposed_tastes_move_pooled_votes_and_not_logits_by_voter():
    """Three of nine want −2 of what the six others want: the mean is nothing.

    Pooled votes follow the six: σ is flat where the three are sure. In units of like-minded
    members their drift is .06 by quadrature at |gap| = .4 z; logits of 24 votes by voter: 0.000.
    """
    base = {"panel": panels.OPPOSED, "steps": 20, "seeds": seed_range(60)}
    found = {
        name: interval(panels.run_opposed({**base, "weighting": name})["values"])
        for name in ("equal", "shrunk-logits")
    }
    liked = panels.run_opposed(
        {**base, "panel": "bt70", "weighting": "equal", "seeds": seed_range(20)}
    )
    whole = float(np.mean(liked["values"]))
    assert found["equal"]["low"] > 0
    assert found["equal"]["mean"] == pytest.approx(0.06 * whole, abs=0.03 * whole)
    assert found["shrunk-logits"]["low"] < 0 < found["shrunk-logits"]["high"]
    assert abs(found["shrunk-logits"]["mean"]) < 0.03 * whole


def test_known_sharpness_saves_what_the_formula_says():
    """1 + CV(β)² = exp(.49) = 1.632 for log β of spread .7; variances of drawn votes."""
    found = panels.measure_known_saving({"voters": 400, "draws": 2000, "seeds": seed_range(24)})
    assert found["mean"] == pytest.approx(math.exp(0.49), abs=0.1)
    assert found["mean"] == pytest.approx(found["exact"], rel=0.02)


def test_learned_sharpness_saves_something_and_no_more_than_known():
    rows = [
        panels.measure_learned_saving({"voters": 20, "each": each, "weighting": "rationality",
                               "panels": 40, "seed": 1})
        for each in (20, 100)
    ]  # fmt: skip
    assert 1 < rows[0]["mean"] < rows[1]["mean"] < rows[1]["best"]


def record(seed, runs, say):
    sets = dict(change.split("=", 1) for change in runs.sets)
    gain = 0.1 * seed + (0.5 if sets["optimizer.weighting"] == "skill" else 0.0)
    return {"gain": gain, "votes": int(sets["run.votes"]), "answers_read": 9}


def test_whole_runs_are_compared_seed_by_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(panel_runs.demo, "run_seed", record)
    monkeypatch.setattr(panel_runs.gc, "collect", lambda: 0)  # no model is there to be freed
    rows = panels.main(model="tiny", points=(1, 2, 3), folder=tmp_path)["tiny"]
    assert len(rows) == 9 and {len(row["gains"]) for row in rows} == {3}
    for row in rows:
        over = row["over_equal"]["mean"]
        assert over == pytest.approx(0.5 if row["weighting"] == "skill" else 0.0)
        assert row["gains"] == pytest.approx([g + over for g in (0.1, 0.2, 0.3)])
    assert (tmp_path / "panels-tiny.svg").exists() and (tmp_path / "tiny.csv").exists()
    assert "30 % hostile" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "words"), [({"model": "gpt"}, "no runs of 'gpt'"), ({"points": (1,)}, "two seeds")]
)
def test_runs_that_there_are_not_are_refused(tmp_path, wrong, words):
    with pytest.raises(UsageError, match=words):
        panels.main(**{"model": "tiny", "folder": tmp_path, **wrong})


@pytest.mark.slow
def test_one_cell_of_the_study_is_stored_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(panels, "PANELS", {"all alike": "bt70"})
    monkeypatch.setattr(panels, "SHOWN", ("all alike", "all alike"))
    study = Study("panels", tmp_path, quick=True)
    first = panels._show_grid(study, 3)
    monkeypatch.setattr(panels.batched, "train", None)
    assert panels._show_grid(study, 3) == first
    assert (tmp_path / "panels.svg").exists()
