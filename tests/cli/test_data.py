"""The commands that read preference files and write pairs and ranking tasks."""

import json
from pathlib import Path

import pytest

from szpo.baselines import asking
from szpo.cli import app
from szpo.data import preference_files
from szpo.data.preference_formats import Pair
from szpo.ledger.database import Ledger
from szpo.voting import step_states
from szpo.voting.service import VoteService
from tests.support import asking as asking_people
from tests.support import folder_run

CHAT = "\n\nHuman: A joke?\n\nAssistant:"


def write(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_pairs_reads_a_file_of_another_project_and_writes_trl(tmp_path, capsys):
    good = {"chosen": CHAT + " Knock, knock.", "rejected": CHAT + " No."}
    same = {"chosen": CHAT + " No.", "rejected": CHAT + " No."}
    source = write(tmp_path / "train.jsonl", [good, {"chosen": "Hi"}, same])
    out = tmp_path / "pairs.jsonl"
    arguments = ["pairs", str(source), "--from", "hh", "--out", str(out)]
    assert app.call(arguments) == 2
    told = capsys.readouterr().err
    assert "train.jsonl:2: needs rejected (found: chosen)" in told and "--skip-bad" in told
    assert not out.exists()
    assert app.call([*arguments, "--skip-bad"]) == 0
    reported = capsys.readouterr()
    assert reported.out == f"3 records: 1 pair, 1 tie, 1 left out; wrote {out}\n"
    assert reported.err.startswith("warning: left out ") and ":2: " in reported.err
    (pair,) = preference_files.read(out).pairs
    told = pair.prompt.text, pair.chosen.text, pair.rejected.text
    assert told == ("A joke?", "Knock, knock.", "No.")
    assert app.call([*arguments, "--skip-bad"]) == 4  # nothing is overwritten
    assert app.call(["pairs", str(source), "--from", "hh", "--skip-bad", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {k: document[k] for k in ("records", "pairs", "ties")} == {
        "records": 3, "pairs": 1, "ties": 1,
    }  # fmt: skip


def test_a_file_of_ties_writes_nothing(tmp_path, capsys):
    source = write(tmp_path / "a.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    assert app.call(["pairs", str(source), "--out", str(tmp_path / "b.jsonl")]) == 2
    assert "no pair in it, only 1 tie; nothing written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_rank_writes_tasks_whose_rankings_come_back(tmp_path, capsys):
    source = write(
        tmp_path / "candidates.jsonl",
        [
            {"prompt": "A joke?", "completions": ["Knock, knock.", "No.", "Why?", "No."]},
            {"prompt": "Bye?", "chosen": "Bye.", "rejected": "Stay."},
            {"prompt": "Same?", "completions": ["x", "x"]},
        ],
    )
    out = tmp_path / "ranking"
    assert app.call(["rank", str(source), "--out", str(out), "--seed", "3"]) == 0
    assert f"wrote 2 tasks to {out}" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["tasks.json", "template.xml"]
    tasks = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    wanted = ["No.", "Why?", "Knock, knock."]
    by_text = {item["body"]: item["id"] for item in tasks[0]["data"]["items"]}
    result = {"type": "ranker", "value": {"ranker": [by_text[text] for text in wanted]}}
    exported = tmp_path / "export.json"
    exported.write_text(json.dumps([{**tasks[0], "annotations": [{"result": [result]}]}]))
    pairs = preference_files.read(exported, "label-studio").pairs
    assert [(pair.chosen.text, pair.rejected.text) for pair in pairs] == [
        ("No.", "Why?"), ("No.", "Knock, knock."), ("Why?", "Knock, knock."),
    ]  # fmt: skip
    assert app.call(["rank", str(write(tmp_path / "e.jsonl", [])), "--out", "x"]) == 2
    assert "no prompt with two different answers" in capsys.readouterr().err


def told_of(pair: Pair) -> tuple[object, ...]:
    """All of a pair but its answers' lengths, which no file of pairs tells."""
    sides = [(answer.text, answer.end) for answer in (pair.chosen, pair.rejected)]
    return (pair.prompt, *sides, pair.source, pair.votes)


def test_a_note_is_for_the_side_that_the_panelist_saw(tmp_path):
    """The batch's verdict is for minus; the note on its first row is for plus."""
    with asking_people.open_run(tmp_path, n=1, m=1) as ledger:
        service = VoteService(ledger)
        seat = service.assign(service.enroll("person", "ann"))
        other = {"A": "B", "B": "A"}[seat.plus_side]
        details = {"notes": {"0": seat.plus_side}}
        service.cast(seat.id, other, idem=seat.id, details=details)
        assert step_states.close(ledger, 0, "rule")
        noted, rest = asking.read_recorded_pairs(ledger).pairs
    assert (noted.source, noted.chosen.text) == ("note", asking_people.ROW.plus.text)
    assert (rest.source, rest.chosen.text) == ("batch", asking_people.ROW.minus.text)


@pytest.mark.full
def test_pairs_of_a_run_are_those_of_its_ledger(tmp_path, capsys):
    path = folder_run.finished(tmp_path)
    capsys.readouterr()
    with Ledger.open(path, readonly=True) as ledger:
        recorded = asking.read_recorded_pairs(ledger)
    out = tmp_path / "pairs.jsonl"
    arguments = ["pairs", path.stem, "--folder", str(path.parent), "--out", str(out)]
    assert app.call(arguments) == 2 and not out.exists()  # its votes are on batches of two rows
    told = capsys.readouterr().err
    votes = sum(pair.votes for pair in recorded.pairs) // 2
    assert f"; left out: {votes} votes on batches, whose pairs nobody judged; " in told
    assert app.call([*arguments, "--rows-of-batches"]) == 0
    count, ties = len(recorded.pairs), recorded.ties
    reported = f"{recorded.records} comparisons: {count} pairs, {ties} ties; wrote {out}\n"
    assert capsys.readouterr().out == reported
    found = preference_files.read(out).pairs
    assert [told_of(pair) for pair in found] == [told_of(pair) for pair in recorded.pairs]
    assert count > 0
    assert app.call(["pairs", "nothing", "--folder", str(path.parent)]) == 2
    assert "no run nothing" in capsys.readouterr().err
    (tmp_path / "votes.txt").write_text("a,b\n")
    assert app.call(["pairs", str(tmp_path / "votes.txt")]) == 2
    assert "records are read from .jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_answers_to_chosen_questions_are_pairs(suffix, tmp_path, capsys):
    pool, sheet = tmp_path / "pool.jsonl", tmp_path / f"next.{suffix}"
    write(pool, [{"id": f"q{i}", "prompt": f"-{i}?", "a": "=1 yes " * i, "b": "no"}
                 for i in range(1, 7)])  # fmt: skip
    chosen = ["select", str(pool), "--features", "length", "--out", str(sheet), "--count", "4"]
    assert app.call(chosen) == 0
    text = sheet.read_text(encoding="utf-8")
    before, after = ('"choice": "', '"') if suffix == "jsonl" else ("no,", ",,")
    for answer in ("A", "b", "tie"):  # the fourth stays open
        text = text.replace(before + after, before + answer + after, 1)
    sheet.write_text(text, encoding="utf-8")
    out = tmp_path / "pairs.jsonl"
    assert app.call(["pairs", str(sheet), "--out", str(out)]) == 0
    assert f"4 records: 2 pairs, 1 tie; wrote {out}" in capsys.readouterr().out
    first, second = preference_files.read(out).pairs
    assert first.source == "pair"
    assert first.chosen.text.startswith("=1 yes ") and first.rejected.text == "no"
    assert second.chosen.text == "no" and second.prompt.text.startswith("-")
    sheet.write_text(text.replace("tie", "maybe"), encoding="utf-8")
    assert app.call(["pairs", str(sheet)]) == 2
    assert "choice 'maybe' is unknown; give A, B, tie or skip" in capsys.readouterr().err


@pytest.mark.full
def test_completions_of_a_run_are_ranked_by_people(tmp_path, capsys):
    path = folder_run.finished(tmp_path)
    out, tasks = tmp_path / "completions.jsonl", tmp_path / "tasks"
    ask = ["sample", str(path), "-p", "w1 w2", "-p", "w3", "--completions", "4"]
    assert app.call(ask) == 2
    assert "--completions N goes with --out FILE.jsonl" in capsys.readouterr().err
    assert app.call([*ask, "--out", str(out)]) == 0
    made = [json.loads(line)["completions"] for line in out.read_text().splitlines()]
    assert [len(completions) for completions in made] == [4, 4]
    assert app.call(["rank", str(out), "--out", str(tasks)]) == 0
    assert "wrote 2 tasks" in capsys.readouterr().out
