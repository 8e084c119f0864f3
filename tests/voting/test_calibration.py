"""Practice, gold, repeats and A/A: what they show, to whom, and that they are counted nowhere."""

import pytest
from hypothesis import given, strategies

from szpo import seeds
from szpo.errors import UsageError
from szpo.replay import verification
from szpo.reports import votes
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import calibration, counting, pauses, steps
from szpo.voting import service as vote_service
from szpo.voting.casting import VoteConflictError, VoteRequest
from szpo.voting.counting import verdict
from szpo.voting.service import VoteService
from tests.support.calibrating import ask, rows, vote_all
from tests.support.quadratic import new_ledger, settings_of

KEY = "0123456789abcdef-{}".format


@pytest.fixture
def ledger(tmp_path):
    with new_ledger(tmp_path / "run.db", settings_of(N=8, M=2, D=6)) as found:
        yield found


@pytest.fixture
def service(ledger):
    return VoteService(ledger, rubric_version=1)


def people(service, count=2):
    return [service.enroll("person", f"person {i}") for i in range(count)]


def close_step(ledger, service, ids, **shape):
    """A step on which everybody has voted, closed."""
    ask(ledger, 0, **shape)
    for panelist in ids:
        vote_all(service, panelist)
    assert steps.close(ledger, 0, steps.Closing("rule"))


def answer_all(service, panelist, choice="A"):
    """Answer everything there is to calibrate with; the kinds, in order."""
    kinds = []
    while (seat := service.calibration(panelist)) is not None:
        kinds.append(service.ledger.comparison(seat.comparison).kind)
        service.cast(VoteRequest(seat.id, choice, idem=seat.id))
        assert len(kinds) < 100
    return kinds


def add_aa(ledger, count):
    with ledger.transaction("controller"):
        for n in range(count):
            ledger.append_comparison(Comparison(f"aa-{n}", -1, 0, n, rows(90 + n), kind="aa"))


# ---- what is shown ----


def test_there_is_nothing_to_calibrate_with_before_a_step_is_closed(ledger, service):
    (ann,) = people(service, 1)
    assert service.calibration(ann) is None
    ask(ledger, 0, m=1)
    vote_all(service, ann)
    assert service.calibration(ann) is None
    with pytest.raises(UsageError, match="not enrolled"):
        service.calibration("nobody")


def test_gold_is_a_true_batch_beside_the_same_texts_spoiled(ledger, service):
    ids = people(service)
    close_step(ledger, service, ids)
    ways = set()
    seat = service.calibration(ids[0])
    while seat is not None:
        shown = ledger.comparison(seat.comparison)
        service.cast(VoteRequest(seat.id, "tie", idem=seat.id))
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


def test_a_repeat_is_an_own_earlier_comparison_with_the_sides_swapped(ledger, service):
    ids = people(service, 3)
    close_step(ledger, service, ids[:2])
    before = {own.seat.comparison: own.seat.plus_side for own in service.own(ids[0], 0)}
    oldest = [own.seat.comparison for own in service.own(ids[0], 0)][: -calibration.BACK]
    repeated = []
    seat = service.calibration(ids[0])
    while seat is not None:
        shown = ledger.comparison(seat.comparison)
        service.cast(VoteRequest(seat.id, "A", idem=seat.id))
        if shown.kind == "repeat":
            assert shown.rows == ledger.comparison(shown.repeats).rows
            assert seat.plus_side != before[shown.repeats]
            repeated.append(shown.repeats)
        seat = service.calibration(ids[0])
    # Each of those far enough back once; the last few are still in mind.
    assert sorted(repeated) == sorted(oldest) and len(oldest) == 8 - calibration.BACK
    assert "repeat" not in answer_all(service, ids[2])  # who never voted has nothing to repeat


def test_a_skipped_comparison_is_not_repeated(ledger, service):
    ids = people(service, 3)
    ask(ledger, 0)
    vote_all(service, ids[0], "skip")
    for panelist in ids[1:]:
        vote_all(service, panelist)
    assert steps.close(ledger, 0, steps.Closing("rule"))
    assert set(answer_all(service, ids[0])) == {"gold"}


def test_the_kind_answered_least_comes_next_and_nothing_twice(ledger, service):
    ids = people(service)
    close_step(ledger, service, ids)
    add_aa(ledger, 3)
    kinds = answer_all(service, ids[0])
    assert kinds[:9] == ["gold", "repeat", "aa"] * 3
    assert sorted(kinds) == sorted(["gold"] * 8 + ["repeat"] * 4 + ["aa"] * 3)
    assert service.calibration(ids[0]) is None
    assert len(answer_all(service, ids[1])) == 15  # what one has seen is new to another


def test_gold_made_from_what_the_panelist_has_not_seen_comes_first(ledger, service):
    ann, ben, cem = people(service, 3)
    ask(ledger, 0, m=1)
    for i in range(8):
        seat = service.assign_to(f"s0-{i}", ann if i < 3 else ben)
        service.cast(VoteRequest(seat.id, "A", idem=KEY(i)))
    assert steps.close(ledger, 0, steps.Closing("rule"))
    sources = []
    for _ in range(8):
        seat = service.calibration(ann)
        sources.append(ledger.comparison(seat.comparison).repeats)
        service.cast(VoteRequest(seat.id, "A", idem=seat.id))
    assert set(sources[-3:]) == {"s0-0", "s0-1", "s0-2"}
    # Whoever has seen none of them gets the same gold in the same order.
    first = [ledger.comparison(service.calibration(cem).comparison).repeats]
    assert first[0] in sources


def test_sides_of_gold_and_aa_are_balanced_for_each_panelist(ledger, service):
    ids = people(service)
    close_step(ledger, service, ids)
    add_aa(ledger, 4)
    answer_all(service, ids[0])
    found = ledger.query(
        "SELECT c.kind, sum(a.plus_side = 'A') AS a, count(*) AS n FROM assignments a "
        "JOIN comparisons c USING (comparison) WHERE a.panelist = ? AND c.kind IN ('gold', 'aa') "
        "GROUP BY c.kind",
        (ids[0],),
    )
    assert {row["kind"]: (row["a"], row["n"]) for row in found} == {"gold": (4, 8), "aa": (2, 4)}


# ---- one that is half read ----


def test_what_is_being_read_is_shown_again_and_what_was_given_up_is_not(ledger, service):
    ids = people(service)
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
    assert not service.cast(VoteRequest(second.id, "A", idem=KEY(1), tab="two")).late


# ---- what becomes of the answers ----


def test_a_run_without_calibration_or_at_rest_shows_none(ledger, service):
    ids = people(service)
    close_step(ledger, service, ids)
    off = VoteService(ledger, calibrates=False)
    assert off.calibration(ids[0]) is None
    pauses.pause(ledger, "op", "lunch")
    assert service.calibration(ids[0]) is None
    pauses.unpause(ledger, "op")
    seat = service.calibration(ids[0])
    pauses.pause(ledger, "op", "lunch")
    assert service.calibration(ids[0]).id == seat.id  # what is being read may be finished


def test_a_calibration_answer_is_final_at_once(service, ledger):
    ids = people(service)
    close_step(ledger, service, ids)
    seat = service.calibration(ids[0], tab="t")
    with pytest.raises(VoteConflictError, match="another tab"):
        service.cast(VoteRequest(seat.id, "A", idem=KEY(0), tab="other"))
    receipt = service.cast(VoteRequest(seat.id, "A", idem=KEY(1), tab="t"))
    assert not receipt.late
    assert service.cast(VoteRequest(seat.id, "A", idem=KEY(1), tab="t")).replayed
    with pytest.raises(VoteConflictError) as caught:
        service.cast(VoteRequest(seat.id, "B", idem=KEY(2), tab="t"))
    assert caught.value.code == "closed" and caught.value.stored.choice == "A"


def test_nothing_outside_training_is_ever_counted(ledger, service):
    ids = people(service)
    close_step(ledger, service, ids, equal={7})
    add_aa(ledger, 2)
    tally = counting.tally(ledger, 0, 1, 8)
    before = (
        service.counted(0), counting.standing(ledger, 0), counting.missing(ledger, 0),
        tally.plus.tolist(), tally.minus.tolist(), tally.tie.tolist(), tally.identical.tolist(),
    )  # fmt: skip
    for panelist in ids:
        assert len(set(answer_all(service, panelist, "B"))) == 3
        service.cast(VoteRequest(service.practice(panelist).id, "B", idem=KEY(panelist)))
    tally = counting.tally(ledger, 0, 1, 8)
    after = (
        service.counted(0), counting.standing(ledger, 0), counting.missing(ledger, 0),
        tally.plus.tolist(), tally.minus.tolist(), tally.tie.tolist(), tally.identical.tolist(),
    )  # fmt: skip
    assert before == after
    rows = list(votes.export_votes(ledger, texts=True))
    others = [row for row in rows if row["kind"] != "train"]
    assert len(others) > 20 and not any(row["counted"] for row in others)
    assert {row["rubric_version"] for row in ledger.votes()} == {1}


def test_a_ledger_with_every_kind_verifies(ledger, service):
    simulated = service.enroll("simulated", "robot")
    ids = [*people(service, 1), simulated]
    close_step(ledger, service, ids)
    add_aa(ledger, 2)
    for panelist in ids:  # ids of seats derive from the seed for simulated panelists
        service.cast(VoteRequest(service.practice(panelist).id, "A", idem=KEY(panelist)))
        answer_all(service, panelist)
    report = verification.verify(ledger)
    assert report.ok, str(report)


# ---- practice ----


def test_practice_is_one_comparison_that_may_be_answered_again_and_again(ledger, service):
    ids = people(service)
    seat = service.practice(ids[0], tab="t")
    shown = ledger.comparison(seat.comparison)
    assert shown == calibration.practice_comparison() and shown.expected == "plus"
    for i, choice in enumerate(("A", "B", "tie")):
        receipt = service.cast(VoteRequest(seat.id, choice, idem=KEY(i), tab="t"))
        assert receipt.revision == i and not receipt.late
    assert service.practice(ids[0], tab="u").id == seat.id
    right = "A" if seat.plus_side == "A" else "B"
    assert verdict(right, seat.plus_side) == shown.expected
    assert service.practice(ids[1]).comparison == seat.comparison
    assert len(ledger.query("SELECT * FROM comparisons WHERE kind = 'practice'")) == 1


def test_shuffling_moves_words_and_loses_none():
    text = "the quick brown fox jumps over the lazy dog"
    found = {calibration.shuffle(text, seeds.derive(i, "shuffle")) for i in range(20)}
    assert len(found) > 15
    assert {tuple(sorted(each.split())) for each in found} == {tuple(sorted(text.split()))}
    assert sorted(calibration.shuffle("猫は好き", bytes(16))) == sorted("猫は好き")
