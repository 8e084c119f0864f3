"""Sheets: single rows that a panelist sees at once, each with a verdict of its own."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szpo.voting import counting
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import SEAT_TTL_US, VoteService
from tests.support.asking import open_run
from tests.support.quadratic import ValueJudge


@pytest.fixture
def rows(tmp_path):
    """An open step of 24 rows, and its service with a clock that tests set."""
    with open_run(tmp_path, n=24, m=1, rows=1) as ledger:
        now = [ledger.clock()]
        service = VoteService(ledger, lambda: now[0])
        service.enroll("person", "ada"), service.enroll("person", "bea")
        yield ledger, service, now


def ids(service):
    return [row["panelist"] for row in service.panelists()]


def answer(service, seat, choice="A", **more):
    return service.cast(seat.id, choice, f"key-{seat.id}-{choice}"[:64], **more)


def test_a_sheet_has_plus_on_a_in_half_of_its_rows_and_is_served_again(rows):
    ledger, service, _ = rows
    ada, _ = ids(service)
    sheet = service.sheet(ada, 8)
    assert len({seat.comparison for seat in sheet}) == 8
    assert sum(seat.plus_side == "A" for seat in sheet) == 4
    names = {row["sheet"] for row in ledger.query("SELECT sheet FROM assignments")}
    assert len(names) == 1 and None not in names
    for seat in sheet[:5]:
        answer(service, seat)
    assert service.sheet(ada, 8) == sheet  # the answered rows can still be changed
    answer(service, sheet[0], "B")
    for seat in sheet[5:]:
        answer(service, seat)
    again = service.sheet(ada, 8)
    assert not {seat.comparison for seat in again} & {seat.comparison for seat in sheet}
    assert [v.choice for v in service.counted(0)].count("B") == 1


def test_the_side_of_one_row_does_not_tell_that_of_the_next(tmp_path):
    """Of four A and four B in drawn order, 4/7 of the neighbours differ."""
    differ = []
    with open_run(tmp_path, n=200, m=1, rows=1) as ledger:
        service = VoteService(ledger)
        for number in range(25):
            sides = [s.plus_side for s in service.sheet(service.enroll("person", f"p{number}"), 8)]
            differ += [a != b for a, b in pairwise(sides)]
    assert len(differ) == 175 and 0.4 < sum(differ) / 175 < 0.75


def test_who_leaves_after_five_of_eight_has_given_five_and_another_gets_the_three(rows):
    _, service, now = rows
    ada, bea = ids(service)
    sheet = service.sheet(ada, 8)
    for seat in sheet[:5]:
        answer(service, seat)
    taken = {seat.comparison for seat in service.sheet(bea, 24)}
    assert len(taken) == 16 and not taken & {seat.comparison for seat in sheet}
    now[0] += SEAT_TTL_US + 1
    left = {seat.comparison for seat in sheet[5:]}
    assert left <= {seat.comparison for seat in service.sheet(bea, 24)} | {
        seat.comparison for seat in service.sheet(ada, 8)
    }
    assert len(service.counted(0)) == 5


def test_a_row_that_nobody_could_judge_is_not_asked_again_and_counts_nothing(rows):
    ledger, service, _ = rows
    ada, bea = ids(service)
    for seat in (sheet := service.sheet(ada, 24)):
        answer(service, seat, "skip" if seat is sheet[0] else "tie")
    assert counting.missing(ledger, 0) == 0 and len(service.counted(0)) == 23
    assert service.sheet(bea, 24) == ()
    answer(service, sheet[0], "B")  # she changes her mind
    assert counting.missing(ledger, 0) == 0 and len(service.counted(0)) == 24


def test_a_harmful_row_is_shown_to_nobody_again_and_no_vote_on_it_counts(tmp_path):
    with open_run(tmp_path, n=3, m=3, rows=1) as ledger:
        service = VoteService(ledger)
        ada, bea, cay = (service.enroll("person", name) for name in ("ada", "bea", "cay"))
        first, second, third = service.sheet(ada, 8)
        answer(service, first)
        (same,) = (s for s in service.sheet(bea, 8) if s.comparison == first.comparison)
        answer(service, same, "skip", skip_reason=counting.HARMFUL)
        answer(service, second, "skip", skip_reason=counting.HARMFUL)
        assert service.counted(0) == ()
        assert counting.missing(ledger, 0) == 3  # those of the third row
        assert [seat.comparison for seat in service.sheet(cay, 8)] == [third.comparison]
        answer(service, same, "A")  # a slip of the finger
        assert len(service.counted(0)) == 2 and counting.missing(ledger, 0) == 4


@settings(max_examples=15)
@given(
    size=st.integers(1, 9),
    acts=st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 8), st.sampled_from(["A", "B", "tie", "skip"])
        ),
        max_size=40,
    ),
)
def test_whatever_is_answered_no_row_counts_twice_and_a_reader_agrees(
    tmp_path_factory, size, acts
):
    with open_run(tmp_path_factory.mktemp("rows"), n=12, m=1, rows=1) as ledger:
        service = VoteService(ledger)
        people = [service.enroll("person", name) for name in ("ada", "bea", "cay")]
        for who, at, choice in acts:
            sheet = service.sheet(people[who], size)
            if sheet:
                seat = sheet[at % len(sheet)]
                held = ledger.query(
                    "SELECT count(*) AS n FROM votes WHERE assignment = ?", (seat.id,)
                )[0]["n"]
                service.cast(seat.id, choice, f"{seat.id}-{held:03d}"[:64])
        counted = service.counted(0)
        assert len({vote.comparison for vote in counted}) == len(counted)
        fresh = counting.StepVotes(ledger, 0)
        assert fresh.counted == counted
        skipped = {v.comparison for v in fresh.standing if v.verdict == "skip"}
        assert fresh.missing == 12 - len(counted) - len(skipped)


def test_a_simulated_panelist_who_skips_a_row_ends_it(tmp_path):
    with open_run(tmp_path, n=6, m=1, rows=1) as ledger:
        service = VoteService(ledger)
        PanelEvaluator(service, [ValueJudge(skips=0.5)] * 2).submit(ledger.comparisons(0))
        votes = counting.StepVotes(ledger, 0)
        assert votes.missing == 0 and 0 < len(votes.counted) < 6
