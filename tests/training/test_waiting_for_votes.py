"""What waiting for votes costs: a poll looks first, reads only what is new, and locks to close."""

import pytest

from szpo.evaluators.panel_evaluator import LedgerEvaluator
from szpo.replay import verification
from szpo.voting import counting, steps
from szpo.voting.casting import VoteRequest
from szpo.voting.service import VoteService
from tests.support.quadratic import go, start


def voted(service, people, each):
    """``each`` of the open step's comparisons are answered by each of them."""
    with service.ledger.transaction("votes"):
        for name in people:
            who = service.enroll("person", name)
            for _ in range(each):
                seat = service.assign(who)
                service.cast(VoteRequest(seat.id, "A", idem=seat.id))


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
            seen.append(steps.close(ledger, 0, steps.Closing("rule"), votes=reader))
            seen.append(reader.missing)
            service.amend(last, "reinstate", "it was none", "ann")

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=wait)
    assert seen == [0, False, 1]
    ledger.close()


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_reader_that_follows_a_step_says_what_one_says_that_begins_anew(tmp_path, m):
    settings, ledger, policy = start(tmp_path, N=5, D=1, M=m)
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
            service.cast(VoteRequest(seat.id, choice, idem=f"first {seat.id}".replace(" ", "-")))
            script.append(choice)
            same()
            if turn % 3 == 1:  # an earlier answer is changed, a skip among them
                service.cast(
                    VoteRequest(held[turn // 3], "B", idem=f"again-{turn}-{held[turn // 3]}")
                )
                same()
            if turn % 5 == 2:
                vote = ledger.query("SELECT max(vote) AS vote FROM votes")[0]["vote"]
                service.amend(vote, "exclude", "a test", "ann")
                assert vote not in same().ids()[0]
                if turn % 2:
                    service.amend(vote, "reinstate", "a test", "ann")
                    assert vote in same().ids()[0]
        with pytest.raises(ZeroDivisionError), ledger.transaction("votes"):
            service.cast(VoteRequest(held[0], "tie", idem=f"undone-{held[0]}"))
            within = same().standing
            raise ZeroDivisionError
        assert same().standing != within
        steps.close(ledger, 0, steps.Closing("operator", reason="enough", actor="ann"))
        before = same().counted
        service.amend(min(same().ids()[1]), "exclude", "too late", "ann")
        assert same().counted == before

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=wait)
    assert "skip" in script and ledger.step(0)["state"] == "applied"
    assert verification.verify(ledger).ok
    ledger.close()
