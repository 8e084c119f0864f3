"""`szpo bench hostile`, small: its worlds are the product's, its figures what they say."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from szpo.aggregation.weighting import VotesByVoter
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.optim import optimizer
from szpo.replay import verification
from szpo_simulators import study
from szpo_simulators.bench.language import demo
from szpo_simulators.bench.voters import hostile, hostile_runs
from szpo_simulators.worlds import people, repetitions
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.policies import PROMPT, WorldPolicy, worth
from szpo_simulators.worlds.world import draws
from szpo_simulators.worlds.yard import COST
from szpo_simulators.worlds.yard_world import YardWorld


def test_the_yards_walks_by_the_array_are_the_yards():
    """Returns are those of the full walks; their mean is the exact value; cells are walkable."""
    world, rng = YardWorld(), np.random.default_rng(1)
    theta = rng.normal(size=(2, world.dim)).astype(np.float32)
    u = rng.random((2, 20_000, world.width)).astype(np.float32)
    walked = world.walks(theta, u)
    assert np.array_equal(walked.returns, world.returns(theta, u))
    error = walked.returns.std(1) / math.sqrt(20_000)
    assert np.abs(walked.returns.mean(1) - world.value(theta)).max() < 4 * error.max()
    yard = world.yard
    begin, end = walked.states[..., 0], walked.states[..., -1]
    assert set(np.unique(begin)) == set(yard.starts)
    assert np.allclose(walked.returns, yard.ending[end] - COST * walked.moves)
    assert walked.moves.min() >= 1 and walked.moves.max() == yard.horizon


@pytest.mark.parametrize("kind", ["equal", "skill"])
def test_many_repetitions_are_each_the_ordinary_loop(kind):
    world, panel = YardWorld(), People("bt70+hostile=2", 5.8, 7)
    chosen = repetitions.settings_for(
        world, rule="known", alpha=0.5, N=4, D=2, mu=0.4, weighting=kind
    )
    found = repetitions.train(world, chosen, [3, 4], 12, panel=panel)
    for theta, root_seed in zip(found.theta, (3, 4), strict=True):
        assert theta == pytest.approx(one_by_one(world, chosen, root_seed, panel, 12), abs=1e-5)


def one_by_one(world, chosen, root_seed, panel, steps):
    """The same repetition through ask, rollout, tell and apply."""
    chosen = replace(chosen, root_seed=root_seed)
    policy = WorldPolicy(world, root_seed, chosen.law)
    state, shape = optimizer.init(chosen), (1, chosen.N, chosen.M)
    for step in range(steps):
        query = optimizer.ask(state)
        batches = policy.rollout(
            [[PROMPT] * (chosen.N * chosen.D)] * 2, query.shifts[0], seed=step
        )
        totals = np.array([[worth(answer) for answer in batch] for batch in batches])
        gap = (totals[0] - totals[1]).reshape(1, 1, chosen.N, chosen.D).mean(-1)
        numbers = people.coins([root_seed], step, shape)
        cast = people.cast_votes(
            panel, panel.raters([root_seed]), step, (gap, None, None),
            (numbers[0][0], numbers[1][0]),
        )  # fmt: skip
        voters = VotesByVoter(cast.voters, cast.verdicts[0], cast.identical[0])
        state, updates, _ = optimizer.tell(state, query, voters.tally(), by_voter=voters)
        for update in updates:
            policy.apply(update)
    return policy.theta()["theta"]


@pytest.mark.full
def test_hostile_members_change_votes_and_nothing_else():
    world = YardWorld()
    assert np.array_equal(draws(world, [1], 5, 0, 8), draws(world, [1], 5, 0, 8))
    gained = [
        hostile.measure_gains(hostile.Case(5.8, hostile=bad), range(4), lambda done: None).mean()
        for bad in (0, 2)
    ]
    assert gained[0] > gained[1] > 0


def test_what_is_retained_is_a_share_of_the_honest_gain():
    honest = np.array([1.0, 2.0, 3.0, 4.0])
    assert hostile.retained_share(honest / 2, honest) == pytest.approx((0.5, 0.5, 0.5))
    share, low, high = hostile.retained_share(np.array([0.0, 2.0, 1.0, 3.0]), honest)
    assert low < share < high


def test_goals_say_what_is_missed():
    run = {"hostile": 1, "difference": [0.1, -0.01, 0.2], "kept_skill": (0.85, 0.8, 0.9)}
    honest = {"votes": 40, "known": 4, "kind": "honest", "flagged": 0.02}
    found = hostile.check_goals({"run": [run], "effort": [honest]})
    assert [goal["met"] for goal in found] == [False, True, False]


def test_the_command_writes_its_figures_with_the_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hostile, "VOTES", 16)
    found = hostile.main(seeds=2, first=7, people=40, folder=tmp_path)
    stored = json.loads((tmp_path / "hostile.json").read_text(encoding="utf-8"))
    assert stored["seeds"] == [7, 8] and len(stored["run"][0]["gains"]["skill"]) == 2
    with (tmp_path / "run.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3
    out = capsys.readouterr().out
    assert "seeds 7 to 8" in out and ("MISSED" in out or all(g["met"] for g in found["goals"]))


SETS = (
    "optimizer.rows=2", "optimizer.comparisons=4", "generation.max_new_tokens=6", "subspace.dim=4",
    "subspace.samples=16", "subspace.kl_samples=16", "evaluation.prompts=4",
    "evaluation.samples=2",
)  # fmt: skip


@pytest.mark.slow
def test_whole_runs_of_a_model_are_points_shared_between_processes(tmp_path, monkeypatch, capsys):
    """Two processes in one folder do each run once; the output names runs under way."""
    monkeypatch.setattr(hostile, "VOTES", 8)
    monkeypatch.setenv("COLUMNS", "160")
    ask = {"model": "tiny", "points": (3,), "sets": SETS, "folder": tmp_path}
    lock = tmp_path / "tiny" / "tiny-2-skill-3.lock"
    with study.claim(lock) as ours:
        assert ours
        first = hostile.main(**ask)
    assert first["elsewhere"] == 1 and [row["hostile"] for row in first["rows"]] == [0]
    assert "1 runs are with other processes" in capsys.readouterr().out
    monkeypatch.setattr(demo, "measure_run", once(demo.measure_run))
    found = hostile.main(**ask)
    out = capsys.readouterr().out
    assert found["elsewhere"] == 0 and [row["hostile"] for row in found["rows"]] == [0, 2]
    assert found["rows"][0] == first["rows"][0]
    for row in found["rows"]:
        assert all(4 < votes <= 8 for votes in row["votes"])
        assert len(row["equal"]) == len(row["skill"]) == 1
        assert f"{row['equal'][0]:+.3f}" in out and f"{row['skill'][0]:+.3f}" in out
    assert json.loads((tmp_path / "tiny.json").read_text()) == found
    with Ledger.open(tmp_path / "tiny" / "tiny-2-skill-sentiment-3.db") as ledger:
        betas = [rater["beta"] for rater in ledger.spec["panel"]["raters"]]
        assert len(betas) == 7 and [beta > 0 for beta in betas] == [True] * 5 + [False] * 2
        assert ledger.spec["optimizer"]["weighting"] == "skill"
        assert verification.verify(ledger).ok


def once(measure):
    """The run that another process held; any other one stands in the folder already."""
    calls = iter([measure])
    return lambda *some, **more: next(calls)(*some, **more)


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
