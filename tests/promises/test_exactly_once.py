"""Votes under kills: of those acknowledged none is lost or doubled."""

import os
import signal

import pytest

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.replay import verification
from tests.support import children, voting


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
