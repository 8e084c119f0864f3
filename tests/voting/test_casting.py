"""Many answers in one commit, each taken or refused for itself."""

import json

import pytest
from hypothesis import given, strategies

from szpo.errors import StorageError, SzpoError, UsageError
from szpo.ledger import witness
from szpo.replay import verification
from szpo.voting import casting
from szpo.voting.casting import Receipt, VoteConflictError, VoteRequest
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask, people
from tests.support.quadratic import new_ledger, settings_of
from tests.support.voting import cast_many

PLAN = settings_of(N=5, M=1)


def answer(assignment, choice, idem, **more):
    return {"assignment": assignment, "choice": choice, "idem": idem, **more}


def take_seats(ledger, service, count=5):
    ask(ledger, n=count, m=1)
    ids = people(service, count)
    return [service.assign(panelist, tab="t") for panelist in ids]


def test_a_group_is_one_event_and_each_answer_has_its_own_outcome(ledger, service):
    one, two, three, four, five = take_seats(ledger, service)
    events = len(list(ledger.events()))
    results = cast_many(
        service,
        [
            answer(one.id, "A", KEY(1), tab="t", dwell_ms=900, details={"seen": 2}),
            answer(two.id, "A", KEY(2), tab="other"),
            answer("f" * 32, "A", KEY(3), tab="t"),
            answer(three.id, "C", KEY(4), tab="t"),
            answer(four.id, "B", KEY(5), tab="t", panelist=four.panelist),
            answer(five.id, "B", KEY(6), tab="t", panelist=one.panelist),
            answer(one.id, "A", KEY(1), tab="t", dwell_ms=900, details={"seen": 2}),
            answer(one.id, "tie", KEY(7), tab="t"),
            answer(one.id, "B", KEY(7), tab="t"),
        ],
    )
    kinds = [type(each) for each in results]
    assert kinds == [
        Receipt, VoteConflictError, UsageError, UsageError, Receipt, UsageError, Receipt, Receipt,
        VoteConflictError,
    ]  # fmt: skip
    assert [results[i].code for i in (1, 8)] == ["stale_tab", "key_reused"]
    assert results[6].replayed and results[6].vote == results[0].vote
    assert results[7].revision == 1
    stored = [(vote["assignment"], vote["choice"]) for vote in ledger.votes()]
    assert stored == [(one.id, "A"), (four.id, "B"), (one.id, "tie")]
    assert len(list(ledger.events())) == events + 1
    assert verification.verify(ledger, deep=False).ok


def test_what_the_server_notes_is_stored_and_asked_of_no_retry(ledger, service):
    seat, *_ = take_seats(ledger, service)
    sent = answer(seat.id, "A", KEY(1), tab="t", details={"seen": 2})

    def cast(fast, **changes):
        with ledger.transaction("votes"):
            return casting.store(
                ledger, VoteRequest(**{**sent, **changes}), casting.read_seat(ledger, seat.id),
                noted={"fast": fast}, rubric_version=1, at_us=ledger.clock(),
            )  # fmt: skip

    first = cast(True)
    again = cast(False)
    assert again.replayed and again.vote == first.vote
    assert [json.loads(vote["details"]) for vote in ledger.votes()] == [{"seen": 2, "fast": True}]
    for other in ({"details": {"seen": 1}}, {"choice": "B"}):
        with pytest.raises(VoteConflictError, match="another answer"):
            cast(True, **other)
    assert verification.verify(ledger, deep=False).ok


def test_one_by_one_and_in_a_group_leave_the_same_rows(tmp_path):
    found = []
    for name in ("alone", "group"):
        with new_ledger(tmp_path / f"{name}.db", settings_of()) as ledger:
            service = VoteService(ledger, rubric_version=1)
            ask(ledger, n=3, m=1)
            ids = [service.enroll("simulated", f"p{i}") for i in range(3)]
            seats = [service.assign_to(f"c{i}", panelist) for i, panelist in enumerate(ids)]
            requests = [answer(seat.id, "A", KEY(i)) for i, seat in enumerate(seats)]
            if name == "alone":
                for each in requests:
                    service.cast(**each)
            else:
                cast_many(service, requests)
            rows = ledger.query("SELECT * FROM votes ORDER BY vote")
            found.append([{**row, "received_us": None} for row in rows])
    assert found[0] == found[1]


def test_a_group_that_nobody_may_answer_writes_nothing(ledger, service):
    take_seats(ledger, service)
    before = ledger.changes()
    (result,) = cast_many(service, [answer("f" * 32, "A", KEY(1))])
    assert isinstance(result, UsageError) and service.call_in_one_transaction([]) == []
    assert ledger.changes() == before


def test_a_disk_that_fails_stores_no_answer_of_the_group(ledger, service, monkeypatch):
    one, two, *_ = take_seats(ledger, service)
    append, calls = ledger.append, []

    def full(table, row):
        calls.append(table)
        if len(calls) == 2:
            raise StorageError("the disk is full")
        return append(table, row)

    monkeypatch.setattr(ledger, "append", full)
    requests = [answer(seat.id, "A", KEY(i), tab="t") for i, seat in enumerate((one, two))]
    with pytest.raises(StorageError, match="full"):
        cast_many(service, requests)
    assert ledger.votes() == [] and service.look().seats.votes_in == 0
    monkeypatch.undo()
    assert [type(r) for r in cast_many(service, requests)] == [Receipt, Receipt]
    assert service.look().seats.votes_in == 2 and verification.verify(ledger, deep=False).ok


def test_an_answer_sent_again_is_in_the_witness_before_it_is_acknowledged(ledger, service):
    """Who stored it may have died between the commit and the witness."""
    seat, *_ = take_seats(ledger, service)
    file = ledger.path.with_name(ledger.path.name + witness.SUFFIX)
    before, request = file.read_bytes(), answer(seat.id, "A", KEY(1), tab="t")
    cast_many(service, [request])
    file.write_bytes(before)
    assert cast_many(service, [request])[0].replayed
    assert witness.read_head(ledger.path).event == ledger.last_event()["event"]


ODD = strategies.one_of(
    strategies.none(), strategies.integers(), strategies.floats(), strategies.text(max_size=20),
    strategies.binary(max_size=5), strategies.lists(strategies.floats(), max_size=2),
    strategies.dictionaries(strategies.text(max_size=3), strategies.floats(), max_size=2),
    strategies.sampled_from(["A", "skip", "\ud800", "a\0b", 2**70, {"x": {1}}, {1: "y"}]),
)  # fmt: skip


@pytest.mark.full
@given(
    odd=strategies.lists(
        strategies.fixed_dictionaries(
            {"choice": ODD, "idem": ODD},
            optional={
                name: ODD
                for name in ("assignment", "skip_reason", "dwell_ms", "details", "tab", "panelist")
            },
        ),
        max_size=4,
    ),
    place=strategies.integers(0, 4),
)
def test_whatever_stands_beside_it_a_good_answer_is_stored(tmp_path_factory, odd, place):
    with new_ledger(tmp_path_factory.mktemp("odd") / "run.db", PLAN) as ledger:
        service = VoteService(ledger)
        good, other, *_ = take_seats(ledger, service)
        requests = [
            {"assignment": other.id, "tab": "t", "idem": KEY(i), **given}
            for i, given in enumerate(odd)
        ]
        requests.insert(place, answer(good.id, "A", KEY("good"), tab="t"))
        results = cast_many(service, requests)
        assert len(results) == len(requests)
        (stored,) = [r for r in results if isinstance(r, Receipt) and r.assignment == good.id]
        assert stored.choice == "A" and not stored.replayed
        assert all(isinstance(each, Receipt | SzpoError) for each in results)
        assert verification.verify(ledger, deep=False).ok


def test_a_savepoint_undoes_its_own_part_and_needs_a_transaction(ledger):
    with pytest.raises(UsageError, match="open a transaction"), ledger.savepoint():
        pass
    row = {"vote": 1, "action": "exclude", "reason": "x", "actor": "op", "at_us": 1}
    with ledger.transaction("op"):
        ledger.record_event("before", "op", {})
        for kind in ("first", "second"):
            try:
                with ledger.savepoint():
                    ledger.record_event(kind, "op", {})
                    if kind == "first":
                        ledger.append("amendments", row)  # of no vote: refused
            except SzpoError:
                pass
    kinds = [event["kind"] for event in ledger.events()]
    assert kinds[-2:] == ["before", "second"] and "first" not in kinds
    assert verification.verify(ledger, deep=False).ok
