"""The benches, made small: cells, budgets, goals, tables and figures."""

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.judges.prompting import Reply
from szpo_simulators import gridworld
from szpo_simulators import judge as bench
from szpo_simulators.judge import FORMS, tasks
from szpo_simulators.panels.text_features import verifier
from szpo_simulators.study import seed_range
from tests.support.judging import Scripted, judge, places
from tests.support.stub_endpoint import stub_endpoint

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


def examine(script, part, count=4):
    of = {"pairs": count, "habits": count}
    with stub_endpoint(script) as stub:
        sets = ["judge.kind=endpoint", f"judge.base_url={stub.url}"]
        return bench.work({"sets": sets, "part": part, "other": "tiny", "of": of})


def check(text):
    """A judge that keeps to the truth: it knows the forms and checks them."""
    request = text.partition("Request 1:\n| ")[2].partition("\n")[0]
    name = next(name for name, asked, *_ in FORMS if asked in request)
    parts = [p.partition(":\n| ")[2].partition("\n")[0] for p in text.split("Answer of ")[1:]]
    right = [verifier(name)(part) for part in parts]
    return "Verdict: " + ("tie" if right[0] == right[1] else "A" if right[0] else "B")


def test_the_better_answer_of_a_task_is_certain_and_whoever_knows_it_is_right_in_both_orders():
    for comparison in tasks(24, seed=3, rows=2):
        for j, row in enumerate(comparison.rows):
            keeps = verifier(FORMS[(comparison.n + j) % len(FORMS)][0])
            assert keeps(row.plus.text) and not keeps(row.minus.text)
    found = bench.figures(bench.ask(judge(check), tasks(16)))
    assert found["plus"][0] == found["consistency"][0] == 1.0
    assert found["first place"][0] == 0.5
    assert (found["ties"][0], found["unreadable"][0], found["errors"]) == (0, 0, [])


def test_one_that_talks_nonsense_and_one_that_is_broken_are_reported():
    found = examine("nonsense", "truth")
    assert found["unreadable"][0] == 1.0 and found["consistency"] is None
    assert found["errors"] == ["no clear verdict in the reply, asked 3 times"]
    assert found["tokens"] == [4 * 2 * 3 * 100, 4 * 2 * 3 * 10], "all tries are paid"
    found = examine("500", "truth", count=2)
    assert found["unreadable"][0] == 1.0
    assert found["errors"] == ["HTTP 500, tried 4 times (stub 500)"]


def test_likings_for_length_and_for_own_texts_show_and_none_for_names():
    found = examine("longer", "length")
    assert found["plus"][0] == found["consistency"][0] == 1.0
    names = examine("longer", "names")
    assert [names[name][0] for name in bench.OTHER_NAMES] == [1.0, 1.0, 1.0]
    both = (Scripted(lambda text, word=word: Reply(f"{word} it was.")) for word in ("So", "Oh"))
    own, other = both
    both = bench.own_and_other(own, other, tasks(8))
    # Neither keeps most forms; where both fail, or both keep one, they are equals by the truth.
    assert len(both) == 8
    vain = judge(lambda text: "Verdict: " + ("A" if places(text, "So it was")[0] else "B"))
    assert bench.figures(bench.ask(vain, both))["plus"][0] == 1.0
    assert bench.own_and_other(own, own, tasks(8)) == ()


@pytest.mark.full
def test_the_published_steps_climb_the_dense_grid(tmp_path):
    """From 2.85 towards 7.55, in 9,600 votes: θ against θ + μv, N = 8, M = 5, D = 1, ten seeds."""
    known, sign = gridworld.main(folder=tmp_path, published=True)["published"]
    assert known["votes"][-1] == sign["votes"][-1] == 9600
    assert len(known["values"]) == len(sign["values"]) == 10
    assert known["mean"] >= 6.0 and sign["mean"] >= 5.6
