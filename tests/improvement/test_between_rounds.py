"""When a run improves, and what it does with what came of it; the search is scripted."""

from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from szpo import background_work
from szpo.errors import EngineError, IntegrityError, ResourceError, RunError
from szpo.improvement import between_rounds, policy_search
from szpo.improvement.between_rounds import Improving, allowed, begin, describe_improving
from szpo.improvement.policy_gradient import Ascent, Step
from szpo.improvement.policy_search import Found, Improved
from szpo.ledger import theta
from szpo.policies import subspaces
from szpo.replay import replay
from szpo.voting import lease, pauses, withdrawals
from szpo.voting.applied_step import Outcome
from tests.support import named_run, quadratic, toy_policy

STATE = Improved(Ascent({"x": np.ones(2)}, steps=(Step(8, 0.5, 0.25, 0.1, 0.05),)), "first", 1.5)


class Script:
    """A run whose searches do as ``ways`` say; what they were asked, and what was said."""

    def __init__(self, folder, monkeypatch, kind="simulated"):
        self.settings = named_run.settings_of()
        spec = {"space": {"sites": ["one"]}}
        self.ledger = quadratic.new_ledger(folder / "run.db", self.settings, spec=spec)
        self.policy = named_run.MarkedPolicy(self.settings)
        self.votes, self.asked, self.said, self.ways = [], [], [], {}
        self.file = theta.improving_file(self.ledger.path)
        monkeypatch.setattr(between_rounds, "search_move", self.search)
        monkeypatch.setattr(between_rounds.taught_taste, "shown_from", lambda ledger: self.votes)
        config = SimpleNamespace(
            improve=SimpleNamespace(nats=3.0, when="doubling"), improves=True,
            guards=SimpleNamespace(kl=2.0), panel=SimpleNamespace(kind=kind),
            engine=SimpleNamespace(is_local=True), features=SimpleNamespace(own=("mine",)),
        )  # fmt: skip
        self.parts = SimpleNamespace(config=config, language=None)
        self.improving = Improving(self.ledger, self.parts, self.say)

    def say(self, line):
        self.said.append(line)

    def drive(self, until):
        named_run.drive(self.settings, self.ledger, self.policy, until_step=until)

    def search(self, ledger, parts, begun, *, nats, given, since, starts, report, progress):
        assert (ledger, parts, nats, given) == (self.ledger, self.parts, 2.0, ("mine",))
        self.asked.append((begun.steps, begun.adopted, since and len(since.at.steps)))
        starts()
        report(STATE)
        found, origin = policy_search.load(self.file)
        assert found.at.steps == STATE.at.steps and origin == (begun.head, begun.event)
        background_work.pause()
        way = self.ways.get("way")
        if isinstance(way, BaseException):
            raise way
        weights = None if way == "kept" else replay.fold_updates(ledger)
        guards = [{"name": "length", "ok": False}, {"name": "variety", "ok": True}]
        body = {
            "begun": {"steps": begun.steps, "event": begun.event}, "answers": 1234, "mix": False,
            "guards": guards, "scale": 0.5, "score": 1.25, "score_before": -0.5, "nats": 1.96,
        }  # fmt: skip
        return Found(Improved(STATE.at, "first", 1.5, "enough"), weights, body, None)


def test_a_run_improves_at_each_doubling_of_its_votes_and_says_what_came_of_it(
    tmp_path, monkeypatch
):
    run = Script(tmp_path, monkeypatch)
    with run.ledger:
        run.drive(2)
        run.improving.look()
        run.votes, run.parts.config.improves = [8], False
        Improving(run.ledger, run.parts, run.say).at_end(Outcome("finished", "", 2, 8), bool)
        assert not run.asked  # its votes show nothing, or it is not to improve
        run.parts.config.improves = True
        for votes, steps, asked in (
            ([8], 2, (2, 0, None)), ([8, 12], 3, None), ([8, 12, 16], 4, (4, 1, None)),
            ([8, 12, 16, 31], 5, None),
        ):  # fmt: skip
            run.drive(steps)
            run.votes, before = votes, len(run.asked)
            run.improving.look()
            run.improving.look()
            assert run.asked[before:] == ([asked] if asked else [])
        assert [body["steps"] for body in theta.adopted_bodies(run.ledger)] == [2, 4]
        assert not run.file.exists() and not run.improving.at_work
        start, told = run.said[:2]
        assert start.endswith("at most 2 nats away from its start; nobody is asked")
        assert "step 1: answers score +0.50 by what the votes liked, 0.25 nats away" in told
        (end,) = {line for line in run.said if line.startswith("improved: ")}
        assert end == (
            "improved: by what the votes liked, fresh answers score +1.25 (start -0.50), 2.0 nats "
            "away; changed with the taste: length (drawn back to 50% of its way by fresh "
            "answers; 1 step, 1,234 own answers; it stopped: enough)"
        )
        assert [allowed(run.parts.config, each) for each in (1.5, 2.5)] == [1.5, 2.0]


def test_an_improvement_that_adopted_nothing_is_not_begun_again_and_one_at_the_end_is_the_last(
    tmp_path, monkeypatch
):
    run = Script(tmp_path, monkeypatch)
    run.ways["way"], end = "kept", Outcome("finished", "", 3, 12)
    with run.ledger:
        run.drive(2)
        run.votes = [8]
        for improving in (run.improving, Improving(run.ledger, run.parts, run.say)):
            improving.look()
        assert run.asked == [(2, 0, None)] and theta.read_adopted(run.ledger) is None
        (kept,) = run.ledger.events(theta.KEPT)
        assert kept["body"]["begun"]["steps"] == 2
        assert "nothing was adopted; 1 step, 1,234 own answers" in run.said[-1]
        run.drive(3)
        del run.ways["way"]
        for outcome in (Outcome("paused", "", 3, 12), end, end):
            run.improving.at_end(outcome, lambda: True)
        assert run.asked == [(2, 0, None), (3, 0, None)]
        # Withdrawn votes end what had come of them: what was learned from them is sought again.
        name = run.ledger.query("SELECT pseudonym FROM panelists LIMIT 1")[0]["pseudonym"]
        assert not begin(run.ledger).taken_back
        withdrawals.withdraw(run.ledger, "op", name, run.settings)
        assert begin(run.ledger).taken_back and not begin(run.ledger, kept["event"]).taken_back


def test_what_an_improvement_begins_from_is_the_run_before_an_event(tmp_path, monkeypatch):
    run = Script(tmp_path, monkeypatch)
    with run.ledger:
        run.drive(2)
        event, epoch = run.ledger.next_event(), lease.controller(run.ledger)["epoch"]
        head = run.ledger.last_event()["row_sha256"]
        now = begin(run.ledger)
        assert (now.event, now.head, now.steps, now.adopted, now.epoch) == (
            event, head, 2, 0, epoch,
        )  # fmt: skip
        run.votes = [8]
        run.improving.look()
        run.drive(3)
        later = begin(run.ledger)
        assert (later.steps, later.adopted) == (3, 1)
        then = begin(run.ledger, event)
        assert (then.event, then.head, then.steps, then.adopted) == (event, head, 2, 0)


@pytest.mark.parametrize(
    ("error", "people", "said"),
    [
        (RunError("no taste"), False, "not improved: no taste"),
        (ResourceError("memory"), False, "not improved: memory"),
        (EngineError("workers"), False, None), (ValueError("a bug"), False, None),
        (IntegrityError("damage"), True, None),
        (ValueError("a bug"), True, "warning: not improved: a bug"),
    ],
)  # fmt: skip
def test_what_keeps_a_run_from_improving_is_said_unless_the_run_cannot_go_on(
    tmp_path, monkeypatch, error, people, said
):
    run = Script(tmp_path, monkeypatch, "people" if people else "simulated")
    run.ways["way"] = error
    with run.ledger:
        run.drive(1)
        run.votes = [8]
        with suppress(*([] if said else [type(error)])):
            run.improving.look()
            while run.improving.at_work:
                run.improving.wait(9.0)
            assert said is not None
        if said:
            assert run.said[-1] == said and not run.file.exists()
            run.improving.look()
            assert len(run.asked) == 1 and theta.read_adopted(run.ledger) is None
        run.improving.close()


def test_where_people_vote_it_moves_while_the_run_waits_and_the_next_process_goes_on(
    tmp_path, monkeypatch
):
    run = Script(tmp_path, monkeypatch, "people")
    slept = []
    monkeypatch.setattr(between_rounds.time, "sleep", slept.append)
    with run.ledger:
        run.drive(1)
        run.votes = [8]
        run.improving.wait(0.25)
        assert slept == [0.25]
        run.improving.look()
        assert run.improving.at_work and not run.asked
        pauses.pause(run.ledger, "olga", "lunch")
        run.improving.wait(0.5)
        assert slept == [0.25, 0.5] and not run.asked
        pauses.unpause(run.ledger, "olga")
        run.improving.wait(0.0)
        run.improving.close()
        assert run.file.exists() and theta.read_adopted(run.ledger) is None
        again = Improving(run.ledger, run.parts, run.say)
        again.look()
        while again.at_work:
            again.wait(9.0)
        assert run.asked == [(1, 0, None), (1, 0, 1)]
        said = len(run.said)
        assert run.said[-1].startswith("improved: ") and theta.read_adopted(run.ledger) is None
        again.look()  # between two rounds
        assert theta.read_adopted(run.ledger).body["steps"] == 1 and len(run.said) == said
        assert not run.file.exists()
        policy_search.save(STATE, run.file, ("another history", run.ledger.next_event()))
        again.look()
        assert not run.file.exists() and len(run.asked) == 2


def test_what_was_found_before_votes_were_withdrawn_is_looked_for_again_without_them(
    tmp_path, monkeypatch
):
    run = Script(tmp_path, monkeypatch, "people")
    with run.ledger:
        run.drive(1)
        run.votes = [8]
        run.improving.look()
        while run.improving.at_work:
            run.improving.wait(9.0)
        name = run.ledger.query("SELECT pseudonym FROM panelists LIMIT 1")[0]["pseudonym"]
        withdrawals.withdraw(run.ledger, "op", name, run.settings)
        run.improving.look()
        assert theta.read_adopted(run.ledger) is None and run.improving.at_work
        while run.improving.at_work:
            run.improving.wait(9.0)
        run.improving.look()
        assert run.asked == [(1, 0, None)] * 2 and theta.read_adopted(run.ledger) is not None


def test_at_the_end_an_improvement_on_fewer_votes_gives_way_to_one_on_all(tmp_path, monkeypatch):
    run = Script(tmp_path, monkeypatch, "people")
    with run.ledger:
        run.drive(1)
        run.votes = [8]
        run.improving.look()
        run.improving.wait(0.0)
        run.drive(2)
        turns = []

        def turn():
            turns.append(1)
            run.improving.wait(9.0)
            return True

        run.improving.at_end(Outcome("finished", "", 2, 8), turn)
        assert run.asked == [(1, 0, None), (2, 0, None)] and turns
        assert theta.read_adopted(run.ledger).body["begun"]["steps"] == 2


def test_a_run_without_coordinates_records_the_layers_that_it_adapts_from_then_on(
    tmp_path, monkeypatch
):
    settings = named_run.settings_of()
    ledger = quadratic.new_ledger(tmp_path / "run.db", settings, spec={"space": {"sites": []}})
    held = subspaces.without_coordinates((toy_policy.SITE,), {**toy_policy.A, **toy_policy.B})
    language = SimpleNamespace(subspace="none", space="space", backend="before")
    host = SimpleNamespace(at=lambda *given, run: (*given, run))
    parts = SimpleNamespace(language=language, base=SimpleNamespace(host=host))
    with ledger:
        named_run.drive(settings, ledger, until_step=1)
        for sites in ((held, True), None):
            begun = begin(ledger)
            body = {"begun": {"steps": 1, "event": begun.event}}
            between_rounds.adopt(ledger, parts, begun, Found(STATE, toy_policy.B, body, sites))
            adopted = theta.read_adopted(ledger)
            assert adopted.body["conv1d"] and len(adopted.body["sites"]) == 1
            name = f"{subspaces.FIXED}{toy_policy.SITE.a}"
            np.testing.assert_array_equal(adopted.stored[name], toy_policy.A[toy_policy.SITE.a])
            assert {*adopted.theta} == {toy_policy.SITE.b}
            assert language.subspace is held and language.backend == (held, "space", True)


def test_the_mix_taken_up_again_is_called_so():
    state = Improved(STATE.at, "", 1.0, "enough")
    body = {"guards": [], "scale": 1.0, "mix": True, "answers": 8, "score": 1.0, "nats": 1.0,
            "score_before": 0.0}  # fmt: skip
    said = describe_improving(Found(state, {}, body, None))
    assert said.startswith("the votes' mix again, in place of what was adopted before: by what")
    assert "; guards hold (1 step, 8 own answers" in said
