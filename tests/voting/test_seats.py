"""A panelist's own seats, the tab they belong to, and what a look at the counts of seats costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.types import Vote
from szpo.voting import counting, pauses, seats
from szpo.voting.casting import VoteConflictError
from szpo.voting.counting import ComparisonSeats, Seat
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask, people

DAY_US = 86_400_000_000


def test_an_answered_seat_moves_to_another_tab_which_may_change_the_vote(ledger, service):
    ask(ledger, n=1, m=1)
    (ann,) = people(service, 1)
    seat = service.assign(ann, tab="old")
    service.cast(seat.id, "A", idem=KEY(1), tab="old")
    service.take(seat.id, "new")
    with pytest.raises(VoteConflictError, match="another tab"):
        service.cast(seat.id, "B", idem=KEY(2), tab="old")
    assert service.cast(seat.id, "B", idem=KEY(3), tab="new").revision == 1
    assert [vote.choice for vote in service.counted(0)] == ["B"]


def test_panelists_begin_at_different_comparisons(ledger, service):
    ask(ledger, n=16, m=1)
    shown = [service.assign(panelist).comparison for panelist in people(service, 16)]
    assert len(set(shown)) == 16  # one answer each before anything has two
    orders = [seats.panelist_order(ledger.root_seed, 0, f"p{i}", 16) for i in range(100)]
    assert len({order[0] for order in orders}) > 12
    served = service.look().seats.in_order_of(ledger, "p7")
    assert [at.head["comparison"] for at in served] == [f"c{i}" for i in orders[7]]


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
    service.cast(early[0].id, "A", idem=KEY(1), tab="t")
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


def test_who_was_served_within_a_quarter_of_an_hour_is_present(ledger, service):
    ask(ledger, n=4, m=2)
    ann, ben, cy = people(service, 3)
    service.assign(ann)
    ledger.clock.now += 600_000_000
    service.assign(ben)
    assert seats.find_present(ledger, ledger.clock()) == {ann, ben}
    ledger.clock.now += 310_000_000
    assert seats.find_present(ledger, ledger.clock()) == {ben} and cy


def test_a_pause_is_given_back_to_seats_held_as_it_began_and_revoked_ones_are_free(
    ledger, service
):
    ask(ledger, n=4, m=2)
    ann, ben, cy = people(service, 3)
    early, answered, held = (service.assign(who) for who in (ann, ben, cy))
    service.cast(answered.id, "A", idem=KEY(1))
    second = service.assign(ben)
    ledger.execute("UPDATE assignments SET expires_us = 5 WHERE assignment = ?", (early.id,))
    pauses.pause(ledger, "olga", "lunch")
    began = pauses.list_pauses(ledger)[-1][0]
    ledger.clock.now += 60_000_000
    before = {each.id: seats.find(ledger, each.id).expires_us for each in (early, held, second)}
    pauses.unpause(ledger, "olga")
    after = {name: seats.find(ledger, name).expires_us for name in before}
    longer = {name: after[name] - before[name] for name in before}
    assert longer[early.id] == 0 and longer[held.id] == longer[second.id]
    assert 60_000_000 <= longer[held.id] <= ledger.clock.now - began
    seats.give_back(ledger, ben)
    sql = "SELECT assignment FROM assignments WHERE released_us IS NOT NULL"
    assert [row["assignment"] for row in ledger.query(sql)] == [second.id]
    kinds = ("train",)
    assert seats.find_unanswered(ledger, ben, kinds, ledger.clock()) is None
    assert seats.find_unanswered(ledger, cy, kinds, ledger.clock()).id == held.id
    assert seats.find_unanswered(ledger, cy, ("final",), ledger.clock()) is None
    assert seats.find_unanswered(ledger, ann, kinds, ledger.clock()) is None


def test_sides_alternate_over_the_rows_of_a_direction_or_of_a_step():
    """An even M has both sides alike; the odd vote more changes sides from row to row."""
    asked = [{"comparison": f"{k}{n}", "step": 2, "k": k, "n": n} for k in (0, 1) for n in (0, 1)]
    for m, balance in ((2, "direction"), (3, "direction"), (3, "step")):
        planned = seats.planned_sides(9, asked, m, balance)
        more = ["".join(planned[each["comparison"]]).count("A") - m // 2 for each in asked]
        if m == 2:
            assert more == [0] * 4
        elif balance == "step":
            assert more in ([0, 1, 0, 1], [1, 0, 1, 0])
        else:
            assert sorted(more[:2]) == sorted(more[2:]) == [0, 1]
    # A direction's own coin begins: over seeds, two directions begin alike as often as not.
    alike = [
        seats.side_in_step(seed, 2, 0, 0) == seats.side_in_step(seed, 2, 0, 1)
        for seed in range(40)
    ]
    assert 10 < sum(alike) < 30


def test_a_step_s_counts_say_on_which_side_plus_stood_of_the_votes_that_took_one(ledger):
    ask(ledger, n=3, m=4, identical=(1,))
    cast = [("plus", "A"), ("minus", "B"), ("tie", "tie")]  # plus on A twice; a tie has no side
    votes = [Vote("c0", f"p{i}", 0, 0, *each) for i, each in enumerate(cast)]
    cast = [("plus", "A"), ("plus", "B"), ("minus", "A")]
    votes += [Vote("c2", f"p{i}", 0, 2, *each) for i, each in enumerate(cast)]
    found = counting.tally(ledger, 0, 1, 3, votes)
    assert (found.plus.tolist(), found.minus.tolist()) == ([[1, 0, 2]], [[1, 0, 1]])
    assert found.tie.tolist() == [[1, 0, 0]] and found.identical.tolist() == [[False, True, False]]
    assert found.side.tolist() == [[1, 0, pytest.approx(-1 / 3)]]
