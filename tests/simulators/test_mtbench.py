"""The fit to human votes: what is committed follows from its own constants, and is near people."""

import gzip
import json

import numpy as np
import pytest
from scipy.special import ndtri

from szpo.errors import UsageError
from szpo.seeds import derive, uniform
from szpo_simulators.bench.voters import mtbench as fitting
from szpo_simulators.panels import mtbench, panel
from szpo_simulators.panels.flaws import members
from szpo_simulators.panels.mtbench import STATISTICS, Constants
from szpo_simulators.panels.raters import law, pick

COMMITTED = mtbench.load_committed()


def test_the_committed_table_follows_from_the_committed_constants() -> None:
    """Without the votes: quadrature of the model over the committed design gives the table."""
    assert mtbench.digest(COMMITTED) == COMMITTED["sha256"]
    training, preset = mtbench.constants("training"), mtbench.constants()
    columns = {
        "model on the held-out half": mtbench.expected_statistics(
            training, COMMITTED["design"]["held-out"]
        ),
        "model on all": mtbench.expected_statistics(training, COMMITTED["design"]["all"]),
        "preset on all": mtbench.expected_statistics(preset, COMMITTED["design"]["all"]),
    }
    assert [row["statistic"] for row in COMMITTED["table"]] == list(STATISTICS)
    for name, values in columns.items():
        committed = [row[name] for row in COMMITTED["table"]]
        assert values == pytest.approx(committed, abs=5.1e-5), name


@pytest.mark.parametrize("row", COMMITTED["table"], ids=STATISTICS)
def test_the_model_is_within_what_half_of_the_people_leave_open(row) -> None:
    """A model of the training half: inside the 95 % bootstrap interval of the other half, and
    within .03 of all votes; the preset likewise."""
    assert row["low"] <= row["model on the held-out half"] <= row["high"]
    assert abs(row["model on all"] - row["all votes"]) <= 0.03
    assert abs(row["preset on all"] - row["all votes"]) <= 0.03
    assert row["met"]


def test_the_panel_itself_votes_with_these_statistics() -> None:
    """Members of the preset answer items of the committed design, drawn one by one."""
    theta = mtbench.constants().theta
    counts = []
    for pair, votes in COMMITTED["design"]["all"].items():
        first, second = pair.split("/")
        for count, items in votes.items():
            m, copies = int(count), 4 * items
            u = uniform(derive(0, "votes", name=pair, k=m), copies * (m + 2)).reshape(copies, -1)
            (rater,) = members("mtbench", 1.0, 1)
            effects = ndtri(u[:, None, :2] + 2.0**-54)
            gap = np.full((copies, 1), theta[first] - theta[second])
            answers = pick(law(rater, gap, True, effects), u[:, 2:])
            counts.append(np.stack([(answers == c).sum(1) for c in range(3)], axis=-1))
    found = mtbench.ratios(mtbench.sums(np.concatenate(counts)).sum(0))
    people = [row["all votes"] for row in COMMITTED["table"]]
    # 7,256 items, mostly of one or two votes: a standard error of up to .011 for unanimity.
    assert found == pytest.approx(people, abs=0.03)


def test_close_policies_are_judged_as_close_chatbots_are() -> None:
    """A model of those items alone is inside their bootstrap intervals and within .03."""
    design = {k: v for k, v in COMMITTED["design"]["all"].items() if k in fitting.CLOSE}
    found = mtbench.expected_statistics(mtbench.constants("close"), design)
    for value, row in zip(found, COMMITTED["close"]["table"], strict=True):
        assert value == pytest.approx(row["model"], abs=5.1e-5)
        assert row["low"] <= value <= row["high"]
        assert value == pytest.approx(row["votes"], abs=0.03)


def test_beta_of_close_gives_the_better_batch_its_fifty_five_percent() -> None:
    """Agreement and ties then come out by themselves, near those of close chatbots."""
    u = ndtri(uniform(derive(5, "normal"), 200 * 40).reshape(200, 40))
    rater = members("close", 1.0, 1)[0]
    target = COMMITTED["close"]["favourite"]
    fitted = panel.calibrate(u, 8, 0, target, measure="wins", rater=rater)
    assert fitted.reached == pytest.approx(0.55, abs=0.004)
    gaps = fitted.beta * panel.batch_gaps(u, 8, derive(9, "questions"), 200)
    shares, weight = mtbench.shares(rater, gaps), mtbench.nodes()[1]
    agreement, _, tie, _ = (row["votes"] for row in COMMITTED["close"]["table"])
    assert float((weight @ (shares**2).sum(-1)).mean()) == pytest.approx(agreement, abs=0.03)
    assert float((weight @ shares[..., 2]).mean()) == pytest.approx(tie, abs=0.03)


def line(a: str, b: str, question: int, winner: str) -> str:
    return json.dumps(
        {"judge": "x", "model_a": a, "model_b": b, "question_id": question, "turn": 1,
         "winner": winner}
    )  # fmt: skip


def test_statistics_of_a_few_votes_by_hand(tmp_path) -> None:
    file = tmp_path / "votes.jsonl.gz"
    lines = [
        line("x", "y", 1, "model_a"), line("y", "x", 1, "model_b"), line("x", "y", 1, "tie"),
        line("x", "y", 2, "model_b"), line("x", "y", 2, "model_b"), line("x", "y", 2, "model_b"),
        line("x", "y", 3, "tie"),
    ]  # fmt: skip
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    items = fitting.read_votes(file)
    assert {key[1]: counts.tolist() for key, counts in items.items()} == {
        "1": [2, 0, 1], "2": [0, 3, 0], "3": [0, 0, 1]
    }  # fmt: skip
    # Equal pairs 1 + 3 of 6; of the 4 without a tie all; 2 ties of 7; 1 of 2 items unanimous.
    assert fitting.measure_statistics(items) == pytest.approx([4 / 6, 1.0, 2 / 7, 0.5])
    assert fitting.count_design(items) == {"x/y": {"1": 1, "3": 2}}
    assert sum(map(len, fitting.split_items(items))) == 3


def test_the_fit_finds_what_made_the_votes() -> None:
    """Three chatbots, 900 items of four votes, effects of items and lapses: they come back."""
    made = Constants({"x": 0.8, "y": 0.0, "z": -0.8}, np.log(0.6), 0.0, 1.5, 1.0)
    items = {}
    for pair in ("x/y", "x/z", "y/z"):
        first, second = pair.split("/")
        u = uniform(derive(0, "made", name=pair), 300 * 6).reshape(300, 6)
        gap = np.full((300, 1), made.theta[first] - made.theta[second])
        shares = law(made.rater, gap, True, ndtri(u[:, None, :2] + 2.0**-54))
        for i, answers in enumerate(pick(shares, u[:, 2:])):
            items[pair, str(i), "1"] = np.bincount(answers, minlength=3)
    found = fitting.fit(items)
    # Three standard errors, by the spread over twelve such sets: .3, .3, .45, .5.
    assert list(found.theta.values()) == pytest.approx([0.8, 0.0, -0.8], abs=0.3)
    assert found.log_tie == pytest.approx(made.log_tie, abs=0.3)
    assert found.item_spread == pytest.approx(1.5, abs=0.45)
    assert found.tie_spread == pytest.approx(1.0, abs=0.5)
    assert mtbench.expected_statistics(found, fitting.count_design(items)) == pytest.approx(
        fitting.measure_statistics(items), abs=0.02
    )


def test_the_command_shows_the_stored_fit_and_refuses_what_is_no_vote(tmp_path, capsys) -> None:
    assert fitting.main(folder=tmp_path)["sha256"] == COMMITTED["sha256"]
    assert "agreement where nobody" in capsys.readouterr().out
    wrong = tmp_path / "wrong.jsonl"
    with pytest.raises(UsageError, match="cannot be read"):
        fitting.main(votes=wrong, folder=tmp_path)
    wrong.write_text(line("x", "y", 1, "model_a") + '\n{"winner": "nobody"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2: no vote"):
        fitting.main(votes=wrong, folder=tmp_path)
    wrong.write_text(line("x", "y", 1, "model_a"), encoding="utf-8")
    with pytest.raises(UsageError, match="which close needs"):
        fitting.main(votes=wrong, folder=tmp_path)
    wrong.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no votes"):
        fitting.main(votes=wrong, folder=tmp_path)
