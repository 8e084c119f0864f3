"""Whole methods on the tiny model: costs add up, and what cannot go on says so."""

import pytest

from szpo.baselines import dpo
from szpo_simulators.compare import gradient, methods, presets, schedule
from szpo_simulators.compare.cell_process import run_cell

SETS = (
    "optimizer.comparisons=2", "generation.max_new_tokens=6", "subspace.dim=4",
    "subspace.samples=16", "subspace.kl_samples=16",
)  # fmt: skip
PRESET = presets.Preset(
    "small", "tiny", ("szpo", "iterative-dpo"), (3,), {}, votes=4, D=2, prompts=4, samples=2,
    points=2, sets=SETS,
)  # fmt: skip


@pytest.fixture(scope="module")
def base():
    found = run_cell(
        {**schedule.make_shared_spec(PRESET), "method": "base", "ask": "both", "seed": 0}
    )
    beta = {name: fitted["beta"] for name, fitted in found["panel"].items()}
    return found["measurement"], {"base": "x", "beta": beta}


def run(base, method, ask, **settings):
    start, setup = base
    cell = schedule.make_cell(PRESET, presets.METHODS[method], ask, 3, setup, settings)
    return run_cell(cell.spec, start)


@pytest.mark.full
@pytest.mark.parametrize(("ask", "votes", "rows"), [("batch", 4, 2), ("pair", 8, 1)])
def test_szpo_is_charged_for_every_vote_and_every_token(base, ask, votes, rows):
    """Two steps of two comparisons of two rows, or of four comparisons of one: as many answers."""
    found = run(base, "szpo", ask, rule="known")
    last = found["course"][-1]
    assert 0 < last["votes"] <= votes and last["answers_read"] <= 2 * rows * last["votes"]
    # Two steps with 2 · 2 · 2 answers of at most six tokens, and the set-up before them.
    assert 0 < last["tokens"] - found["setup"]["tokens"] <= 2 * 8 * 6
    assert found["setup"]["tokens"] > 16  # its sixteen answers, and those that measure KL
    assert [row["share"] for row in found["course"]] == [0.0, 0.5, 1.0]
    assert found["stopped"] is None and found["bytes"]["peak"] > 0


@pytest.mark.slow
def test_iterative_dpo_on_the_same_shared_setup(base):
    found = run(base, "iterative-dpo", "batch", rounds=2, learning_rate=0.01)
    assert found["stopped"] is None
    votes = [row["votes"] for row in found["course"]]
    assert votes[0] == 0 and votes[-1] <= 4 and len(votes) == 3
    assert found["course"][0]["reward"] == pytest.approx(run_base_reward(base))
    assert found["course"][-1]["kl"] > 0


def run_base_reward(base):
    import numpy as np

    return float(np.mean(base[0]["rewards"]))


@pytest.mark.full
def test_what_cannot_go_on_is_a_result_with_one_line(base, monkeypatch):
    """A panel that always ties teaches nothing; a rate without measure diverges."""
    monkeypatch.setattr(gradient.shared_setup, "build_ask", lambda spec: Ties())
    found = run(base, "dpo", "batch", batch=4)
    assert found["stopped"].startswith("dpo: no pair to learn from: all 4 answers were ties")
    assert found["course"][-1]["votes"] == 4

    def diverges(*some, **more):
        from szpo.baselines.validation import demand_finite

        demand_finite({"loss": float("nan")}, "dpo", 2)

    monkeypatch.undo()
    monkeypatch.setitem(methods.RUNNERS, "dpo", gradient.make_offline(diverges, dpo.Recipe))
    found = run(base, "dpo", "batch")
    assert "loss is nan at step 2: training diverged" in found["stopped"]


class Ties:
    def batches(self, prompts, first, second, *, key):
        return ["tie"] * len(prompts)
