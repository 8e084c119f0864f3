"""The whole web process killed and started again while people judge rows of a sheet through it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo_ui import credentials
from tests.support.browser import make
from tests.support.served import Served

PEOPLE = 4
PAUSE = threading.Event()
"""Never set: between two looks at what was acknowledged."""


class Voter:
    """A client as the API's documentation asks for: it sends again, with the same key."""

    def __init__(self, number: int, code: str):
        self.name, self.code, self.token = f"P-{number:02}", code, ""
        self.open: dict[str, Any] | None = None
        self.acked: dict[str, str] = {}
        self.sent = 0

    def post(self, url: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = httpx.post(url + path, json=body, headers=headers, timeout=30)
        return answer.status_code, answer.json() if answer.content else None

    def vote(self, url: str, times: int) -> None:
        """Answer so often, or until the server is gone; what was not acknowledged stays open."""
        try:
            if not self.token:
                own = {"name": self.name, "code": self.code}
                code, answer = self.post(url, "/api/session", own)
                assert code == 200, answer
                self.token = answer["token"]
            for _ in range(times):
                if self.open is None:
                    code, sheet = self.post(url, "/api/sheet", {"tab": "t"})
                    assert code == 200, sheet
                    seat = next(row for row in sheet["rows"] if row["choice"] is None)
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
        except (httpx.TransportError, ValueError):
            return


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_vote_is_lost_or_doubled_when_the_web_process_is_killed(tmp_path):
    kills, path = 30, tmp_path / "run.db"
    stage = make(path, sets=["optimizer.N=400", "run.votes=4000", "optimizer.D=1"], seed=9)
    stage.advance()
    codes = [credentials.invite(stage.ledger, "panelist", f"P-{i:02}").code for i in range(PEOPLE)]
    stage.ledger.close()
    people = [Voter(i, code) for i, code in enumerate(codes)]
    draws = seeds.uniform(seeds.derive(8, "web"), kills)
    for kill in range(kills):
        served = Served(str(path), "--no-controller")
        before = sum(len(person.acked) for person in people)
        with ThreadPoolExecutor(PEOPLE) as pool:
            voting = [pool.submit(person.vote, served.url, 10) for person in people]
            wanted = before + 1 + int(20 * draws[kill])
            while sum(len(p.acked) for p in people) < wanted and not all(f.done() for f in voting):
                PAUSE.wait(0.005)
            served.child.kill()
            for each in voting:
                each.result()
        served.child.wait()
        served.close()
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
