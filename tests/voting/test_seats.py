"""A panelist's own seats, the tab they belong to, and what a look at the counts of seats costs."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, strategies
from hypothesis import strategies as st

from szpo.analysis import agreement, cause, evidence
from szpo.errors import UsageError
from szpo.optim.rules.findings import Findings
from szpo.replay import verification
from szpo.reports import html_report
from szpo.training import results
from szpo.voting import counting, pauses, seats, second_seats
from szpo.voting.casting import VoteConflictError, VoteRequest
from szpo.voting.seat_counts import ComparisonSeats, Seat
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask, people
from tests.support.quadratic import (
    QuadraticPolicy,
    go,
    history,
    new_ledger,
    panel_of,
    settings_of,
)

DAY_US = 86_400_000_000


def test_an_answered_seat_moves_to_another_tab_which_may_change_the_vote(ledger, service):
    ask(ledger, n=1, m=1)
    (ann,) = people(service, 1)
    seat = service.assign(ann, tab="old")
    service.cast(VoteRequest(seat.id, "A", idem=KEY(1), tab="old"))
    service.take(seat.id, "new")
    with pytest.raises(VoteConflictError, match="another tab"):
        service.cast(VoteRequest(seat.id, "B", idem=KEY(2), tab="old"))
    assert service.cast(VoteRequest(seat.id, "B", idem=KEY(3), tab="new")).revision == 1
    assert [vote.choice for vote in service.counted(0)] == ["B"]


def test_panelists_begin_at_different_comparisons(ledger, service):
    ask(ledger, n=16, m=1)
    shown = [service.assign(panelist).comparison for panelist in people(service, 16)]
    assert len(set(shown)) == 16  # one answer each before anything has two
    starts = {seats.panelist_order(ledger.root_seed, 0, f"p{i}", 16)[0] for i in range(100)}
    assert len(starts) > 12


@pytest.mark.parametrize("spare", [0, 1])
def test_a_clock_that_was_ahead_keeps_nobody_out(ledger, spare):
    """Seats that were served a day ahead would hold a round up for a day."""
    ask(ledger, n=1, m=2)
    service = VoteService(ledger, spare=spare)
    ann, ben, cy, dee, *more = people(service, 6)
    ledger.clock.now += DAY_US
    early = [service.assign(who, tab="t") for who in (ann, ben)]
    ledger.clock.now -= DAY_US
    fresh = [service.assign(who, tab="t") for who in (cy, dee)]
    assert sorted(seat.plus_side for seat in fresh) == ["A", "B"]
    assert [service.assign(who) is not None for who in more] == [bool(spare), False]
    # Whose seat it was may answer all the same, and who comes by first counts.
    service.cast(VoteRequest(early[0].id, "A", idem=KEY(1), tab="t"))
    assert [vote.panelist for vote in service.counted(0)] == [ann]


def test_a_seat_that_is_held_again_after_the_clock_was_set_back_is_held(ledger, service):
    ask(ledger, n=1, m=1)
    ann, ben = people(service, 2)
    ledger.clock.now += DAY_US
    seat = service.assign(ann)
    ledger.clock.now -= DAY_US
    assert service.extend(seat.id) and service.assign(ben) is None
    assert service.assign(ann).id == seat.id


TIMES = st.integers(0, 30)


@given(
    terms=st.lists(st.tuples(st.sampled_from("AB"), TIMES, TIMES), max_size=5),
    looks=st.lists(TIMES, min_size=1, max_size=8),
)
def test_held_seats_that_were_counted_are_those_of_now(terms, looks):
    """Clocks run and are set back; seats end before they began, or lie ahead of the clock."""
    at = ComparisonSeats({}, ("A", "B"))
    for n, (side, served, expires) in enumerate(terms):
        at.holders[str(n)] = Seat(str(n), "c", str(n), side, served, expires)
    at.recount(set())
    for now in looks:
        assert at.in_use(now) == sum(at.count_held(now).values())


def test_panelists_see_the_prompts_of_one_comparison_in_different_orders():
    head = {"step": 3, "k": 0, "n": 1}
    orders = {tuple(seats.prompt_order(7, head, f"p{i}", 8)) for i in range(6)}
    assert len(orders) == 6 and all(sorted(order) == list(range(8)) for order in orders)


SETTINGS = settings_of(N=4, D=1, M=1)
STEPS = 3


class Life:
    """A run of three steps of four comparisons, one vote each, by a simulated panel of two."""

    def __init__(self, folder):
        self.ledger = new_ledger(Path(folder) / "run.db", SETTINGS)
        self.service, self.policy = VoteService(self.ledger), QuadraticPolicy(SETTINGS)
        self.people = [self.service.enroll("person", f"person {i}") for i in range(3)]

    def go(self, until_step):
        go(SETTINGS, self.ledger, self.policy, panel_of(self.ledger, 2), until_step=until_step)

    def answer(self, who, choice, share=1.0):
        """The next second seat of a person, answered; None without one."""
        seat = second_seats.serve(self.service, self.people[who], share)
        if seat is not None:
            self.service.cast(VoteRequest(seat.id, choice, idem=f"second-{seat.id}"[:40]))
        return seat


@pytest.fixture
def life(tmp_path):
    found = Life(tmp_path)
    yield found
    found.ledger.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The history of the run, and its counted votes, without any second seat."""
    life = Life(tmp_path_factory.mktemp("plain"))
    life.go(STEPS)
    found = history(life.ledger), choices(life.ledger)
    life.ledger.close()
    return found


def choices(ledger):
    """The counted votes of each step; times differ where people looked at the clock meanwhile."""
    return [
        [(vote.comparison, vote.panelist, vote.choice) for vote in counting.counted(ledger, step)]
        for step in range(STEPS)
    ]


moves = strategies.lists(
    strategies.tuples(
        strategies.integers(0, 2), strategies.sampled_from(("A", "B", "tie", "skip"))
    ),
    max_size=8,
)


@pytest.mark.full
@given(strategies.tuples(moves, moves, moves), strategies.sampled_from((0.3, 1.0)))
def test_whatever_second_people_answer_no_counted_vote_and_no_update_changes(
    undisturbed, all_moves, share
):
    with tempfile.TemporaryDirectory() as folder:
        life, shown = Life(folder), Counter()
        for step, moves in enumerate(all_moves):
            life.go(step + 1)
            for who, choice in moves:
                if (seat := life.answer(who, choice, share)) is not None:
                    shown[seat.comparison, who] += 1
        ledger = life.ledger
        after, counted = history(ledger), choices(ledger)
        judged = Counter(v.comparison for vs in second_seats.votes(ledger).values() for v in vs)
        report = verification.verify(ledger)
        drawn = {
            c.id for step in range(STEPS) for c in ledger.comparisons(step)
            if second_seats.is_drawn(ledger.root_seed, share, (c.step, c.k, c.n))
        }  # fmt: skip
        ledger.close()
    assert report.ok, str(report)
    assert after == undisturbed[0]  # digests of the counted votes and of the weights
    assert counted == undisturbed[1]
    assert max(shown.values(), default=1) == 1  # nobody is shown one twice
    assert max(judged.values(), default=1) == 1  # and one judgement is enough
    assert {comparison for comparison, _ in shown} <= drawn


def test_nothing_is_shown_a_second_time_before_its_step_is_applied_or_while_paused(life):
    assert second_seats.serve(life.service, life.people[0], 1.0) is None
    life.go(1)
    assert second_seats.serve(life.service, life.people[0], 0.0) is None
    pauses.pause(life.ledger, "olga", "lunch")
    assert second_seats.serve(life.service, life.people[0], 1.0) is None
    pauses.unpause(life.ledger, "olga")
    assert second_seats.serve(life.service, life.people[0], 1.0) is not None
    with pytest.raises(UsageError, match="not enrolled"):
        second_seats.serve(life.service, "nobody", 1.0)


def test_a_second_seat_is_held_given_back_skipped_and_answered_once(life):
    life.go(1)
    first = second_seats.serve(life.service, life.people[0], 1.0, tab="a")
    again = second_seats.serve(life.service, life.people[0], 1.0, tab="b")
    assert again.id == first.id  # what is being read is served again
    other = second_seats.serve(life.service, life.people[1], 1.0)
    assert other.comparison != first.comparison  # and to nobody else meanwhile
    life.service.release(first.id)
    shown = [life.answer(2, "skip").comparison for _ in range(3)]
    assert first.comparison in shown and other.comparison not in shown
    # A skip judges nothing, so somebody else is asked; who skipped is not.
    assert life.answer(2, "A") is None
    life.service.cast(VoteRequest(other.id, "A", idem="x" * 16))
    with pytest.raises(VoteConflictError, match="closed"):
        life.service.cast(VoteRequest(other.id, "B", idem="y" * 16))
    held = {life.answer(1, "tie").comparison for _ in range(3)}
    assert held == set(shown)


def test_sides_are_opposite_so_that_one_who_always_takes_a_side_agrees_with_nobody(life):
    life.go(2)
    sides = dict(
        (row["comparison"], row["plus_side"])
        for row in life.ledger.query("SELECT comparison, plus_side FROM assignments")
    )
    for _ in range(8):
        seat = life.answer(0, "A")
        assert seat.plus_side != sides[seat.comparison]
    assert life.answer(0, "A") is None


def test_agreement_is_known_with_one_vote_on_each_comparison_and_nobody_counts_as_late(
    life, monkeypatch
):
    life.go(2)
    first = {v.comparison: v for step in range(2) for v in counting.counted(life.ledger, step)}
    assert not agreement.agreement(evidence.read(life.ledger))["same"].of
    # Of eight second answers to choices for a side, every fourth is against the first.
    for i in range(8):
        seat = second_seats.serve(life.service, life.people[0], 1.0)
        same = (
            "A" if (first[seat.comparison].verdict == "plus") == (seat.plus_side == "A") else "B"
        )
        choice = same if i % 4 else {"A": "B", "B": "A"}[same]
        life.service.cast(VoteRequest(seat.id, choice, idem=f"second-{seat.id}"[:40]))
    found = evidence.read(life.ledger)
    page = agreement.agreement(found)
    assert (page["same"].hits, page["same"].of) == (6, 8)
    assert page["alpha"].n == 8
    assert [row["late"] for row in agreement.panelists(found)] == [0] * 5
    assert sum(row["votes"] for row in agreement.panelists(found)) == 8  # of the rounds alone
    assert results.read(life.ledger).late == 0
    rows = {row["name"]: row for row in html_report._panelists(life.ledger, live=False)}
    said = "same side in 6 of 8 pairs of votes, 75% [41%, 93%]."
    assert said in html_report.render(life.ledger)
    assert (rows["person 0"]["agreement"], rows["person 0"]["votes"]) == ("–", "0")
    # Whoever voted in the rounds is held against the others' votes on the same direction.
    assert {row["agreement"] for row in rows.values() if row["votes"] != "0"} == {"100%"}
    assert all(row["late"] == "0" for row in rows.values())
    # Why votes show nothing: each pair counts once.
    monkeypatch.setattr(cause, "MIN_VOTES", 8)
    for needed, told in ((8, "the voters agree (in 6 of 8 pairs"), (9, "the voters disagree, or")):
        monkeypatch.setattr(cause, "PAIRS", needed)
        assert cause.read(life.ledger, Findings(0.0, taught=(), chance=1.0))[0].startswith(told)
    number = next(iter(second_seats.vote_ids(life.ledger)))
    before = sum(map(len, second_seats.votes(life.ledger).values()))
    life.service.amend(number, "exclude", "a test", "olga")
    assert sum(map(len, second_seats.votes(life.ledger).values())) == before - 1
    assert agreement.agreement(evidence.read(life.ledger))["same"].of == 7


def test_the_share_is_drawn_and_those_of_a_smaller_share_are_among_those_of_a_larger_one():
    places = [(step, 0, n) for step in range(100) for n in range(10)]
    few, many = ({p for p in places if second_seats.is_drawn(3, s, p)} for s in (0.1, 0.5))
    assert few < many
    assert 70 <= len(few) <= 130 and 440 <= len(many) <= 560  # ± 3 and 3.8 standard deviations
    assert not any(second_seats.is_drawn(3, 0.0, p) for p in places)
    assert all(second_seats.is_drawn(3, 1.0, p) for p in places)
