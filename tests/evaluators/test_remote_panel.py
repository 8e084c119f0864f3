"""A panel in a process of its own: what it reads of a step that many vote on."""

from szpo.evaluators.remote_panel import OpenComparisons
from szpo.ledger.database import Ledger
from szpo.voting.casting import VoteRequest
from szpo.voting.service import VoteService
from tests.support.open_round import open_run


def test_a_poll_reads_a_steps_comparisons_once_and_then_new_votes_only(tmp_path, monkeypatch):
    with open_run(tmp_path, n=8, m=2, identical={(0, 3)}) as ledger:
        service, step = VoteService(ledger), OpenComparisons(ledger)
        ids = [service.enroll("person", f"p{i}") for i in range(2)]
        plain, read = Ledger.stream, []

        def stream(self, sql, parameters=()):
            for row in plain(self, sql, parameters):
                if "votes v" in sql or "answers" in sql:
                    read.append(row)
                yield row

        monkeypatch.setattr(Ledger, "stream", stream)
        assert [lack for _, lack in step.lacking()] == [2] * 7
        assert len(read) == 8 * 2  # the answers of every comparison, two rows each
        for number in range(14):
            seat = service.assign(ids[number % 2])
            service.cast(VoteRequest(seat.id, "A", idem=f"key-{number:016}"))
            read.clear()
            lacks = [lack for _, lack in step.lacking()]
            assert sum(lacks) == 13 - number and lacks == sorted(lacks)  # those begun first
            assert len(read) == 1, "the new vote"
            read.clear()
            assert [lack for _, lack in step.lacking()] == lacks and not read
