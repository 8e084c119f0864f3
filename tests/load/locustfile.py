"""``make load``: a whole panel votes at once; is every acknowledged vote in the ledger, once?

``szpo serve --no-controller`` runs in its own process, with a run made for it: sheets of eight
rows. One panelist in four judges rows on the page, all of them within one second out of ten, while
their pages poll; the others by the API, after five seconds of reading a row. Every fifth time the
connection is lost, before the server's acknowledgement or with it, and the same vote is sent
again. The last lines say what was lost or stored twice, the slow percentiles and the server's
memory; if a promise is broken, the exit code is 1.
"""

import json
import random
import re
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, between, events, task

from szpo.ledger.database import Ledger
from tests.support.browser import CALL, make, page_call
from tests.support.served import Served
from tests.support.voting import lost_and_doubled

COMPARISONS, SHEET = 64, 8
PAGE, API = "verdict on the page", "verdict by the API"
LIMITS_MS = ((PAGE, 0.95, 500), (API, 0.99, 500))
"""Within how many milliseconds which share of votes is to be acknowledged."""
MEMORY_MIB = 500
BURSTS_S, POLL_S = 10.0, 3.0
LOST = 0.2
"""Share of votes whose first acknowledgement is lost."""
TAB = "t" * 16

folder = TemporaryDirectory(prefix="szpo-load-")
run = Path(folder.name, "load.db")
codes: list[tuple[str, str]] = []
"""Names and codes that nobody has logged in with."""
acknowledged: dict[str, str] = {}
"""Seat → key of the vote that was acknowledged."""
resent: set[str] = set()
"""Keys of votes whose first acknowledgement was lost."""
server: list[Served] = []


def answer(step: int, i: int, side: str) -> str:
    return f"Twenty words or so stand here, number {i}, {side}. " * 2


@events.init.add_listener
def begin(environment: Any, **_: Any) -> None:
    people = environment.parsed_options.num_users or 1
    sets = (
        f"optimizer.N={COMPARISONS}", "optimizer.D=1", f"panel.sheet={SHEET}",
        f"optimizer.M={people}", f"run.votes={COMPARISONS * people}",
    )  # fmt: skip
    stage = make(run, text=answer, sets=sets)
    stage.advance()
    for i in range(people):
        made = stage.invitation("panelist", f"P-{i:04}")
        codes.append((made.name, made.code))
    stage.ledger.close()
    server.append(Served(str(run), "--no-controller"))
    environment.host = server[0].url


@events.quitting.add_listener
def end(environment: Any, **_: Any) -> None:
    memory = peak_memory_mib(server[0].child.pid)
    server[0].close()
    with Ledger.open(run, readonly=True) as ledger:
        lost, doubled = lost_and_doubled(ledger, acknowledged)
    folder.cleanup()
    again = sum(key in resent for key in acknowledged.values())
    print(f"{len(acknowledged)} votes acknowledged, {again} of them after a lost connection")
    print(f"votes lost: {lost}, stored twice: {doubled}")
    print(f"the server's memory: at most {memory:.0f} MiB, promised {MEMORY_MIB}")
    kept = acknowledged and not lost and not doubled and memory <= MEMORY_MIB
    for name, share, most in LIMITS_MS:
        found = environment.stats.get(name, "POST").get_response_time_percentile(share)
        print(f"{name}: p{100 * share:.0f} {found:.0f} ms, promised {most}")
        kept = kept and found <= most
    if not kept:
        environment.process_exit_code = 1


def peak_memory_mib(pid: int) -> float:
    """Most resident memory of a process; 0 where the system does not report it."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


class Panelist(FastHttpUser):
    abstract = True

    def on_start(self) -> None:
        name, code = codes.pop()
        self.votes, self.drawn = 0, random.Random(name)
        found = self.client.post("/api/session", json={"name": name, "code": code}).json()
        self.headers = {"Authorization": f"Bearer {found['token']}"}
        self.who = name

    def post(self, path: str, body: Any, name: str | None = None) -> Any:
        return self.client.post(path, json=body, headers=self.headers, name=name)

    def key(self) -> str:
        self.votes += 1
        return f"{self.who}-{self.votes:012}"

    def vote(self, path: str, body: Any, name: str, key: str) -> Any:
        """Send a vote; sometimes the connection is lost, and the same vote is sent again."""
        if self.drawn.random() < LOST:
            resent.add(key)
            headers = {**self.headers, "Content-Type": "application/json"}
            with closing(HTTPConnection(urlsplit(self.host).netloc)) as lost:
                lost.request("POST", path, json.dumps(body), headers)
                if self.drawn.random() < 0.5:
                    lost.getresponse()  # the vote is stored, and the panelist never hears of it
        return self.post(path, body, name)


class AtThePage(Panelist):
    """Judges a row in the same second as all others, while the page polls."""

    def wait_time(self) -> float:
        return BURSTS_S - time.time() % BURSTS_S + self.drawn.random()

    def on_start(self) -> None:
        super().on_start()
        self.call = page_call(self, "/panel", "do", None)
        self.sheet = self.seats_of(self.post(CALL, self.doing(do="agree")))
        self.polling = gevent.spawn(self.poll)

    def on_stop(self) -> None:
        self.polling.kill()

    def get(self, path: str) -> Any:
        return self.client.get(path, headers=self.headers)

    def doing(self, **action: Any) -> Any:
        return {**self.call, "data": {"tab": TAB, **action}}

    def seats_of(self, reply: Any) -> list[str]:
        found = re.findall(rb'data-seat=\\"([^"\\]+)', reply.content)
        assert found, "the page shows no sheet"
        return [seat.decode() for seat in dict.fromkeys(found)]

    def poll(self) -> None:
        gevent.sleep(POLL_S * self.drawn.random())
        tag = ""
        while True:
            headers = {**self.headers, "If-None-Match": tag}
            reply = self.client.get(f"/api/status?tab={TAB}", headers=headers, name="poll")
            tag = reply.headers.get("etag", tag)
            gevent.sleep(POLL_S)

    @task
    def confirm(self) -> None:
        if not self.sheet:
            self.sheet = self.seats_of(self.post(CALL, self.doing(do="go"), "next sheet"))
        seat, key = self.sheet.pop(0), self.key()
        ballot = {"assignment": seat, "choice": "A", "idem": key, "tab": TAB, "dwell_ms": 8000}
        reply = self.vote(CALL, {**self.call, "fn_name": "give", "data": ballot}, PAGE, key)
        assert reply.json()["choice"] == "A", reply.content
        acknowledged[seat] = key


class ByTheApi(Panelist):
    """Takes a sheet, and reads and judges its rows."""

    weight = 3
    wait_time = between(4.5, 5.5)

    def on_start(self) -> None:
        super().on_start()
        self.take()

    def take(self) -> None:
        rows = self.post("/api/sheet", {"tab": TAB}).json()["rows"]
        self.sheet = [row["assignment"] for row in rows if row["choice"] is None]

    @task
    def judge(self) -> None:
        if not self.sheet:
            self.take()
        seat, key = self.sheet[0], self.key()
        body = {"assignment": seat, "choice": "B", "idem": key, "tab": TAB}
        if self.vote("/api/votes", body, API, key).status_code == 200:
            acknowledged[seat] = key
            self.sheet.pop(0)
