"""Coming in: the login page, wrong codes, invitations by link, sessions that end."""

import asyncio

import httpx
import pytest
from starlette.requests import Request

from szpo.ledger.database import Ledger
from szpo_ui import app, credentials, login
from szpo_ui.request_rules import Buckets, Locks
from szpo_ui.site import of_ledger
from tests.support.browser import (
    StillClock,
    awaited,
    in_both_colours,
    serve,
    served_run,
    violations,
)

pytest_plugins = ["tests.support.browser"]
PAGES = ()
HOUR_US = 3_600_000_000


@pytest.fixture
def client(stage):
    with httpx.Client(base_url=stage.url, timeout=20) as made:
        yield made


def test_a_name_and_code_open_the_own_page_with_a_strict_cookie(stage, client):
    invited = stage.invitation("panelist", "P-01")
    answer = client.post("/login", json={"name": "P-01", "code": invited.code.lower()})
    assert (answer.status_code, answer.json()["go"]) == (200, "/panel/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"szpo-{stage.ledger.run}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert client.get("/", follow_redirects=False).headers["location"] == "/panel/"
    assert client.get("/api/status").status_code == 200


def test_servers_of_two_runs_on_one_host_leave_each_other_s_sessions(stage, client, tmp_path):
    """A browser sends a host's cookies to all its ports."""
    with served_run(tmp_path / "other.db", ()) as other:
        for each in (stage, other):
            entered = {"name": "P-01", "code": each.invitation("panelist", "P-01").code}
            assert client.post(f"{each.url}/login", json=entered).status_code == 200
        for each in (stage, other):
            assert client.get(f"{each.url}/api/status").status_code == 200


WRONG = "0000-0000-0000-0000"


def test_five_wrong_codes_lock_the_name_there_for_a_minute_and_no_other_name_or_link(
    stage, client
):
    own, other = (stage.invitation("panelist", name) for name in ("P-01", "P-02"))

    def login(name: str, code: str) -> httpx.Response:
        return client.post("/login", json={"name": name, "code": code})

    for name in ("P-01", "nobody"):
        for _ in range(5):
            wrong = login(name, WRONG)
            assert (wrong.status_code, wrong.json()["error"]) == (401, "unknown")
    for name, code in (("p-01", own.code), ("P-01", WRONG), ("nobody", WRONG)):
        locked = login(name, code)
        assert (locked.status_code, locked.json()["error"]) == (429, "locked")
        assert 50 <= int(locked.headers["retry-after"]) <= 60
    assert login("P-02", other.code).status_code == 200
    for token, status in (("x" * 43, 401), (own.token, 200)):
        assert client.post("/redeem", json={"token": token}).status_code == status
    stage.clock.forward(61)
    assert login("P-01", own.code).status_code == 200


@pytest.mark.full
def test_wrong_codes_that_arrive_together_are_counted_before_they_are_judged(stage):
    stage.invitation("panelist", "P-01")

    async def guess() -> list[int]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=stage.url, timeout=60, limits=limits) as many:
            asked = [many.post("/login", json={"name": "P-01", "code": WRONG}) for _ in range(200)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    codes = awaited(guess())
    assert (codes.count(401), codes.count(429)) == (5, 195)


@pytest.mark.parametrize("guessed", ["P-01", "P-02"])
def test_a_right_login_clears_nothing(stage, client, guessed):
    own, _ = (stage.invitation("panelist", name) for name in ("P-01", "P-02"))
    judged = 0
    for i in range(40):
        judged += client.post("/login", json={"name": guessed, "code": WRONG}).status_code == 401
        if i % 4 == 3:
            client.post("/login", json={"name": "P-01", "code": own.code})
    assert judged == 5


@pytest.mark.full
@pytest.mark.parametrize("stage", [{"clock": StillClock()}], indirect=True)
def test_right_logins_and_their_sessions_have_a_bound(stage):
    invited = stage.invitation("panelist", "P-01")
    tokens, refused = [], 0
    for i in range(40):
        if i == 20:
            stage.clock.forward(60)
        sent = {"name": "P-01", "code": invited.code}
        answer = httpx.post(f"{stage.url}/api/session", json=sent)
        if answer.status_code == 200:
            tokens.append(answer.json()["token"])
        else:
            assert (answer.status_code, answer.json()["error"]) == (429, "too_many")
            refused += 1
    assert (len(tokens), refused) == (20, 20)
    rows = stage.ledger.query("SELECT 1 FROM credentials WHERE credential LIKE 'session:%'")
    assert len(rows) == credentials.MOST_SESSIONS == 10
    alive = [credentials.identify(stage.ledger, token) is not None for token in tokens]
    assert alive == [False] * 10 + [True] * 10


def test_addresses_of_one_network_are_one_to_the_lock():
    def seen(host: str) -> str:
        return login.network_of(Request({"type": "http", "client": (host, 1), "headers": []}))

    assert seen("2001:db8::1") == seen("2001:db8::ffff:1") != seen("2001:db8:0:1::1")
    assert seen("10.0.0.1") != seen("10.0.0.2")
    assert seen("::ffff:10.0.0.1") == seen("10.0.0.1") != seen("::ffff:10.0.0.2")
    assert seen("testclient") == "testclient"


def test_a_link_works_once_and_ends_the_session_before_it(stage, client):
    invited = stage.invitation("panelist", "P-01")
    answer = client.post("/redeem", json={"token": invited.token})
    assert (answer.status_code, answer.json()["go"]) == (200, "/panel/")
    name = login.cookie_name(stage.site)
    first = client.cookies[name]
    again = httpx.post(f"{stage.url}/redeem", json={"token": invited.token})
    assert (again.status_code, again.json()["error"]) == (401, "used")
    client.post("/login", json={"name": "P-01", "code": invited.code})
    assert client.cookies[name] != first
    assert credentials.identify(stage.ledger, first) is None, "no second session stays behind"


def test_sessions_that_were_left_expired_or_revoked_are_distinguished(stage):
    cookie = stage.cookie("panelist", "P-01")
    with httpx.Client(base_url=stage.url, cookies=cookie) as client:
        assert client.get("/api/status").status_code == 200
        assert "Max-Age=0" in client.post("/logout").headers["set-cookie"]
    answer = httpx.get(f"{stage.url}/api/status", cookies=cookie)
    assert (answer.status_code, answer.json()["error"]) == (401, "login")
    revoked, expired = (stage.cookie("panelist", name) for name in ("P-01", "P-02"))
    credentials.revoke(stage.ledger, "P-01", "test")
    answer = httpx.get(f"{stage.url}/api/status", cookies=revoked)
    assert (answer.status_code, answer.json()["error"]) == (403, "revoked")
    led = httpx.get(f"{stage.url}/panel", cookies=revoked).headers["location"]
    assert led == "/login?next=/panel&why=revoked", "a bare form would say nothing"
    stage.clock.forward(12 * 3600 + 1)
    answer = httpx.get(f"{stage.url}/api/status", cookies=expired)
    assert (answer.status_code, answer.json()["error"]) == (401, "expired")


def test_a_revoked_session_ends_at_every_server_of_the_run_whatever_their_clock(stage):
    cookie = stage.cookie("panelist", "P-01")

    def statuses() -> list[int]:
        """Those of this server, and of one that begins now, an hour behind."""
        with (
            Ledger.open(stage.ledger.path, clock=lambda: stage.clock() - HOUR_US) as ledger,
            serve(app.create(of_ledger(ledger), pages=())) as other,
        ):
            at = stage.url, other
            return [httpx.get(f"{u}/api/status", cookies=cookie).status_code for u in at]

    assert statuses() == [200, 200]
    credentials.revoke(stage.ledger, "P-01", "test")
    assert statuses() == [403, 403]


def test_pages_lead_to_the_login_and_everything_else_says_401(client):
    for page in ("/panel", "/panel/", "/operate/"):
        answer = client.get(page)
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/login?next={page}"
    for path in ("/panel/assets/x.js", "/operate/theme.css", "/docs", "/nothing"):
        assert client.get(path).status_code == 401, path
    assert client.get("/static/login.css").status_code == 200


def test_the_login_page_works_by_keyboard_and_axe_finds_nothing(stage, chromium):
    invited = stage.invitation("operator", "Olga")
    context = chromium.new_context(base_url=stage.url)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/operate/")
    assert page.url.endswith("/login?next=/operate/")
    page.keyboard.type("Olga")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").filter(has_text="not known").wait_for()
    assert in_both_colours(page, "minor", "moderate", "serious", "critical") == []
    page.get_by_label("Code", exact=True).fill(invited.code)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{stage.url}/operate/")
    assert errors == []
    context.close()


def test_the_link_leaves_nothing_in_the_address_or_the_history(stage, chromium):
    invited = stage.invitation("panelist", "P-01")
    context = chromium.new_context(base_url=stage.url, viewport={"width": 320, "height": 640})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"/login#t={invited.token}")
    page.wait_for_url(f"{stage.url}/panel/")
    assert not any(invited.token in url for url in asked)
    # The same link again leads its owner on, and nobody else.
    page.goto(f"/login#t={invited.token}")
    page.wait_for_url(f"{stage.url}/panel/")
    for cookie in ({}, stage.cookie("panelist", "P-02")):
        context.clear_cookies()
        context.add_cookies([{"name": n, "value": v, "url": stage.url} for n, v in cookie.items()])
        page.goto(f"/login#t={invited.token}")
        page.get_by_role("alert").filter(has_text="was used before").wait_for()
        assert page.evaluate("location.href") == f"{stage.url}/login"
    assert page.title() == "Log in – szpo"
    page.get_by_label("Name").fill("P-01")
    page.get_by_label("Code", exact=True).fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").filter(has_text="not known").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()


def test_a_handler_asks_again_who_is_there():
    ann = credentials.Identity("panelist", "P-01", "5f1d")
    for request in (None, Request({"type": "http"})):
        with pytest.raises(login.HTTPException, match="please log in"):
            login.identity(request)
    let_in = Request({"type": "http", login.SCOPE: ann})
    assert login.identity(let_in) == login.identity(let_in, "panelist") == ann
    with pytest.raises(login.HTTPException, match="is for operators"):
        login.identity(let_in, "operator")


def test_buckets_pass_a_burst_and_then_the_rate():
    now = [0]
    buckets = Buckets(lambda: now[0], rate=2.0, burst=3)
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("b") == 0.0, "others are not held up"
    now[0] = 500_000
    assert buckets.take("a") == 0.0
    assert buckets.take("a") > 0
    now[0] = 60_000_000  # a long rest saves up no more than the burst
    assert [buckets.take("a") > 0 for _ in range(4)] == [False] * 3 + [True]


def test_locks_count_the_wrong_codes_of_the_last_minute_whatever_other_names_do():
    now = [0]
    locks = Locks(lambda: now[0], tries=2, seconds=10)
    assert locks.take("a") == 0.0
    locks.right("a")
    now[0] = 4_000_000
    assert locks.take("a") == locks.take("a") == 0.0
    assert locks.take("a") == pytest.approx(10)
    assert locks.take("b") == 0.0, "others are not held up"
    now[0] = 13_000_000
    assert locks.take("a") == pytest.approx(1)
    now[0] = 14_000_000
    assert locks.take("a") == 0.0
    now[0] = 1_000_000
    assert locks.take("a") == 0.0, "a clock that was set back locks nobody"
    locks = Locks(lambda: 0, tries=5)
    for _ in range(5):
        assert locks.take("a") == 0.0
    for i in range(20_000):
        locks.take(f"name {i}")
    assert locks.take("a") > 0
    assert len(locks._wrong) < 20_000  # and memory is bounded
