"""The stage on which tests of pages stand: the real controller, the real server, a browser."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from szpo.ledger.theta import theta_digest
from szpo.voting.casting import VoteRequest
from tests.support.browser import PLUS, Stage

pytest_plugins = ["tests.support.browser"]


@pytest.mark.spine
def test_the_controller_goes_on_exactly_when_the_votes_are_in(stage: Stage) -> None:
    service = stage.site.service
    assert stage.advance() is None
    people = [service.enroll("person", f"P-0{i}") for i in range(2)]
    assert stage.advance() is None
    assert [row["state"] for row in stage.ledger.steps()] == ["open"]
    for person in people:
        while (seat := service.assign(person)) is not None:
            service.cast(VoteRequest(seat.id, seat.plus_side, idem=seat.id))
    assert stage.advance() is None
    assert [row["state"] for row in stage.ledger.steps()] == ["applied", "open"]
    assert PLUS in stage.ledger.comparisons(1)[0].rows[0].plus.text
    assert stage.policy.digest() == theta_digest(stage.ledger)


def test_each_role_reaches_its_own_page_only(stage: Stage, panelist: Any) -> None:
    for role, name, own, other in (
        ("panelist", "Ada", "/panel", "/operate"),
        ("operator", "Olga", "/operate", "/panel"),
    ):
        with httpx.Client(base_url=stage.url, cookies=stage.cookie(role, name)) as client:
            assert client.get(f"{own}/config").status_code == 200
            assert client.get(f"{other}/config").status_code == 401
    page = panelist().new_page()
    page.goto("/panel/")
    page.wait_for_selector("gradio-app main, main")
    assert page.title()
