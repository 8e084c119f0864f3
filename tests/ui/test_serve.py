"""szpo serve: refusals, the two processes, restarts, and a web process without a model."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from szpo.cli.app import call
from szpo.cli.child_process import Keeper
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import setup_progress
from szpo.voting import lease
from szpo_ui import app, credentials, http_server, serve
from szpo_ui.http_server import SiteAddress
from tests.support import yard_run
from tests.support.browser import CALL, panel_call, served_run, violations
from tests.support.browser import serve as serve_application
from tests.support.served import Served, refused, words
from tests.support.voting import lost_and_doubled
from tests.support.waiting import until

pytest_plugins = ["tests.support.browser"]


@pytest.fixture
def run(staged):
    return staged(begun=False).ledger.path


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_port_that_cannot_be_used_is_named(run, listener, capsys):
    taken = listener.getsockname()[1]
    message = refused(capsys, 2, "serve", str(run), "--port", str(taken))
    found = re.fullmatch(rf"port {taken} is in use; try --port (\d+)", message)
    assert found is not None and int(found[1]) != taken
    for port in ("80", "70000", "-1"):
        message = refused(capsys, 2, "serve", str(run), f"--port={port}")
        assert message == f"--port {port}: give 1024 to 65535, or 0 for a free one"


def test_a_host_that_is_none_of_this_machine_or_seen_from_others_is_refused(run, capsys):
    words = "serve", str(run), "--insecure", "--host", "no-such-host.invalid"
    assert refused(capsys, 2, *words).startswith("--host no-such-host.invalid --port 7860: ")
    words = r"--host 0\.0\.0\.0 would show the panel to the network without TLS.* --insecure$"
    with (
        pytest.raises(UsageError, match=words),
        http_server.listening("0.0.0.0", 0, insecure=False),
    ):
        pass


def test_a_missing_run_and_contradictions_are_named(tmp_path, capsys):
    folder = ("--folder", str(tmp_path), "--port", "0")
    assert "no runs in" in refused(capsys, 2, "serve", *folder)
    assert "keeps its settings" in refused(capsys, 2, "serve", "x", "--preset", "people", *folder)
    assert "makes its own run" in refused(capsys, 2, "serve", "x", "--demo", *folder)
    words = "serve", "x", "--url", "https://a.example/b"
    assert "without a path" in refused(capsys, 2, *words, *folder)


def test_links_and_hosts_follow_the_public_address():
    with http_server.listening("127.0.0.1", 0, insecure=False) as listener:
        port = listener.getsockname()[1]
        here = http_server.site_address(listener, "127.0.0.1", None)
        assert (here.url, here.secure) == (f"http://127.0.0.1:{port}", False)
        public = "https://panel.example/", ("other.example",)
        there = http_server.site_address(listener, "127.0.0.1", *public)
    assert (there.url, there.secure) == ("https://panel.example", True)
    assert {"panel.example", "other.example", "localhost"} <= set(there.names)
    assert "evil.example" not in there.names


class Children:
    """Stands for subprocess.Popen: children that end with these codes, or cannot be begun."""

    def __init__(self, *ends: int | OSError, lived: Sequence[float] = ()):
        self.ends, self.lived, self.now = list(ends), list(lived), 0.0

    def begin(self, command: Sequence[str]) -> Any:
        end = self.ends.pop(0)
        if isinstance(end, OSError):
            raise end

        def wait() -> int:
            self.now += self.lived.pop(0) if self.lived else 0.0
            return end

        return SimpleNamespace(wait=wait, poll=lambda: end)


def keep(children: Children) -> tuple[list[tuple[int, float]], Keeper]:
    ends: list[tuple[int, float]] = []
    keeper = Keeper(
        "child", ["x"], say=lambda text: None, on_end=lambda *e: ends.append(e),
        begin=children.begin,
    )  # fmt: skip
    keeper.timer = lambda: children.now
    keeper.pause = lambda seconds: None
    keeper.run()
    keeper.join()
    return ends, keeper


def test_a_child_that_dies_is_started_again_with_longer_waits_soon_where_it_had_lived():
    ends, keeper = keep(Children(*[1] * 8, 0))
    assert [wait for _, wait in ends] == [1, 2, 4, 8, 16, 32, 60, 60, 0]
    assert keeper.starts == 9
    ends, _ = keep(Children(1, 1, 3, 0, lived=[0, 0, 100, 0]))
    assert ends == [(1, 1), (1, 2), (3, 1), (0, 0)]
    short = OSError("no memory")
    ends, keeper = keep(Children(9, short, short, 0))
    assert ends == [(9, 1), (1, 2), (1, 4), (0, 0)] and keeper.starts == 4


def test_a_child_follows_a_parent_that_is_killed():
    code = (
        "import sys, time\n"
        "from szpo.cli.child_process import start\n"
        "sleep = 'import time; print(1, flush=True); time.sleep(600)'\n"
        "print(start([sys.executable, '-c', sleep]).pid, flush=True)\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = {parent.stdout.readline().strip() for _ in range(2)}
    child = int((lines - {"1"}).pop())
    parent.kill()
    parent.wait()

    def gone() -> bool:
        try:
            state = Path(f"/proc/{child}/stat").read_text(encoding="ascii")
        except OSError:
            return True
        return state.rpartition(")")[2].split()[0] == "Z"  # nobody may be there to reap it

    until(gone, 20)
    parent.stdout.close()


def test_an_interrupt_pressed_twice_leaves_the_application_its_end():
    pressed = http_server._Server(http_server.configure(None))
    for _ in "ab":
        pressed.handle_exit(signal.SIGINT, None)
    assert pressed.should_exit and not pressed.force_exit


@pytest.mark.full
def test_it_serves_without_torch_and_ends_on_a_signal(run, capsys):
    line = (str(run), "--no-controller")
    with closing(Served(*line, python=("-X", "importtime"))) as served:
        loaded = set(re.findall(r"\|\s+([\w.]+)$", served.message, re.M))
        assert "gradio" in loaded
        assert not {"torch", "transformers", "peft"} & loaded, "the web process loads no model"
        with httpx.Client(base_url=served.url, timeout=30) as client:
            assert client.get("/healthz").json() == {"ok": True}
            assert client.post("/redeem", json={"token": served.token}).json()["go"] == "/operate/"
            assert client.get("/operate/config").status_code == 200
        capsys.readouterr()
        assert call(["invite", str(run)]) == 0
        invited = capsys.readouterr()
        assert f"link (once): {served.url}/login#t=" in invited.out and invited.err == ""
        assert served.end(signal.SIGTERM) == 143
        assert call(["invite", str(run)]) == 0
        assert "no szpo serve of run is running" in capsys.readouterr().err


@pytest.mark.full
def test_a_run_made_and_driven_beside_the_web_survives_a_killed_controller(tmp_path):
    sets = (*yard_run.SETS, f"prompts.path={yard_run.prompts(tmp_path)}", "run.name=yard",
            "run.seed=0", "run.votes=8", "optimizer.K=2",
            "subspace.kind=features")  # fmt: skip
    line = "--preset", "people", *words(sets), "--folder", str(tmp_path / "runs"), "--at-once"
    with (
        closing(Served(*line)) as served,
        Ledger.open(tmp_path / "runs" / "yard.db") as ledger,
        httpx.Client(base_url=served.url, timeout=30) as client,
    ):
        assert (served.early["setup"], served.early["run"]) == (True, "yard")
        invited = credentials.invite(ledger, "panelist")
        answer = client.post("/api/session", json={"name": "P-01", "code": invited.code})
        client.headers["Authorization"] = f"Bearer {answer.json()['token']}"

        def applied(steps: int) -> bool:
            shown = client.post("/api/assignment", json={"tab": "t"})
            if shown.status_code == 200:
                seat = shown.json()["assignment"]
                body = {"assignment": seat, "choice": "A", "idem": seat, "tab": "t"}
                assert client.post("/api/votes", json=body).status_code == 200
            return (ledger.last_applied() or 0) + 1 >= steps

        until(lambda: client.get("/api/status").json()["state"] == "open")
        until(lambda: applied(2))
        killed = int(lease.controller(ledger)["lease"].split(":")[1])
        assert killed != served.child.pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: list(ledger.events("controller ended")))
        assert client.get("/api/status").status_code == 200, "the web goes on"
        until(lambda: applied(4))
        again = int(lease.controller(ledger)["lease"].split(":")[1])
        assert again != killed
        assert served.end() == 130
        with pytest.raises(ProcessLookupError):
            os.kill(again, 0)
        assert lease.controller(ledger)["lease"] is None, "the controller gave the run back"
        assert verification.verify(ledger).ok


@pytest.mark.full
def test_the_demo_asks_one_person_and_lets_colleagues_do_the_rest(tmp_path):
    own = f"prompts.path={yard_run.prompts(tmp_path)}", "run.seed=0", "subspace.kind=features"
    sets = *yard_run.SETS, *own
    line = "--demo", "--no-browser", "--pace", "0.1", *words(sets)
    with (
        closing(Served(*line, "--folder", str(tmp_path / "runs"))) as served,
        Ledger.open(tmp_path / "runs" / "serve-demo-1.db") as ledger,
        httpx.Client(base_url=served.url, timeout=30) as client,
    ):
        found = re.search(r"as a panelist: http://\S+/login#t=(\S+)", served.message)
        assert found is not None
        assert client.post("/redeem", json={"token": found[1]}).json()["go"] == "/panel/"

        def status() -> tuple[int, int]:
            reported = client.get("/api/status").json()
            return reported["step"], reported["votes_in"]

        for step in range(2):
            # The colleagues answer three of the four and leave the last to the person.
            until(lambda step=step: status() == (step, 3))
            shown = client.post("/api/assignment", json={"tab": "t"}).json()
            body = {"assignment": shown["assignment"], "choice": "A", "tab": "t"}
            answer = client.post("/api/votes", json={**body, "idem": shown["assignment"]})
            assert answer.json()["counted"] is True
        until(lambda: ledger.last_applied() == 1)
        by = ledger.query(
            "SELECT p.kind, count(*) AS n FROM votes JOIN assignments USING (assignment) "
            "JOIN panelists p USING (panelist) JOIN comparisons c USING (comparison) "
            "WHERE c.step < 2 GROUP BY 1"
        )
        assert {row["kind"]: row["n"] for row in by} == {"person": 2, "simulated": 6}


@pytest.mark.full
def test_a_burst_at_the_page_loses_and_doubles_nothing(tmp_path):
    people, bursts, acknowledged = 12, 3, {}
    sets = "optimizer.N=4", f"optimizer.M={people}"
    together = Barrier(people)

    def confirm(client: httpx.Client) -> None:
        with client:
            page = client.post(CALL, json=panel_call(client, "do", do="agree")).text
            for burst in range(bursts):
                seat = re.findall(r'data-seat=\\"([^"\\]+)', page)[0]
                ballot = {"assignment": seat, "choice": "A", "idem": f"{seat}-{burst}",
                          "tab": "tab-0001", "dwell_ms": 60_000}  # fmt: skip
                call = panel_call(client, "do", do="vote", seat=seat, ballot=ballot)
                together.wait(60)
                page = client.post(CALL, json=call).text
                acknowledged[seat] = ballot["idem"]

    with served_run(tmp_path / "run.db", ("panelist",), sets=sets) as stage:
        stage.advance()
        clients = [stage.client("panelist", f"P-{i:02}") for i in range(people)]
        with ThreadPoolExecutor(people) as pool:
            list(pool.map(confirm, clients))
        assert len(acknowledged) == people * bursts
        assert lost_and_doubled(stage.ledger, acknowledged) == (0, 0)
        assert lost_and_doubled(stage.ledger, {**acknowledged, "0" * 32: "key"}) == (1, 0)


def place(listener: socket.socket) -> SiteAddress:
    port = listener.getsockname()[1]
    return SiteAddress(f"http://127.0.0.1:{port}", ("127.0.0.1",))


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
def test_a_command_for_a_run_that_is_being_set_up_says_so(staged, tmp_path, capsys, words):
    staged("older", begun=False)  # nobody is to be invited into this one instead
    with setup_progress.writing(tmp_path / "mine.db") as report:
        report("scores", 3, 4)
        message = refused(capsys, 2, "invite", *words, "--folder", str(tmp_path))
        said = "run mine is being set up (scores, 75 %); try again when that is done"
        assert message.startswith(said)
        assert call(["invite", "older", "--folder", str(tmp_path), "--list"]) == 0


def test_the_first_page_says_how_far_it_is_to_who_asked_by_the_sites_name(listener, tmp_path):
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
        early = client.get("/login").text
        assert "<h1>The panel opens soon</h1>" in early and 'id="stages"' not in early
        for refused in (client.post("/api/session", json={}), client.get("/healthz")):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
        assert client.get("/static/login.html").text == shown.text, "no other file is given out"
    with pytest.raises(httpx.ConnectError):  # the thread has ended; nobody accepts any more
        listener.close()
        httpx.get(address.url, timeout=2)


def test_a_panelist_who_comes_early_gets_to_the_welcome_page_without_a_click(
    listener, staged, tmp_path, chromium
):
    stage, address = staged(begun=False), place(listener)
    token = stage.invitation("panelist", "Ada").token
    early, late = chromium.new_page(), chromium.new_page()
    opening = serve.answering(listener, address)
    with setup_progress.writing(tmp_path / "mine.db") as report, opening as page:
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
    with serve_application(app.create(stage.site), listener):
        early.get_by_role("heading", name="Welcome to the panel").wait_for()
        late.wait_for_url("**/login")
        for each in (early, late):
            each.close()
