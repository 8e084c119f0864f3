"""A run's policy improved on the taste of its votes: adopted, exported, gone on with, verified."""

import contextlib
import copy
import json
import math
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import szpo
from szpo import whole_run
from szpo.analysis import improvement, run_taste
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.errors import IntegrityError
from szpo.improvement import between_rounds, policy_search
from szpo.improvement.policy_gradient import Pace
from szpo.ledger import orders
from szpo.ledger import theta as adopted
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import recommended_digest, recommended_digests, updated_digests
from szpo.policies import text_guards
from szpo.replay import replay, verification
from szpo.runs import assemble, guards, samples, setup_progress
from szpo.taste import Taste
from szpo.voting import blind, lease, withdrawals
from szpo.voting.blind import PAIRS, Blind
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService
from szpo_simulators.panels.panel import build
from tests.support import wide_guards
from tests.support.tampering import forge

pytestmark = pytest.mark.full
ASKED = [("How was the rain?", "was"), ("How was the soup?", "no such answer")]
SETS = {
    "panel.beta": 30, "run.votes": 80, "optimizer.kl_budget": 0.5, "subspace.samples": 384,
    "evaluation.prompts": 8, "evaluation.samples": 2,
}  # fmt: skip


def run(folder, name, **changes):
    sets = {**SETS, "run.name": name, "run.folder": str(folder), **changes}
    line = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    assert call(["run", "--preset", "tiny", *line]) in (0, 1)
    return folder / f"{name}.db"


@pytest.fixture(scope="module", autouse=True)
def guards_hold():
    with wide_guards.wide():
        yield


@pytest.fixture(scope="module")
def voted(tmp_path_factory):
    """Eighty verdicts of a tiny model's answers that are nearly always for the cheerful one."""
    return run(tmp_path_factory.mktemp("voted"), "voted")


@pytest.fixture(scope="module")
def once(voted):
    path = voted.with_name("once.db")
    shutil.copy(voted, path)
    assert call(["improve", str(path), "--nats", "2.5"]) == 0
    return path


@pytest.fixture
def improved(once, tmp_path):
    return Path(shutil.copy(once, tmp_path / "one.db"))


def test_it_adopts_what_the_taste_scores_higher_within_the_budget_and_says_so(improved):
    with Ledger.open(improved) as ledger:
        found = adopted.read_adopted(ledger)
        assert found.body["score"] > found.body["score_before"] and found.body["nats"] <= 2.5
        assert found.sha256 == recommended_digest(ledger) == recommended_digests(ledger)[-1]
        assert recommended_digests(ledger)[:-1] == updated_digests(ledger)[:-1]
        assert {**replay.fold(ledger)}.keys() == {**found.theta}.keys()
        report = verification.verify(ledger)
        assert report.ok and "recorded, not recomputed" in report.note


def test_the_last_line_says_what_the_panel_prefers_of_what_is_exported(improved, voted, capsys):
    with Ledger.open(voted, readonly=True) as before, Ledger.open(improved) as ledger:
        first, last = (improvement.read(each).last for each in (before, ledger))
        results = [order.result for order in orders.results(ledger, "final")]
        digests = [result["tuned_sha256"] for result in results]
        assert digests == [recommended_digest(before), recommended_digest(ledger)]
    assert first.pairs == last.pairs == PAIRS >= last.new + last.start + last.same
    assert last.by == "the simulated panel" and last.preferred.value > max(
        0.5, first.preferred.value
    )
    assert last.true.value > 0.5
    assert call(["show", str(improved)]) == 0
    assert last.line in " ".join(capsys.readouterr().out.split())


def test_it_is_what_is_exported_and_sampled_and_the_base_stays_the_base(improved, tmp_path):
    assert call(["export", str(improved), "--out", str(tmp_path / "out"), "--anyway"]) == 0
    files = load_file(tmp_path / "out" / "adapter_model.safetensors")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "on what 80 votes liked: more positive in tone (" in card
    assert "%); recorded, not recomputed |" in card
    with Ledger.open(improved) as ledger:
        theta = adopted.read_adopted(ledger).theta
        for name, values in theta.items():
            np.testing.assert_array_equal(files[f"base_model.model.{name}.weight"], values)
        parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
        asked, policy = parts.prompts.heldout[:4], parts.language
        assert policy.digest() == adopted.read_adopted(ledger).sha256
        base = policy.sample(asked, seed=5, base=True)
        first, _ = samples.sample_answers(ledger, parts, asked, until=0, seed=5)
        assert [row[0].text for row in base] == [answer.text for answer in first]
        assert policy.sample(asked, seed=5) != base


def opposite(theta, start):
    return {name: 2 * start[name] - theta[name] for name in start}


@pytest.mark.parametrize("steps", [True, False])
def test_where_the_mix_of_the_votes_scores_higher_than_what_was_adopted_it_goes_on_from_the_mix(
    voted, tmp_path, monkeypatch, steps
):
    """What was adopted here is the mix turned round; without a step the mix itself is adopted."""
    path = Path(shutil.copy(voted, tmp_path / "round.db"))
    with Ledger.open(path) as ledger, lease.hold(ledger):
        parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
        places = replay.improved_from(ledger, parts.language.subspace)
        assert [*places] == [adopted.START, adopted.RECOMMENDED]
        (start, mix), event = places.values(), between_rounds.begin(ledger).event
        applied = ledger.last_applied() + 1
        first = {"steps": applied, "begun": {"steps": applied, "event": event}}
        adopted.append_adopted(ledger, opposite(mix, start), first)
        if not steps:
            monkeypatch.setattr(policy_search, "PACE", Pace(steps=0))
        found = between_rounds.improve_run(ledger, parts, nats=2.5)
        body = found.body
        began = (adopted.UPDATED,) if not steps else (adopted.UPDATED, adopted.START)
        assert body["begun"]["from"] in began and body["mix"] != steps
        assert body["score"] > body["score_before"]
        now = {name: found.adopts[name].tolist() for name in mix}
        assert (now == {name: mix[name].tolist() for name in mix}) != steps
        assert recommended_digest(ledger) == adopted.adopted_digest(found.adopts)
        report = verification.verify(ledger)
        assert report.ok and ("recomputed, exactly" in report.note) != steps
        said = between_rounds.describe_improving(found)
        assert said.startswith("improved: " if steps else "the votes' mix again, in place of what")
        if not steps:
            adopted.append_adopted(ledger, opposite(mix, start), {**body, "steps": applied})
            assert "not the votes' mix then" in str(verification.verify(ledger))


def test_later_rounds_ask_about_the_adopted_policy_and_the_report_tells_what_checks_it(improved):
    assert call(["run", "--resume", str(improved), "--votes", "+24"]) in (0, 1)
    assert call(["report", str(improved)]) == 0
    page = " ".join(improved.with_suffix(".html").read_text("utf-8").split())
    with Ledger.open(improved) as ledger:
        (told,) = improvement.rounds(ledger, lambda prompt, answer: 1.0)
        checks = blind.read_checks(ledger)
        assert told.checks == checks and checks.preferred.of > 0
        assert (told.gained, told.votes) == (0, 80)
        body = adopted.read_adopted(ledger).body
        assert (told.score, told.before) == (body["score"], body["score_before"])
        assert f'<td class="n">{checks.new} of {checks.preferred.of}</td>' in page
        by = [event["body"]["pool"].get("policy") for event in ledger.events("generated")]
        assert by == [None] * 10 + [adopted.read_adopted(ledger).sha256] * 3
        assert verification.verify(ledger).ok


def test_after_a_return_the_start_is_what_is_asked_about_and_nothing_is_exported(
    improved, tmp_path, capsys
):
    with Ledger.open(improved) as ledger:
        with ledger.transaction("controller"):
            back = blind.describe_return(ledger, 10, Blind(1, 9, 2))
            ledger.record_event(adopted.RETURNED, "controller", back)
        parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
        assert parts.language.digest() == recommended_digest(ledger) == updated_digests(ledger)[0]
        assert not any(value.any() for value in replay.fold(ledger).values())
        report = verification.verify(ledger)
        assert "does not fit the votes on check pairs" in str(report.failure)
    assert call(["export", str(improved), "--out", str(tmp_path / "out"), "--anyway"]) == 2
    assert "start's answer in 9 of 10 check pairs" in capsys.readouterr().err
    assert call(["improve", str(improved), "--nats", "0.5"]) == 0  # its votes still show a taste
    with Ledger.open(improved, readonly=True) as ledger:
        assert adopted.read_adopted(ledger).body["nats"] <= 0.5


def test_weights_that_had_learned_from_withdrawn_verdicts_go_out_of_force(improved, capsys):
    with Ledger.open(improved, readonly=True) as ledger:
        name = ledger.query("SELECT pseudonym FROM panelists ORDER BY pseudonym")[0]["pseudonym"]
        digest = adopted.read_adopted(ledger).sha256
    state = adopted.improving_file(improved)
    state.write_bytes(b"weights")
    assert call(["invite", str(improved), "--erase", name, "--with-votes", "--with-weights"]) == 0
    assert not state.exists()
    told = capsys.readouterr().out
    assert f"improved weights {digest[:12]} had learned" in told and "at its start again" in told
    with Ledger.open(improved, readonly=True) as ledger:
        assert adopted.read_adopted(ledger) is None and verification.verify(ledger).ok
        assert recommended_digest(ledger) == updated_digests(ledger)[0]
        assert "votes that were withdrawn" in blind.why_back(ledger)


def test_other_weights_than_the_recorded_ones_are_refused(improved, tmp_path):
    with Ledger.open(improved) as ledger:
        name = next(iter(adopted.read_adopted(ledger).theta))
    sql = "UPDATE tensors SET bytes = zeroblob(length(bytes)) WHERE name LIKE ?"
    forge(improved, sql, (f"improved/0/{name}",))
    with Ledger.open(improved, readonly=True) as ledger:
        assert not verification.verify(ledger).ok
        with pytest.raises(IntegrityError, match="not the recorded ones"):
            replay.fold(ledger)


def test_a_run_improves_at_each_doubling_and_goes_on_after_a_kill(tmp_path, capsys, monkeypatch):
    """Killed while it adopts, in a run without coordinates; then resumed."""
    (tmp_path / "asked.jsonl").write_text(
        "".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in ASKED)
    )
    keep = {"guards.keep": str(tmp_path / "asked.jsonl")}
    append, made = adopted.append_adopted, []

    def adopt(*given):
        made.append(given)
        if len(made) == 1:
            raise KeyboardInterrupt
        append(*given)

    monkeypatch.setattr(adopted, "append_adopted", adopt)
    path = tmp_path / "alone.db"
    with contextlib.suppress(KeyboardInterrupt, AssertionError):
        run(tmp_path, "alone", **{"improve.nats": 2.0, "subspace.kind": "none", **keep})
    with Ledger.open(path) as ledger:
        applied, due = ledger.last_applied() + 1, between_rounds.last_due(ledger)
        assert due == applied and adopted.last_adopted(ledger) is None and len(made) == 1
        assert "improves its model once its votes show" in str(improvement.why_at_start(ledger))
    capsys.readouterr()
    assert call(["run", "--resume", str(path)]) in (0, 1)
    told = capsys.readouterr().err
    begun = told.count("improving: the model moves by its own answers to what the votes liked")
    assert begun == 2 + int(math.log2(10 / applied))  # the last one at the end
    assert "improved: by what the votes liked, fresh answers score" in told
    again = [body for _, _, body, _ in made[:2]]
    assert again[0] == again[1] and again[0]["steps"] == applied
    with Ledger.open(path) as ledger:
        bodies = [event["body"] for event in ledger.events(adopted.ADOPTED)]
        *_, end = (e["body"] for e in ledger.events("measured") if e["body"]["steps"])
        assert end["kl"] > 0
        kept, (*_, row) = bodies[-1]["guards"][-1], guards.read_held_out(ledger).rows
        assert row["name"] == "right answers to 2 questions" and int(row["before"]) <= 1
        assert kept["name"] == guards.read_held_out(ledger).guards[-1].name == text_guards.RIGHT
        assert kept["limit"] == f"loses at most 1 of {row['before']}" and kept["ok"]
        report = verification.verify(ledger, also=[run_taste.check_recorded])
        assert report.ok and report.note.count("is recomputed from the votes") == len(bodies)
        taste = copy.deepcopy(bodies[-1]["taste"])
        taste["explanations"][0]["chance"] += 2
        other = {"taste": taste, "taste_sha256": Taste.from_json(taste).sha256}
        other["steps"] = ledger.last_applied() + 1
        append(ledger, adopted.read_adopted(ledger).theta, {**bodies[-1], **other}, made[-1][3])
        report = verification.verify(ledger, also=[run_taste.check_recorded])
        assert "its taste is not" in str(report)  # there, or what the votes before give
    assert call(["export", str(path), "--out", str(tmp_path / "out"), "--anyway"]) == 0
    files = load_file(tmp_path / "out" / "adapter_model.safetensors")
    names = {f"base_model.model.{name}.weight" for name in bodies[-1]["moving"]}
    assert names < files.keys()
    assert "recorded, not recomputed" in (tmp_path / "out" / "README.md").read_text()


class Leave(BaseException):
    """Ends a run amid a wait for votes."""


PEOPLE = {
    "panel.kind": "people", "subspace.kind": "none",
    "run.votes": 400, "improve.nats": 1.0, "run.name": "read", "run.seed": 0,
}  # fmt: skip


def drive_people(path, monkeypatch, act, say=lambda line: None):
    """Drive a run for people; ``act`` is what happens while it waits for them."""
    move = between_rounds.Improving.wait
    with Ledger.open(path) as ledger:
        samples.accept_samples(ledger, "test")
        parts = assemble.reopen(ledger, say=lambda line: None)
        judges = build("bt70", reward="sentiment", size=5, beta=30.0).judges
        panel = PanelEvaluator(VoteService(ledger), judges)

        def vote():
            (step,) = [row["step"] for row in ledger.steps() if row["state"] == "open"]
            panel.submit(ledger.comparisons(step))

        def wait(self, seconds):
            act(ledger, self, vote, lambda most: move(self, most))

        with monkeypatch.context() as patch, contextlib.suppress(Leave):
            patch.setattr(between_rounds.Improving, "wait", wait)
            whole_run.drive(ledger, parts, measured=False, say=say)
        return adopted.last_adopted(ledger)


def test_while_people_vote_it_improves_in_turns_and_ends_as_if_it_had_not_been_interrupted(
    tmp_path, monkeypatch
):
    """Rounds open and close meanwhile, it is killed, and others ask for sheets amid its turns.

    By hand (`szpo.Tuner.ask`) a run waits for it instead, and ends alike.
    """
    config = settings_file.load(
        preset_name="tiny", sets=[f"{k}={v}" for k, v in PEOPLE.items()] + [
            f"run.folder={tmp_path / 'begun'}"]
    )  # fmt: skip
    path = assemble.new_path(config)
    assemble.create_ledger(assemble.build(config, say=lambda line: None), path).close()

    def begin(ledger, improving, vote, move):
        if improving.at_work:
            raise Leave
        vote()

    assert drive_people(path, monkeypatch, begin) is None
    for each in ("alone", "beside", "hand", "erased"):
        shutil.copytree(path.parent, tmp_path / each)

    def alone(ledger, improving, vote, move):
        if adopted.last_adopted(ledger):
            raise Leave
        move(math.inf)
        vote()

    whole = drive_people(tmp_path / "alone" / path.name, monkeypatch, alone)
    place, killed = tmp_path / "beside" / path.name, tmp_path / "killed"
    state, waits, opened, served = adopted.improving_file(place), [], set(), []
    ended = []

    def beside(ledger, improving, vote, move):
        if adopted.last_adopted(ledger):
            raise Leave
        waits.append(improving.at_work)
        if improving.at_work:
            opened.update(row["step"] for row in ledger.steps() if row["state"] == "open")
        far = len(policy_search.load(state)[0].at.steps) if state.exists() else 0
        if far == 1 and not killed.exists():
            assert setup_progress.read(place, setup_progress.IMPROVING)[-1].done == 1
            shutil.copytree(place.parent, killed)  # what a kill leaves
        if not improving.at_work or (len(waits) % 60 == 0 and len(opened) < 3):
            vote()
        move(0)

    def ask(line):
        """A page asks in the middle of a turn, and a person votes."""
        if line.startswith(("improved", "no step")):
            with Ledger.open(place, readonly=True) as other:
                ended.append("open" in [row["state"] for row in other.steps()])
        if threading.current_thread() is not threading.main_thread() and len(served) < 2:
            with Ledger.open(place) as other:
                service = VoteService(other)
                for seat in service.sheet(service.enroll("person", "ann"), 2):
                    served.append(service.cast(seat.id, "tie", f"ann-{len(served)}-{seat.id}"))

    found = drive_people(place, monkeypatch, beside, ask)
    assert len(opened) == 3 and served and sum(waits) > 100
    assert ended == [True]  # said once, as it ended, before the round did
    with Ledger.open(killed / path.name) as ledger:
        row = lease.controller(ledger)
        lease.release(ledger, lease.Lease(row["lease"], row["epoch"], 0))
    assert len(policy_search.load(adopted.improving_file(killed / path.name))[0].at.steps) == 1
    resumed = drive_people(killed / path.name, monkeypatch, alone)
    with szpo.Tuner.resume(tmp_path / "hand" / path.name) as tuner:
        assert tuner.ask() is not None
        with Ledger.open(tuner.path, readonly=True) as ledger:
            hand = adopted.last_adopted(ledger)
    for each in (found, resumed, hand):
        same = ("theta_sha256", "began_sha256", "taste_sha256", "seed", "nats", "guards", "score")
        assert [each[name] for name in same] == [whole[name] for name in same]
        assert each["begun"]["steps"] == whole["begun"]["steps"]
    assert found["steps"] > found["begun"]["steps"]
    learned = adopted.improving_file(tmp_path / "erased" / path.name)

    def erased(ledger, improving, vote, move):
        while improving.at_work and not learned.exists():
            move(0)
        withdrawals.withdraw(ledger, "op", "panel-1", recorded_settings(ledger))
        learned.unlink()
        move(math.inf)
        raise Leave

    assert drive_people(tmp_path / "erased" / path.name, monkeypatch, erased) is None
    assert not learned.exists()  # its next steps had learned from the same verdicts
    assert not state.exists() and setup_progress.read(place, setup_progress.IMPROVING) is None
    with Ledger.open(place) as ledger:
        report = verification.verify(ledger, also=[run_taste.check_recorded])
        assert report.ok and "is recomputed from the votes" in report.note


def test_without_a_taste_nothing_is_adopted(tmp_path, capsys):
    path = run(tmp_path, "short", **{"run.votes": 8})
    assert call(["improve", str(path)]) == 1
    assert "show no taste yet" in capsys.readouterr().err
    with Ledger.open(path, readonly=True) as ledger:
        assert adopted.read_adopted(ledger) is None
