"""The panel's list of checks: what no other test holds is held here."""

import contextlib
import logging
import os
import subprocess
import sys

import pytest

from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.replay import backup, verification
from szpo.voting import withdrawals
from szpo_ui import credentials
from szpo_ui.credentials import AccessError, Identity
from tests.support import yard_run
from tests.support.crashing import Crash, Faulty, wrap


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.mark.spine
def test_a_runs_files_and_folder_are_its_owners(tmp_path):
    path = yard_run.finished(tmp_path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    with Ledger.open(path) as ledger:
        ledger.record_event("note", "test", {})
        beside = [p for p in path.parent.iterdir() if p.name.startswith(f"{path.name}-")]
        assert len(beside) == 3 and {mode(p) for p in beside} == {0o600}
    backup.backup(path, tmp_path / "copy.db")
    assert mode(tmp_path / "copy.db") == 0o600
    with Ledger.open(path, readonly=True) as ledger:
        assert set(ledger.spec["versions"]) >= {"python", "sqlite", "numpy"}


@pytest.mark.spine
def test_no_secret_stands_in_a_file_a_log_or_an_output(tmp_path, capfd, caplog):
    """Link, code, session and a person's address: in no output; the secrets in no file at all."""
    path, message = yard_run.finished(tmp_path), []
    with caplog.at_level(logging.DEBUG), Ledger.open(path) as ledger:
        given = credentials.invite(ledger, "panelist", "P-01", contact="Ann Secretive")
        session, _ = credentials.redeem(ledger, given.token)
        second, _ = credentials.login(ledger, "P-01", given.code)
        secrets = [given.token, given.code, given.code.replace("-", ""), session, second]
        for act in (
            lambda: credentials.redeem(ledger, given.token),
            lambda: credentials.login(ledger, "P-02", given.code),
            lambda: credentials.login(ledger, "P-01", f"{given.code}x"),
        ):
            with pytest.raises(AccessError) as caught:
                act()
            message.append(str(caught.value))
        for_operators = repr(credentials.list_people(ledger))  # names, but no secret either
        content = b"".join(p.read_bytes() for p in path.parent.iterdir() if p.is_file())
    capfd.readouterr()
    for line in (
        ["show", "yard"], ["show", "yard", "--json"], ["show", "--all"],
        ["verify", "yard", "--steps"],
        ["doctor", "yard"], ["report", "yard"], ["backup", "yard"],
        ["export", "yard", "--votes", str(tmp_path / "votes.jsonl")],
    ):  # fmt: skip
        assert call([*line, "--folder", str(path.parent)]) in (0, 1), line
    out, err = capfd.readouterr()
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".html", ".jsonl")]
    assert len(written) >= 2
    message += [out, err, caplog.text, *(p.read_text(encoding="utf-8") for p in written)]
    for secret in secrets:
        assert len(secret) >= 16
        assert not [text for text in (*message, for_operators) if secret in text], "it was told"
        assert secret.encode() not in content, "a secret is stored, not its hash"
    assert not [text for text in message if "Secretive" in text], "a person's name was told"
    assert b"Secretive" in content  # it stands in the file, and only there


@pytest.mark.spine
def test_the_record_tells_of_an_erasure_only_with_it(tmp_path, monkeypatch):
    """A process that dies at any write of an erasure leaves all of it undone, or none."""
    path = yard_run.finished(tmp_path)
    with Ledger.open(path) as ledger:
        credentials.invite(ledger, "panelist", "Ann", contact="Secretive Person")
        reported, at = [], 0
        while not reported:
            at += 1
            with contextlib.suppress(Crash), wrap(Ledger.open(path), Faulty(at)) as dying:
                credentials.erase(dying, "Ann", "op")
            reported = list(ledger.events("erase"))
            assert bool(reported) == (not ledger.query("SELECT 1 FROM contacts"))
            assert bool(reported) == (not ledger.query("SELECT 1 FROM credentials"))
        assert at > 5
        ledger.empty_log(0)  # as the next process does; the bytes go with it
    for file in path.parent.iterdir():
        assert b"Secretive" not in file.read_bytes()


def test_an_erasure_with_votes_that_is_killed_is_whole_and_done_again_finishes(tmp_path):
    """Killed once something is committed: nobody's votes are withdrawn and their name left."""
    path = yard_run.finished(tmp_path)
    with Ledger.open(path) as ledger:
        (who, name), *_ = (
            (row["panelist"], row["pseudonym"]) for row in ledger.query("SELECT * FROM panelists")
        )
        with ledger.transaction("test"):
            ledger.execute("INSERT INTO contacts VALUES (?, 'Secretive Person')", (who,))
            now = ledger.clock()
            owner = Identity("panelist", name, who)
            credentials.add(ledger, "code", owner, "x" * 16, now, now + 1)
        ledger.empty_log(0)
    line = ["invite", str(path), "--erase", name, "--with-votes"]
    killed = subprocess.run(
        [sys.executable, "-m", "szpo", *line], env={**os.environ, "SZPO_FAILPOINT": "cp15:kill"}
    )
    assert killed.returncode == -9
    with Ledger.open(path) as ledger:
        assert len(withdrawals.withdrawals(ledger)) == len(list(ledger.events("erase"))) == 1
        assert not ledger.query("SELECT 1 FROM contacts")
        assert not ledger.query("SELECT 1 FROM credentials")
    assert call(line) == 0
    with Ledger.open(path, readonly=True) as ledger:
        assert verification.verify(ledger).ok
    for file in path.parent.iterdir():
        assert b"Secretive" not in file.read_bytes()
