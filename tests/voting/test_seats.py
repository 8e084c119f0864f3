"""A panelist's own seats, the tab they belong to, and what a look at the counts of seats costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.ledger.database import Ledger
from szpo.voting import seats, steps
from szpo.voting import service as vote_service
from szpo.voting.casting import VoteConflictError, VoteRequest
from szpo.voting.seat_counts import ComparisonSeats, Seat
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask, people
from tests.support.quadratic import Clock, new_ledger, settings_of

DAY_US = 86_400_000_000


@pytest.fixture
def ledger(tmp_path):
    with new_ledger(tmp_path / "run.db", settings_of()) as found:
        yield found


@pytest.fixture
def service(ledger):
    return VoteService(ledger)


def test_own_seats_come_with_the_answers_that_stand(ledger, service):
    ask(ledger, n=4, m=2)
    ann, ben = people(service, 2)
    first = service.assign(ann, tab="t")
    assert [own.receipt for own in service.own(ann, 0)] == [None]
    service.cast(VoteRequest(first.id, "A", idem=KEY(1), tab="t", details={"notes": {"0": "A"}}))
    last = service.cast(VoteRequest(first.id, "skip", idem=KEY(2), tab="t", skip_reason="display"))
    second = service.assign(ann, tab="t")
    service.cast(VoteRequest(second.id, "tie", idem=KEY(3), tab="t", details={"seen": 2}))
    one, two = service.own(ann, 0)
    assert one.seat == service.assignment(first.id) and one.receipt == last
    assert (one.skip_reason, one.details) == ("display", {})
    assert two.receipt.choice == "tie" and two.details == {"seen": 2}
    assert service.own(ben, 0) == () and service.own(ann, 1) == ()


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


def test_steps_that_open_and_close_have_counts_of_their_own(ledger, service):
    assert service.seat_counts() is None
    epoch = ask(ledger, n=4, m=1)
    (ann,) = people(service, 1)
    with ledger.alone():
        assert service.seat_counts().votes_needed == 4
    while (seat := service.assign(ann)) is not None:
        service.cast(VoteRequest(seat.id, "A", idem=seat.id))
    assert steps.close(ledger, 0, steps.Closing("rule", epoch=epoch))
    assert service.seat_counts() is None and service.assign(ann) is None


def test_a_late_answer_is_in_no_count_of_seats(ledger, service):
    ask(ledger, n=1, m=1)
    ann, ben = people(service, 2)
    seat = service.assign(ann)
    ledger.clock.now += vote_service.SEAT_TTL_US + 1
    service.cast(VoteRequest(service.assign(ben).id, "A", idem=KEY(1)))
    with Ledger.open(ledger.path, clock=Clock()) as second:
        there = VoteService(second)
        with second.alone():
            assert there.seat_counts().votes_in == 1
        assert steps.close(ledger, 0, steps.Closing("rule"))
        assert there.cast(VoteRequest(seat.id, "A", idem=KEY(2))).late
        assert there.seat_counts() is None
        assert [own.receipt.late for own in there.own(ann, 0)] == [True]


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
