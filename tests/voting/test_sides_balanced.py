"""On which side plus stands: balanced over what is counted, whoever comes, goes or skips."""

import itertools
import random
import tempfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from szpo import seeds
from szpo.analysis import votes
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import calibration, counting, pauses, steps
from szpo.voting import service as vote_service
from szpo.voting.casting import VoteConflictError
from szpo.voting.counting import SeatCounts
from szpo.voting.panel_evaluator import OpenComparisons, PanelEvaluator
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask_six, open_run, people, rows, vote_all
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
                if steps.close(ledger, 0, "rule"):
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
        assert steps.close(ledger, 0, "rule")
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
        assert steps.close(ledger, 0, "rule")
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


@pytest.fixture
def service(ledger):
    return VoteService(ledger, rubric_version=1)


def close_step(ledger, service, ids, **shape):
    """A step on which everybody has voted, closed."""
    ask_six(ledger, **shape)
    for panelist in ids:
        vote_all(service, panelist)
    assert steps.close(ledger, 0, "rule")


def answer_all(service, panelist, choice="A"):
    """Answer everything there is to calibrate with; the kinds, in order."""
    kinds = []
    while (seat := service.calibration(panelist)) is not None:
        kinds.append(service.ledger.comparison(seat.comparison).kind)
        service.cast(seat.id, choice, idem=seat.id)
        assert len(kinds) < 100
    return kinds


def add_aa(ledger, count):
    with ledger.transaction("controller"):
        for n in range(count):
            ledger.append_comparison(Comparison(f"aa-{n}", -1, 0, n, rows(90 + n), kind="aa"))


def test_there_is_nothing_to_calibrate_with_before_a_step_is_closed(ledger, service):
    (ann,) = people(service, 1)
    assert service.calibration(ann) is None
    ask_six(ledger, m=1)
    vote_all(service, ann)
    assert service.calibration(ann) is None
    with pytest.raises(UsageError, match="not enrolled"):
        service.calibration("nobody")


def test_gold_is_a_true_batch_beside_the_same_texts_spoiled(ledger, service):
    ids = people(service, 2)
    close_step(ledger, service, ids)
    ways = set()
    seat = service.calibration(ids[0])
    while seat is not None:
        shown = ledger.comparison(seat.comparison)
        service.cast(seat.id, "tie", idem=seat.id)
        if shown.kind == "gold":
            source = ledger.comparison(shown.repeats)
            true = {
                (row.prompt, answer.text)
                for row in source.rows
                for answer in (row.plus, row.minus)
            }
            assert shown.expected == "plus" and 1 <= len(shown.rows) <= calibration.GOLD_ROWS
            assert all((row.prompt, row.plus.text) in true for row in shown.rows)
            assert not any((row.prompt, row.minus.text) in true for row in shown.rows)
            assert not any(row.identical for row in shown.rows)
            whole = {row.plus.text for row in shown.rows}
            moved = all(row.minus.text in whole for row in shown.rows)
            words = all(
                sorted(row.minus.text.split()) == sorted(row.plus.text.split())
                for row in shown.rows
            )
            assert moved or words
            ways.add("moved" if moved else "shuffled")
        seat = service.calibration(ids[0])
    assert ways == {"moved", "shuffled"}


@given(strategies.lists(strategies.text(max_size=30), min_size=1, max_size=6), strategies.data())
def test_gold_never_shows_two_equal_batches(texts, data):
    others = data.draw(strategies.lists(strategies.text(max_size=30), min_size=len(texts)))
    source = Comparison(
        "source", 0, 0, 0,
        tuple(
            Row(Prompt.user(str(i)), Answer(a), Answer(b))
            for i, (a, b) in enumerate(zip(texts, others, strict=False))
        ),
    )  # fmt: skip
    made = calibration.make_gold(5, source)
    if made is not None:
        assert made.rows and not any(row.identical for row in made.rows)
        assert calibration.make_gold(5, source) == made


def test_a_spoiled_answer_is_cut_where_its_model_is_so_that_the_mark_tells_nothing():
    cut = (Answer("one two three four five", "length"), Answer("six seven eight nine", "length"))
    source = Comparison("source", 0, 0, 0, tuple(Row(Prompt.user(str(i)), *cut) for i in range(2)))
    made = calibration.make_gold(5, source)
    assert made is not None
    assert {answer.end for row in made.rows for answer in (row.plus, row.minus)} == {"length"}


def test_panelists_see_one_gold_comparison_on_either_side(ledger, service):
    close_step(ledger, service, people(service, 2))
    sides = Counter()
    for i in range(64):  # simulated ones, whose ids and sides the seed draws
        seat = service.calibration(service.enroll("simulated", f"s{i}"))
        assert ledger.comparison(seat.comparison).kind == "gold"
        sides[seat.comparison, seat.plus_side] += 1
    assert len({comparison for comparison, _ in sides}) == 1
    assert len(sides) == 2 and min(sides.values()) >= 16  # four standard errors below a half


def test_a_calibration_belongs_to_the_tab_that_asked_last_and_is_held_while_no_round_is_open(
    ledger, service
):
    ids = people(service, 3)
    close_step(ledger, service, ids[:2])
    seat = service.ask("calibration", ids[2], tab="one")
    ledger.clock.now += vote_service.SEAT_TTL_US // 2
    assert service.extend(seat.id) == ledger.clock.now + vote_service.SEAT_TTL_US
    assert service.ask("calibration", ids[2], tab="two").id == seat.id
    with pytest.raises(VoteConflictError, match="tab") as caught:
        service.cast(seat.id, "A", idem=KEY(1), tab="one")
    assert caught.value.code == "stale_tab"
    service.cast(seat.id, "A", idem=KEY(1), tab="two")


def test_gold_made_from_what_the_panelist_has_not_seen_comes_first(ledger, service):
    ann, ben, cem = people(service, 3)
    ask_six(ledger, m=1)
    for i in range(8):
        seat = service.assign_to(f"s0-{i}", ann if i < 3 else ben)
        service.cast(seat.id, "A", idem=KEY(i))
    assert steps.close(ledger, 0, "rule")
    sources = []
    for _ in range(8):
        seat = service.calibration(ann)
        sources.append(ledger.comparison(seat.comparison).repeats)
        service.cast(seat.id, "A", idem=seat.id)
    assert set(sources[-3:]) == {"s0-0", "s0-1", "s0-2"}
    # Whoever has seen none of them gets the same gold in the same order.
    first = [ledger.comparison(service.calibration(cem).comparison).repeats]
    assert first[0] in sources


def test_what_is_read_is_shown_again_final_once_answered_and_rests_with_the_run(ledger, service):
    ids = people(service, 2)
    close_step(ledger, service, ids)
    first = service.calibration(ids[0], tab="one")
    again = service.calibration(ids[0], tab="two")
    assert (again.id, again.plus_side, again.prompt_order) == (
        first.id, first.plus_side, first.prompt_order
    )  # fmt: skip
    service.release(first.id)
    second = service.calibration(ids[0], tab="two")
    assert second.comparison != first.comparison
    ledger.clock.now += vote_service.SEAT_TTL_US + 1
    third = service.calibration(ids[0], tab="two")
    assert third.comparison not in (first.comparison, second.comparison)
    # The work of whoever finishes one that expired is stored all the same.
    assert not service.cast(second.id, "A", idem=KEY(1), tab="two").late
    seat = service.calibration(ids[0], tab="t")
    with pytest.raises(VoteConflictError, match="another tab"):
        service.cast(seat.id, "A", idem=KEY(0), tab="other")
    receipt = service.cast(seat.id, "A", idem=KEY(1), tab="t")
    assert not receipt.late
    assert service.cast(seat.id, "A", idem=KEY(1), tab="t").replayed
    with pytest.raises(VoteConflictError) as caught:
        service.cast(seat.id, "B", idem=KEY(2), tab="t")
    assert caught.value.code == "closed" and caught.value.stored.choice == "A"
    off = VoteService(ledger, calibrates=False)
    assert off.calibration(ids[0]) is None
    pauses.pause(ledger, "op", "lunch")
    assert service.calibration(ids[0]) is None
    pauses.unpause(ledger, "op")
    seat = service.calibration(ids[0])
    pauses.pause(ledger, "op", "lunch")
    assert service.calibration(ids[0]).id == seat.id  # what is being read may be finished


def test_nothing_outside_training_is_ever_counted(ledger, service):
    # Ids of a simulated panelist's seats derive from the seed.
    ids = [*people(service, 1), service.enroll("simulated", "robot")]
    close_step(ledger, service, ids, equal={7})
    add_aa(ledger, 2)

    def count():
        tally = counting.tally(ledger, 0, 1, 8)
        each = (tally.plus, tally.minus, tally.tie, tally.identical)
        votes = counting.StepVotes(ledger, 0)
        return votes.counted, votes.standing, votes.missing, [x.tolist() for x in each]

    before = count()
    for panelist in ids:
        assert set(answer_all(service, panelist, "B")) == {"gold", "aa"}
    assert count() == before
    rows = list(votes.export_votes(ledger, texts=True))
    others = [row for row in rows if row["kind"] != "train"]
    assert len(others) == 2 * (7 + 2) and not any(row["counted"] for row in others)
    assert {row["rubric_version"] for row in ledger.votes()} == {1}
    report = verification.verify(ledger)
    assert report.ok, str(report)


def test_shuffling_moves_words_and_loses_none():
    text = "the quick brown fox jumps over the lazy dog"
    found = {calibration.shuffle(text, seeds.derive(i, "shuffle")) for i in range(20)}
    assert len(found) > 15
    assert {tuple(sorted(each.split())) for each in found} == {tuple(sorted(text.split()))}
    assert sorted(calibration.shuffle("猫は好き", bytes(16))) == sorted("猫は好き")


def test_the_kind_answered_least_comes_next_nothing_twice_and_sides_are_balanced(ledger, service):
    ids = people(service, 2)
    close_step(ledger, service, ids)
    add_aa(ledger, 4)
    assert answer_all(service, ids[0]) == ["gold", "aa"] * 4 + ["gold"] * 4
    assert service.calibration(ids[0]) is None
    found = ledger.query(
        "SELECT c.kind, sum(a.plus_side = 'A') AS a, count(*) AS n FROM assignments a "
        "JOIN comparisons c USING (comparison) WHERE a.panelist = ? AND c.kind IN ('gold', 'aa') "
        "GROUP BY c.kind",
        (ids[0],),
    )
    assert {row["kind"]: (row["a"], row["n"]) for row in found} == {"gold": (4, 8), "aa": (2, 4)}
    assert len(answer_all(service, ids[1])) == 12  # what one has seen is new to another
