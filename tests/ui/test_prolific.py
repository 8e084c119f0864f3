"""A study on Prolific: in by the open link, one place each, and back with a code."""

from __future__ import annotations

import io
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.ledger.canonical import canonical
from szpo.reports import html_report, votes
from szpo.voting.casting import VoteRequest
from szpo_ui import prolific as participants
from szpo_ui.prolific import Arrival
from szpo_ui.web import credentials
from tests.support.browser import Stage, served_run, violations
from tests.support.http_server import Reply, serving

pytest_plugins = ["tests.support.browser"]
STUDY, PID, OTHER = "66f0study", "5f1d7f1b2a3c4d5e6f708192", "60aa7f1b2a3c4d5e6f7081bb"
SETS = (
    f"prolific.study={STUDY}", "prolific.completion_code=CDONE123", "prolific.declined_code=CNO45",
    "prolific.votes=1", "prolific.places=2", "prolific.minutes=30",
)  # fmt: skip


def coming(pid: str, study: str = STUDY) -> Arrival:
    return Arrival(participant=pid, study=study, submission="sub1")


@pytest.fixture
def stage(staged):
    return staged(sets=SETS)


def arrive(stage: Stage, pid: str, study: str = STUDY) -> credentials.Identity:
    chosen, status = stage.site.config.prolific, stage.site.status.read()
    participants.release_late(stage.site.service, chosen)
    return participants.arrive(stage.ledger, chosen, coming(pid, study), status)[1]


def refusal(stage: Stage, pid: str, study: str = STUDY) -> str:
    with pytest.raises(credentials.AccessError) as found:
        arrive(stage, pid, study)
    return found.value.code


def vote(stage: Stage, panelist: str | None) -> None:
    seat = stage.site.service.assign(panelist or "")
    assert seat is not None
    stage.site.service.cast(VoteRequest(seat.id, "A", idem=seat.id, dwell_ms=20_000))


# ---- places ----


def test_who_comes_again_has_the_same_place_and_others_wait_for_a_free_one(stage):
    first = arrive(stage, PID)
    assert arrive(stage, PID).panelist == first.panelist
    assert refusal(stage, OTHER, "another") == "other_study"
    second = arrive(stage, OTHER)
    assert second.panelist != first.panelist
    assert refusal(stage, "third") == "full"
    vote(stage, first.panelist)  # who has finished has the place for good
    stage.clock.forward(25 * 60)
    held = stage.site.service.assign(str(second.panelist))
    assert held is not None
    stage.clock.forward(6 * 60)
    third = arrive(stage, "third")  # the second one's time is over: place and seat are free
    row = stage.ledger.query("SELECT * FROM assignments WHERE assignment = ?", (held.id,))[0]
    assert row["released_us"] is not None
    assert refusal(stage, OTHER) == "time_over"
    assert refusal(stage, "fourth") == "full"
    assert arrive(stage, PID).panelist == first.panelist, "the code can be fetched later"
    credentials.revoke(stage.ledger, third.name, "Olga")
    assert refusal(stage, "third") == "ended"


def test_what_somebody_held_when_their_time_ended_is_given_to_the_next_one(staged):
    alone = ("optimizer.directions=1", "optimizer.comparisons=1", "optimizer.votes=1",
             "panel.spare=0")  # fmt: skip
    stage = staged(sets=[*SETS, *alone])
    first = arrive(stage, PID)
    stage.clock.forward(25 * 60)
    held = stage.site.service.assign(str(first.panelist))
    stage.clock.forward(6 * 60)
    seat = stage.site.service.assign(str(arrive(stage, OTHER).panelist))
    assert held is not None and seat is not None and seat.comparison == held.comparison


def test_a_session_ends_with_the_time_of_the_study(stage):
    chosen, status = stage.site.config.prolific, stage.site.status.read()
    secret, _ = participants.arrive(stage.ledger, chosen, coming(PID), status)
    stage.clock.forward(29 * 60)
    assert credentials.identify(stage.ledger, secret) is not None
    stage.clock.forward(2 * 60)
    assert credentials.identify(stage.ledger, secret) is None


# ---- what is personal ----


def test_identifiers_stand_beside_the_credentials_alone_and_can_be_erased(stage):
    ledger, name = stage.ledger, arrive(stage, PID).name
    vote(stage, stage.ledger.query("SELECT panelist FROM panelists")[0]["panelist"])
    for table in ("events", "panelists", "assignments", "votes", "credentials"):
        rows = ledger.query(f"SELECT * FROM {table}")
        assert rows and PID not in canonical([{k: str(v) for k, v in r.items()} for r in rows])
    listed = {each.name: each for each in credentials.list_people(ledger)}
    assert list(listed) == [name] and listed[name].contact == f"Prolific {PID}"
    rows, page = io.StringIO(), html_report.render(ledger)
    votes.write_jsonl(ledger, rows)
    assert name in rows.getvalue() and name in page
    for text in (rows.getvalue(), page):
        assert PID not in text and "sub1" not in text
    credentials.erase(ledger, name, "Olga")
    assert PID.encode() not in ledger.path.read_bytes()
    assert PID.encode() not in ledger.path.with_name("run.db-wal").read_bytes()


def test_a_pseudonym_is_keyed_by_the_run(stage, staged):
    mine = participants.pseudonym(stage.ledger, PID)
    assert mine == participants.pseudonym(stage.ledger, PID) and PID not in mine
    assert mine != participants.pseudonym(stage.ledger, OTHER)
    assert mine != participants.pseudonym(staged("other", sets=SETS).ledger, PID)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["prolific.study=S1"], "settings: prolific.completion_code is missing"),
        (["prolific.completion_code=a&b"], "prolific.completion_code"),
        (["prolific.votes=0"], "prolific.votes"),
    ],
)
def test_settings_that_cannot_work_are_refused(sets, message):
    with pytest.raises(UsageError, match=message):
        settings_file.load(preset_name="people", sets=sets)


# ---- from end to end ----


@pytest.fixture
def prolific():
    """Plays Prolific: leads participants to the study, and takes them back with their codes."""
    found = SimpleNamespace(url="", study="", back=[])

    def answer(request):
        path = urlsplit(request.path)
        if path.path == "/submissions/complete":
            found.back.append(parse_qs(path.query)["cc"][0])
            page = b"<!doctype html><title>Prolific</title><h1>Submission received</h1>"
            return Reply(200, page, (("Content-Type", "text/html"),))
        pid = path.path.removeprefix("/take/")
        query = f"PROLIFIC_PID={pid}&STUDY_ID={STUDY}&SESSION_ID=sub-{pid[:4]}"
        return Reply(303, headers=(("Location", f"{found.study}/join?{query}"),))

    with serving(answer) as found.url:
        yield found


@pytest.fixture
def study(tmp_path, prolific, monkeypatch):
    """The run of a study, under a server that the stand-in knows."""
    monkeypatch.setattr(participants, "RETURN_URL", f"{prolific.url}/submissions/complete")
    with served_run(tmp_path / "run.db", sets=SETS) as made:
        made.advance()
        prolific.study = made.url
        yield made


def test_a_participant_comes_agrees_votes_and_goes_back_with_the_code(study, prolific, chromium):
    context = chromium.new_context()
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto(f"{prolific.url}/take/{PID}")
    page.get_by_role("heading", name="Welcome to the panel").wait_for()
    assert PID not in page.url and PID not in page.content()
    welcome = page.inner_text("#szpo-root")
    assert "You are asked for 1 comparisons." in welcome
    # The run's own figures, 400 comparisons and 16 hours, are none of a participant's.
    assert "400" not in welcome and "about 2 minutes in all" in welcome
    assert violations(page) == []
    page.get_by_role("button", name="Agree and start right away").click()
    page.locator('#szpo-root[data-state="vote"]').wait_for()
    assert "Your comparisons for this study: 0 of 1" in page.inner_text("#szpo-root")
    assert "400" not in page.inner_text("#szpo-root")
    page.goto(f"{prolific.url}/take/{PID}")  # closed by mistake, and opened again
    page.locator('#szpo-root[data-state="vote"]').wait_for()
    with httpx.Client(base_url=study.url, follow_redirects=False) as early:
        early.cookies.update({c["name"]: c["value"] for c in context.cookies(study.url)})
        answer = early.get("/panel-api/finish")
        assert answer.headers["location"] == "/panel/", "no code before the votes are in"
    (who,) = study.ledger.query("SELECT panelist FROM panelists")
    vote(study, who["panelist"])
    page.reload()
    page.get_by_role("heading", name="You have finished").wait_for()
    assert violations(page) == []
    page.get_by_role("link", name="Finish and go back to Prolific").click()
    page.get_by_role("heading", name="Submission received").wait_for()
    assert prolific.back == ["CDONE123"]
    (finished,) = study.ledger.events(participants.FINISHED)
    assert finished["body"] == {"panelist": who["panelist"], "votes": 1}
    context.close()

    page = chromium.new_page()
    page.set_viewport_size({"width": 320, "height": 568})
    page.goto(f"{study.url}/join")
    page.get_by_role("heading", name="Open the study from Prolific").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.close()
    with httpx.Client(base_url=study.url) as other:
        given = {"participant": OTHER, "study": STUDY}
        assert other.post("/join", json=given).json() == {"go": "/panel/"}
        answer = other.get("/panel-api/decline")
        assert answer.headers["location"] == f"{prolific.url}/submissions/complete?cc=CNO45"
        assert other.get("/api/status").status_code == 403, "their access has ended"
        again = other.post("/join", json=given)
        assert (again.status_code, again.json()["error"]) == (403, "ended")
    with httpx.Client(base_url=study.url) as client:
        for body in ({"participant": "<b>", "study": STUDY}, {"participant": PID}, {}):
            assert client.post("/join", json=body).status_code == 422
        foreign = {"Origin": "https://evil.example"}
        given = {"participant": PID, "study": STUDY}
        assert client.post("/join", json=given, headers=foreign).status_code == 403
