"""`szpo select`: pools from files, rounds of questions, answers back, and what is refused."""

import csv
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from szpo.analysis import features, posterior, question_rounds
from szpo.analysis.posterior import BradleyTerry, orient
from szpo.analysis.question_rounds import Pair, Reply, SelectionSettings, State
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.seeds import derive, uniform
from szpo.types import Floats, Prompt

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
    replies = [{"id": r["id"], "choice": "tie"} for r in rows[:7]]
    replies_file = lines(tmp_path / "told.jsonl", replies)
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
        patch.setattr(question_rounds, "write_sheet", dies)
        assert select(*begin) == 130
    assert not out.exists()
    assert select(*begin) == 0
    waiting = [q.id for q in question_rounds.load(place).waiting]
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == waiting


def test_who_changes_their_mind_counts_once_and_two_people_twice(some):
    of = question_rounds.differences_from_columns(("x", "y"))
    begun = State(SelectionSettings("columns:x,y", ("x", "y")))
    begun = question_rounds.advance(begun, some, of, count=2).state
    name = begun.questions[0].id
    replies = [Reply(name, "A", "ada"), Reply(name, "B", "ada"), Reply(name, "A", "bob")]
    done = question_rounds.advance(begun, some, of, count=2, replies=replies)
    assert (done.new_replies, done.changed) == (2, 1)
    # One for A and one for B contradict each other: nothing is preferred, yet something is known.
    assert [abs(mean) < 1e-9 for _, mean, _ in done.weights] == [True, True]
    assert done.now < done.before


@pytest.mark.parametrize("rule", posterior.RULES)
def test_a_stream_chooses_as_the_whole_would(some, rule, monkeypatch):
    plan = SelectionSettings("columns:x,y", ("x", "y"), rule=rule)
    of = question_rounds.differences_from_columns(plan.names)
    whole = question_rounds.advance(State(plan), some, of, count=5)
    monkeypatch.setattr(question_rounds, "CHUNK", 7)
    parts = question_rounds.advance(State(plan), some, of, count=5)
    assert [q.id for q in parts.out] == [q.id for q in whole.out]
    assert whole.certain == parts.certain == (rule == "bald")


def test_all_formats_hold_the_same_pairs(tmp_path):
    made = [record(i, s) for i, s in enumerate(numbers(5))]
    as_lines = list(question_rounds.read_pool(lines(tmp_path / "p.jsonl", made)))
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
    assert (
        list(question_rounds.read_pool(array))
        == as_lines
        == list(question_rounds.read_pool(table))
    )
    delta = question_rounds.differences_from_columns(("x", "y"))(as_lines)
    assert np.allclose(delta, numbers(5)[:, 0] - numbers(5)[:, 1], rtol=1e-15)


def ranked(tasks: list[dict[str, Any]], order: list[str]) -> list[dict[str, Any]]:
    """Tasks of Label Studio as person 7 has ranked them."""
    result = [{"type": "ranker", "value": {"ranker": order}}]
    return [{**t, "annotations": [{"completed_by": 7, "result": result}]} for t in tasks]


def test_label_studio_there_and_back(tmp_path):
    """A task of three items is three pairs; questions go out as tasks, rankings come back."""
    items = [{"id": str(i), "title": f"No. {i}", "body": "very " * i + "good"} for i in range(3)]
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"id": 4, "data": {"prompt": "Well?", "items": items}}]))
    assert [p.id for p in question_rounds.read_pool(path)] == ["4/0/1", "4/0/2", "4/1/2"]
    out, place = tmp_path / "next.json", tmp_path / "s.json"
    assert select(path, "--features", "length", "--out", out, "--state", place) == 0
    replies_file = tmp_path / "export.json"
    replies_file.write_text(json.dumps(ranked(json.loads(out.read_text()), ["b", "a"])))
    assert [(r.choice, r.by) for r in question_rounds.read_sheet(replies_file)] == [("B", "7")] * 3
    assert select(path, "--out", out, "--state", place, "--answers", replies_file) == 0
    mode, _ = question_rounds.load(place).posterior.laplace()
    assert mode[0] > 0  # B, the longer one, each time
    assert json.loads(out.read_text()) == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_strange_ids_come_back_as_they_went(tmp_path, suffix):
    """Whatever an id begins with, the answer is that of its question, from every kind of sheet."""
    names = ["=1", "'=1", "''x", "'tis", "\x00=1", "\x0b@", "\x1b-", "\n=2", "\r+3", " =4", "a\rb"]
    made = [
        {"id": n, "prompt": "Why?", "a": "short", "b": f"long {i}"} for i, n in enumerate(names)
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
        out.write_text(json.dumps(ranked(json.loads(out.read_text()), ["a", "b"])))
    assert sorted(r.id for r in question_rounds.read_sheet(out)) == sorted(names)
    state = ("--state", f"{path}.select.json")
    assert select(path, "--out", tmp_path / "next.jsonl", "--answers", out, *state) == 0


def test_embeddings_from_a_matrix(some, tmp_path):
    both = numbers(300)
    np.save(tmp_path / "both.npy", both)
    np.save(tmp_path / "delta.npy", both[:, 0] - both[:, 1])
    pairs = list(question_rounds.read_pool(some))[3:50]
    wanted = question_rounds.differences_from_columns(("x", "y"))(pairs)
    for name in ("both.npy", "delta.npy"):
        of, dim = question_rounds.differences_from_matrix(tmp_path / name)
        assert dim == 2 and np.allclose(of(pairs), wanted)
    assert select(some, "--features", tmp_path / "both.npy", "--out", tmp_path / "n.jsonl") == 0


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
    asked = {"old", pair("after before", "before after").key}
    plan = SelectionSettings("length", ("length",), shortest=2, longest=4)
    assert plan.reason_against(one, asked) == why


def test_copies_are_asked_once_whichever_answer_stands_first(tmp_path):
    texts = [("a long answer", "short"), ("short", "a long answer"), ("a long answer", "short")]
    path = lines(tmp_path / "p.jsonl", [{"prompt": "Well?", "a": a, "b": b} for a, b in texts])
    of = question_rounds.differences_from_features(features.parse("length"))
    done = question_rounds.advance(
        State(SelectionSettings("length", ("length",))), path, of, count=3
    )
    assert len(done.out) == 1
    assert done.seen.left_out["a copy of another pair"] == 2


def test_features_that_are_constant_or_no_numbers_are_named(tmp_path, capsys):
    texts = [{"prompt": "Well?", "a": f"same {i}", "b": f"size {i}"} for i in range(4)]
    path = lines(tmp_path / "p.jsonl", texts)
    assert select(path, "--features", "length", "--out", tmp_path / "n.jsonl") == 0
    message = capsys.readouterr().out
    assert "4 no difference in any feature" in message and "nothing is left to ask" in message
    assert (tmp_path / "n.jsonl").read_text() == ""
    path.write_text(
        '{"prompt": "x", "a": "y", "b": "z", "a_features": {"x": 1e999}, "b_features": {"x": 0}}\n'
    )
    with pytest.raises(UsageError, match="feature x is inf"):
        question_rounds.differences_from_columns(("x",))(list(question_rounds.read_pool(path)))


@pytest.mark.parametrize(
    ("name", "body", "arguments", "message"),
    [
        *((name, body, "--features length", message) for name, body, message in [
            ("p.jsonl", "", "holds no pairs"),
            ("p.jsonl", "{]\n", "p.jsonl:1: not valid JSON"),
            ("p.jsonl", '{"prompt": "x", "a": "y"}\n', "p.jsonl:1: needs b"),
            ("p.json", '[{"data": {"prompt": "x"}}]', "data needs items"),
            ("p.txt", "x", "are read from"),
            ("gone.jsonl", None, "not found"),
        ]),
        *(("pool.jsonl", None, arguments, message) for arguments, message in [
            ("--features columns:x,z", "has no number 'z'; it has x, y"),
            ("--features columns:", "name the columns"),
            ("--features gone.npy", "gone.npy"),
            ("", "give --features"),
            ("--features columns:x --count 0", "at least 1"),
            ("--features columns:x --tau -1", "tau is -1.0"),
            ("--features columns:x --seed -1", "seed"),
            ("--answers gone.jsonl", "give the --state in which"),
        ]),
    ],
)  # fmt: skip
def test_pools_and_arguments_that_cannot_be_used(some, capsys, name, body, arguments, message):
    path = some.with_name(name)
    if body is not None:
        path.write_text(body)
    assert select(path, "--out", some.with_name("n.jsonl"), *arguments.split()) == 2
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
        reply = {**reply, "id": question_rounds.load(place).questions[0].id}
    bad = lines(tmp_path / "bad.jsonl", [reply])
    for more, said in (
        (["--answers", bad], message), (["--features", "columns:x"], "was begun with columns:x,y"),
    ):  # fmt: skip
        assert select(some, "--out", out, "--state", place, *more) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        assert place.read_bytes() == before


TRUE = math.log(2 * math.pi * math.e)
"""Entropy of N(0, I₂): 2 · ½ log 2πe = 2.838 nats."""


class Gaussian:
    def __init__(self, dim: int):
        self.dim = dim

    def score(self, w: Floats) -> Floats:
        return -w


def normals(name: str, *shape: int) -> Floats:
    return posterior.normals(derive(7, "test active", name=name), shape)


def random_answers(count: int = 12, dim: int = 2) -> BradleyTerry:
    delta = normals("answered", count, dim)
    return BradleyTerry(delta * np.sign(delta[:, :1]), np.ones(count), 2.0)


def test_laplace_is_the_prior_without_answers_and_arrives_where_newton_overshoots():
    target = random_answers(9)
    assert target.log_likelihood(np.zeros((1, 2)))[0] == pytest.approx(-9 * math.log(2))
    mode, covariance = BradleyTerry.prior(3, tau=2.0).laplace()
    assert mode.tolist() == [0, 0, 0]
    assert np.allclose(covariance, 4 * np.eye(3), rtol=1e-12)
    # Far apart and never contradicted: the log-density is flat far out, and a full step jumps.
    target = BradleyTerry(np.array([[300.0], [-1.0]]), np.array([50.0, 40.0]), 100.0)
    mode, _ = target.laplace()
    assert abs(target.score(mode[None])[0, 0]) < 1e-6
    mode, _ = BradleyTerry.of([[1.0, 0.0]], ["A"]).laplace()
    assert mode[0] > 0 == mode[1]
    mode, _ = BradleyTerry.of([[1.0, 0.0]], ["B"]).laplace()
    assert mode[0] < 0
    rows, weight = orient(np.ones((2, 3)), ["skip", "skip"])
    assert rows.shape == (0, 3) and weight.shape == (0,)


def test_half_a_character_of_a_pool_is_written_as_a_question_mark(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(r'{"id": "\ud800", "prompt": "a\ud800", "a": "b \udfff", "b": "\ud83d\ude00"}')
    (pair,) = question_rounds.read_pool(path)
    assert (pair.id, pair.prompt.text, pair.a, pair.b) == ("?", "a?", "b ?", "\U0001f600")


def test_a_state_of_brackets_or_of_other_features_is_none(tmp_path):
    path = tmp_path / "state.json"
    for body, says in (("[" * 100_000, "is not the state of a selection"), ("{}", "version None")):
        path.write_text(body)
        with pytest.raises(UsageError, match=says):
            question_rounds.load(path)
    asked = question_rounds.Question("q", "q", 0, (("user", "p"),), "a", "b", (1.0,), 0.1)
    question_rounds.save(
        State(SelectionSettings("columns:x,y", ("x", "y")), questions=(asked,)), path
    )
    with pytest.raises(UsageError, match="lacks the number of a feature"):
        question_rounds.load(path)


def test_entropy_is_that_of_normal_numbers_and_moves_with_scale():
    """Nearest neighbours and Gaussian: means of 20 draws within ±.05, each within ±.15."""
    draws = normals("entropy", 20, 2000, 2)
    for estimate in (posterior.nearest_entropy, posterior.gaussian_entropy):
        found = np.array([estimate(x) for x in draws])
        assert abs(found.mean() - TRUE) < 0.05
        assert np.abs(found - TRUE).max() < 0.15
    x = normals("scale", 300, 3)
    for estimate in (posterior.nearest_entropy, posterior.gaussian_entropy):
        assert estimate(5 * x) - estimate(x) == pytest.approx(3 * math.log(5))
    x = np.zeros((50, 2))
    x[:, 0] = np.arange(50)
    assert posterior.gaussian_entropy(x) == -math.inf
    assert posterior.nearest_entropy(np.ones((50, 2))) == -math.inf


def test_the_trace_is_the_divergence_of_phi():
    """Divergence at xᵢ of φ made by the other particles, by differences."""
    x = normals("trace", 5, 3)
    h = posterior.bandwidth(x)

    def phi(at: Floats, others: Floats) -> Floats:
        k = np.exp(-((at - others) ** 2).sum(1) / (2 * h))[:, None]
        return np.asarray((k * -others + k * (at - others) / h).sum(0) / 5)

    before = posterior.Particles(x, np.zeros(5))
    after = posterior.step_particles(Gaussian(3), before, 0.1)
    for i in range(5):
        others, divergence = np.delete(x, i, 0), 0.0
        for axis in range(3):
            e = np.eye(3)[axis] * 1e-5
            up, down = phi(x[i] + e, others), phi(x[i] - e, others)
            divergence += (up - down)[axis] / 2e-5
        assert after.log_q[i] == pytest.approx(-0.1 * divergence, rel=1e-6)


def test_particles_over_a_posterior_match_it():
    target = random_answers()
    axis = np.linspace(-10, 10, 201)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    share = special.softmax(target.log_density(grid))
    mean = share @ grid
    covariance = (grid - mean).T @ ((grid - mean) * share[:, None])
    x = posterior.spread(target, key=derive(1, "p"), count=200, steps=100).x
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((x.mean(0) - mean) / sd).max() < 0.15
    assert np.cov(x.T) / np.outer(sd, sd) == pytest.approx(covariance / np.outer(sd, sd), abs=0.25)
    assert (posterior.spread(target, key=derive(1, "p"), count=200, steps=100).x == x).all()


def test_gains_by_hand():
    # p = σ(0), σ(log 3) = ½, ¾; H(5/8) − (H(½) + H(¾))/2
    x = np.array([[0.0], [math.log(3)]])

    def h(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    wanted = h(5 / 8) - (h(0.5) + h(0.75)) / 2
    assert posterior.gains(x, np.ones((1, 1)))[0] == pytest.approx(wanted)
    # s = ±1 with p = σ(±1) = .731, .269: either answer has probability ½ and leaves the variance
    # 1 − (.731 − .269)² of s: the gain is −½ log(1 − .4621²).
    x = np.array([[1.0], [-1.0]])
    tilt = math.tanh(0.5)
    found = posterior.gains(x, np.ones((1, 1)), "entropy")[0]
    assert found == pytest.approx(-0.5 * math.log(1 - tilt**2))


@pytest.mark.parametrize("rule", posterior.RULES)
def test_gains_do_not_depend_on_the_sides(rule):
    x, delta = normals("x", 50, 3), normals("d", 20, 3)
    assert posterior.gains(x, delta, rule) == pytest.approx(posterior.gains(x, -delta, rule))


def test_a_batch_adds_up_to_the_joint_information():
    """The sum of gains is I(answers; w), by enumeration of all 2⁴ answers."""
    x, delta = normals("x", 30, 2), 2 * normals("d", 12, 2)
    index, gain, certain = posterior.select_questions(x, delta, 4, key=bytes(16))
    p = special.expit(delta[index] @ x.T)
    joint, own = 0.0, 0.0
    for answers in itertools.product((0, 1), repeat=4):
        each = np.prod([q if a else 1 - q for a, q in zip(answers, p, strict=True)], axis=0)
        joint += special.entr(each.mean())
        own += special.entr(each).mean()
    assert gain.sum() == pytest.approx(joint - own, rel=1e-9)
    assert certain


def test_a_batch_does_not_ask_the_same_twice():
    """Two copies of the best question and a lesser one on another weight: the copy comes last."""
    delta = np.array([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    x = normals("x", 500, 2)
    assert posterior.select_questions(x, delta, 3, key=bytes(16))[0].tolist() == [0, 2, 1]


def test_the_shortlist_loses_nothing_when_it_says_so(monkeypatch):
    x, delta = normals("x", 60, 2), normals("d", 400, 2)
    whole, _, _ = posterior.select_questions(x, delta, 3, key=bytes(16))
    monkeypatch.setattr(posterior, "SHORTLIST", 200)
    short, _, certain = posterior.select_questions(x, delta, 3, key=bytes(16))
    assert certain and (short == whole).all()
    assert not posterior.select_questions(x, delta, 3, key=bytes(16), beyond=1.0)[2]


@pytest.mark.parametrize("rule", posterior.RULES)
def test_little_to_choose_from(rule):
    x = normals("x", 20, 2)
    for delta, index in ((np.zeros((0, 2)), []), (np.ones((1, 2)), [0]), (np.zeros((5, 2)), [])):
        found, *_ = posterior.select_questions(x, delta, 3, key=bytes(16), rule=rule)
        assert found.tolist() == index
