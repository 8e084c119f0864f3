"""The benches, made small: cells, budgets, goals, tables and figures."""

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo_simulators import gridworld
from szpo_simulators.bench_study import seed_range

TINY = {"world": "courier", "budget": 12, "D": 1, "sharpness": 1.0, "seeds": [3, 4]}


@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize("name", gridworld.GRIDS)
def test_a_cell_spends_its_budget_and_reads_2_d_walks_a_vote(name, D):
    fixed, grid = gridworld.GRIDS[name]
    cheap = {"batches": 1} if fixed["method"] == "rm-ppo" else {}
    asked = {**TINY, **fixed, **gridworld.combinations(grid)[0], **cheap, "D": D}
    found = gridworld.work({**asked, "budget": 48})
    assert found["votes"][-1] == 48 and found["answers"][-1] == 96 * D
    assert len(found["values"]) == 2 and len(found["curve"]) == len(found["votes"])
    assert found["curve"][-1]["mean"] == pytest.approx(np.mean(found["values"]))


@pytest.mark.parametrize("text", [None, "seeds = [1]", "not toml"])
def test_what_is_no_frozen_file_is_named_in_one_line(tmp_path, text):
    path = tmp_path / "frozen.toml"
    if text:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"--frozen .*frozen\.toml is not a contest"):
        gridworld.main(folder=tmp_path, frozen=path)


def test_a_difference_is_decided_seed_by_seed():
    """Paired: rival = ours − 1 ± .01 is decided though both scatter by more."""
    ours = np.arange(10.0)
    rival = ours - 1 + 0.01 * (-1.0) ** np.arange(10)
    rows = [
        {"way": "pair votes", "name": gridworld.OURS, "values": ours.tolist()},
        {"way": "pair votes", "name": "DPO", "values": rival.tolist()},
        {"way": "batch votes", "name": "DPO", "values": rival.tolist()},
    ]
    (one,) = gridworld.compare_with_rivals(rows)
    assert (one["way"], one["rival"]) == ("pair votes", "DPO")
    assert 0.98 < one["low"] < one["mean"] < one["high"] < 1.02


def test_a_well_specified_reward_model_needs_few_votes():
    """C10: 1,000 votes and a planner come near the optimum, 7.55 (7.12 in another's count)."""
    asked = {"method": "rm-plan", "world": "dense", "ridge": 0.002, "seeds": seed_range(20)}
    few, many = (np.mean(gridworld.work({**asked, "budget": n})["values"]) for n in (100, 1000))
    assert 5.5 < few < many - 0.2 and 6.5 < many < 7.4


@pytest.mark.full
def test_the_published_steps_climb_the_dense_grid(tmp_path):
    """From 2.85 towards 7.55, in 9,600 votes: θ against θ + μv, N = 8, M = 5, D = 1, ten seeds."""
    known, sign = gridworld.main(folder=tmp_path, published=True)["published"]
    assert known["votes"][-1] == sign["votes"][-1] == 9600
    assert len(known["values"]) == len(sign["values"]) == 10
    assert known["mean"] >= 6.0 and sign["mean"] >= 5.6
