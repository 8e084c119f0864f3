"""`szpo bench hostile`, small: its worlds are the product's, its figures what they say."""

import csv
import json

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo_simulators.bench.voters import hostile, hostile_runs


def test_what_is_retained_is_a_share_of_the_honest_gain():
    honest = np.array([1.0, 2.0, 3.0, 4.0])
    assert hostile.retained_share(honest / 2, honest) == pytest.approx((0.5, 0.5, 0.5))
    share, low, high = hostile.retained_share(np.array([0.0, 2.0, 1.0, 3.0]), honest)
    assert low < share < high


def test_the_command_writes_its_figures_with_the_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hostile, "VOTES", 16)
    found = hostile.main(seeds=2, first=7, people=40, folder=tmp_path)
    stored = json.loads((tmp_path / "hostile.json").read_text(encoding="utf-8"))
    assert stored["seeds"] == [7, 8] and len(stored["run"][0]["gains"]["skill"]) == 2
    with (tmp_path / "run.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3
    out = capsys.readouterr().out
    assert "seeds 7 to 8" in out and ("MISSED" in out or all(g["met"] for g in found["goals"]))


def test_points_have_an_interval_and_what_they_keep():
    gains = {(0, "equal"): (0.4, 0.6), (0, "skill"): (0.4, 0.5),
             (2, "equal"): (0.1, 0.2), (2, "skill"): (0.3, 0.2)}  # fmt: skip
    found = {
        (*key, seed): {"gain": gain, "votes": 400}
        for key, both in gains.items()
        for seed, gain in enumerate(both)
    }
    del found[0, "skill", 1]  # still under way: that seed is left out of the row
    honest, hostiles = hostile_runs.summarise(found)
    assert (honest["seeds"], honest["difference"]) == ([0], [0.0, None, None])
    assert hostiles["kept_equal"] == pytest.approx(0.3)
    assert hostiles["kept_skill"] == pytest.approx(0.5)
    # Differences .2 and 0: mean .1, standard error .1, t(.975, 1) = 12.706.
    assert hostiles["difference"] == pytest.approx([0.1, 0.1 - 1.2706, 0.1 + 1.2706], abs=1e-4)


@pytest.mark.parametrize("wrong", [{"model": "gpt"}, {"model": "tiny", "members": (3,)}])
def test_runs_that_there_are_not_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match="models are smollm2, tiny, members 0, 1, 2"):
        hostile.main(**wrong, folder=tmp_path)
