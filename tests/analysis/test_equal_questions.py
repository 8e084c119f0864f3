"""Questions without a difference are told before, while and after a run asks them."""

import json
import re

import pytest

from szpo.analysis import taught_taste
from szpo.cli.app import call
from szpo.policies import teachable
from tests.support import folder_run
from tests.support.operator_page import teach
from tests.support.quadratic import new_ledger, settings_of


def test_equal_questions_are_told_before_votes_are_spent():
    said = "of comparisons of base answers show this panel no difference"
    for zero, half, told in (
        (0.509, True, f"51 % {said}: {teachable.CHANGE}"), (0.12, False, f"12 % {said}"),
        (0.0, False, ""),
    ):  # fmt: skip
        assert teachable.foretell({"calibration": {"zero_share": zero}}, 8) == (half, told)
    for unknown in (None, {}, {"calibration": None}):
        assert teachable.foretell(unknown, 8) == (False, "")
    # Where verdicts are on rows there is no more to show in one.
    _, told = teachable.foretell({"calibration": {"zero_share": 0.6}}, 1)
    assert told.endswith("differ in what you want") and "optimizer.D" not in told


def test_equal_questions_are_warned_of_once_while_running(tmp_path):
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        watch, told = taught_taste.Watch(ledger), []
        for votes, ties in ((4, 4), (8, 0), (12, 1), (16, 7), (20, 2), (24, 4), (28, 4)):
            teach(ledger, votes, [], ties=ties)
            told.append(watch.look())
    # 5 of 12 ties: not half. From then on it looks again at 24: 18 of 24.
    assert [bool(each) for each in told] == [False] * 5 + [True, False]
    assert told[5] == f"18 of 24 questions show no difference: {teachable.CHANGE}"


def test_questions_that_all_tie_unasked_are_told_where_nobody_voted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        taught_taste.panel_evaluator, "find_reward", lambda _: lambda prompt, answer: 1.0
    )
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        teach(ledger, 0, [], automatic_ties=12)
        told = taught_taste.Watch(ledger).look()
    assert told == f"12 of 12 questions show no difference: {teachable.CHANGE}"


@pytest.mark.full
def test_a_run_of_coin_tosses_is_told_at_set_up_while_running_in_the_plan_and_by_the_doctor(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SZPO_CACHE", str(tmp_path / "cache"))
    model = folder_run.model(tmp_path)

    def line(words: str) -> list[str]:
        sets = (f"panel.reward=keyword:{words}", "run.votes=16")
        return folder_run.arguments(tmp_path, *sets, model_folder=model)

    assert call(line("w30,w31,w32")) == 0
    told = capsys.readouterr()
    assert "szpo verify" in told.out and "--votes" not in told.out  # more votes do not help
    before, _, running = told.err.partition("run folder in ")
    foretold = "% of comparisons of base answers show this panel no difference: take prompts"
    assert foretold in before
    assert re.search(r"warning: \d+ of 12 questions show no difference: take", running)
    assert call([*line("w30,w31,w32"), "--plan", "--json"]) == 0  # nothing is drawn for it
    assert foretold in json.loads(capsys.readouterr().out)["questions"]
    call(["doctor", "folder", "--folder", str(tmp_path / "runs"), "--json"])
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["questions"]["status"] == "warn" and foretold in found["questions"]["text"]
    settings = tmp_path / "run.toml"
    sets = dict(each.split("=", 1) for each in line("w30,w31,w32")[4::2])
    rows = (f"{k} = {v if v.isdigit() else json.dumps(v)}\n" for k, v in sets.items())
    settings.write_text("".join(rows), encoding="utf-8")
    call(["doctor", "--config", str(settings), "--json"])
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert foretold in found["questions"]["text"]
    assert call([*line("w5"), "--plan"]) == 2  # as the run would be
    assert "base answers never differ in this reward" in capsys.readouterr().err
