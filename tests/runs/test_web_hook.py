"""The web hook against a real HTTP server: once each, signed, tried again, never in the way."""

import hashlib
import hmac
import json
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.runs import hook_events, web_hook
from szpo.runs.hook_events import Message
from szpo.runs.web_hook import Target
from szpo.training.status import round_status
from szpo.voting import pauses
from szpo_ui.operator import page as operator_page
from tests.support.browser import Stage, cast, make
from tests.support.cases import case
from tests.support.http_server import Reply, serving
from tests.support.waiting import until

SECRET = b"between us"
MESSAGE = Message("mine", "round_waits", "round 2", 1_700_000_000_000_000, {"round": 3})


@dataclass
class Receiver:
    """A server that answers as planned, then 204; a plan of None is silence."""

    plan: list[int | None] = field(default_factory=list)
    got: list[tuple[Any, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    quiet: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver():
    found = Receiver()

    def answer(request):
        found.got.append((request.path, request.headers, request.body))
        status = found.plan.pop(0) if found.plan else 204
        if status is None:
            found.quiet.wait(30)
            return None
        return Reply(status, headers=(("Location", f"{found.url}/elsewhere"),))

    with serving(answer) as address:
        found.url = f"{address}/hook"
        yield found
        found.quiet.set()


def watched(stage: Stage, said: list[str]) -> Any:
    return web_hook.sending(stage.ledger, stage.site.config.hook, said.append)


# ---- one message ----


def test_a_message_is_signed_and_says_what_happened_and_no_more(receiver):
    assert web_hook.deliver(Target(receiver.url, SECRET), MESSAGE) == (1, "")
    ((path, headers, body),) = receiver.got
    assert path == "/hook" and headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "delivery": MESSAGE.delivery, "run": "mine", "event": "round_waits",
        "at": "2023-11-14T22:13:20+00:00", "round": 3,
    }  # fmt: skip
    expected = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    assert headers["x-szpo-signature"] == f"sha256={expected}"
    assert headers["x-szpo-delivery"] == MESSAGE.delivery
    web_hook.deliver(Target(receiver.url, b""), MESSAGE)
    assert "x-szpo-signature" not in receiver.got[1][1]


@pytest.mark.parametrize(
    ("plan", "tries", "failure", "waits"),
    [
        ([500], 2, "", [1.0]),
        ([500, 429, 404], 3, "HTTP 404", [1.0, 5.0]),
        ([302, 302, 302], 3, "HTTP 302", [1.0, 5.0]),
        ([None, None, None], 3, "no answer in time", [1.0, 5.0]),
    ],
)
def test_what_fails_is_tried_three_times_with_growing_waits(
    receiver, monkeypatch,
    plan, tries, failure, waits):  # fmt: skip
    monkeypatch.setattr(web_hook, "TIMEOUT_S", 0.15)
    receiver.plan, waited = plan, list[float]()
    to = Target(receiver.url, b"")
    assert web_hook.deliver(to, MESSAGE, waited.append) == (tries, failure)
    assert waited == waits
    assert {path for path, _, _ in receiver.got} == {"/hook"}, "no redirect is followed"
    assert len({headers["x-szpo-delivery"] for _, headers, _ in receiver.got}) == 1


# ---- a run's messages ----


@pytest.fixture
def stage(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(web_hook, "POLL_S", 0.01)
    made = make(tmp_path / "mine.db", sets=[f"hook.url={receiver.url}", "run.steps=2"])
    yield made
    made.ledger.close()


def sent(receiver: Receiver) -> list[tuple[str, Any]]:
    bodies = [json.loads(body) for _, _, body in receiver.got]
    return [(body["event"], body.get("round") or body.get("guard") or body.get("why"))
            for body in bodies]  # fmt: skip


def test_each_event_of_a_run_is_sent_once_over_restarts(stage, receiver):
    for _ in range(2):  # two rounds of four votes are the whole run
        stage.advance()
        for _restart in range(2):
            with watched(stage, []) as begin:
                begin()
        for name in ("Ada", "Bob"):
            cast(stage, name)
            cast(stage, name)
    pauses.pause(stage.ledger, "guard kl", "after step 1: kl is 9, outside 0 … 2")
    with watched(stage, []) as begin:
        begin()
        until(lambda: len(receiver.got) == 3)
        pauses.unpause(stage.ledger, "Olga")
        assert stage.advance(until_step=2) is not None
    with watched(stage, []) as begin:
        begin()
    assert sent(receiver) == [
        ("round_waits", 1), ("round_waits", 2), ("guard_paused", "kl"), ("run_ended", "done"),
    ]  # fmt: skip
    said = " ".join(body.decode() for _, _, body in receiver.got)
    assert "amber" not in said and "Question" not in said and "Ada" not in said
    assert [event["body"]["failure"] for event in stage.ledger.events("hook")] == [""] * 4
    assert "The web hook" not in operator_page.page(stage.site)


def test_a_silent_receiver_holds_nobody_up_and_is_one_line_on_the_page(
    stage, receiver, monkeypatch
):
    monkeypatch.setattr(web_hook, "TIMEOUT_S", 0.4)
    receiver.plan = [None] * 3
    said = []
    stage.advance()
    with watched(stage, said) as begin:
        begin()
        until(lambda: receiver.got)  # it is being tried, and the run goes on
        cast(stage, "Ada")
    until(lambda: said)
    assert said == ["warning: the web hook was not delivered (round_waits): no answer in time"]
    page = operator_page.page(stage.site)
    assert page.count("The web hook was not delivered") == 1
    assert "was not sent a message (round waits): no answer in time" in page
    assert hook_events.due(stage.ledger, round_status(stage.ledger)) == [], "it is given up"


def test_an_address_that_is_a_secret_comes_from_the_environment_alone(
    tmp_path, receiver, monkeypatch
):
    stage, said = make(tmp_path / "mine.db", sets=["hook.url=env:MY_HOOK"]), list[str]()
    stage.advance()
    monkeypatch.delenv("MY_HOOK", raising=False)
    with watched(stage, said) as begin:
        begin()
    assert said[0].startswith("warning: hook.url: the environment variable MY_HOOK is not set")
    assert "MY_HOOK is not set" in operator_page.page(stage.site)
    monkeypatch.setenv("MY_HOOK", "ftp://user:s3cret@host")
    with pytest.raises(UsageError) as refused:
        web_hook.target(stage.site.config.hook)
    assert "s3cret" not in str(refused.value) and "MY_HOOK" in str(refused.value)
    monkeypatch.setenv("MY_HOOK", receiver.url)
    to = web_hook.target(stage.site.config.hook)
    assert to is not None and to.url == receiver.url and receiver.url not in repr(to)
    assert receiver.url not in stage.ledger.row["spec"]


NO_ADDRESS = ["ftp://host/x", "file:///etc/passwd", "//host", "http://", "http://user:word@host/",
 "http://host:port/", "javascript:alert(1)", "env:", "env:A B", "http://a b/"]  # fmt: skip


def test_an_address_that_is_none_is_refused_in_a_line(capsys):
    for url in NO_ADDRESS:
        with case(url):
            assert call(["run", "--preset", "people", "--set", f"hook.url={url}", "--plan"]) == 2
            message = capsys.readouterr().err
            assert message.count("\n") == 1 and "hook.url" in message
            assert "http://… or https://…" in message


def test_addresses_of_the_own_network_are_taken():
    for url in ("http://192.168.1.5:8123/api/webhook/x", "http://localhost:9", "https://[::1]/a"):
        assert settings_file.load(sets=[f"hook.url={url}"]).hook.url == url
