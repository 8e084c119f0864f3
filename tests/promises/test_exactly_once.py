"""Votes under kills and lost acknowledgements: of those acknowledged none is lost or doubled."""

import os
import signal

import pytest

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting.service import VoteService
from tests.support import children, voting

CLIENTS = 50
"""Clients whose acknowledgements get lost, each with one answer on its way."""


def check(path, begin, kills):
    """What was acknowledged stands once, as it was sent; at most one more per door and kill."""
    with Ledger.open(path) as ledger:
        found = voting.stored(ledger)
        for door, acked in enumerate(begin):
            for number in range(acked):
                row = found.pop((door, number))
                assert row["choice"] == voting.CHOICES[(number + door) % 3]
        for door, number in found:  # stored, its acknowledgement lost: the last of its door
            assert number < begin[door] + (voting.GROUP if door == 0 else 1)
        assert ledger.query("PRAGMA quick_check(1)")[0]["quick_check"] == "ok"
        if kills % 50 == 0:
            report = verification.verify(ledger, deep=False)
            assert report.ok, str(report)


@pytest.mark.parametrize("kills", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_vote_is_lost_or_doubled_by_kills(tmp_path, kills):
    """Kill the process that takes votes again and again; its clients retry what was not acked."""
    path = tmp_path / "run.db"
    # Enough that nobody answers one a hundred times, which is refused.
    seats = voting.ballot(path, 300 + 3 * kills, sync=False)
    begin = [0] * voting.DOORS
    stood = {}
    waits = seeds.uniform(seeds.derive(5, "kills"), kills)
    for kill in range(1, kills + 1):
        acks, sending = children.pipe()
        child = children.start(voting.answer, path, seats, begin, sending)
        sending.close()
        # Some acknowledgements, then the kill falls wherever the process is: between any two
        # instructions of a statement, a commit or a send.
        wanted = 1 + int(8 * waits[kill - 1])
        news = []
        while len(news) < wanted:
            assert acks.poll(60), "the process that takes votes says nothing"
            news.append(acks.recv())
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == children.KILLED
        for door, number, vote in news + voting.read(acks):
            assert number == begin[door], "an acknowledgement out of turn"
            begin[door] += 1
            stood[door, number] = vote
        acks.close()
        if kill % 20 == 0 or kill == kills:
            check(path, begin, kill)
    with Ledger.open(path) as ledger:
        votes = {key: row["vote"] for key, row in voting.stored(ledger).items()}
        assert {key: votes[key] for key in stood} == stood  # and under the number that was acked
    assert sum(begin) >= kills


@pytest.mark.parametrize(
    "posts",
    [
        pytest.param(10_000, marks=pytest.mark.full),
        pytest.param(1_000_000, marks=pytest.mark.slow),
    ],
)
def test_posts_with_lost_acknowledgements_count_once(tmp_path, posts):
    """Clients whose acknowledgements get lost send the same answer again until one arrives.

    Every other round their answers share a commit, as those of a busy web process do.
    """
    path, dropped = tmp_path / "run.db", 0.1
    seats = voting.ballot(path, max(1000, posts // 20), sync=False)
    arrives = seeds.uniform(seeds.derive(6, "acknowledgements"), posts) >= dropped
    begin, unheard = [0] * CLIENTS, {}
    made = retried = 0
    with Ledger.open(path) as ledger:
        service = VoteService(ledger)
        while made < posts:
            count = min(CLIENTS, posts - made)
            sent = [voting.request_of(seats, client, begin[client]) for client in range(count)]
            together = made // CLIENTS % 2
            receipts = (
                voting.cast_many(service, sent)
                if together
                else [service.cast(**one) for one in sent]
            )
            for client, receipt in enumerate(receipts):
                before = unheard.pop(client, None)
                assert receipt.replayed == (before is not None)
                assert before in (None, receipt.vote)
                retried += receipt.replayed
                if arrives[made]:
                    begin[client] += 1
                else:
                    unheard[client] = receipt.vote
                made += 1
        found = voting.stored(ledger)
        sent_once = {(client, n) for client, count in enumerate(begin) for n in range(count)}
        assert set(found) == sent_once | {(client, begin[client]) for client in unheard}
        assert len(found) + retried == posts
        assert retried == pytest.approx(dropped * posts, rel=0.1)
        # No revision of a seat is missing or there twice either.
        assert ledger.query(
            "SELECT count(*) AS n FROM (SELECT assignment FROM votes GROUP BY assignment "
            "HAVING count(*) <> max(revision) + 1)"
        )[0]["n"] == 0  # fmt: skip
        assert ledger.query("SELECT count(*) AS n FROM votes")[0]["n"] == len(found)
