"""What `szpo bench judge` measures, on judges whose habits are known."""

import pytest

from szpo.judges.backends import Reply
from szpo_simulators.bench.voters import judge as bench
from szpo_simulators.judges import probes
from szpo_simulators.judges.probes import FORMS, tasks
from szpo_simulators.rewards.verifiers import verifier
from tests.support.judging import Scripted, judge, places


def examine(stub, part, count=4):
    asked = {"stub": stub, "sets": [], "part": part, "other": "tiny",
             "of": {"pairs": count, "habits": count}}  # fmt: skip
    return bench.work(asked)


def check(text):
    """A judge that keeps to the truth: it knows the forms and checks them."""
    request = text.partition("Request 1:\n| ")[2].partition("\n")[0]
    name = next(name for name, asked, *_ in FORMS if asked in request)
    parts = [p.partition(":\n| ")[2].partition("\n")[0] for p in text.split("Answer of ")[1:]]
    right = [verifier(name)(part) for part in parts]
    return "Verdict: " + ("tie" if right[0] == right[1] else "A" if right[0] else "B")


def test_the_better_answer_of_a_task_is_certain():
    for comparison in tasks(24, seed=3, rows=2):
        for j, row in enumerate(comparison.rows):
            check = verifier(FORMS[(comparison.n + j) % len(FORMS)][0])
            assert check(row.plus.text) and not check(row.minus.text)


def test_a_judge_that_knows_the_truth_is_found_right_in_both_orders():
    found = probes.ask(judge(check), tasks(16)).figures()
    assert found["plus"][0] == found["consistency"][0] == 1.0
    assert found["first place"][0] == 0.5
    assert (found["ties"][0], found["unreadable"][0], found["errors"]) == (0, 0, [])


def test_one_that_talks_nonsense_and_one_that_is_silent_are_reported():
    found = examine("nonsense", "truth")
    assert found["unreadable"][0] == 1.0 and found["consistency"] is None
    assert found["errors"] == ["no verdict in the last line, asked 2 times"]
    assert found["tokens"] == [4 * 2 * 2 * 100, 4 * 2 * 2 * 10], "all tries are paid"
    found = examine("silent", "truth", count=2)
    assert (found["unreadable"][0], found["errors"]) == (1.0, ["no answer within 0.2 s"])


def test_a_liking_for_length_and_none_for_names_are_distinguished():
    found = examine("longer", "length")
    assert found["plus"][0] == found["consistency"][0] == 1.0
    names = examine("longer", "names")
    assert [names[name][0] for name in probes.OTHER_NAMES] == [1.0, 1.0, 1.0]


def test_a_liking_for_own_texts_shows_on_pairs_that_are_equally_good():
    own, other = (
        Scripted(lambda text, word=word: Reply(f"{word} it was.")) for word in ("So", "Oh")
    )
    both = probes.own_and_other(own, other, tasks(8))
    # Neither keeps most forms; where both fail, or both keep one, they are equals by the truth.
    assert len(both) == 8
    vain = judge(lambda text: "Verdict: " + ("A" if places(text, "So it was")[0] else "B"))
    assert probes.ask(vain, both).figures()["plus"][0] == 1.0
    echo = Scripted(lambda text: Reply("So it was."))
    assert probes.own_and_other(own, echo, tasks(8)) == ()


@pytest.mark.full
def test_a_quick_look_prints_and_keeps_its_cells(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "MODELS", ())
    monkeypatch.setattr(bench, "STUBS", ("longer",))
    found = bench.main(quick=True, folder=tmp_path)
    assert [row["judge"] for row in found["judges"]] == ["endpoint: longer"]
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4
    assert "on pairs whose better answer is certain" in capsys.readouterr().out
    head, row = (tmp_path / "judges.csv").read_text(encoding="utf-8").splitlines()
    assert "both orders agree" in head and row.startswith('endpoint: longer,"')
