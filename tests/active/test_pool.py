"""`szpo select`: pools from files, rounds of questions, answers back, and what is refused."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo.active import acquisition, label_sheets, pool, rounds
from szpo.active.pool import Filter, Pair
from szpo.active.rounds import Reply, SelectionSettings, State
from szpo.analysis import features
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.seeds import derive, uniform
from szpo.types import Prompt

TRUTH = np.array([1.5, -0.5])
"""What the answers of these tests like, per unit of the columns x and y."""


def numbers(count: int, name: str = "pool") -> np.ndarray[Any, Any]:
    return 2 * uniform(derive(3, "test pool", name=name), 4 * count).reshape(count, 2, 2) - 1


def record(i: int, sides: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {
        "id": f"p{i}",
        "prompt": "Which?",
        "a": f"answer {i} a",
        "b": f"answer {i} b",
        "a_features": dict(zip("xy", sides[0].tolist(), strict=True)),
        "b_features": dict(zip("xy", sides[1].tolist(), strict=True)),
    }


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def some(tmp_path):
    """300 pairs with numbers x and y of their own."""
    return lines(tmp_path / "pool.jsonl", [record(i, s) for i, s in enumerate(numbers(300))])


def sheet_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill_in(questions: Path, out: Path, how: Callable[[dict[str, Any]], str]) -> Path:
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    return lines(out, [{**row, "choice": how(row)} for row in rows])


def likes(row: dict[str, Any]) -> str:
    sides = numbers(300)[int(row["id"][1:])]
    return "A" if (sides[0] - sides[1]) @ TRUTH > 0 else "B"


def select(*arguments: object) -> int:
    return call(["select", *map(str, arguments)])


# ---- the loop ----


@pytest.mark.full
def test_rounds_find_what_the_answers_like(some, tmp_path, capsys):
    out = tmp_path / "next.jsonl"
    begin = ("--features", "columns:x,y", "--out", out, "--count", 6, "--tau", 3)
    assert select(some, *begin) == 0
    asked = []
    for number in range(4):
        replies_file = fill_in(out, tmp_path / f"answers{number}.jsonl", likes)
        asked += [json.loads(line)["id"] for line in replies_file.read_text().splitlines()]
        assert select(some, "--out", out, "--answers", replies_file, "--count", 6) == 0
    capsys.readouterr()
    assert select(some, "--out", out, "--count", 6, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert len(set(asked)) == len(asked) == figures["answers"] == 24  # nothing twice
    found = np.array([weight["mean"] for weight in figures["weights"]])
    # Units are standard deviations of δ, equal here for x and y: TRUTH keeps its direction.
    assert found @ TRUTH / np.linalg.norm(found) / np.linalg.norm(TRUTH) > 0.98
    assert figures["entropy"] < figures["entropy_prior"] - 1.5
    assert figures["fresh"] == 0 and figures["questions"] == 6


def test_the_same_command_again_changes_nothing(some, tmp_path):
    out, place = tmp_path / "next.csv", tmp_path / "state.json"
    for _ in range(2):
        assert select(some, "--features", "columns:x,y", "--out", out, "--state", place) == 0
    first = out.read_bytes(), place.read_bytes()
    rows = sheet_of(out)
    replies_file = lines(
        tmp_path / "told.jsonl", [{"id": r["id"], "choice": "tie"} for r in rows[:7]]
    )
    files = []
    for _ in range(2):
        assert select(some, "--out", out, "--state", place, "--answers", replies_file) == 0
        files.append((out.read_bytes(), place.read_bytes()))
    assert files[0] == files[1] != first
    again = [r["id"] for r in sheet_of(out)]
    assert again[:3] == [r["id"] for r in rows[7:]]  # what waits comes first
    assert len(set(again)) == 10


def test_whoever_dies_before_the_sheet_gets_the_same_questions(some, tmp_path, monkeypatch):
    out, place = tmp_path / "next.jsonl", tmp_path / "state.json"
    begin = (some, "--features", "columns:x,y", "--out", out, "--state", place)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(label_sheets, "write", dies)
        assert select(*begin) == 130
    assert not out.exists()
    assert select(*begin) == 0
    waiting = [q.id for q in rounds.load(place).waiting]
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == waiting


def test_who_changes_their_mind_counts_once_and_two_people_twice(some):
    of = pool.differences_from_columns(("x", "y"))
    begun = rounds.advance(
        State(SelectionSettings("columns:x,y", ("x", "y"))), some, of, count=2
    ).state
    name = begun.questions[0].id
    replies = [Reply(name, "A", "ada"), Reply(name, "B", "ada"), Reply(name, "A", "bob")]
    done = rounds.advance(begun, some, of, count=2, replies=replies)
    assert (done.new_replies, done.changed) == (2, 1)
    # One for A and one for B contradict each other: nothing is preferred, yet something is known.
    assert [abs(mean) < 1e-9 for _, mean, _ in done.weights] == [True, True]
    assert done.now < done.before


@pytest.mark.parametrize("rule", acquisition.RULES)
def test_a_stream_chooses_as_the_whole_would(some, rule, monkeypatch):
    """Chunks of 7 pairs against one chunk."""
    plan = SelectionSettings("columns:x,y", ("x", "y"), rule=rule)
    of = pool.differences_from_columns(plan.names)
    whole = rounds.advance(State(plan), some, of, count=5)
    monkeypatch.setattr(pool.chunks, "__defaults__", (7,))
    parts = rounds.advance(State(plan), some, of, count=5)
    assert [q.id for q in parts.out] == [q.id for q in whole.out]
    assert whole.certain == parts.certain == (rule == "bald")


# ---- formats ----


def test_all_formats_hold_the_same_pairs(tmp_path):
    made = [record(i, s) for i, s in enumerate(numbers(5))]
    as_lines = list(pool.read(lines(tmp_path / "p.jsonl", made)))
    array = tmp_path / "p.json"
    array.write_text(json.dumps(made))
    table = tmp_path / "p.csv"
    with table.open("w", newline="") as file:
        heads = ["id", "prompt", "a", "b", "a.x", "a.y", "b.x", "b.y"]
        sheet = csv.writer(file)
        sheet.writerow(heads)
        for r in made:
            values = [*r["a_features"].values(), *r["b_features"].values()]
            sheet.writerow([r["id"], r["prompt"], r["a"], r["b"], *values])
    assert list(pool.read(array)) == as_lines == list(pool.read(table))
    delta = pool.differences_from_columns(("x", "y"))(as_lines)
    assert np.allclose(delta, numbers(5)[:, 0] - numbers(5)[:, 1], rtol=1e-15)


def test_label_studio_there_and_back(tmp_path):
    """A task of three items is three pairs; questions go out as tasks, rankings come back."""
    items = [
        {"id": str(i), "title": f"Answer {i}", "body": "very " * i + "good"} for i in range(3)
    ]
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"id": 4, "data": {"prompt": "Well?", "items": items}}]))
    assert [p.id for p in pool.read(path)] == ["4/0/1", "4/0/2", "4/1/2"]
    out, place = tmp_path / "next.json", tmp_path / "s.json"
    assert select(path, "--features", "length", "--out", out, "--state", place) == 0
    tasks = json.loads(out.read_text())
    export = [
        {**t, "annotations": [
            {"completed_by": 7, "result": [{"type": "ranker", "value": {"ranker": ["b", "a"]}}]}
        ]}
        for t in tasks
    ]  # fmt: skip
    replies_file = tmp_path / "export.json"
    replies_file.write_text(json.dumps(export))
    assert [(r.choice, r.by) for r in label_sheets.read(replies_file)] == [("B", "7")] * 3
    assert select(path, "--out", out, "--state", place, "--answers", replies_file) == 0
    mode, _ = rounds.load(place).posterior.laplace()
    assert mode[0] > 0  # B, the longer one, each time
    assert json.loads(out.read_text()) == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_strange_ids_come_back_as_they_went(tmp_path, suffix):
    """Whatever an id begins with, the answer is that of its question, from every kind of sheet."""
    names = ["=1", "'=1", "''x", "'tis", "\x00=1", "\x0b@", "\x1b-", "\n=2", "\r+3", " =4", "a\rb"]
    made = [
        {"id": n, "prompt": "Well?", "a": "short", "b": f"long {i}"} for i, n in enumerate(names)
    ]
    path, out = lines(tmp_path / "p.jsonl", made), tmp_path / f"n.{suffix}"
    assert select(path, "--features", "length", "--out", out, "--count", 20) == 0
    if suffix == "csv":
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            assert not row["id"].startswith(("=", "+", "-", "@", *map(chr, range(32)), " ="))
        with out.open("w", encoding="utf-8", newline="") as file:
            sheet = csv.DictWriter(file, list(rows[0]))
            sheet.writeheader()
            sheet.writerows({**row, "choice": "A"} for row in rows)
    elif suffix == "jsonl":
        fill_in(out, out, lambda row: "A")
    else:
        ranked = [{"type": "ranker", "value": {"ranker": ["a", "b"]}}]
        tasks = json.loads(out.read_text())
        export = [{**t, "annotations": [{"completed_by": 1, "result": ranked}]} for t in tasks]
        out.write_text(json.dumps(export))
    assert sorted(r.id for r in label_sheets.read(out)) == sorted(names)
    assert select(path, "--out", tmp_path / "next.jsonl", "--answers", out,
                  "--state", f"{path}.select.json") == 0  # fmt: skip


def test_embeddings_from_a_matrix(some, tmp_path):
    both = numbers(300)
    np.save(tmp_path / "both.npy", both)
    np.save(tmp_path / "delta.npy", both[:, 0] - both[:, 1])
    pairs = list(pool.read(some))[3:50]
    wanted = pool.differences_from_columns(("x", "y"))(pairs)
    for name in ("both.npy", "delta.npy"):
        of, dim = pool.differences_from_matrix(tmp_path / name)
        assert dim == 2 and np.allclose(of(pairs), wanted)
    assert select(some, "--features", tmp_path / "both.npy", "--out", tmp_path / "n.jsonl") == 0


# ---- filters ----


def pair(a: str, b: str, name: str = "p") -> Pair:
    return Pair(name, Prompt.user("Well?"), a, b)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (pair("one two three", "four five"), None),
        (pair("one", "four five"), "too short"),
        (pair("one two three four five", "four five"), "too long"),
        (pair("one two", "one two"), "two equal answers"),
        (pair("one two", "four five", "old"), "already asked"),
        (pair("before after", "after before"), "already asked"),  # by content, sides swapped
    ],
)
def test_filters(one, why):
    asked = frozenset({"old", pair("after before", "before after").key})
    assert Filter(shortest=2, longest=4, asked=asked).reason(one) == why


def test_copies_are_asked_once_whichever_answer_stands_first(tmp_path):
    texts = [("a long answer", "short"), ("short", "a long answer"), ("a long answer", "short")]
    path = lines(tmp_path / "p.jsonl", [{"prompt": "Well?", "a": a, "b": b} for a, b in texts])
    of = pool.differences_from_features(features.parse("length"))
    done = rounds.advance(State(SelectionSettings("length", ("length",))), path, of, count=3)
    assert len(done.out) == 1
    assert done.seen.left_out["a copy of another pair"] == 2


def test_constant_features_leave_nothing_to_ask(tmp_path, capsys):
    texts = [{"prompt": "Well?", "a": f"same {i}", "b": f"size {i}"} for i in range(4)]
    path = lines(tmp_path / "p.jsonl", texts)
    assert select(path, "--features", "length", "--out", tmp_path / "n.jsonl") == 0
    message = capsys.readouterr().out
    assert "4 no difference in any feature" in message and "nothing is left to ask" in message
    assert (tmp_path / "n.jsonl").read_text() == ""


def thousands(count: int) -> Iterator[dict[str, Any]]:
    u = uniform(derive(1, "rows"), 4096)
    for i in range(count):
        x, y = float(u[i % 4096]), float(u[(7 * i + i // 4096) % 4096])
        yield {"id": i, "prompt": "Well?", "a": f"{i} a", "b": f"{i} b",
               "a_features": {"x": x, "y": y}, "b_features": {"x": 0.5, "y": 0.5}}  # fmt: skip


def peak(tmp_path: Path, count: int) -> float:
    """MiB at the most while choosing from this many rows, beyond what there was before."""
    path = tmp_path / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(r) + "\n" for r in thousands(count))
    state = State(SelectionSettings("columns:x,y", ("x", "y")), scale=(1.0, 1.0))
    tracemalloc.start()
    try:
        done = rounds.advance(state, path, pool.differences_from_columns(("x", "y")), count=10)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.seen.pairs == count and len(done.out) == 10
    return most / 2**20


@pytest.mark.full
def test_memory_does_not_grow_with_the_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(acquisition, "SHORTLIST", 100)
    monkeypatch.setattr(pool.chunks, "__defaults__", (256,))
    small, large = peak(tmp_path, 1_000), peak(tmp_path, 5_000)
    assert large < 1.2 * small


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("p.jsonl", "", "holds no pairs"),
        ("p.csv", "id,prompt,a,b\n", "holds no pairs"),
        ("p.jsonl", "{]\n", "p.jsonl:1: not valid JSON"),
        ("p.jsonl", "[1]\n", "p.jsonl:1: a pair must be an object"),
        ("p.jsonl", '{"prompt": "x", "a": "y"}\n', "p.jsonl:1: needs b"),
        ("p.jsonl", '{"a": "x", "b": "y"}\n', "p.jsonl:1: needs prompt"),
        ("p.csv", "id,prompt,a,b\n1,x\n", "p.csv:2: the row and the header differ"),
        ("p.json", '[{"data": {"prompt": "x"}}]', "data needs items"),
        ("p.txt", "x", "are read from"),
        ("gone.jsonl", None, "not found"),
    ],
)
def test_pools_that_cannot_be_used(tmp_path, capsys, name, body, message):
    if body is not None:
        (tmp_path / name).write_text(body)
    code = select(tmp_path / name, "--features", "length", "--out", tmp_path / "n.jsonl")
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "charm"], "no feature 'charm'"),
        (["--features", "columns:x,z"], "has no number 'z'; it has x, y"),
        (["--features", "columns:"], "name the columns"),
        (["--features", "gone.npy"], "gone.npy"),
        ([], "give --features"),
        (["--features", "columns:x", "--count", "0"], "at least 1"),
        (["--features", "columns:x", "--tau", "-1"], "tau is -1.0"),
        (["--features", "columns:x", "--seed", "-1"], "seed"),
        (["--answers", "gone.jsonl"], "answers belong to questions"),
    ],
)
def test_arguments_that_cannot_be_used(some, capsys, arguments, message):
    assert select(some, "--out", some.with_name("n.jsonl"), *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"id": "p999", "choice": "A"}, "'p999' was never asked"),
        ({"id": None, "choice": "A"}, "needs id"),
        ({"id": "FIRST", "choice": "C"}, "'C' is unknown"),
    ],
)
def test_answers_that_cannot_be_used(some, tmp_path, capsys, reply, message):
    out, place = tmp_path / "n.jsonl", tmp_path / "s.json"
    assert select(some, "--features", "columns:x,y", "--out", out, "--state", place) == 0
    before = place.read_bytes()
    if reply["id"] == "FIRST":
        reply = {**reply, "id": rounds.load(place).questions[0].id}
    bad = lines(tmp_path / "bad.jsonl", [reply])
    assert select(some, "--out", out, "--state", place, "--answers", bad) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert place.read_bytes() == before


def test_a_selection_keeps_its_settings(some, tmp_path, capsys):
    out, place = tmp_path / "n.jsonl", tmp_path / "s.json"
    assert select(some, "--features", "columns:x,y", "--out", out, "--state", place) == 0
    code = select(some, "--features", "columns:x", "--out", out, "--state", place)
    assert code == 2 and "was begun with columns:x,y" in " ".join(capsys.readouterr().err.split())
    place.write_text("{}")
    assert select(some, "--out", out, "--state", place) == 2
    assert "version None" in capsys.readouterr().err


def test_a_feature_that_is_no_number_is_named(tmp_path):
    rows = [
        {"prompt": "x", "a": "y", "b": "z", "a_features": {"x": 1e999}, "b_features": {"x": 0}}
    ]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(rows[0]).replace("Infinity", "1e999") + "\n")
    with pytest.raises(UsageError, match="feature x is inf"):
        pool.differences_from_columns(("x",))(list(pool.read(path)))
