"""The door: origins, sizes, hosts, headers, and the few of Gradio's routes that stay open."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.datastructures import Headers

from szpo_ui import app, credentials, login, request_rules, security
from szpo_ui.request_rules import OwnSiteOnly, RefusedError
from tests.support.browser import (
    CALL,
    OPERATE,
    awaited,
    panel_call,
    serve,
    served_run,
)  # fmt: skip

pytest_plugins = ["tests.support.browser"]

UI = Path(__file__).parents[2] / "ui" / "szpo_ui"
PANEL = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One stage with both pages for the whole module: nothing here changes the run."""
    with served_run(tmp_path_factory.mktemp("run") / "run.db") as made:
        made.advance()
        yield made


@pytest.fixture
def panelist(whole):
    with whole.client("panelist", "P-01") as client:
        yield client


@pytest.fixture
def operator(whole):
    with whole.client("operator", "Olga") as client:
        yield client


def test_no_path_leads_out_of_a_folder_and_nothing_is_described(panelist):
    for path in (
        "/panel/static/../../app.py", "/panel/assets/..%2f..%2fapp.py", "/static/../app.py",
        "/static/%2e%2e/app.py", "/panel/docs", "/docs", "/redoc", "/openapi.json",
        "/panel/monitoring/summary", "/panel/gradio_api/info",
    ):  # fmt: skip
        assert panelist.get(path).status_code == 404, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_changes_nothing(whole, panelist, headers):
    before = len(whole.ledger.query("SELECT 1 FROM assignments"))
    for path in ("/api/assignment", "/api/votes", "/logout", "/login", CALL):
        answer = panelist.post(path, json={"tab": "t"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "origin")
    assert len(whole.ledger.query("SELECT 1 FROM assignments")) == before
    assert (
        "access-control-allow-origin" not in panelist.get("/panel/config", headers=headers).headers
    )


def test_the_own_origin_passes_and_a_foreign_host_name_is_not_answered(whole, panelist):
    headers = {"Origin": whole.url, "Sec-Fetch-Site": "same-origin"}
    assert panelist.post("/api/assignment", json={"tab": "t"}, headers=headers).status_code == 200
    assert panelist.get("/api/status", headers={"Host": "evil.example"}).status_code == 400
    probe = panelist.get("/healthz", headers={"Host": "10.1.2.3:7860"})
    assert (probe.status_code, probe.json()) == (200, {"ok": True})  # by a container's address


async def whole_body() -> Any:
    return {"type": "http.request", "body": b"{}", "more_body": False}


def knock(
    door: Any, cookies: dict[str, str], path: str, method: str = "POST", receive: Any = whole_body
) -> list[int]:
    """A request at a door that has no server: the statuses that are sent by it or behind it."""
    cookie = "; ".join(f"{k}={v}" for k, v in cookies.items())
    headers = [(b"cookie", cookie.encode()), (b"content-length", b"2")]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    awaited(door(scope, receive, send))
    return [each["status"] for each in sent if each["type"] == "http.response.start"]


@pytest.mark.parametrize("role", ["panelist", "operator"])
def test_who_is_revoked_while_a_body_uploads_is_not_let_through(role, staged):
    """The session was good when the request began; it ends with the last byte of the body."""
    stage = staged()
    cookies = stage.cookie(role, "Ada")
    path = {"panelist": "/api/votes", "operator": OPERATE}[role]
    reached: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        reached.append(await receive())

    async def revoked() -> Any:
        credentials.revoke(stage.ledger, "Ada", "Olga")
        return await whole_body()

    sessions = login.Sessions(stage.site)
    door = OwnSiteOnly(security.AccessControl(inner, stage.site, sessions))
    assert knock(door, cookies, path) == [] and len(reached) == 1
    assert knock(door, cookies, path, receive=revoked) == [403] and len(reached) == 1
    sessions.close()


def test_reads_have_a_limit_of_their_own_also_those_that_find_nothing(staged, monkeypatch):
    monkeypatch.setattr(security, "READS_PER_SECOND", 1e-9)
    monkeypatch.setattr(security, "READS_AT_ONCE", 3)
    stage = staged()
    sessions = login.Sessions(stage.site)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})

    door = OwnSiteOnly(security.AccessControl(inner, stage.site, sessions))
    found = []
    for name, method in (*[("Ada", "GET")] * 4, ("Ada", "POST"), ("Ben", "GET")):
        cookies = stage.cookie("panelist", name)
        found += knock(door, cookies, "/panel/gradio_api/app_id", method)
    assert found == [404, 404, 404, 429, 404, 404]
    sessions.close()


def test_every_answer_carries_the_headers(panelist, operator):
    for client, path in (
        (panelist, "/panel/"), (operator, "/operate/"), (panelist, "/api/status"),
        (panelist, "/login"), (panelist, "/nothing"), (panelist, "/static/login.css"),
    ):  # fmt: skip
        found = client.get(path).headers
        assert found["x-content-type-options"] == "nosniff"
        assert found["referrer-policy"] == "no-referrer"
        assert found["x-frame-options"] == "DENY"
        policy = found["content-security-policy"]
        for part in ("connect-src 'self'", "img-src 'self' data:", "frame-ancestors 'none'",
                     "object-src 'none'", "default-src 'none'"):  # fmt: skip
            assert part in policy
        gradio = path.startswith(("/panel", "/operate"))
        assert f"base-uri '{'self' if gradio else 'none'}'" in policy
        assert ("'unsafe-eval'" in policy) == ("'unsafe-inline'" in policy) == gradio
    assert panelist.get("/panel/").headers["cache-control"] == "no-store"


def test_a_failure_shows_a_number_and_no_trace(whole, panelist, monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(whole.site.service), "assign", broken)
    answer = panelist.post("/api/assignment", json={"tab": "t"})
    assert (answer.status_code, answer.json()["error"]) == (500, "failed")
    assert re.search(r"number [0-9a-f]{8}$", answer.json()["message"])
    assert "secret" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize(
    "call",
    [
        '{"fn_index": 0, "data": [""], "session_hash": "x"}',
        '{"component_id": 1, "fn_name": "nothing", "data": "", "session_hash": "x"}',
        '{"component_id": 1, "fn_name": true, "data": "", "session_hash": "x"}',
        '{"fn_name": "do"',
        "[]",
        '{"fn_name": "do", "session_hash": "x", "data": ' + "[" * 9_000 + "]" * 9_000 + "}",
    ],
)
def test_a_call_that_the_page_does_not_have_is_refused_without_a_traceback(
    panelist, operator, capfd, call
):
    capfd.readouterr()
    for client, path in ((operator, OPERATE), (panelist, CALL)):
        answer = client.post(path, content=call, headers=PANEL)
        assert (answer.status_code, answer.json()["error"]) == (422, "call")
    for wrong in ("postprocess", "", None, 5, ["do"]):
        body = {**panel_call(panelist, "do"), "fn_name": wrong}
        assert panelist.post(CALL, json=body).json()["error"] == "call"
    assert "Traceback" not in "".join(capfd.readouterr())
    assert panelist.get("/api/status").status_code == 200


HOSTILE = (
    '"{}"'.format("y" * 60_000), "[" * 800 + "]" * 800, "-1e999", "1" * 4_000, '"\\ud800"', "null",
    '{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}', '"\\u0000"',
    '{"__type__": "update", "value": 1}', '{"do": "look", "tab": 5}',
    '{"do": "vote", "tab": "tab-0001", "seat": "x"}',
)  # fmt: skip
"""Values of a call that the panel's page does make."""
ODD = (
    ("GET", "/panel/gradio_api/app_id", ""), ("GET", "/api/status?x=%00", ""),
    ("GET", "/panel/static/../../x", ""), ("GET", "/panel/assets/nothing.js", ""),
    ("POST", "/api/votes", "[" * 5_000), ("POST", "/api/votes", '{"assignment": 1e400}'),
    ("POST", "/api/release", '{"assignment": "\\ud800"}'), ("POST", "/panel/gone", "9" * 5_000),
)  # fmt: skip


@pytest.mark.slow
def test_a_hostile_panelist_leaves_memory_and_log_as_they_are(whole, panelist, caplog):
    """A sixtieth of the hour of 72,000 requests that may grow them by 64 MB and 5 MB."""
    call, process = panel_call(panelist, "do"), psutil.Process()
    for i in range(1_600):
        whole.clock.forward(1)  # never too many at once
        if i == 400:  # what is made once was made
            before = process.memory_info().rss
        if i % 2:
            method, path, body = ODD[i // 2 % len(ODD)]
        else:
            method, path, name = "POST", CALL, ("do", "glance", "hold", "gone")[i // 2 % 4]
            body = f'{{"component_id": {call["component_id"]}, "fn_name": "{name}", '
            body += f'"session_hash": "s{i}", "data": {HOSTILE[i // 2 % len(HOSTILE)]}}}'
        answer = panelist.request(method, path, content=body, headers=PANEL)
        assert answer.status_code < 500, (path, body[:80])
    assert process.memory_info().rss - before < 64e6 / 60
    assert len(caplog.text) < 5e6 / 45


def test_the_pages_config_names_no_secret(panelist, whole):
    config = panelist.get("/panel/config").text
    page = panelist.get("/panel/").text
    for text in (config, page):
        assert str(whole.ledger.path) not in text
        assert not re.search(r"\bminus\b|plus_side|root_seed|theta|kl_radius", text)


def test_behind_a_proxy_the_public_address_is_the_own_one():
    url = "https://panel.example"
    for origin, host, own in (
        (url, "127.0.0.1:7860", True),  # a proxy that does not pass the name on
        (url, "panel.example", True),
        ("http://panel.example", "panel.example", False),
        ("https://panel.example.evil.example", "panel.example", False),
        ("https://evil.example", "127.0.0.1:7860", False),
        ("", "panel.example", False),
    ):
        headers = Headers({"origin": origin, "host": host})
        assert request_rules.own_origin(headers, url=url, secure=True) is own, (origin, host)
    assert not request_rules.own_origin(Headers({"origin": "", "host": ""}), secure=False)


def sources(*kinds: str) -> list[Path]:
    return [path for path in sorted(UI.rglob("*")) if path.suffix in kinds]


def test_sources_keep_the_rules_that_gradio_makes_easy_to_break_and_ask_no_other_host():
    for path in sources(".py"):
        if "bench" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        code = re.sub(r'"""(?:.|\n)*?"""', "", text)
        assert "gr.State" not in code, path
        assert "share=True" not in code, path
        assert "html_template" not in code, path  # the default is data, never a template
        assert "BrowserState" not in code and "gr.load(" not in code, path
    for path in sources(".html", ".js", ".css", ".svg"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path
        assert not re.search(r"\beval\(|new Function|document\.write|insertAdjacentHTML", text), (
            path
        )


def test_behind_a_tls_proxy_people_log_in_and_vote_and_plain_pages_do_not(staged):
    """The proxy ends TLS and hands every byte on, so a client without TLS sends the same."""
    stage, url = staged(secure=True), "https://panel.example"
    invited = stage.invitation("panelist", "P-01")
    site = app.create(stage.site, ("panel.example", "127.0.0.1"), url=url, pages=())
    with (
        serve(site, proxied=True) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        client.headers["Host"] = "panel.example"
        sent = {"name": "P-01", "code": invited.code}
        for origin in (url.replace("https", "http"), "https://localhost"):
            refused = client.post("/login", json=sent, headers={"Origin": origin})
            assert (refused.status_code, refused.json()["error"]) == (403, "origin")
        client.headers["Origin"] = url
        behind = {"Host": "127.0.0.1"}  # the proxy may put its own name for this server
        assert client.post("/login", json=sent, headers=behind).status_code == 200
        entered = client.post("/login", json=sent)
        assert entered.status_code == 200
        cookie = entered.headers["set-cookie"]
        assert cookie.startswith(f"__Host-szpo-{stage.ledger.run}=")
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Secure"} <= set(cookie.split("; "))
        assert entered.headers["strict-transport-security"].startswith("max-age=")
        client.headers["Cookie"] = cookie.partition(";")[0]  # a browser would send it by TLS alone
        seat = client.post("/api/assignment", json={"tab": "t"}).json()["assignment"]
        vote = {"assignment": seat, "choice": "A", "tab": "t", "idem": "behind-the-proxy-1"}
        for _ in range(2):
            assert client.post("/api/votes", json=vote).status_code == 200
    assert len(stage.ledger.votes()) == 1


def test_a_web_socket_is_closed_before_anything_is_asked():
    nobody: Any = None
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    control = OwnSiteOnly(nobody)
    asyncio.run(control({"type": "websocket", "path": "/panel/"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def status(
    method: str, receive: Any = None, path: bytes = b"/", query: bytes = b"", **headers: str
) -> int | None:
    """How a request is refused by its form; None where it is taken in."""
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "path": "/", "raw_path": path, "query_string": query, "headers": sent, "method": method,
    }  # fmt: skip
    try:
        asyncio.run(request_rules._take_in(scope, receive))
    except RefusedError as refused:
        return refused.answer.status_code
    return None


def test_heads_have_limits() -> None:
    at, most = request_rules.PATH_LIMIT, request_rules.HEAD_LIMIT
    assert status("GET", None, b"/" * (at - 5), b"q" * 5, a="b" * (most - 1)) is None
    assert status("GET", None, b"/" * (at - 5), b"q" * 6) == 414
    assert status("GET", a="b" * (most - 2), c="d") == 431


def test_a_body_is_refused_by_its_length_or_its_pace_and_a_connection_that_ended_is_none(
    monkeypatch,
):
    monkeypatch.setattr(request_rules, "BODY_SECONDS", 0.05)

    async def unread() -> Any:
        raise AssertionError("it was read")

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    parts = iter([{"type": "http.request", "body": b"x" * 1000, "more_body": True}] * 100)

    async def endless() -> Any:
        return next(parts)

    async def silent() -> Any:
        await asyncio.sleep(10)

    for length in (str(request_rules.BODY_LIMIT + 1), "-1", "many"):
        assert status("POST", unread, content_length=length) == 413
    assert [status("POST", each) for each in (gone, endless, silent)] == [400, 413, 408]
