"""Which screen a panelist is on: from the ledger and the service alone, no browser."""

import asyncio
import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from szpo.errors import UsageError
from szpo.ledger import orders
from szpo.replay import verification
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.runs.status import RoundStatus, round_status
from szpo.voting import pauses
from szpo_ui import component, credentials, screens
from szpo_ui.ballots import At, Ballot, poll
from szpo_ui.component import Action, act
from szpo_ui.site import Presence
from tests.support.browser import StillClock
from tests.support.panel_states import final_comparison

pytest_plugins = ["tests.support.browser"]
TAB, OTHER = "tab-0001", "tab-0002"
OTHER_SIDE = {"A": "B", "B": "A"}
KEY = "key-of-one-decision-{}".format


@pytest.fixture
def stage(staged):
    """A run without a server, its first round open."""
    return staged()


@pytest.fixture
def ann(stage):
    return Person(stage, "ann")


class Person:
    """A panelist at a page: does things, sees screens; `at` is the one on display."""

    def __init__(self, stage, name, tab=TAB, *, agreed=True):
        self.site, self.name, self.tab = stage.site, name, tab
        self.id = stage.site.service.enroll("person", name)
        self.at = self.do("open")
        if agreed:
            self.do("agree")

    def do(self, what, seat="shown", mode=None, **ballot):
        at = getattr(self, "at", None)
        seat = (None if at is None else at.seat) if seat == "shown" else seat
        made = None
        if ballot:
            names = ("notes", "seen", "device", "view", "report")
            known = {name: ballot.pop(name) for name in names if name in ballot}
            made = Ballot(**{
                "assignment": seat, "tab": self.tab, "idem": KEY(0), "dwell_ms": 60_000,
                "details": {"seen": 3, **known}, **ballot,
            })  # fmt: skip
        action = Action(
            do=what, tab=self.tab, seat=seat, ballot=made,
            mode=(at.mode if at and mode is None else mode or ""),
        )  # fmt: skip
        self.site.tabs.note(self.id, self.tab)
        self.at = act(self.site, self.id, self.name, action)
        return self.at

    def vote(self, choice="A", key=0, **more):
        return self.do("vote", choice=choice, idem=KEY(key), **more)

    def glance(self):
        return poll(self.site, self.id, At(tab=self.tab, seat=self.at.seat))[0]


def answer_all(*people, liked=None, **ballot):
    """Everybody votes until nobody has anything left: for A, or for the policy that is liked."""
    for number in range(20):
        for person in people:
            at = person.do("look")
            if at.state == "vote" and not at.revises:
                side = "A"
                if liked is not None:
                    seat = screens.seat_row(person.site, person.id, at.seat)
                    side = seat["plus_side"] if liked == "plus" else OTHER_SIDE[seat["plus_side"]]
                person.vote(side, key=f"{person.name}-{at.step}-{number}", **ballot)


def html_of(at, stage):
    return " ".join(component.render_page(at, stage.site.rubric).split())


def test_a_screen_that_waits_for_the_ledger_keeps_no_vote_from_its_own(stage, monkeypatch):
    """Ann's screen is being made when a vote of Ben's, which has the ledger, needs his."""
    ann, ben = Person(stage, "ann"), Person(stage, "ben")
    begun, voted, plain = threading.Event(), threading.Event(), credentials.standing

    def standing(ledger, panelist, status):
        if panelist == ann.id:
            begun.set()
            assert voted.wait(20), "Ben's vote waits for Ann's screen"
        return plain(ledger, panelist, status)

    monkeypatch.setattr(credentials, "standing", standing)
    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(ann.do, "look")
        assert begun.wait(20)
        ben.vote()
        voted.set()
        assert shown.result().state == "vote"


def test_consent_comes_first_and_is_an_event_of_the_record(stage):
    ann = Person(stage, "ann", agreed=False)
    assert ann.at.state == "welcome" and ann.at.paper is None
    assert ann.do("look").state == "welcome"
    assert ann.do("agree").state == "vote"
    ann.do("agree")
    events = list(stage.ledger.events("consent"))
    assert [event["actor"] for event in events] == [ann.id]


def test_a_reload_keeps_seat_order_sides_and_lease(stage, ann):
    before = ann.at
    stage.clock.forward(200)
    after = ann.do("open", seat=None)
    assert after.paper() == before.paper()
    assert 0 < after.lease_s < before.lease_s - 199


def test_a_vote_has_notes_on_rows_that_were_shown_and_its_key_is_no_other_votes(stage, ann):
    seat = ann.at.seat
    ann.vote("B", notes={"0": "B", "99": "A"})
    votes = stage.ledger.votes()
    remaining = json.loads(votes[0]["details"])
    assert remaining["notes"] == {"0": "B"}  # of rows that were shown, and no others
    assert {"fast", "seen", "rows", "words"} <= set(remaining)
    other = ann.do("vote", seat=seat, choice="A", idem=KEY(0))  # the same key, another answer
    assert other.notice == "reused" and stage.ledger.votes() == votes


def test_a_fast_vote_is_flagged_and_stored(stage, ann):
    gate = ann.at.paper().gate_s
    stage.clock.forward(60)
    ann.vote("A", dwell_ms=int(1000 * gate) - 1)
    ann.vote("A", key=1, dwell_ms=int(1000 * gate) + 1)  # served this moment, whatever it says
    ann.do("revise", seat=ann.at.shows["answered"][0]["seat"])
    ann.vote("A", key=2, dwell_ms=int(1000 * gate) + 1)
    flags = [json.loads(vote["details"])["fast"] for vote in stage.ledger.votes()]
    assert flags == [True, True, False]


@pytest.fixture
def moved(staged):
    return staged(clock=StillClock())


DAY = 86_400


@pytest.mark.parametrize("moves", [(300 - DAY, DAY), (300, -DAY), (1, DAY), (DAY, 1 - DAY)])
def test_a_retry_is_known_though_the_clock_moved_in_between(moved, moves):
    ann = Person(moved, "ann")
    seat, before = ann.at.seat, ann.at
    for seconds in moves:
        moved.clock.forward(seconds)
        ann.at = before
        ann.do("vote", seat=seat, choice="A", idem=KEY(0), dwell_ms=240_000)
        assert ann.at.state != "error" and ann.at.notice is None
    (vote,) = moved.ledger.votes()
    assert (vote["choice"], vote["revision"]) == ("A", 0)
    assert verification.verify(moved.ledger).ok


def test_a_vote_may_be_changed_until_the_round_closes_and_not_after(stage, ann):
    ben = Person(stage, "ben")
    ann.vote("B", notes={"1": "B"})
    answer_all(ann)
    first = ann.at.shows["answered"][0]["seat"]
    at = ann.do("revise", seat=first)
    assert (
        at.state == "vote" and at.revises and at.chosen == "B" and at.shows["notes"] == {"1": "B"}
    )
    assert ann.vote("A", key="change").state == "waiting"
    assert ann.at.shows["answered"][0]["choice"] == "A"
    assert next(v.choice for v in stage.site.service.counted(0) if v.panelist == ann.id) == "A"
    ann.do("revise", seat=first)
    assert ann.do("keep").notice == "kept"
    answer_all(ben)
    stage.advance()
    assert ann.do("look").state == "vote" and ann.at.step == 1
    late = ann.do("vote", seat=first, choice="B", idem=KEY("late"))
    assert late.notice == "closed"
    assert ann.do("revise", seat=first).revises is False


def test_a_round_that_closes_under_a_reader_stays_until_they_go_on(stage):
    cas = Person(stage, "cas")
    reading = cas.at
    stage.clock.forward(601)  # the seat has run out, but they still read
    answer_all(Person(stage, "ann"), Person(stage, "ben"))
    before = cas.glance()["key"]
    stage.advance()
    assert cas.glance()["key"] != before
    closed = cas.do("look")
    assert closed.state == "closed" and closed.paper() == reading.paper()
    assert (closed.shows["closed"]["votes_in"], closed.shows["closed"]["needed"]) == (
        4,
        4,
    ) and closed.step == 0
    assert "hdr-progress" not in html_of(closed, stage)  # those are the next round's votes
    late = cas.vote("A")
    assert late.notice == "late" and late.step == 1
    assert stage.ledger.votes(0)[-1]["late"] == 1


def test_whoever_skips_goes_on_and_their_seat_is_free(stage, ann):
    seat = ann.at.seat
    at = ann.vote("skip", skip_reason="content", report=True)
    assert at.seat != seat and at.notice == "skipped"
    vote = stage.ledger.votes()[0]
    assert (vote["choice"], vote["skip_reason"]) == ("skip", "content")
    assert json.loads(vote["details"])["report"] is True
    assert json.loads(vote["details"])["fast"] is False


def test_nobody_releases_or_answers_a_seat_of_somebody_else(stage, ann):
    ben = Person(stage, "ben")
    ben.do("break", seat=ann.at.seat)
    assert screens.seat_row(stage.site, ann.id, ann.at.seat)["released_us"] is None
    assert screens.seat_row(stage.site, ben.id, ann.at.seat) is None
    with pytest.raises(UsageError, match="no such comparison"):
        ben.do("vote", seat=ann.at.seat, choice="A")
    assert not stage.ledger.votes()


def test_one_tab_is_active_and_moves_on_request(stage, ann):
    shown, lease_before = ann.at.paper(), ann.at.lease_s
    ann.tab = OTHER
    assert ann.do("open", seat=None).state == "other-tab"
    stage.clock.forward(5)
    taken = ann.do("use-tab")
    assert taken.state == "vote" and taken.paper() == shown
    assert taken.lease_s < lease_before  # moving starts no new lease
    ann.tab = TAB
    assert ann.glance()["key"] == "elsewhere"
    assert ann.vote("A").state == "other-tab"
    assert not stage.ledger.votes()
    stage.site.tabs.forget(ann.id, OTHER)
    assert ann.do("open", seat=None).state == "vote", "a tab that is gone keeps nobody out"


def test_presence_ends_with_a_word_or_with_silence():
    now = [0.0]
    tabs = Presence(lambda: now[0])
    assert not tabs.is_alive("ann", TAB)
    tabs.note("ann", TAB)
    now[0] = 89.0
    assert tabs.is_alive("ann", TAB) and not tabs.is_alive("ben", TAB)
    now[0] = 91.0
    assert not tabs.is_alive("ann", TAB)
    tabs.note("ann", TAB)
    tabs.forget("ann", TAB)
    assert not tabs.is_alive("ann", TAB)


def test_pause_shows_the_reason_and_keeps_the_round(staged):
    stage = staged(begun=False)
    ann = Person(stage, "ann")
    pauses.pause(stage.ledger, "operator", "the first round waits for its start")
    assert ann.do("look").state == "idle", "nothing has begun that could be paused"
    pauses.unpause(stage.ledger, "operator")
    stage.advance()
    ann.do("look")
    seat = ann.at.seat
    pauses.pause(stage.ledger, "olga", "lunch")
    paused = ann.do("look")
    assert paused.state == "paused" and paused.status.pause_reason == "lunch"
    pauses.unpause(stage.ledger, "olga")
    assert ann.do("look").seat == seat


def test_a_guards_figures_are_not_reported_to_those_who_vote(stage, ann):
    pauses.pause(stage.ledger, "guard length", "after step 0: length is 41, outside 8 … 30")
    paused = ann.do("look")
    assert paused.state == "paused"
    assert (paused.status.paused_by, paused.status.pause_reason) == ("guard", None)
    html = html_of(paused, stage)
    assert "outside" not in html
    assert "length" in round_status(stage.ledger).pause_reason  # the operator is told


def test_counts_do_not_move_a_reader_but_a_pause_does(stage, ann):
    ben = Person(stage, "ben")
    before = ann.glance()
    ben.vote("A")
    after = ann.glance()
    assert after["key"] == before["key"] and after["version"] != before["version"]
    assert after["votes_in"] == before["votes_in"] + 1
    pauses.pause(stage.ledger, "olga", "lunch")
    assert ann.glance()["key"] != before["key"]


@pytest.fixture
def ask(stage):
    """Calls a function of the component as P-01 has it, with the data of a request."""
    person = stage.panelist("P-01")
    panel = component.component(stage.site, lambda _: (person, "P-01"))
    stage.site.writer.start()
    yield lambda name, data: asyncio.run(getattr(panel, name)(data, None))
    stage.site.writer.close()


def test_the_poller_hears_of_votes_and_of_nothing_secret(stage, ask):
    first = ask("glance", {"tab": TAB})
    known = {field.name for field in dataclasses.fields(RoundStatus)}
    assert set(first) == {*known, "key", "lease_s"}
    Person(stage, "ben").vote("A")
    assert ask("glance", {"tab": TAB})["votes_in"] == 1
    for wrong in (None, [], {}, {"tab": 5}, {"tab": "short"}, {"tab": TAB, "x": 1}):
        assert ask("glance", wrong) is ask("hold", wrong) is None
        assert ask("gone", wrong) is None


def test_only_the_holder_and_their_tab_keep_a_seat(stage, ask):
    ann = Person(stage, "P-01", TAB)
    ben = Person(stage, "ben")
    stage.clock.forward(500)
    assert ask("hold", {"seat": ben.at.seat, "tab": TAB}) is None
    assert ask("hold", {"seat": ann.at.seat, "tab": OTHER}) is None
    assert ann.do("look").lease_s < 110
    assert ask("hold", {"seat": ann.at.seat, "tab": TAB}) > 590
    assert 590 < ask("glance", {"seat": ann.at.seat, "tab": TAB})["lease_s"] <= 600


def test_what_others_have_only_just_been_given_is_not_asked_of_one_more(staged):
    stage = staged(sets=["optimizer.M=1"])
    waiting = [Person(stage, f"p{i}") for i in range(stage.site.config.votes_per_step)]
    assert {each.at.state for each in waiting} == {"vote"}
    cas = Person(stage, "cas")
    assert cas.at.state == "waiting"
    stage.clock.forward(60 * stage.site.config.words_per_vote / WORDS_PER_MINUTE)
    assert cas.do("look").state == "vote"  # whoever has had the time to read it may have left


def test_who_finishes_reads_of_finals_what_is_done_or_left(staged, monkeypatch):
    stage = staged(sets=["run.votes=4"])
    ann = Person(stage, "ann")
    answer_all(ann, Person(stage, "ben"))
    stage.advance(until_step=1)
    assert "The run is complete" in html_of(ann.do("look"), stage)
    final_comparison(stage)
    assert "One last thing" in html_of(ann.do("look"), stage)
    ann.do("final")
    ann.vote("A", key=9)
    with monkeypatch.context() as patched:  # one of a longer order
        patched.setattr(screens, "_count_finals", lambda site, panelist: 3)
        assert "1 done, 3 left: another one, if you like" in html_of(ann.do("look"), stage)
    (order,) = orders.orders(stage.ledger, "final")
    orders.close(stage.ledger, order.id, "olga")
    assert "The run is complete" in html_of(ann.do("look"), stage)


@pytest.mark.parametrize("liked", ["plus", "minus"])
def test_who_waits_reads_what_a_round_did_but_not_which_side_it_preferred(staged, liked):
    stage = staged()
    stage.site.service.spare = 0
    ann, *_ = people = [Person(stage, name) for name in ("ann", "ben", "cas")]
    answer_all(*people, liked=liked)
    assert ann.do("look").state == "waiting" and ann.at.shows["news"] is None
    stage.advance()
    answer_all(*people[:2], liked=liked)
    assert ann.do("look").shows["news"] == {
        "step": 0, "votes": 4, "people": 3, "same": 2, "pairs": 2, "moved": "first",
    }  # fmt: skip
    assert (
        "Votes in round 1: 4, from 3 people; pairs of votes on the same texts: 2, of which 2 "
        "agreed; the model took its first step." in html_of(ann.at, stage)
    )
    stage.advance()
    answer_all(*people[:2], liked=liked)
    news = ann.do("look").shows["news"]  # of two people each would learn how the other voted
    assert (news["step"], news["people"], news["pairs"]) == (1, 2, 0)
    assert news["moved"] in ("further", "less")
    assert "agreed" not in html_of(ann.at, stage)


def test_people_read_their_own_share_and_time(staged):
    stage = staged(sets=["run.votes=4"])
    ann, ben = Person(stage, "ann"), Person(stage, "ben")
    ann.vote(
        "skip", skip_reason="content"
    )  # no vote, and the page claims more time than there was
    ann.vote("A", key=1)
    own = ann.do("look").progress
    assert (own.given, own.spent_s < 60) == (1, True)
    assert "1 by you · 1 of" in html_of(ann.at, stage)
    assert "Votes so far: 1, yours: 1; reading took you under a minute." in html_of(ann.at, stage)
    stage.clock.forward(400)  # ben's second comparison is shown only after it
    answer_all(ben, Person(stage, "cas"), dwell_ms=120_000)
    assert ben.do("look").progress.spent_s == pytest.approx(120, abs=5)
    stage.advance(until_step=1)
    assert ben.do("look").state == "finished"
    assert "Votes so far: 4, yours: 2; reading took you about 2 minutes." in html_of(ben.at, stage)


def test_who_comes_later_reads_the_median_time_that_people_took(staged):
    stage = staged(sets=["run.votes=40", "optimizer.N=6"])
    people = [Person(stage, "ann"), Person(stage, "ben")]
    for number in range(screens.ENOUGH_TIMES):
        late = Person(stage, f"late-{number}", agreed=False).at
        assert "at most about" in html_of(late, stage)
        words = stage.site.config.words_per_vote
        assert late.facts.vote_s == pytest.approx(60 * words / WORDS_PER_MINUTE)
        stage.clock.forward(40)
        people[number % 2].do("look")
        people[number % 2].vote("A", key=number, dwell_ms=30_000)
    late = Person(stage, "late", agreed=False).at
    assert (late.facts.measured, late.facts.vote_s) == (True, 30)
    assert "about 30 seconds for each, as people took so far" in html_of(late, stage)
