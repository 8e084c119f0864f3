"""The whole web process killed and started again while people vote through it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo_ui.web import credentials
from tests.support.browser import make

ROOT = Path(__file__).parents[2]
PEOPLE = 4
PAUSE = threading.Event()
"""Never set: between two looks at another process."""


class Gone(Exception):  # noqa: N818
    """The server is not there: it was killed, or is not up yet."""


class Voter:
    """A client as the API's documentation asks for: it sends again, with the same key."""

    def __init__(self, number: int, code: str):
        self.name, self.code, self.token = f"P-{number:02}", code, ""
        self.open: dict[str, Any] | None = None
        self.acked: dict[str, str] = {}
        self.sent = 0

    def post(self, url: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except (OSError, ValueError, HTTPException) as error:
            raise Gone from error

    def vote(self, url: str, times: int) -> None:
        """Answer so often, or until the server is gone; what was not acknowledged stays open."""
        try:
            if not self.token:
                code, answer = self.post(
                    url, "/api/session", {"name": self.name, "code": self.code}
                )
                assert code == 200, answer
                self.token = answer["token"]
            for _ in range(times):
                if self.open is None:
                    code, seat = self.post(url, "/api/assignment", {"tab": "t"})
                    assert code == 200, seat
                    self.open = {
                        "assignment": seat["assignment"], "choice": "AB"[self.sent % 2],
                        "idem": f"{self.name}:{self.sent:012}", "tab": "t",
                    }  # fmt: skip
                    self.sent += 1
                code, answer = self.post(url, "/api/votes", self.open)
                if code == 429:
                    return
                assert code == 200, answer
                assert answer["choice"] == self.open["choice"]
                self.acked[self.open["idem"]] = answer["choice"]
                self.open = None
        except Gone:
            return


def started(path: Path, port: int) -> subprocess.Popen[bytes]:
    """``szpo serve`` without a controller, once it answers."""
    child = subprocess.Popen(
        [sys.executable, "-m", "szpo", "serve", str(path), "--no-controller", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while True:
        assert child.poll() is None, "szpo serve ended by itself"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30):
                return child
        except OSError:
            PAUSE.wait(0.05)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_vote_is_lost_or_doubled_when_the_web_process_is_killed(tmp_path):
    kills, path = 30, tmp_path / "run.db"
    stage = make(
        path, sets=["optimizer.comparisons=400", "run.votes=4000", "optimizer.rows=1"], seed=9
    )
    stage.advance()
    codes = [credentials.invite(stage.ledger, "panelist", f"P-{i:02}").code for i in range(PEOPLE)]
    stage.ledger.close()
    people = [Voter(i, code) for i, code in enumerate(codes)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    draws = seeds.uniform(seeds.derive(8, "web"), kills)
    for kill in range(kills):
        child = started(path, port)
        before = sum(len(person.acked) for person in people)
        with ThreadPoolExecutor(PEOPLE) as pool:
            voting = [pool.submit(person.vote, url, 10) for person in people]
            wanted = before + 1 + int(20 * draws[kill])
            while sum(len(p.acked) for p in people) < wanted and not all(f.done() for f in voting):
                PAUSE.wait(0.005)
            os.kill(child.pid, signal.SIGKILL)
            for each in voting:
                each.result()
        child.wait()
        with Ledger.open(path) as ledger:
            rows = {row["idem"]: row for row in ledger.query("SELECT * FROM votes")}
            assert len(rows) == ledger.query("SELECT count(*) AS n FROM votes")[0]["n"]
            acked = {key: message for person in people for key, message in person.acked.items()}
            assert {key: rows[key]["choice"] for key in acked} == acked
            unsent = {person.open["idem"] for person in people if person.open}
            assert set(rows) <= set(acked) | unsent
            assert len({row["assignment"] for row in rows.values()}) == len(rows)
    with Ledger.open(path) as ledger:
        report = verification.verify(ledger)
        assert report.ok, str(report)
    assert sum(len(person.acked) for person in people) >= kills
