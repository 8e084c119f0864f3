"""The first seconds of szpo serve: the stages of a set-up, and the way on to the run's pages."""

from __future__ import annotations

import socket
import threading

import httpx
import pytest
import uvicorn

from szpo.cli.app import call
from szpo.notices import setup_progress
from szpo_ui import app, serve
from szpo_ui.web.address import SiteAddress
from szpo_ui.web.server import configure
from tests.support.browser import make, violations

pytest_plugins = ["tests.support.browser"]


@pytest.fixture
def listener():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        yield made


def place(listener: socket.socket) -> SiteAddress:
    port = listener.getsockname()[1]
    return SiteAddress("127.0.0.1", port, f"http://127.0.0.1:{port}", ("127.0.0.1",))


def test_a_set_up_is_known_while_it_lasts_and_no_longer(tmp_path):
    run = tmp_path / "mine.db"
    assert setup_progress.read(run) is None and setup_progress.at_work(tmp_path) == []
    with setup_progress.writing(run) as report:
        assert setup_progress.describe(run) == "run mine is being set up"
        report("loading the model", 0, 0)
        for done in (0, 24, 96, 24):
            report("base answers", done, 96)
        found = setup_progress.read(run)
        assert found is not None
        assert [(s.name, s.done, s.of) for s in found] == [
            ("loading the model", 0, 0), ("base answers", 24, 96),
        ]  # fmt: skip
        assert setup_progress.describe(run) == "run mine is being set up (base answers, 25 %)"
        assert setup_progress.at_work(tmp_path) == [run]
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / "mine.db-setup"
    left.write_text('[["base answers", 24, 96]]', encoding="utf-8")  # by a killed process
    assert setup_progress.read(run) is None and setup_progress.at_work(tmp_path) == []


@pytest.mark.parametrize("words", [("mine",), ()])
def test_a_command_for_a_run_that_is_being_set_up_says_so(tmp_path, capsys, words):
    make(tmp_path / "older.db").ledger.close()  # nobody is to be invited into this one instead
    with setup_progress.writing(tmp_path / "mine.db") as report:
        report("scores", 3, 4)
        assert call(["invite", *words, "--folder", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(
            "error: run mine is being set up (scores, 75 %); try again when that is done"
        )
        assert message.count("\n") == 1
        assert call(["invite", "older", "--folder", str(tmp_path), "--list"]) == 0


def test_the_first_page_says_how_far_it_is_to_those_who_asked_by_the_sites_name(
    listener, tmp_path
):
    address = place(listener)
    with (
        setup_progress.writing(tmp_path / "mine.db") as report,
        serve.answering(listener, address) as page,
        httpx.Client(base_url=address.url, timeout=10) as client,
    ):
        assert client.get("/setup-status").json()["run"] is None
        page.run = tmp_path / "mine.db"
        report("<b>scores</b>", 3, 4)
        status = client.get("/setup-status").json()
        assert (status["run"], status["stages"]) == ("mine", [["<b>scores</b>", 3, 4]])
        shown = client.get("/operate/")
        assert 'id="stages"' in shown.text and "scores" not in shown.text
        assert "script-src 'self';" in shown.headers["content-security-policy"]
        early = client.get("/login", headers={"Accept-Language": "es"}).text
        assert "El panel abrirá pronto" in early and 'id="stages"' not in early
        for refused in (client.post("/api/session", json={}), client.get("/healthz")):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
        assert client.get("/static/login.html").text == shown.text, "no other file is given out"
    with pytest.raises(httpx.ConnectError):  # the thread has ended; nobody accepts any more
        listener.close()
        httpx.get(address.url, timeout=2)


def test_a_panelist_who_comes_early_gets_to_the_welcome_page_without_a_click(
    listener, tmp_path, chromium
):
    stage, address = make(tmp_path / "run.db"), place(listener)
    token = stage.invitation("panelist", "Ada").token
    early, late = chromium.new_page(), chromium.new_page()
    with (
        setup_progress.writing(tmp_path / "mine.db") as report,
        serve.answering(listener, address) as page,
    ):
        page.run = tmp_path / "mine.db"
        report("loading the model", 0, 0)
        report("base answers", 24, 96)
        early.goto(f"{address.url}/login#t={token}")
        early.get_by_role("heading", name="The panel opens soon").wait_for()
        assert early.locator("#stages").count() == 0
        late.goto(address.url)
        late.get_by_text("Base answers, 25 %").wait_for()
        assert late.get_by_role("heading").inner_text() == "Setting up mine"
        assert late.get_by_role("progressbar").first.get_attribute("value") == "24"
        assert late.locator("#stages li").all_inner_texts() == [
            "loading the model", "base answers",
        ]  # fmt: skip
        late.set_viewport_size({"width": 320, "height": 568})
        assert late.evaluate("document.documentElement.scrollWidth") == 320
        assert violations(late) == [] and violations(early) == []
    server = uvicorn.Server(configure(app.create(stage.site)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener.dup()]})
    thread.start()
    early.get_by_role("heading", name="Welcome to the panel").wait_for()
    late.wait_for_url("**/login")
    for each in (early, late):
        each.close()
    server.should_exit = True
    thread.join()
    stage.ledger.close()
