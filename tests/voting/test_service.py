import pytest
from hypothesis import given, strategies

from szpo.errors import LeaseError, UsageError
from szpo.ledger.theta import theta_digest
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import casting, counting, seats, step_states
from szpo.voting import service as vote_service
from szpo.voting.casting import MOST_VOTES, VoteConflictError
from szpo.voting.counting import verdict
from szpo.voting.seats import planned_sides
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask, people
from tests.support.cases import case
from tests.support.quadratic import new_ledger, settings_of


def test_ids_of_simulated_panelists_derive_from_the_seed_and_people_have_random_ones(tmp_path):
    found = []
    for name in ("a.db", "b.db"):
        with new_ledger(tmp_path / name, settings_of()) as ledger:
            service = VoteService(ledger)
            found.append([service.enroll(k, f"{k} 1") for k in ("simulated", "judge", "person")])
            assert service.enroll("judge", "judge 1") == found[-1][1]
    assert found[0][:2] == found[1][:2] and found[0][2] != found[1][2]


def test_a_seat_is_of_one_kind_of_id_and_a_name_of_one_kind(ledger, service):
    ask(ledger, n=1, m=2)
    head = ledger.query("SELECT * FROM comparisons")[0]
    for kind, computed in (("person", False), ("simulated", True)):
        who = service.enroll(kind, kind)
        seat = service.assign_to("c0", who)
        assert (seat.id == seats.seat_id(ledger.root_seed, head, who)) == computed
    service.enroll("person", "ann")
    with pytest.raises(UsageError, match="enrolled as person"):
        service.enroll("judge", "ann")
    for name in ("", "x" * 65):
        with pytest.raises(UsageError, match="1 to 64"):
            service.enroll("person", name)


def test_answers_of_a_step_are_stored_once(ledger):
    epoch = ask(ledger)
    with pytest.raises(LeaseError, match="has stored its answers"):
        step_states.store(ledger, epoch, 0, [], theta_digest(ledger), then_open=False)


def test_an_expired_seat_is_free_for_another_who_gets_its_side(ledger, service):
    ask(ledger, n=1, m=1)
    ann, ben = people(service, 2)
    lost = service.assign(ann)
    assert service.assign(ben) is None
    ledger.clock.now += vote_service.SEAT_TTL_US + 1
    again = service.assign(ann)  # nobody has it yet
    assert (again.id, again.plus_side) == (lost.id, lost.plus_side)
    ledger.clock.now += vote_service.SEAT_TTL_US + 1
    taken = service.assign(ben)
    assert taken.plus_side == lost.plus_side and service.assign(ann) is None
    # Work that was done is stored: the expired seat may still answer, but M are counted.
    service.cast(taken.id, "A", idem=KEY(1))
    late_but_open = service.cast(lost.id, "B", idem=KEY(2))
    assert not late_but_open.late
    assert [v.panelist for v in service.counted(0)] == [ben]


@pytest.mark.parametrize("spare", [0, 1])
def test_a_heartbeat_that_comes_too_late_takes_no_seat_from_anybody(ledger, spare):
    """Ann's seat runs out and others get it: no more people are at work than there were to be."""
    ask(ledger, n=1, m=1)
    service = VoteService(ledger, spare=spare)
    ann, *others = people(service, 2 + spare)
    late = service.assign(ann)
    ledger.clock.now += vote_service.SEAT_TTL_US + 1
    assert service.extend(late.id)  # before anybody came it is hers again
    ledger.clock.now += vote_service.SEAT_TTL_US + 1
    given = [service.assign(other) for other in others]
    assert None not in given
    assert not service.extend(late.id)
    assert service.assignment(late.id).expires_us <= ledger.clock.now
    assert service.assign(ann) is None
    assert all(service.extend(seat.id) for seat in given)
    service.release(given[0].id)  # it is free again: whoever asks first has it
    assert service.extend(late.id) and not service.extend(given[0].id)


def test_what_is_over_is_not_held_any_longer(ledger, service):
    ask(ledger, n=1, m=1)
    ann, ben = people(service, 2)
    seat = service.assign(ann)
    with ledger.transaction("controller"):
        both = (Row(Prompt.user("?"), Answer("warm"), Answer("cold")),)
        ledger.append_comparison(Comparison("f", -1, 0, 0, both, kind="final"))
        other = service.make_seat("f", "A", ben, None)
    ledger.clock.now += vote_service.SEAT_TTL_US // 2
    assert service.extend(other.id) and service.extend(seat.id)
    ledger.clock.now += 2 * vote_service.SEAT_TTL_US
    assert not service.extend(other.id)
    assert not service.extend("no such seat")


def test_identical_comparisons_are_never_served(ledger, service):
    ask(ledger, n=3, m=1, identical={1})
    shown = {service.assign(panelist).comparison for panelist in people(service, 2)}
    assert shown == {"c0", "c2"}
    assert service.assign_to("c1", people(service, 1)[0]) is None
    assert counting.tally(ledger, 0, 1, 3).identical.tolist() == [[False, True, False]]


def test_strangers_and_closed_steps_get_nothing(ledger, service):
    with pytest.raises(UsageError, match="not enrolled"):
        service.assign("nobody")
    (ann,) = people(service, 1)
    assert service.assign(ann) is None
    with pytest.raises(UsageError, match="not open"):
        service.assign_to("c0", ann)


def sides(step, n, m):
    """The sides of plus for the n comparisons of a direction."""
    asked = [{"comparison": str(i), "step": step, "k": 1, "n": i} for i in range(n)]
    return list(planned_sides(5, asked, m).values())


def test_sides_differ_between_steps_and_are_a_function_of_the_seed():
    drawn = [sides(s, 1, 1)[0][0] for s in range(64)]
    assert 16 < drawn.count("A") < 48
    assert drawn == [sides(s, 1, 1)[0][0] for s in range(64)]
    assert len({sides(s, 1, 4)[0] for s in range(64)}) == 6  # every order of two A and two B


@pytest.fixture
def seat(ledger, service):
    ask(ledger, n=1, m=1)
    return service.assign(people(service, 1)[0], tab="t")


def test_a_hundred_answers_to_one_comparison_are_enough(ledger, service):
    ask(ledger, n=1, m=1)
    seat = service.assign(people(service, 1)[0], tab="t")
    for i in range(MOST_VOTES):
        service.cast(seat.id, "AB"[i % 2], idem=KEY(i), tab="t")
    with pytest.raises(VoteConflictError, match="answered 100 times; the last") as caught:
        service.cast(seat.id, "A", idem=KEY("more"), tab="t")
    assert caught.value.code == "changed_often" and caught.value.stored.choice == "B"
    again = service.cast(seat.id, "A", idem=KEY(0), tab="t")
    assert again.replayed  # a retry is no new answer
    assert len(ledger.votes()) == MOST_VOTES


BAD_VOTES = [
    ({"choice": "C"}, 'vote: choice must be one of "A", "B", "tie", "skip"'),
    ({"choice": 1}, "one of"),
    ({"idem": "short"}, "16 to 64"),
    ({"idem": "x" * 65}, "16 to 64"),
    ({"idem": "0123456789abcde✓"}, "16 to 64"),
    ({"idem": None}, "idem must be text"),
    ({"skip_reason": "why"}, "belongs to the choice skip"),
    ({"dwell_ms": -1}, "dwell_ms must be a whole number >= 0"),
    ({"dwell_ms": 10**18}, "dwell_ms must be a whole number"),
    ({"details": {"x": {1}}}, "details: not plain JSON"),
    ({"panelist": "somebody else"}, "no such comparison"),
    ({"assignment": "f" * 32}, "no such comparison"),
]


def test_bad_votes_are_refused_in_words(ledger, service, seat):
    for changes, words in BAD_VOTES:
        with case(changes, words):
            fine = {"assignment": seat.id, "choice": "A", "idem": KEY(1), "tab": "t"}
            with pytest.raises(UsageError, match=words):
                service.cast(**{**fine, **changes})
            assert ledger.votes() == []


def test_an_excluded_vote_makes_room_and_can_be_reinstated(ledger, service):
    ask(ledger, n=1, m=1)
    ann, ben = people(service, 2)
    vote = service.cast(service.assign(ann).id, "A", idem=KEY(1)).vote
    assert service.assign(ben) is None
    service.amend(vote, "exclude", "answered in 40 ms", "operator")
    assert service.counted(0) == () and counting.missing(ledger, 0) == 1
    assert service.assign(ben) is not None
    service.amend(vote, "reinstate", "was a reload", "operator")
    assert len(service.counted(0)) == 1
    assert step_states.close(ledger, 0, "rule")
    service.amend(vote, "exclude", "too late to matter", "operator")
    assert len(service.counted(0)) == 1  # what was counted at the close stays counted
    for bad in ((999, "exclude", "x"), (vote, "drop", "x"), (vote, "exclude", "")):
        with pytest.raises(UsageError):
            service.amend(*bad, "operator")


@given(strategies.sampled_from(["A", "B"]), strategies.sampled_from(casting.CHOICES))
def test_verdicts_swap_with_the_sides(side, choice):
    swapped = {"A": "B", "B": "A"}
    assert verdict(choice, side) == verdict(swapped.get(choice, choice), swapped[side])
