"""szpo invite: links and codes that work, lists, revocation, erasure."""

import json
import re
import resource
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from szpo import files
from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo_ui import credentials
from szpo_ui.http_server import announce, read_address
from tests.support import children
from tests.support.browser import make
from tests.support.served import refused

CONTACT = ("--name", "P-01", "--contact", "Ada Example")


@pytest.fixture
def run(tmp_path):
    with make(tmp_path / "run.db").ledger as ledger:
        return ledger.path


def test_links_begin_with_the_address_of_a_server_that_lives(tmp_path):
    """Two servers overlap, as in a restart: while one lives its address is known."""
    path = tmp_path / "run.db"
    with ExitStack() as first:
        first.enter_context(announce(path, "http://first:1"))
        with announce(path, "http://second:2"):
            assert read_address(path) == "http://first:1"
            first.close()
            assert read_address(path) == "http://second:2"
            with announce(path, "http://third:3"):
                assert read_address(path) == "http://third:3"
    assert read_address(path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_no_server(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with announce(tmp_path / "run.db", "http://first:1"):
            assert read_address(tmp_path / "run.db") is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def told(run, capsys):
    """told("--list", …) → what ``szpo invite`` of the run prints, where it succeeds."""

    def told(*words: str) -> str:
        capsys.readouterr()
        assert call(["invite", str(run), *words]) == 0
        return capsys.readouterr().out

    return told


def test_the_printed_link_and_code_let_their_people_in(run, told):
    message = told("--count", "2", "--url", "https://panel.example/")
    links = re.findall(r"https://panel\.example/login#t=(\S+)", message)
    codes = re.findall(r"code: (\S+)", message)
    assert len(links) == len(codes) == 2 and "send each person their link" in message
    assert "open on this machine alone" in told("--count", "1")
    with Ledger.open(run) as ledger:
        _, first = credentials.redeem(ledger, links[0])
        _, second = credentials.login(ledger, "P-02", codes[1])
    assert (first.name, first.role, second.name) == ("P-01", "panelist", "P-02")


def test_json_names_everything_once(run, told):
    (made,) = json.loads(told("--role", "operator", "--name", "Olga", "--days", "2", "--json"))
    assert (made["name"], made["role"]) == ("Olga", "operator")
    with Ledger.open(run) as ledger:
        left = made["expires_us"] - ledger.clock()
        assert 1.9 < left / 86_400e6 <= 2.0
        assert credentials.login(ledger, "Olga", made["code"])[1].role == "operator"


def test_list_revoke_and_erase(run, told):
    code = json.loads(told(*CONTACT, "--json"))[0]["code"]
    (row,) = json.loads(told("--list", "--json"))
    assert (row["name"], row["state"], row["contact"]) == ("P-01", "invited", "Ada Example")
    assert "2 credentials revoked" in told("--revoke", "P-01")
    with Ledger.open(run) as ledger, pytest.raises(credentials.AccessError, match="revoked"):
        credentials.login(ledger, "P-01", code)
    left = files.new_draft(run.with_name("copy.db"))
    left.write_bytes(run.read_bytes())
    assert f"remove {left} unless something is being written" in told("--erase", "P-01")
    assert told("--list").strip() == "nobody is invited yet"
    assert b"Ada Example" not in run.read_bytes()
    with Ledger.open(run) as ledger:
        assert ledger.query("SELECT pseudonym FROM panelists")[0]["pseudonym"] == "P-01"


def read(run: Path, reported: Any, wanted: Any) -> None:
    """In a child: see the run as of now until told to stop."""
    with Ledger.open(run, readonly=True) as ledger, ledger.snapshot():
        ledger.query("SELECT * FROM contacts")
        reported.send(None)
        wanted.recv()


def read_until_it_is_erased(run: Path, reported: Any) -> None:
    """In a child: see the run as of now until the event of an erasure stands in it."""
    with (
        Ledger.open(run, readonly=True) as looking,
        Ledger.open(run, readonly=True) as ledger,
        ledger.snapshot(),
    ):
        ledger.query("SELECT * FROM contacts")
        reported.send(None)
        while not list(looking.events("erase")):
            pass


def holding(run: Path, name: bytes) -> list[str]:
    """The run's files that hold these bytes."""
    return [file.name for file in sorted(run.parent.iterdir()) if name in file.read_bytes()]


def test_an_erasure_under_a_reader_fails_and_is_finished_by_asking_again(run, told, capsys):
    told(*CONTACT)
    with Ledger.open(run) as other:  # as the web process has it: the log outlives each command
        other.record_event("note", "test", {})
        (reported, telling), (wanted, wanting) = children.pipe(), children.pipe()
        child = children.start(read, run, telling, wanted)
        reported.recv()
        complaint = refused(capsys, 4, "invite", str(run), "--erase", "P-01", "--wait", "0")
        assert "a program is reading it; wait for it or stop it, then repeat this" in complaint
        assert holding(run, b"Ada Example")
        wanting.send(None)
        child.join()
        assert "copies made before still hold the name" in told("--erase", "P-01")
        assert holding(run, b"Ada Example") == []
        assert len(list(other.events("erase"))) == 1
    told("--erase", "P-01")  # and again is no error
    assert holding(run, b"Ada Example") == []


def test_an_erasure_waits_for_a_reader_that_ends(run, told):
    told(*CONTACT)
    with Ledger.open(run) as other:
        other.record_event("note", "test", {})
        reported, telling = children.pipe()
        child = children.start(read_until_it_is_erased, run, telling)
        reported.recv()
        told("--erase", "P-01", "--wait", "60")
        assert holding(run, b"Ada Example") == []
        child.join()
        assert child.exitcode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--count", "0"), "--count 0: give 1 to 1,000"),
        (("--count", "2", "--name", "P-01"), "--name and --contact are one person's"),
        (("--list", "--revoke", "P-01"), "one thing each"),
        (("--erase", "P-01", "--wait", "nan"), "--wait nan: give 0 to 86,400 seconds"),
        (("--revoke", "nobody"), "nobody was invited as 'nobody'"),
        (("--url", "panel.example"), "--url panel.example: give"),
        (("--erase", "nobody"), "nobody was invited as 'nobody'"),
        (("--erase", "nobody", "--with-votes"), "nobody is called 'nobody'"),
        (("--with-votes",), "--with-votes goes with --erase NAME"),
        (("--erase", "nobody", "--with-weights"), "--with-weights goes with --with-votes"),
        (("--open", "0"), "--open 0: give 1 to 100,000"),
        (("--open", "5", "--votes", "0"), "--votes 0: give 1 to 100,000"),
        (("--open", "5", "--days", "0"), "invite: days is 0; "),
        (("--open", "5", "--name", "Ann"), "--open makes a link for people whom nobody knows yet"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, capsys, words, message):
    assert message in refused(capsys, 2, "invite", str(run), *words)
