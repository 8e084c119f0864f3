"""Which answer of a seat stands is decided in one place; final comparisons."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from szpo.ledger import orders
from szpo.metrics import share
from szpo.replay import verification
from szpo.types import Comparison
from szpo.voting import blind, counting, step_states
from szpo.voting import service as vote_service
from szpo.voting.casting import VoteConflictError
from szpo.voting.panel_evaluator import LedgerEvaluator
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask, ask_six, people, rows, seat_and_vote, vote_all
from tests.support.quadratic import go, new_ledger, settings_of, start

PLAN = settings_of(N=8, M=2, D=6)


def test_the_last_answer_in_time_that_is_not_excluded_stands(ledger, service):
    shown = Comparison("c", -1, 0, 0, rows(0, d=1), kind="final")
    with ledger.transaction("test"):
        ledger.append_comparison(shown)
    ids = [service.enroll("person", name) for name in ("ann", "ben", "cay")]
    ann, ben, cay = (seat_and_vote(ledger, shown, who, plus_side="B")[0] for who in ids)
    cast = []
    for seat, choice in ((ann, "A"), (ben, "skip"), (cay, "tie"), (ben, "B"), (ann, "tie")):
        cast.append(service.cast(seat, choice, idem=KEY(len(cast))).vote)

    def standing_verdicts(**until):
        standing = counting.standing_votes(ledger, "final", **until)
        return {vote.id: vote.verdict for vote in standing}

    assert standing_verdicts() == {cast[2]: "tie", cast[3]: "plus", cast[4]: "tie"}
    early = standing_verdicts(last_vote=cast[2])
    assert early == {cast[0]: "minus", cast[1]: "skip", cast[2]: "tie"}
    first = service.amend(cast[4], "exclude", "a test", "op")
    assert standing_verdicts() == {
        cast[2]: "tie",
        cast[3]: "plus",
    }  # the one before stays replaced
    service.amend(cast[4], "reinstate", "a test", "op")
    assert cast[4] in standing_verdicts()
    assert cast[4] not in standing_verdicts(last_amendment=first)


def test_a_changed_answer_keeps_its_place_before_those_that_came_later(ledger, service):
    """Of two answers on each side of plus the first counts, where one is asked for."""
    ask(ledger, n=1, m=1)
    (shown,) = ledger.comparisons(0)
    who = people(service, 4)
    seats = [
        seat_and_vote(ledger, shown, each, "A", plus_side=side)[0]
        for each, side in zip(who, "AABB", strict=True)
    ]
    for i in (0, 2):
        service.cast(seats[i], "B", idem=KEY(i))
    (vote,) = counting.counted(ledger, 0)
    assert vote.panelist in (who[0], who[2]) and vote.choice == "B"


def place_final(ledger, count=4, equal=()):
    """A final order that was fulfilled, with ``count`` comparisons."""
    number = orders.place_order(ledger, "final", "op", {"comparisons": count})
    (order,) = orders.open_orders(ledger)
    made = [
        Comparison(f"f{number}-{n}", -1, 0, n, rows(n, equal=n in equal), kind="final")
        for n in range(count)
    ]
    assert orders.settle(ledger, order, {"after": 0}, made)
    assert not orders.settle(ledger, order, {"after": 1}, made)  # once
    return number


def answer_all(service, panelist, choice="A"):
    shown = []
    while (seat := service.final(panelist)) is not None:
        shown.append(seat)
        service.cast(seat.id, choice, idem=seat.id)
    return shown


def test_everybody_sees_each_comparison_once_the_least_answered_first(ledger, service):
    ids = [service.enroll("person", f"p{i}") for i in range(3)]
    assert service.final(ids[0]) is None
    number = place_final(ledger, 6, equal={2})
    assert [blind.count_left(ledger, panelist, ledger.clock()) for panelist in ids] == [5] * 3
    first = {service.final(panelist).comparison for panelist in ids}
    assert len(first) == 3
    shown = {panelist: [s.comparison for s in answer_all(service, panelist)] for panelist in ids}
    assert [blind.count_left(ledger, panelist, ledger.clock()) for panelist in ids] == [0] * 3
    want = sorted(f"f{number}-{n}" for n in (0, 1, 3, 4, 5))  # nobody reads two equal batches
    assert all(sorted(seen) == want for seen in shown.values())


@pytest.mark.full
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    count=strategies.integers(1, 5).map(lambda half: 2 * half),
    acts=strategies.lists(strategies.sampled_from(["answer", "skip", "release", "sleep"])),
)
def test_sides_are_balanced_over_each_round_through_an_order(tmp_path_factory, count, acts):
    with new_ledger(tmp_path_factory.mktemp("f") / "run.db", PLAN) as ledger:
        service = VoteService(ledger)
        place_final(ledger, count)
        for i, act in enumerate(acts):  # people who leave something open behind them
            seat = service.final(service.enroll("person", f"odd {i}"))
            if act in ("answer", "skip"):
                choice = "tie" if act == "answer" else "skip"
                service.cast(seat.id, choice, idem=seat.id)
            elif act == "release":
                service.release(seat.id)
            else:
                ledger.clock.now += vote_service.SEAT_TTL_US + 1
        level = max(_answers(ledger).values(), default=0)
        for i in range(60):  # others fill the round up
            if len(set(_answers(ledger).values())) == 1 and len(_answers(ledger)) == count:
                break
            seat = service.final(service.enroll("person", f"even {i}"))
            service.cast(seat.id, "A", idem=seat.id)
        answers = _answers(ledger)
        assert set(answers.values()) == {max(level, 1)}
        found = ledger.query(
            "SELECT sum(a.plus_side = 'A') AS a, count(*) AS n FROM assignments a "
            "JOIN votes v USING (assignment) WHERE v.choice <> 'skip'"
        )[0]
        assert 2 * found["a"] == found["n"]


def _answers(ledger):
    rows = ledger.query(
        "SELECT a.comparison, count(*) AS n FROM assignments a JOIN votes v USING (assignment) "
        "WHERE v.choice <> 'skip' GROUP BY a.comparison"
    )
    return {row["comparison"]: row["n"] for row in rows}


def test_a_final_seat_that_was_skipped_leaves_its_side_to_the_next(ledger, service):
    """Of one comparison: the third panelist has the side of the first, who could not judge."""
    place_final(ledger, 1)
    sides = []
    for number, choice in enumerate(("skip", "A", "B", "A")):
        seat = service.final(service.enroll("person", f"p{number}"))
        service.cast(seat.id, choice, idem=seat.id)
        sides.append(seat.plus_side)
    assert sides[1] != sides[2] and {sides[1], sides[2]} == {"A", "B"}


def test_no_side_of_a_final_comparison_follows_from_others():
    places = [(order, 2 * pair) for order in range(20) for pair in (0, 1)]
    rounds = [blind.planned_sides(3, order, 6, pair) for order, pair in places]
    assert {sides.count("A") for sides in rounds} == {3}
    # Each of the 20 orders of three and three may come: alternating there were two.
    assert len({tuple(sides) for sides in rounds}) > 10
    for order in range(8):
        first, second = (blind.planned_sides(3, order, 6, seat) for seat in (0, 1))
        assert all(one != other for one, other in zip(first, second, strict=True))


def test_those_who_voted_in_training_are_counted_apart(ledger, service):
    """Ann voted there; Ben skipped, which is no vote, and prefers the start's answer."""
    ann, ben = (service.enroll("person", name) for name in ("ann", "ben"))
    ask_six(ledger, m=1)
    vote_all(service, ben, "skip")
    vote_all(service, ann)
    number = place_final(ledger, 1)
    for who, verdict in ((ann, "plus"), (ben, "minus")):
        seat = service.final(who)
        side = seat.plus_side if verdict == "plus" else "AB".replace(seat.plus_side, "")
        service.cast(seat.id, side, idem=seat.id)
    assert blind.read(ledger) is None  # while it is open
    orders.close(ledger, number, "op")
    result = blind.read(ledger)
    assert (result.new, result.start, result.fresh, result.by) == (1, 1, share(0, 1), "")


def test_an_answer_may_be_changed_until_the_order_is_closed(ledger, service):
    ann, ben = (service.enroll("person", name) for name in ("ann", "ben"))
    number = place_final(ledger, 2)
    mine, late = service.final(ann, tab="t"), service.final(ben, tab="t")
    assert service.cast(mine.id, "A", idem=KEY(1), tab="t").revision == 0
    assert service.cast(mine.id, "B", idem=KEY(2), tab="t").revision == 1
    orders.close(ledger, number, "op")
    with pytest.raises(VoteConflictError) as caught:
        service.cast(mine.id, "A", idem=KEY(3), tab="t")
    assert caught.value.code == "closed" and caught.value.stored.choice == "B"
    assert service.cast(late.id, "A", idem=KEY(4), tab="t").late
    assert service.final(ann) is None and service.final(ben) is None
    assert service.counted(0) == ()
    assert verification.verify(ledger, deep=False).ok


def test_a_seat_is_served_again_while_it_is_held_and_its_order_is_open(ledger, service):
    ann = service.enroll("person", "ann")
    first = place_final(ledger, 1)
    seat = service.final(ann, tab="one")
    assert service.final(ann, tab="two").id == seat.id
    orders.close(ledger, first, "op")
    assert service.final(ann) is None
    second = place_final(ledger, 1)
    assert service.final(ann).comparison == f"f{second}-0"


def test_a_simulated_panelist_has_a_seat_of_its_own_at_every_comparison(ledger, service):
    robot = service.enroll("simulated", "robot")
    place_final(ledger, 5)
    seats = answer_all(service, robot)
    assert len({seat.id for seat in seats}) == 5
    assert len({seat.prompt_order for seat in seats}) > 1
    assert verification.verify(ledger).ok


def voted(service, people, each):
    """``each`` of the open step's comparisons are answered by each of them."""
    with service.ledger.transaction("votes"):
        for name in people:
            who = service.enroll("person", name)
            for _ in range(each):
                seat = service.assign(who)
                service.cast(seat.id, "A", idem=seat.id)


def test_what_came_between_the_look_and_the_lock_is_counted_again(tmp_path):
    settings, ledger, policy = start(tmp_path, N=2, D=1, M=1)
    service, seen = VoteService(ledger), []

    def wait():
        if not seen:
            voted(service, ["ann"], 2)
            last = ledger.query("SELECT max(vote) AS vote FROM votes")[0]["vote"]
            reader = counting.StepVotes(ledger, 0)

            def look():  # the first look finds all votes; then one is excluded
                del reader.look
                seen.append(reader.look().missing)
                service.amend(last, "exclude", "a slip", "ann")
                return reader

            reader.look = look
            seen.append(step_states.close(ledger, 0, "rule", votes=reader))
            seen.append(reader.missing)
            service.amend(last, "reinstate", "it was none", "ann")

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=wait)
    assert seen == [0, False, 1]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_reader_that_follows_a_step_says_what_one_says_that_begins_anew(tmp_path, m):
    settings, ledger, policy = start(tmp_path, N=5, D=2, M=m)
    service, script = VoteService(ledger), []
    readers = []

    def same():
        (reader,) = readers
        fresh, reader = counting.StepVotes(ledger, 0), reader.look()
        assert reader.standing == fresh.standing
        assert reader.counted == fresh.counted == service.counted(0)
        assert reader.missing == fresh.missing == 5 * m - len(fresh.counted)
        assert reader.ids() == fresh.ids()
        return reader

    def wait():
        readers.append(counting.StepVotes(ledger, 0))
        people = [service.enroll("person", f"p{i}") for i in range(m + 1)]
        held = []
        for turn in range(5 * (m + 1)):
            who = people[turn % len(people)]
            seat = service.assign(who)
            if seat is None:
                continue
            held.append(seat.id)
            choice = ("skip", "A", "tie", "B")[turn % 4]
            service.cast(seat.id, choice, idem=f"first {seat.id}".replace(" ", "-"))
            script.append(choice)
            same()
            if turn % 3 == 1:  # an earlier answer is changed, a skip among them
                own = held[turn // 3]
                service.cast(own, "B", idem=f"again-{turn}-{own}")
                same()
            if turn % 5 == 2:
                vote = ledger.query("SELECT max(vote) AS vote FROM votes")[0]["vote"]
                service.amend(vote, "exclude", "a test", "ann")
                assert vote not in same().ids()[0]
                if turn % 2:
                    service.amend(vote, "reinstate", "a test", "ann")
                    assert vote in same().ids()[0]
        with pytest.raises(ZeroDivisionError), ledger.transaction("votes"):
            service.cast(held[0], "tie", idem=f"undone-{held[0]}")
            within = same().standing
            raise ZeroDivisionError
        assert same().standing != within
        step_states.close(ledger, 0, "operator", reason="enough", actor="ann")
        before = same().counted
        service.amend(min(same().ids()[1]), "exclude", "too late", "ann")
        assert same().counted == before

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=wait)
    assert "skip" in script and ledger.step(0)["state"] == "applied"
    assert verification.verify(ledger).ok
