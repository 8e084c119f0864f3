"""On which side plus stands: balanced over what is counted, whoever comes, goes or skips."""

import itertools
import random
import tempfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from szpo.ledger.database import Ledger
from szpo.voting import counting, step_states
from szpo.voting import service as vote_service
from szpo.voting.counting import SeatCounts
from szpo.voting.panel_evaluator import OpenComparisons, PanelEvaluator
from szpo.voting.service import VoteService
from tests.support.asking import KEY, open_run
from tests.support.quadratic import ValueJudge, settings_of

PLAN = settings_of(N=8, M=2, D=6)


def counted_sides(ledger):
    """Per comparison, the sides on which plus stood in its counted votes."""
    side = {
        (row["comparison"], row["panelist"]): row["plus_side"]
        for row in ledger.query("SELECT comparison, panelist, plus_side FROM assignments")
    }
    found = {}
    for vote in counting.counted(ledger, 0):
        place = found.setdefault((vote.k, vote.n), Counter())
        place[side[vote.comparison, vote.panelist]] += 1
    return found


def check_balance(ledger, m):
    """Half and half over each comparison, or over each direction where M is odd."""
    found = counted_sides(ledger)
    for sides in found.values():
        assert abs(sides["A"] - sides["B"]) == m % 2
    for k in {k for k, _ in found}:
        here = [sides for (i, _), sides in found.items() if i == k]
        plus_on_a = sum(sides["A"] for sides in here)
        assert 2 * plus_on_a - m * len(here) in ((0,) if m * len(here) % 2 == 0 else (-1, 1))


@pytest.mark.full
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=strategies.integers(0, 2**32),
    k=strategies.integers(1, 2),
    n=strategies.integers(1, 4),
    m=strategies.integers(1, 4),
    spare=strategies.integers(0, 2),
)
def test_sides_are_balanced_whatever_the_panel_does(seed, k, n, m, spare):
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, open_run(folder, k=k, n=n, m=m) as ledger:
        clock = ledger.clock
        with Ledger.open(ledger.path, clock=clock) as second:
            doors = [VoteService(each, spare=spare) for each in (ledger, second)]
            ids = [doors[0].enroll("person", f"p{i}") for i in range(3 * m + 6)]
            first_seats = {}
            for turn in range(2000):
                if step_states.close(ledger, 0, "rule"):
                    break
                service = draw.choice(doors)
                panelist = ids[turn] if turn < len(ids) else draw.choice(ids)
                seat = service.assign(panelist)
                if seat is None:  # nothing for this one: time passes, others may come back
                    clock.now += vote_service.SEAT_TTL_US // 3
                    if turn % 20 == 19:
                        ids.append(service.enroll("person", f"late {turn}"))
                    continue
                before = first_seats.setdefault(seat.id, seat)
                assert before.plus_side == seat.plus_side
                assert before.prompt_order == seat.prompt_order
                what = draw.random()
                if what < 0.15:  # walks away
                    clock.now += draw.choice([0, vote_service.SEAT_TTL_US + 1])
                elif what < 0.25:
                    service.release(seat.id)
                else:
                    choice = draw.choice(["A", "B", "tie", "skip"])
                    receipt = service.cast(seat.id, choice, idem=KEY(turn))
                    if draw.random() < 0.2:
                        draw.choice(doors).cast(seat.id, "B", idem=KEY(f"{turn}-again"))
                    elif draw.random() < 0.1:
                        service.amend(receipt.vote, "exclude", "too fast", "op")
                for door in doors:  # what is in memory is what is in the file
                    each = door.ledger
                    with each.alone:
                        counts = door.look().seats
                        fresh = SeatCounts(each, each.step(0))
                    assert counts.votes_in == fresh.votes_in == len(counting.counted(each, 0))
                    assert counts.votes_needed - counts.votes_in == counting.missing(each, 0)
            assert ledger.step(0)["closed_by"] == "rule"
            check_balance(ledger, m)


@pytest.mark.parametrize("spare", [0, 2])
@pytest.mark.parametrize(
    ("k", "n", "m", "identical"),
    [(1, 4, 2, ()), (2, 8, 1, ()), (1, 6, 3, ()), (3, 2, 5, ()), (1, 5, 4, ()),
     (1, 6, 1, ((0, 1), (0, 4)))],
)  # fmt: skip
def test_sides_are_exactly_half_in_a_plain_round(tmp_path, k, n, m, identical, spare):
    with open_run(tmp_path, k=k, n=n, m=m, identical=identical) as ledger:
        service = VoteService(ledger, spare=spare)
        ids = [service.enroll("person", f"p{i}") for i in range(m + 2)]
        for turn in range(500):
            seat = service.assign(ids[turn % len(ids)])
            if seat is not None:
                service.cast(seat.id, "A", idem=KEY(turn))
        assert step_states.close(ledger, 0, "rule")
        check_balance(ledger, m)
        total = sum(counted_sides(ledger).values(), Counter())
        assert total["A"] == total["B"] == (k * n - len(identical)) * m / 2


@pytest.mark.full
def test_nobody_can_tell_the_next_side_from_the_last(tmp_path):
    changes = 0
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with open_run(folder, n=8, m=1, seed=seed) as ledger:
            service = VoteService(ledger)
            ann, sides = service.enroll("simulated", "ann"), []
            while (seat := service.assign(ann)) is not None:
                sides.append(seat.plus_side)
                service.cast(seat.id, "A", idem=KEY(seat.id)[:60])
            assert sides.count("A") == 4
            changes += sum(a != b for a, b in itertools.pairwise(sides))
    assert (
        36 <= changes <= 60
    )  # of 84; 48 are expected of a drawn order, 84 would give every side away


def test_whoever_skipped_first_cannot_push_out_later_answers(tmp_path):
    with open_run(tmp_path, n=1, m=2) as ledger:
        service = VoteService(ledger)
        names = ("hank", "ann", "ben")
        hank, ann, ben = (service.enroll("person", name) for name in names)
        early = service.assign(hank)
        service.cast(early.id, "skip", idem=KEY("early"))
        seat = service.assign(ann)
        assert seat.plus_side == early.plus_side
        service.cast(seat.id, "A", idem=KEY("ann"))
        service.cast(early.id, "B", idem=KEY("back"))  # now that others have answered
        assert [vote.panelist for vote in counting.counted(ledger, 0)] == [ann]
        service.cast(seat.id, "B", idem=KEY("ann-changes"))  # a change of mind moves nothing
        assert [vote.panelist for vote in counting.counted(ledger, 0)] == [ann]
        last = service.assign(ben)
        service.cast(last.id, "tie", idem=KEY("ben"))
        assert {vote.panelist for vote in counting.counted(ledger, 0)} == {ann, ben}


def test_simulated_colleagues_fill_the_side_that_people_left_open(tmp_path):
    with open_run(tmp_path, n=1, m=2) as ledger:
        service = VoteService(ledger, spare=1)
        seats_of = [service.assign(service.enroll("person", f"p{i}")) for i in range(3)]
        spare = seats_of[2]
        same = next(seat for seat in seats_of[:2] if seat.plus_side == spare.plus_side)
        for i, seat in enumerate((same, spare)):  # two answers on one side; one sleeps
            service.cast(seat.id, "A", idem=KEY(i))
        ledger.clock.now += vote_service.SEAT_TTL_US + 1
        assert [lack for _, lack in OpenComparisons(ledger).lacking()] == [1]
        judges = [ValueJudge()] * 3
        PanelEvaluator(VoteService(ledger), judges).submit(ledger.comparisons(0))
        assert step_states.close(ledger, 0, "rule")
        check_balance(ledger, 2)


def test_a_transaction_that_is_undone_leaves_nothing_in_memory(tmp_path):
    with open_run(tmp_path, n=2, m=1) as ledger:
        service = VoteService(ledger)
        ann, ben = (service.enroll("person", name) for name in ("ann", "ben"))

        with pytest.raises(ZeroDivisionError), ledger.transaction():
            seat = service.assign(ann)
            service.cast(seat.id, "A", idem=KEY(1))
            assert service.look().seats.votes_in == 1
            raise ZeroDivisionError
        assert not ledger.query("SELECT * FROM assignments") and service.look().seats.votes_in == 0
        shown = [service.assign(ben).comparison, service.assign(ann).comparison]
        assert sorted(shown) == ["c0-0", "c0-1"]
