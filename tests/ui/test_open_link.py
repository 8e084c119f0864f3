"""An open link: one place each, an id that can be erased, and a code at the end."""

import json

import httpx
import pytest

from szpo.analysis import vote_export
from szpo.cli.app import call
from szpo.ledger.canonical import canonical
from szpo_ui import credentials, login
from tests.support.browser import served_run, violations

pytest_plugins = ["tests.support.browser"]
PID, OTHER = "5f1d7f1b2a3c4d5e6f708192", "60aa7f1b2a3c4d5e6f7081bb"
CODE = "C1ABCDEF"


@pytest.fixture
def stage(staged):
    return staged()


@pytest.fixture
def arrive(stage):
    """arrive(PID) → who came by the run's open link, which has two places and asks for a vote."""
    token = credentials.make_open_link(stage.ledger, 2, 1, CODE, 30.0)

    def arrive(participant: str = "", token: str = token) -> credentials.Identity:
        return credentials.arrive(stage.ledger, token, participant)[1]

    return arrive


def refusal(arrive, *given: str) -> str:
    with pytest.raises(credentials.AccessError) as found:
        arrive(*given)
    return found.value.code


def standing(stage, panelist: str | None):
    return credentials.standing(stage.ledger, panelist or "", stage.site.status)


def vote(stage, panelist: str | None) -> None:
    seat = stage.site.service.assign(panelist or "")
    assert seat is not None
    stage.site.service.cast(seat.id, "A", idem=seat.id, dwell_ms=20_000)


def test_who_comes_again_has_the_same_place_and_others_come_while_places_are_left(stage, arrive):
    first = arrive(PID)
    assert arrive(PID) == first
    second = arrive()
    assert (first.name, second.name) == ("P-01", "P-02")
    assert refusal(arrive, OTHER) == refusal(arrive) == "full"
    assert arrive(PID) == first, "a full house keeps nobody out who has a place"
    more = credentials.make_open_link(stage.ledger, 3, 1, CODE, 30.0)
    assert arrive(OTHER).name == "P-03", "by the link of before, whose places are three now"
    assert refusal(arrive, "", more) == "full"


def test_a_link_ends_with_its_days_and_at_once_when_it_is_revoked(stage, arrive):
    secret, _ = credentials.arrive(
        stage.ledger, credentials.make_open_link(stage.ledger, 2, 1, None, 1), PID
    )
    stage.clock.forward(11 * 3600)
    assert credentials.identify(stage.ledger, secret) is not None
    stage.clock.forward(11 * 3600)
    assert credentials.identify(stage.ledger, secret) is not None, "a session of twelve hours"
    stage.clock.forward(3 * 3600)
    assert credentials.identify(stage.ledger, secret) is None, "but none beyond the link's day"
    assert refusal(arrive, PID) == "expired"
    assert refusal(arrive, OTHER, "another") == "unknown"
    arrive(OTHER)
    credentials.revoke(stage.ledger, "open", "Olga")
    assert refusal(arrive, OTHER) == "revoked"


def test_whose_access_was_revoked_does_not_come_back_by_the_link(stage, arrive):
    credentials.revoke(stage.ledger, arrive(PID).name, "Olga")
    assert refusal(arrive, PID) == "revoked"
    with pytest.raises(credentials.AccessError):  # nor does a person's own link admit anybody
        arrive("", stage.invitation("panelist", "Ann").token)


def test_somebody_elses_contact_is_no_id(stage, arrive):
    credentials.invite(stage.ledger, "panelist", "Ann", contact=f"Prolific {PID}")
    assert arrive(PID).name != "Ann"


def test_a_code_is_due_after_the_votes_asked_for_and_when_the_run_is_over(staged):
    sets = "optimizer.N=1", "optimizer.M=1", "run.votes=1"
    stage = staged(sets=sets)
    token = credentials.make_open_link(stage.ledger, 2, 1, CODE, 30.0)
    first, second = (credentials.arrive(stage.ledger, token, "")[1].panelist for _ in range(2))
    assert standing(stage, first) == credentials.Standing(0, 1, False, CODE)
    assert standing(stage, stage.panelist("Ann")) is None
    vote(stage, first)
    assert standing(stage, first) == credentials.Standing(1, 1, True, CODE)
    assert standing(stage, second) == credentials.Standing(0, 1, False, CODE)
    stage.advance(until_step=1)
    assert standing(stage, second) == credentials.Standing(0, 1, True, CODE)


def test_an_id_is_stored_as_the_contact_alone_and_can_be_erased(stage, arrive):
    ledger, who = stage.ledger, arrive(PID)
    vote(stage, who.panelist)
    for table in ("events", "panelists", "assignments", "votes", "credentials"):
        rows = ledger.query(f"SELECT * FROM {table}")
        assert rows and PID not in canonical([{k: str(v) for k, v in r.items()} for r in rows])
    listed = {each.name: each for each in credentials.list_people(ledger)}
    assert set(listed) == {who.name, "open"} and listed[who.name].contact == f"Prolific {PID}"
    exported = str([*vote_export.export_votes(ledger)])
    assert who.name in exported and PID not in exported
    credentials.erase(ledger, who.name, "Olga")
    assert PID.encode() not in ledger.path.read_bytes()
    assert PID.encode() not in ledger.path.with_name("run.db-wal").read_bytes()
    assert arrive(PID).panelist != who.panelist, "nothing is left that knows them"


def test_a_link_is_printed_once_and_lets_people_in(stage, capsys):
    run = str(stage.ledger.path)
    words = "--open", "2", "--votes", "3", "--code", CODE, "--url", "https://panel.example/"
    assert call(["invite", run, *words, "--json"]) == 0
    address = json.loads(capsys.readouterr().out)["link"]
    assert address.startswith("https://panel.example/join?t=")
    _, who = credentials.arrive(stage.ledger, address.partition("?t=")[2], "")
    assert standing(stage, who.panelist) == credentials.Standing(0, 3, False, CODE)
    assert call(["invite", run, "--revoke", "open"]) == 0
    assert "1 credentials revoked" in capsys.readouterr().out


def test_requests_without_a_valid_link_are_refused(tmp_path):
    with served_run(tmp_path / "run.db", ()) as stage, httpx.Client(base_url=stage.url) as client:
        token = credentials.make_open_link(stage.ledger, 1, 1, None, 30.0)

        def join(client: httpx.Client = client, headers=None, **body: str) -> tuple[int, str]:
            answer = client.post("/join", json=body, headers=headers)
            return answer.status_code, answer.json().get("error", "")

        assert join(token="wrong") == (401, "unknown")
        for wrong in ({"token": token, "participant": "<b>"}, {"participant": PID}, {}):
            assert join(**wrong) == (422, "invalid")
        assert join(token=token, headers={"Origin": "https://evil.example"})[0] == 403
        assert join(token=token) == (200, "")
        assert client.get("/api/status").status_code == 200
        assert join(token=token) == (200, ""), "loaded again, it takes no second place"
        assert len(stage.ledger.query("SELECT 1 FROM panelists")) == 1
        with httpx.Client(base_url=stage.url) as other:
            assert join(other, token=token, participant=PID) == (409, "full")
            for _ in range(2 * login.ARRIVALS_AT_ONCE):  # places come back meanwhile
                answer = other.post("/join", json={"token": "wrong"})
                if answer.status_code == 429:
                    break
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


def test_a_participant_comes_agrees_votes_and_is_shown_the_code(tmp_path, chromium):
    with served_run(tmp_path / "run.db") as stage:
        stage.advance()
        token = credentials.make_open_link(stage.ledger, 1, 1, CODE, 30.0)
        come = f"{stage.url}/join?t={token}&PROLIFIC_PID={PID}"
        context = chromium.new_context()
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.goto(come)
        page.get_by_role("heading", name="Welcome to the panel").wait_for()
        assert not {PID, token} & {*page.url.split("="), *page.content().split('"')}
        welcome = page.inner_text("#szpo-root")
        assert "Votes that you are asked for: 1." in welcome
        # The run's own figures, 400 comparisons and 16 hours, are none of a participant's.
        assert "400" not in welcome and "about 75 seconds in all" in welcome
        assert violations(page) == []
        page.get_by_role("button", name="Agree and start").click()
        page.locator('#szpo-root[data-state="vote"]').wait_for()
        assert "Your votes for this study: 0 of 1" in page.inner_text("#szpo-root")
        assert CODE not in page.content() and "400" not in page.inner_text("#szpo-root")
        page.goto(come)  # closed by mistake, and opened again
        page.locator('#szpo-root[data-state="vote"]').wait_for()
        (who,) = stage.ledger.query("SELECT panelist FROM panelists")
        vote(stage, who["panelist"])
        page.reload()
        page.get_by_role("heading", name="You have finished").wait_for()
        assert f"Your completion code: {CODE}" in page.inner_text("#szpo-root")
        assert violations(page) == []
        context.close()

        page = chromium.new_page()
        page.set_viewport_size({"width": 320, "height": 568})
        page.goto(f"{stage.url}/join?t={token}")
        page.get_by_text("All places are taken.").wait_for()
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        page.close()
