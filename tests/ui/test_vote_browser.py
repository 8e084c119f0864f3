"""The browser of comparisons as a page: who may see it, and what is done on it."""

from __future__ import annotations

import csv
import io
import re
from urllib.parse import quote

import httpx
import pytest

from szpo.voting.casting import VoteRequest
from szpo_ui.operator import vote_pages
from szpo_ui.web import credentials, security
from tests.support.browser import NARROW, ZOOMED, Stage, misfits, violations
from tests.support.xss_corpus import PAYLOADS

pytest_plugins = ["tests.support.browser"]
PAGES = ("operator",)

ADDRESSES = ("/operate/votes?q=answer", "/operate-api/votes.csv", "/operate-api/votes.jsonl")


def play(stage: Stage, rounds: int) -> None:
    """Rounds voted by Ada and Bob; Bob reports one and leaves a remark, and one vote is open."""
    people = [stage.invitation("panelist", name).panelist or "" for name in ("Ada", "Bob")]
    stage.advance()
    for step in range(rounds):
        for person in people:
            while (seat := stage.site.service.assign(person)) is not None:
                of_bob = person == people[1]
                details = {"notes": {"1": "A"}, "report": of_bob, "comment": PAYLOADS[step]}
                vote = VoteRequest(
                    seat.id, "tie" if of_bob and step % 2 else seat.plus_side, idem=seat.id,
                    dwell_ms=20_000, details=details if of_bob else None,
                )  # fmt: skip
                stage.site.service.cast(vote)
        stage.advance()
    seat = stage.site.service.assign(people[0])
    assert seat is not None
    stage.site.service.cast(VoteRequest(seat.id, seat.plus_side, idem=seat.id, dwell_ms=9_000))


@pytest.mark.full
def test_nobody_but_an_operator_gets_a_page_or_a_file(stage):
    stage.advance()
    for cookies in ({}, stage.cookie("panelist", "Ada")):
        with httpx.Client(base_url=stage.url, cookies=cookies) as client:
            page, *files = (client.get(address) for address in ADDRESSES)
            assert page.status_code == 303
            login = f"/login?next={quote(ADDRESSES[0])}"
            assert page.headers["location"] == ("/panel/" if cookies else login)
            assert [file.status_code for file in files] == [401, 401]
    with httpx.Client(base_url=stage.url, cookies=stage.cookie("operator", "Olga")) as client:
        page, *files = (client.get(address) for address in ADDRESSES)
        assert [reply.status_code for reply in (page, *files)] == [200, 200, 200]
        assert page.headers["content-security-policy"] == security.OWN_POLICY
        assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", page.text)
        # Relative links alone: the page may lie below a run's prefix.
        assert not re.search(r"""(href|src|action)=["']/""", page.text)
        assert 'filename="run-votes.csv"' in files[0].headers["content-disposition"]
        short = client.get("/operate/votes?q=answer&kind=&round=&sort=newest")
        assert (short.status_code, short.headers["location"]) == (303, "votes?q=answer")
        wrong = client.get("/operate/votes?round=first")
        assert wrong.status_code == 400 and "filter: round is" in wrong.text
        assert client.get("/operate-api/votes.csv?round=first").status_code == 400
        assert client.get("/operate-api/votes.xlsx").status_code == 404
        credentials.revoke(stage.ledger, "Olga", "root")
        assert [client.get(address).status_code for address in ADDRESSES[1:]] == [403, 403]


def test_an_operator_goes_from_a_figure_to_the_votes_behind_it(stage, operator, monkeypatch):
    monkeypatch.setattr(vote_pages, "SIZE", 3)
    play(stage, 2)
    page = operator().new_page()
    page.goto("/operate/")
    page.wait_for_selector("#op-root[data-version]")
    votes = page.locator(".op-people tbody tr").first.locator("td[data-label=Votes]")
    assert " ".join(votes.inner_text().split()) == "5 votes of Ada 4 counted"  # one is open
    votes.locator("a").click()
    items = page.locator(".vb-item")
    items.first.wait_for()
    assert page.url.endswith("/operate/votes?panelist=Ada&kind=train")
    page.get_by_text("5 comparisons, 5 votes", exact=True).wait_for()  # once the index is whole
    assert page.locator("#f-panelist").input_value() == "Ada"
    # The open round: no side is named, and the vote says nothing.
    opened = items.first
    assert "takes votes" in opened.inner_text()
    sides = set(opened.locator(".op-side").all_inner_texts())
    assert sides == set(vote_pages.UNNAMED)
    assert opened.locator(".vb-says").inner_text() == "voted"
    assert "plus" in items.nth(1).locator(".vb-says").first.inner_text()
    # Paging, forward and back.
    first = items.locator("h3").all_inner_texts()
    page.get_by_role("link", name="Next page").click()
    page.get_by_role("link", name="Previous page").wait_for()
    assert not set(items.locator("h3").all_inner_texts()) & set(first)
    page.get_by_role("link", name="Previous page").click()
    page.get_by_role("link", name="Next page").wait_for()
    assert items.locator("h3").all_inner_texts() == first
    # A search and a filter by keyboard; the address is the filter.
    page.goto("/operate/votes")
    page.locator("#f-q").fill("amber round 2")
    page.get_by_text("Filter and sort").click()
    page.locator("#f-answer").select_option("tie")
    page.get_by_label("reported").check()
    page.locator("#f-q").press("Enter")
    page.wait_for_url("**/operate/votes?q=amber+round+2&answer=tie&reported=1")
    page.get_by_text("2 comparisons, 2 votes", exact=True).wait_for()
    assert set(page.locator(".op-sample .sz-diff").all_inner_texts()) == {"amber", "round", "2"}
    assert page.locator(".vb-chosen .vb-who").all_inner_texts() == ["Bob", "Bob"]
    assert page.locator(".vb-other .vb-who").all_inner_texts() == ["Ada", "Ada"]
    with page.expect_download() as got:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(got.value.path().read_text())))
    assert {(row["panelist"], row["verdict"], row["round"]) for row in rows} == {
        ("Bob", "tie", "2")
    }
    assert len(rows) == 2 * 3
    # A link that is passed on leads through the login to what was filtered.
    url = page.url
    page.context.clear_cookies()
    page.goto(url)
    invited = stage.invitation("operator", "Olga")
    page.get_by_label("Name").fill("Olga")
    page.get_by_label("Code", exact=True).fill(invited.code)
    page.keyboard.press("Enter")
    page.wait_for_url(url)
    page.get_by_text("2 comparisons, 2 votes", exact=True).wait_for()
    for scheme, size in (("light", NARROW), ("dark", ZOOMED)):
        page.emulate_media(color_scheme=scheme)
        page.reload()
        assert violations(page, ("moderate", "serious", "critical")) == [], scheme
        assert misfits(page, *size, root="body", bar=".op-top") == []
