"""The JSON door: exact answers, exactly once, and examples/vote_by_api.py as it stands."""

import asyncio
import json
import re
import runpy
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from szpo.errors import StorageError
from szpo.voting import pauses
from szpo_ui import component
from szpo_ui.site import Writer
from tests.support.browser import MINUS, PLUS, StillClock, awaited

pytest_plugins = ["tests.support.browser"]
PAGES = ()

PROGRAM = Path(__file__).parents[2] / "examples" / "vote_by_api.py"
BLIND = re.compile(r"plus|minus|seed|radius|\bmu\b|\"k\"|model|theta|adapter", re.IGNORECASE)


@pytest.fixture
def client(stage):
    stage.advance()
    with stage.client("panelist", "P-01") as made:
        yield made


def take(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/assignment", json={"tab": "t1", **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ballot(shown: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "assignment": shown["assignment"], "choice": "A", "idem": f"key-{shown['assignment']}",
        "tab": "t1", **changes,
    }  # fmt: skip


def texts(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["prompt"], row["a"], row["b"]


def test_a_vote_is_stored_once_and_its_retry_gets_the_stored_answer(stage, client):
    shown = take(client)
    first = client.post("/api/votes", json=ballot(shown, dwell_ms=5, details={"device": "tv"}))
    assert first.status_code == 200
    assert first.json()["counted"] is True
    assert first.json()["assignment"] == shown["assignment"]
    assert "Idempotent-Replayed" not in first.headers
    again = client.post("/api/votes", json=ballot(shown, dwell_ms=5, details={"device": "tv"}))
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    (row,) = stage.ledger.votes()
    assert (row["choice"], row["dwell_ms"]) == ("A", 5)
    noted = {"rows": 3, "words": sum(len(t.split()) for r in shown["rows"] for t in texts(r))}
    assert json.loads(row["details"]) == {"device": "tv", "fast": True, **noted}
    side = stage.ledger.query("SELECT plus_side FROM assignments")[0]["plus_side"]
    assert all((PLUS if side == "A" else MINUS) in row["a"] for row in shown["rows"])
    (vote,) = stage.site.service.counted(0)
    assert vote.verdict == ("plus" if side == "A" else "minus")


def test_conflicts_say_what_stands(stage, client):
    shown = take(client)
    client.post("/api/votes", json=ballot(shown))
    reused = client.post("/api/votes", json=ballot(shown, choice="B"))
    assert (reused.status_code, reused.json()["error"]) == (409, "key_reused")
    assert reused.json()["choice"] == "A"
    other = client.post("/api/votes", json=ballot(shown, idem="k" * 16, tab="t2"))
    assert (other.status_code, other.json()["error"]) == (409, "stale_tab")
    changed = client.post("/api/votes", json=ballot(shown, choice="tie", idem="m" * 16))
    assert (changed.status_code, changed.json()["revision"]) == (200, 1)


def test_somebody_elses_comparison_is_answered_like_none(stage, client):
    with stage.client("panelist", "P-02") as other:
        theirs = take(other)
    unknown = {**theirs, "assignment": "0" * 32}
    for path in ("votes", "release", "extend"):
        bodies = [
            ballot(s) if path == "votes" else {"assignment": s["assignment"]}
            for s in (theirs, unknown)
        ]
        first, second = (client.post(f"/api/{path}", json=body) for body in bodies)
        assert first.status_code == second.status_code == 404
        assert first.content == second.content


WRONG: list[tuple[dict[str, Any], str]] = [
    *[({"choice": bad}, "choice") for bad in (7, "1", True, 1.0, None, "a", "AB")],
    *[({"dwell_ms": bad}, "dwell_ms") for bad in (-1, 10**18, "5", 1.5, True)],
    *[({"idem": bad}, "idem") for bad in ("short", "x" * 10_000, "a' OR 1=1 -- xxxxx", "😀" * 20)],
    ({"assignment": "../../etc/passwd"}, "assignment"),
    ({"tab": ""}, "tab"),
    ({"extra": 1}, "extra"),
    ({"details": {str(i): i for i in range(33)}}, "details"),
    ({"details": {"deep": {"er": 1}}}, "details"),
    ({"skip_reason": "tired"}, ""),
]


def test_a_wrong_field_is_named_and_nothing_is_stored(stage, client):
    shown = take(client)
    for changes, field in WRONG:
        stage.clock.forward(1)  # else it is a flood
        answer = client.post("/api/votes", json=ballot(shown, **changes))
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid"), changes
        assert (answer.json()["field"] or "").startswith(field)
        assert "[" not in str(answer.json()["field"])
    assert stage.ledger.votes() == []


def test_what_is_no_json_is_refused_by_its_kind_or_place(client):
    sent = ballot(take(client))
    form = client.post("/api/votes", data={k: str(v) for k, v in sent.items()})
    plain = client.post("/api/votes", content=json.dumps(sent))
    assert [a.status_code for a in (form, plain)] == [415, 415]
    kind = {"Content-Type": "application/json"}
    for body in ("{", "[" * 10_000, '{"choice": NaN}', "null", b"\xff\xfe"):
        assert client.post("/api/votes", content=body, headers=kind).status_code == 422


@pytest.mark.spine
@pytest.mark.parametrize("stage", [{"clock": StillClock()}], indirect=True)
def test_a_flood_of_votes_is_slowed_by_person_not_by_session_and_nobody_else_is(stage, client):
    sent, answers = ballot(take(client)), []
    for _ in range(5):
        with stage.client("panelist", "P-01") as one:
            answers += [one.post("/api/votes", json=sent) for _ in range(6)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(answers) - len(refused) == 10
    assert {(each.status_code, each.json()["error"]) for each in refused} == {(429, "too_many")}
    assert int(refused[0].headers["Retry-After"]) >= 1
    with stage.client("panelist", "P-02") as other:
        assert other.post("/api/votes", json=ballot(take(other))).status_code == 200


@pytest.mark.parametrize("statement", ["INSERT INTO votes", "COMMIT"])
def test_a_full_disk_is_told_and_the_same_request_works_later(
    stage, client, monkeypatch, statement
):
    sent = ballot(take(client))
    real = stage.ledger.execute

    def full(sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql.startswith(statement) and (statement != "COMMIT" or stage.ledger.votes()):
            raise StorageError("disk full")
        return real(sql, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(stage.ledger, "execute", full)
        answer = client.post("/api/votes", json=sent)
    assert (answer.status_code, answer.json()["error"]) == (503, "storage")
    assert "was not stored" in answer.json()["message"]
    assert stage.ledger.votes() == []
    assert client.post("/api/votes", json=sent).json()["counted"] is True


def test_nothing_that_unblinds_leaves_the_server(stage, client):
    for name in ("P-01", "P-02"):
        with stage.client("panelist", name) as one:
            message = [one.get("/api/status"), one.post("/api/assignment", json={"tab": "t1"})]
            message.append(one.post("/api/votes", json=ballot(message[-1].json())))
            for answer in message:
                assert not BLIND.search(answer.text), answer.text
                assert not BLIND.search(str(answer.headers))


def test_a_released_comparison_is_free_for_others_and_a_held_one_is_extended(stage, client):
    shown = take(client)
    stage.clock.forward(300)
    assert client.post("/api/extend", json={"assignment": shown["assignment"]}).status_code == 204
    held = stage.ledger.query("SELECT expires_us FROM assignments")[0]["expires_us"]
    assert held > shown["expires_us"] + 200_000_000
    assert client.post("/api/release", json={"assignment": shown["assignment"]}).status_code == 204
    row = stage.ledger.query("SELECT released_us, expires_us FROM assignments")[0]
    assert row["released_us"] is not None and row["expires_us"] <= stage.clock()


def test_a_comparison_that_somebody_else_got_is_not_taken_back(stage, client):
    shown = [take(client), take(client)][-1]
    stage.clock.forward(660)
    for name in ("P-02", "P-03", "P-04"):  # two votes and a spare one
        stage.clock.forward(60)  # a spare one is made when the others have had time
        person = stage.panelist(name)
        assert stage.site.service.assign_to(
            stage.ledger.query("SELECT comparison FROM assignments WHERE assignment = ?",
                               (shown["assignment"],))[0]["comparison"], person
        )  # fmt: skip
    answer = client.post("/api/extend", json={"assignment": shown["assignment"]})
    assert (answer.status_code, answer.json()["error"]) == (409, "given_away")


def test_the_example_of_the_documentation_runs(stage, monkeypatch):
    stage.advance()
    invited = stage.invitation("panelist", "P-01")
    monkeypatch.setattr(sys, "argv", [PROGRAM.name, stage.url, invited.name, invited.code])
    runpy.run_path(str(PROGRAM))["client"].close()
    (first, second) = stage.ledger.votes()
    assert (first["choice"], second["choice"]) == ("B", "tie")


@pytest.fixture
def quiet(staged):
    return staged()


@pytest.fixture
def at_once(quiet):
    """What comes of requests that arrive while the writer is busy, and so share a commit."""
    writer = quiet.site.writer

    def held(*asked: Any) -> list[Any]:
        entered, go = threading.Event(), threading.Event()

        async def ask() -> list[Any]:
            first = asyncio.create_task(writer.do(lambda: (entered.set(), go.wait())))
            await asyncio.to_thread(entered.wait)
            waiting = [asyncio.create_task(one()) for one in asked]
            await asyncio.sleep(0)
            go.set()
            await first
            return await asyncio.gather(*waiting, return_exceptions=True)

        return list(awaited(ask()))

    writer.start()
    yield held
    writer.close()


def test_an_act_that_breaks_fails_alone(quiet, at_once):
    people = [quiet.panelist(f"P-{i}") for i in range(3)]
    service, writer = quiet.site.service, quiet.site.writer

    def broken() -> None:
        service.enroll("simulated", "half-done")
        raise ZeroDivisionError("a fault of ours")

    acts = [lambda who=who: service.assign(who) for who in people]
    before = len(list(quiet.ledger.events("rows")))
    found = at_once(*(partial(writer.do, act) for act in (acts[0], broken, *acts[1:])))
    kinds = [type(each).__name__ for each in found]
    assert kinds == ["Assignment", "ZeroDivisionError", "Assignment", "Assignment"]
    stored = quiet.ledger.query("SELECT assignment FROM assignments")
    assert {row["assignment"] for row in stored} == {each.id for each in (found[0], *found[2:])}
    assert "half-done" not in {p["pseudonym"] for p in service.panelists()}
    assert len(list(quiet.ledger.events("rows"))) == before + 1, "they shared one commit"


def test_a_loop_that_is_closed_before_its_answer_keeps_nobody_else_waiting(staged):
    writer, go = Writer(staged().site.service), threading.Event()
    writer.start()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(writer.do(go.wait), 0.01))
    go.set()
    assert asyncio.run(asyncio.wait_for(writer.do(lambda: "done"), 5)) == "done"
    writer.close()


def test_votes_come_before_all_that_waits(quiet, at_once):
    order, do = [], quiet.site.writer.do
    names = ["a sheet", "a page", "a vote", "a login", "another vote"]
    at_once(*(partial(do, partial(order.append, n), first="vote" in n) for n in names))
    assert order == ["a vote", "another vote", "a sheet", "a page", "a login"]


def test_what_a_closing_page_hands_over_waits_its_turn(quiet, at_once):
    """Else one page could keep everybody else waiting: a hundred verdicts a request."""
    votes, who, site = [], quiet.panelist("P-1"), quiet.site
    page = component.component(site, lambda _: (who, "P-1"))
    seat = site.service.assign(who, tab="tab-0001").id
    ballot = {"assignment": seat, "choice": "A", "idem": "k" * 16, "tab": "tab-0001"}
    left = {"tab": "tab-0001", "ballots": [ballot]}
    at_once(
        lambda: site.writer.do(lambda: votes.append(len(quiet.ledger.votes()))),
        lambda: page.gone(left, None),
    )
    assert votes == [0] and len(quiet.ledger.votes()) == 1


def test_a_panelist_is_not_told_what_a_guard_measured(stage, client):
    pauses.pause(stage.ledger, "guard topic", "topic .10 below .40")
    found = client.get("/api/status").json()
    assert (found["paused_by"], found["pause_reason"]) == ("guard", None)
