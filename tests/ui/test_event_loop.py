"""Every route, for everybody, while somebody else holds the file: no SQL on the event loop, and
nobody gets through who may not."""

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.routing import Mount

from szpo.ledger import connection
from szpo_ui import app, credentials, login
from tests.support.browser import (
    CALL,
    OPERATE,
    Stage,
    awaited,
    page_call,
    panel_call,
    served_run,
)  # fmt: skip
from tests.support.waiting import until

PLAIN = sqlite3.connect
NOTED: list[tuple[bool, str]] = []
"""(an event loop runs in this thread, the statement) of everything asked of any ledger."""

POLLS = 60
"""Polls of each kind at once; Starlette has 40 threads."""
OPEN = ("/login", "/join", "/redeem", "/api/session", "/healthz", "/favicon.ico")
"""What needs no session."""
NEEDED = {"", "config", "theme.css", "favicon.ico", "manifest.json"} | {
    f"gradio_api/{name}" for name in ("app_id", "component_server", "startup-events", "theme.css")
}
"""Routes of Gradio that a page needs, besides its files."""
WALKERS = ("nobody", "panelist", "operator")
"""Who asks for every route; the others have a session that is refused."""


class Watched(sqlite3.Connection):
    """A connection that notes where it is used."""

    def execute(self, *given: Any) -> sqlite3.Cursor:
        NOTED.append((_in_a_loop(), str(given[0])))
        return super().execute(*given)

    def cursor(self, *given: Any) -> Any:
        NOTED.append((_in_a_loop(), "cursor"))
        return super().cursor(*given)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Both pages over connections that are watched; what happens before serving is forgotten."""
    watched = partial(PLAIN, factory=Watched)
    monkeypatch.setattr(connection.sqlite3, "connect", watched)
    with served_run(tmp_path / "run.db") as made:
        made.advance()
        yield made


def routes(found: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route of an application, Gradio's mounts and their rest included."""
    for route in found:
        inner = getattr(route, "app", None)
        while not hasattr(inner, "routes") and hasattr(inner, "app"):
            inner = inner.app
        if hasattr(route, "original_router"):
            yield from routes(route.original_router.routes, before)
        elif isinstance(route, Mount) and hasattr(inner, "routes"):
            yield from routes(inner.routes, before + route.path)
        elif isinstance(route, Mount):
            yield "GET", f"{before}{route.path}/login.css"
        else:
            path = re.sub(r"\{[^}]*\}", "x", before + route.path)
            yield from ((method, path) for method in sorted(route.methods))


def bodies(stage: Stage) -> dict[str, Any]:
    """Requests that get past their checks, for what takes one."""
    person = stage.panelist("P-01")
    seat = stage.site.service.assign(person, tab="t1")
    assert seat is not None
    with stage.client("panelist", "P-01") as client:
        call = panel_call(client, "do", do="look")
    with stage.client("operator", "Olga") as client:
        run = page_call(client, "/operate", "do", {"do": "look"})
    code = {"name": "P-01", "code": stage.invitation("panelist", "P-01").code}
    return {
        "/api/votes": {"assignment": seat.id, "choice": "A", "idem": "k" * 16, "tab": "t1"},
        "/api/assignment": {"tab": "t1"},
        "/api/extend": {"assignment": seat.id},
        "/api/release": {"assignment": seat.id},
        "/login": {"name": "P-01", "code": "0000-0000-0000-0000"},
        "/api/session": code,
        "/redeem": {"token": "x" * 43},
        CALL: call,
        f"{CALL}/": call,
        OPERATE: run,
        f"{OPERATE}/": run,
        "/operate-visualize-api/scene": {"deltas": [[1.0, 0.5]]},
    }


@pytest.fixture
def people(stage):
    """Cookies of everybody who may ask: nobody, somebody, somebody revoked, an operator."""
    found: dict[str, dict[str, str]] = {
        "nobody": {},
        "unknown": {login.cookie_name(stage.site): "not-a-session"},
        "panelist": stage.cookie("panelist", "P-01"),
        "operator": stage.cookie("operator", "Olga"),
        "revoked": stage.cookie("panelist", "P-02"),
        "another": stage.cookie("panelist", "P-03"),
        # Who logs out does so with a session of their own, else all that follows is a stranger's.
        "leaving panelist": stage.cookie("panelist", "P-01"),
        "leaving operator": stage.cookie("operator", "Olga"),
    }
    credentials.revoke(stage.ledger, "P-02", "test")
    return found


async def ask(
    client: httpx.AsyncClient, session: dict[str, str], method: str, path: str, body: Any = None
) -> int:
    """The status of an answer; of a stream of events, before it ends."""
    cookies = "; ".join(f"{name}={value}" for name, value in session.items())
    asked = client.build_request(method, path, headers={"Cookie": cookies}, json=body)
    answer = await client.send(asked, stream=True)
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        await answer.aread()
    await answer.aclose()
    return answer.status_code


def statuses_while_locked(
    stage: Stage,
    session: dict[str, str],
    requests: list[tuple[dict[str, str], str, str, Any]],
    meanwhile: Callable[[httpx.AsyncClient], Awaitable[None]],
) -> list[int]:
    """What requests are answered that arrive while somebody else holds the file.

    A writer of the server, who takes a comparison for ``session``, waits for the file too. It
    is released after ``meanwhile``, which asks by a client of its own.
    """
    lock = PLAIN(stage.ledger.path, isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN IMMEDIATE")
    NOTED.clear()

    async def walk() -> list[int]:
        few, limits = asyncio.Semaphore(150), httpx.Limits(max_connections=None)

        async def one_of_few(*request: Any) -> int:
            async with few:
                return await ask(client, *request)

        async with (
            httpx.AsyncClient(base_url=stage.url, timeout=120, limits=limits) as client,
            httpx.AsyncClient(base_url=stage.url, timeout=30) as beside,
        ):
            seat = client, session, "POST", "/api/assignment", {"tab": "t1"}
            waiting = [asyncio.create_task(ask(*seat))]
            await asyncio.to_thread(until, lambda: (False, "BEGIN IMMEDIATE") in NOTED)
            waiting += [asyncio.create_task(one_of_few(*request)) for request in requests]
            try:
                await meanwhile(beside)
                assert not waiting[0].done(), "the lock was given up before the server answered"
            finally:
                lock.execute("ROLLBACK")
                answers = await asyncio.gather(*waiting)
            return answers

    found: list[int] = awaited(walk())
    lock.close()
    return found


@pytest.mark.full
def test_pages_come_while_more_polls_wait_for_the_file_than_there_are_threads(stage, people):
    """One session's polls took all threads while a commit waited, and with them the login."""
    session = people["panelist"]
    with httpx.Client(base_url=stage.url, cookies=session) as page:
        glance = panel_call(page, "glance")

    def polls_under_way() -> bool:
        return sum("secret_sha256 = ?" in statement for _, statement in NOTED) >= 2 * POLLS

    async def pages(beside: httpx.AsyncClient) -> None:
        await asyncio.to_thread(until, polls_under_way)
        for path, who in (("/login", {}), ("/static/login.css", {}), ("/panel/", session)):
            assert await ask(beside, who, "GET", path) == 200

    polls = [(session, "GET", "/api/status", None), (session, "POST", CALL, glance)] * POLLS
    assert set(statuses_while_locked(stage, session, polls, pages)) == {200}


def may(who: str, path: str) -> bool:
    """Whether a request of somebody for a path is theirs to make."""
    if path in OPEN or path.startswith("/static/"):
        return True
    panel, operates = path.startswith(("/panel", "/api/")), path.startswith("/operate")
    return {"nobody": False, "panelist": not operates, "operator": not panel}[who]


@pytest.mark.full
def test_no_request_runs_sql_on_the_event_loop_or_gets_through_without_leave(stage, people):
    known, every = bodies(stage), sorted(set(routes(app.create(stage.site).routes)))
    assert len(every) > 60 and ("POST", "/api/votes") in every
    asked = [(who, *route) for who in WALKERS for route in every]
    asked += [(who, "GET", "/api/status") for who in people if who not in WALKERS]
    requests = []
    for who, method, path in asked:
        leaves = path == "/logout" and who != "nobody"
        body = known.get(path, {}) if method in ("POST", "PUT", "DELETE") else None
        requests.append((people[f"leaving {who}" if leaves else who], method, path, body))

    async def health(beside: httpx.AsyncClient) -> None:
        for _ in range(3):
            assert (await beside.get("/healthz")).json() == {"ok": True}

    _, *answers = statuses_while_locked(stage, people["another"], requests, health)
    assert {200, 204, 303, 401, 403, 404} <= set(answers)
    assert len(NOTED) > 100
    assert [statement for on_loop, statement in NOTED if on_loop] == []
    reached = set()
    for (who, method, path), status in zip(asked, answers, strict=True):
        if who == "panelist" and path.startswith("/panel/") and status != 404:
            reached.add(path.removeprefix("/panel/").rstrip("/"))
        if who in WALKERS and not may(who, path):  # a page leads elsewhere, the rest is refused
            led = status == 303 and method in ("GET", "HEAD")
            assert led or status == 401, (who, method, path, status)
    assert reached == NEEDED, "what Gradio offers beyond its page is not there"
