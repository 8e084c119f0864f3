"""`szpo.Tuner`: the way of `szpo run`, driven from Python, by a function or by hand."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest

import szpo
from szpo import plugins
from szpo.analysis import improvement
from szpo.analysis.vote_export import export_votes
from szpo.cli.app import call
from szpo.errors import RunError, StorageError, UsageError
from szpo.improvement.between_rounds import Improving
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.replay import verification
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import blind
from szpo.voting.applied_step import Outcome
from szpo.voting.panel_evaluator import FunctionPanel, read_choice
from tests.support import folder_run
from tests.support.cases import case

matplotlib.use("agg")
SMALL = {
    "model.dtype": "fp32", "optimizer.K": 2, "optimizer.D": 2,
    "generation.max_new_tokens": 6, "subspace.dim": 4, "subspace.samples": 16,
    "evaluation.prompts": 1, "evaluation.samples": 1,
}  # fmt: skip
PROMPTS = [f"w{i} w{i + 1}" for i in range(20, 60, 4)]


def shorter(prompts: list[str], a: list[str], b: list[str]) -> str:
    """Prefer the batch with fewer characters."""
    assert len(prompts) == len(a) == len(b)
    first, second = (sum(map(len, side)) for side in (a, b))
    return "tie" if first == second else "a" if first < second else "b"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(folder_run.model(tmp_path_factory.mktemp("model")))


def test_it_says_what_it_does_while_it_is_set_up_and_resumed(model, tmp_path, caplog):
    caplog.set_level("INFO", "szpo")
    with szpo.Tuner(model, PROMPTS, shorter, votes=8, ledger=tmp_path / "told", settings=SMALL):
        stages = [line for line in caplog.messages if line.startswith("set-up: ")]
        assert stages[0] == "set-up: loading the model" and len(stages) > 2
        assert any(line.startswith("run told in ") for line in caplog.messages)
    with szpo.Tuner.resume(tmp_path / "told", shorter):
        assert caplog.messages[-1] == "loading the run's model"


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "mine"
    with szpo.Tuner(model, PROMPTS, shorter, votes=8, ledger=place, settings=SMALL) as tuner:
        tuner.calls = Calls()
        steps = []
        tuner.steps = steps
        with pytest.raises(UsageError, match="a list, also a single one"):
            tuner.run(tuner.calls)
        tuner.run([tuner.calls, lambda step: steps.append(step.step)])
        yield tuner


class Calls:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def begin(self, run: szpo.RunFacts) -> None:
        self.seen.append(run)

    def after_step(self, step: szpo.StepReport) -> None:
        self.seen.append(step.step)

    def end(self, outcome: Outcome | None) -> None:
        self.seen.append(outcome)


@pytest.mark.spine
def test_a_function_tunes_a_model_and_the_record_is_an_ordinary_one(tuned, capsys):
    assert tuned.finished and tuned.outcome == Outcome(
        "finished", "8 of 8 votes spent, a step takes 2", 4, 8
    )
    with Ledger.open(tuned.path, readonly=True) as ledger:
        assert verification.verify(ledger).ok
        assert len(set(theta_digests(ledger))) > 1
        assert ledger.spec["panel"]["function"].endswith("shorter")
    for command in ("verify", "report", "show"):
        capsys.readouterr()
        assert call([command, str(tuned.path)]) == 0
    panel = next(line for line in capsys.readouterr().out.splitlines() if "panel " in line)
    assert panel.endswith("shorter, 1 panelist") and "sentiment" not in panel
    assert "szpo.Tuner" in repr(tuned) and "8 votes applied" in repr(tuned)
    capsys.readouterr()
    assert call(["run", "--resume", str(tuned.path)]) == 2
    assert "szpo.Tuner.resume(ledger, better)" in capsys.readouterr().err


def test_callbacks_are_given_facts_steps_and_the_outcome_and_no_text(tuned):
    facts, *steps, outcome = tuned.calls.seen
    assert steps == tuned.steps == [0, 1, 2, 3]
    assert [each.step for each in tuned.reports] == steps
    assert outcome == tuned.outcome
    assert (facts.name, facts.settings["optimizer.D"]) == ("mine", 2)
    assert facts.settings["model.name"] == "llama"  # the folder's name, not its path
    assert not any(name.startswith("prompts.") for name in facts.settings)
    private = {"consent", "guideline", "question", "reward"}
    assert private.isdisjoint(name.partition(".")[2] for name in facts.settings)


@pytest.mark.spine
def test_the_same_votes_by_the_command_give_the_same_digests(tuned, model, tmp_path, monkeypatch):
    def short(**settings):
        return SimpleNamespace(judges=(FunctionPanel(shorter),), spec={"panel": "short"})

    entry = SimpleNamespace(name="short", load=lambda: short)
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: [entry] if group == "szpo.evaluators" else []
    )
    sets = {
        **SMALL, "model.name": model, "panel.kind": "short", "panel.size": 1, "run.votes": 8,
        "run.name": "other", "prompts.path": tuned.path.with_name("mine-prompts.jsonl"),
    }  # fmt: skip
    line = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    assert call(["run", "--folder", str(tmp_path), *line]) == 0
    with Ledger.open(tmp_path / "other.db", readonly=True) as other:
        assert list(theta_digests(other)) == [
            tuned.tables.steps["head_sha256"][0], *(r.theta_sha256 for r in tuned.reports)
        ]  # fmt: skip
        mine = tuned.tables.votes["verdict"].tolist()
        assert [row["verdict"] for row in export_votes(other)] == mine


def test_samples_and_the_adapter_are_of_the_tuned_model(
    tuned, tmp_path, caplog, capsys, monkeypatch
):
    sample = tuned.sample("w20 w21")
    assert sample == tuned.sample("w20 w21") and sample.prompt == "w20 w21"
    assert "tuned:" in str(sample) and "<th>Tuned</th>" in sample._repr_html_()
    with pytest.raises(RunError, match="its votes show no taste yet, so it is all but the base"):
        tuned.save_adapter(tmp_path / "adapter")
    folder = tuned.save_adapter(tmp_path / "adapter", anyway=True)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= {
        file.name for file in folder.iterdir()
    }
    with pytest.raises(StorageError, match="exists; choose another name"):
        tuned.save_adapter(folder, anyway=True)
    assert "not known whether" not in caplog.text
    monkeypatch.setattr("szpo.analysis.adapter.find_doubt", lambda *_, **__: "")
    tuned.save_adapter(tmp_path / "unmeasured")
    unknown = "not known whether it is better than the base (≈ 0.1 nats): it was not measured"
    assert unknown in caplog.text
    assert call(["export", str(tuned.path), "--out", str(tmp_path / "as-a-command")]) == 0
    assert f"warning: {unknown}" in capsys.readouterr().err.replace("\n", " ")
    assert "it was not measured; run(measure=True) does that" in str(tuned.run())
    with pytest.raises(UsageError, match="give a prompt that is a text"):
        tuned.sample(" ")
    with pytest.raises(UsageError, match="come from function; use run"):
        tuned.ask()


@pytest.mark.full
def test_a_finished_run_gets_more_votes_and_is_the_longer_run(tuned, model, tmp_path, monkeypatch):
    place = tmp_path / "more.db"
    with monkeypatch.context() as here:
        here.chdir(tmp_path)
        with szpo.Tuner(model, PROMPTS, shorter, votes=4, ledger="more", settings=SMALL) as tuner:
            tuner.run()
    with pytest.raises(UsageError, match="was closed; open the run again"):
        tuner.sample("w20")
    with pytest.raises(UsageError, match=r"\+1 votes are less than one step"):
        szpo.Tuner.resume(place, shorter, more_votes=1)
    with szpo.Tuner.resume(place, shorter, more_votes=4) as tuner:
        assert str(tuner.run()).startswith("finished: 8 of 8 votes spent")
    with Ledger.open(place) as added, Ledger.open(tuned.path) as whole:
        assert theta_digests(added) == theta_digests(whole)
        assert verification.verify(added).ok


@pytest.mark.full
def test_a_function_may_abstain_from_some_pairs_and_not_from_all(model, tmp_path):
    asked = []

    def some(prompts, a, b):
        asked.append(a)
        return None if len(asked) % 3 == 0 else shorter(prompts, a, b)

    place = tmp_path / "some.db"
    with szpo.Tuner(model, PROMPTS, some, votes=4, ledger=place, settings=SMALL) as tuner:
        found = tuner.run()
        choices = tuner.tables.votes["choice"].tolist()
    assert found.status == "finished" and choices.count("skip") == len(asked) // 3 > 0
    with Ledger.open(place) as ledger:
        assert verification.verify(ledger).ok
        closed = [row["closed_by"] for row in ledger.steps()]
    assert "operator" in closed and "rule" in closed
    for each in ({}, {"optimizer.D": 1}):
        with (
            szpo.Tuner(
                model, PROMPTS, lambda p, a, b: "skip", votes=4, settings=SMALL | each
            ) as tuner,
            pytest.raises(RunError, match="abstained from every pair of steps 0 to 2"),
        ):
            tuner.run()


@pytest.mark.full
def test_two_people_vote_at_once(model):
    def vote(tuner, voter):
        told = 0
        while not tuner.finished:
            if tuner.ask(voter) is not None:
                tuner.tell("a", voter)
                told += 1
        return told

    numpy = {**SMALL, "run.seed": np.int64(0)}
    with szpo.Tuner(model, PROMPTS, votes=np.int64(8), settings=numpy) as tuner:
        mine, yours = tuner.ask("me"), tuner.ask("you")
        assert mine is not None and yours is not None and mine != yours
        tuner.tell("b", "you")
        assert tuner.ask("me") == mine
        with ThreadPoolExecutor(2) as pool:
            told = [pool.submit(vote, tuner, name) for name in ("me", "you")]
        assert sum(each.result() for each in told) == 7
        with Ledger.open(tuner.path) as ledger:
            assert verification.verify(ledger).ok


@pytest.mark.full
def test_ask_and_tell_by_hand_and_going_on_in_another_process(model, tmp_path, monkeypatch):
    looks = []  # whether to improve: as each call goes on, after each step, and at the end
    monkeypatch.setattr(Improving, "look", lambda self: looks.append("look"))
    monkeypatch.setattr(Improving, "at_end", lambda self, outcome, turn: looks.append(outcome))
    place, words = tmp_path / "hand.db", iter(["skip", "a", "b", "tie"])
    settings = {**SMALL, "run.seed": 0}
    with szpo.Tuner(model, PROMPTS[:4], votes=4, ledger=place, settings=settings) as tuner:
        with pytest.raises(UsageError, match="was asked nothing"):
            tuner.tell("a")
        first = tuner.ask()
        assert first is not None and first == tuner.ask()
        assert set(first.prompts) <= set(PROMPTS[:4])
        assert f"> {first.prompts[0]}\nA: {first.a[0]}\nB: {first.b[0]}" in str(first)
        with pytest.raises(UsageError, match="the vote 'left' is unknown"):
            tuner.tell("left")
        assert tuner.ask() == first
        tuner.tell("b")
        with pytest.raises(UsageError, match=r"use ask\(\) and tell\(\)"):
            tuner.run()
    assert looks == ["look"] * 2
    with szpo.Tuner.resume(place) as tuner:
        asked = 0
        while (pair := tuner.ask(voter="ann" if asked % 2 else "me")) is not None:
            tuner.tell(next(words), voter="ann" if asked % 2 else "me")
            asked += 1
            assert pair.rows
        assert tuner.finished and asked == 4  # a skipped one is answered by the other voter
        assert tuner.tables.votes["choice"].tolist() == ["B", "skip", "A", "B", "tie"]
        assert {*looks[: (end := looks.index(tuner.outcome))]} == {"look"} and end > asked
        assert {*looks[end:]} == {"look", tuner.outcome}
    with Ledger.open(place, readonly=True) as ledger:
        assert verification.verify(ledger).ok
    with pytest.raises(UsageError, match="its votes come from people; leave out better="):
        szpo.Tuner.resume(place, shorter)


def test_a_temporary_ledger_goes_with_the_tuner(model):
    with szpo.Tuner(model, PROMPTS, lambda p, a, b: 0.9, votes=2, settings=SMALL) as tuner:
        folder = tuner.path.parent
        said = str(tuner.run())
        assert said.endswith("ledger=FILE) keeps a run, this one ends with its process")
        assert folder.exists() and tuner.outcome is not None and tuner.outcome.votes == 2
    assert not folder.exists()


@pytest.mark.full
def test_the_function_compares_the_policy_with_its_start_at_the_end(model, tmp_path):
    """Blind, on sets of two answers, and anew where more votes have moved the policy."""
    place, settings = tmp_path / "measured.db", {**SMALL, "evaluation.prompts": 3}
    prompts = [*PROMPTS, "w70 w71", "w74 w75"]  # a quarter of twelve is held out
    with szpo.Tuner(model, prompts, shorter, votes=10, ledger=place, settings=settings) as tuner:
        found = tuner.run(measure=True)
    assert found.gain is not None and found.guards and found.improvement.sentence in str(found)
    assert found.guards[0].line() in str(found) and found.votes == 10
    assert "take prompts whose answers differ" in str(found)  # half of them do not
    with szpo.Tuner.resume(place, shorter, more_votes=40) as tuner:
        assert tuner.run(measure=True).votes == 50
    with Ledger.open(place, readonly=True) as ledger:
        assert verification.verify(ledger).ok
        steps = [event["body"]["steps"] for event in ledger.events("measured")]
        first, second = orders.orders(ledger, "final")
        helped, cast = improvement.read(ledger), blind.read(ledger)
        asked = [ledger.comparison(each) for each in orders.comparisons(second)]
    assert {0, 5, 25} <= {*steps} and first.result["tuned_sha256"] != cast.sha256
    assert all(len(each.rows) == 2 for each in asked)
    texts = (
        [[getattr(row, side).text for row in each.rows] for side in ("plus", "minus")]
        for each in asked
        if not each.identical
    )
    kinds = Counter(shorter(plus, plus, minus) for plus, minus in texts)
    assert (cast.new, cast.start, cast.same) == (kinds["a"], kinds["b"], kinds["tie"])
    assert cast.by == "the function that votes" and helped.share == cast.preferred
    assert helped.pairs == f"{cast.new + cast.start} blind pairs"
    (line, *_) = szpo.plots.gain(place).get_lines()  # from a half, before any vote, to the end
    assert line.get_xydata().tolist() == [[0, 0.5], [50, cast.preferred.value]]


def test_it_is_asked_about_two_answers_where_verdicts_are_on_rows(model):
    asked = []

    def better(prompt, a, b):
        asked.append((prompt, a, b))
        return "a" if len(a) < len(b) else "b"

    settings = {key: value for key, value in SMALL.items() if key != "optimizer.D"}
    with szpo.Tuner(model, PROMPTS, better, votes=4, settings=settings) as tuner:
        assert tuner.run().votes == 4
    assert {prompt for prompt, _, _ in asked} <= {*PROMPTS}
    assert all(isinstance(text, str) for each in asked for text in each)


def test_an_answer_that_is_no_vote_is_asked_for_again_and_then_refused(model):
    said = iter(["B ?", "b", 2, "a"])
    judge = FunctionPanel(lambda p, a, b: next(said))
    rows = (Row(Prompt.user("p"), Answer("one"), Answer("two")),)
    seat = {"panelist": "p", "plus_side": "A", "key": bytes(16)}
    assert judge.judge(Comparison("c", 0, 0, 0, rows), **seat) == "B"
    with pytest.raises(UsageError, match="returned 2"):  # no typo: a program's fault
        judge.judge(Comparison("c", 0, 0, 0, rows), **seat)
    answers = lambda p, a, b: "left"  # noqa: E731
    with (
        szpo.Tuner(model, PROMPTS, answers, votes=2, settings=SMALL) as tuner,
        pytest.raises(UsageError, match="the function returned 'left'; return \"a\""),
    ):
        tuner.run()
    for bad in (2, float("nan"), "c", []):
        with pytest.raises(UsageError, match="better: the function returned"):
            read_choice(bad, bytes(16))
    drawn = [read_choice(0.8, bytes([i] * 16)) for i in range(200)]
    assert 0.7 < drawn.count("A") / 200 < 0.9


BAD = [
    ({"prompts": []}, "prompts must be texts that are not empty"),
    ({"prompts": ["a", 3]}, "got 3"),
    ({"prompts": "none.csv"}, "none.csv"),
    ({"prompts": "Say hello"}, r"no file 'Say hello'; .* as a list: \['Say hello'\]"),
    ({"better": "shorter"}, "better: 'shorter' is no function"),
    ({"settings": {"name": "x"}}, r"settings\['name'\]: \"name\" is ambiguous"),
    ({"settings": {"model.name": "tiny"}}, "is set by an argument of Tuner"),
    ({"settings": {"panel.kind": "function"}}, "needs a Python function"),
]


def test_bad_arguments_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    for how, words in BAD:
        with case(how, words):
            monkeypatch.chdir(tmp_path)
            with pytest.raises(UsageError, match=words):
                szpo.Tuner(**{"model": "tiny", **how})
            assert not list(tmp_path.rglob("*.db"))


def test_a_ledger_that_exists_is_not_overwritten(tuned, model):
    before = tuned.path.stat().st_size
    said = r"mine.db exists; continue it: szpo.Tuner.resume\(ledger\)"
    with pytest.raises(StorageError, match=said):
        szpo.Tuner(model, PROMPTS, shorter, ledger=tuned.path, settings=SMALL)
    with pytest.raises(UsageError, match="better: 3 is no function"):
        szpo.Tuner.resume(tuned.path, 3)
    with pytest.raises(StorageError, match="exists with other prompts"):
        szpo.Tuner(model, PROMPTS[:3], shorter, ledger=tuned.path, settings=SMALL)
    assert tuned.path.stat().st_size == before
    lines = tuned.path.with_name("mine-prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": text} for text in PROMPTS]
