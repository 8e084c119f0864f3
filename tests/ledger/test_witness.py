"""The witness beside a ledger's file: a log that was cut or damaged is noticed."""

import itertools
import json
import os
import shutil

import pytest

from szpo.cli.app import call
from szpo.errors import IntegrityError, StorageError
from szpo.failpoints import arm
from szpo.ledger import connection, witness
from szpo.ledger.database import Ledger
from szpo.replay import backup, verification
from szpo.voting.service import VoteService
from tests.support import children, voting

VOTES = 150


def vote(path, seats, numbers):
    with Ledger.open(path) as ledger:
        service = VoteService(ledger)
        for number in numbers:
            voting.post(service, seats, 0, number)


@pytest.fixture(scope="module")
def voted_run(tmp_path_factory):
    """A folder with a run's files as a process left them that was killed after 150 answers."""
    path = tmp_path_factory.mktemp("whole") / "run.db"
    folder = tmp_path_factory.mktemp("voted")
    seats = voting.ballot(path, 3 * VOTES, sync=False)
    with Ledger.open(path) as ledger:
        service = VoteService(ledger)
        receipts = [voting.post(service, seats, 0, number) for number in range(VOTES)]
        assert len({receipt.vote for receipt in receipts}) == VOTES
        for suffix in ("", "-head", "-wal"):
            shutil.copy(f"{path}{suffix}", folder)
    return folder


@pytest.fixture
def run(voted_run, tmp_path):
    shutil.copytree(voted_run, tmp_path / "runs")
    return tmp_path / "runs" / "run.db"


def log_of(run):
    return run.with_name("run.db-wal")


def cut_log(run, place):
    content = log_of(run).read_bytes()
    log_of(run).write_bytes(content[: place * len(content) // 20])


def flip(run, place):
    content = bytearray(log_of(run).read_bytes())
    at = (2 * place + 1) * len(content) // 40
    content[at] ^= 1 << place % 8
    log_of(run).write_bytes(content)


def short(run):
    cut_log(run, 10)
    with Ledger.open(run, readonly=True) as ledger:
        return ledger.query("SELECT max(event) AS event FROM events")[0]["event"]


def one_line(capsys):
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


@pytest.mark.full
@pytest.mark.parametrize("place", range(0, 20, 3))
@pytest.mark.parametrize("damage", [cut_log, flip])
def test_a_damaged_log_is_noticed_wherever_it_is_damaged(run, damage, place):
    noted = witness.read_head(run).event
    damage(run, place)
    with Ledger.open(run, readonly=True) as ledger:
        assert len(ledger.votes()) < VOTES  # SQLite itself says nothing
        last = ledger.query("SELECT max(event) AS event FROM events")[0]["event"]
        report = verification.verify(ledger)
    assert not report.ok and report.failure.table == "events"
    many = "events are" if noted - last > 1 else "event is"
    message = f"{noted - last} acknowledged {many} missing at its end"
    assert message in str(report)
    before = [file.read_bytes() for file in (run, log_of(run))]
    with pytest.raises(IntegrityError, match=message):
        Ledger.open(run)
    assert [file.read_bytes() for file in (run, log_of(run))] == before  # evidence stays


def test_the_whole_record_is_sound(run, capsys):
    with Ledger.open(run) as ledger:
        assert ledger.check_end() == ("", "")
        assert len(ledger.votes()) == VOTES
        assert verification.verify(ledger).ok
    assert call(["verify", str(run)]) == 0
    assert "cannot check whether" not in capsys.readouterr().out


@pytest.mark.full
def test_every_command_tells_it_in_one_line(run, tmp_path, capsys):
    missing = witness.read_head(run).event - short(run)
    lacks = f"{missing} acknowledged events are missing at its end"
    assert call(["verify", str(run)]) == 5
    message = one_line(capsys)
    assert lacks in message and f"sqlite3 {run} .recover | sqlite3 NEW.db" in message
    assert call(["verify", str(run), "--json"]) == 5
    assert lacks in json.loads(capsys.readouterr().out)["verdict"]
    for words in (["show"], ["export", "--votes", str(tmp_path / "votes.csv")]):
        assert call([words[0], str(run), *words[1:]]) == 0
        assert lacks in one_line(capsys)
    for words in (["invite"], ["backup"]):  # one would go on, the other would seem to be whole
        assert call([words[0], str(run), *words[1:]]) == 5
        assert lacks in one_line(capsys)
    assert not list((run.parent / "backups").iterdir())
    assert call(["doctor", str(run)]) != 0
    assert lacks in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "there is none"), (b"", "it is damaged"), (b"x" * 256, "it is damaged")],
)
def test_a_run_without_its_witness_is_no_error(run, capsys, content, why):
    if content is None:
        connection.beside(run, witness.SUFFIX).unlink()
    else:
        connection.beside(run, witness.SUFFIX).write_bytes(content)
    assert call(["verify", str(run)]) == 0
    message = capsys.readouterr().out
    assert message.count("cannot check whether") == 1 and why in " ".join(message.split())
    with Ledger.open(run) as ledger:
        ledger.record_event("note", "test", {})
        assert verification.verify(ledger).note == ""
    assert connection.beside(run, witness.SUFFIX).stat().st_mode & 0o777 == 0o600


def test_the_witness_of_another_run_says_nothing(run, tmp_path):
    witness.forget(run)
    witness.attest(run, "another", {"event": 10**6, "row_sha256": "0" * 64})
    with Ledger.open(run) as ledger:
        assert "another run" in ledger.check_end()[1]
        ledger.record_event("note", "test", {})
    assert witness.read_head(run).run == witness.mark_of("run-1")


def test_a_new_run_of_an_old_name_starts_with_nothing_noted(run, tmp_path):
    for suffix in ("", "-wal"):
        run.with_name(run.name + suffix).unlink()
    voting.ballot(run, 3, sync=False)  # the same name, and in this test the same id
    with Ledger.open(run) as ledger:
        assert verification.verify(ledger).ok


@pytest.mark.parametrize("make", ["a new run", "a backup"])
def test_no_file_takes_the_name_of_one_whose_log_was_left(run, tmp_path, make):
    """SQLite would take the old log for the new file's: damage, or other votes in a backup."""
    remaining = tmp_path / "kept.db"
    backup.backup(run, remaining)
    log = log_of(run).read_bytes()
    assert log
    run.unlink()
    with pytest.raises(StorageError, match="db-wal belongs to a run whose file is gone; put"):
        if make == "a new run":
            voting.ballot(run, 3, sync=False)
        else:
            backup.backup(remaining, run)
    assert not run.exists() and log_of(run).read_bytes() == log, "nothing was lost by refusing"
    log_of(run).unlink()
    backup.backup(remaining, run)
    with Ledger.open(run) as ledger:
        assert verification.verify(ledger).ok


def test_a_run_behind_a_link_has_one_log_and_one_witness(run, tmp_path):
    """SQLite's own files lie beside the file that the link names; szpo looks there too."""
    link = tmp_path / "elsewhere" / "other.db"
    link.parent.mkdir()
    link.symlink_to(run)
    with Ledger.open(link) as ledger:
        ledger.record_event("note", "test", {})
        last = list(ledger.events())[-1]["event"]
        assert connection.log_bytes(link) == connection.log_bytes(run) > 0
        assert witness.read_head(run).event == witness.read_head(link).event == last
        ledger.empty_log(wait_s=5.0)
    assert [each.name for each in link.parent.iterdir()] == ["other.db"]


def test_a_record_that_was_written_anew_is_found_while_its_witness_stands(run, capsys):
    with Ledger.open(run) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        noted = witness.read_head(run)
    witness.forget(run)
    witness.attest(run, "run-1", {"event": noted.event, "row_sha256": "0" * 64})
    assert call(["verify", str(run)]) == 5
    assert f"event {noted.event} is not the one that was acknowledged" in one_line(capsys)


@pytest.mark.parametrize("kind", ["a pipe", "a link", "a link to nothing", "a folder"])
def test_what_is_no_file_is_neither_waited_for_nor_written_to(run, tmp_path, kind, caplog):
    victim, place = tmp_path / "victim.txt", connection.beside(run, witness.SUFFIX)
    place.unlink()
    match kind:
        case "a pipe":
            os.mkfifo(place)  # to open it would wait for somebody at the other end
        case "a folder":
            place.mkdir()
        case _:
            if kind == "a link":
                victim.write_text("mine")
            place.symlink_to(victim)
    with Ledger.open(run) as ledger:
        ledger.record_event("note", "test", {})
        assert "cannot check whether the newest events" in ledger.check_end()[1]
    assert "run.db-head cannot be written (" in caplog.text
    assert [victim.read_text()] == ["mine"] if kind == "a link" else not victim.exists()


def test_a_head_never_goes_back(tmp_path):
    path = tmp_path / "run.db"
    for event in (5, 3, 6, 6, 2):
        witness.attest(path, "r", {"event": event, "row_sha256": f"{event:064}"})
    head = witness.read_head(path)
    assert (head.event, head.sha256) == (6, f"{6:064}")


def note(path, times):
    with Ledger.open(path) as ledger:
        for number in range(times):
            ledger.record_event("note", "test", {"number": number})


def test_processes_that_write_at_once_leave_a_head_of_theirs(run):
    doors = [children.start(note, run, 60) for _ in range(3)]
    for door in doors:
        door.join()
    assert [door.exitcode for door in doors] == [0] * 3
    with Ledger.open(run, readonly=True) as ledger:
        events = {event["event"]: event["row_sha256"] for event in ledger.events()}
    head = witness.read_head(run)
    assert max(events) - 3 < head.event and head.sha256 == events[head.event]


def vote_and_die(path, seats, at):
    with arm(f"cp15:kill@{at}"):
        vote(path, seats, range(20))


def test_a_kill_between_commit_and_witness_harms_neither_the_run_nor_a_copy(tmp_path):
    path, copy = tmp_path / "run.db", tmp_path / "copy" / "run.db"
    copy.parent.mkdir()
    seats = voting.ballot(path, 60, sync=False)
    with Ledger.open(path) as web:  # another process goes on
        assert children.run(vote_and_die, path, seats, 8) == children.KILLED
        for suffix in ("", "-wal", "-head"):
            shutil.copy(f"{path}{suffix}", copy.parent)
        last = list(web.events())[-1]["event"]
        assert witness.read_head(path).event == last - 1  # longer than its witness
        assert verification.verify(web).ok and len(web.votes()) == 8
        # The client had no answer and asks again: now it is acknowledged, so now it is attested.
        voting.post(VoteService(web), seats, 0, 7)
        assert len(web.votes()) == 8
        assert witness.read_head(path).event == last
    with Ledger.open(copy) as ledger:
        assert len(ledger.votes()) == 8 and verification.verify(ledger).ok
        assert witness.read_head(copy).event == ledger.last_event()["event"] == last


@pytest.mark.parametrize("order", list(itertools.permutations(("", "-wal", "-head"))))
def test_a_plain_copy_made_while_somebody_votes_is_whole_or_says_what_it_lacks(tmp_path, order):
    """File, log and witness copied one after the other, a vote between each two of them."""
    path, copy = tmp_path / "run.db", tmp_path / "copy" / "run.db"
    copy.parent.mkdir()
    seats = voting.ballot(path, 60, sync=False)
    vote(path, seats, range(5))
    with Ledger.open(path) as ledger:
        service = VoteService(ledger)
        for number, suffix in enumerate(order, 5):
            shutil.copy(f"{path}{suffix}", copy.parent)
            voting.post(service, seats, 0, number)
        log, head = order.index("-wal"), order.index("-head")
        with Ledger.open(copy, readonly=True) as found:
            lacking = found.check_end()[0]
            votes = len(found.votes())
            assert votes == 5 + log  # each vote is a commit, and none is in the file yet
            assert ("missing at its end" in lacking) == (head > log)
            assert verification.verify(found).ok == (head < log)
