"""The operator's page without a browser: who may call it, what it shows, what its controls do."""

import json
import re
from dataclasses import replace
from html import unescape
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from szpo.analysis import taught_taste
from szpo.errors import StorageError, UsageError
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim.named_features import Claim, NamedFeatures
from szpo.runs import budget, setup_progress
from szpo.voting import lease, pauses, step_states
from szpo_ui import credentials, operator_controls, operator_page, operator_state, request_rules
from szpo_ui.operator_controls import Command
from tests.support.browser import OPERATE, Stage, cast, page_call, play
from tests.support.cases import case
from tests.support.operator_page import answer_samples, teach, text
from tests.support.outline import Outline
from tests.support.panel_states import final_comparison
from tests.support.xss_corpus import PAYLOADS

pytest_plugins = ["tests.support.browser", "tests.support.operator_page"]


def do(stage: Stage, what: str, **more: Any) -> operator_controls.Reply:
    """An operator's request, as the page sends it."""
    command = Command.model_validate_json(json.dumps({"do": what, **more}))
    found = operator_controls.act(stage.site, "Olga", command)
    assert found is not None
    return found


def seen(stage: Stage) -> dict[str, Any]:
    """What the operator's page is made of."""
    return operator_state.read_state(stage.site)


@pytest.fixture
def voted(staged):
    """Two rounds applied, the third open with one vote of four; Ada and Bob are invited."""
    made = staged()
    play(made, 2)
    cast(made, "Ada")
    return made


@pytest.fixture
def spent(staged):
    """The same, with its votes spent."""
    made = staged("spent", sets=["run.votes=4"])
    play(made, 1, until_step=1)
    return made


@pytest.mark.full
def test_a_final_comparison_is_reported_once_it_is_closed_or_by_a_switch_in_the_log(voted):
    order = final_comparison(voted, 3)
    answers = ("plus", "plus", "minus", "tie", "skip", "plus")
    for name, answer in zip(("P-01", "P-02", "P-03") * 2, answers, strict=True):
        cast(voted, name, answer, seat=voted.site.service.final(voted.panelist(name)))
    hidden = operator_page.page(voted.site)
    assert "not measured" in hidden
    told, _, rest = hidden.partition("Close it and read the result")
    # Beside the verdict, with what it takes: closed with fewer votes there would be none.
    assert "The open final comparison has 6 votes; a result takes 20" in text(told)
    assert "op-h-improving" in rest
    before = seen(voted)["page"]
    assert before["blind"] is None
    seats = before["agreement"]["a_side"].of
    do(voted, "live", on=True)
    shown = seen(voted)
    assert shown["page"]["agreement"]["a_side"].of == seats + 1, "the open round's vote with them"
    assert "Votes of the open round are shown" in operator_page.page(voted.site)
    assert shown["page"]["blind"].preferred.of == 4
    do(voted, "live", on=False)
    again = seen(voted)
    assert again["page"]["blind"] is None
    assert again["page"]["agreement"]["a_side"].of == seats
    reported = [line.text for line in again["log"] if line.who == "Olga"]
    assert reported == ["turned the view of open votes off", "turned the view of open votes on"]
    do(voted, "close-final", order=order)
    assert "not measured" not in operator_page.page(voted.site)
    assert seen(voted)["page"]["blind"] == shown["page"]["blind"]


def test_a_round_s_votes_count_in_the_figures_once_its_last_vote_has_closed_it(voted):
    """Its update may take a while, and no event says that it was closed."""
    before = seen(voted)["page"]["progress"]["votes"]
    for name in ("Ada", "Bob", "Bob"):
        cast(voted, name)
    assert seen(voted)["page"]["progress"]["votes"] == before
    assert step_states.close(voted.ledger, 2, "rule")
    assert seen(voted)["page"]["progress"]["votes"] == before + 4


def test_a_taste_of_length_asks_whether_it_is_meant(voted, monkeypatch):
    names = "characters", "length", "i"
    own = NamedFeatures(names, (0, 0, 1), (1,) * 3, ((2,), (1,), (1,)), 0, "")
    monkeypatch.setattr(taught_taste, "recorded_settings", lambda _: SimpleNamespace(features=own))
    asks = "the votes are about length (longer, 93 %): if that is what you mean, go on; if not, "
    claims = [Claim("characters", True, 0.93, 0.8, "characters")]
    teach(voted.ledger, 16, [replace(claims[0], chance=0.4)])
    assert "about length" not in text(operator_page.page(voted.site))
    teach(voted.ledger, 32, claims)
    assert asks in unescape(text(operator_page.page(voted.site)))


@pytest.mark.full
def test_a_call_pauses_for_an_operator_alone_and_the_report_is_a_file(stage):
    with stage.client("operator", "Olga") as client:
        pause = page_call(client, "/operate", "do", {"do": "pause", "reason": "mine"})
    with stage.client("panelist", "Ada") as client:
        assert client.post(OPERATE, json=pause).status_code == 401
        assert client.get("/operate/").headers["location"] == "/panel/"
    assert lease.controller(stage.ledger)["paused_by"] is None
    with stage.client("operator", "Olga") as client:
        assert client.post(OPERATE, json=pause).status_code == 200
        assert client.post("/operate/gradio_api/run/predict", json=pause).status_code == 404
        report = client.get("/operate-api/report.html")
    assert report.headers["content-disposition"] == 'attachment; filename="run-report.html"'
    assert f"<h1>{stage.ledger.path.stem}</h1>" in report.text
    assert lease.controller(stage.ledger)["paused_by"] == "Olga"


@pytest.mark.full
def test_the_version_moves_with_the_record_and_an_improvement_only(stage):
    with stage.client("operator", "Olga") as client:
        first = client.get("/operate-api/status")
        same = client.get("/operate-api/status", headers={"If-None-Match": first.headers["etag"]})
        assert same.status_code == 304
        pauses.pause(stage.ledger, "Olga", "lunch")
        other = client.get("/operate-api/status", headers={"If-None-Match": first.headers["etag"]})
        assert other.status_code == 200
        assert other.json() != first.json()
    before = operator_state.version(stage.site)
    with setup_progress.writing(stage.ledger.path, setup_progress.IMPROVING) as tell:
        tell("improving", 3, 40)
        assert operator_state.version(stage.site) != before
        told = "improving on what the votes liked: 3 of at most 40 steps"
        assert told in operator_page.page(stage.site)
        tell("answers of the last step", 0, 0)
        assert told in operator_page.page(stage.site)
    assert operator_state.version(stage.site) == before


NOT_OURS = (
    {"do": "look", "more": 1}, {"do": "drop"}, [], None, "x" * 20_000,
    {"do": "samples", "step": "1"},
)  # fmt: skip


@pytest.mark.full
def test_what_is_not_the_pages_is_refused_in_a_sentence(stage):
    with stage.client("operator", "Olga") as client:
        before = stage.ledger.query("SELECT count(*) AS n FROM events")
        for body in NOT_OURS:
            reply = client.post(OPERATE, json=page_call(client, "/operate", "do", body))
            assert reply.status_code == 200
            found = reply.json()
            assert 'data-ok=""' in found["reply"]
            assert "Traceback" not in found["reply"]
            assert 'id="op-root"' in found["page"]
    assert stage.ledger.query("SELECT count(*) AS n FROM events") == before


def test_open_votes_are_counted_but_not_shown(voted):
    before = seen(voted)["page"]
    cast(voted, "Bob")
    shown = operator_page.page(voted.site)
    assert "2 of 4 votes in" in text(shown)
    assert "hidden until the round closes" in text(shown)
    after = seen(voted)["page"]
    assert after["blind"] == before["blind"]
    assert after["agreement"] == before["agreement"]
    assert [p["votes"] for p in after["panelists"]] == [p["votes"] for p in before["panelists"]]


PACK = (
    "<img src=x onerror=window.pwn=1>", "<script>window.pwn=1</script>", "${window.pwn=1}",
    "{{constructor}}", "</textarea><b>", "‮reversed", "\x00",
)  # fmt: skip


def test_texts_of_models_are_text(staged):
    stage = staged(text=lambda step, i, side: f"{PACK[i % len(PACK)]} {side}")
    order = orders.place_order(stage.ledger, "samples", "<b>Olga</b>", {"prompts": 2})
    answer_samples(stage, order, PACK, PACK)
    pauses.pause(stage.ledger, "<i>Olga</i>", PACK[0])
    shown = operator_page.page(stage.site)
    for harmful in ("<img", "<script", "<b>", "<i>", "</textarea>", "‮", "\x00"):
        assert harmful not in shown
    assert "&lt;img src=x onerror=window.pwn=1&gt;" in shown
    assert "⟨202E⟩" in shown


def listed(stage: Stage, before: int | None = None) -> list[int]:
    """The numbers of the votes on a page of the list, from the top."""
    shown = operator_page.render_votes(stage.site, before)
    return [int(number) for number in re.findall(r'<h2 id="v-(\d+)', shown)]


def test_votes_of_what_is_open_are_listed_once_it_is_closed_or_by_the_switch(voted):
    (last,) = voted.ledger.query("SELECT max(vote) AS vote FROM votes")
    assert listed(voted) == list(range(last["vote"] - 1, 0, -1))
    shown = operator_page.render_votes(voted.site, None)
    assert "still open" in shown and "of round 3" not in shown
    do(voted, "live", on=True)
    assert listed(voted)[0] == last["vote"]
    assert "still open" not in operator_page.render_votes(voted.site, None)
    do(voted, "live", on=False)
    final = final_comparison(voted, 1)
    cast(voted, "Ada", "minus", seat=voted.site.service.final(voted.panelist("Ada")))
    assert len(listed(voted)) == last["vote"] - 1
    do(voted, "close-final", order=final)
    shown = operator_page.render_votes(voted.site, None)
    assert len(listed(voted)) == last["vote"] and "final comparison" in shown
    won = re.search(r'op-won"><p class="op-side">(\w+) ', shown)
    assert won is not None and won[1] == "base"


def test_every_vote_is_on_one_page_of_the_list(voted, monkeypatch):
    everything = listed(voted)
    monkeypatch.setattr(operator_page, "MOST_VOTES", 3)
    found, before = [], None
    for _ in range(len(everything)):
        found += listed(voted, before)
        shown = operator_page.render_votes(voted.site, before)
        older = re.search(r"before=(\d+)", shown)
        if older is None:
            break
        before = int(older[1])
    assert found == everything and len(everything) == 8
    assert "no older votes" in operator_page.render_votes(voted.site, 1)


def test_the_list_names_who_preferred_what_and_lets_no_text_be_more_than_text(staged):
    stage = staged(text=lambda step, i, side: f"{PAYLOADS[i]} {side}", sets=["optimizer.D=4"])
    service = stage.site.service
    seat = service.assign(stage.panelist("Ada"))
    cast(stage, "Ada", "plus", seat=seat, details={"notes": {"1": "tie"}})
    bob = service.enroll("person", "<b>Bob</b>")
    cast(stage, "", "skip", seat=service.assign(bob), skip_reason="<i>language</i>")
    cast(stage, "Ada", "tie")
    cast(stage, "", "minus", seat=service.assign(bob))
    cast(stage, "Cleo", "tie")  # in place of who could not judge
    stage.advance()
    service.amend(1, "exclude", "asleep", "Olga")
    credentials.erase(stage.ledger, "Ada", "Olga")
    shown = Outline(operator_page.render_votes(stage.site, None))
    for tag, attrs in shown.found:
        assert tag not in ("b", "i", "img", "iframe", "object", "svg", "style"), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on") or name == "style"], attrs
    words = " ".join(shown.text.split())
    _, fourth, third, second, first = words.split("Vote ")[1:]
    assert "<b>Bob</b>, round 1" in fourth and fourth.count("minus preferred") == 4
    assert "About the same" in third and "preferred" not in third
    assert "Could not judge: <i>language</i>" in second
    assert "Ada, round 1" in first and first.count("plus preferred") == 4 and "excluded" in first
    assert first.count("Noted on this prompt: about the same") == 1
    for payload in PAYLOADS[:8]:
        assert payload.isprintable() <= (" ".join(payload.split()) in words), payload


def test_the_list_is_the_operators_and_leads_through_the_login(stage):
    stage.advance()
    place = "/operate/votes?before=7"
    page = httpx.get(f"{stage.url}{place}")
    assert page.headers["location"] == f"/login?next={quote(place)}"
    with stage.client("panelist", "Ada") as client:
        assert client.get(place).headers["location"] == "/panel/"
    with stage.client("operator", "Olga") as client:
        page = client.get(place)
        assert page.status_code == 200
        assert page.headers["content-security-policy"] == request_rules.OWN_POLICY
        assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", page.text)
        for wrong in ("0", "x", "9" * 30):
            assert client.get(f"/operate/votes?before={wrong}").status_code == 422


def test_start_refuses_what_panelists_could_not_judge(staged):
    stage = staged("a", begun=False, sets=["panel.guideline="])
    pauses.pause(stage.ledger, "serve", "waiting for the operator")
    with pytest.raises(UsageError, match="guideline is empty"):
        do(stage, "start")
    sets = ["generation.max_new_tokens=1000", "optimizer.D=3"]
    long = staged("b", begun=False, sets=sets)
    pauses.pause(long.ledger, "serve", "waiting for the operator")
    minutes = 2 * 3 * 1000 * 0.75 / 238
    assert operator_controls.reading_minutes(long.site) == pytest.approx(minutes)
    with pytest.raises(UsageError, match="type that number"):
        do(long, "start")
    do(long, "start", typed=f"{minutes:.0f}")
    assert lease.controller(long.ledger)["paused_by"] is None


def test_pause_keeps_the_round_and_resume_goes_on_with_it(voted):
    do(voted, "pause", reason="lunch")
    assert seen(voted)["status"].state == "paused"
    assert voted.ledger.step(2)["state"] == "open"  # type: ignore[index]
    do(voted, "resume")
    found = seen(voted)["status"]
    assert (found.state, found.votes_in) == ("open", 1)
    do(voted, "pause-after", reason="enough for today")
    assert seen(voted)["pending"] is not None
    do(voted, "pause", reason="  ")  # in a hurry: no reason has to be found first
    found = seen(voted)["status"]
    assert (found.state, found.pause_reason) == ("paused", "")
    assert any(line.text == "paused the run" for line in seen(voted)["log"])


def test_a_round_is_closed_with_a_quorum_and_a_reason(voted):
    with pytest.raises(UsageError, match=r"1 of 4 votes; its quorum is 50"):
        do(voted, "close", reason="late")
    cast(voted, "Bob")
    with pytest.raises(UsageError, match="reason"):
        do(voted, "close")
    do(voted, "close", reason="everybody left")
    row = voted.ledger.step(2)
    assert row is not None
    assert (row["state"], row["closed_by"]) == ("closed", "operator")
    assert any("everybody left" in line.text for line in seen(voted)["log"])
    with pytest.raises(UsageError, match="no round is open"):
        do(voted, "close", reason="again")


def test_votes_are_added_and_the_round_counts_to_the_new_end(voted):
    before = seen(voted)
    assert before["page"]["progress"]["planned"] is not None
    reply = do(voted, "more", votes=40)
    after = seen(voted)
    each = voted.site.config.votes_per_step
    planned = before["page"]["progress"]["planned"] + 40 // each
    assert after["page"]["progress"]["planned"] == planned
    assert voted.site.status.read().rounds == after["page"]["progress"]["planned"]
    assert after["log"][0].text.startswith("added votes: the run ends after ")
    with pytest.raises(UsageError, match="less than one step"):
        do(voted, "more", votes=0)
    with pytest.raises(UsageError, match="give their number"):
        do(voted, "more")
    assert reply is not None and "now." in reply.text
    assert "Votes to add" in operator_page.dialogs(voted.site)


def test_limits_are_set_and_withdrawn(voted):
    do(voted, "limits", votes=12, hours=1.5, until="2030-01-31T17:30")
    found = budget.read_limits(voted.ledger)
    assert (found.votes, found.person_hours, found.step) == (12, 1.5, None)
    assert found.at_us == 1_896_111_000_000_000
    assert seen(voted)["page"]["progress"]["planned"] == 3
    do(voted, "limits")
    assert budget.read_limits(voted.ledger) == budget.Limits()
    for until in ("2026-02-31T00:00", "0000-01-01T00:00", "2026-01-01T24:00"):
        with case(until), pytest.raises(UsageError, match="is not a date and time"):
            do(voted, "limits", until=until)
    assert budget.read_limits(voted.ledger) == budget.Limits()
    do(voted, "limits", until="0001-01-01T00:00")  # long ago, so it has come
    assert budget.read_limits(voted.ledger).at_us == 0


def test_excluding_somebody_touches_rounds_to_come_only(voted):
    ledger, service = voted.ledger, voted.site.service
    bob = voted.panelist("Bob")
    session = voted.cookie("panelist", "Bob").popitem()[1]
    seat = service.assign(bob)
    assert seat is not None
    before = theta_digest(ledger), [len(service.counted(step)) for step in (0, 1, 2)]
    with pytest.raises(UsageError, match="reason"):
        do(voted, "exclude", name="Bob")
    do(voted, "exclude", name="Bob", reason="always left")
    assert (theta_digest(ledger), [len(service.counted(step)) for step in (0, 1, 2)]) == before
    assert credentials.identify(ledger, session) is None
    released = ledger.query("SELECT * FROM assignments WHERE assignment = ?", (seat.id,))[0]
    assert released["expires_us"] <= ledger.clock()
    assert operator_controls.list_excluded(ledger) == {"Bob"}
    assert "excluded" in operator_page.page(voted.site)
    do(voted, "invite", name="Bob")
    assert operator_controls.list_excluded(ledger) == set()


def test_invitations_work_and_are_shown_once(voted):
    made = do(voted, "invite", count=2).invitations
    assert len({i.name for i in made}) == 2
    html = operator_page.render_reply(
        operator_controls.Reply("", invitations=made), "https://panel.example"
    )
    assert f"https://panel.example/login#t={made[0].token}" in html
    assert credentials.login(voted.ledger, made[0].name, made[0].code)
    assert made[0].token not in operator_page.page(voted.site)
    with pytest.raises(UsageError, match="one person"):
        do(voted, "invite", name="Cy", count=2)


HELD_UP = (
    r"still in the file or its log, because a program is reading it.*; from a "
    r"terminal: szpo invite .*run\.db --erase Bob$"
)


def test_erasing_wants_the_name_typed_and_goes_on_where_a_reader_held_it_up(voted, monkeypatch):
    monkeypatch.setattr(credentials, "ERASE_WAIT_S", 0.0)
    credentials.invite(voted.ledger, "panelist", "Bob", contact="Robert Longname")
    path = voted.ledger.path
    with pytest.raises(UsageError, match="type Bob"):
        do(voted, "erase", name="Bob", typed="Ada")
    with Ledger.open(path, readonly=True) as reader, reader.snapshot():
        reader.query("SELECT * FROM contacts")
        with pytest.raises(StorageError, match=HELD_UP):
            do(voted, "erase", name="Bob", typed="Bob")
    # Nothing of Bob is listed any more, yet the page still offers what finishes it.
    assert all(each.name != "Bob" for each in credentials.list_people(voted.ledger))
    page = str(operator_page.page(voted.site))
    assert re.search(r'data-open="op-access" data-name="Bob"', page)
    do(voted, "erase", name="Bob", typed="Bob")
    assert not [f for f in path.parent.iterdir() if b"Longname" in f.read_bytes()]
    assert [p["row"]["votes"] for p in seen(voted)["people"]] == [4, 4]


def test_orders_wait_and_say_so(voted):
    do(voted, "final", comparisons=20)
    do(voted, "samples", prompts=3, step=0)
    assert [(o.kind, dict(o.body)) for o in orders.open_orders(voted.ledger)] == [
        ("final", {"comparisons": 20}), ("samples", {"prompts": 3, "step": 0})
    ]  # fmt: skip
    page = operator_page.page(voted.site)
    assert text(page).count("waiting for") == 2 and 'data-open="op-final"' not in page
    order = orders.open_orders(voted.ledger)[0]
    orders.settle(voted.ledger, order, {"error": "there are no held-out prompts"})
    page = operator_page.page(voted.site)
    assert "there are no held-out prompts" in text(page) and 'data-open="op-final"' in page


def test_finals_to_come_and_what_speaks_against_an_adapter_are_told(voted, spent, monkeypatch):
    monkeypatch.setattr(operator_state, "find_doubt", lambda *_: "of the guards length fails")
    told = "The run orders a blind final comparison by itself when its votes are spent."
    page = text(operator_page.page(voted.site))
    assert told in page and "Order one before…" in page and "refuses the adapter" not in page
    page = text(operator_page.page(spent.site))
    assert told not in page and "Order a final comparison…" in page
    assert "szpo export refuses the adapter: of the guards length fails." in page
